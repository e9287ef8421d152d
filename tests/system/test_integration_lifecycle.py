"""The life of whole machines: boards with small guests on several harts, and Debian's kernel."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hartwood
from hartwood.board import RiscvVirt
from hartwood.errors import Error
from hartwood.guests import GUESTS
from hartwood.isa.riscv.system import SYSTEM
from hartwood.machine.gate import StateError
from hartwood.machine.snapshot import Snapshot, SnapshotError
from system.test_boot import Terminal
from unit.small_guests import FOREVER, HSM, POWEROFF, SECOND, call, kernel, put
from unit.test_life import Running, until

MEMORY, COUNTS, PAGE = 16 << 20, 0x8040_0000, 4096
SECONDS = 150

#: Each hart counts in memory, in a page of its own, for ever; the second is started by the first.
COUNT = """
    li t0, {at}
count:
    ld t1, 0(t0)
    addi t1, t1, 1
    sd t1, 0(t0)
    j count
"""
#: The same on a timer's interrupts: every thousand ticks the handler counts, says a letter, and
#: sets the next; the code goes on counting.
TICKS = """
    la t0, handler
    csrw stvec, t0
    li t0, 32
    csrw sie, t0
    rdtime t0
    addi t0, t0, 1000
    csrw stimecmp, t0
    csrwi sstatus, 2
    li s0, {at}
    li s1, 0
{body}
.align 2
handler:
    rdtime s2
    ld s3, 8(s0)
    addi s3, s3, 1
    sd s3, 8(s0)
    sd s2, 16(s0)
    andi s4, s3, 15
    addi s4, s4, 97
    li s5, 0x10000000
    sb s4, 0(s5)
    addi s2, s2, 1000
    csrw stimecmp, s2
    sret
