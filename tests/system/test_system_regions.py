"""Compiled code of whole machines: what is worth it, where it comes from, when it goes."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hartwood.isa.riscv.system import SYSTEM
from hartwood.jit import sysregions
from hartwood.jit.client import WorkerError
from hartwood.jit.store import Store, page_key
from hartwood.jit.sysabi import RECORDS_PER_PAGE, SAMPLES, TLB_ENTRIES
from hartwood.jit.syslift import region_image
from hartwood.jit.sysregions import ROOM, Compiler, SystemRegions
from hartwood.machine.bare import Machine, new_bus
from hartwood.machine.processor import Processor

RAM, SIZE, PAGE = 0x8000_0000, 1 << 20, 4096
#: It counts in a0 for ever, with a call in each round.
LOOP = """
again: jal ra, add
j again
add: addi a0, a0, 1
ld a1, 0(sp)
addi a1, a1, 3
sd a1, 0(sp)
jalr zero, 0(ra)
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine("riscv64", mode="stitch")
    made.mem.map(RAM, SIZE)
    made.sp = RAM + 0x8000
    yield made
    made.close()


def regions_of(machine: Machine) -> SystemRegions:
    if machine._stitches is None:
        machine.translate(RAM + SIZE - PAGE)  # where nothing is
    assert machine._stitches is not None
    return machine._stitches.regions


def load(machine: Machine, source: str, at: int = RAM) -> bytes:
    code = SYSTEM.assemble(source, at)
    machine.mem[at : at + PAGE] = code.ljust(PAGE, b"\0")
    machine.pc = at
    return code


def is_linked(machine: Machine, at: int) -> bool:
    """Whether control that comes to a guest-physical address runs compiled code."""
    regions = regions_of(machine)
    record = (at - RAM) // PAGE * RECORDS_PER_PAGE + (at - RAM) % PAGE * 8
    return 0 <= regions._handlers[record >> 3] - regions._base < ROOM


def test_calls_stay_in_the_region(machine: Machine) -> None:
    load(machine, LOOP)
    machine.translate(RAM)
    assert machine.regions_installed == 1
    assert [is_linked(machine, RAM + at) for at in (0, 4, 8)] == [True, True, False]
    machine.run(instructions=70_000)
    assert machine.a0 in (10_000, 10_001)
    assert int.from_bytes(machine.mem[RAM + 0x8000 : RAM + 0x8008], "little") in (30_000, 30_003)
    assert machine.state.translated > 60_000


def test_a_store_takes_the_region_away(machine: Machine) -> None:
    load(machine, LOOP)
    machine.translate(RAM)
    assert is_linked(machine, RAM)
    machine.mem[RAM + 8 : RAM + 12] = SYSTEM.assemble("addi a0, a0, 7")
    assert [is_linked(machine, RAM + at) for at in (0, 4)] == [False, False]
    machine.pc, machine.a0 = RAM, 0
    machine.run(instructions=7000)
    assert machine.a0 in (7000, 7007)


def test_code_that_changed_meanwhile_is_not_linked(machine: Machine) -> None:
    """The worker's answer is to what the page held when it was asked."""
    load(machine, LOOP)
    regions, before = regions_of(machine), machine.regions_installed
    content = bytes(machine.mem[RAM : RAM + PAGE])
    image = region_image(content, [0])
    assert image is not None
    machine.mem[RAM + 12 : RAM + 16] = SYSTEM.assemble("ld a1, 8(sp)")
    state = machine._at
    regions._install(state, image, 0, content)
    assert machine.regions_installed == before
    assert not is_linked(machine, RAM)
    # What is beside it may change.
    machine.mem[RAM + 12 : RAM + 16] = SYSTEM.assemble("ld a1, 0(sp)")
    machine.mem[RAM + 0x800 : RAM + 0x808] = bytes(range(8))
    regions._install(state, image, 0, content)
    assert machine.regions_installed == before + 1


