"""The sorted list of what a guest has mapped: who is where, with which protection.

Bookkeeping only, no host calls; the truth for /proc/self/maps, free-space search and the
accounting of committed memory.
"""

from __future__ import annotations

from bisect import bisect_right

PAGE = 4096
READ, WRITE, EXEC = 1, 2, 4

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


class RegionMap:
    """Regions sorted by address, never overlapping; `committed` is the sum of their commitments."""

    __slots__ = ("_regions", "_starts", "committed")

    def __init__(self) -> None:
        self._regions: list[Region] = []
        self._starts: list[int] = []
        self.committed = 0

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions)

    def __len__(self) -> int:
        return len(self._regions)

    def clear(self) -> None:
        """Forget every region."""
        self._regions.clear()
        self._starts.clear()
        self.committed = 0

    def at(self, va: int) -> Region | None:
        """The region that holds address `va`, if any."""
        index = bisect_right(self._starts, va) - 1
        if index >= 0:
            region = self._regions[index]
            if va < region.end:
                return region
        return None

    def over(self, start: int, end: int) -> list[Region]:
        """The regions that have a page in [start, end), in order."""
        index = bisect_right(self._starts, start) - 1
        if index < 0 or self._regions[index].end <= start:
            index += 1
        found = []
        regions = self._regions
        while index < len(regions) and regions[index].start < end:
            found.append(regions[index])
            index += 1
        return found

    def is_free(self, start: int, end: int) -> bool:
        """Whether nothing is mapped in [start, end)."""
        index = bisect_right(self._starts, start) - 1
        regions = self._regions
        if index >= 0 and regions[index].end > start:
            return False
        return index + 1 >= len(regions) or regions[index + 1].start >= end

    def allows(self, start: int, end: int, access: int) -> bool:
        """Whether all of [start, end) is mapped with every bit of `access`."""
        for region in self.over(start, end):
            if region.start > start or region.prot & access != access:
                return False
            start = region.end
        return start >= end

    def carve(self, start: int, end: int) -> bool:
        """Remove [start, end); True where any of it was executable."""
        had_code = False
        touched = self.over(start, end)
        if not touched:
            return False
        first = bisect_right(self._starts, touched[0].start) - 1
        rest: list[Region] = []
        for region in touched:
            had_code = had_code or bool(region.prot & EXEC)
            self.committed -= region.committed
            if region.start < start:
                rest.append(region.part(region.start, start))
            if region.end > end:
                rest.append(region.part(end, region.end))
        self.committed += sum(region.committed for region in rest)
        self._regions[first : first + len(touched)] = rest
        self._starts[first : first + len(touched)] = [region.start for region in rest]
        return had_code

    def insert(self, region: Region) -> None:
        """Add a region in a free place, merged with equal neighbours."""
        index = bisect_right(self._starts, region.start)
        regions, starts = self._regions, self._starts
        self.committed += region.committed
        if index < len(regions) and region.continues(regions[index]):
            region.end = regions[index].end
            del regions[index], starts[index]
        if index and regions[index - 1].continues(region):
            regions[index - 1].end = region.end
            return
        regions.insert(index, region)
        starts.insert(index, region.start)

    def highest_gap(self, size: int, bottom: int, top: int) -> int | None:
        """Start of the highest free run of `size` bytes that ends at or below `top`."""
        regions = self._regions
        index = bisect_right(self._starts, top) - 1
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
