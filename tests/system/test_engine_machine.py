"""The life of a machine: one after the other in a process, forks, many harts, given-up workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from hartwood.errors import Error
from hartwood.isa.riscv import RISCV
from hartwood.machine.hart import Machine
from hartwood.mem.flat import FlatSpace

PAGE = 4096
CODE = 0x4010_0000
SUM = "loop: add a0, a0, a1; addi a1, a1, -1; bnez a1, loop; ebreak"


@pytest.fixture(autouse=True)
def own_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setenv("HARTWOOD_CACHE", str(tmp_path_factory.getbasetemp() / "code"))
    yield
    while OPEN:  # a test that failed must not keep the next from having a machine
        end(OPEN[0])


#: Machines that are not closed yet.
OPEN: list[Machine] = []


def machine_with(text: str, mode: str = "interp") -> Machine:
    space = FlatSpace()
    space.map(CODE, PAGE, 3)
    space.write(CODE, RISCV.assemble(text, CODE))
    space.protect(CODE, PAGE, 7)
    OPEN.append(Machine(space, mode))
    return OPEN[-1]


def result(machine: Machine, count: int) -> int:
    hart = machine.new_hart()
    hart.pc, hart.x[10], hart.x[11] = CODE, 0, count
    while (stop := hart.run()).cause == "slice":
        pass
    assert stop.cause == "ebreak"
    total = hart.x[10]
    hart.close()
    return total


def end(machine: Machine) -> None:
    OPEN.remove(machine)
    machine.close()
    machine.space.close()


@pytest.mark.parametrize("mode", ["reference", "interp", "jit", "auto"])
def test_machines_follow_each_other(mode: str) -> None:
    """A machine that was closed leaves the addresses that generated code knows to the next."""
    for number in range(4):
        machine = machine_with(SUM.replace("add a0, a0, a1", f"addi a0, a0, {number}"), mode)
        assert result(machine, 500) == 500 * number
        end(machine)


def test_two_machines_at_once_are_refused() -> None:
    machine = machine_with(SUM)
    space = FlatSpace()
    with pytest.raises(Error, match="address space"):
        Machine(space, "interp")
    space.close()
    assert result(machine, 10) == 55
    end(machine)


def test_a_second_space_has_another_base() -> None:
    """Translations do not depend on where guest memory is."""
    other = FlatSpace()
    machine = machine_with(SUM)
    assert machine.space.base != other.base
    machine.engine.translate([CODE])
    assert result(machine, 1000) == 500_500
    end(machine)
    other.close()


def test_many_harts_one_after_the_other() -> None:
    machine = machine_with(SUM)
    for number in range(300):
        assert result(machine, number + 1) == (number + 1) * (number + 2) // 2
    assert not machine.harts
    end(machine)


def test_a_fork_has_everything_the_parent_had() -> None:
    """Decoded and translated code, and from then on its own."""
    machine = machine_with(SUM, "jit")
    machine.engine.translate([CODE])
    hart = machine.new_hart()
    hart.pc, hart.x[11] = CODE, 200_000
    hart.run(1000)
    for hook in machine.before_fork:
        hook()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for hook in machine.after_fork_child:
                hook()
            while hart.run().cause == "slice":
                pass
            good = hart.x[10] == 200_000 * 200_001 // 2
            # The child changes its code; the parent must not notice.
            machine.space.write(CODE, RISCV.assemble("addi a0, a0, 7"))
            machine.engine.translate([CODE])
            hart.pc, hart.x[10], hart.x[11] = CODE, 0, 100
            while hart.run().cause == "slice":
                pass
            status = 0 if good and hart.x[10] == 700 else 2
        finally:
            os._exit(status)
    for hook in machine.after_fork_parent:
        hook()
    while hart.run().cause == "slice":
        pass
    assert hart.x[10] == 200_000 * 200_001 // 2
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert result(machine, 100) == 5050
    hart.close()
    end(machine)


def test_the_guest_goes_on_when_the_worker_is_killed() -> None:
    machine = machine_with(SUM, "jit")
    machine.engine.translate([CODE])
    os.kill(machine.engine.client._pid, signal.SIGKILL)
    for number in range(20):
        at = CODE + 64 * (number + 1)
        machine.space.write(at, RISCV.assemble(SUM, at))
        hart = machine.new_hart()
        hart.pc, hart.x[11] = at, 30_000
        while hart.run(50_000).cause == "slice":
            pass
        assert hart.x[10] == 30_000 * 30_001 // 2
        hart.close()
    end(machine)


def test_straight_code_without_end_is_cut() -> None:
    """Thousands of instructions in a row are not one function for the compiler."""
    pages = 8
    space = FlatSpace()
    space.map(CODE, pages * PAGE, 3)
    body = b"".join(RISCV.assemble(f"addi x{n % 25 + 5}, x{n % 25 + 6}, 1") for n in range(100))
    count = pages * PAGE // 4 - 1
    space.write(CODE, (body * (count // 100 + 1))[: count * 4])
    space.write(CODE + count * 4, RISCV.assemble("ebreak"))
    space.protect(CODE, pages * PAGE, 5)
    machine = Machine(space, "interp")
    OPEN.append(machine)
    outcomes = []
    for translated in (False, True):
        if translated:
            machine.engine.translate([CODE])
            assert machine.engine.client.compile_seconds < 8
        hart = machine.new_hart()
        hart.pc = CODE
        while hart.run().cause == "slice":
            pass
        outcomes.append((list(hart.x), hart.pc, hart.instructions))
        hart.close()
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][2] == count
    end(machine)


def test_a_guest_that_makes_code_without_end_does_not_fill_the_host() -> None:
    """When the arena is full, translation starts over."""
    machine = machine_with(SUM)
    engine = machine.engine
    engine.arena.keep()
    engine.translate([CODE])
    size = engine.arena.used
    engine.arena.size = size + 40 * PAGE
    for number in range(60):
        machine.space.write(CODE, RISCV.assemble(f"addi a0, a0, {number}"))
        engine.translate([CODE])
        assert result(machine, 50) == 50 * number
    assert engine.arena.used <= size + 40 * PAGE
    engine.arena.size = 256 << 20
    end(machine)
