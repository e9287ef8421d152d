"""Registers that generated code serves by itself: what a guest and the world outside see is the
same as if the device were called each time, and, for what QEMU has too, as it is there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hartwood.board import RiscvVirt
from hartwood.errors import MappingError
from hartwood.machine.bare import Machine, Processor
from hartwood.machine.sysreference import SYSTEM
from hartwood.mem import posted
from hartwood.mem.bus import Bus
from hartwood.mem.posted import ASK, LOWERS, PUT, RING, ROOM, SHOWN, STORES, Posted
from hartwood.mem.regiontable import WINDOWS, WINDOWS_AT, RegionTable
from unit.small_guests import CONSOLE, POWEROFF, call, put
from unit.small_guests import kernel as small_kernel

BASE, SEEN, PLIC, UART = 0x8000_0000, 0x8010_0000, 0xC00_0000, 0x1000_0000
CLAIM, ENABLE = PLIC + 0x20_0004, PLIC + 0x2000
OFF = "li t0, 0x100000\nli t1, 0x5555\nsw t1, 0(t0)\nstays: j stays\n"
LOADS, STORES_OF = {1: "lbu", 2: "lhu", 4: "lwu", 8: "ld"}, {1: "sb", 2: "sh", 4: "sw", 8: "sd"}
ENGINES = ("interp", "jit")


# The window itself.
def store(window: Posted, data: bytes) -> None:
    """What generated code does with bytes that it may leave."""
    for byte in data:
        window._ring[window._words[PUT] % ROOM] = byte
        window._words[PUT] += 1


def test_a_window_that_was_made_serves_nothing() -> None:
    window = Posted(0x1000)
    assert window._words[STORES] == window._words[LOWERS] == ASK
    assert set(window._words[SHOWN : SHOWN + posted.REGISTERS]) == {ASK}
    assert not window.waiting
    assert not window.raised
    assert window.take() == b""


def test_what_waits_is_taken_in_order_and_once_around_the_ring() -> None:
    window, random, expected = Posted(0), Random(1), bytearray()
    for size in [1, ROOM, 0, ROOM - 1, *(random.randrange(ROOM + 1) for _ in range(50))]:
        data = random.randbytes(size)
        store(window, data)
        assert window.waiting == bool(size)
        assert window.take() == data
        assert window.take() == b""
        expected += data
    assert window._words[PUT] == len(expected)
    assert len(window._memory.view) == RING + ROOM


def test_a_window_is_closed_at_once() -> None:
    window = Posted(0)
    window.accept(3)
    window.lower(2, 7, 8)
    window.show(5, 0x60)
    window.raised = True
    window.close()
    assert window._words[STORES] == window._words[LOWERS] == ASK
    assert window._words[SHOWN + 5] == 0x60
    assert window.raised


def test_there_are_only_so_many() -> None:
    table = RegionTable()
    for number in range(WINDOWS - 1):
        table.add_window(0x1000 + number)
    with pytest.raises(MappingError, match="add_window"):
        table.add_window(1)
    assert table._words[WINDOWS_AT // 8 + WINDOWS - 1] == 0
    table.close()


# What a guest sees, against the same guest with every access a call.
def load(at: int, width: int) -> str:
    """Load a register and note what it gave at s0."""
    return f"li t0, {at}\n{LOADS[width]} t1, 0(t0)\nsd t1, 0(s0)\naddi s0, s0, 8\n"


def write(at: int, value: int, width: int) -> str:
    return f"li t0, {at}\nli t1, {value}\n{STORES_OF[width]} t1, 0(t0)\n"


def pending() -> str:
    return "csrr t1, mip\nsd t1, 0(s0)\naddi s0, s0, 8\n"


def access(random: Random) -> str:
    """Anything that a driver does to port or controller, and more."""
    kind, at = random.random(), random.randrange(8)
    if kind < 0.3:
        return write(UART, random.getrandbits(8), 1)
    if kind < 0.5:
        return load(UART + random.choice([2, 2, 5, 6, 0, at]), 1)
    if kind < 0.65:
        return pending() + write(UART + 1, random.choice([0, 1, 2, 3, 3]), 1)
    if kind < 0.8:
        return load(CLAIM, 4) if random.random() < 0.5 else write(CLAIM, 10, 4)
    width = random.choice([1, 1, 1, 2, 4, 8])
    at -= at % width
    if kind < 0.9:
        return write(UART + at, random.choice([0, 3, 3, 7, 0x13, 0x80, 0xFF]), width)
    if kind < 0.95:
        return load(UART + at, width)
    return random.choice(
        [
            write(ENABLE, random.choice([0, 1 << 10]), 4), write(PLIC + 40, 1, 4),
            load(PLIC + 0x1000, 4), write(CLAIM - 4, random.choice([0, 0, 1]), 4),
            load(CLAIM, random.choice([1, 8])) if CLAIM % 8 == 0 else load(CLAIM, 2),
            write(UART + 3, 3, 1), write(UART + 4, 0, 1), load(CLAIM - 4, 4),
        ]
    )  # fmt: skip


START = f"li s0, {SEEN}\n" + write(PLIC + 40, 1, 4) + write(ENABLE, 1 << 10, 4)


def firmware(folder: Path, code: str) -> Path:
    path = folder / "firmware.bin"
    path.write_bytes(SYSTEM.assemble(code, BASE))
    return path


Result = tuple[bytes, bytes, dict[str, Any], dict[str, Any]]


def run(path: Path, engine: str, *, native: bool = True, typed: bytes = b"") -> Result:
    """What was sent, what was seen, and what both devices then are."""
    with RiscvVirt(bios=path, memory=32 << 20, engine=engine, deterministic=True) as board:
        if not native:
            board.bus.ram.table._words[WINDOWS_AT // 8] = 0
        out = bytearray()
        board.uart.tx = out.extend
        board.uart.feed(typed)
        assert board.run(seconds=60).reason == "poweroff"
        seen = board.bus.ram.read(SEEN, 0x8000)
        return bytes(out), seen, board.uart.save(), board.plic.save()


@pytest.mark.parametrize("seed", range(12))
def test_random_traffic_is_what_calls_make_of_it(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    code = START + "".join(access(random) for _ in range(400)) + OFF
    path, typed = firmware(tmp_path, code), random.randbytes(random.choice([0, 0, 3, 300]))
    expected = run(path, "interp", native=False, typed=typed)
    assert expected[1].strip(b"\0")
    for engine in ENGINES:
        assert run(path, engine, typed=typed) == expected


def counting(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Accesses that are calls, from now on."""
    calls: list[tuple[str, int]] = []
    loads, stores = Bus.load, Bus.store

    def counted_load(bus: Bus, at: int, size: int) -> int:
        calls.append(("load", at))
        return loads(bus, at, size)

    def counted_store(bus: Bus, at: int, size: int, value: int) -> None:
        calls.append(("store", at))
        stores(bus, at, size, value)

    monkeypatch.setattr(Bus, "load", counted_load)
    monkeypatch.setattr(Bus, "store", counted_store)
    return calls


