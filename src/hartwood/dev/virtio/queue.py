"""The device's side of a split virtqueue (virtio 1.2, 2.7): chains come out, used buffers go in.

Whatever a driver may not do is a `QueueError`; nothing that it writes is read twice.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hartwood.dev.ports import Ram
from hartwood.errors import Error

NEXT, WRITE, INDIRECT = 1, 2, 4  # flags of a descriptor (2.7.5)
NO_INTERRUPT = 1  # flag of the available ring (2.7.6)
#: Features of the ring (6): their bits.
F_INDIRECT, F_EVENT_IDX = 28, 29
_DESCRIPTOR = struct.Struct("<QIHH")
_LONGEST = 1 << 32  # bytes of a chain (2.7.5.2)
_barrier = threading.Lock()


class QueueError(Error):
    """A driver broke the rules of the ring; the device needs a reset."""


class Segment(NamedTuple):
    """`size` bytes of guest memory."""

    at: int
    size: int


@dataclass(slots=True)
class Chain:
    """A buffer: what the device may read, then what it may write (2.7.4.2). That it lies in memory
    shows when it is used."""

    head: int
    readable: list[Segment]
    writable: list[Segment]


def total(segments: Iterable[Segment]) -> int:
    """Bytes in all."""
    return sum(size for _, size in segments)


def split(segments: Sequence[Segment], size: int) -> tuple[list[Segment], list[Segment]]:
    """The first `size` bytes and the rest: messages may be framed anyhow (2.7.4)."""
    for place, (at, length) in enumerate(segments):
        if size < length:
            first = [*segments[:place], Segment(at, size)] if size else list(segments[:place])
            return first, [Segment(at + size, length - size), *segments[place + 1 :]]
        size -= length
    return list(segments), []


def _fence() -> None:
    """What was stored is visible before what is loaded next (2.7.13.4.1). A lock's operations are
    full barriers on x86-64."""
    with _barrier:
        pass


class Queue:
    """One virtqueue of `size` descriptors; `features` are those that were negotiated.

    Raises `QueueError` for a size or an alignment that cannot be (2.7), `MemoryFault` for rings
    that are not in memory.
    """

    def __init__(
        self, ram: Ram, size: int, descriptors: int, driver: int, device: int, features: int = 0
    ) -> None:
        if not 0 < size <= 1 << 15 or size & size - 1:
            raise QueueError(f"a queue of {size} descriptors")
        if descriptors % 16 or driver % 2 or device % 4:
            raise QueueError("a ring that is not aligned")
        self.size = size
        self._ram = ram
        self._indirect = bool(features >> F_INDIRECT & 1)
        self._events = bool(features >> F_EVENT_IDX & 1)
        self._descriptors = ram.view(descriptors, 16 * size)
        # flags, index, ring, used_event; flags, index, ring of pairs, avail_event (2.7.6, 2.7.8).
        self._available = ram.view(driver, 6 + 2 * size).cast("H")
        used = ram.view(device, 6 + 8 * size)
        self._used, self._pairs = used.cast("H"), used[4 : 4 + 8 * size].cast("I")
        self.next_available = 0
        self.next_used = 0

    def pop(self) -> Chain | None:
        """The next buffer, or None. Raises `QueueError`, `MemoryFault`."""
        waiting = self._available[1] - self.next_available & 0xFFFF
        if not waiting:
            return None
        owned = self.next_available - self.next_used & 0xFFFF
        if waiting + owned > self.size:
            raise QueueError(f"{waiting + owned} buffers in a queue of {self.size}")
        chain = self._walk(self._available[2 + self.next_available % self.size])
        self.next_available = self.next_available + 1 & 0xFFFF
        return chain

    def chains(self) -> Iterator[Chain]:
        """Buffers until there is none; the driver will notify of the next. At most `size` come
        before one has to be given back. Raises as `pop`."""
        while True:
            while (chain := self.pop()) is not None:
                yield chain
            if not self.arm():
                return

    def arm(self) -> bool:
        """Ask to be notified of the next buffer; whether it has come already (2.7.10)."""
        if not self._events:
            return False
        self._used[2 + 4 * self.size] = self.next_available
        _fence()
        return self._available[1] != self.next_available

    def push(self, buffers: Iterable[tuple[int, int]]) -> bool:
        """Give buffers back in one update: the head and the bytes written of each. Whether the
        driver wants an interrupt for it (2.7.7)."""
        old = new = self.next_used
        for head, written in buffers:
            place = 2 * (new % self.size)
            self._pairs[place], self._pairs[place + 1] = head, min(written, 0xFFFF_FFFF)
            new = new + 1 & 0xFFFF
        if new == old:
            return False
        self.next_used = self._used[1] = new
        _fence()
        if not self._events:
            return not self._available[0] & NO_INTERRUPT
        event = self._available[2 + self.size]
        return new - event - 1 & 0xFFFF < new - old & 0xFFFF

    def _walk(self, head: int) -> Chain:
        chain, length = Chain(head, [], []), 0
        table, entries, index, indirect = self._descriptors, self.size, head, False
        for _ in range(self.size + 1):  # one more, where one of them leads to a table
            if index >= entries:
                raise QueueError(f"descriptor {index} of {entries}")
            at, size, flags, following = _DESCRIPTOR.unpack_from(table, 16 * index)
            if flags & INDIRECT:
                if indirect:
                    raise QueueError("a table of descriptors in a table")
                table, entries, index, indirect = *self._table(at, size, flags), 0, True
                continue
            if flags & WRITE:
                chain.writable.append(Segment(at, size))
            elif chain.writable:
                raise QueueError("a readable buffer after a writable one")
            else:
                chain.readable.append(Segment(at, size))
            length += size
            if not size or length > _LONGEST:
                raise QueueError(f"a buffer of {length} bytes")
            if len(chain.readable) + len(chain.writable) > self.size:
                break
            if not flags & NEXT:
                return chain
            index = following
        raise QueueError("a chain that is longer than its queue")

    def _table(self, at: int, size: int, flags: int) -> tuple[memoryview, int]:
        """An indirect table and its entries (2.7.5.3)."""
        if not self._indirect:
            raise QueueError("a table of descriptors, which was not negotiated")
        if flags & NEXT or size % 16 or not size:
            raise QueueError(f"a table of descriptors of {size} bytes with flags {flags}")
        return self._ram.view(at, size), size // 16

    # The bytes of a chain.
    def gather(self, segments: Sequence[Segment]) -> bytes:
        """A copy of what the driver wrote. The caller has bounded its size."""
        return b"".join(self._ram.read(at, size) for at, size in segments)

    def scatter(self, segments: Sequence[Segment], data: bytes) -> int:
        """Write as much of `data` as fits; how much that was."""
        place = 0
        for at, size in segments:
            part = data[place : place + size]
            if part:
                self._ram.write(at, part)
            place += len(part)
        return place

    def views(self, segments: Sequence[Segment]) -> list[memoryview]:
        """The memory itself; after writing to it comes `landed`."""
        return [self._ram.view(at, size) for at, size in segments]

    def landed(self, segments: Sequence[Segment]) -> None:
        """Code that was translated there meanwhile is forgotten."""
        for at, size in segments:
            self._ram.discard(at, size)
