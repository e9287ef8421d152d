"""The golden rows in U-mode of a whole machine: its interpreter and its reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hartwood.machine.bare import Machine
from hartwood.machine.floating import flags_of
from unit.golden import Golden, load

CODE, DATA, HANDLER = 0x1_0000, 0x2000, 0x4_0000
#: Rows say what counters show; here they count.
COUNTERS = ("cycle", "time", "instret")
CASES = [case for case in load() if not any(word in case.asm for word in COUNTERS)]


@pytest.fixture(scope="module", params=["interp", "reference"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine("riscv64", mode=request.param, deterministic=True)
    made.mem.map(CODE, 0x2000)
    made.mem.map(DATA, 0x1000)
    made.pmpaddr0, made.pmpcfg0, made.mtvec = (1 << 54) - 1, 31, HANDLER
    yield made
    made.close()


def run(machine: Machine, case: Golden) -> str:
    """Run a row; what is wrong, or nothing."""
    before, after, state = case.before, case.after, machine.state
    machine.mem[DATA : DATA + 0x1000] = bytes(0x1000)
    machine.mem[before.pc : before.pc + len(case.code)] = case.code
    for at, data in before.memory.items():
        machine.mem[at : at + len(data)] = data
    for number in range(1, 32):
        state.x[number] = before.x[number]
    for number in range(32):
        state.f[number] = before.f[number]
    machine.mstatus = 1 << 13
    machine.fcsr = before.frm << 5 | before.fflags
    machine.pc, state.mode, state.reserved_address = before.pc, 0, (1 << 64) - 1
    inside = range(before.pc, before.pc + len(case.code))
    machine.step()
    while machine.pc in inside and machine.pc not in (before.pc, after.pc):
        machine.step()
    wrong = []
    pc = machine.pc
    if (pc == HANDLER) != (case.trap is not None):
        wrong.append(f"cause {machine.mcause}, not {case.trap}")
    elif case.trap is not None:
        cause, tval = case.trap
        tval = int.from_bytes(case.code, "little") if cause == 2 else tval
        if (machine.mcause, machine.mtval, machine.mepc) != (cause, tval, before.pc):
            wrong.append(f"{machine.mcause} {machine.mtval:#x}, not {cause} {tval:#x}")
        pc = before.pc
    pairs = [("pc", pc, after.pc), ("frm", state.frm, after.frm)]
    pairs += [("fflags", flags_of(state.mxcsr), after.fflags)]
    pairs += [(f"x{n}", state.x[n], after.x[n]) for n in range(1, 32)]
    pairs += [(f"f{n}", state.f[n], after.f[n]) for n in range(32)]
    wrong += [f"{name} is {got:#x}, not {want:#x}" for name, got, want in pairs if got != want]
    for at, data in after.memory.items():
        if bytes(machine.mem[at : at + len(data)]) != data:
            wrong.append(f"memory at {at:#x} is {bytes(machine.mem[at : at + len(data)]).hex()}")
    return "; ".join(wrong)


@pytest.mark.parametrize("file", sorted({case.where.partition(":")[0] for case in CASES}))
def test_rows(machine: Machine, file: str) -> None:
    cases = [case for case in CASES if case.where.startswith(f"{file}:")]
    assert cases
    failures = [f"{c.where} {c.asm}: {wrong}" for c in cases if (wrong := run(machine, c))]
    assert not failures, "\n".join(failures[:10])
