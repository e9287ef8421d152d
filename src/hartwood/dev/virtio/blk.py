"""A disk (virtio 1.2, 5.2): several queues, requests that end on other threads.

What a driver notifies of at once is one batch: handed to the disk together, and given back in one
update of the used ring with one interrupt.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from hartwood.dev.ports import Disk, DiskQueue, Kind, Request
from hartwood.dev.virtio.mmio import VirtioMmio, Work, wired
from hartwood.dev.virtio.queue import Chain, Queue, QueueError, Segment, split, total
from hartwood.errors import MemoryFault

# Features (5.2.3).
F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH, F_TOPOLOGY, F_MQ, F_DISCARD, F_WRITE_ZEROES = (
    2, 5, 6, 9, 10, 12, 13, 14,
)  # fmt: skip
# Requests and what comes of them (5.2.6).
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
_HEADER = struct.Struct("<IIQ")
_RANGE = struct.Struct("<QII")  # of discard and write zeroes: sector, sectors, flags
_UNMAP = 1
#: 512 bytes are a sector here, whatever the disk's are.
SECTOR, _ID = 512, 20
#: What the host reads and writes without more.
_PHYSICAL = 4096
SEGMENTS, RANGE_SECTORS = 126, 1 << 22
#: Buffers of one batch at most: what is slow in it holds the others up.
_BATCH = 64
_CONFIG = struct.Struct("<QIIHBBIBBHIBxHIIIIIB3x")


class NoDisk:
    """Behind a device that nobody has wired: nothing, which cannot be written."""

    size, sector, readonly, serial = 0, SECTOR, True, ""

    def submit(self, requests: Iterable[Request], /) -> None:
        """There is nothing to be done, so there are no requests."""
        for request in requests:
            request.done(errno.EIO)


class _Refused(Exception):
    """A request that fails with this status."""

    def __init__(self, status: int) -> None:
        self.status = status


class _Body(NamedTuple):
    """A request without its header and its status."""

    sector: int
    readable: list[Segment]
    writable: list[Segment]


class _Batch:
    """Buffers that are given back together."""

    def __init__(self, device: VirtioBlk, queue: Queue) -> None:
        self._device, self._queue = device, queue
        self._left, self._done = 1, list[tuple[int, int]]()
        self.requests: list[Request] = []

    def add(self, request: Request) -> None:
        """One that ends later. With the device's lock, as the next two."""
        self._left += 1
        self.requests.append(request)

    def finish(self, chain: Chain, status: int) -> None:
        """A status for the driver, in its last byte; what is before it counts if all is well."""
        size = total(chain.writable)
        self._queue.scatter(split(chain.writable, size - 1)[1], bytes([status]))
        self._done.append((chain.head, size if status == OK or size == 1 else 0))

    def close(self) -> None:
        """One thing less to wait for; at the end all goes back."""
        self._left -= 1
        if not self._left:
            self._device.give(self._queue, self._done)

    def done(self, chain: Chain, landed: list[Segment], number: int) -> None:
        """A request ended with an errno; from any thread."""
        status = IOERR if number else OK
        if number in (errno.ENOTSUP, errno.ENOSYS):
            status = UNSUPP
        with self._device.lock:
            try:
                self._queue.landed(landed)
                self.finish(chain, status)
            except MemoryFault as error:  # the machine was closed meanwhile
                self._device.fail(str(error))
            self.close()
            self._device.end()


