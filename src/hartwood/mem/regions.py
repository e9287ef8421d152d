"""The sorted list of what a guest has mapped: who is where, with which protection.

Bookkeeping only, no host calls; the truth for /proc/self/maps, free-space search and the
accounting of committed memory.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter

PAGE = 4096
READ, WRITE, EXEC = 1, 2, 4
#: How often a look-up without the lock starts again when the map changed under it.
_TRIES = 8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Region:
    """A run of guest pages with one protection and one backing.

    `start` and `end` are guest addresses, `prot` is READ|WRITE|EXEC, `path` the file behind it or
    a name such as "[stack]", `offset` the file offset at `start`, `device` and `inode` the file's.
    """

    __slots__ = (
        "device",
        "end",
        "inode",
        "noreserve",
        "offset",
        "path",
        "prot",
        "shared",
        "start",
    )

    def __init__(
        self,
        start: int,
        end: int,
        prot: int,
        *,
        shared: bool = False,
        noreserve: bool = False,
        path: str = "",
        offset: int = 0,
        device: int = 0,
        inode: int = 0,
    ) -> None:
        self.start = start
        self.end = end
        self.prot = prot
        self.shared = shared
        self.noreserve = noreserve
        self.path = path
        self.offset = offset
        self.device = device
        self.inode = inode

    def __repr__(self) -> str:
        letters = "".join(
            c if self.prot & b else "-" for c, b in zip("rwx", (1, 2, 4), strict=True)
        )
        return f"Region({self.start:#x}-{self.end:#x} {letters} {self.path})"

    @property
    def committed(self) -> int:
        """Bytes this region may come to need: private and writable ones, as Linux accounts."""
        if self.prot & WRITE and not self.shared and not self.noreserve:
            return self.end - self.start
        return 0

    def part(self, start: int, end: int) -> Region:
        """The same region limited to [start, end), file offset moved along."""
        return Region(
            start,
            end,
            self.prot,
            shared=self.shared,
            noreserve=self.noreserve,
            path=self.path,
            offset=self.offset + start - self.start if self.inode else self.offset,
            device=self.device,
            inode=self.inode,
        )

    def continues(self, other: Region) -> bool:
        """Whether `other`, which starts at our end, is of the same kind and may be merged."""
        return (
            self.end == other.start
            and self.prot == other.prot
            and self.shared == other.shared
            and self.noreserve == other.noreserve
            and self.path == other.path
            and self.inode == other.inode
            and self.device == other.device
            # A shared anonymous object has an identity of its own that we do not know.
            and (not self.shared or bool(self.inode))
            and (not self.inode or self.offset + self.end - self.start == other.offset)
        )


_start = attrgetter("start")


class RegionMap:
    """Regions sorted by address, never overlapping; `committed` is the sum of their commitments.

    Every change is one assignment to a slice of the list, so that a thread that looks something up
    without a lock sees the map before or after it and never in between. Changes themselves need
    the space's lock.
    """

    __slots__ = ("_regions", "committed")

    def __init__(self) -> None:
        self._regions: list[Region] = []
        self.committed = 0

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions.copy())

    def __len__(self) -> int:
        return len(self._regions)

    def clear(self) -> None:
        """Forget every region."""
        self._regions.clear()
        self.committed = 0

    def at(self, va: int) -> Region | None:
        """The region that holds address `va`, if any."""
        regions = self._regions
        for _ in range(_TRIES):
            index = bisect_right(regions, va, key=_start) - 1
            if index < 0:
                return None
            try:
                region = regions[index]
            except IndexError:  # the list became shorter since the search
                continue
            if region.start <= va < region.end:
                return region
            # The last word only if nothing moved meanwhile.
            if bisect_right(regions, va, key=_start) - 1 == index:
                return None
        return None

    def over(self, start: int, end: int) -> list[Region]:
        """The regions that have a page in [start, end), in order."""
        regions = self._regions
        index = max(bisect_right(regions, start, key=_start) - 1, 0)
        found = []
        for region in regions[index:]:
            if region.start >= end:
                break
            if region.end > start:
                found.append(region)
        return found

    def is_free(self, start: int, end: int) -> bool:
        """Whether nothing is mapped in [start, end)."""
        return not self.over(start, end)

    def allows(self, start: int, end: int, access: int) -> bool:
        """Whether all of [start, end) is mapped with every bit of `access`."""
        for region in self.over(start, end):
            if region.start > start or region.prot & access != access:
                return False
            start = region.end
        return start >= end

    def carve(self, start: int, end: int) -> bool:
        """Remove [start, end); True where any of it was executable."""
        return self._replace(start, end, None)

    def put(self, region: Region) -> bool:
        """Put a region in place of whatever is there, merged with equal neighbours.

        True where any of what it replaced was executable.
        """
        return self._replace(region.start, region.end, region)

    def _replace(self, start: int, end: int, region: Region | None) -> bool:
        regions = self._regions
        touched = self.over(start, end)
        if touched:
            first = bisect_right(regions, touched[0].start, key=_start) - 1
        else:
            first = bisect_right(regions, start, key=_start)
        last = first + len(touched)
        had_code = False
        left: list[Region] = []
        right: list[Region] = []
        for old in touched:
            had_code = had_code or bool(old.prot & EXEC)
            self.committed -= old.committed
            if old.start < start:
                left.append(old.part(old.start, start))
            if old.end > end:
                right.append(old.part(end, old.end))
        self.committed += sum(part.committed for part in (*left, *right))
        if region is not None:
            self.committed += region.committed
            new = region.part(region.start, region.end)
            if not left and first and regions[first - 1].end == start:
                first -= 1
                left.append(regions[first])
            if not right and last < len(regions) and regions[last].start == end:
                right.append(regions[last])
                last += 1
            if left and left[0].continues(new):
                merged = left.pop()
                new = merged.part(merged.start, merged.end)
                new.end = end
            if right and new.continues(right[0]):
                new.end = right.pop().end
            regions[first:last] = [*left, new, *right]
        elif touched:
            regions[first:last] = [*left, *right]
        return had_code

    def highest_gap(self, size: int, bottom: int, top: int) -> int | None:
        """Start of the highest free run of `size` bytes that ends at or below `top`."""
        regions = self._regions
        index = bisect_right(regions, top, key=_start) - 1
        end = top
        while index >= 0:
            region = regions[index]
            if end - region.end >= size and end - size >= bottom:
                return end - size
            end = min(end, region.start)
            if end - size < bottom:
                return None
            index -= 1
        return end - size if end - size >= bottom else None