#: Says `count` bytes, waiting for the transmitter before each, as early consoles do.
POLLS = f"""
li s1, {UART}
li s2, COUNT
next: lbu t0, 5(s1)
andi t0, t0, 32
beq t0, zero, next
andi t1, s2, 63
addi t1, t1, 32
sb t1, 0(s1)
addi s2, s2, -1
bne s2, zero, next
"""


def polled(count: int) -> bytes:
    return bytes((left & 63) + 32 for left in range(count, 0, -1))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_guest_that_polls_calls_once_for_a_ring(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than there is room for, so that it has to be emptied on the way."""
    calls, count = counting(monkeypatch), 3 * ROOM + 5
    path = firmware(tmp_path, POLLS.replace("COUNT", str(count)) + OFF)
    assert run(path, engine)[0] == polled(count)
    assert len(calls) <= 2 + count // ROOM


#: Sends TEXT bytes at LETTERS from the interrupts of the transmitter, sixteen for each, then says
#: how often it was interrupted in vain.
DRIVER = f"""
li t0, {BASE + 0x400}
csrw mtvec, t0
li s1, {UART}
li s2, {SEEN}
li s3, TEXT
add s3, s3, s2
li s4, {CLAIM}
li t0, 2048
csrw mie, t0
li t0, 7
sb t0, 2(s1)
li t0, 2
sb t0, 1(s1)
csrsi mstatus, 8
waits: bne s2, s3, waits
csrci mstatus, 8
"""
HANDLER = """
again: lwu s5, 0(s4)
beq s5, zero, over
more: lbu t0, 2(s1)
andi t1, t0, 1
bne t1, zero, done
lbu t0, 5(s1)
lbu t0, 6(s1)
li t2, 16
one: beq s2, s3, quiet
lbu t1, 0(s2)
sb t1, 0(s1)
addi s2, s2, 1
addi t2, t2, -1
bne t2, zero, one
j more
quiet: sb zero, 1(s1)
j more
done: sw s5, 0(s4)
j again
over: mret
"""


def driver(folder: Path, text: bytes) -> Path:
    """A driver of interrupts with what it is to send."""
    start = write(PLIC + 40, 1, 4) + write(ENABLE, 1 << 10, 4)
    code = SYSTEM.assemble(start + DRIVER.replace("TEXT", str(len(text))) + OFF, BASE)
    image = code.ljust(0x400, b"\0") + SYSTEM.assemble(HANDLER, BASE + 0x400)
    path = folder / "firmware.bin"
    path.write_bytes(image.ljust(SEEN - BASE, b"\0") + text)
    return path


@pytest.mark.parametrize("size", [1, 16, 17, 5000])
def test_a_driver_by_interrupts_says_what_it_says_under_qemu(
    tmp_path: Path, oracle: Callable[[str], str], size: int
) -> None:
    text = Random(size).randbytes(size)
    path = driver(tmp_path, text)
    qemu = [oracle("qemu-system-riscv64"), "-M", "virt", "-m", "32", "-bios", str(path)]
    qemu += ["-display", "none", "-serial", "stdio", "-monitor", "none"]
    done = subprocess.run(
        qemu, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True
    )
    assert done.stdout == text
    for engine in ENGINES:
        assert run(path, engine)[0] == text


def test_a_driver_by_interrupts_calls_a_few_times_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(monkeypatch)
    text = bytes(range(256)) * 4
    assert run(driver(tmp_path, text), "interp")[0] == text
    assert len([at for _, at in calls if at == UART]) == 0
    assert len(calls) < 20


# What the world outside sees.
def test_output_is_there_when_a_guest_waits(tmp_path: Path) -> None:
    """A prompt has no end of line, and nothing happens after it."""
    path = firmware(tmp_path, put("ready> ") + "waits: wfi\nj waits\n")
    with RiscvVirt(bios=path, memory=32 << 20) as board:
        out = bytearray()

        def tx(data: bytes) -> None:
            out.extend(data)
            if bytes(out) == b"ready> ":
                board.request_stop()

        board.uart.tx = tx
        assert board.run(seconds=60).reason == "stopped"


def test_output_is_there_while_a_guest_computes(tmp_path: Path) -> None:
    path = firmware(tmp_path, put("computing") + "spins: j spins\n")
    with RiscvVirt(bios=path, memory=32 << 20) as board:
        out = bytearray()
        board.uart.tx = out.extend
        assert board.run(until=board.uart.saw(b"computing"), seconds=60).reason == "until"
        assert bytes(out) == b"computing"


def test_output_is_there_when_a_machine_stands(tmp_path: Path) -> None:
    """After a count of instructions, whether it is in the middle of something or not."""
    path = firmware(tmp_path, POLLS.replace("COUNT", "5000") + OFF)
    with RiscvVirt(bios=path, memory=32 << 20, deterministic=True) as board:
        out = bytearray()
        board.uart.tx = out.extend
        for count in range(1, 4000, 400):
            board.run(instructions=count)
            assert board.uart.posted is not None
            assert not board.uart.posted.waiting
            assert polled(5000).startswith(bytes(out))
        assert 300 < len(out) < 5000


#: Harts take turns at saying the next letter of the alphabet, under a lock.
TURNS = f"""
li s0, {SEEN}
li s1, {UART}
li s4, 600
next: li t0, 1
amoswap.w.aq t0, t0, (s0)
bne t0, zero, next
lwu t1, 8(s0)
addi t2, t1, 97
lbu t3, 5(s1)
sb t2, 0(s1)
addi t1, t1, 1
li t3, 26
bne t1, t3, fine
li t1, 0
fine: sw t1, 8(s0)
amoswap.w.rl zero, zero, (s0)
li t0, 20
pause: addi t0, t0, -1
bne t0, zero, pause
addi s4, s4, -1
bne s4, zero, next
"""
ALL = """
li t0, 1
addi s2, s0, 16
amoadd.w t1, t0, (s2)
li t0, 3
bne t1, t0, sleeps
"""


@pytest.mark.parametrize("deterministic", [False, True])
def test_what_several_harts_say_stays_in_order(tmp_path: Path, deterministic: bool) -> None:
    code = TURNS + ALL + OFF + "sleeps: wfi\nj sleeps\n"
    path = firmware(tmp_path, code)
    with RiscvVirt(bios=path, memory=32 << 20, harts=4, deterministic=deterministic) as board:
        out = bytearray()
        board.uart.tx = out.extend
        assert board.run(seconds=100).reason == "poweroff"
        assert bytes(out) == bytes(97 + n % 26 for n in range(4 * 600))


def test_port_and_firmware_say_things_in_order(tmp_path: Path) -> None:
    """What is stored to the port goes before what the firmware is asked to say after it."""
    code = put("one ") + call(1, 0, ord("&")) + put(" two ") + call(CONSOLE, 2, ord("!"))
    path = small_kernel(tmp_path, code + put("three") + POWEROFF)
    with RiscvVirt(kernel=path, memory=16 << 20) as board:
        out = bytearray()
        board.uart.tx = out.extend
        assert board.run(seconds=60).reason == "poweroff"
        assert bytes(out) == b"one & two !three"


def test_the_firmware_says_a_buffer_at_once(tmp_path: Path) -> None:
    path = small_kernel(tmp_path, call(CONSOLE, 0, 64, 0x8020_0000, 0) + POWEROFF)
    with RiscvVirt(kernel=path, memory=16 << 20) as board:
        pieces: list[bytes] = []
        board.uart.tx = pieces.append
        assert board.run(seconds=60).reason == "poweroff"
        assert pieces == [path.read_bytes()[:64]]


def test_a_snapshot_goes_on_in_the_middle(tmp_path: Path) -> None:
    """What a machine has still to say after a snapshot is what one says that begins with it: the
    transmitter's interrupt is in it, though nobody in Python has seen it last."""
    text = Random(5).randbytes(2000)
    path, saved = driver(tmp_path, text), tmp_path / "saved"
    for count in (300, 1501, 5003, 9001):
        with RiscvVirt(bios=path, memory=32 << 20, deterministic=True) as board:
            out = bytearray()
            board.uart.tx = out.extend
            board.run(instructions=count)
            board.snapshot().save(saved)
            said = bytes(out)
            assert board.run(seconds=60).reason == "poweroff"
            assert bytes(out) == text
            board.restore(saved)
            assert board.run(seconds=60).reason == "poweroff"
            assert bytes(out) == text + text[len(said) :]
        with RiscvVirt(memory=32 << 20, bios=path, deterministic=True) as other:
            other.restore(saved)
            rest = bytearray()
            other.uart.tx = rest.extend
            assert other.run(seconds=60).reason == "poweroff"
            assert said + bytes(rest) == text


def test_a_reset_begins_with_a_port_that_is_fresh(tmp_path: Path) -> None:
    code = write(UART + 3, 0x80, 1) + "lbu t0, 1(t0)\n"
    reset = "li t0, 0x100000\nli t1, 0x7777\nsw t1, 0(t0)\nstays: j stays\n"
    path = firmware(tmp_path, put("x") + code + reset)
    with RiscvVirt(bios=path, memory=32 << 20) as board:
        out = bytearray()
        board.uart.tx = out.extend
        assert board.run(seconds=60).reason == "reset loop"
        assert bytes(out) == b"xxx"


# The page of a device that a hart remembers.
class Talker:
    """Answers loads with its number; notes what was stored."""

    def __init__(self, bus: Bus, at: int, number: int) -> None:
        self.number, self.stored = number, list[int]()
        bus.map_io(at, 0x1000, lambda offset, width: self.number, self._write)

    def _write(self, offset: int, width: int, value: int) -> None:
        self.stored.append(value)


def machine(code: str, mode: str) -> Machine:
    made = Machine("riscv64", mode=mode)
    made.mem.map(0, 0x10000)
    image = SYSTEM.assemble(code, 0)
    made.mem[0 : len(image)] = image
    return made


def step(cpu: Processor, count: int) -> None:
    for _ in range(count):
        cpu.step()


@pytest.mark.parametrize("mode", ["interp", "stitch"])
def test_memory_in_place_of_nothing_is_found(mode: str) -> None:
    """Where nothing was, a hart has asked Python: it may not go on asking."""
    loads = "li t0, 0x20000\nloop: lwu a0, 0(t0)\nsw a1, 8(t0)\nj loop\n"
    cpu = machine("li t0, 0x30000\nlwu a0, 0(t0)\n" + loads, mode)
    Talker(cpu.mem, 0x30000, 5)
    cpu.mtvec = 0x8000
    cpu.run(instructions=3)
    assert cpu.a0 == 5
    step(cpu, 1)
    assert (cpu.pc, cpu.mcause) == (0x8000, 5)
    cpu.mem.map(0x20000, 0x1000)
    cpu.mem[0x20000:0x20004] = b"\x2a\0\0\0"
    cpu.pc = cpu.mepc
    cpu.a1 = 77
    step(cpu, 2)
    assert cpu.a0 == 42
    assert bytes(cpu.mem[0x20008:0x2000C]) == b"\x4d\0\0\0"


@pytest.mark.parametrize("mode", ["interp", "stitch"])
def test_pages_of_devices_are_remembered_by_context(mode: str) -> None:
    """S may read the page, U may not, whichever came before; a store is looked up for itself; and
    SFENCE.VMA forgets."""
    # Tables at 0x4000: one page of 1 GiB for code, and 4 KiB at 0x40000000 for the device.
    cpu = machine("lwu a0, 0(t0)\nsw a1, 0(t0)\nsfence.vma t0, zero\n", mode)
    first, second = Talker(cpu.mem, 0x30000, 1), Talker(cpu.mem, 0x31000, 2)

    def entry(at: int, value: int) -> None:
        cpu.mem[at : at + 8] = value.to_bytes(8, "little")

    entry(0x4000 + 8, 0x5000 >> 2 | 1)
    entry(0x5000, 0x6000 >> 2 | 1)
    entry(0x6000, 0x30000 >> 2 | 0x43)  # V R A
    cpu.mtvec, cpu.satp = 0x8000, 8 << 60 | 4
    cpu.pmpcfg0, cpu.pmpaddr0 = 0x1F, (1 << 54) - 1
    modes = {"S": 1 << 17 | 1 << 11, "U": 1 << 17}
    cpu.t0, cpu.a1 = 0x4000_0000, 9

    def at(pc: int, mode_of: str) -> int:
        """The cause, 0 for none, of one instruction with MPRV and this MPP."""
        cpu.mcause = 0
        cpu.mstatus, cpu.pc = modes[mode_of], pc
        step(cpu, 1)
        return cpu.mcause

    for _ in range(2):
        assert at(0, "S") == 0
        assert cpu.a0 == 1
        assert at(0, "U") == 13
        assert at(4, "S") == 15  # no right to write, and D is not set
    entry(0x6000, 0x30000 >> 2 | 0xC7)
    assert at(4, "S") in (0, 15)
    assert at(8, "S") == 0
    assert at(4, "S") == 0
    assert first.stored[-1] == 9
    entry(0x6000, 0x31000 >> 2 | 0xC7)
    assert at(8, "S") == 0
    assert at(4, "S") == 0
    assert second.stored == [9]
    assert at(0, "S") == 0
    assert cpu.a0 == 2
