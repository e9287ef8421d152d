"""A file of the host's under a disk image: vectored calls that finish, locks that QEMU knows.

Every call to the kernel that moves or promises data is counted, so that batching can be measured.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from threading import Lock

from hartwood.errors import DiskError

#: Buffers of one preadv or pwritev (limits.h: UIO_MAXIOV).
IOV_MAX = 1024
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16  # linux/falloc.h
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV}
_ZEROS = memoryview(bytes(1 << 20))
# QEMU's image locking (block/file-posix.c): a shared lock on byte 100 + n says that permission n is
# used, on byte 200 + n that nobody else may use it.
_USED, _UNSHARED = 100, 200
_READ, _WRITE, _RESIZE = 0, 1, 3
_LOCK = struct.Struct("hhqqi4x")  # struct flock, 64-bit

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def advance(buffers: Sequence[memoryview], size: int) -> list[memoryview]:
    """What is left of `buffers` after their first `size` bytes."""
    for index, buffer in enumerate(buffers):
        if size < buffer.nbytes:
            return [buffer[size:], *buffers[index + 1 :]]
        size -= buffer.nbytes
    return []


class HostFile:
    """An open file or block device. Threads may share it; raises `DiskError`, with its errno.

    A second writer is refused with EBUSY, in this process and any other, QEMU's included.
    """

    def __init__(self, path: str, *, readonly: bool, create: bool = False) -> None:
        self.path, self.readonly = path, readonly
        self.calls = 0
        self._count = Lock()
        self._failed = 0
        flags = os.O_RDONLY if readonly else os.O_RDWR
        # O_NONBLOCK: opening a named pipe must not wait for somebody to write to it.
        flags |= os.O_CLOEXEC | os.O_NONBLOCK | (os.O_CREAT | os.O_EXCL if create else 0)
        try:
            self._fd = os.open(path, flags, 0o644)
        except OSError as error:
            raise DiskError(path, _hint(error), error.errno or errno.EIO) from None
        try:
            mode = os.fstat(self._fd).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise DiskError(path, "is neither a file nor a block device", errno.EINVAL)
            self._lock()
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self) -> None:
        used = {_READ} if self.readonly else {_READ, _WRITE, _RESIZE}
        for byte in [_USED + n for n in used] + [_UNSHARED + n for n in (_WRITE, _RESIZE)]:
            self._lock_call(fcntl.F_OFD_SETLK, fcntl.F_RDLCK, byte)
        for byte in [_UNSHARED + n for n in used] + [_USED + n for n in (_WRITE, _RESIZE)]:
            if self._lock_call(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, byte) != fcntl.F_UNLCK:
                raise DiskError(
                    self.path, "is in use by another process; close it there first", errno.EBUSY
                )

    def _lock_call(self, command: int, kind: int, byte: int) -> int:
        """The kind of lock in the way of one on `byte`."""
        words = _LOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
        try:
            answer: tuple[int, ...] = _LOCK.unpack(fcntl.fcntl(self._fd, command, words))
        except OSError as error:
            # File systems without locks exist; there the user has to take care.
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                return fcntl.F_UNLCK
            raise self._error(error) from None
        return answer[0]

    def _error(self, error: OSError | OverflowError) -> DiskError:
        # An offset that the host's calls cannot even take comes from a damaged image.
        number = (error.errno if isinstance(error, OSError) else None) or errno.EIO
        return DiskError(self.path, os.strerror(number), number)

    def _called(self) -> None:
        with self._count:
            self.calls += 1

    @property
    def size(self) -> int:
        """Bytes from the start to the end, asked anew each time."""
        try:
            return os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            raise self._error(error) from None

    @property
    def identity(self) -> tuple[int, int]:
        """What two names of one file have in common."""
        found = os.fstat(self._fd)
        return found.st_dev, found.st_ino

    def readv(self, at: int, buffers: Sequence[memoryview]) -> int:
        """Fill `buffers` from byte `at`; return how many bytes there were before the file's end."""
        done, left = 0, buffers
        while left:
            self._called()
            try:
                got = os.preadv(self._fd, left[:IOV_MAX], at + done)
            except (OSError, OverflowError) as error:
                raise self._error(error) from None
            if not got:
                break
            done += got
            left = advance(left, got)
        return done

    def read(self, at: int, size: int) -> bytes:
        """`size` bytes from `at`. Raises `DiskError` when the file ends before."""
        data = bytearray(size)
        if self.readv(at, [memoryview(data)] if size else []) != size:
            raise DiskError(self.path, f"ends before {at + size:#x}: the file was truncated")
        return bytes(data)

    def writev(self, at: int, buffers: Sequence[memoryview]) -> None:
        """Write all of `buffers` from byte `at`."""
        done, left = 0, buffers
        while left:
            self._called()
            try:
                put = os.pwritev(self._fd, left[:IOV_MAX], at + done)
            except (OSError, OverflowError) as error:
                raise self._error(error) from None
            if not put and any(buffer.nbytes for buffer in left):
                raise DiskError(self.path, "takes no more bytes", errno.ENOSPC)
            done += put
            left = advance(left, put)

    def write(self, at: int, data: bytes | bytearray) -> None:
        """Write `data` from byte `at`."""
        self.writev(at, [memoryview(data)])

    def sync(self) -> None:
        """Make what was written survive a loss of power.

        Once this has failed it goes on failing: the kernel forgets what it could not write.
        """
        if self._failed:
            raise DiskError(self.path, "an earlier flush failed", self._failed)
        self._called()
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._failed = error.errno or errno.EIO
            raise self._error(error) from None

    def resize(self, size: int) -> None:
        """Make the file `size` bytes long; what is new reads as zeros and takes no room."""
        try:
            os.ftruncate(self._fd, size)
        except (OSError, OverflowError) as error:
            raise self._error(error) from None

    def punch(self, at: int, size: int) -> bool:
        """Give the room of a range back; it reads as zeros. False where the host cannot."""
        return self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, at, size)

    def zero(self, at: int, size: int) -> None:
        """Make a range within the file read as zeros, its room kept."""
        if self._fallocate(_ZERO_RANGE | _KEEP_SIZE, at, size):
            return
        for begin in range(at, at + size, len(_ZEROS)):
            self.writev(begin, [_ZEROS[: at + size - begin]])

    def _fallocate(self, mode: int, at: int, size: int) -> bool:
        if not size:
            return True
        self._called()
        if _libc.fallocate(self._fd, mode, at, size) == 0:
            return True
        number = ctypes.get_errno()
        if number in _UNSUPPORTED:
            return False
        raise DiskError(self.path, os.strerror(number), number)

    def extents(self, at: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges (start, end) between `at` and `end` that are no holes."""
        while at < end:
            try:
                start = os.lseek(self._fd, at, os.SEEK_DATA)
                stop = os.lseek(self._fd, start, os.SEEK_HOLE)
            except OverflowError as error:
                raise self._error(error) from None
            except OSError as error:
                if error.errno == errno.ENXIO:  # no data up to the end
                    return
                start, stop = at, end  # a file system, or a device, that knows no holes
            if start >= end:
                return
            yield start, min(stop, end)
            at = stop

    def close(self) -> None:
        """Close the file, once; nothing is promised to have reached the disk."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _hint(error: OSError) -> str:
    text = os.strerror(error.errno or errno.EIO)
    return f"{text}; open it readonly" if error.errno in (errno.EROFS, errno.EACCES) else text
