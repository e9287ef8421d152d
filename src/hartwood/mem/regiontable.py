"""Which guest-physical addresses are memory: regions in order, for Python and for generated code.

Generated code searches a table that is never seen half written. There are two copies of it, and
one word (`head`) that says which of them counts, how many regions it has and which version it is:
a change is written to the other copy, or past the end, and then stored as a new head. Whoever finds
another head after the search than before it searches again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENOMEM
from itertools import pairwise

from hartwood.errors import MappingError
from hartwood.mem import hostmem
from hartwood.mem.hostmem import MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PAGE

#: Regions that a machine can have, harts, and windows of devices.
REGIONS, HARTS, WINDOWS = (1 << 16) - 1, 64, 64
#: The table: `head`, a lock, a word for each hart, which is zero or where its state is, the same
#: for each window (`mem.posted`); on pages of their own two copies of the regions, three words each
#: (address, size, offset). The head is the copy (bit 0), the number of regions (16 bits), the
#: version.
LOCK_AT, HARTS_AT, WINDOWS_AT = 8, 16, 1024
COPIES_AT, COPY = PAGE, 24 * (REGIONS + 1)
COUNT_BITS = 16
#: Bit of a region's offset: the guest may not write there.
READ_ONLY = 1
#: Guest-physical addresses have so many bits (Priv. 12.4).
_ADDRESS_BITS = 56
_SIZE = COPIES_AT + 2 * COPY


@dataclass(frozen=True, slots=True)
class Region:
    """`size` bytes at guest-physical `at`, `offset` bytes into the host mapping."""

    at: int
    size: int
    offset: int
    readonly: bool = False

    @property
    def end(self) -> int:
        """The address after it."""
        return self.at + self.size

    def part(self, at: int, end: int) -> Region:
        """What of it lies between two addresses."""
        first, last = max(at, self.at), min(end, self.end)
        return Region(first, last - first, self.offset + first - self.at, self.readonly)


def check_pages(at: int, size: int, call: str = "map") -> None:
    """Raises `MappingError` with EINVAL unless these are whole pages of the address space."""
    if at % PAGE or size % PAGE or size <= 0 or at < 0 or at + size > 1 << _ADDRESS_BITS:
        raise MappingError(EINVAL, call, at, size)


def extents(regions: Iterable[Region]) -> Iterator[tuple[int, int, int]]:
    """What regions in order map, whatever their parts and rights: address, size, offset."""
    start = size = offset = 0
    for region in regions:
        if size and (region.at, region.offset) == (start + size, offset + size):
            size += region.size
            continue
        if size:
            yield start, size, offset
        start, size, offset = region.at, region.size, region.offset
    if size:
        yield start, size, offset


class RegionTable:
    """Regions that do not overlap, by address. Changes are the caller's to keep apart."""

    def __init__(self) -> None:
        self.at = hostmem.mmap(0, _SIZE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
        self._words = hostmem.view(self.at, _SIZE).cast("Q")
        self.regions: list[Region] = []
        self._starts: list[int] = []

    def add_hart(self, state: int) -> None:
        """A hart whose state is at this host address. Raises `MappingError` for too many."""
        self._list("add_hart", state, HARTS_AT // 8, HARTS)

    def add_window(self, host: int) -> None:
        """A `mem.posted.Posted` at this host address. Raises `MappingError` for too many."""
        self._list("add_window", host, WINDOWS_AT // 8, WINDOWS)

    def _list(self, call: str, pointer: int, place: int, most: int) -> None:
        last = place + most - 1  # the list ends with a zero
        while self._words[place]:
            place += 1
        if place == last:
            raise MappingError(ENOMEM, call, pointer, 0)
        self._words[place] = pointer

    def find(self, at: int) -> Region | None:
        """The region that has this address."""
        place = bisect_right(self._starts, at) - 1
        if place >= 0 and at < self.regions[place].end:
            return self.regions[place]
        return None

    def over(self, at: int, end: int) -> tuple[int, int]:
        """Which regions have something between two addresses: the first, and the one after."""
        first = bisect_right(self._starts, at) - 1
        if first < 0 or self.regions[first].end <= at:
            first += 1
        return first, max(first, bisect_right(self._starts, end - 1))

    def is_free(self, at: int, end: int) -> bool:
        """Whether nothing is mapped between two addresses."""
        first, last = self.over(at, end)
        return first == last

    def add(self, region: Region, call: str) -> None:
        """One more region; raises `MappingError`: EEXIST for an overlap, ENOMEM for too many."""
        first, last = self.over(region.at, region.end)
        if first != last:
            raise MappingError(EEXIST, call, region.at, region.size)
        self._splice(first, first, [region], call)

    def carve(self, at: int, size: int, call: str, readonly: bool | None = None) -> list[Region]:
        """Take out what is between two addresses, or put it back with other rights; gives what
        there was. Raises `MappingError`: ENOMEM where not all of it is mapped, or for too many."""
        end = at + size
        first, last = self.over(at, end)
        old = self.regions[first:last]
        inside = [region.part(at, end) for region in old]
        if sum(region.size for region in inside) != size:
            raise MappingError(ENOMEM, call, at, size)
        new = [old[0].part(old[0].at, at)] if old[0].at < at else []
        if readonly is not None:
            new += [Region(each.at, each.size, each.offset, readonly) for each in inside]
        if old[-1].end > end:
            new.append(old[-1].part(end, old[-1].end))
        self._splice(first, last, new, call)
        return inside

    @staticmethod
    def ordered(regions: Sequence[Region]) -> list[Region]:
        """Regions by address. Raises `MappingError` as `add` does."""
        new = sorted(regions, key=lambda region: region.at)
        if len(new) > REGIONS:
            raise MappingError(ENOMEM, "map", new[-1].at, new[-1].size)
        for left, right in pairwise(new):
            if left.end > right.at:
                raise MappingError(EEXIST, "map", right.at, right.size)
        return new

    def replace(self, regions: Sequence[Region]) -> None:
        """Other regions in place of all. Raises `MappingError` as `add` does, with none changed."""
        self._splice(0, len(self.regions), self.ordered(regions), "map")

    def _splice(self, first: int, last: int, new: list[Region], call: str) -> None:
        before = len(self.regions)
        count = before + len(new) - (last - first)
        if count > REGIONS:
            raise MappingError(ENOMEM, call, new[0].at, new[0].size)
        words, head = self._words, self._words[0]
        old, which = self._copy(head & 1), head & 1
        if first != before:
            which ^= 1
            tail = old + 3 * last
            target = self._copy(which)
            words[target : target + 3 * first] = words[old : old + 3 * first]
            kept = 3 * (before - last)
            place = target + 3 * (count - (before - last))
            words[place : place + kept] = words[tail : tail + kept]
        place = self._copy(which) + 3 * first
        for region in new:
            words[place], words[place + 1] = region.at, region.size
            words[place + 2] = region.offset | READ_ONLY * region.readonly
            place += 3
        version = (head >> COUNT_BITS + 1) + 1 & (1 << 63 - COUNT_BITS) - 1
        # The one store that counts; aligned words are stored whole.
        words[0] = version << COUNT_BITS + 1 | count << 1 | which
        self.regions[first:last] = new
        self._starts[first:last] = [region.at for region in new]

    @staticmethod
    def _copy(which: int) -> int:
        return (COPIES_AT + which * COPY) // 8

    def close(self) -> None:
        """Give the table back. No hart may run any more."""
        hostmem.munmap(self.at, _SIZE)
        self.regions.clear()
        self._starts.clear()
