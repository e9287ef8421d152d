"""Which regions are asked for, installed, improved and forgotten: the logic, without native code.

At the end, the same with a real worker that is killed under way.
"""

from __future__ import annotations

import marshal
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hartwood.errors import ArenaFull
from hartwood.isa.riscv import RISCV
from hartwood.jit import translations
from hartwood.jit.image import Image
from hartwood.jit.store import code_digest, page_key
from hartwood.jit.translations import BEST, FIRST, PATIENCE, SAMPLES, Translations
from hartwood.machine.hart import Machine
from hartwood.mem.flat import FlatSpace
from hartwood.mem.regions import Region

PAGE = 4096
CODE = 0x40_0000
NEXT = CODE + PAGE
HOST = 0x7000_0000
EXEC = 4


class Request(NamedTuple):
    number: int
    entries: list[int]
    parts: list[tuple[int, bytes, bytes]]
    level: int
    key: str


class Worker:
    """A client that keeps what it was asked and answers when a test says so."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.replies: list[tuple[Any, ...]] = []
        self.banks: list[str] = []

    def ask_bank(self, name: str) -> None:
        self.banks.append(name)

    def request(self, number: int, entries: list[int], parts, level: int, key: str, *_) -> None:
        self.requests.append(Request(number, list(entries), parts, level, key))

    def poll(self):
        return self.replies.pop(0) if self.replies else None

    def wait(self):
        return self.replies.pop(0)


class Map:
    """The guest's regions."""

    def __init__(self, regions: list[Region]) -> None:
        self.all = regions

    def at(self, address: int) -> Region | None:
        return next((r for r in self.all if r.start <= address < r.end), None)


class Space:
    """Four executable pages."""

    def __init__(self) -> None:
        self.memory = bytearray(range(256)) * (4 * PAGE // 256)
        self.regions = Map([Region(CODE, CODE + 4 * PAGE, EXEC | 1)])

    def read_some(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address - CODE : address - CODE + size])


class Arena:
    """Addresses, and no memory behind them."""

    def __init__(self) -> None:
        self.room = 1000
        self.images: list[Image] = []

    def install(self, image: Image, slots=None, *, alone: bool = False) -> int:
        if len(self.images) == self.room:
            raise ArenaFull("no room")
        self.images.append(image)
        return HOST + 0x1000 * len(self.images)


