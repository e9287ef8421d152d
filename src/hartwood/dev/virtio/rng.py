"""A source of entropy (virtio 1.2, 5.4)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from hartwood.dev.virtio.mmio import VirtioMmio, Work, wired
from hartwood.dev.virtio.queue import Queue, QueueError, total

#: Bytes that one buffer gets at most.
_MOST = 1 << 16


@dataclass
class VirtioRng(VirtioMmio):
    """Gives what `source(size)` gives: the host's randomness, or numbers that can be repeated."""

    device_id: ClassVar[int] = 4
    queue_count: ClassVar[int] = 1
    source: Callable[[int], bytes] = wired(lambda: os.urandom)

    def serve(self, index: int, queue: Queue) -> Work | None:
        """Fill every buffer, at least in part (5.4.6.2)."""
        filled = []
        for chain in queue.chains():
            size = min(total(chain.writable), _MOST)
            if chain.readable or not size:
                raise QueueError("a buffer that cannot be filled")
            filled.append((chain.head, queue.scatter(chain.writable, self.source(size))))
        self.give(queue, filled)
        return None
