"""Memory that is given back, had at once, or had from a NUMA node; what mapping costs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from errno import EINVAL, ENOMEM
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.errors import MappingError
from hartwood.isa.riscv.system import SYSTEM
from hartwood.machine.bare import Machine
from hartwood.mem import hostmem
from hartwood.mem.bus import Bus
from hartwood.mem.ram import Ram

PAGE, MIB, AT, END = 4096, 1 << 20, 0x8000_0000, 0x1000
NODES = Path("/sys/devices/system/node/online")


@pytest.fixture
def bus() -> Iterator[Bus]:
    made = Bus(Ram(128 * MIB, 64))
    made.map(AT, 32 * MIB)
    made.map(AT + 32 * MIB, 32 * MIB)
    yield made
    made.ram.close()


def resident(bus: Bus, at: int, size: int) -> int:
    """Pages of guest memory that the host has memory for: present, in its own account of them
    (Documentation/admin-guide/mm/pagemap.rst, bit 63)."""
    host = bus.ram.host + bus.ram.find(at, size)
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        entries = memoryview(os.pread(file.fileno(), size // PAGE * 8, host // PAGE * 8)).cast("Q")
    return sum(entry >> 63 for entry in entries)


def test_what_is_given_back_takes_no_room_and_is_zero(bus: Bus) -> None:
    bus.write(AT, b"\5" * (64 * MIB))
    assert resident(bus, AT, 32 * MIB) == 32 * MIB // PAGE
    bus.give_back(AT + MIB, 62 * MIB)  # over two regions
    assert resident(bus, AT, 32 * MIB) == MIB // PAGE
    assert resident(bus, AT + 32 * MIB, 32 * MIB) == MIB // PAGE
    assert bus.read(AT + MIB - 1, 3) == b"\5\0\0"
    assert bus.read(AT + 63 * MIB - 2, 3) == b"\0\0\5"
    bus.write_u64(AT + 2 * MIB, 9)  # and is memory as before
    assert bus.read_u64(AT + 2 * MIB) == 9


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15), st.integers(1, 16)), max_size=12))
def test_snapshots_know_what_was_given_back(steps: list[tuple[bool, int, int]]) -> None:
    """Against a copy, with a snapshot after every other step."""
    ram = Ram(MIB, 64)
    ram.map(AT, 16 * PAGE)
    bus, model, kept = Bus(ram), bytearray(16 * PAGE), []
    for number, (giving, first, count) in enumerate(steps):
        size = min(count, 16 - first) * PAGE
        data = bytes(size) if giving else bytes([number + 1]) * size
        if giving:
            bus.give_back(AT + first * PAGE, size)
        else:
            bus.write(AT + first * PAGE, data)
        model[first * PAGE : first * PAGE + size] = data
        assert bus.read(AT, len(model)) == model
        if number % 2:
            kept.append((ram.snapshot(), bytes(model)))
    for version, data in kept:
        ram.restore(version)
        assert bus.read(AT, len(data)) == data
    ram.close()


def test_what_cannot_be_given_back_or_placed(bus: Bus) -> None:
    bus.write(AT, b"\5" * PAGE)
    for at, size, errno in (
        (AT + 1, PAGE, EINVAL), (AT, 100, EINVAL), (AT, 0, EINVAL), (-PAGE, PAGE, EINVAL),
        (AT - PAGE, 2 * PAGE, ENOMEM), (AT + 63 * MIB, 2 * MIB, ENOMEM), (0, PAGE, ENOMEM),
    ):  # fmt: skip
        for call in (bus.give_back, bus.place, lambda at, size: bus.place(at, size, [0], True)):
            with pytest.raises(MappingError) as caught:
                call(at, size)
            assert caught.value.errno == errno
    assert bus.read(AT, PAGE) == b"\5" * PAGE
    bus.give_back(AT, PAGE)  # nothing that was refused holds it up
    bus.ram.close()
    with pytest.raises(MappingError):
        bus.give_back(AT, PAGE)


@pytest.mark.parametrize("mode", ["interp", "stitch", "reference"])
def test_code_that_was_given_back_is_forgotten(mode: str) -> None:
    cpu = Machine("riscv64", mode=mode, deterministic=True)
    cpu.mem.map(AT, MIB)
    cpu.mem.map_io(END, PAGE, lambda *_: 0, lambda *_: cpu.request_stop())
    cpu.mem.write(AT, SYSTEM.assemble("lui t6, 1; sw zero, 0(t6); stay: j stay"))
    cpu.mem.write(AT + PAGE, SYSTEM.assemble("li a0, 7; ret"))
    source = "li s0, 3; loop: jalr ra, 0(a1); addi s0, s0, -1; bnez s0, loop"
    cpu.mem.write(AT + 2 * PAGE, SYSTEM.assemble(source + "; lui t6, 1; sw zero, 0(t6); s: j s"))
    cpu.mtvec = AT
    for gone in (False, True):
        cpu.pc, cpu.a0, cpu.a1, cpu.mcause = AT + 2 * PAGE, 0, AT + PAGE, 0
        assert cpu.run(seconds=60).reason == "stopped"
        # A word of zeros is an illegal instruction (Unpriv. 1.5).
        assert (cpu.a0, cpu.mcause, cpu.mepc) == ((0, 2, AT + PAGE) if gone else (7, 0, 0))
        cpu.mem.give_back(AT + PAGE, PAGE)
    cpu.close()


def test_a_guest_runs_meanwhile() -> None:
    """Its page comes and goes under it; what it stores is there or zero, and it never traps."""
    cpu = Machine("riscv64", mode="interp")
    cpu.mem.map(AT, 16 * PAGE)
    source = "loop: addi a0, a0, 1; sd a0, 0(a1); ld a2, 8(a1); or a3, a3, a2; j loop"
    cpu.mem.write(AT, SYSTEM.assemble(source))
    cpu.pc, cpu.a1, cpu.mtvec = AT, AT + PAGE, AT + 8 * PAGE
    thread = threading.Thread(target=cpu.run)
    thread.start()
    for _ in range(200):
        cpu.mem.give_back(AT + PAGE, PAGE)
        cpu.mem.read_u64(AT + PAGE)
    cpu.stop()
    thread.join()
    assert (cpu.a3, cpu.mcause) == (0, 0)
    assert cpu.a0 > 0
    cpu.close()


def test_memory_that_is_had_at_once(bus: Bus) -> None:
    bus.write(AT + MIB, b"here")
    assert resident(bus, AT, 32 * MIB) < 32 * MIB // PAGE
    bus.place(AT, 32 * MIB, now=True)
    assert resident(bus, AT, 32 * MIB) == 32 * MIB // PAGE
    assert bus.read(AT + MIB, 4) == b"here"
    assert resident(bus, AT + 32 * MIB, 32 * MIB) == 0


def policies(bus: Bus) -> list[str]:
    """What the host says about the mappings of guest memory (proc(5), numa_maps)."""
    start, end = bus.ram.host, bus.ram.host + bus.ram.capacity
    lines = Path("/proc/self/numa_maps").read_text().splitlines()
    return [line.split()[1] for line in lines if start <= int(line.split()[0], 16) < end]


@pytest.mark.skipif(not NODES.exists(), reason="this host's kernel has no NUMA")
def test_memory_of_a_node(bus: Bus) -> None:
    bus.place(AT + MIB, MIB, nodes=[0], now=True)
    assert policies(bus) == ["default", "bind:0", "default"]
    assert resident(bus, AT + MIB, MIB) == MIB // PAGE
    with pytest.raises(MappingError, match="NUMA"):
        bus.place(AT, MIB, nodes=[1023])
    for nodes in ([-1], [1024]):
        with pytest.raises(MappingError) as caught:
            bus.place(AT, MIB, nodes=nodes)
        assert caught.value.errno == EINVAL


def test_several_nodes_take_turns(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """As mbind(2) wants to be told: MPOL_INTERLEAVE is 3, a bit for each node."""
    asked: list[tuple[int, ...]] = []

    def call(*arguments: int) -> int:
        asked.append((*arguments[2:4], *hostmem.view(arguments[4], 2).tolist()))
        return 0

    monkeypatch.setattr(hostmem, "syscall", call)
    bus.place(AT, 64 * MIB, nodes=iter([9, 1, 1]))  # two regions
    assert asked == [(32 * MIB, 3, 2, 2)] * 2
    bus.place(AT, MIB, nodes=[9])
    assert asked[2:] == [(MIB, 2, 0, 2)]


MAPPING = """
import os
from hartwood.mem.bus import Bus
from hartwood.mem.ram import Ram
os.access("/before", 0)
bus = Bus(Ram(1 << 30, 64))
os.access("/between", 0)
for number in range(64):
    bus.map(number << 32, 1 << 20, readonly=number % 2 == 1)
os.access("/after", 0)
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace: scripts/oracles.sh installs it")
def test_a_machine_of_64_regions_is_mapped_in_a_few_calls_to_the_host(tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ["strace", "-f", "-o", str(log), sys.executable, "-X", "faulthandler", "-c", MAPPING]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    names = [re.sub(r"^\d+ +", "", line) for line in log.read_text().splitlines()]
    marks = [at for at, line in enumerate(names) if re.match(r'f?access(at2?)?\(.*"/(be|af)', line)]
    assert len(marks) == 3
    before, between, after = marks
    made = [line.partition("(")[0] for line in names[before + 1 : between]]
    # The memory, cut to whole huge pages, their advice, flags, records, the table.
    assert len(made) <= 10, made
    assert made.count("mmap") <= 6
    mapped = [
        line for line in names[between + 1 : after] if not line.startswith(("brk", "mmap(NULL"))
    ]
    assert mapped == [], "a region is bookkeeping; what is left is Python's own heap"
