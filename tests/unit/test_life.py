"""The state machine of a bare machine, its time, and who may run when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from hartwood.board import RiscvVirt
from hartwood.isa.riscv.system import SYSTEM
from hartwood.machine.bare import Machine
from hartwood.machine.gate import Gate, StateError
from hartwood.machine.snapshot import Snapshot

RAM, SIZE = 0x8000_0000, 1 << 20
#: Counts in a0 for ever.
COUNT = "loop: addi a0, a0, 1\nj loop\n"


def new(source: str = COUNT, *, deterministic: bool = False, mode: str = "interp") -> Machine:
    machine = Machine("riscv64", deterministic=deterministic, mode=mode)
    machine.mem.map(RAM, SIZE)
    code = SYSTEM.assemble(source, RAM)
    machine.mem[RAM : RAM + len(code)] = code
    machine.pc = RAM
    return machine


@pytest.fixture
def cpu() -> Iterator[Machine]:
    machine = new()
    yield machine
    machine.close()


class Running:
    """A machine whose `run` is on another thread."""

    def __init__(self, machine: Machine | RiscvVirt, **conditions: object) -> None:
        self.machine = machine
        self.reasons: list[object] = []
        self.thread = threading.Thread(target=self._run, args=(conditions,), daemon=True)
        self.thread.start()
        until(lambda: machine._runner != 0 or not self.thread.is_alive())

    def _run(self, conditions: dict[str, object]) -> None:
        try:
            self.reasons.append(self.machine.run(**conditions).reason)  # type: ignore[arg-type]
        except Exception as error:
            self.reasons.append(error)

    def reason(self) -> object:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.reasons[0]


def until(condition: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("it did not happen")


def into(state: str) -> tuple[Machine, Running | None]:
    """A machine in a state."""
    machine = new()
    if state in ("running", "held"):
        running = Running(machine)
        if state == "held":
            machine.pause()
        return machine, running
    if state != "created":
        machine.run(instructions=10)
    if state == "stopped":
        machine.stop()
    if state == "closed":
        machine.close()
    return machine, None


#: What `restore` is given.
EARLY: list[Snapshot] = []
CALLS: dict[str, Callable[[Machine], object]] = {
    "run": lambda m: m.run(instructions=10),
    "step": lambda m: m.step(),
    "pause": lambda m: m.pause(),
    "resume": lambda m: m.resume(),
    "snapshot": lambda m: m.snapshot(),
    "restore": lambda m: m.restore(EARLY[0]),
    "reset": lambda m: m.reset(),
    "stop": lambda m: m.stop(),
    "close": lambda m: m.close(),
}
#: The state after a call, where it is allowed. "held": paused inside a `run`.
ALLOWED = {
    "created": {"run": "paused", "step": "paused", "snapshot": "created", "restore": "paused",
                "reset": "created", "stop": "stopped", "close": "stopped"},
    "running": {"pause": "paused", "snapshot": "running", "stop": "stopped", "close": "stopped"},
    "held": {"step": "paused", "resume": "running", "snapshot": "paused", "restore": "paused",
             "reset": "paused", "stop": "stopped", "close": "stopped"},
    "paused": {"run": "paused", "step": "paused", "resume": "running", "snapshot": "paused",
               "restore": "paused", "reset": "created", "stop": "stopped", "close": "stopped"},
    "stopped": {"restore": "paused", "reset": "created", "close": "stopped"},
    "closed": {"close": "stopped"},
}  # fmt: skip
NAMES = {"held": "paused", "closed": "stopped"}


@pytest.mark.parametrize(("state", "call"), list(product(ALLOWED, CALLS)))
def test_every_call_in_every_state(state: str, call: str) -> None:
    machine, running = into(state)
    name = NAMES.get(state, state)
    donor = new()
    donor.run(instructions=3)
    EARLY[:] = [donor.snapshot()]
    assert machine.status == name
    if call in ALLOWED[state]:
        CALLS[call](machine)
        assert machine.status == ALLOWED[state][call]
    else:
        before = machine.save_hart() if state != "running" else None
        with pytest.raises(StateError, match=f"^{call}: "):
            CALLS[call](machine)
        assert machine.status == name
        assert before is None or machine.save_hart() == before
    machine.close()
    donor.close()
    if running is not None:
        assert running.reason() == "stopped"


def test_a_run_goes_on_where_it_was_paused() -> None:
    machine = new()
    running = Running(machine, until=lambda: machine.a0 > 30_000_000)
    counts = []
    for _ in range(10):
        until(lambda: machine.a0 > (counts[-1] if counts else 0))
        machine.pause()
        assert machine.status == "paused"
        counts.append(machine.a0)
        pc, instructions = machine.pc, machine.instructions
        time.sleep(0.002)
        assert (machine.a0, machine.pc, machine.instructions) == (counts[-1], pc, instructions)
        machine.resume()
        assert machine.status in ("running", "paused")
    assert running.reason() == "until"
    assert counts == sorted(counts)
    assert machine.status == "paused"
    machine.close()


def test_stepping_through_a_paused_run() -> None:
    machine = new()
    running = Running(machine)
    machine.pause()
    before = machine.instructions
    for _ in range(6):
        machine.step()
    assert machine.instructions == before + 6
    machine.resume()
    until(lambda: machine.instructions > before + 1000)
    machine.request_stop()
    assert running.reason() == "stopped"
    assert machine.status == "paused"
    machine.close()


def test_resume_without_a_run_runs_in_the_background(cpu: Machine) -> None:
    cpu.run(instructions=2)
    cpu.resume()
    until(lambda: cpu.a0 > 1000)
    cpu.pause()
    stood = cpu.a0
    cpu.resume()
    until(lambda: cpu.a0 > stood)
    cpu.stop()
    assert cpu.status == "stopped"


def test_seconds_are_those_that_were_not_paused() -> None:
    machine = new()
    running = Running(machine, seconds=0.2)
    machine.pause()
    time.sleep(0.4)
    before = machine.a0
    assert machine.status == "paused"
    machine.resume()
    until(lambda: machine.a0 > before)
    assert running.reason() == "seconds"
    machine.close()


def test_guest_time_stands_while_the_machine_does() -> None:
    machine = new()
    assert machine.time == 0
    time.sleep(0.01)
    assert machine.time == 0
    machine.run(seconds=0.05)
    first = machine.time
    assert first >= 400_000
    time.sleep(0.2)
    assert machine.time == first
    machine.step()
    assert first <= machine.time < first + 1_000_000
    warm = machine.snapshot()
    now = machine.time
    machine.run(seconds=0.02)
    machine.restore(warm)
    assert machine.time == now
    machine.reset()
    assert machine.time == 0
    machine.close()


@pytest.mark.parametrize("call", ["pause", "snapshot", "stop", "step"])
def test_a_device_may_not_ask_for_what_needs_the_harts_to_stand(call: str) -> None:
    machine = new("sb zero, 0(a1)\nloop: j loop\n")

    def store(at: int, width: int, value: int) -> None:
        CALLS[call](machine)

    machine.mem.map_io(0x1000, 0x1000, lambda at, width: 0, store)
    machine.a1 = 0x1000
    with pytest.raises(StateError, match="device"):
        machine.run(instructions=100)
    assert machine.status == "paused"
    machine.run(instructions=10)
    machine.close()


def test_a_condition_may_take_snapshots_and_pause() -> None:
    machine = new()
    taken = []

    def condition() -> bool:
        taken.append(machine.snapshot())
        return len(taken) > 3

    assert machine.run(until=condition).reason == "until"
    counts = []
    for snapshot in taken:
        machine.restore(snapshot)
        counts.append(machine.a0)
    assert counts == sorted(set(counts))
    asked = []

    def once() -> bool:
        if not asked:
            asked.append(1)
            machine.pause()
        return machine.a0 > counts[-1] + 1000

    running = Running(machine, until=once)
    until(lambda: machine.status == "paused")
    machine.resume()
    assert running.reason() == "until"
    machine.close()


def test_closing_within_a_condition_ends_the_run() -> None:
    machine = new()

    def within(call: str) -> bool:
        CALLS[call](machine)
        return False

    assert machine.run(until=lambda: within("close")).reason == "stopped"
    assert machine.status == "stopped"
    machine = new()
    assert machine.run(until=lambda: within("stop")).reason == "stopped"
    assert machine.status == "stopped"
    machine.reset()
    machine.pc = RAM
    assert machine.run(instructions=4).reason == "instructions"
    machine.close()


def test_an_error_in_a_condition_leaves_a_paused_machine(cpu: Machine) -> None:
    with pytest.raises(ZeroDivisionError):
        cpu.run(until=lambda: bool(1 / 0))
    assert cpu.status == "paused"
    assert cpu.run(instructions=2).reason == "instructions"


def test_registers_are_read_while_the_machine_runs() -> None:
    """Reading a CSR takes M-mode for a moment, which the guest must not notice."""
    source = """
        auipc t0, 0
        addi t0, t0, 64
        csrrw zero, mtvec, t0
        li t1, 0x1800
        csrrc zero, mstatus, t1
        li t2, -1
        csrrw zero, pmpaddr0, t2
        li t2, 0x1f
        csrrw zero, pmpcfg0, t2
        auipc t0, 0
        addi t0, t0, 16
        csrrw zero, mepc, t0
        mret
    user:
        addi a0, a0, 1
        j user
    """.replace("li t1, 0x1800", "lui t1, 2\naddi t1, t1, -2048").replace(
        "li t2, -1", "addi t2, zero, -1"
    ).replace("li t2, 0x1f", "addi t2, zero, 31")  # fmt: skip
    machine = new(source)
    running = Running(machine)
    until(lambda: machine.a0 > 1000)
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(50):
                assert machine.privilege == 0
                assert machine.mscratch == 0
                assert machine.status == "running"
                assert machine.stats()["instructions"] != 0
                machine.s5 = 7
        except BaseException as failure:
            failures.append(failure)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert failures == []
    machine.pause()
    assert machine.privilege == 0
    assert machine.mcause == 0  # nothing was trapped meanwhile
    assert machine.s5 == 7
    machine.close()
    assert running.reason() == "stopped"


def test_two_threads_cannot_run_one_machine() -> None:
    machine = new()
    running = Running(machine)
    with pytest.raises(StateError, match="running"):
        machine.run(instructions=1)
    machine.stop()
    assert running.reason() == "stopped"
    machine.close()


def test_pausing_from_many_threads_at_once() -> None:
    machine = new()
    running = Running(machine)
    done: list[str] = []

    def use() -> None:
        for _ in range(40):
            for call in (machine.pause, machine.resume, machine.snapshot):
                try:
                    call()
                    done.append(call.__name__)
                except StateError:
                    pass

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert {"pause", "resume", "snapshot"} == set(done)
    machine.close()
    assert running.reason() == "stopped"


@pytest.mark.parametrize("mode", ["interp", "reference"])
def test_a_hart_that_waits_is_paused_and_woken(mode: str) -> None:
    machine = new("csrrw zero, mie, a1\nwait: wfi\naddi a0, a0, 1\nj wait\n", mode=mode)
    machine.a1 = 1 << 7
    running = Running(machine)
    until(lambda: machine.pc >= RAM + 4)
    machine.pause()
    machine.resume()
    machine.set_pending(7, True)
    until(lambda: machine.a0 > 100)
    machine.stop()
    assert running.reason() == "stopped"
    machine.close()


def test_a_step_does_not_wait_for_an_interrupt(cpu: Machine) -> None:
    cpu.mem[RAM : RAM + 4] = SYSTEM.assemble("wfi\n")
    cpu.step()
    assert cpu.pc == RAM + 4


def test_a_gate_counts_the_time_it_was_closed() -> None:
    gate = Gate()
    assert gate.seconds == 0
    gate.close()
    time.sleep(0.01)
    gate.open()
    stood = gate.seconds
    assert stood >= 0.01
    time.sleep(0.01)
    assert gate.seconds == stood


def test_the_page_about_it_works_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "machine.md"
    monkeypatch.chdir(tmp_path)
    for part in page.read_text().split("```python\n")[1:]:
        exec(compile(part.partition("```")[0], str(page), "exec"), {})
    assert [each.name for each in tmp_path.iterdir()] == ["warm.snapshot"]
