"""A console (virtio 1.2, 5.3): one port, and the size of its window."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import ClassVar

from hartwood.dev.device import Sink, host
from hartwood.dev.virtio.mmio import VirtioMmio, Work
from hartwood.dev.virtio.queue import Queue, QueueError, total

F_SIZE, F_EMERG_WRITE = 0, 2
RECEIVE, TRANSMIT = 0, 1
_CONFIG, _EMERGENCY = struct.Struct("<HHII"), 8
#: Bytes of one buffer at most, and of input that waits for a driver.
_MOST, _ROOM = 1 << 16, 1 << 16


@dataclass
class VirtioConsole(VirtioMmio):
    """`tx` takes what the guest sends, `feed` is what it receives."""

    device_id: ClassVar[int] = 3
    queue_count: ClassVar[int] = 2
    tx: Sink = host()
    #: The window's columns and rows belong to the host: 0 where there is none.
    columns: int = field(default=0, metadata={"host": True})
    rows: int = field(default=0, metadata={"host": True})
    rx: bytearray = field(default_factory=bytearray, metadata={"most": _ROOM})

    def features(self) -> int:
        """See `VirtioMmio.features`."""
        return 1 << F_SIZE | 1 << F_EMERG_WRITE

    def config(self) -> bytes:
        """5.3.4."""
        return _CONFIG.pack(self.columns, self.rows, 1, 0)

    def configure(self, offset: int, width: int, value: int) -> None:
        """A character of an emergency, before or beside all queues (5.3.6.2)."""
        if offset == _EMERGENCY:
            self.tx(bytes([value & 0xFF]))

    def resize(self, columns: int, rows: int) -> None:
        """The window is another size; from any thread."""
        with self.lock:
            self.columns, self.rows = min(columns, 0xFFFF), min(rows, 0xFFFF)
            self.changed()

    def feed(self, data: bytes) -> None:
        """Bytes arrive; from any thread. What finds no room is lost, as on a wire."""
        with self.lock:
            self.rx += data[: _ROOM - len(self.rx)]
        self.notify(RECEIVE)

    def serve(self, index: int, queue: Queue) -> Work | None:
        """See `VirtioMmio.serve`."""
        if index == RECEIVE:
            self._receive(queue)
            return None
        sent = []
        for chain in queue.chains():
            if chain.writable or total(chain.readable) > _MOST:
                raise QueueError("a buffer that cannot be sent")
            self.tx(queue.gather(chain.readable))  # with the lock: what is sent stays in order
            sent.append((chain.head, 0))
        self.give(queue, sent)
        return None

    def _receive(self, queue: Queue) -> None:
        filled = []
        while self.rx:
            chain = queue.pop()
            if chain is None:
                if queue.arm():
                    continue
                break
            if chain.readable:
                raise QueueError("a buffer that cannot be received into")
            written = queue.scatter(chain.writable, bytes(self.rx))
            del self.rx[:written]
            filled.append((chain.head, written))
        self.give(queue, filled)