def test_what_runs_most_is_asked_for(machine: Machine, tmp_path: Path) -> None:
    """A ring of samples that the hart never saw, and a compiler that answers at once."""
    load(machine, LOOP)
    regions, asked = regions_of(machine), list[tuple[bytes, list[int]]]()

    class Now(Compiler):
        def ask(self, owner: SystemRegions, page: bytes, entries: list[int], key: str) -> int:
            asked.append((page, entries))
            image = region_image(page, entries)
            owner.answers.append((len(asked), image.dump() if image else b""))
            return len(asked)

        def poll(self) -> None:
            """All is there."""

    other = RAM + 3 * PAGE
    load(machine, LOOP, other)
    machine.run(instructions=1)
    regions._compiler = Now(Store(str(tmp_path / "code")))
    record = regions._records + 3 * RECORDS_PER_PAGE
    for number in range(sysregions.WORTH):
        assert not asked
        machine.state.samples[machine.state.sampled % SAMPLES] = record + 8 * 4
        machine.state.sampled += 1
        regions.pump(machine.state)
        assert number < sysregions.WORTH
    assert [entries for _, entries in asked] == [[4]]
    regions.pump(machine.state)
    assert is_linked(machine, other + 4)
    # Samples of what is linked are no reason any more.
    for _ in range(2 * sysregions.WORTH):
        machine.state.samples[machine.state.sampled % SAMPLES] = record + 8 * 4
        machine.state.sampled += 1
    regions.pump(machine.state)
    assert len(asked) == 1


def test_a_page_that_changes_all_the_time_is_given_up(machine: Machine) -> None:
    load(machine, LOOP)
    regions = regions_of(machine)
    regions._tries[3] = sysregions.TRIES
    record = regions._records + 3 * RECORDS_PER_PAGE
    regions._note(machine._at, record, 1000)
    assert not regions._wanted
    regions._note(machine._at, record + RECORDS_PER_PAGE, 1000)
    assert list(regions._wanted) == [4]


def test_without_a_worker_all_goes_on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    load(machine, LOOP)
    regions = regions_of(machine)

    def ask(*_: object) -> int:
        raise WorkerError("gone")

    monkeypatch.setattr(regions._compiler, "ask", ask)
    for _ in range(3):
        regions._note(machine._at, regions._records + RECORDS_PER_PAGE, 1000)
        regions.pump(machine.state)
    assert regions._alone
    assert not regions.full
    machine.run(instructions=7000)
    assert machine.a0 in (1000, 1001)


