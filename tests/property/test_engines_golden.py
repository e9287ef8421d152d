"""The golden rows (tests/insns), which say what every instruction does, on every engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from hartwood.machine.floating import flags_of, mxcsr_of
from property.engines import ENGINES, Engines, machine_of
from unit.golden import Golden, load

PAGE = 4096
BREAK = b"\x02\x90"
#: Exception causes by the name of the stop, where it does not depend on the system.
STOPS = {2: {"illegal"}, 3: {"ebreak"}, 4: {"load"}, 6: {"store"}, 8: {"ecall"}}
CASES = load()


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    yield from machine_of(tmp_path_factory)


def pages_of(case: Golden) -> set[int]:
    """Data pages that a row names, before or after."""
    named = {**case.before.memory, **case.after.memory}
    return {page for at, data in named.items() for page in range(at & -PAGE, at + len(data), PAGE)}


def run(engines: Engines, case: Golden, engine: str) -> str:
    """Run a row; what is wrong, or nothing."""
    space, hart = engines.space, engines.hart
    before, after = case.before, case.after
    code = before.pc & -PAGE
    engines.machine.engine.code_changed(0, space.limit - PAGE)
    space.reset()
    for page in {code, before.pc + len(case.code) & -PAGE}:
        space.map(page, PAGE, 3)
        space.write(page, BREAK * (PAGE // 2))
    space.write(before.pc, case.code)
    for page in {code, before.pc + len(case.code) & -PAGE}:
        space.protect(page, PAGE, 5)
    for page in pages_of(case):
        space.map(page, PAGE, 3)
    for at, data in before.memory.items():
        space.write(at, data)
    for number in range(1, 32):
        hart.x[number] = before.x[number]
    for number in range(32):
        hart.f[number] = before.f[number]
    hart.pc = before.pc
    hart.state.mxcsr = mxcsr_of(before.fflags, before.frm)
    hart.fcsr = before.frm << 5 | before.fflags
    hart.state.reserved_address = (1 << 64) - 1
    # The rows' own time.
    hart.reference()._hart._counters = {"cycle": 11, "time": 22, "instret": 33}.__getitem__
    engines.use(engine)
    if engine == "jit":
        engines.machine.engine.translate([before.pc])
    inside = range(before.pc, before.pc + len(case.code))
    while (stop := hart.run(1)).cause == "slice" and hart.pc in inside and hart.pc != after.pc:
        pass
    wrong = []
    if case.trap is None:
        if stop.cause not in ("slice", "ebreak", "fetch"):
            wrong.append(f"stopped by {stop}")
    elif stop.cause not in STOPS.get(case.trap[0], {"load", "store", "fetch"}):
        wrong.append(f"{stop} instead of cause {case.trap[0]}")
    pairs = [("pc", hart.pc, after.pc), ("frm", hart.state.frm, after.frm)]
    pairs += [("fflags", flags_of(hart.state.mxcsr), after.fflags)]
    pairs += [(f"x{n}", hart.x[n], after.x[n]) for n in range(1, 32)]
    pairs += [(f"f{n}", hart.f[n], after.f[n]) for n in range(32)]
    wrong += [f"{name} is {got:#x}, not {want:#x}" for name, got, want in pairs if got != want]
    for at, data in after.memory.items():
        if space.read(at, len(data)) != data:
            wrong.append(
                f"memory at {at:#x} is {space.read(at, len(data)).hex()}, not {data.hex()}"
            )
    return "; ".join(wrong)


def groups() -> Sequence[str]:
    return sorted({case.where.partition(":")[0] for case in CASES})


@pytest.mark.parametrize("file", groups())
@pytest.mark.parametrize("engine", ENGINES)
def test_rows(engines: Engines, engine: str, file: str) -> None:
    cases = [case for case in CASES if case.where.startswith(f"{file}:")]
    assert cases
    failures = []
    for case in cases:
        wrong = run(engines, case, engine)
        if wrong:
            failures.append(f"{case.where} {case.asm}: {wrong}")
    assert not failures, "\n".join(failures[:10])
