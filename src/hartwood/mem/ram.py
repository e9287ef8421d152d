"""Guest-physical memory: what is mapped where, one host mapping behind it, and what was decoded.

Generated code reads the memory, the records and the flags by their host addresses; Python and
devices go through `read`, `write` and `view`, which know about decoded code.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from errno import EINVAL, ENOMEM
from typing import Literal

from hartwood.errors import MappingError, MemoryFault
from hartwood.mem import hostmem, versions
from hartwood.mem.hostmem import MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PAGE
from hartwood.mem.regiontable import Region, RegionTable, check_pages

_READ_WRITE = hostmem.PROT_READ | hostmem.PROT_WRITE
_FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
_DONTNEED, _POPULATE_WRITE = 4, 23
#: Bit of a page's flag: code made from it is stitched into units, which go all at once.
STITCHED = 0x80
#: Where nothing is: start, end, what an address needs to be an offset.
_NOWHERE = 1 << 64, 0, 0
#: Letters that `struct` has for unsigned numbers of so many bytes.
FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
#: A region as numbers of one size: its first address, a view for each remainder that an address
#: leaves, and the flags of its pages. An index is an address divided by the size, or by `PAGE`, so
#: that the end is what Python checks anyway and only what is below the first address is not.
Numbers = tuple[int, tuple[memoryview, ...], memoryview]
_NO_NUMBERS: Numbers = 1 << 64, (), memoryview(b"")
#: Regions and sizes whose numbers are kept.
_KEPT = 64


def stitched_pages(flags: memoryview) -> list[int]:
    """The pages whose flags say that they have stitched code."""
    return [page for page, flag in enumerate(bytes(flags)) if flag & STITCHED]


class Ram:
    """The memory of one machine, at most `capacity` bytes of it.

    `record_bytes` is what a page's decoded code takes.
    """

    def __init__(self, capacity: int = 4 << 30, record_bytes: int = 0) -> None:
        """Reserve address space. Raises `MappingError` where the host has none."""
        self.capacity = capacity
        self.pages = capacity // PAGE
        self.host = hostmem.map_huge(capacity, _READ_WRITE, _FLAGS)
        self.flags_at = hostmem.mmap(0, self.pages, _READ_WRITE, _FLAGS)
        self._records_size = max(PAGE, self.pages * record_bytes)
        self.records = hostmem.mmap(0, self._records_size, _READ_WRITE, _FLAGS)
        self.table = RegionTable()
        self.table_at = self.table.at
        #: What is mapped, by address.
        self.regions = self.table.regions
        #: The region that was used last: start, end, and what makes an address an offset.
        self.near = _NOWHERE
        #: Forgets what was decoded from (offset, size) within a page: a hart's business.
        self.forget: Callable[[int, int], object] | None = None
        #: Asks a hart to forget its translations; gives what says whether it has. One a hart.
        self.translations: list[Callable[[], Callable[[], bool]]] = []
        #: Called when the memory is given back.
        self.at_close: list[Callable[[], None]] = []
        self.flags = hostmem.view(self.flags_at, self.pages)
        self.memory = hostmem.view(self.host, capacity)
        self.frozen = self.memory.toreadonly()
        #: The region whose numbers of so many bytes were used last, for `numbers_at`.
        self.numbers = {size: [_NO_NUMBERS] for size in FORMATS}
        self._kept: dict[tuple[int, int], Numbers] = {}
        self._asked: set[tuple[int, int]] = set()
        #: Bytes that were ever mapped; free parts of them, by offset.
        self._used = 0
        self._free: list[tuple[int, int]] = []
        self._aliased = False
        self._changing = threading.Lock()
        #: What the memory is mapped from once there was a snapshot.
        self._store: versions.Store | None = None

    def map(self, at: int, size: int, readonly: bool = False) -> Region:
        """Put `size` bytes of zeros at guest-physical `at`, both multiples of 4096. The guest
        cannot write where it is `readonly`; Python can.

        Raises `MappingError`: EINVAL for what is no whole page, EEXIST for an overlap, ENOMEM for
        more than the capacity or `REGIONS` regions.
        """
        self._check(at, size, "map")
        with self._changing:
            index, offset = self._room(at, size)
            region = Region(at, size, offset, readonly)
            self.table.add(region, "map")
            if index is None:
                self._used += size
            else:
                _, length = self._free.pop(index)
                if length > size:
                    self._free.insert(index, (offset + size, length - size))
        self._forget_translations()  # harts may remember that there is a device
        return region

    def _room(self, at: int, size: int) -> tuple[int | None, int]:
        """Where memory is free: an index of `_free` or None, and the offset."""
        for index, (offset, length) in enumerate(self._free):
            if length >= size:
                return index, offset
        if self._used + size > self.capacity:
            raise MappingError(ENOMEM, "map", at, size)
        return None, self._used

    def _check(self, at: int, size: int, call: str) -> None:
        check_pages(at, size, call)
        if self.closed:
            raise MappingError(EINVAL, call, at, size)

    def alias(self, at: int, of: int, size: int, readonly: bool = False) -> Region:
        """Make the memory at `of`, which is one region's, answer at `at` as well. Raises
        `MappingError` as `map` does, and ENOMEM where there is no memory at `of`."""
        self._check(at, size, "alias")
        self._check(of, size, "alias")
        with self._changing:
            source = self.table.find(of)
            if source is None or of + size > source.end:
                raise MappingError(ENOMEM, "alias", of, size)
            region = Region(at, size, source.offset + of - source.at, readonly)
            self.table.add(region, "alias")
            self._aliased = True
        self._forget_translations()
        return region

    def protect(self, at: int, size: int, readonly: bool) -> None:
        """Say whether the guest may write to whole pages, from now on: when this comes back, no
        hart does. Raises `MappingError`: EINVAL as `map` does, ENOMEM where not all is mapped."""
        self._check(at, size, "protect")
        with self._changing:
            self.table.carve(at, size, "protect", readonly)
        if readonly:
            self._forget_translations()

    def unmap(self, at: int, size: int) -> None:
        """Take memory away; what nothing else maps is lost. Raises `MappingError` as `protect`."""
        self._check(at, size, "unmap")
        with self._changing:
            gone = self.table.carve(at, size, "unmap")
            self._leave()
        self._forget_translations()
        with self._changing:
            self._leave()
            for region in gone:
                for offset, length in self._unused(region.offset, region.size):
                    self._give_up(offset, length)

    def give_back(self, at: int, size: int) -> None:
        """Make whole pages zero, also while harts run, and forget what was decoded from them; the
        host has their room until they are written to again, after a snapshot from the next
        `clear` on. Raises `MappingError` as `protect`."""
        with self._changing:
            for offset, length in self._held(at, size, "give_back"):
                self._zero(offset, length)
                self.discard_at(offset, length)  # what a hart decodes after this is zeros

    def place(self, at: int, size: int, nodes: Iterable[int] = (), now: bool = False) -> None:
        """Have the host take what it gives to whole pages, and has not given yet, from its NUMA
        `nodes`, by turns where there are several; with `now` it gives all of it, so that no hart
        waits for it. A snapshot ends both. Raises `MappingError` as `protect`, or the host's."""
        nodes = tuple(nodes)
        with self._changing:
            for offset, length in self._held(at, size, "place"):
                if nodes:
                    hostmem.place(self.host + offset, length, nodes)
                if now:
                    hostmem.madvise(self.host + offset, length, _POPULATE_WRITE)

    def _held(self, at: int, size: int, call: str) -> list[tuple[int, int]]:
        """Offsets and lengths of what is mapped there; the caller holds `_changing`."""
        self._check(at, size, call)
        try:
            return [(offset, length) for offset, length, _ in self.pieces(at, size, call)]
        except MemoryFault as fault:
            raise MappingError(ENOMEM, call, fault.address, fault.size) from None

    def _leave(self) -> None:
        """Forget what was used last; the caller holds `_changing`."""
        self.near = _NOWHERE
        self._asked.clear()
        self._kept.clear()
        for last in self.numbers.values():
            last[0] = _NO_NUMBERS

    def numbers_at(self, at: int, size: int) -> Numbers:
        """Numbers of the region at `at`, which are `numbers[size]` from now on; none of no region,
        or where nobody asked for them of late: to make them takes as long as some reads."""
        with self._changing:
            region = self.table.find(at)
            if region is None:
                return _NO_NUMBERS
            key = size, region.at
            found = self._kept.get(key)
            if found is None:
                if len(self._asked) >= _KEPT:
                    self._asked.clear()
                    self._kept.clear()
                if key not in self._asked:
                    self._asked.add(key)
                    return _NO_NUMBERS
                found = self._kept[key] = self._numbers(region, size)
            self.numbers[size][0] = found
            return found

    def _numbers(self, region: Region, size: int) -> Numbers:
        whole = hostmem.view_at(self.host + region.offset, region.at, region.size)
        flags = hostmem.view_at(
            self.flags_at + region.offset // PAGE, region.at // PAGE, region.size // PAGE
        )
        views = [whole[n : region.end - (-n % size)].cast(FORMATS[size]) for n in range(size)]
        return region.at, tuple(views), flags

    def _forget_translations(self) -> None:
        """Wait until no hart uses the map as it was. One that runs this itself is asked again and
        again, so that two of them do not wait for each other."""
        asked = [ask() for ask in self.translations]
        while False in [done() for done in asked]:
            time.sleep(0)

    def _unused(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Parts of the host mapping that no region has any more."""
        end, taken = offset + size, self.regions if self._aliased else ()
        for start, length in sorted((each.offset, each.size) for each in taken):
            if start < end and offset < start + length:
                if offset < start:
                    yield offset, start - offset
                offset = start + length
        if offset < end:
            yield offset, end - offset

    def _give_up(self, offset: int, size: int) -> None:
        """Memory is free: zero, without code, joined to what is free beside it."""
        self.discard_at(offset, size)
        self._zero(offset, size)
        insort(self._free, (offset, size))
        index = self._free.index((offset, size))
        for left in (index, index - 1):
            if 0 <= left < len(self._free) - 1:
                (start, length), (second, more) = self._free[left : left + 2]
                if start + length == second:
                    self._free[left : left + 2] = [(start, length + more)]

    def _zero(self, offset: int, size: int) -> None:
        if self._store is None:
            hostmem.madvise(self.host + offset, size, _DONTNEED)
        else:
            hostmem.fill(self.host + offset, size, 0)

    def check(self, regions: Sequence[Region]) -> None:
        """Raises `MappingError` for what `adopt` cannot take."""
        for each in regions:
            self._check(each.at, each.size, "map")
            if each.offset % PAGE or not 0 <= each.offset <= self.capacity - each.size:
                raise MappingError(EINVAL, "map", each.at, each.size)
        RegionTable.ordered(regions)

    def adopt(self, regions: Sequence[Region]) -> None:
        """Map these and nothing else, at their offsets, without a change to what memory holds. No
        hart may run. Raises `MappingError`, with nothing changed."""
        self.check(regions)
        with self._changing:
            self.table.replace(regions)
            self._leave()
            self._used = max((each.offset + each.size for each in regions), default=0)
            self._aliased = True
            self._free = list(self._unused(0, self._used))
            self._aliased = (
                sum(each.size for each in regions) + sum(size for _, size in self._free)
                != self._used
            )
        self._forget_translations()

    def add_hart(self, state: int) -> None:
        """A hart, whose state is at this host address, uses this memory from now on."""
        self.table.add_hart(state)

    def find(self, at: int, size: int, access: str = "read") -> int:
        """Offset into the host mapping of `size` bytes at `at`, in one region. Raises
        `MemoryFault`, for a guest's "store" to what is read-only as well."""
        region = self.table.find(at)
        if region is None or size < 0 or at + size > region.end:
            raise MemoryFault(at, size, access)
        if region.readonly and access == "store":
            raise MemoryFault(at, size, access)
        self.near = region.at, region.end, region.offset - region.at
        return region.offset + at - region.at

    def pieces(self, at: int, size: int, access: str) -> Iterator[tuple[int, int, int]]:
        """Offset, length and place of what is in one region each. Raises `MemoryFault` where there
        is no memory: with that address, what is left, and what was done."""
        done = 0
        while done < size or size < 0:
            region = self.table.find(at + done) if size > 0 else None
            if region is None:
                raise MemoryFault(at + done, size - done, access, done)
            length = min(size - done, region.end - at - done)
            yield region.offset + at + done - region.at, length, done
            done += length

    def read(self, at: int, size: int) -> bytes:
        """A copy of `size` bytes. Raises `MemoryFault` outside memory."""
        start = self.find(at, size)
        return bytes(self.memory[start : start + size])

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        """Write, and forget what was decoded from there. Raises `MemoryFault` outside memory."""
        self.put(self.find(at, len(data), "write"), data)

    def store(self, at: int, data: bytes) -> None:
        """A guest's store. Raises `MemoryFault` outside memory and where it is read-only."""
        self.put(self.find(at, len(data), "store"), data)

    def put(self, start: int, data: bytes | bytearray | memoryview) -> None:
        """Write at an offset that `find` or `pieces` gave."""
        self.memory[start : start + len(data)] = data
        self.discard_at(start, len(data))

    def view(self, at: int, size: int) -> memoryview:
        """The memory itself, for reading and writing. What was decoded from it is forgotten now;
        whoever writes later than that, to code that has run meanwhile, calls `discard`."""
        start = self.find(at, size)
        self.discard_at(start, size)
        return self.memory[start : start + size]

    def discard(self, at: int, size: int) -> None:
        """Forget what was decoded from `size` bytes at `at`. Raises `MemoryFault`."""
        self.discard_at(self.find(at, size), size)

    def discard_at(self, start: int, size: int) -> None:
        """Forget what was decoded from `size` bytes at an offset."""
        first, last = start // PAGE, (start + size - 1) // PAGE
        if not size or (first == last and not self.flags[first]):
            return
        if not any(self.flags[first : last + 1]):
            return
        assert self.forget is not None, "code was decoded, so a hart came"
        for page in range(first, last + 1):
            if self.flags[page]:
                low, high = max(start, page * PAGE), min(start + size, (page + 1) * PAGE)
                self.forget(low, high - low)

    def forget_stitched(self) -> None:
        """Forget what was decoded on every page that has stitched code. No hart may run."""
        for page in stitched_pages(self.flags):
            assert self.forget is not None
            self.forget(page * PAGE, PAGE)

    def clear(self) -> None:
        """Make all memory zero again and forget all code. No hart may run."""
        self._map_from(None)
        for at, size in ((self.flags_at, self.pages), (self.records, self._records_size)):
            hostmem.madvise(at, size, _DONTNEED)

    # Snapshots. No hart may run meanwhile.
    def _map_from(self, store: versions.Store | None) -> None:
        """Make the memory what a store holds, or zero, at the same host address."""
        if store is None:
            hostmem.mmap(self.host, self.capacity, _READ_WRITE, _FLAGS | hostmem.MAP_FIXED)
        elif store is self._store:
            hostmem.madvise(self.host, self.capacity, _DONTNEED)
        else:
            flags = MAP_PRIVATE | MAP_NORESERVE | hostmem.MAP_FIXED
            hostmem.mmap(self.host, self.capacity, _READ_WRITE, flags, store.fd)
        if self._store is not None and store is not self._store:
            self._store.user = None
        if store is not None:
            store.user = self
        self._store = store

    def _written(self, first: int, last: int) -> bytes:
        """A byte for each page: whether it may differ from what the store holds."""
        marks = versions.written(self.host, first, last)
        if marks is not None:
            return marks
        if self._store is None:
            return b"\1" * (last - first)
        store = self._store
        return bytes(
            self.memory[page * PAGE : (page + 1) * PAGE] != store.read(page, 1)
            for page in range(first, last)
        )

    def snapshot(self) -> versions.Version:
        """What the memory holds now. Only what was written since the last snapshot or `restore`
        is copied. Raises `VersionError`, with nothing changed, where the host has no room."""
        store = self._store or versions.Store(self.pages)
        runs = versions.marked(self._written(0, self._used // PAGE))
        version = store.commit(
            (first, self.memory[first * PAGE : last * PAGE]) for first, last in runs
        )
        self._map_from(store)
        return version

    def restore(self, version: versions.Version) -> None:
        """Become what the memory was, or another memory as large; what was decoded from pages
        that change is forgotten, and every hart has to forget its translations. Raises
        `VersionError` with nothing changed."""
        if version.store.pages != self.pages or self.closed:
            raise versions.VersionError(
                f"a snapshot of {version.store.pages} pages does not fit a memory of {self.pages}"
            )
        if not version.store.claim(self):
            version = versions.Store.of(self.pages, version.pieces())
        store, flags = version.store, bytes(self.flags[: self._used // PAGE])
        try:
            changed = store.reroot(version)
        except versions.VersionError:
            store.user = self if store is self._store else None
            raise
        code: list[int] = []
        for first, last in versions.marked(flags):
            marks = self._written(first, last) if store is self._store else b"\1" * (last - first)
            code += [n for n in range(first, last) if marks[n - first] or n in changed]
        self._map_from(store)
        for page in code:
            self.discard_at(page * PAGE, PAGE)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self.records

    def close(self) -> None:
        """Give the memory back. No hart may run any more. Views that somebody still has read as
        zero from now on: their address space stays, because using them must not crash."""
        if self.records:
            for call in self.at_close:
                call()
            hostmem.munmap(self.records, self._records_size)
            self.table.close()
            self._map_from(None)
            hostmem.munmap(self.flags_at, self.pages)
            self.records = 0
            with self._changing:
                self._leave()
