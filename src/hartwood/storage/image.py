"""What every disk image is: a size, sectors, vectored reads and writes, a flush that is kept.

A format says how in the methods with a leading underscore; limits are checked here, once.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from hartwood.errors import DiskError

SECTORS = (512, 4096)
SERIAL_BYTES = 20  # VIRTIO_BLK_ID_BYTES (virtio 1.2, 5.2.6)
_Self = TypeVar("_Self", bound="Image")


class Image(ABC):
    """A disk of `size` bytes in sectors of `sector`. Threads may use it at once.

    Everything that can fail raises `DiskError` (an OSError) with the errno for the guest.
    """

    def __init__(self, path: str, size: int, sector: int, readonly: bool, serial: str) -> None:
        if sector not in SECTORS:
            raise DiskError(path, f"sector={sector}; a sector is 512 or 4096 bytes", errno.EINVAL)
        if size % sector:
            raise DiskError(
                path,
                f"{size} bytes are no whole sectors of {sector}; "
                f"extend it with: truncate -s %{sector} {path}",
                errno.EINVAL,
            )
        if len(serial.encode()) > SERIAL_BYTES:
            raise DiskError(path, f"serial={serial!r} is over {SERIAL_BYTES} bytes", errno.EINVAL)
        self.path, self.size, self.sector = path, size, sector
        self.readonly, self.serial = readonly, serial

    def readv(self, at: int, buffers: Sequence[memoryview]) -> None:
        """Fill all of `buffers` from byte `at`."""
        if self._inside(at, _total(buffers)):
            self._readv(at, buffers)

    def writev(self, at: int, buffers: Sequence[memoryview]) -> None:
        """Write all of `buffers` from byte `at`."""
        if self._writable(at, _total(buffers)):
            self._writev(at, buffers)

    def discard(self, at: int, size: int) -> None:
        """The guest needs `size` bytes from `at` no more; their content is undefined from now."""
        if self._writable(at, size):
            self._discard(at, size)

    def zero(self, at: int, size: int, may_unmap: bool = False) -> None:
        """Make `size` bytes from `at` read as zeros; with `may_unmap` their room may be freed."""
        if self._writable(at, size):
            self._zero(at, size, may_unmap)

    def read(self, at: int, size: int) -> bytes:
        """`size` bytes from `at`, as a copy."""
        data = bytearray(size)
        self.readv(at, [memoryview(data)])
        return bytes(data)

    def write(self, at: int, data: bytes | bytearray) -> None:
        """Write `data` from byte `at`."""
        self.writev(at, [memoryview(data)])

    @abstractmethod
    def flush(self) -> None:
        """After it returns, all that was written survives kill -9 and a loss of power."""

    @abstractmethod
    def extents(self) -> Iterator[tuple[int, int]]:
        """The ranges (start, end), ascending, outside of which every byte is zero."""

    @abstractmethod
    def close(self) -> None:
        """Flush what can be flushed and let go of the file; may be called twice."""

    @abstractmethod
    def _readv(self, at: int, buffers: Sequence[memoryview]) -> None: ...

    @abstractmethod
    def _writev(self, at: int, buffers: Sequence[memoryview]) -> None: ...

    @abstractmethod
    def _discard(self, at: int, size: int) -> None: ...

    @abstractmethod
    def _zero(self, at: int, size: int, may_unmap: bool) -> None: ...

    def _inside(self, at: int, size: int) -> bool:
        """Whether there is anything to do. Raises `DiskError` beyond the disk's end."""
        if at < 0 or size < 0 or at + size > self.size:
            raise DiskError(
                self.path, f"{size} bytes at {at:#x} are beyond its {self.size}", errno.EINVAL
            )
        return size > 0

    def _writable(self, at: int, size: int) -> bool:
        if self.readonly:
            raise DiskError(self.path, "is open readonly", errno.EROFS)
        return self._inside(at, size)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _total(buffers: Sequence[memoryview]) -> int:
    return sum(buffer.nbytes for buffer in buffers)