@dataclass
class VirtioBlk(VirtioMmio):
    """`disk` says what it is like, and `requests` does the work; both are the board's to wire."""

    device_id: ClassVar[int] = 2
    queue_count: ClassVar[int] = 4
    disk: Disk = wired(NoDisk)
    requests: DiskQueue = wired(NoDisk)

    def features(self) -> int:
        """See `VirtioMmio.features`."""
        bits = [F_SEG_MAX, F_BLK_SIZE, F_FLUSH, F_TOPOLOGY, F_MQ]
        bits += [F_RO] if self.disk.readonly else [F_DISCARD, F_WRITE_ZEROES]
        return sum(1 << bit for bit in bits)

    def config(self) -> bytes:
        """5.2.4."""
        sector = self.disk.sector
        ranges = (RANGE_SECTORS, 1, sector // SECTOR, RANGE_SECTORS, 1, 1)
        return _CONFIG.pack(
            self.disk.size // SECTOR, 0, SEGMENTS, 0, 0, 0, sector,
            (_PHYSICAL // sector).bit_length() - 1, 0, _PHYSICAL // sector, 0, 0, self.queue_count,
            *ranges,
        )  # fmt: skip

    def serve(self, index: int, queue: Queue) -> Work | None:
        """Take what is there; the disk hears of it when the lock is free."""
        batches: list[_Batch] = []
        for count, chain in enumerate(queue.chains()):
            if count % _BATCH == 0:
                batches.append(_Batch(self, queue))
            self._take(queue, chain, batches[-1])
        # Until here nothing has begun: a driver that broke the rules loses it all.
        requests = [request for batch in batches for request in batch.requests]
        self.begin(len(requests))
        for batch in batches:
            batch.close()
        return (lambda: self.requests.submit(requests)) if requests else None

    def _take(self, queue: Queue, chain: Chain, batch: _Batch) -> None:
        header, readable = split(chain.readable, _HEADER.size)
        if total(header) < _HEADER.size or not chain.writable:
            raise QueueError("a request without a header or without room for its status")
        kind, _, sector = _HEADER.unpack(queue.gather(header))
        writable, status = split(chain.writable, total(chain.writable) - 1)
        queue.views(status)
        body = _Body(sector, readable, writable)
        try:
            if kind == GET_ID:
                self._identify(queue, body)
                batch.finish(chain, OK)
            else:
                batch.add(self._request(queue, chain, kind, body, batch))
        except _Refused as refusal:
            batch.finish(chain, refusal.status)

    def _identify(self, queue: Queue, body: _Body) -> None:
        if body.readable or not body.writable:
            raise _Refused(IOERR)
        queue.scatter(body.writable, self.disk.serial.encode()[:_ID].ljust(_ID, b"\0"))

    def _request(
        self, queue: Queue, chain: Chain, kind: int, body: _Body, batch: _Batch
    ) -> Request:
        """What the disk is asked to do. Raises `_Refused`."""
        if kind in (IN, OUT):
            what: Kind = "read" if kind == IN else "write"
            data, other = body.writable, body.readable
            if kind == OUT:
                data, other = other, data
            at, size = self._extent(body.sector, total(data))
            self._check(not other and size > 0 and (kind == IN or not self.disk.readonly))
            landed = body.writable
            return Request(
                what, at, queue.views(data), size,
                lambda number: batch.done(chain, landed, number),
            )  # fmt: skip
        finish = lambda number: batch.done(chain, [], number)  # noqa: E731
        if kind == FLUSH and self.negotiated(F_FLUSH):
            self._check(not body.readable and not body.writable)
            return Request("flush", 0, [], 0, finish)
        for known, feature in ((DISCARD, F_DISCARD), (WRITE_ZEROES, F_WRITE_ZEROES)):
            if kind == known and self.negotiated(feature):
                return self._range(queue, kind, body, finish)
        raise _Refused(UNSUPP)

    def _range(
        self, queue: Queue, kind: int, body: _Body, finish: Callable[[int], None]
    ) -> Request:
        """Discard or write zeroes: one range, as the configuration says."""
        self._check(total(body.readable) == _RANGE.size and not body.writable)
        sector, count, flags = _RANGE.unpack(queue.gather(body.readable))
        if flags & ~_UNMAP or (kind == DISCARD and flags):  # 5.2.6.2
            raise _Refused(UNSUPP)
        at, size = self._extent(sector, count * SECTOR)
        self._check(0 < count <= RANGE_SECTORS and not self.disk.readonly)
        if kind == DISCARD:
            return Request("discard", at, [], size, finish)
        return Request("zero", at, [], size, finish, bool(flags & _UNMAP))

    def _extent(self, sector: int, size: int) -> tuple[int, int]:
        """Bytes of the disk: on it, and whole sectors of its own."""
        at, unit = sector * SECTOR, self.disk.sector
        self._check(at % unit == 0 and size % unit == 0 and at + size <= self.disk.size)
        return at, size

    @staticmethod
    def _check(sound: bool) -> None:
        if not sound:
            raise _Refused(IOERR)
