"""Disks in files with a thread behind each."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue

from hartwood.dev.ports import Request


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
