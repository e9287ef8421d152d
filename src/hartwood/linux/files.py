"""File system calls that need more than a translated pointer."""

from __future__ import annotations

import os
from errno import EBADF, EINVAL, ENOENT

from hartwood.linux import procfs
from hartwood.linux.calls import HOST
from hartwood.linux.structs import HOST_STAT, stat_to_guest
from hartwood.linux.task import MESSAGE
from hartwood.mem.descriptors import private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.task import Task

AT_SYMLINK_NOFOLLOW = 0x100
O_NOFOLLOW, O_CREAT, O_EXCL = 0x20000, 0x40, 0x80
M32 = 0xFFFFFFFF

F_DUPFD, F_GETLK, F_SETLK, F_SETLKW = 0, 5, 6, 7
#: fcntl commands whose argument is a pointer: locks, owners, write-life hints.
POINTER_COMMANDS = frozenset(
    {F_GETLK, F_SETLK, F_SETLKW, 15, 16, 17, 36, 37, 38, *range(1035, 1039)}
)


def openat(task: Task, at: int, path: int, flags: int, mode: int) -> int:
    """Open a file; what /proc tells about this process is made up for the guest."""
    name = task.path(path)
    if name[:1] == b"/":
        if name[:6] == b"/proc/":
            fd = procfs.open_file(task, name, flags & M32)
            if fd is not None:
                return fd
        follow = not flags & O_NOFOLLOW and flags & (O_CREAT | O_EXCL) != O_CREAT | O_EXCL
        file = task.process.paths.translate(name, follow=follow)
        if file is not name:
            address = task.place(0, file + b"\0")
            return task.syscall(HOST["openat"], at, address, flags, mode)
    elif at & M32 in private:
        return -EBADF
    return task.syscall(HOST["openat"], at, task.base + path, flags, mode)


def openat2(task: Task, at: int, path: int, how: int, size: int) -> int:
    """Open with resolution rules; a plain open where there are none."""
    if size < 24:
        return -EINVAL
    data = task.space.read(how, min(size, 4096))
    flags, mode, resolve = (int.from_bytes(data[i : i + 8], "little") for i in (0, 8, 16))
    if not resolve and not any(data[24:]):
        return openat(task, at, path, flags, mode)
    return task.syscall(HOST["openat2"], at, task.host(path), task.place(MESSAGE, data), size)


def close(task: Task, fd: int) -> int:
    """Close a descriptor."""
    fd &= M32
    if fd in private:
        return -EBADF
    return task.syscall(HOST["close"], fd)


def close_range(task: Task, first: int, last: int, flags: int) -> int:
    """Close descriptors, ours excepted."""
    first &= M32
    last &= M32
    if first > last:
        return -EINVAL
    for fd in sorted(private):
        if first <= fd <= last:
            if fd > first:
                result = task.syscall(HOST["close_range"], first, fd - 1, flags)
                if result < 0:
                    return result
            first = fd + 1
    if first > last:
        return 0
    return task.syscall(HOST["close_range"], first, last, flags)


def dup3(task: Task, old: int, new: int, flags: int) -> int:
    """Duplicate onto a number; those of ours are out of range for the guest."""
    if old & M32 in private or new & M32 in private:
        return -EBADF
    return task.syscall(HOST["dup3"], old, new, flags)


def fcntl(task: Task, fd: int, command: int, argument: int) -> int:
    """Descriptor flags, locks, owners."""
    if fd & M32 in private:
        return -EBADF
    if command & M32 in POINTER_COMMANDS:
        argument = task.host(argument)
    return task.syscall(HOST["fcntl"], fd, command, argument)


def _is_own_descriptors(fd: int) -> bool:
    """Whether `fd` is a directory that lists this process's descriptors."""
    try:
        name = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False
    return name.startswith("/proc/") and name.endswith(("/fd", "/fdinfo"))


def getdents64(task: Task, fd: int, buf: int, size: int) -> int:
    """List a directory; our descriptors are not in /proc/self/fd."""
    fd &= M32
    if fd in private:
        return -EBADF
    result = task.syscall(HOST["getdents64"], fd, task.host(buf), size)
    if result <= 0 or not private or not _is_own_descriptors(fd):
        return result
    data = task.space.read(buf, result)
    kept = []
    at = 0
    while at < result:
        length = int.from_bytes(data[at + 16 : at + 18], "little")
        entry = data[at : at + length]
        name = entry[19 : entry.index(0, 19)]
        if not (name.isdigit() and int(name) in private):
            kept.append(entry)
        at += length
    listing = b"".join(kept)
    if not listing:
        # Only ours were in this piece: an empty answer would mean the end.
        return getdents64(task, fd, buf, size)
    task.space.write(buf, listing)
    return len(listing)


def readlinkat(task: Task, at: int, path: int, buf: int, size: int) -> int:
    """Read a symbolic link; /proc/self/exe is the guest's program."""
    name = task.path(path)
    if name[:6] == b"/proc/":
        target = procfs.read_link(task.process, name)
        if target is not None:
            if size & M32 > 0x7FFFFFFF or not size:
                return -EINVAL
            if not target:
                return -ENOENT
            target = target[:size]
            task.space.write(buf, target)
            return len(target)
    address = task.process.paths.host_path(task, path, False)
    return task.syscall(HOST["readlinkat"], at, address, task.host(buf), size)


def _stat(task: Task, result: int, buf: int) -> int:
    if result == 0:
        data = task.scratch.view[MESSAGE : MESSAGE + HOST_STAT]
        task.space.write(buf, stat_to_guest(data))
    return result


def fstat(task: Task, fd: int, buf: int) -> int:
    """Status of an open file."""
    if fd & M32 in private:
        return -EBADF
    return _stat(task, task.syscall(HOST["fstat"], fd, task.scratch.address + MESSAGE), buf)


def newfstatat(task: Task, at: int, path: int, buf: int, flags: int) -> int:
    """Status of a file by name."""
    if at & M32 in private:
        return -EBADF
    address = task.process.paths.host_path(task, path, not flags & AT_SYMLINK_NOFOLLOW)
    out = task.scratch.address + MESSAGE
    return _stat(task, task.syscall(HOST["newfstatat"], at, address, out, flags), buf)
