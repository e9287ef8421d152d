"""Guest-physical memory: what is mapped where, one host mapping behind it, and what was decoded.

Generated code reads the memory, the records and the flags by their host addresses; Python and
devices go through `read`, `write` and `view`, which know about decoded code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENOMEM

from hartwood.errors import MappingError, MemoryFault
from hartwood.mem import hostmem, versions
from hartwood.mem.hostmem import MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PAGE

_READ_WRITE = hostmem.PROT_READ | hostmem.PROT_WRITE
_FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
_DONTNEED = 4
#: Regions that a machine can have, and harts. Generated code finds a table: three words a region
#: (address, size, offset), a lock, and a word for each hart, which is zero or where its state is.
REGIONS, HARTS = 8, 64
#: Bit of a page's flag: code made from it is stitched into units, which go all at once.
STITCHED = 0x80
LOCK_AT = 24 * REGIONS
HARTS_AT = LOCK_AT + 8


@dataclass(frozen=True)
class Region:
    """`size` bytes at guest-physical `at`, `offset` bytes into the host mapping."""

    at: int
    size: int
    offset: int


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
        #: What is mapped, in no order.
        self.regions: list[Region] = []
        #: Forgets what was decoded from (offset, size) within a page: a hart's business.
        self.forget: Callable[[int, int], object] | None = None
        #: Called when the memory is given back.
        self.at_close: list[Callable[[], None]] = []
        self.table_at = hostmem.mmap(0, PAGE, _READ_WRITE, _FLAGS)
        self._table = hostmem.view(self.table_at, PAGE).cast("Q")
        self._flags = hostmem.view(self.flags_at, self.pages)
        self._memory = hostmem.view(self.host, capacity)
        self._used = 0
        #: What the memory is mapped from once there was a snapshot.
        self._store: versions.Store | None = None

    def check(self, places: Sequence[tuple[int, int]]) -> None:
        """Raises what `map` would if these were mapped one after the other."""
        taken, room = [(each.at, each.size) for each in self.regions], self.capacity - self._used
        for at, size in places:
            if (
                self.closed
                or at % PAGE
                or size % PAGE
                or size <= 0
                or at < 0
                or at + size > 1 << 56
            ):
                raise MappingError(EINVAL, "map", at, size)
            if any(at < start + length and start < at + size for start, length in taken):
                raise MappingError(EEXIST, "map", at, size)
            taken.append((at, size))
            room -= size
            if room < 0 or len(taken) > REGIONS:
                raise MappingError(ENOMEM, "map", at, size)

    def map(self, at: int, size: int) -> Region:
        """Put `size` bytes of zeros at guest-physical `at`, both multiples of 4096.

        Raises `MappingError`: EINVAL for what is no whole page, EEXIST for an overlap, ENOMEM for
        more than the capacity or `REGIONS` regions.
        """
        self.check([(at, size)])
        region = Region(at, size, self._used)
        place = 3 * len(self.regions)
        # A region without a size is looked past, so the size comes last.
        self._table[place + 2], self._table[place] = self._used, at
        self._table[place + 1] = size
        self._used += size
        self.regions.append(region)
        return region

    def add_hart(self, state: int) -> None:
        """A hart, whose state is at this host address, uses this memory from now on."""
        place = HARTS_AT // 8
        while self._table[place]:
            place += 1
        if place == HARTS_AT // 8 + HARTS - 1:  # the list ends with a zero
            raise MappingError(ENOMEM, "add_hart", state, 0)
        self._table[place] = state

    def find(self, at: int, size: int, access: str = "read") -> int:
        """Offset into the host mapping of `size` bytes at `at`. Raises `MemoryFault`."""
        for region in self.regions:
            if region.at <= at and size >= 0 and at + size <= region.at + region.size:
                return region.offset + at - region.at
        raise MemoryFault(at, size, access)

    def read(self, at: int, size: int) -> bytes:
        """A copy of `size` bytes. Raises `MemoryFault` outside memory."""
        start = self.find(at, size)
        return bytes(self._memory[start : start + size])

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        """Write, and forget what was decoded from there. Raises `MemoryFault` outside memory."""
        start = self.find(at, len(data), "write")
        self._memory[start : start + len(data)] = data
        self._discard(start, len(data))

    def view(self, at: int, size: int) -> memoryview:
        """The memory itself, for reading and writing. What was decoded from it is forgotten now;
        whoever writes later than that, to code that has run meanwhile, calls `discard`."""
        start = self.find(at, size)
        self._discard(start, size)
        return self._memory[start : start + size]

    def discard(self, at: int, size: int) -> None:
        """Forget what was decoded from `size` bytes at `at`. Raises `MemoryFault`."""
        self._discard(self.find(at, size), size)

    def _discard(self, start: int, size: int) -> None:
        first, last = start // PAGE, (start + size - 1) // PAGE
        if not size or not any(self._flags[first : last + 1]):
            return
        assert self.forget is not None, "code was decoded, so a hart came"
        for page in range(first, last + 1):
            if self._flags[page]:
                low, high = max(start, page * PAGE), min(start + size, (page + 1) * PAGE)
                self.forget(low, high - low)

    def forget_stitched(self) -> None:
        """Forget what was decoded on every page that has stitched code. No hart may run."""
        for page in (i for i, flag in enumerate(bytes(self._flags)) if flag & STITCHED):
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
            self._memory[page * PAGE : (page + 1) * PAGE] != store.read(page, 1)
            for page in range(first, last)
        )

    def snapshot(self) -> versions.Version:
        """What the memory holds now. Only what was written since the last snapshot or `restore`
        is copied. Raises `VersionError`, with nothing changed, where the host has no room."""
        store = self._store or versions.Store(self.pages)
        runs = versions.marked(self._written(0, self._used // PAGE))
        version = store.commit(
            (first, self._memory[first * PAGE : last * PAGE]) for first, last in runs
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
        store, flags = version.store, bytes(self._flags[: self._used // PAGE])
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
            self._discard(page * PAGE, PAGE)

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
            hostmem.munmap(self.table_at, PAGE)
            self._map_from(None)
            hostmem.munmap(self.flags_at, self.pages)
            self.records = 0
            self.regions.clear()
