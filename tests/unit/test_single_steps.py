"""A run of so many instructions is as many single steps, whatever happens on the way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hartwood.isa.riscv.system import SYSTEM
from hartwood.machine.bare import Machine
from hartwood.machine.processor import Stop

RAM, SIZE = 0x8000_0000, 1 << 16
#: Calls that trap, a fault, a division, a fence, a clock that interrupts; the handler counts in s1.
PROGRAM = """
    auipc t0, 1
    csrrw zero, mtvec, t0
    li t1, 128
    csrrw zero, mie, t1
    csrrsi zero, mstatus, 8
again: addi s0, s0, 1
    ecall
    lw a0, 0(zero)
    div a1, s0, s1
    fence.i
    csrrs a2, minstret, zero
    j again
"""
HANDLER = """
    addi s1, s1, 1
    csrrs t2, mcause, zero
    blt t2, zero, timer
    csrrs t3, mepc, zero
    addi t3, t3, 4
    csrrw zero, mepc, t3
    mret
timer: addi s2, s2, 1
    csrrw zero, mie, zero
    mret
"""


def machine() -> Machine:
    made = Machine("riscv64", mode="interp", deterministic=True)
    made.mem.map(RAM, SIZE)
    for source, at in ((PROGRAM, RAM), (HANDLER, RAM + 0x1000)):
        code = SYSTEM.assemble(source, at)
        made.mem[at : at + len(code)] = code
    made.pc = RAM
    made.state.mtimecmp = 20
    return made


def everything(made: Machine) -> dict[str, object]:
    return {**made.save_hart(), "executed": made.executed}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=4))
def test_runs_are_single_steps(counts: list[int]) -> None:
    one, other = machine(), machine()
    for count in counts:
        assert one.run(instructions=count).reason == "instructions"
        for _ in range(count):
            other.step()
        assert everything(one) == everything(other)
    assert one.executed == sum(counts)
    for each in (one, other):
        each.close()


def test_a_long_run_ends_with_single_steps() -> None:
    """What is run at once and what is left for the end is together what was asked for."""
    made = machine()
    made.run(instructions=12_345)
    assert made.executed == 12_345
    assert made.s1 > 1000
    assert made.s2 == 1
    made.close()


def test_a_request_to_stop_ends_the_steps() -> None:
    made = machine()

    def read(offset: int, width: int) -> int:
        made.request_stop()
        return 7

    made.mem.map_io(0x1000_0000, 0x1000, read, lambda offset, width, value: None)
    code = SYSTEM.assemble("lui a5, 0x10000\nlw a6, 0(a5)\nagain: addi a7, a7, 1\nj again", RAM)
    made.mem[RAM : RAM + len(code)] = code
    stop = made.run(instructions=2000)
    assert stop.reason == "stopped"
    assert made.a6 == 7
    assert made.executed <= 3
    made.close()


def test_a_run_until_an_address_ends_there() -> None:
    """Before the instruction there, also where it comes again, and by a limit before it does."""
    one, other = machine(), machine()
    place = RAM + len(SYSTEM.assemble(PROGRAM.partition("again:")[0], RAM))
    for _ in range(3):
        assert one.run(until=place) == Stop("until", place)
        while True:
            other.step()
            if other.pc == place:
                break
        assert everything(one) == everything(other)
    assert one.run(until=place, instructions=2) == Stop("instructions", one.pc)
    assert one.pc != place
    assert one.run(until=0x1234, seconds=0.05).reason == "seconds"
    assert one.step().reason == "instructions"
