"""Waiting for many descriptors: epoll, ppoll, pselect6, signalfd."""

from __future__ import annotations

import struct
from errno import EBADF, EINVAL

from hartwood.linux import signals
from hartwood.linux.calls import HOST
from hartwood.linux.structs import (
    GUEST_EVENT,
    HOST_EVENT,
    event_to_host,
    events_to_guest,
)
from hartwood.linux.task import MESSAGE, VECTORS
from hartwood.mem.descriptors import private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.task import Task

EPOLL_CTL_DEL = 2
#: Events that fit into the scratch buffer; a wait for more is answered with this many.
MAX_EVENTS = (MESSAGE - VECTORS) // HOST_EVENT


def epoll_ctl(task: Task, epoll: int, op: int, fd: int, event: int) -> int:
    """Change what an epoll waits for."""
    if epoll & 0xFFFFFFFF in private or fd & 0xFFFFFFFF in private:
        return -EBADF
    address = 0
    if op != EPOLL_CTL_DEL:
        address = task.place(VECTORS, event_to_host(task.space.read(event, GUEST_EVENT)))
    return task.syscall(HOST["epoll_ctl"], epoll, op, fd, address)


def _mask(task: Task, at: int, size: int) -> int:
    """Host address of a temporary signal mask, or 0 for none. Raises `OSError` (EINVAL)."""
    if not at:
        return 0
    if size != 8:
        raise OSError(EINVAL, "signal set of the wrong size")
    return signals.suspend_mask(task, task.space.read_u64(at))


def _finish(task: Task, result: int) -> int:
    """After a host call with a temporary mask: it stays noted only while a signal is due."""
    if result not in (-4, -512, -513):
        signals.restore_mask(task)
    return result


def _events(task: Task, result: int, events: int) -> int:
    if result > 0:
        data = task.scratch.view[VECTORS : VECTORS + HOST_EVENT * result]
        task.space.write(events, events_to_guest(data))
    return result


def epoll_pwait(
    task: Task, epoll: int, events: int, most: int, timeout: int, mask: int, size: int
) -> int:
    """Wait for events."""
    if epoll & 0xFFFFFFFF in private:
        return -EBADF
    if not 0 < most < 1 << 31:
        return -EINVAL
    address = _mask(task, mask, size)
    at = task.scratch.address + VECTORS
    most = min(most, MAX_EVENTS)
    result = task.syscall(HOST["epoll_pwait"], epoll, at, most, timeout, address, 8)
    return _events(task, _finish(task, result), events)


def epoll_pwait2(
    task: Task, epoll: int, events: int, most: int, timeout: int, mask: int, size: int
) -> int:
    """Wait for events with a timeout in nanoseconds."""
    if epoll & 0xFFFFFFFF in private:
        return -EBADF
    if not 0 < most < 1 << 31:
        return -EINVAL
    address = _mask(task, mask, size)
    at = task.scratch.address + VECTORS
    most = min(most, MAX_EVENTS)
    number = HOST["epoll_pwait2"]
    result = task.syscall(number, epoll, at, most, task.host(timeout), address, 8)
    return _events(task, _finish(task, result), events)


def ppoll(task: Task, fds: int, count: int, timeout: int, mask: int, size: int) -> int:
    """Wait for descriptors; struct pollfd and the timeout are alike on both sides."""
    address = _mask(task, mask, size)
    result = task.syscall(HOST["ppoll"], task.host(fds), count, task.host(timeout), address, 8)
    return _finish(task, result)


def pselect6(
    task: Task, count: int, read: int, write: int, other: int, timeout: int, mask: int
) -> int:
    """Wait for sets of descriptors; the mask hides behind a pointer and a size."""
    address = 0
    if mask:
        at, size = struct.unpack("<QQ", task.space.read(mask, 16))
        pair = struct.pack("<QQ", _mask(task, at, size), 8)
        address = task.place(VECTORS, pair)
    result = task.syscall(
        HOST["pselect6"],
        count,
        task.host(read),
        task.host(write),
        task.host(other),
        task.host(timeout),
        address,
    )
    return _finish(task, result)


def signalfd4(task: Task, fd: int, mask: int, size: int, flags: int) -> int:
    """A descriptor that gives signals; those the engine needs cannot come by it."""
    if fd & 0xFFFFFFFF in private:
        return -EBADF
    if size != 8:
        return -EINVAL
    wanted = signals.host_mask(task.space.read_u64(mask))
    at = task.place(VECTORS, wanted.to_bytes(8, "little"))
    return task.syscall(HOST["signalfd4"], fd, at, 8, flags)