class Shadow:
    """What is linked where."""

    def __init__(self) -> None:
        self.active = {CODE + n * PAGE: "" for n in range(4)}
        self.links: dict[int, int] = {}

    def executed(self, page: int) -> bytearray:
        return bytearray(PAGE // 2)

    def link(self, entry: int, code: int) -> None:
        self.links[entry] = code

    def unlink(self, entry: int) -> None:
        self.links.pop(entry, None)


class Store:
    def __init__(self) -> None:
        self.files: dict[str, list[bytes]] = {}

    def get(self, key: str) -> list[bytes]:
        return self.files.get(key, [])

    def discard(self, key: str) -> None:
        del self.files[key]


class Bench:
    """Everything around `Translations`."""

    def __init__(self) -> None:
        self.space, self.arena, self.shadow = Space(), Arena(), Shadow()
        self.store, self.worker = Store(), Worker()
        self.watched: list[int] = []
        around: list[Any] = [self.space, self.arena, self.shadow, self.store, self.worker]
        self.known = Translations(*around, *[self.activate, lambda: True])

    def activate(self, page: int) -> bool:
        self.watched.append(page)
        return page in self.shadow.active

    def image(self, *regions: tuple[list[int], list[tuple[int, int]]], level: int = FIRST) -> bytes:
        """An image of regions: their entries, and the guest ranges they were made from."""
        made = [
            (
                entries,
                1,
                [
                    (start, end, code_digest(self.space.read_some(start, end - start)))
                    for start, end in ranges
                ],
            )
            for entries, ranges in regions
        ]
        names = {f"r_{entries[0]:x}": 64 * n for n, (entries, _) in enumerate(regions)}
        meta = marshal.dumps((level, made))
        return Image(bytes(64 * len(names)), names, meta=meta).dump()

    def answer(self, data: bytes = b"") -> None:
        """Answer the oldest request that has none, and let it be taken."""
        self.worker.replies.append(("region", self.worker.requests[-1].number, data, 0.0))
        self.known.pump()

    def have(
        self, entry: int, *ranges: tuple[int, int], level: int = FIRST, more: tuple[int, ...] = ()
    ) -> None:
        """Let there be a region."""
        found = list(ranges) or [(entry, entry + 64)]
        image = Image.load(self.image(([entry, *more], found), level=level))
        key = page_key(entry & -PAGE, b"")
        self.store.files[key] = [image.dump()]
        self.known.recall(entry & -PAGE, key)
        del self.store.files[key]

    @property
    def asked(self) -> list[list[int]]:
        return [request.entries for request in self.worker.requests]


@pytest.fixture
def bench() -> Bench:
    return Bench()


# Wanting and asking.
def test_a_hot_address_is_asked_for_with_the_code_around_it(bench: Bench) -> None:
    bench.known.hot(CODE + 8)
    [request] = bench.worker.requests
    assert (request.entries, request.level) == ([CODE + 8], FIRST)
    assert request.key == page_key(CODE, bench.space.read_some(CODE, PAGE))
    found = {page: code for page, code, _ in request.parts}
    assert CODE in found
    assert found.keys() <= bench.shadow.active.keys()
    assert all(code == bench.space.read_some(page, PAGE) for page, code in found.items())
    assert bench.known.busy


def test_the_same_address_is_not_asked_for_twice(bench: Bench) -> None:
    for _ in range(10):
        bench.known.hot(CODE)
    assert bench.asked == [[CODE]]


def test_a_page_has_one_request_at_a_time_and_the_hottest_comes_first(bench: Bench) -> None:
    bench.known.hot(CODE)
    for pc, times in ((CODE + 256, 1), (CODE + 512, 3), (CODE + 768, 2)):
        for _ in range(times):
            bench.known.hot(pc)
    assert bench.asked == [[CODE]]
    bench.answer(bench.image(([CODE], [(CODE, CODE + 64)])))
    assert bench.asked == [[CODE], [CODE + 512, CODE + 768, CODE + 256]]


def test_a_request_has_a_bounded_number_of_entries(bench: Bench) -> None:
    bench.known.hot(CODE)
    for number in range(1, 40):
        bench.known.hot(CODE + number * 64)
    bench.answer()
    most = translations._BATCH
    assert len(bench.asked[1]) == most
    bench.answer()
    assert len(bench.asked[2]) == most
    assert not set(bench.asked[1]) & set(bench.asked[2])


def test_what_an_answer_covers_is_not_asked_for_any_more(bench: Bench) -> None:
    bench.known.hot(CODE)
    bench.known.hot(CODE + 16)
    bench.known.hot(CODE + 2048)
    bench.answer(bench.image(([CODE], [(CODE, CODE + 64)])))
    assert bench.asked == [[CODE], [CODE + 2048]]


def test_an_address_inside_a_region_waits(bench: Bench) -> None:
    bench.have(CODE)
    for _ in range(PATIENCE):
        bench.known.hot(CODE + 16)
    assert bench.asked == []
    bench.known.hot(CODE + 16)
    assert bench.asked == [[CODE + 16]]


def test_an_entry_of_a_region_is_never_asked_for_again(bench: Bench) -> None:
    bench.have(CODE, more=(CODE + 32,))
    for _ in range(PATIENCE * 3):
        bench.known.hot(CODE)
        bench.known.hot(CODE + 32)
    assert bench.asked == []


def test_what_cannot_be_translated_is_not_asked_for_again(bench: Bench) -> None:
    bench.known.hot(CODE)
    bench.answer()
    bench.known.hot(CODE)
    assert bench.asked == [[CODE]]
    assert not bench.known.busy


def test_new_code_on_the_page_is_a_new_chance(bench: Bench) -> None:
    bench.known.hot(CODE)
    bench.answer()
    bench.known.forget(CODE)
    bench.known.hot(CODE)
    assert bench.asked == [[CODE], [CODE]]


def test_an_answer_about_code_that_changed_meanwhile_is_no_refusal(bench: Bench) -> None:
    bench.known.hot(CODE)
    old = bench.image(([CODE], [(CODE, CODE + 64)]))
    bench.space.memory[4] ^= 1
    bench.known.forget(CODE)
    bench.answer(old)
    assert bench.shadow.links == {}
    bench.known.hot(CODE)
    assert bench.asked == [[CODE], [CODE]]


def test_nothing_is_asked_about_a_page_that_is_gone(bench: Bench) -> None:
    del bench.shadow.active[CODE]
    bench.known.hot(CODE)
    assert bench.asked == []
    assert not bench.known.busy


def test_what_is_translated_counts_as_executed(bench: Bench) -> None:
    bench.have(CODE + 8, (CODE + 8, CODE + 24), (NEXT - 4, NEXT + 4))
    bench.known.hot(CODE + 2048)
    ran = {page: flags for page, _, flags in bench.worker.requests[0].parts}
    expected = bytearray(PAGE // 2)
    expected[4:12] = b"\1" * 8
    expected[-2:] = b"\1\1"
    assert ran[CODE] == expected
    assert ran[NEXT] == b"\1\1" + bytes(PAGE // 2 - 2)


# Becoming better.
def test_a_region_in_which_slices_end_is_translated_better_once(bench: Bench) -> None:
    bench.have(CODE)
    for _ in range(SAMPLES[FIRST] - 1):
        bench.known.sample(CODE)
    assert bench.asked == []
    for _ in range(SAMPLES[FIRST] * 2):
        bench.known.sample(CODE)
    [request] = bench.worker.requests
    assert (request.entries, request.level) == ([CODE], BEST)


def test_one_region_is_made_better_at_a_time(bench: Bench) -> None:
    bench.have(CODE)
    bench.have(CODE + 256)
    for _ in range(SAMPLES[FIRST] * 2):
        bench.known.sample(CODE)
        bench.known.sample(CODE + 256)
    assert bench.asked == [[CODE]]
    bench.answer()
    bench.known.sample(CODE + 256)
    assert bench.asked == [[CODE], [CODE + 256]]


def test_the_best_and_the_unknown_are_left_alone(bench: Bench) -> None:
    bench.have(CODE, level=BEST)
    for _ in range(SAMPLES[FIRST] * 2):
        bench.known.sample(CODE)
        bench.known.sample(CODE + 1024)
    assert bench.asked == []


def test_a_better_region_takes_the_entries_over_and_a_worse_one_does_not(bench: Bench) -> None:
    bench.have(CODE)
    first = bench.shadow.links[CODE]
    bench.have(CODE, level=BEST)
    best = bench.shadow.links[CODE]
    assert best != first
    bench.have(CODE)
    assert bench.shadow.links[CODE] == best
    assert bench.known.at[CODE].level == BEST


# Installing.
def test_every_region_of_an_image_is_linked_at_every_entry(bench: Bench) -> None:
    data = bench.image(
        ([CODE, CODE + 32], [(CODE, CODE + 64)]), ([CODE + 128], [(CODE + 128, CODE + 192)])
    )
    bench.known.hot(CODE)
    bench.answer(data)
    base = HOST + 0x1000
    assert bench.shadow.links == {CODE: base, CODE + 32: base, CODE + 128: base + 64}
    assert bench.known.installed == 2
    assert set(bench.watched) == {CODE}


@pytest.mark.parametrize("what", ["changed", "unmapped", "cut", "not executable", "not active"])
def test_a_region_whose_code_is_not_there_is_not_installed(bench: Bench, what: str) -> None:
    data = bench.image(([CODE], [(CODE, CODE + 64), (NEXT, NEXT + 64)]))
    if what == "changed":
        bench.space.memory[PAGE + 63] ^= 1
    elif what == "unmapped":
        bench.space.regions.all = [Region(CODE, NEXT, EXEC | 1)]
    elif what == "cut":
        bench.space.regions.all = [Region(CODE, NEXT + 32, EXEC | 1)]
    elif what == "not executable":
        bench.space.regions.all = [Region(CODE, NEXT, EXEC | 1), Region(NEXT, NEXT + PAGE, 1)]
    else:
        del bench.shadow.active[NEXT]
    bench.store.files["key"] = [data]
    bench.known.recall(CODE, "key")
    assert bench.shadow.links == {}
    assert bench.arena.images == []
    assert bench.known.at == {}


def test_a_damaged_file_is_discarded_and_the_rest_installed(bench: Bench) -> None:
    good = bench.image(([CODE], [(CODE, CODE + 64)]))
    bench.store.files["key"] = [good, good[:-1]]
    bench.known.recall(CODE, "key")
    assert list(bench.shadow.links) == [CODE]
    assert bench.store.files == {}


def test_a_full_arena_is_reported_and_a_reset_begins_anew(bench: Bench) -> None:
    bench.have(CODE)
    bench.arena.room = 1
    bench.known.hot(NEXT)
    bench.answer(bench.image(([NEXT], [(NEXT, NEXT + 64)])))
    assert bench.known.full
    bench.known.hot(NEXT + 1024)
    assert len(bench.asked) == 1  # nothing more is asked for: it would have no place
    bench.known.reset()
    bench.arena.images.clear()
    assert (bench.known.full, bench.known.busy) == (False, False)
    assert (bench.known.at, bench.shadow.links) == ({}, {})
    # What had no room, and what had, is worth asking for again.
    bench.known.hot(NEXT)
    bench.answer(bench.image(([NEXT], [(NEXT, NEXT + 64)])))
    bench.known.hot(CODE)
    assert bench.asked[1:] == [[NEXT], [CODE]]
    assert list(bench.shadow.links) == [NEXT]


# Stencils.
class Learner:
    """A bench whose engine can learn to stitch."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.learnt: list[Image] = []
        bench: Any = self.bench
        around = bench.space, bench.arena, bench.shadow, bench.store, bench.worker
        self.asked = self.bench.worker.banks
        self.known = Translations(*around, bench.activate, lambda: True, self.learnt.append)


def test_a_small_program_is_compiled_and_asks_for_no_stencils() -> None:
    learner = Learner()
    for _ in range(translations.WORTH):
        assert not learner.bench.worker.requests
        learner.known.hot(CODE)
    assert [r.entries for r in learner.bench.worker.requests] == [[CODE]]
    assert learner.asked == []


def test_a_large_program_asks_for_stencils_once_and_learns_them() -> None:
    learner = Learner()
    for number in range(translations.LARGE + 10):
        learner.known.hot(CODE + 8 * number)
    assert learner.asked == ["stencils"]
    assert learner.known.busy
    learner.bench.worker.replies.append(("bank", "stencils", Image(b"x", {}).dump()))
    learner.known.pump()
    assert len(learner.learnt) == 1
    assert learner.known.can_stitch
    learner.known.hot(CODE)
    assert learner.asked == ["stencils"]


def test_stencils_of_an_earlier_run_are_there_from_the_first_hot_address() -> None:
    learner = Learner()
    learner.bench.store.files["bank-stencils"] = [Image(b"x", {}).dump()]
    learner.known.hot(CODE)
    assert learner.known.can_stitch
    assert learner.asked == []


def test_damaged_stencils_are_discarded() -> None:
    learner = Learner()
    learner.bench.store.files["bank-stencils"] = [Image(b"x", {}).dump()[:-1]]
    learner.known.hot(CODE)
    assert not learner.known.can_stitch
    assert learner.bench.store.files == {}


def test_stitched_code_where_slices_end_is_compiled(bench: Bench) -> None:
    """Units are small: neighbours count together, and the one that most slices ended in is asked
    for."""
    near = [CODE, CODE + 8, CODE + 8]
    for number in range(SAMPLES[0] - 1):
        bench.known.sample(near[number % 3])
    bench.known.pump()
    assert bench.asked == []
    bench.known.sample(CODE + 8)
    bench.known.pump()
    assert bench.asked == [[CODE + 8]]
    for _ in range(SAMPLES[0]):
        bench.known.sample(NEXT)  # somewhere else
    assert bench.known._is_wanted(NEXT)


# Forgetting.
@pytest.mark.parametrize("page", [CODE, NEXT, CODE + 3 * PAGE])
def test_a_change_of_any_page_unlinks_the_region(bench: Bench, page: int) -> None:
    """A region over three pages, one of them by a range of two bytes."""
    bench.have(
        CODE, (CODE, CODE + 64), (NEXT - 2, NEXT + 2), (NEXT + 2 * PAGE, NEXT + 2 * PAGE + 2)
    )
    assert bench.known.at[CODE].pages == {CODE, NEXT, CODE + 3 * PAGE}
    bench.known.forget(page)
    assert (bench.known.at, bench.shadow.links) == ({}, {})
    # And nothing of it is left on the other pages, where it could unlink what comes later.
    bench.have(CODE)
    for other in {CODE, NEXT, CODE + 3 * PAGE} - {CODE}:
        bench.known.forget(other)
    assert list(bench.shadow.links) == [CODE]


def test_other_regions_of_the_page_beside_stay(bench: Bench) -> None:
    bench.have(CODE)
    bench.have(NEXT, (NEXT, NEXT + 64))
    bench.known.forget(NEXT)
    assert list(bench.shadow.links) == [CODE]
    bench.known.forget(CODE + 2 * PAGE)
    assert list(bench.shadow.links) == [CODE]


def test_forgetting_a_region_leaves_the_better_one_at_its_entry(bench: Bench) -> None:
    """The first reached into the next page, the better one does not."""
    bench.have(CODE, (CODE, CODE + 64), (NEXT, NEXT + 2))
    bench.have(CODE, level=BEST)
    bench.known.forget(NEXT)
    assert bench.known.at[CODE].level == BEST
    assert CODE in bench.shadow.links


def test_a_page_is_intact_while_its_regions_match_memory(bench: Bench) -> None:
    bench.have(CODE, (CODE, CODE + 64), (NEXT, NEXT + 2))
    assert bench.known.is_intact(CODE)
    bench.space.memory[100] ^= 1  # not in a range
    assert bench.known.is_intact(CODE)
    bench.space.memory[PAGE + 1] ^= 1
    assert not bench.known.is_intact(CODE)
    assert not bench.known.is_intact(NEXT)
    assert bench.known.is_intact(NEXT + PAGE)


def test_requests_dropped_at_a_fork_can_be_made_again(bench: Bench) -> None:
    bench.known.hot(CODE)
    bench.known.hot(CODE + 512)
    bench.known.drop_requests()
    assert not bench.known.busy
    bench.known.hot(CODE)
    assert bench.asked[-1] == [CODE]


def test_translating_now_waits_for_the_answer(bench: Bench) -> None:
    data = bench.image(([CODE], [(CODE, CODE + 64)]), level=BEST)
    bench.worker.replies.append(("region", 1, data, 0.0))
    bench.known.translate([CODE])
    assert list(bench.shadow.links) == [CODE]
    [request] = bench.worker.requests
    assert request.level == BEST
    assert all(flags == b"\1" * (PAGE // 2) for _, _, flags in request.parts)


# A worker that dies.
#: Sums a table of 64 numbers again and again; each round is a call.
PROGRAM = """
    round:
    mv a2, a0
    li a3, 64
    jal ra, sum
    addi a1, a1, -1
    bnez a1, round
    ecall
    sum:
    ld a5, 0(a2)
    add a4, a4, a5
    addi a2, a2, 8
    addi a3, a3, -1
    bnez a3, sum
    ret
"""
FLOAT = "fcvt.d.l fa0, a0\nfadd.d fa0, fa0, fa0\nfcvt.l.d a0, fa0\necall"
DATA = 0x50_0000
ROUNDS = 60_000


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("HARTWOOD_CACHE", str(tmp_path / "code"))
    space = FlatSpace()
    machine = Machine(space, "auto")
    space.map(CODE, PAGE, 7)
    space.map(DATA, PAGE, 3)
    space.write(CODE, RISCV.assemble(PROGRAM, CODE))
    space.write(CODE + 1024, RISCV.assemble(FLOAT, CODE + 1024))
    for number in range(64):
        space.write(DATA + number * 8, (number * number).to_bytes(8, "little"))
    yield machine
    for hart in list(machine.harts):
        hart.close()
    machine.close()
    space.close()


def kill(machine: Machine) -> None:
    """Kill the worker, and wait for the end of it."""
    pid = machine.engine.client._pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.01)
    raise AssertionError("the worker does not die")


def start(machine: Machine):
    hart = machine.new_hart()
    hart.pc, hart.x[10], hart.x[11] = CODE, DATA, ROUNDS
    return hart


def total(rounds: int) -> int:
    return rounds * sum(n * n for n in range(64))


@pytest.mark.parametrize("moment", ["before anything is hot", "with a request under way", "later"])
def test_a_guest_finishes_when_the_worker_is_killed(machine: Machine, moment: str) -> None:
    hart = start(machine)
    known = machine.engine.translations
    if moment == "before anything is hot":
        kill(machine)
    dead = moment == "before anything is hot"
    for _ in range(100_000):
        stop = hart.run(200_000)
        if not dead and (known.busy if moment == "with a request under way" else known.installed):
            kill(machine)
            dead = True
        if stop.cause != "slice":
            break
    assert dead
    assert stop.cause == "ecall"
    assert hart.x[14] == total(ROUNDS)


def test_another_worker_translates_after_one_was_killed(machine: Machine) -> None:
    """What the first was busy with is given up, other code is not."""
    hart = start(machine)
    known = machine.engine.translations
    while not known.busy:
        assert hart.run(50_000).cause == "slice"
    first = machine.engine.client._pid
    kill(machine)
    hart.run(50_000)
    assert [known.busy, known._asked] == [False, {}]
    machine.engine.translate([CODE + 1024])
    assert machine.engine.client._pid not in (0, first)
    assert CODE + 1024 in known.at


def test_a_bank_comes_from_another_worker_when_the_first_was_killed(machine: Machine) -> None:
    kill(machine)
    hart = start(machine)
    hart.pc, hart.x[10] = CODE + 1024, 21
    assert hart.run().cause == "ecall"
    assert hart.x[10] == 42


def test_a_reply_cut_short_is_not_the_beginning_of_the_next(machine: Machine) -> None:
    """The worker dies with half an image in the pipe."""
    kill(machine)
    client = machine.engine.client
    client._buffer += (1000).to_bytes(8, "little") + bytes(10)
    hart = start(machine)
    hart.pc, hart.x[10] = CODE + 1024, 4
    assert hart.run().cause == "ecall"
    assert hart.x[10] == 8
