"""The map of guest-physical memory against a model of pages, and the table for native code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EEXIST, EINVAL, ENOMEM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.errors import MappingError
from hartwood.mem import hostmem, versions
from hartwood.mem.ram import Ram
from hartwood.mem.regiontable import (
    COPIES_AT,
    COPY,
    COUNT_BITS,
    READ_ONLY,
    Region,
    RegionTable,
    extents,
)

PAGE, PAGES = 4096, 12


@pytest.fixture
def ram() -> Iterator[Ram]:
    made = Ram(1 << 20, 64)
    yield made
    made.close()


def native(table: RegionTable) -> list[Region]:
    """What generated code finds."""
    words = hostmem.view(table.at, COPIES_AT + 2 * COPY).cast("Q")
    head = words[0]
    start = (COPIES_AT + (head & 1) * COPY) // 8
    count = head >> 1 & (1 << COUNT_BITS) - 1
    found = [words[start + 3 * n : start + 3 * n + 3].tolist() for n in range(count)]
    return [
        Region(at, size, offset & ~READ_ONLY, bool(offset & READ_ONLY))
        for at, size, offset in found
    ]


def check(ram: Ram) -> None:
    """All that has to be true of any map."""
    assert native(ram.table) == ram.regions
    assert ram.regions == sorted(ram.regions, key=lambda region: region.at)
    pages = {
        region.offset // PAGE + n for region in ram.regions for n in range(region.size // PAGE)
    }
    free = {offset // PAGE + n for offset, size in ram._free for n in range(size // PAGE)}
    assert not pages & free
    assert pages | free == set(range(ram._used // PAGE))
    ends = [offset + size for offset, size in ram._free]
    assert ram._free == sorted(ram._free)
    assert not {offset for offset, _ in ram._free} & set(ends)  # neighbours were joined


class Model:
    """A cell for each page that is memory, shared by aliases, and whether it is read-only."""

    def __init__(self) -> None:
        self.pages: dict[int, tuple[list[int], bool]] = {}

    def has(self, at: int, size: int) -> list[bool]:
        return [page in self.pages for page in range(at, at + size)]

    def call(self, what: str, at: int, size: int, of: int, flag: bool) -> int:
        """The error number, 0 where it is done."""
        there = self.has(at, size)
        if what in ("map", "alias"):
            if what == "alias" and not all(self.has(of, size)):
                return ENOMEM
            if any(there):
                return EEXIST
            for n in range(size):
                cell = self.pages[of + n][0] if what == "alias" else [0]
                self.pages[at + n] = cell, flag
            return 0
        if not all(there):
            return ENOMEM
        for page in range(at, at + size):
            if what == "unmap":
                del self.pages[page]
            else:
                self.pages[page] = self.pages[page][0], flag
        return 0


CALLS = st.tuples(
    st.sampled_from(("map", "map", "alias", "protect", "unmap")), st.integers(0, PAGES),
    st.integers(1, 4), st.integers(0, PAGES), st.booleans(),
)  # fmt: skip


def apply(ram: Ram, what: str, at: int, size: int, of: int, flag: bool) -> int:
    try:
        if what == "map":
            ram.map(at * PAGE, size * PAGE, flag)
        elif what == "alias":
            ram.alias(at * PAGE, of * PAGE, size * PAGE, flag)
        elif what == "protect":
            ram.protect(at * PAGE, size * PAGE, flag)
        else:
            ram.unmap(at * PAGE, size * PAGE)
    except MappingError as caught:
        assert caught.call == what
        return caught.errno
    return 0


@given(st.lists(CALLS, max_size=30))
def test_maps_are_what_pages_would_be(calls: list[tuple[str, int, int, int, bool]]) -> None:
    ram, model = Ram(1 << 20, 64), Model()
    for number, call in enumerate(calls):
        what, _, size, of, _ = call
        source = ram.table.find(of * PAGE)
        # The one thing that pages do not know: an alias is of one region.
        parted = what == "alias" and (source is None or source.end < (of + size) * PAGE)
        error = apply(ram, *call)
        assert error == (ENOMEM if parted else model.call(*call))
        check(ram)
        for page in range(PAGES + 6):
            if page not in model.pages:
                assert ram.table.find(page * PAGE) is None
                continue
            cell, readonly = model.pages[page]
            found = ram.table.find(page * PAGE)
            assert found is not None
            assert found.readonly == readonly
            assert ram.read(page * PAGE, 2) == bytes([cell[0], 0])
        for page, (cell, _) in model.pages.items():
            cell[0] = (number * 31 + page) % 255 + 1
            ram.write(page * PAGE, bytes(cell))
        for page, (cell, _) in model.pages.items():  # aliases were written more than once
            ram.write(page * PAGE, bytes(cell))
    parts = list(extents(ram.regions))
    assert sum(size for _, size, _ in parts) == len(model.pages) * PAGE
    ram.close()


@pytest.mark.parametrize(
    ("at", "size"),
    [(1, PAGE), (0, 1), (0, 0), (-PAGE, PAGE), (0, -PAGE), (1 << 56, PAGE), (PAGE, 1 << 56)],
)
def test_what_is_no_pages(ram: Ram, at: int, size: int) -> None:
    ram.map(0, PAGE)
    for call in (
        lambda: ram.map(at, size), lambda: ram.unmap(at, size), lambda: ram.alias(at, 0, size),
        lambda: ram.protect(at, size, True), lambda: ram.alias(8 * PAGE, at, size),
        lambda: ram.adopt([Region(at, size, 0)]),
    ):  # fmt: skip
        with pytest.raises(MappingError) as caught:
            call()
        assert caught.value.errno == EINVAL
    assert [region.at for region in ram.regions] == [0]


def test_memory_is_used_again_and_is_zero(ram: Ram) -> None:
    for _ in range(1000):  # far more than there is, were it not
        ram.map(0, 64 * PAGE)
        assert ram.read(63 * PAGE, 4) == bytes(4)
        ram.write(63 * PAGE, b"used")
        ram.unmap(0, 32 * PAGE)
        ram.unmap(32 * PAGE, 32 * PAGE)
    check(ram)
    assert ram._free == [(0, 64 * PAGE)]


def test_memory_that_a_snapshot_holds_is_zero_as_well(ram: Ram) -> None:
    ram.map(0, 4 * PAGE)
    ram.write(0, b"held")
    version = ram.snapshot()
    ram.unmap(0, 4 * PAGE)
    ram.map(8 * PAGE, 4 * PAGE)
    assert ram.read(8 * PAGE, 4) == bytes(4)
    ram.restore(version)
    assert ram.read(8 * PAGE, 4) == b"held"
    with pytest.raises(versions.VersionError):
        Ram(1 << 16, 64).restore(version)


def test_the_capacity_is_what_can_be_mapped(ram: Ram) -> None:
    ram.map(0, 1 << 20)
    with pytest.raises(MappingError) as caught:
        ram.map(1 << 30, PAGE)
    assert caught.value.errno == ENOMEM
    ram.alias(1 << 30, 0, 1 << 20)  # which takes no memory
    ram.unmap(0, 1 << 20)
    with pytest.raises(MappingError):
        ram.map(0, PAGE)
    ram.unmap(1 << 30, PAGE)
    ram.map(0, PAGE)
    check(ram)


def test_maps_are_adopted_whole(ram: Ram) -> None:
    ram.map(0, 4 * PAGE)
    ram.write(PAGE, b"kept")
    want = [Region(8 * PAGE, PAGE, PAGE, True), Region(2 * PAGE, 2 * PAGE, 3 * PAGE)]
    ram.adopt(want)
    assert ram.regions == want[::-1]
    assert ram.read(8 * PAGE, 4) == b"kept"
    assert ram._free == [(0, PAGE), (2 * PAGE, PAGE)]
    check(ram)
    for wrong, errno in (
        ([Region(0, 2 * PAGE, 0), Region(PAGE, PAGE, 0)], EEXIST),
        ([Region(0, PAGE, 1 << 20)], EINVAL), ([Region(0, PAGE, 8)], EINVAL),
        ([Region(0, PAGE, -PAGE)], EINVAL), ([Region(0, 2 << 20, 0)], EINVAL),
    ):  # fmt: skip
        with pytest.raises(MappingError) as caught:
            ram.adopt(wrong)
        assert caught.value.errno == errno
    assert ram.regions == want[::-1]


def test_every_hart_is_waited_for(ram: Ram) -> None:
    """What was free of memory only when the last of them has forgotten it."""
    ram.map(0, PAGE)
    ram.write(0, b"seen")
    seen: list[bytes] = []

    def done() -> bool:
        seen.append(bytes(ram.memory[:4]))
        return len(seen) > 5

    def ask() -> Callable[[], bool]:
        assert ram.table.find(0) is None  # the map has changed before harts are asked
        return done

    ram.translations += [ask, ask]
    ram.unmap(0, PAGE)
    assert seen == [b"seen"] * len(seen)
    assert len(seen) > 5
    assert bytes(ram.memory[:4]) == bytes(4)


def test_nothing_is_left_after_the_end(ram: Ram) -> None:
    ram.map(0, PAGE)
    ram.close()
    assert ram.regions == []
    for call in (
        lambda: ram.map(0, PAGE),
        lambda: ram.unmap(0, PAGE),
        lambda: ram.alias(0, 0, 4096),
    ):
        with pytest.raises(MappingError) as caught:
            call()
        assert caught.value.errno == EINVAL