"""


def ticking(at: int, body: str) -> str:
    """Assembly of `TICKS` in the words that the assembler knows."""
    text = TICKS.format(at=at, body=body).replace("la t0, handler", "auipc t0, 0\naddi t0, t0, OFF")
    text = text.replace(".align 2\n", "").replace("rdtime t0", "csrrs t0, time, zero")
    text = text.replace("rdtime s2", "csrrs s2, time, zero").replace(
        "csrwi sstatus, 2", "csrrwi zero, sstatus, 2"
    )
    text = re.sub(r"csrw (\w+), (\w+)", r"csrrw zero, \1, \2", text)
    head = text.partition("handler:")[0].replace("OFF", "0")
    return text.replace("OFF", str(len(SYSTEM.assemble(head))))


def board(folder: Path, first: str, second: str = "nop", **options: object) -> RiscvVirt:
    return RiscvVirt(kernel=kernel(folder, first, second), memory=MEMORY, **options)  # type: ignore[arg-type]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[RiscvVirt]:
    """Two harts that count."""
    start = call(HSM, 0, 1, SECOND, 0)
    made = board(tmp_path, start + COUNT.format(at=COUNTS), COUNT.format(at=COUNTS + PAGE), harts=2)
    yield made
    made.close()


def counts(machine: RiscvVirt) -> tuple[int, int]:
    words = (machine.bus.ram.read(at, 8) for at in (COUNTS, COUNTS + PAGE))
    return tuple(int.from_bytes(word, "little") for word in words)  # type: ignore[return-value]


def digest(machine: RiscvVirt) -> str:
    """All that a guest could see."""
    made = hashlib.blake2b(machine.bus.ram.view(machine.ram, machine.memory))
    harts = [{**hart.save_hart()} for hart in machine.harts]
    devices = {at: repr(each.save()) for at, each in machine.bus.devices.items()}  # type: ignore[attr-defined]
    made.update(repr((harts, devices, machine.states.save())).encode())
    return made.hexdigest()


# Life.
def test_boot_twice(tmp_path: Path) -> None:
    machine = board(tmp_path, put("hello") + POWEROFF)
    out = bytearray()
    machine.uart.tx = out.extend
    assert machine.status == "created"
    assert machine.run().reason == "poweroff"
    assert (bytes(out), machine.status) == (b"hello", "stopped")
    with pytest.raises(StateError, match=r"stopped \(poweroff\); reset\(\) it"):
        machine.run()
    machine.bus.ram.write(COUNTS, b"left")
    machine.reset()
    assert machine.status == "created"
    assert machine.bus.ram.read(COUNTS, 4) == bytes(4)
    assert machine.run().reason == "poweroff"
    assert bytes(out) == b"hellohello"
    machine.close()


def test_ten_times_paused_and_resumed(two: RiscvVirt) -> None:
    running = Running(two)
    before = (0, 0)
    for _ in range(10):
        until(lambda: all(map(int.__gt__, counts(two), before)))  # noqa: B023 - asked at once
        two.pause()
        before = counts(two)
        assert two.status == "paused"
        stood = [hart.clock for hart in two.harts]
        time.sleep(0.005)
        assert counts(two) == before
        assert [hart.clock for hart in two.harts] == stood
        two.resume()
        assert two.status == "running"
    two.request_stop()
    assert running.reason() == "stopped"
    assert two.status == "paused"


CALLS: dict[str, Callable[[RiscvVirt], object]] = {
    "run": lambda m: m.run(instructions=10), "step": lambda m: m.step(),
    "pause": lambda m: m.pause(), "resume": lambda m: m.resume(),
    "snapshot": lambda m: m.snapshot(), "reset": lambda m: m.reset(),
    "restore": lambda m: m.restore("/nowhere"), "stop": lambda m: m.stop(),
}  # fmt: skip
WRONG = {
    "created": ("pause", "resume"),
    "running": ("run", "step", "resume", "reset", "restore"),
    "paused": ("run", "pause"),
    "stopped": ("run", "step", "pause", "resume", "snapshot", "stop"),
    "closed": tuple(CALLS),
}


@pytest.mark.parametrize("state", WRONG)
def test_every_call_in_every_wrong_state(two: RiscvVirt, state: str) -> None:
    running = None
    if state in ("running", "paused"):
        running = Running(two)
        if state == "paused":
            two.pause()
    if state == "stopped":
        two.stop()
    if state == "closed":
        two.close()
    status = two.status
    before = digest(two) if state in ("created", "paused", "stopped") else ""
    for name in WRONG[state]:
        with pytest.raises(StateError, match=f"^{name}: .*; "):
            CALLS[name](two)
        assert two.status == status
    assert not before or digest(two) == before
    two.close()
    if running is not None:
        assert running.reason() == "stopped"


def test_steps_are_one_instruction_of_each_hart(two: RiscvVirt) -> None:
    two.run(until=lambda: counts(two)[1] > 0)
    before = [hart.instructions for hart in two.harts]
    for _ in range(5):
        assert two.step().reason == "instructions"
    assert [hart.instructions for hart in two.harts] == [each + 5 for each in before]


def test_so_many_instructions(two: RiscvVirt) -> None:
    assert two.run(instructions=12_345).reason == "instructions"
    assert two.harts[0].executed == 12_345
    assert two.run(instructions=55).reason == "instructions"
    assert two.harts[0].executed == 12_400


def test_the_state_is_read_by_many_while_it_runs(two: RiscvVirt) -> None:
    running = Running(two)
    until(lambda: min(counts(two)) > 0)
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(30):
                assert two.status == "running"
                assert two.harts[0].privilege == two.harts[1].privilege == 1
                assert two.harts[1].mhartid == 1
                assert two.harts[0].scause == 0
                assert min(counts(two)) > 0
                assert two.stats()["instructions"] != 0
                assert two.uart.save()["ier"] == 0
        except BaseException as failure:
            failures.append(failure)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert failures == []
    two.stop()
    assert running.reason() == "stopped"


# Snapshots.
def test_a_snapshot_while_other_harts_run(two: RiscvVirt) -> None:
    running = Running(two)
    until(lambda: min(counts(two)) > 0)
    taken = [two.snapshot() for _ in range(5)]
    assert two.status == "running"
    latest = counts(two)
    until(lambda: all(map(int.__gt__, counts(two), latest)))
    two.pause()
    ends = counts(two)
    seen = []
    for snapshot in taken:
        two.restore(snapshot)
        seen.append(counts(two))
        # What a hart counted is what it was about to write, or wrote already.
        for hart, count in zip(two.harts, counts(two), strict=True):
            assert hart.t1 - 1 <= count <= hart.t1
    assert seen == sorted(seen)
    assert seen[-1] < ends
    two.resume()
    until(lambda: all(map(int.__gt__, counts(two), seen[-1])))
    two.stop()
    assert running.reason() == "stopped"


def test_a_hart_that_was_stopped_in_the_snapshot_stays_so(two: RiscvVirt) -> None:
    early = two.snapshot()
    running = Running(two)
    until(lambda: min(counts(two)) > 0)
    two.pause()
    two.restore(early)
    assert counts(two) == (0, 0)
    assert two.states.save()["states"] == [0, 1]
    pc = two.harts[1].pc
    two.step()
    assert two.harts[1].pc == pc
    two.resume()
    until(lambda: min(counts(two)) > 0)  # the first hart has started it again
    two.stop()
    assert running.reason() == "stopped"


def test_three_in_order(two: RiscvVirt, tmp_path: Path) -> None:
    states = []
    for number in range(3):
        two.run(instructions=100_000)
        snapshot = two.snapshot()
        snapshot.save(tmp_path / str(number))
        states.append((snapshot, digest(two)))
    for number in (0, 1, 2, 1, 0, 2):
        two.restore(states[number][0])
        assert digest(two) == states[number][1]
    for number in (2, 0, 1):
        two.restore(tmp_path / str(number))
        assert digest(two) == states[number][1]


def test_into_a_second_machine(two: RiscvVirt, tmp_path: Path) -> None:
    two.run(until=lambda: min(counts(two)) > 0)
    warm = two.snapshot()
    wanted = digest(two)
    warm.save(tmp_path / "warm")
    with board(tmp_path, FOREVER, harts=2) as second:
        for each in (warm, tmp_path / "warm"):
            second.restore(each)
            assert digest(second) == wanted
            stood = counts(second)
            second.run(until=lambda: all(map(int.__gt__, counts(second), stood)))  # noqa: B023
        assert digest(two) == wanted
        two.close()
        second.restore(warm)
        assert digest(second) == wanted
    with RiscvVirt(memory=MEMORY, harts=2, snapshot=Snapshot.load(tmp_path / "warm")) as third:
        assert digest(third) == wanted
        third.run(until=lambda: counts(third) > stood)
        with pytest.raises(Error, match="without a kernel"):
            third.reset()


@pytest.mark.parametrize(
    ("options", "match"),
    [({"harts": 1}, "number of harts"), ({"harts": 2, "memory": 2 * MEMORY}, "amount of memory")],
    ids=["harts", "memory"],
)
def test_a_machine_of_another_make(
    two: RiscvVirt, tmp_path: Path, options: dict[str, int], match: str
) -> None:
    warm = two.snapshot()
    make = {"memory": MEMORY, **options}
    with (
        RiscvVirt(kernel=kernel(tmp_path, FOREVER), **make) as other,  # type: ignore[arg-type]
        pytest.raises(SnapshotError, match=match),
    ):
        other.restore(warm)
    with pytest.raises(SnapshotError, match=match):
        RiscvVirt(snapshot=warm, **make)  # type: ignore[arg-type]


def test_a_hundred_in_quick_succession(two: RiscvVirt) -> None:
    taken = []
    for _ in range(100):
        two.run(instructions=50)
        taken.append((two.snapshot(), counts(two)[0]))
    # One memory and what differs: two pages of counts, and perhaps some that harts had read.
    assert sum(len(snapshot.memory._pages) for snapshot, _ in taken) <= 400
    for snapshot, count in (*taken[::9], *taken[::-17]):
        two.restore(snapshot)
        assert counts(two)[0] == count


def test_what_a_snapshot_weighs(two: RiscvVirt) -> None:
    empty = two.snapshot().size
    assert empty < 40_000
    two.bus.ram.write(COUNTS, b"x" * 100 * PAGE)
    assert 100 * PAGE <= two.snapshot().size - empty < 101 * PAGE


def test_a_missing_and_a_damaged_snapshot(two: RiscvVirt, tmp_path: Path) -> None:
    two.run(instructions=5000)
    before, path = digest(two), tmp_path / "one"
    two.snapshot().save(path)
    data = bytearray(path.read_bytes())
    with pytest.raises(SnapshotError, match="nowhere: cannot read"):
        two.restore(tmp_path / "nowhere")
    for place in (0, 20, 60, len(data) // 2, len(data) - 40, len(data) - 1):
        bad = bytearray(data)
        bad[place] ^= 4
        path.write_bytes(bad)
        with pytest.raises(SnapshotError, match=str(path)):
            two.restore(path)
        assert digest(two) == before


def test_states_of_harts_that_cannot_be(two: RiscvVirt) -> None:
    before, good = digest(two), two.states.save()
    for name, value in (
        ("states", [0]), ("states", [0, 3]), ("states", [0, True]), ("states", "01"),
        ("entries", [[0, 0]]), ("entries", [[0], [0]]), ("entries", [[0, -1], [0, 0]]),
        ("reason", 5), ("bogus", 0),
    ):  # fmt: skip
        with pytest.raises(Error, match="states of harts"):
            two.states.load({**good, name: value})
        assert digest(two) == before


@pytest.mark.parametrize("size", [PAGE, 1 << 30], ids=["4KiB", "1GiB"])
def test_the_least_and_a_large_memory(size: int, tmp_path: Path) -> None:
    machine = hartwood.Machine("riscv64", deterministic=True)
    machine.mem.map(0x8000_0000, size)
    last = 0x8000_0000 + size - 8
    code = SYSTEM.assemble("addi a0, a0, 1\nsd a0, 0(a1)\nj 0x80000000\n", 0x8000_0000)
    machine.mem[0x8000_0000 : 0x8000_0000 + len(code)] = code
    machine.pc, machine.a1 = 0x8000_0000, last
    taken = []
    for _ in range(3):
        machine.run(instructions=300)
        taken.append((machine.snapshot(), machine.a0))
    taken[1][0].save(tmp_path / "second")
    assert (tmp_path / "second").stat().st_size < 5 * PAGE
    for snapshot, count in (*taken, taken[0]):
        machine.restore(snapshot)
        assert int.from_bytes(machine.mem[last : last + 8], "little") == machine.a0 == count
    machine.restore(tmp_path / "second")
    machine.run(instructions=300)
    assert machine.a0 == taken[2][1]
    machine.close()


def test_machines_in_one_process_do_not_meet(tmp_path: Path) -> None:
    """Four machines at once, each saved, changed and restored by its own thread, and from a
    snapshot that they share."""
    machines = []
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        machines.append(board(folder, f"li s7, {number}\n" + COUNT.format(at=COUNTS)))
    shared = machines[0].snapshot()
    shared.save(tmp_path / "shared")
    loaded = Snapshot.load(tmp_path / "shared")
    failures: list[BaseException] = []

    def live(number: int, machine: RiscvVirt) -> None:
        try:
            for _ in range(4):
                machine.run(instructions=300 * (number + 1))
                own = machine.snapshot()
                assert machine.harts[0].s7 == number
                stood = digest(machine)
                machine.run(instructions=100)
                machine.restore(loaded)
                assert counts(machine)[0] == 0
                machine.run(instructions=100)
                assert machine.harts[0].s7 == 0
                machine.restore(own)
                assert digest(machine) == stood
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=live, args=pair) for pair in enumerate(machines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for machine in machines:
        machine.close()


# The same each time.
def deterministic(folder: Path, harts: int) -> tuple[RiscvVirt, list[tuple[int, bytes]]]:
    """A machine with timers on each hart, and what it says, with the instruction it says it at."""
    busy = "work: addi s1, s1, 1\nsd s1, 24(s0)\nj work"
    idle = "work: wfi\naddi s1, s1, 1\nsd s1, 24(s0)\nj work"
    start = call(HSM, 0, 1, SECOND, 0) if harts > 1 else ""
    first = start + ticking(COUNTS, busy)
    made = board(folder, first, ticking(COUNTS + PAGE, idle), harts=harts, deterministic=True)
    said: list[tuple[int, bytes]] = []
    made.uart.tx = lambda data: said.append((made.states.here.instructions, data))
    return made, said


@pytest.mark.parametrize("harts", [1, 2])
def test_the_same_each_time(tmp_path: Path, harts: int) -> None:
    found = []
    for number in range(3):
        machine, said = deterministic(tmp_path, harts)
        with machine:
            if number == 2:  # paused at times that are not the same
                running = Running(machine, instructions=3_000_000)
                for _ in range(20):
                    try:
                        machine.pause()
                        machine.snapshot()
                        machine.resume()
                    except StateError:
                        break
                assert running.reason() == "instructions"
            else:
                assert machine.run(instructions=3_000_000).reason == "instructions"
            machine.feed(b"input")
            machine.run(instructions=200_000)
            found.append((digest(machine), said))
            assert sum(len(data) for _, data in said) > 200
            assert machine.uart.rx == b"input"
    assert found[0] == found[1] == found[2]


def test_what_follows_a_snapshot_is_the_same_each_time(tmp_path: Path) -> None:
    machine, said = deterministic(tmp_path, 2)
    with machine:
        machine.run(instructions=500_000)
        machine.snapshot().save(tmp_path / "warm")
        found = []
        for _ in range(3):
            said.clear()
            machine.run(instructions=700_000)
            found.append((digest(machine), list(said)))
            machine.restore(tmp_path / "warm")
        assert found[0] == found[1] == found[2]
        assert found[0][1]


def test_time_is_skipped_where_all_wait(tmp_path: Path) -> None:
    """An hour of guest time, at once."""
    code = """
        li t0, 32
        csrrw zero, sie, t0
        csrrs t0, time, zero
        li t1, 36000000000
        add t0, t0, t1
        csrrw zero, stimecmp, t0
        wfi
    """
    with board(tmp_path, code + POWEROFF, deterministic=True) as machine:
        assert machine.run(seconds=60).reason == "poweroff"
        assert 36_000_000_000 <= machine.harts[0].clock < 36_001_000_000


def test_nothing_to_wait_for_but_input(tmp_path: Path) -> None:
    code = """
        li t6, 0x10000000
        li t5, 1
        sb t5, 1(t6)
    wait:
        lbu t0, 5(t6)
        andi t0, t0, 1
        beqz t0, wait2
        lbu t0, 0(t6)
    """
    code += POWEROFF + "wait2: wfi\nj wait\n"
    with board(tmp_path, code, deterministic=True) as machine:
        assert machine.run(seconds=0.2).reason == "seconds"
        running = Running(machine)
        machine.pause()
        machine.resume()
        machine.feed(b"x")
        assert running.reason() == "poweroff"
        assert machine.status == "stopped"


def test_the_rtc_of_a_deterministic_machine_is_its_own(tmp_path: Path) -> None:
    with board(tmp_path, FOREVER, deterministic=True) as machine:
        if not hasattr(machine, "rtc"):
            pytest.skip("this board has none")
        first = machine.rtc.now()
        assert first == 1_767_225_600 * 10**9
        machine.run(instructions=1_000_000)
        assert machine.rtc.now() - first >= 10_000_000


# Linux.
@pytest.fixture
def linux(guest: Callable[[str], Path]) -> dict[str, Path]:
    files = GUESTS["debian-riscv64"].paths(guest("debian-riscv64"))
    return dict(zip(("kernel", "initrd"), files, strict=True))


SHELL = "quiet console=ttyS0 -- echo rea''dy; read line; echo got $line; cat /proc/uptime"


def test_linux_goes_on_from_a_snapshot_many_times(linux: dict[str, Path], tmp_path: Path) -> None:
    """Two harts; the guest is asked for a line, and each time given another."""
    with RiscvVirt(**linux, append=SHELL, memory=256 << 20, harts=2) as machine:  # type: ignore[arg-type]
        assert machine.run(until=machine.uart.saw(b"ready"), seconds=SECONDS).reason == "until"
        warm = machine.snapshot()
        warm.save(tmp_path / "warm")
        assert 20 << 20 < warm.size < 200 << 20
        for word in (b"one", b"two"):
            out = bytearray()
            machine.uart.tx = out.extend
            machine.feed(word + b"\n")
            assert machine.run(seconds=SECONDS).reason == "poweroff"
            assert b"got " + word in out
            machine.restore(warm)
    loaded = Snapshot.load(tmp_path / "warm")
    with RiscvVirt(memory=256 << 20, harts=2, snapshot=loaded) as other:
        out = bytearray()
        other.uart.tx = out.extend
        other.feed(b"three\n")
        assert other.run(seconds=SECONDS).reason == "poweroff"
        assert b"got three" in out
        uptime = re.search(rb"(\d+)\.\d+ \d", bytes(out))
        assert uptime is not None
        assert int(uptime[1]) < SECONDS


def test_linux_boots_the_same_each_time(linux: dict[str, Path]) -> None:
    """To the shell: each byte of the console at the same instruction, and the same memory."""
    found = []
    for _ in range(2):
        said: list[tuple[int, bytes]] = []
        with RiscvVirt(
            **linux, append=SHELL, memory=128 << 20, deterministic=True  # type: ignore[arg-type]
        ) as machine:  # fmt: skip
            machine.uart.tx = lambda data: said.append((machine.harts[0].instructions, data))  # noqa: B023
            ready = machine.uart.saw(b"ready")
            assert machine.run(until=ready, seconds=SECONDS).reason == "until"
            found.append((digest(machine), said))
    assert sum(len(data) for _, data in found[0][1]) > 30
    assert found[0][1] == found[1][1]
    assert found[0][0] == found[1][0]


def boot(command: list[str], *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, "boot", *words], input=typed, capture_output=True, text=True,
        timeout=SECONDS + 20, check=False,
    )  # fmt: skip


def test_the_command_saves_and_goes_on(
    hartwood_command: list[str], linux: dict[str, Path], tmp_path: Path
) -> None:
    warm, stats = tmp_path / "warm", tmp_path / "stats"
    files = ["--kernel", str(linux["kernel"]), "--initrd", str(linux["initrd"])]
    words = ["--append", SHELL, "--memory", "128M", "--deterministic", "--until", "ready"]
    done = boot(hartwood_command, *files, *words, "--save-snapshot", str(warm))
    assert (done.returncode, done.stderr) == (0, "")
    assert "ready" in done.stdout
    words = ["--load-snapshot", str(warm), "--timeout", str(SECONDS), "--stats", str(stats)]
    done = boot(hartwood_command, *words, typed="again\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert "got again" in done.stdout
    assert json.loads(stats.read_text())["instructions"] > 0


def test_the_command_refuses_what_is_no_snapshot(
    hartwood_command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "bad").write_bytes(b"x" * 5000)
    for path in (tmp_path / "bad", tmp_path / "none"):
        done = boot(hartwood_command, "--load-snapshot", str(path))
        assert done.returncode == 2
        assert str(path) in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_command_saves_at_the_timeout(hartwood_command: list[str], tmp_path: Path) -> None:
    path, warm = kernel(tmp_path, FOREVER), tmp_path / "warm"
    words = ["--kernel", str(path), "--memory", "16M", "--timeout", "0.5"]
    done = boot(hartwood_command, *words, "--save-snapshot", str(warm))
    assert done.returncode == 1
    assert "not done after 0.5 s" in done.stderr
    assert Snapshot.load(warm).machine == "RiscvVirt"
    done = boot(hartwood_command, *words, "--save-snapshot", str(tmp_path / "no" / "where"))
    assert done.returncode == 2
    assert "cannot write a snapshot" in done.stderr


@pytest.mark.parametrize("where", ["file", "none"])
def test_a_key_saves(hartwood_command: list[str], tmp_path: Path, where: str) -> None:
    """Ctrl-A s, while the guest says more than a terminal takes."""
    code = put("go") + "again: " + put(".") + "j again\n"
    words = ["boot", "--kernel", str(kernel(tmp_path, code)), "--memory", "16M"]
    saved = ["--save-snapshot", str(tmp_path / "warm")] if where == "file" else []
    terminal = Terminal([*hartwood_command, *words, *saved])
    try:
        terminal.wait_for(b"go.")
        terminal.type(b"\x01s")
        terminal.wait_for(b"saved to" if saved else b"nowhere to save; start with --save-snapshot")
        terminal.type(b"\x01x")
        while terminal.process.poll() is None:
            terminal.drain()
        assert terminal.process.returncode == 0
    finally:
        terminal.close()
    if saved:
        with RiscvVirt(memory=MEMORY, snapshot=Snapshot.load(tmp_path / "warm")) as machine:
            assert machine.run(until=machine.uart.saw(b"...."), seconds=60).reason == "until"
