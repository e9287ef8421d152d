"""An instruction of your own, translated, interpreted, disassembled and traced: five lines.

`madd rd, rs1, rs2` adds the product of two registers to a third one, in RISC-V's custom-0 space.
Run me: `python examples/own_instruction.py`.
"""

from hartwood.bits.words import Hart, Operand
from hartwood.isa.riscv import RISCV


@RISCV.insn("0000000 rs2 rs1 000 rd 0001011", asm="madd {rd}, {rs1}, {rs2}")
def madd(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rd] + h.x[rs1] * h.x[rs2]


PROGRAM = """
    li a0, 0
    li a1, 100000000
loop:
    madd a0, a1, a1
    addi a1, a1, -1
    bnez a1, loop
    ecall
"""


def main() -> None:
    """Run a loop around the new instruction on the translating engine."""
    import time

    from hartwood.machine import Machine
    from hartwood.mem import FlatSpace

    space = FlatSpace()
    machine = Machine(space)
    hart = machine.new_hart()
    code = RISCV.assemble(PROGRAM, pc=0x10000)
    space.map(0x10000, 0x1000, 7)
    space.write(0x10000, code)
    hart.pc = 0x10000
    start = time.perf_counter()
    while hart.run().cause != "ecall":
        pass
    seconds = time.perf_counter() - start
    print(RISCV.disassemble(code, 0x10000))
    print(f"a0 = {hart.x[10]:#x} after {hart.instructions:,} instructions")
    print(f"{hart.instructions / seconds / 1e6:,.0f} million a second")
    machine.close()


if __name__ == "__main__":
    main()
