"""Scattered transfers: iovecs hold guest pointers that the host must not see as they are."""

from __future__ import annotations

import struct
from errno import EBADF, EINVAL

from hartwood.linux.calls import HOST
from hartwood.linux.task import VECTORS
from hartwood.mem.descriptors import private
from hartwood.mem.flat import LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.task import Task

#: Most iovecs in one call (UIO_MAXIOV).
MAX_VECTORS = 1024
SECOND = VECTORS + 16 * MAX_VECTORS


def to_host(task: Task, at: int, count: int, slot: int = VECTORS) -> int:
    """Copy an array of iovecs with host pointers; its host address.

    Raises `MemoryFault`; `OSError` (EINVAL) for too many.
    """
    if count > MAX_VECTORS:
        raise OSError(EINVAL, "too many vectors")
    if not count:
        return task.scratch.address + slot
    words = list(struct.unpack(f"<{2 * count}Q", task.space.read(at, 16 * count)))
    base, bad = task.base, task.base + LIMIT
    protected = task.space.protected_pages
    for index in range(0, 2 * count, 2):
        va = words[index]
        if protected:
            task.space.unprotect_code(va, va + words[index + 1])
        words[index] = va + base if 0 < va < LIMIT else va and bad
    return task.place(slot, struct.pack(f"<{2 * count}Q", *words))


def _call(task: Task, name: str, fd: int, iov: int, count: int, *rest: int) -> int:
    if fd & 0xFFFFFFFF in private:
        return -EBADF
    return task.syscall(HOST[name], fd, to_host(task, iov, count), count, *rest)


def readv(task: Task, fd: int, iov: int, count: int) -> int:
    """Read into several buffers."""
    return _call(task, "readv", fd, iov, count)


def writev(task: Task, fd: int, iov: int, count: int) -> int:
    """Write from several buffers."""
    return _call(task, "writev", fd, iov, count)


def preadv(task: Task, fd: int, iov: int, count: int, low: int, high: int) -> int:
    """Readv at an offset."""
    return _call(task, "preadv", fd, iov, count, low, high)


def pwritev(task: Task, fd: int, iov: int, count: int, low: int, high: int) -> int:
    """Writev at an offset."""
    return _call(task, "pwritev", fd, iov, count, low, high)


def preadv2(task: Task, fd: int, iov: int, count: int, low: int, high: int, flags: int) -> int:
    """Preadv with flags."""
    return _call(task, "preadv2", fd, iov, count, low, high, flags)


def pwritev2(task: Task, fd: int, iov: int, count: int, low: int, high: int, flags: int) -> int:
    """Pwritev with flags."""
    return _call(task, "pwritev2", fd, iov, count, low, high, flags)


def vmsplice(task: Task, fd: int, iov: int, count: int, flags: int) -> int:
    """Move memory into a pipe."""
    return _call(task, "vmsplice", fd, iov, count, flags)


def _between(
    task: Task, name: str, pid: int, local: int, n: int, remote: int, m: int, flags: int
) -> int:
    # Another guest's memory lies at the same base as ours: the reservation is at a fixed place.
    here = to_host(task, local, n)
    there = to_host(task, remote, m, SECOND)
    return task.syscall(HOST[name], pid, here, n, there, m, flags)


def process_vm_readv(
    task: Task, pid: int, local: int, n: int, remote: int, m: int, flags: int
) -> int:
    """Read another guest's memory."""
    return _between(task, "process_vm_readv", pid, local, n, remote, m, flags)


def process_vm_writev(
    task: Task, pid: int, local: int, n: int, remote: int, m: int, flags: int
) -> int:
    """Write another guest's memory."""
    return _between(task, "process_vm_writev", pid, local, n, remote, m, flags)
