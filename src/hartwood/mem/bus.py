"""What answers at a guest-physical address: memory or a device."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from errno import EEXIST, EINVAL
from typing import Protocol

from hartwood.errors import MappingError, MemoryFault
from hartwood.mem.physical import Physical
from hartwood.mem.posted import Posted
from hartwood.mem.ram import Ram
from hartwood.mem.regiontable import Region

#: `read(offset, width)`: what a device gives for `width` bytes (1, 2, 4 or 8).
Reader = Callable[[int, int], int]
#: `write(offset, width, value)`: what a device does with a store.
Writer = Callable[[int, int, int], None]


class Device(Protocol):
    """What can be attached to a bus."""

    @property
    def size(self) -> int:
        """Bytes of address space."""
        ...

    def read(self, offset: int, width: int, /) -> int:
        """A load."""
        ...

    def write(self, offset: int, width: int, value: int, /) -> None:
        """A store."""
        ...


@dataclass(frozen=True)
class _Window:
    at: int
    size: int
    read: Reader
    write: Writer


class Bus(Physical):
    """Guest-physical address space; indexed by slices of addresses it is a buffer of memory."""

    def __init__(self, ram: Ram) -> None:
        super().__init__(ram)
        self._starts: list[int] = []
        self._windows: list[_Window] = []
        #: What was attached, by address.
        self.devices: dict[int, Device] = {}
        #: Have done what waits of posted stores.
        self.flushes: list[Callable[[], None]] = []
        self._posted: list[Posted] = []

    def map(self, at: int, size: int, readonly: bool = False) -> None:
        """Memory at `at`, where a guest's store is an access fault if it is `readonly`; raises
        `MappingError` as `Ram.map` does, or where a device is."""
        self._check(at, size)
        self.ram.map(at, size, readonly)

    def alias(self, at: int, of: int, size: int, readonly: bool = False) -> None:
        """Memory at `at` that is the memory at `of`, which has to be one region's. Raises
        `MappingError`."""
        self._check(at, size)
        self.ram.alias(at, of, size, readonly)

    def protect(self, at: int, size: int, readonly: bool) -> None:
        """Say whether the guest may store to whole pages, also while it runs. Raises
        `MappingError`."""
        self.ram.protect(at, size, readonly)

    def unmap(self, at: int, size: int) -> None:
        """Take memory away, also while the guest runs; a view of it shows what is mapped there
        next. Raises `MappingError`."""
        self.ram.unmap(at, size)

    def give_back(self, at: int, size: int) -> None:
        """Make whole pages zero and let the host have their room, as a balloon does; also while the
        guest runs. Raises `MappingError`."""
        self.ram.give_back(at, size)

    def place(self, at: int, size: int, nodes: Iterable[int] = (), now: bool = False) -> None:
        """Say from which NUMA nodes the host's memory for whole pages comes, and have it come
        `now`; see `Ram.place`. Raises `MappingError`."""
        self.ram.place(at, size, nodes, now)

    def check(self, regions: Sequence[Region]) -> None:
        """Raises `MappingError` where these regions cannot be what is mapped."""
        for each in regions:
            self._check(each.at, each.size)
        self.ram.check(regions)

    def map_io(self, at: int, size: int, read: Reader, write: Writer) -> None:
        """A device at `at`: two callbacks with offsets. Raises `MappingError` for an overlap."""
        self._check(at, size)
        if not self.ram.table.is_free(at, at + size):
            raise MappingError(EEXIST, "map_io", at, size)
        place = bisect_right(self._starts, at)
        self._starts.insert(place, at)
        self._windows.insert(place, _Window(at, size, read, write))

    def attach(self, at: int, device: Device) -> None:
        """Map a device's registers at `at`."""
        self.map_io(at, device.size, device.read, device.write)
        self.devices[at] = device

    def post(self, at: int, width: int) -> Posted:
        """Registers of `width` bytes at `at` that harts reach without a call. Raises
        `MappingError` for too many."""
        window = Posted(at, width)
        self.ram.table.add_window(window.host)
        self._posted.append(window)
        return window

    def _check(self, at: int, size: int) -> None:
        if at < 0 or size <= 0:
            raise MappingError(EINVAL, "map", at, size)
        # Windows do not overlap, so that the last one which begins before the end decides.
        last = bisect_left(self._starts, at + size) - 1
        if last >= 0 and self._windows[last].at + self._windows[last].size > at:
            raise MappingError(EEXIST, "map", at, size)

    def _window(self, at: int, size: int, access: str) -> _Window:
        place = bisect_right(self._starts, at) - 1
        if place >= 0:
            window = self._windows[place]
            if at + size <= window.at + window.size:
                return window
        raise MemoryFault(at, size, access)

    def load(self, at: int, size: int) -> int:
        """What a hart's load of `size` bytes finds on a device. Raises `MemoryFault`."""
        window = self._window(at, size, "read")
        return window.read(at - window.at, size) & (1 << 8 * size) - 1

    def store(self, at: int, size: int, value: int) -> None:
        """What a hart's store does to a device. Raises `MemoryFault`."""
        window = self._window(at, size, "write")
        window.write(at - window.at, size, value & (1 << 8 * size) - 1)

    # Memory as a buffer.
    def _span(self, where: slice | int) -> tuple[int, int]:
        if isinstance(where, int):
            return where, 1
        if where.start is None or where.stop is None or where.step not in (None, 1):
            raise MemoryFault(where.start or 0, 0, "slice")
        return where.start, where.stop - where.start

    def __getitem__(self, where: slice) -> memoryview:
        """Memory between two addresses, without a copy and read-only."""
        start, end, delta = self.ram.near
        try:
            first, last = where.start, where.stop
            if start <= first < last <= end and where.step is None:
                return self.ram.frozen[first + delta : last + delta]
        except (TypeError, AttributeError):
            pass
        at, size = self._span(where)
        place = self.ram.find(at, size)
        return self.ram.frozen[place : place + size]

    def __setitem__(self, where: slice, data: bytes | bytearray | memoryview) -> None:
        """Write memory; the length has to be that of the slice."""
        at, size = self._span(where)
        if size != len(data):
            raise MemoryFault(at, len(data), "write")
        self.ram.write(at, data)
