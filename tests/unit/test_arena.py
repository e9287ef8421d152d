"""The code arena: images run where they are put, others never see them half done, forks part."""

from __future__ import annotations

import ctypes
import os
import struct
import threading

import pytest

from hartwood.errors import ArenaError, ArenaFull
from hartwood.jit.arena import (
    ENTRIES_AT,
    ENTRY,
    ENTRY_END,
    ENTRY_FAULT_COUNT,
    ENTRY_FAULTS,
    ENTRY_START,
    CodeArena,
)
from hartwood.jit.image import Image
from native_code import compile_image

PAGE = 4096
SLOTTED = """
@bias = hidden externally_initialized global i64 0, section ".hwslot"
define i64 @biased(i64 %a) nounwind {
  %b = load i64, ptr @bias
  %r = add i64 %a, %b
  ret i64 %r
}
"""
Unary = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)


def returning(number: int, pages: int = 1) -> Image:
    """mov eax, number; ret - and int3 up to the size wanted."""
    code = b"\xb8" + struct.pack("<i", number) + b"\xc3"
    return Image(code.ljust(pages * PAGE - 8, b"\xcc"), {"f": 0})


def call(address: int, argument: int = 0) -> int:
    return int(Unary(address)(argument))


def native_table(arena: CodeArena) -> list[tuple[int, int, int, int]]:
    """What the signal handler would see."""
    count = ctypes.c_uint64.from_address(arena.table).value
    rows = []
    for index in range(count):
        at = arena.table + ENTRIES_AT + ENTRY * index
        fields = (ENTRY_START, ENTRY_END, ENTRY_FAULTS, ENTRY_FAULT_COUNT)
        start, end, faults, size = (ctypes.c_uint64.from_address(at + f).value for f in fields)
        rows.append((start, end, faults, size))
    return rows


def protection(address: int) -> str:
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, flags = line.split()[:2]
            low, high = (int(part, 16) for part in span.split("-"))
            if low <= address < high:
                return flags
    return ""


@pytest.fixture
def arena():
    arena = CodeArena(1 << 20)
    yield arena
    arena.close()


def test_installed_code_runs(arena: CodeArena) -> None:
    first, second = arena.install(returning(41)), arena.install(returning(-42))
    assert (call(first), call(second) & 0xFFFFFFFF) == (41, 0xFFFFFFFF - 41)
    assert arena.used == 2 * PAGE


def test_memory_is_never_writable_and_executable(arena: CodeArena) -> None:
    at = arena.install(returning(1))
    assert protection(at) == "r-xp"
    assert protection(at + PAGE) == "---p"


def test_slots_are_filled_with_their_values(arena: CodeArena) -> None:
    image = compile_image(SLOTTED)
    one = arena.install(image, {"bias": 1000})
    two = arena.install(image, {"bias": (1 << 64) - 5})
    entry = image.entries["biased"]
    assert (call(one + entry, 7), call(two + entry, 7)) == (1007, 2)


@pytest.mark.parametrize("slots", [None, {}, {"bias": 1, "more": 2}, {"other": 1}])
def test_slots_and_values_must_agree(arena: CodeArena, slots) -> None:
    with pytest.raises(ArenaError, match="differ"):
        arena.install(compile_image(SLOTTED), slots)
    assert arena.used == 0


def test_a_loaded_file_installs_like_the_image(arena: CodeArena) -> None:
    image = Image.load(compile_image(SLOTTED).dump())
    at = arena.install(image, {"bias": 3})
    assert call(at + image.entries["biased"], 4) == 7


def test_the_native_table_has_every_fault_table(arena: CodeArena) -> None:
    faults = struct.pack("<IIII", 0, 5, 3, 5)
    plain, faulty = arena.install(returning(1)), Image(b"\xc3" * 11, {}, faults)
    at = arena.install(faulty)
    rows = native_table(arena)
    assert [row[0] for row in rows] == [plain, at]
    assert plain < rows[0][1] <= at
    assert rows[0][3] == 0
    start, end, where, count = rows[1]
    assert (end - start, count) == (64, 2)
    assert ctypes.string_at(where, 16) == faults
    assert where % 8 == 0


def test_alone_small_images_share_a_page_and_keep_running(arena: CodeArena) -> None:
    small = [Image(returning(n).code[:6], {}) for n in range(70)]
    starts = [arena.install(image, alone=True) for image in small]
    assert all(start % 64 == 0 for start in starts)
    # Not all of them in the same sets of the host's instruction cache.
    assert len({start % PAGE for start in starts}) > 8
    assert [call(start, 0) for start in starts] == list(range(70))
    assert [arena.find(start)[0] for start in starts] == starts
    # Another thread may be running now: the next image keeps off the page of the last one.
    assert arena.install(returning(7)) % PAGE == 0


def test_find_tells_which_image_holds_an_address(arena: CodeArena) -> None:
    starts = [arena.install(returning(n, pages=1 + n % 3)) for n in range(9)]
    for n, start in enumerate(starts):
        span = (start, start + PAGE * (1 + n % 3))
        assert arena.find(start) == arena.find(span[1] - 1) == span
    assert arena.find(arena.base - 1) is None
    assert arena.find(arena.base + arena.used) is None


def test_a_full_arena_says_so_and_a_reset_makes_room(arena: CodeArena) -> None:
    for _ in range(4):
        for _ in range(4):
            arena.install(returning(5, pages=60))
        with pytest.raises(ArenaFull, match="1 MiB"):
            arena.install(returning(5, pages=60))
        assert arena.used == 240 * PAGE
        arena.reset()
        assert arena.used == 0
        assert native_table(arena) == []
        assert protection(arena.base) == "---p"
    assert call(arena.install(returning(6))) == 6


