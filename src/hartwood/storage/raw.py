"""Raw images: byte n of the disk is byte n of the file; holes are zeros."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

from hartwood.errors import DiskError
from hartwood.storage.hostfile import HostFile
from hartwood.storage.image import Image


class Raw(Image):
    """A file or block device as a disk; its size is the file's when it is opened."""

    def __init__(
        self, path: str, *, sector: int = 512, readonly: bool = False, serial: str = ""
    ) -> None:
        self.file = HostFile(path, readonly=readonly)
        try:
            super().__init__(path, self.file.size, sector, readonly, serial)
        except BaseException:
            self.file.close()
            raise

    @staticmethod
    def create(path: str, size: int) -> None:
        """Make a new file of `size` bytes of nothing. Raises `DiskError` when it exists."""
        if size < 0 or size >= 1 << 63:
            raise DiskError(path, f"cannot be {size} bytes long", errno.EFBIG)
        file = HostFile(path, readonly=False, create=True)
        try:
            file.resize(size)
        finally:
            file.close()

    def resize(self, size: int) -> None:
        """Make the disk `size` bytes long, a multiple of the sector."""
        self._writable(0, 0)
        if size < 0 or size % self.sector:
            raise DiskError(self.path, f"{size} is no multiple of {self.sector}", errno.EINVAL)
        self.file.resize(size)
        self.size = size

    def flush(self) -> None:
        """See `Image.flush`."""
        if not self.readonly:
            self.file.sync()

    def extents(self) -> Iterator[tuple[int, int]]:
        """See `Image.extents`."""
        return self.file.extents(0, self.size)

    def close(self) -> None:
        """See `Image.close`."""
        self.file.close()

    def _readv(self, at: int, buffers: Sequence[memoryview]) -> None:
        wanted = sum(buffer.nbytes for buffer in buffers)
        if self.file.readv(at, buffers) != wanted:
            raise DiskError(self.path, f"ends before {at + wanted:#x}: it was truncated")

    def _writev(self, at: int, buffers: Sequence[memoryview]) -> None:
        self.file.writev(at, buffers)

    def _discard(self, at: int, size: int) -> None:
        self.file.punch(at, size)

    def _zero(self, at: int, size: int, may_unmap: bool) -> None:
        if not (may_unmap and self.file.punch(at, size)):
            self.file.zero(at, size)
