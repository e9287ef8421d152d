"""Random privileged programs, which spoil their own CSRs and page tables, on both engines."""

from __future__ import annotations

import random

import pytest

from hartwood.isa.riscv.system import SYSTEM
from hartwood.jit import sysabi
from hartwood.machine.bare import Machine
from hartwood.machine.sysreference import DEFINITIONS

assert DEFINITIONS
RAM, SIZE = 0x8000_0000, 0x20_0000
HANDLER, TABLES, CODE, DATA = RAM + 0x1000, RAM + 0x2000, RAM + 0x8000, RAM + 0x10000
#: The handler goes on after the instruction, in S-mode, without page tables one time in four.
_HANDLER = """
    csrrw sp, mscratch, sp
    csrrs tp, mcause, zero
    add gp, gp, tp
    csrrs tp, mepc, zero
    xor gp, gp, tp
    addi tp, tp, 4
    csrrw zero, mepc, tp
    csrrs tp, mtval, zero
    xor gp, gp, tp
    lui tp, 1
    addiw tp, tp, -2048
    csrrs zero, mstatus, tp
    lui tp, 0x20
    csrrc zero, mstatus, tp
    addi sp, sp, 1
    andi tp, sp, 3
    bne tp, zero, keep
    csrrw zero, satp, zero
    keep: csrrw sp, mscratch, sp
    mret
"""
#: Nothing that waits, and nothing that leaves the page for good.
_EXCLUDED = {"wfi", "mret", "jal", "jalr"}
INSNS = [
    insn
    for insn in SYSTEM.insns()
    if insn.row.length == 4 and insn.name not in _EXCLUDED and "." not in insn.name[:5]
] + [SYSTEM[name] for name in ("sfence.vma", "fence.i", "cbo.zero", "lr.d", "sc.d", "amoadd.d")]
INSNS = [insn for insn in INSNS if not SYSTEM.properties(insn, next(iter(insn.cases()))).floating]
CSRS = [number for number, csr in SYSTEM.csrs.items() if csr.name not in ("mtvec", "mscratch")]


def _word(rng: random.Random) -> int:
    insn = rng.choice(INSNS)
    fields = {name: rng.choice(spec.range) for name, spec in insn.row.fields.items()}
    fields |= insn.variant(rng.choice(list(insn.cases())) or {})
    if SYSTEM.properties(insn, fields).control == "branch":
        fields["imm"] = 8
    if "csr" in fields:
        fields["csr"] = rng.choice(CSRS)
    for name in ("rd", "rs1", "rs2"):
        # x8 to x15 point to memory; x2 to x4 are the handler's.
        if name in fields:
            pool = range(5, 8) if name == "rd" else (*range(8, 16), *range(5, 8))
            fields[name] = rng.choice(pool)
    return insn.row.encode(**fields)


def _machine(seed: int, mode: str) -> Machine:
    rng = random.Random(seed)
    machine = Machine("riscv64", mode=mode, deterministic=True)
    machine.mem.map(RAM, SIZE)
    handler = SYSTEM.assemble(_HANDLER, HANDLER)
    machine.mem[HANDLER : HANDLER + len(handler)] = handler
    code = b"".join(_word(rng).to_bytes(4, "little") for _ in range(1000))
    code += SYSTEM.assemble(f"j {CODE}", CODE + len(code))
    machine.mem[CODE : CODE + len(code)] = code
    # One gigapage that is everything, and the same two megabytes once more by small pages.
    leaf = RAM >> 12 << 10 | 0xCF
    machine.mem[TABLES + 16 : TABLES + 24] = leaf.to_bytes(8, "little")
    machine.mem[TABLES : TABLES + 8] = (TABLES + 0x1000 >> 12 << 10 | 1).to_bytes(8, "little")
    machine.mem[TABLES + 0x1000 : TABLES + 0x1008] = (TABLES + 0x2000 >> 12 << 10 | 1).to_bytes(
        8, "little"
    )
    for index in range(512):
        entry = (DATA >> 12) + index % 8 << 10 | rng.choice([0xCF, 0xC7, 0x0F, 0x47, 0xD7, 0])
        at = TABLES + 0x2000 + 8 * index
        machine.mem[at : at + 8] = entry.to_bytes(8, "little")
    machine.pmpaddr0, machine.pmpcfg0, machine.mtvec = (1 << 54) - 1, 31, HANDLER
    machine.satp, machine.menvcfg = 8 << 60 | TABLES >> 12, rng.choice([0, 1 << 61, 0xF1 << 56])
    machine.mcounteren = 7
    machine.pc, machine.state.mode = CODE, 1
    for register in range(5, 16):
        value = rng.choice([DATA, 0x1000, 0x2FF8, 0x7FF9, TABLES + 0x2000]) + 8 * rng.randrange(64)
        machine.state.x[register] = value
    return machine


def _outcome(machine: Machine) -> dict[str, object]:
    state = machine.state
    values: dict[str, object] = {name: getattr(state, name) for name in sysabi.REGISTERS}
    values |= {f"x{n}": state.x[n] for n in range(32)}
    values |= {"pc": machine.pc, "count": machine.instructions}
    values["memory"] = hash(machine.bus.ram.read(RAM, SIZE))
    return values


@pytest.mark.parametrize("seed", range(6))
def test_the_same_end_by_both(seed: int) -> None:
    ends = []
    for mode in ("interp", "reference"):
        machine = _machine(seed, mode)
        moments = []
        for _ in range(4):
            machine.run(instructions=300)
            moments.append(_outcome(machine))
        machine.close()
        ends.append(moments)
    for ours, theirs in zip(*ends, strict=True):
        assert {k: v for k, v in ours.items() if v != theirs[k]} == {}
    assert ends[0][-1]["x3"] != 0  # it trapped


@pytest.mark.parametrize(
    ("seed", "compiled"), [(seed, seed >= 30) for seed in (*range(20, 28), *range(30, 38))]
)
def test_translated_code_ends_the_same(seed: int, compiled: bool) -> None:
    """In pieces that are long enough not to be single steps; or all that was stitched in one piece
    is compiled before the next."""
    ends = []
    for mode in ("interp", "stitch"):
        machine = _machine(seed, mode)
        moments = []
        for _ in range(4):
            machine.run(instructions=9000)
            if compiled:
                machine.translate()
            moments.append(_outcome(machine))
        translated, installed = machine.state.translated, machine.regions_installed
        machine.close()
        ends.append(moments)
    for plain, ours in zip(*ends, strict=True):
        assert {k: v for k, v in ours.items() if v != plain[k]} == {}
    assert translated > 5000
    assert bool(installed) == compiled


def test_slices_and_steps_agree() -> None:
    """One long run and the same in single steps."""
    ends = []
    for steps in (1, 5000):
        machine = _machine(3, "interp")
        for _ in range(5000 // steps):
            machine.run(instructions=steps)
        ends.append(_outcome(machine))
        machine.close()
    assert {k: v for k, v in ends[0].items() if v != ends[1][k]} == {}