def test_what_is_stored_serves_the_next_machine(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(machine, LOOP)
    regions = regions_of(machine)
    store = Store(str(tmp_path / "code"))
    content = bytes(machine.mem[RAM : RAM + PAGE])
    image = region_image(content, [0])
    assert image is not None
    store.put(page_key(0, content), "0", image.dump())
    store.put(page_key(0, b"other"), "0", b"damaged")
    monkeypatch.setattr(regions._compiler, "store", Store(str(tmp_path / "code")))
    where = RAM + 5 * PAGE
    load(machine, LOOP, where)
    machine.run(instructions=1)
    before = machine.regions_installed
    regions._note(machine._at, regions._records + 5 * RECORDS_PER_PAGE, 1)
    assert machine.regions_installed == before + 1
    assert is_linked(machine, where)


@pytest.mark.parametrize("meta", [b"", b"i\1\0\0\0", b"garbage"])
def test_a_stored_image_that_is_none_is_dropped(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, meta: bytes
) -> None:
    load(machine, LOOP)
    regions = regions_of(machine)
    content = bytes(machine.mem[RAM : RAM + PAGE])
    made = region_image(content, [0])
    assert made is not None
    store = Store(str(tmp_path / "code"))
    made.meta = meta
    store.put(page_key(0, content), "0", made.dump())
    store = Store(str(tmp_path / "code"))
    monkeypatch.setattr(regions._compiler, "store", store)
    before = machine.regions_installed
    regions._recall(machine._at, 0)
    assert machine.regions_installed == before
    assert store.get(page_key(0, content)) == []


def test_where_there_is_no_room_the_area_is_emptied(machine: Machine) -> None:
    load(machine, LOOP)
    regions = regions_of(machine)
    machine.translate(RAM)
    assert is_linked(machine, RAM)
    regions._next = ROOM
    machine.translate(RAM)
    fullness = [regions.full]
    machine.run(instructions=7000)
    assert [*fullness, regions.full] == [True, False]
    assert regions._next == 0
    assert not is_linked(machine, RAM)
    assert machine.a0 in (1000, 1001)


def test_no_other_hart_links_while_all_is_forgotten(machine: Machine) -> None:
    """A region that was linked after its page was forgotten would be written over."""
    load(machine, LOOP)
    machine.translate(RAM)
    regions, seen = regions_of(machine), list[bool]()

    def forget() -> None:
        machine.bus.ram.forget_stitched()
        before = regions._next
        regions.pump(machine.state)  # another hart's, which finds the lock taken
        seen.append(regions._lock.locked() and regions._next == before)

    regions.reset(forget)
    assert seen == [True]
    assert regions._next == 0
    assert not is_linked(machine, RAM)


def test_entries_where_nothing_can_be_compiled() -> None:
    page = SYSTEM.assemble("csrrs a0, mstatus, zero; wfi; ecall").ljust(PAGE, b"\0")
    assert region_image(page, [0, 4, 8, 100]) is None
    # Half of an instruction: the rest may be anywhere.
    half = SYSTEM.assemble("add a0, a0, a1")[:2]
    assert region_image(page[:-2] + half, [PAGE - 2]) is None


#: It adds a number to fa0 for ever, and asks without raising a flag whether the sum is small.
SUM = """
again: fld fa1, 0(sp)
fadd.d fa0, fa0, fa1
fld fa2, 8(sp)
frflags a2
flt.d a1, fa0, fa2
fsflags a2
bne a1, zero, again
fsd fa0, 16(sp)
j again
"""


def test_loops_of_doubles_stay_in_the_region(machine: Machine) -> None:
    """What an access that misses leaves with is converted before the access."""
    load(machine, SUM)
    machine.mem[RAM + 0x8000 : RAM + 0x8010] = struct.pack("<dd", 0.5, 900.0)
    machine.state.mstatus |= 0x6000  # FS
    machine.translate(RAM)
    assert machine.regions_installed == 1
    machine.run(instructions=70_000)
    (total,) = struct.unpack("<d", machine.mem[RAM + 0x8010 : RAM + 0x8018])
    assert 3000 < total < 5001
    assert machine.state.translated > 65_000


def test_flags_need_floating_point_to_be_on(machine: Machine) -> None:
    """mstatus.FS is asked for before fflags is read (Priv. 3.1.6.6)."""
    load(machine, "again: frflags a2\nj again")
    machine.translate(RAM)
    assert is_linked(machine, RAM)
    machine.mtvec = RAM + 0x100
    machine.run(instructions=1)
    assert (machine.mcause, machine.mepc) == (2, RAM)


#: It sums what lies from a0 to a1, a page and a half, by one load and by another beside it.
WALK = """
li a2, 0
again: ld a3, 0(a0)
add a2, a2, a3
lw a4, 4(a0)
xor a5, a5, a4
addi a0, a0, 8
bne a0, a1, again
sd a2, 0(sp)
stay: j stay
"""


def walk(machine: Machine, compiled: bool, count: int) -> list[int]:
    """Every register, and where the hart is, when `WALK` has run for some instructions."""
    load(machine, WALK)
    first = RAM + 0x10000 - 512
    words = [hash((n, 1)) & (1 << 64) - 1 for n in range(800)]
    machine.mem[first : first + 6400] = struct.pack("<800Q", *words)
    if compiled:
        machine.translate(RAM)
        assert is_linked(machine, RAM + 4)
    machine.mtvec = RAM + 0x800
    machine.a0, machine.a1, machine.a2, machine.a5 = first, first + 6144, 5, 6
    machine.run(instructions=count)
    state = machine.state
    return [*list(state.x)[1:32], machine.pc, machine.mcause, machine.mepc, machine.mtval]


@pytest.mark.parametrize("count", [1, 7, 100, 2000, 4607, 4700])
def test_small_loops_leave_every_register_as_it_is(machine: Machine, count: int) -> None:
    """Wherever the budget ends, and after the loop."""
    other = Machine("riscv64", mode="interp")
    other.mem.map(RAM, SIZE)
    other.sp = RAM + 0x8000
    assert walk(machine, True, count) == walk(other, False, count)
    other.close()


def test_a_load_that_faults_in_a_small_loop(machine: Machine) -> None:
    """The loop comes to the end of memory: what it had kept is at home when the trap is taken."""
    found = []
    for mode in ("stitch", "interp"):
        each = Machine("riscv64", mode=mode)
        each.mem.map(RAM, SIZE)
        each.sp, each.mtvec = RAM + 0x8000, RAM + 0x800
        load(each, WALK)
        each.mem[RAM + 0x800 : RAM + 0x804] = SYSTEM.assemble("here: j here")
        if mode == "stitch":
            each.translate(RAM)
            assert is_linked(each, RAM + 4)
        each.a0, each.a1, each.a5 = RAM + SIZE - 4096, 0, 9
        each.mem[RAM + SIZE - 4096 : RAM + SIZE] = bytes(range(256)) * 16
        each.run(instructions=5000)
        values = list(each.state.x)[1:32]
        found.append([*values, each.pc, each.mcause, each.mepc, each.mtval])
        each.close()
    assert found[0] == found[1]
    assert found[0][-3:] == [5, RAM + 4, RAM + SIZE]


def test_a_loop_notices_that_its_page_is_gone(machine: Machine) -> None:
    """Its load remembers the page, as long as nobody asks for anything (`unmap` waits)."""
    data = RAM + 2 * SIZE
    machine.mem.map(data, PAGE)
    load(machine, "again: ld a1, 0(a0)\naddi a2, a2, 1\nj again")
    machine.mem[RAM + 0x800 : RAM + 0x804] = SYSTEM.assemble("here: j here")
    machine.translate(RAM)
    assert is_linked(machine, RAM)
    machine.a0, machine.mtvec = data, RAM + 0x800
    runner = threading.Thread(target=machine.run, kwargs={"seconds": 60})
    runner.start()
    while not machine.state.translated:
        time.sleep(0.001)
    machine.mem.unmap(data, PAGE)
    while not machine.mcause:
        time.sleep(0.001)
    machine.request_stop()
    runner.join()
    assert (machine.mcause, machine.mepc, machine.mtval) == (5, RAM, data)


#: Stores to two pages that share an entry of the TLB, twice each: the second one hits.
TWO = """
again: sd a2, 0(a0)
sd a2, 8(a0)
sd a2, 0(a1)
sd a2, 8(a1)
addi a2, a2, 1
bne a2, a3, again
stay: j stay
"""


@pytest.mark.parametrize("harts", [1, 2])
def test_stores_remember_their_page_where_nobody_makes_code_of_it(harts: int) -> None:
    """Another hart may do that at any time, and tells by the TLB."""
    bus, apart = new_bus(), TLB_ENTRIES * PAGE
    bus.map(RAM, 2 * apart)
    first, *_ = [Processor(bus, number, mode="stitch") for number in range(harts)]
    code = SYSTEM.assemble(TWO, RAM)
    bus[RAM : RAM + len(code)] = code
    first.translate(RAM)
    first.pc, first.a3 = RAM, 100_000
    first.a0, first.a1 = RAM + PAGE, RAM + PAGE + apart
    before = int(first.state.tlb_misses)
    first.run(instructions=599_000)  # its end is single steps, which forget the TLB
    misses = int(first.state.tlb_misses) - before
    assert first.a2 == 599_000 // 6
    last = bus[RAM + PAGE + apart : RAM + PAGE + apart + 8]
    assert int.from_bytes(last, "little") == first.a2 - 1
    assert misses > 190_000 if harts > 1 else misses < 20_000
    bus.ram.close()
