"""A folder of the host's for the guest: 9P over virtio (device 9 of virtio 1.2, 5; the transport of
Linux's net/9p/trans_virtio.c). `mount -t 9p -o trans=virtio TAG DIR` finds it by its tag."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hartwood.dev.device import DeviceError
from hartwood.dev.virtio.mmio import VirtioMmio, Work, wired
from hartwood.dev.virtio.ninep import MESSAGE, Server, parse
from hartwood.dev.virtio.queue import Queue, QueueError, total
from hartwood.dev.virtio.tree import Tree

F_MOUNT_TAG = 0


@dataclass
class VirtioFs9p(VirtioMmio):
    """`tree` is what is shared, under the name `tag`. Requests are done by whoever notifies."""

    device_id: ClassVar[int] = 9
    queue_count: ClassVar[int] = 1
    tree: Tree | None = wired(lambda: None)
    tag: str = field(default="share", metadata={"host": True})
    server: Server | None = wired(lambda: None)
    #: The session as it was saved; while the device runs, the server has it.
    session: bytearray = field(default_factory=bytearray, metadata={"most": 1 << 27})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.server = None if self.tree is None else Server(self.tree)

    def features(self) -> int:
        """See `VirtioMmio.features`."""
        return 1 << F_MOUNT_TAG

    def config(self) -> bytes:
        """The tag, with its length before it (virtio_9p.h)."""
        tag = self.tag.encode()
        return struct.pack("<H", len(tag)) + tag

    def serve(self, index: int, queue: Queue) -> Work | None:
        """Answer every message."""
        answered = []
        for chain in queue.chains():
            if self.server is None or total(chain.readable) > MESSAGE:
                raise QueueError("a message that nobody can read")
            try:
                answer = self.server.answer(queue.gather(chain.readable), total(chain.writable))
            except ValueError as error:
                raise QueueError(str(error)) from None
            answered.append((chain.head, queue.scatter(chain.writable, answer)))
        self.give(queue, answered)
        return None

    def save(self) -> dict[str, Any]:
        """See `Device.save`."""
        with self.lock:
            if self.server is not None:
                self.session = bytearray(self.server.dump())
            return super().save()

    def load(self, state: dict[str, Any]) -> None:
        """See `Device.load`. A file that is not there any more is an error for who uses it."""
        session = state.get("session")
        try:
            if isinstance(session, bytearray):
                parse(bytes(session))
        except ValueError as error:
            raise DeviceError(f"{self.compatible}: {error}") from None
        super().load(state)

    def settle(self) -> None:
        """See `Device.settle`."""
        with self.lock:
            if self.server is not None:
                self.server.restore(bytes(self.session))
            super().settle()
