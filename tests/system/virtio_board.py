"""RiscvVirt with devices in virtio's slots, and disks in files with a thread behind each."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hartwood.board import RiscvVirt
from hartwood.board.fdt import Node, wide
from hartwood.dev.ports import Request
from hartwood.dev.virtio.mmio import VirtioMmio

SLOTS, STEP, FIRST_IRQ, CONTROLLER = 0x1000_1000, 0x1000, 1, 9


class VirtioBoard(RiscvVirt):
    """`devices` in the slots, from the first on."""

    def __init__(self, devices: Sequence[VirtioMmio], **more: Any) -> None:
        self.devices = devices
        super().__init__(**more)
        for number, device in enumerate(devices):
            device.ram = self.bus.ram
            device.irq = self.plic.line(FIRST_IRQ + number)
            self.bus.attach(SLOTS + STEP * number, device)

    def _soc(self, root: Node, harts: int) -> None:
        super()._soc(root, harts)
        for number, device in enumerate(self.devices):
            at = SLOTS + STEP * number
            node = root.children[-1].add(f"{device.node}@{at:x}", compatible=device.compatible)
            node.properties |= {"reg": wide(at, device.size), **device.properties}
            node.properties |= {"interrupts": FIRST_IRQ + number, "interrupt-parent": CONTROLLER}


class FileDisk:
    """A file as a disk: `submit` only hands over, a thread of its own does the work."""

    def __init__(self, path: Path, sector: int = 512, readonly: bool = False) -> None:
        self.sector, self.readonly, self.serial = sector, readonly, path.name
        self._file = os.open(path, os.O_RDONLY if readonly else os.O_RDWR)
        self.size = os.fstat(self._file).st_size
        self._todo: SimpleQueue[Request | None] = SimpleQueue()
        self.kinds: set[str] = set()
        self.batches: list[int] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, requests: Iterable[Request], /) -> None:
        batch = list(requests)
        self.batches.append(len(batch))
        for request in batch:
            self._todo.put(request)

    def _work(self) -> None:
        while request := self._todo.get():
            self.kinds.add(request.kind)
            try:
                self._do(request)
                request.done(0)
            except OSError as error:
                request.done(error.errno or 5)

    def _do(self, request: Request) -> None:
        if request.kind == "read":
            os.preadv(self._file, request.buffers, request.at)
        elif request.kind == "write":
            os.pwritev(self._file, request.buffers, request.at)
        elif request.kind == "flush":
            os.fdatasync(self._file)
        else:
            os.pwrite(self._file, bytes(request.size), request.at)

    def close(self) -> None:
        self._todo.put(None)
        self._thread.join()
        os.close(self._file)
