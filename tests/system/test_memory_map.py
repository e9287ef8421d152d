"""Read-only memory, aliases, and maps that change under a hart, in every mode of running."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from hartwood.errors import MappingError
from hartwood.isa.riscv.system import SYSTEM
from hartwood.machine.bare import Machine, new_bus
from hartwood.machine.processor import Processor

RAM, PAGE = 0x8000_0000, 4096
CODE, HANDLER, DATA, ROM, OTHER = RAM, RAM + PAGE, RAM + 2 * PAGE, RAM + 3 * PAGE, 0x4000_0000
END = 0x1000
MODES = ("interp", "stitch", "reference")
STOP = f"lui t6, {END >> 12}\nsw zero, 0(t6)\nstay: j stay\n"


class Bench:
    """A machine whose memory is code, a handler that stops, data, and a page that is read-only; a
    store to `END` stops as well, one to `END` + 8 calls `asked`."""

    def __init__(self, mode: str) -> None:
        self.cpu = cpu = Machine("riscv64", mode=mode, deterministic=True)
        self.mem = cpu.mem
        cpu.mem.map(RAM, 3 * PAGE)
        cpu.mem.map(ROM, PAGE, readonly=True)
        cpu.mem.map_io(END, PAGE, lambda at, size: 0, self._write)
        self.asked = lambda: None
        self.load(HANDLER, STOP)
        cpu.mtvec = HANDLER
        cpu.menvcfg = 0xF0

    def _write(self, at: int, size: int, value: int) -> None:
        if at:
            self.asked()
        else:
            self.cpu.request_stop()

    def load(self, at: int, source: str) -> None:
        self.mem.write(at, SYSTEM.assemble(source, at))

    def run(self, source: str, at: int = CODE, **registers: int) -> tuple[int, int]:
        """Run to the end; the cause and address of the exception, or zeros."""
        self.load(at, source + "\n" + STOP)
        self.cpu.pc, self.cpu.mcause, self.cpu.mtval = at, 0, 0
        for name, value in registers.items():
            setattr(self.cpu, name, value)
        assert self.cpu.run(seconds=60).reason == "stopped"
        return self.cpu.mcause, self.cpu.mtval


@pytest.fixture(params=MODES)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    made.cpu.close()


STORES = ("sb a1, 0(a0)", "sh a1, 0(a0)", "sw a1, 0(a0)", "sd a1, 0(a0)", "amoadd.w a2, a1, (a0)",
          "amoswap.d a2, a1, (a0)", "lr.d a2, (a0)\nsc.d a3, a1, (a0)", "fsd fa0, 0(a0)",
          "cbo.zero (a0)")  # fmt: skip


@pytest.mark.parametrize("store", STORES)
def test_no_store_changes_what_is_read_only(bench: Bench, store: str) -> None:
    """Cause 7 (Priv. 3.6: what memory does not allow is an access fault), and nothing happens."""
    bench.mem.write_u64(ROM + 64, 0x1122334455667788)
    bench.cpu.mstatus = 1 << 13
    assert bench.run(store, a0=ROM + 64, a1=5, a2=1) == (7, ROM + 64)
    assert bench.mem.read_u64(ROM + 64) == 0x1122334455667788
    assert bench.run(store, a0=DATA + 64, a1=5, a2=1) == (0, 0)


def test_read_only_memory_is_read_and_run(bench: Bench) -> None:
    assert bench.run("ld a1, 0(a0)\naddi a2, a1, 1", at=ROM, a0=ROM) == (0, 0)
    assert bench.cpu.a1 == bench.mem.read_u64(ROM)
    assert bench.run("lw a1, 0(a0)", a0=ROM) == (0, 0)


def test_a_store_across_the_edge_is_not_done_by_halves(bench: Bench) -> None:
    bench.mem.write_u64(ROM - 8, 0)
    cause, tval = bench.run("sd a1, 0(a0)", a0=ROM - 4, a1=(1 << 64) - 1)
    assert cause == 7
    assert tval in (ROM, ROM - 4)
    assert bench.mem.read_u64(ROM - 8) == 0


def test_accessed_bits_are_not_written_to_read_only_memory(bench: Bench) -> None:
    """A page table of one level that counts: a gigabyte at zero, Sv39, U-mode."""
    for table, cause in ((ROM, 13 - 8), (DATA, 0)):
        bench.mem.fill(table, PAGE, 0)
        bench.mem.write_u64(table + 16, (RAM >> 12) << 10 | 0x07)  # V, R, W, at RAM itself
        bench.cpu.pmpaddr0, bench.cpu.pmpcfg0 = (1 << 54) - 1, 0x1F
        bench.cpu.menvcfg = 1 << 61  # ADUE
        bench.cpu.satp = 8 << 60 | table >> 12
        bench.cpu.mstatus = 1 << 17  # MPRV with MPP = U would need U pages; MPP = S:
        bench.cpu.mstatus = 1 << 17 | 1 << 11
        # The end is no page of this table, so the handler stops: MPRV goes first.
        source = "ld a1, 0(a0)\nlui t0, 0x20\ncsrrc zero, mstatus, t0"
        bench.load(HANDLER, "lui t0, 0x20\ncsrrc zero, mstatus, t0\n" + STOP)
        assert bench.run(source, a0=RAM) == (cause, RAM if cause else 0)
        assert bench.mem.read_u64(table + 16) >> 6 & 1 == (0 if cause else 1)


def test_rights_change_under_a_hart(bench: Bench) -> None:
    """The hart has the page in its TLB when the store to a device takes the right away."""
    source = "sd a1, 0(a0)\nlui t5, 1\nsw zero, 8(t5)\nsd a2, 0(a0)"
    bench.asked = partial(bench.mem.protect, DATA, PAGE, True)
    assert bench.run(source, a0=DATA, a1=1, a2=2) == (7, DATA)
    assert bench.mem.read_u64(DATA) == 1
    bench.asked = partial(bench.mem.protect, DATA, PAGE, False)
    assert bench.run("lui t5, 1\nsw zero, 8(t5)\nsd a2, 0(a0)", a0=DATA, a2=3) == (0, 0)
    assert bench.mem.read_u64(DATA) == 3


def test_memory_goes_and_comes_under_a_hart(bench: Bench) -> None:
    source = "sd a1, 0(a0)\nld a2, 0(a0)\nlui t5, 1\nsw zero, 8(t5)\nld a3, 0(a0)"
    bench.asked = partial(bench.mem.unmap, DATA, PAGE)
    assert bench.run(source, a0=DATA, a1=7) == (5, DATA)
    assert bench.cpu.a2 == 7
    assert bench.run("jalr ra, 0(a0)", a0=DATA) == (1, DATA)
    bench.asked = partial(bench.mem.map, DATA, PAGE)
    assert bench.run("lui t5, 1\nsw zero, 8(t5)\nld a3, 0(a0)", a0=DATA, a3=5) == (0, 0)
    assert bench.cpu.a3 == 0  # what was there is gone


def test_code_is_not_run_from_what_was_there_before(bench: Bench) -> None:
    """The memory of an unmapped page is used again, and its decoded code is not."""
    assert bench.run("addi a1, a1, 1", at=DATA, a1=1) == (0, 0)
    bench.mem.unmap(DATA, PAGE)
    bench.mem.map(OTHER, PAGE)
    assert bench.mem.read(OTHER, PAGE) == bytes(PAGE)
    assert bench.run("addi a1, a1, 5", at=OTHER, a1=1) == (0, 0)
    assert bench.cpu.a1 == 6
    assert bench.run("nop", at=CODE) == (0, 0)
    bench.cpu.pc = DATA
    assert bench.cpu.run(seconds=60).reason == "stopped"
    assert (bench.cpu.mcause, bench.cpu.mepc) == (1, DATA)


def test_an_alias_is_the_same_memory(bench: Bench) -> None:
    bench.mem.alias(OTHER, DATA, PAGE)
    assert bench.run("sd a1, 8(a0)\nld a3, 8(a2)", a0=DATA, a1=77, a2=OTHER) == (0, 0)
    assert bench.cpu.a3 == bench.mem.read_u64(OTHER + 8) == 77
    bench.mem.unmap(DATA, PAGE)
    assert bench.run("ld a3, 8(a2)", a2=OTHER) == (0, 0)
    assert bench.cpu.a3 == 77


def test_a_read_only_alias_of_what_is_written(bench: Bench) -> None:
    bench.mem.alias(OTHER, DATA, PAGE, readonly=True)
    assert bench.run("sd a1, 0(a0)\nld a3, 0(a2)\nsd a1, 0(a2)", a0=DATA, a1=5, a2=OTHER) == (
        7,
        OTHER,
    )
    assert bench.cpu.a3 == 5


def test_code_that_is_changed_at_its_other_address(bench: Bench) -> None:
    """The hart runs what is at one address and stores to the other."""
    bench.mem.alias(OTHER, DATA, PAGE)
    word = int.from_bytes(SYSTEM.assemble("addi a1, a1, 16", DATA), "little")
    bench.load(DATA, "addi a1, a1, 1\njalr zero, 0(ra)")
    again = "jalr ra, 0(a0)\nsw a2, 0(a3)\nfence.i\njalr ra, 0(a0)"
    for called, written in ((DATA, OTHER), (OTHER, DATA)):
        bench.load(DATA, "addi a1, a1, 1\njalr zero, 0(ra)")
        assert bench.run(again, a0=called, a1=0, a2=word, a3=written) == (0, 0)
        assert bench.cpu.a1 == 17


def test_python_changes_code_through_an_alias(bench: Bench) -> None:
    bench.mem.alias(OTHER, DATA, PAGE)
    for step in (1, 2, 3):
        bench.mem.write_u32(
            OTHER, int.from_bytes(SYSTEM.assemble(f"addi a1, a1, {step}"), "little")
        )
        bench.load(OTHER + 4, "jalr zero, 0(ra)")
        assert bench.run("jalr ra, 0(a0)", a0=DATA, a1=0) == (0, 0)
        assert bench.cpu.a1 == step


def test_thousands_of_regions(bench: Bench) -> None:
    """Every one answers, in whatever order they came, and nothing between them does."""
    order, mem = list(range(3000)), bench.mem
    random.Random(7).shuffle(order)
    for number in order:
        mem.map(OTHER + number * 2 * PAGE, PAGE)
        mem.write_u64(OTHER + number * 2 * PAGE + 8, number + 1)
    total = (
        "loop: ld a3, 8(a0)\nadd a1, a1, a3\nadd a0, a0, a2\naddi a4, a4, -1\nbne a4, zero, loop"
    )
    assert bench.run(total, a0=OTHER, a1=0, a2=2 * PAGE, a4=3000) == (0, 0)
    assert bench.cpu.a1 == 3000 * 3001 // 2
    for hole in (OTHER + PAGE, OTHER + 2999 * 2 * PAGE + PAGE, OTHER - PAGE, RAM + 4 * PAGE):
        assert bench.run("ld a3, 0(a0)", a0=hole) == (5, hole)


def test_a_snapshot_holds_rights_and_parts(bench: Bench) -> None:
    warm = bench.cpu.snapshot()
    bench.mem.protect(DATA, PAGE, True)
    assert bench.run("sd a1, 0(a0)", a0=DATA) == (7, DATA)
    bench.cpu.stop()
    bench.cpu.restore(warm)
    assert bench.run("sd a1, 0(a0)", a0=DATA) == (0, 0)
    assert bench.run("sd a1, 0(a0)", a0=ROM) == (7, ROM)


@pytest.mark.parametrize("mode", ["interp", "stitch"])
def test_harts_on_threads_never_see_half_a_map(mode: str) -> None:
    """One hart reads at either end of a map that changes in the middle, and never faults; the
    other stores to a page that becomes read-only again and again: afterwards nothing changes."""
    bus = new_bus(64 << 20)
    bus.map(RAM, 2 * PAGE)
    bus.map(DATA, PAGE)
    bus.map(1 << 40, PAGE)
    for at, source in (
        (CODE, "loop: ld a3, 0(a0)\nld a3, 0(a2)\nsfence.vma zero, zero\nj loop"),
        (CODE + 64, "loop: addi a1, a1, 1\nsd a1, 8(a0)\nj loop"),
        (HANDLER, "ld a4, 0(a5)\nfail: addi a4, a4, 1\nsd a4, 0(a5)\ncsrrs a6, mepc, zero\nmret"),
    ):
        bus.write(at, SYSTEM.assemble(source, at))
    harts = [Processor(bus, number, mode=mode) for number in range(2)]
    for number, hart in enumerate(harts):
        hart.pc, hart.mtvec = CODE + 64 * number, HANDLER
        hart.a0, hart.a2, hart.a5 = DATA, 1 << 40, RAM + PAGE + 512 + 64 * number
    threads = [threading.Thread(target=hart.run) for hart in harts]
    for thread in threads:
        thread.start()
    rng, mapped = random.Random(3), set[int]()
    for step in range(150):
        for _ in range(20):
            number = rng.randrange(500)
            at = OTHER + number * PAGE
            if number in mapped:
                bus.unmap(at, PAGE) if rng.random() < 0.2 else bus.protect(at, PAGE, step & 1 == 1)
            else:
                bus.map(at, PAGE)
                mapped.add(number)
                continue
            if bus.ram.table.find(at) is None:
                mapped.discard(number)
        bus.protect(DATA, PAGE, True)
        before = bus.read_u64(DATA + 8)
        assert [bus.read_u64(DATA + 8) for _ in range(5)] == [before] * 5
        bus.protect(DATA, PAGE, False)
    for hart, thread in zip(harts, threads, strict=True):
        hart.request_stop()
        thread.join()
    assert bus.read_u64(harts[0].a5) == 0
    assert bus.read_u64(harts[1].a5) > 0
    bus.ram.close()


@pytest.mark.timeout(120)
def test_harts_that_change_the_map_at_once_do_not_wait_for_each_other() -> None:
    """Each asks a device to take its page away and give it back, from its own thread."""
    bus = new_bus(64 << 20)
    bus.map(RAM, PAGE)
    bus.map(OTHER, 2 * PAGE)
    counts = [0, 0]

    def write(at: int, size: int, value: int) -> None:
        number = at // 8
        bus.protect(OTHER + number * PAGE, PAGE, True)
        bus.protect(OTHER + number * PAGE, PAGE, False)
        counts[number] += 1
        if counts[number] == 100:
            harts[number].request_stop()

    bus.map_io(END, PAGE, lambda at, size: 0, write)
    bus.write(RAM, SYSTEM.assemble("loop: sd a0, 0(a0)\nj loop", RAM))
    harts = [Processor(bus, number, mode="interp") for number in range(2)]
    for number, hart in enumerate(harts):
        hart.pc, hart.a0 = RAM, END + 8 * number
    threads = [threading.Thread(target=hart.run) for hart in harts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(counts) >= 100
    bus.ram.close()


def test_devices_and_memory_keep_apart(bench: Bench) -> None:
    for call in (
        lambda: bench.mem.alias(END, RAM, PAGE), lambda: bench.mem.alias(RAM, RAM, PAGE),
        lambda: bench.mem.alias(OTHER, 1 << 40, PAGE), lambda: bench.mem.unmap(END, PAGE),
        lambda: bench.mem.alias(OTHER, RAM + 2 * PAGE, 2 * PAGE),
        lambda: bench.mem.protect(ROM, 2 * PAGE, True), lambda: bench.mem.protect(ROM, 1, True),
        lambda: bench.mem.map_io(ROM + 1, 1, lambda at, size: 0, lambda at, size, value: None),
    ):  # fmt: skip
        with pytest.raises(MappingError):
            call()
    bench.mem.unmap(ROM, PAGE)
    bench.mem.map_io(ROM, 8, lambda at, size: 5, lambda at, size, value: None)
    assert bench.run("ld a1, 0(a0)\nsd a1, 0(a0)", a0=ROM) == (0, 0)
    assert bench.cpu.a1 == 5