def test_an_area_can_be_claimed_for_code_that_is_made_in_place(arena: CodeArena) -> None:
    before = arena.install(returning(1))
    faults = (ctypes.c_uint32 * 4)(0, 0, 0, 0)
    at, count = arena.claim(4 * PAGE, ctypes.addressof(faults))
    after = arena.install(returning(2))
    assert before < at < at + 4 * PAGE <= after
    code = bytes(returning(3).code[:6])
    ctypes.memmove(at + 64, code, len(code))
    assert [call(before), call(at + 64), call(after)] == [1, 3, 2]
    # It has its own row, whose faults are counted in place.
    row = native_table(arena)[1]
    assert row == (at, at + 4 * PAGE, ctypes.addressof(faults), 0)
    ctypes.c_uint64.from_address(count).value = 2
    assert native_table(arena)[1][3] == 2
    assert arena.find(at + 4 * PAGE - 1) == (at, at + 4 * PAGE)


def test_only_what_is_claimed_is_writable_and_executable(arena: CodeArena) -> None:
    arena.install(returning(1))
    at, _ = arena.claim(PAGE, 0)
    arena.install(returning(2))
    assert protection(at).startswith("rwx")
    assert protection(at - 1).startswith("r-x")
    assert protection(at + PAGE).startswith("r-x")


def test_a_claimed_area_survives_a_reset_when_it_is_kept(arena: CodeArena) -> None:
    at, _ = arena.claim(PAGE, 0)
    arena.keep()
    arena.install(returning(1))
    ctypes.memset(at, 0x90, 16)
    arena.reset()
    assert ctypes.string_at(at, 16) == b"\x90" * 16
    assert arena.used == PAGE


def test_an_area_that_does_not_fit_is_refused(arena: CodeArena) -> None:
    with pytest.raises(ArenaFull):
        arena.claim(arena.size + PAGE, 0)
    assert native_table(arena) == []


def test_a_reset_frees_the_memory(arena: CodeArena) -> None:
    arena.install(Image(b"\xc3" * (512 << 10), {}))
    arena.reset()
    fresh = arena.install(Image(b"\xc3", {}))
    assert ctypes.string_at(fresh + 16, 64) == bytes(64)


def test_kept_images_survive_a_reset(arena: CodeArena) -> None:
    kept = arena.install(returning(1))
    arena.keep()
    for number in range(2, 6):
        gone = arena.install(returning(number))
        assert (call(gone), arena.find(gone)) == (number, (gone, gone + PAGE))
        arena.reset()
        assert arena.find(gone) is None
        assert call(kept) == 1
    assert [row[0] for row in native_table(arena)] == [kept]


def test_an_arena_takes_one_image_a_page_to_the_last(arena: CodeArena) -> None:
    image = returning(9)
    for _ in range(arena.size // PAGE):
        last = arena.install(image)
    assert last == arena.base + arena.size - PAGE
    assert call(last) == 9
    assert len(native_table(arena)) == arena.size // PAGE
    with pytest.raises(ArenaFull):
        arena.install(image)


def test_installing_does_not_disturb_running_code(arena: CodeArena) -> None:
    """Threads run what is installed while more is installed beside it."""
    stop, wrong = threading.Event(), []
    table = [(arena.install(returning(0)), 0)]

    def run() -> None:
        while not stop.is_set():
            for at, expected in list(table)[-8:]:
                if call(at) != expected:
                    wrong.append((at, expected))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(1, 200):
        table.append((arena.install(returning(n)), n))
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_threads_may_install_at_once(arena: CodeArena) -> None:
    found: list[tuple[int, int]] = []

    def install(base: int) -> None:
        for n in range(base, base + 25):
            found.append((arena.install(returning(n)), n))

    threads = [threading.Thread(target=install, args=(100 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({at for at, _ in found}) == 100
    assert all(call(at) == n for at, n in found)
    starts = [row[0] for row in native_table(arena)]
    assert starts == sorted(starts)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parent_and_child_do_not_see_each_others_code(arena: CodeArena) -> None:
    shared = arena.install(returning(1))
    to_child, from_child = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            mine = arena.install(returning(2))
            os.write(from_child[1], b"x")
            os.read(to_child[0], 1)  # the parent has now put something else there
            right = (call(shared), call(mine), len(native_table(arena))) == (1, 2, 2)
            status = 0 if right else 1
        finally:
            os._exit(status)
    os.read(from_child[0], 1)
    assert protection(shared + PAGE) == "---p"
    theirs = arena.install(returning(3))
    assert (theirs, call(theirs)) == (shared + PAGE, 3)
    os.write(to_child[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    assert call(theirs) == 3
    for end in (*to_child, *from_child):
        os.close(end)


@pytest.mark.parametrize("size", [0, -PAGE, 100])
def test_a_senseless_size_is_refused(size: int) -> None:
    with pytest.raises(ArenaError, match="whole number of pages"):
        CodeArena(size)


def test_a_refused_reservation_is_one_clear_line() -> None:
    with pytest.raises(ArenaError, match="no address space"):
        CodeArena(1 << 60)


def test_closing_twice_is_harmless() -> None:
    arena = CodeArena(1 << 20)
    base = arena.base
    arena.close()
    arena.close()
    assert protection(base) in ("", "---p", "rw-p")
