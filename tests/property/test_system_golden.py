"""The golden rows in U-mode of a whole machine: its interpreter and its reference."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from hartwood.isa.riscv.system import SYSTEM
from hartwood.machine.bare import Machine
from hartwood.machine.floating import flags_of, mxcsr_of
from unit.golden import Golden, load

CODE, DATA, HANDLER = 0x1_0000, 0x2000, 0x4_0000
#: A device: whatever is stored there ends the run.
END = 0x400
#: Rows say what counters show; here they count.
COUNTERS = ("cycle", "time", "instret")
CASES = [case for case in load() if not any(word in case.asm for word in COUNTERS)]


class Rows(Machine):
    """What rows run on; `compiled`: by regions."""

    compiled = False


@pytest.fixture(scope="module", params=["interp", "reference", "stitch", "region"])
def machine(request: pytest.FixtureRequest) -> Iterator[Rows]:
    compiled = request.param == "region"
    made = Rows("riscv64", mode="stitch" if compiled else request.param, deterministic=True)
    made.compiled = compiled
    made.mem.map(CODE, 0x2000)
    made.mem.map(DATA, 0x1000)
    made.mem.map(HANDLER, 0x1000)
    made.mem[HANDLER : HANDLER + 8] = SYSTEM.assemble(f"sw zero, {END}(zero); stay: j stay")
    made.mem.map_io(END, 0x100, lambda at, size: 0, lambda *_: made.request_stop())
    made.pmpaddr0, made.pmpcfg0, made.mtvec = (1 << 54) - 1, 31, HANDLER
    yield made
    made.close()


def in_steps(machine: Rows, case: Golden) -> int:
    """Execute the row's instructions one by one; where that leads."""
    machine.step()
    inside = range(case.before.pc, case.before.pc + len(case.code))
    while machine.pc in inside and machine.pc not in (case.before.pc, case.after.pc):
        machine.step()
    return machine.pc


def in_one_go(machine: Rows, case: Golden) -> int:
    """The same without a stop between, for code that only translates what it runs into: behind the
    row nothing is an instruction, and the handler of what that raises ends the run."""
    end = case.before.pc + len(case.code)
    machine.mem[end : end + 4] = bytes(4)
    assert machine.run(seconds=20).reason == "stopped"
    return HANDLER if machine.state.mepc == case.before.pc else machine.state.mepc


def run(machine: Rows, case: Golden) -> str:
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
    # Not by name: that would make the hart forget its translations, and everything would miss.
    state.mstatus, state.frm, state.frm_reserved = 1 << 13, before.frm, before.frm > 3
    state.mxcsr = mxcsr_of(before.fflags, before.frm)
    machine.pc, state.mode, state.reserved_address = before.pc, 0, (1 << 64) - 1
    machine.code.settle(ctypes.addressof(state))
    if machine.mode == "stitch":
        if machine.compiled:
            machine.translate(case.before.pc)
        pc = in_one_go(machine, case)
    else:
        pc = in_steps(machine, case)
    wrong = []
    if (pc == HANDLER) != (case.trap is not None):
        wrong.append(f"cause {machine.state.mcause}, not {case.trap}")
    elif case.trap is not None:
        cause, tval = case.trap
        tval = int.from_bytes(case.code, "little") if cause == 2 else tval
        if (machine.state.mcause, machine.state.mtval, machine.state.mepc) != (
            cause,
            tval,
            before.pc,
        ):
            wrong.append(f"{machine.state.mcause} {machine.state.mtval:#x}, not {cause} {tval:#x}")
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
def test_rows(machine: Rows, file: str) -> None:
    cases = [case for case in CASES if case.where.startswith(f"{file}:")]
    assert cases
    if machine.compiled:  # one of each instruction's: LLVM takes its time
        cases = list({case.asm.split()[0]: case for case in cases}.values())
    before, regions = machine.state.translated, machine.regions_installed
    if machine.mode == "stitch":  # which would go round for ever
        cases = [case for case in cases if case.before.pc != case.after.pc or case.trap]
    failures = [f"{c.where} {c.asm}: {wrong}" for c in cases if (wrong := run(machine, c))]
    assert not failures, "\n".join(failures[:10])
    if machine.mode == "stitch":
        fine = sum(case.trap is None for case in cases)
        assert machine.state.translated - before > fine // 2 or file == "zicsr.ins"
    if machine.compiled:
        made = machine.regions_installed - regions
        assert made > len(cases) // 2 or file in ("zicsr.ins", "zifencei.ins")
