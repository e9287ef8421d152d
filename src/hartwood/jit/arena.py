"""Where generated code lives: one reserved range of host addresses, filled image by image.

Pages are writable or executable, never both, and a page is never touched again once another
thread may run it. The range is private memory, so that after a fork parent and child each install
what they like without the other seeing it.
"""

from __future__ import annotations

from _thread import allocate_lock

from hartwood.errors import ArenaError, ArenaFull, MappingError
from hartwood.mem import hostmem
from hartwood.mem.hostmem import PAGE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from hartwood.jit.image import Image

SIZE = 256 << 20

# The native table that the fault handler searches: a count, then one entry an image, sorted by
# address because images are placed upwards.
COUNT_AT = 0
ENTRIES_AT = 64
ENTRY = 32
ENTRY_START, ENTRY_END, ENTRY_FAULTS, ENTRY_FAULT_COUNT = 0, 8, 16, 24

#: Images begin on lines of the host's caches.
_LINE = 64

_FLAGS = hostmem.MAP_PRIVATE | hostmem.MAP_ANONYMOUS | hostmem.MAP_NORESERVE
_DONTNEED = 4


def reserve(size: int, prot: int = PROT_READ | PROT_WRITE) -> int:
    """Address of `size` bytes of private zero memory that costs nothing until it is touched.

    Raises `ArenaError` where the host refuses (an address-space limit, say).
    """
    try:
        return hostmem.mmap(0, size, prot, _FLAGS)
    except MappingError as reason:
        raise ArenaError(f"no address space for {size >> 10} KiB: {reason}") from None


class CodeArena:
    """A bounded range of host memory that holds images, and the table of their faults.

    `base` and `size` are the range, `table` the address of the native table, `used` the number of
    bytes taken. `install`, `keep` and `reset` may be called from any thread; `reset` only
    while no thread is inside code that it frees. A fork must hold `lock`.
    """

    def __init__(self, size: int = SIZE) -> None:
        """Reserve `size` bytes. Raises `ArenaError` where the host refuses."""
        if size <= 0 or size % PAGE:
            raise ArenaError(f"an arena of {size} bytes is not a whole number of pages")
        self.size = size
        self.lock = allocate_lock()
        self.base = reserve(size, PROT_NONE)
        # Images are half a page and more on average; the table is as long as that allows.
        self._most = 2 * size // PAGE
        self._table_size = ENTRIES_AT + ENTRY * self._most
        self.table = reserve(self._table_size)
        self._words = hostmem.view(self.table, self._table_size).cast("Q")
        self._count = 0
        #: Where the last image ended, and the page after it.
        self._next = self._top = self.base
        self._kept = (0, self.base)

    @property
    def used(self) -> int:
        """Bytes of the range that hold images."""
        return self._top - self.base

    def install(
        self, image: Image, slots: Mapping[str, int] | None = None, *, alone: bool = False
    ) -> int:
        """Copy an image in, fill its slots, make it executable; gives its address, a multiple of
        64. With `alone` no other thread may be inside generated code: then the image may begin on
        the page where the last one ended. Small images that each begin a page of their own would
        compete for the same few sets of the host's instruction cache.

        Raises `ArenaFull` when it does not fit any more and `ArenaError` when `slots` does not
        name exactly the image's slots, or the host refuses memory.
        """
        values = slots or {}
        if values.keys() != image.slots.keys():
            names = ", ".join(sorted(values.keys() ^ image.slots.keys()))
            raise ArenaError(f"slots of the image and their values differ: {names}")
        code, faults = image.code, image.faults
        faults_at = (len(code) + 7) & -8
        size = (faults_at + len(faults) + _LINE - 1) & -_LINE or _LINE
        with self.lock:
            at = self._next if alone else self._top
            end = (at + size + PAGE - 1) & -PAGE
            if end > self.base + self.size or self._count == self._most:
                raise ArenaFull(f"no room for {size >> 10} KiB of code in {self.size >> 20} MiB")
            first = at & -PAGE
            try:
                # Nobody is running on these pages, so writing is safe; and they become
                # executable only when they are complete.
                hostmem.mprotect(first, end - first, PROT_READ | PROT_WRITE)
                room = hostmem.view(at, size)
                room[: len(code)] = code
                room[faults_at : faults_at + len(faults)] = faults
                for name, value in values.items():
                    start = image.slots[name]
                    room[start : start + 8] = value.to_bytes(8, "little")
                hostmem.mprotect(first, end - first, PROT_READ | PROT_EXEC)
            except MappingError as reason:
                raise ArenaError(f"no memory for {size >> 10} KiB of code: {reason}") from None
            self._publish(at, at + size, at + faults_at, len(faults) // 8)
            self._next, self._top = at + size, end
        return at

    def claim(self, size: int, faults: int) -> tuple[int, int]:
        """Take `size` bytes, writable and executable, for code that is made in place, whose faults
        somebody keeps in a table at `faults`; gives their address and that of the native count of
        faults. Raises `ArenaFull` or `ArenaError`."""
        with self.lock:
            at = self._top
            if at + size > self.base + self.size or self._count == self._most:
                raise ArenaFull(f"no room for {size >> 10} KiB of code in {self.size >> 20} MiB")
            try:
                hostmem.mprotect(at, size, PROT_READ | PROT_WRITE | PROT_EXEC)
            except MappingError as reason:
                raise ArenaError(f"no memory for {size >> 10} KiB of code: {reason}") from None
            count = self.table + ENTRIES_AT + ENTRY * self._count + ENTRY_FAULT_COUNT
            self._publish(at, at + size, faults, 0)
            self._next = self._top = at + size
        return at, count

    def _publish(self, start: int, end: int, faults: int, count: int) -> None:
        """Append to the native table: the entry first, the count after it. The handler may run
        at any point between these stores; x86 keeps them in order (SDM 3, 9.2.2)."""
        at = (ENTRIES_AT + ENTRY * self._count) // 8
        words = self._words
        words[at], words[at + 1], words[at + 2], words[at + 3] = start, end, faults, count
        self._count += 1
        words[COUNT_AT] = self._count

    def keep(self) -> None:
        """Let what is installed so far survive every later `reset`."""
        with self.lock:
            self._kept = self._count, self._top

    def reset(self) -> None:
        """Free every image that `keep` did not keep. No thread may be executing them.

        The entries that stay do not move, and what a concurrent search may still see above them
        has higher addresses, so a search for code that was kept stays right.
        """
        with self.lock:
            count, top = self._kept
            if top == self._top:
                return
            self._words[COUNT_AT] = self._count = count
            try:
                hostmem.mprotect(top, self._top - top, PROT_NONE)
                hostmem.madvise(top, self._top - top, _DONTNEED)
            except MappingError as reason:
                raise ArenaError(f"the host does not take code back: {reason}") from None
            self._next = self._top = top

    def find(self, address: int) -> tuple[int, int] | None:
        """Start and end of the image that holds a host address, or None."""
        low, high = 0, self._count
        words = self._words
        while low < high:
            middle = (low + high) // 2
            if words[(ENTRIES_AT + ENTRY * middle) // 8] <= address:
                low = middle + 1
            else:
                high = middle
        at = (ENTRIES_AT + ENTRY * (low - 1)) // 8
        if not low or address >= words[at + 1]:
            return None
        return words[at], words[at + 1]

    def close(self) -> None:
        """Give the range and the table back to the host. Nothing of it may be used any more."""
        with self.lock:
            if self.size:
                self._words.release()
                hostmem.munmap(self.base, self.size)
                hostmem.munmap(self.table, self._table_size)
                self.size = 0
