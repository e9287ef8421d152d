"""Pools of things that are costly to make: each is handed out once at a time, up to a hard limit.

The one module of this room that `storage` may use. Threads may share a pool.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, mmap
from threading import Lock
from typing import Generic, Protocol, TypeVar

from hartwood.errors import PoolExhausted, PoolMisuse

T = TypeVar("T")
#: A TLB entry of the soft MMU: tag and addend (docs/design.md), two 8-byte words.
TLB_WORDS = 2
PAGE = 4096


class MemoryPool(Protocol[T]):
    """What every pool does."""

    def acquire(self) -> T:
        """An item nobody else holds; its content is undefined. Raises `PoolExhausted`."""
        ...

    def release(self, item: T) -> None:
        """Give back an item that `acquire` returned. Raises `PoolMisuse` for any other."""
        ...


class StackPool(Generic[T]):
    """Items made by `factory` when first needed, reused last in, first out: the warm one.

    At most `capacity` items exist at a time. An item is known by its identity, so `factory` may
    return objects that compare equal, but never the same one twice while it is held.
    """

    def __init__(self, *, capacity: int, factory: Callable[[], T]) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; a pool holds at least 1 item")
        self.capacity = capacity
        self._factory = factory
        self._free: list[T] = []
        # Keeping the item keeps its id() from being given to another object.
        self._used: dict[int, T] = {}
        self._made = 0
        self._lock = Lock()

    def acquire(self) -> T:
        """An item nobody else holds. Raises `PoolExhausted` at `capacity`."""
        try:
            # Each of these is one step for other threads, so that a lock would only cost time.
            item = self._free.pop()
        except IndexError:
            return self._make()
        self._used[id(item)] = item
        return item

    def _make(self) -> T:
        with self._lock:
            if self._made >= self.capacity:
                raise PoolExhausted(
                    f"all {self.capacity} items of a {type(self).__name__} are in use; "
                    "release one or raise capacity="
                )
            self._made += 1
        # Outside the lock: a factory may be slow, fail, or use the pool itself.
        try:
            item = self._factory()
            with self._lock:
                if id(item) in self._used:
                    raise PoolMisuse(f"factory= of a {type(self).__name__} returned one item twice")
                self._used[id(item)] = item
        except BaseException:
            with self._lock:
                self._made -= 1
            raise
        return item

    def release(self, item: T) -> None:
        """Give `item` back. Raises `PoolMisuse` when it is not out: released twice, or foreign."""
        if self._used.pop(id(item), None) is None:
            raise PoolMisuse(
                f"a {type(self).__name__} did not hand out this item, or has it back already"
            )
        self._free.append(item)

    @property
    def in_use(self) -> int:
        """How many items are out."""
        return len(self._used)


class TlbEntryPool(StackPool["array[int]"]):
    """TLB arrays of `size` entries, each of `TLB_WORDS` 8-byte words, recycled between harts.

    What comes from `acquire` holds no valid entry: every word is all ones, which no tag equals.
    """

    def __init__(self, *, capacity: int, size: int = 256) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; a TLB has at least 1 entry")
        self._empty = array("Q", [0xFFFFFFFFFFFFFFFF]) * (size * TLB_WORDS)
        self.size = size
        super().__init__(capacity=capacity, factory=lambda: array("Q", self._empty))

    def acquire(self) -> array[int]:
        """An empty TLB: a stale entry would lead one address space into another."""
        item = super().acquire()
        item[:] = self._empty
        return item

    def release(self, item: array[int]) -> None:
        """Give a TLB back. Raises `PoolMisuse`, also when its length was changed."""
        if len(item) != len(self._empty):
            raise PoolMisuse(f"a TLB of {len(self._empty)} words comes back with {len(item)}")
        super().release(item)


class PageTableEntryPool(StackPool[memoryview]):
    """Pages for page tables: 4 KiB of zeros, 512 entries of 8 bytes (Priv. 10.3, PTEs of Sv39)."""

    def __init__(self, *, capacity: int) -> None:
        super().__init__(capacity=capacity, factory=lambda: memoryview(bytearray(PAGE)))

    def acquire(self) -> memoryview:
        """A page of zeros: an entry of zero is invalid."""
        page = super().acquire()
        page[:] = bytes(PAGE)
        return page


class AsyncBufferPool(StackPool[memoryview]):
    """Page-aligned buffers of `size` bytes for the host's I/O, fit for O_DIRECT and io_uring.

    Each begins on a page of the host, and its view is `size` bytes long.
    """

    def __init__(self, *, capacity: int, size: int = 65536) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; a buffer holds at least 1 byte")
        whole = -(-size // PAGESIZE) * PAGESIZE
        super().__init__(capacity=capacity, factory=self._cut)
        self.size = size
        # One mapping, of which the host gives memory where it is touched: buffers are neighbours.
        self._all = memoryview(mmap(-1, capacity * whole, flags=MAP_PRIVATE | MAP_ANONYMOUS))
        self._places = iter(range(0, capacity * whole, whole))

    def _cut(self) -> memoryview:
        place = next(self._places)
        return self._all[place : place + self.size]
