"""A network card (virtio 1.2, 5.1): one pair of queues, no offloads.

Checksums and segmentation are the guest's own, so that what it sends is what the wire carries.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from hartwood.dev.ports import Net
from hartwood.dev.virtio.mmio import VirtioMmio, Work, wired
from hartwood.dev.virtio.queue import Chain, Queue, QueueError, split, total
from hartwood.errors import MemoryFault

# Features (5.1.3).
F_MTU, F_MAC, F_MRG_RXBUF, F_STATUS = 3, 5, 15, 16
RECEIVE, TRANSMIT = 0, 1
#: Before each frame (5.1.6): flags, kind of segmentation, four words about it, buffers used.
_HEADER = struct.Struct("<BBHHHHH")
_CONFIG = struct.Struct("<6sHHH")
LINK_UP = 1
#: A frame at most: the longest packet and an Ethernet header with a tag.
_MOST = 0xFFFF + 18


class NoNet:
    """Behind a card that nobody has wired: a cable that leads nowhere."""

    mac, mtu = b"\x52\x54\0\x12\x34\x56", 1500

    def send(self, frame: bytes, /) -> None:
        """It is lost."""

    def attach(self, receive: Callable[[bytes], bool], /) -> None:
        """Nothing will come."""

    def resume(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing ends."""


@dataclass
class VirtioNet(VirtioMmio):
    """The card of `net`, which `connect` plugs in."""

    device_id: ClassVar[int] = 1
    queue_count: ClassVar[int] = 2
    net: Net = wired(NoNet)
    #: Whether the cable is plugged in; it belongs to the host.
    link: int = field(default=LINK_UP, metadata={"host": True})

    def features(self) -> int:
        """See `VirtioMmio.features`."""
        return 1 << F_MTU | 1 << F_MAC | 1 << F_MRG_RXBUF | 1 << F_STATUS

    def config(self) -> bytes:
        """5.1.4."""
        return _CONFIG.pack(self.net.mac, self.link, 1, self.net.mtu)

    def connect(self, net: Net) -> None:
        """This is the network from now on."""
        self.net = net
        net.attach(self.receive)

    def close(self) -> None:
        """See `Device.close`: the network ends with its card."""
        self.net.close()

    def plug(self, up: bool) -> None:
        """Plug the cable in or pull it; from any thread."""
        with self.lock:
            self.link = LINK_UP if up else 0
            self.changed()

    def receive(self, frame: bytes) -> bool:
        """A frame for the guest, from any thread; False where it has no buffer for it yet, and
        `net.resume` will follow. A frame is lost without a driver or a cable."""
        with self.lock:
            queue = self.live(RECEIVE)
            if queue is None or not self.link:
                return True
            try:
                return self._fill(queue, frame)
            except (QueueError, MemoryFault) as error:
                self.fail(str(error))
                return True

    def _fill(self, queue: Queue, frame: bytes) -> bool:
        before, size, chains = queue.next_available, _HEADER.size + len(frame), list[Chain]()
        room = 0
        while room < size:
            chain = queue.pop()
            if chain is None:
                if queue.arm():
                    continue
                queue.next_available = before  # what was taken is still the driver's to be used
                return False
            if chain.readable or total(chain.writable) < _HEADER.size:
                raise QueueError("a buffer that no frame can be received into")
            chains.append(chain)
            room += total(chain.writable)
            if room < size and not self.negotiated(F_MRG_RXBUF):
                queue.next_available = before
                return True  # longer than the driver has said that frames are
        data, filled = _HEADER.pack(0, 0, 0, 0, 0, 0, len(chains)) + frame, []
        for chain in chains:
            written = queue.scatter(chain.writable, data)
            data = data[written:]
            filled.append((chain.head, written))
        self.give(queue, filled)
        return True

    def serve(self, index: int, queue: Queue) -> Work | None:
        """See `VirtioMmio.serve`."""
        if index == RECEIVE:
            return self.net.resume
        sent = []
        for chain in queue.chains():
            size = total(chain.readable)
            if chain.writable or not _HEADER.size <= size <= _HEADER.size + _MOST:
                raise QueueError(f"a frame of {size} bytes that cannot be sent")
            frame = queue.gather(split(chain.readable, _HEADER.size)[1])
            if self.link:
                self.net.send(frame)  # with the lock: what is sent stays in order
            sent.append((chain.head, 0))
        self.give(queue, sent)
        return None
