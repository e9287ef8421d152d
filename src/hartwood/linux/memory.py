"""The memory system calls: mmap and its family, brk, advice, locking."""

from __future__ import annotations

import os
from errno import EBADF, EEXIST, EINVAL, ENOMEM, ENOSYS, EPERM

from hartwood.errors import MappingError
from hartwood.linux.calls import HOST
from hartwood.mem.descriptors import private
from hartwood.mem.flat import LIMIT, LOWEST
from hartwood.mem.hostmem import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    MAP_TYPE,
)
from hartwood.mem.regions import EXEC, PAGE, READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.task import Task

MAP_GROWSDOWN, MAP_LOCKED, MAP_HUGETLB, MAP_32BIT = 0x100, 0x2000, 0x40000, 0x40
PROT_GROWSDOWN, PROT_GROWSUP = 0x01000000, 0x02000000
MADV_DONTNEED, MADV_REMOVE, MADV_FREE, MADV_HWPOISON = 4, 9, 8, 100
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4


def mmap(task: Task, at: int, size: int, prot: int, flags: int, fd: int, offset: int) -> int:
    """Map memory or a file."""
    space = task.space
    kind = flags & MAP_TYPE
    if kind not in (MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE) or not size:
        return -EINVAL
    if flags & MAP_HUGETLB:
        return -ENOMEM  # this machine has no huge pages to give
    if offset & PAGE - 1:
        return -EINVAL
    if size > LIMIT:
        return -ENOMEM
    size = size + PAGE - 1 & -PAGE
    path, device, inode = "", 0, 0
    if not flags & MAP_ANONYMOUS:
        fd &= 0xFFFFFFFF
        if fd in private:
            return -EBADF
        status = os.fstat(fd)
        device, inode = status.st_dev, status.st_ino
        path = os.readlink(f"/proc/self/fd/{fd}")
    else:
        fd, offset = -1, 0
        if kind != MAP_PRIVATE:
            path = "/dev/zero (deleted)"
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
        if at & PAGE - 1:
            return -EINVAL
        if at > LIMIT - size:
            return -ENOMEM
        if at < LOWEST:
            return -EPERM
        if flags & MAP_FIXED_NOREPLACE and not space.regions.is_free(at, at + size):
            return -EEXIST
    else:
        at = space.find_free(size, at)
    if task.process.lock_future:
        flags |= MAP_LOCKED
    space.map(
        at,
        size,
        prot & (READ | WRITE | EXEC),
        flags=flags & ~(MAP_GROWSDOWN | MAP_32BIT),
        fd=fd,
        offset=offset,
        path=path,
        device=device,
        inode=inode,
    )
    return at


def munmap(task: Task, at: int, size: int) -> int:
    """Unmap memory."""
    if size > LIMIT:
        return -EINVAL
    task.space.unmap(at, size)
    return 0


def mprotect(task: Task, at: int, size: int, prot: int) -> int:
    """Change protection."""
    if at & PAGE - 1 or prot & ~(7 | 8 | PROT_GROWSDOWN | PROT_GROWSUP):
        return -EINVAL
    if at + size > LIMIT:
        return -ENOMEM
    if prot & PROT_GROWSDOWN:
        # The stack's whole mapping: the dynamic linker makes it executable this way.
        region = task.space.regions.at(at)
        if region is None:
            return -ENOMEM
        size += at - region.start
        at = region.start
    task.space.protect(at, size, prot & 7)
    return 0


def pkey_mprotect(task: Task, at: int, size: int, prot: int, key: int) -> int:
    """mprotect where no protection key is wanted; there are none."""
    if key & 0xFFFFFFFF != 0xFFFFFFFF:
        return -EINVAL
    return mprotect(task, at, size, prot)


MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4


def mremap(task: Task, at: int, old: int, new: int, flags: int, target: int) -> int:
    """Resize or move a mapping."""
    if flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED) or flags == MREMAP_FIXED or at & PAGE - 1:
        return -EINVAL
    fixed = None
    if flags & MREMAP_FIXED:
        if target & PAGE - 1 or target > LIMIT or target < LOWEST:
            return -EINVAL
        fixed = target
    if old == 0 or new == 0 or new > LIMIT:
        return -EINVAL
    return task.space.remap(at, old, new, may_move=bool(flags & MREMAP_MAYMOVE), target=fixed)


def brk(task: Task, at: int) -> int:
    """Move the program's break; the new one, or the old one where that cannot be."""
    process, space = task.process, task.space
    if at < process.brk_start or at > LIMIT:
        return process.brk
    old_end = process.brk + PAGE - 1 & -PAGE
    new_end = at + PAGE - 1 & -PAGE
    try:
        if new_end > old_end:
            if not space.regions.is_free(old_end, new_end):
                return process.brk
            space.map(old_end, new_end - old_end, READ | WRITE, path="[heap]")
        elif new_end < old_end:
            space.unmap(new_end, old_end - new_end)
    except MappingError:
        return process.brk
    process.brk = at
    return at


def _range(task: Task, at: int, size: int) -> int:
    """0 where [at, at+size) is a page-aligned mapped range, else a negative errno."""
    if at & PAGE - 1:
        return -EINVAL
    end = at + size + PAGE - 1 & -PAGE
    if end > LIMIT or not task.space.regions.allows(at, end, 0):
        return -ENOMEM
    return 0


def madvise(task: Task, at: int, size: int, advice: int) -> int:
    """Advice about memory."""
    if at & PAGE - 1 or size > LIMIT or at > LIMIT - size:
        return -EINVAL
    if size == 0:
        return 0
    if advice == MADV_HWPOISON:
        return -EPERM
    space = task.space
    end = at + size + PAGE - 1 & -PAGE
    regions = space.regions.over(at, end)
    result = 0
    for region in regions:
        start, stop = max(at, region.start), min(end, region.end)
        result = task.syscall(HOST["madvise"], task.base + start, stop - start, advice)
        if result < 0:
            return result
        if advice in (MADV_DONTNEED, MADV_REMOVE, MADV_FREE) and region.prot & EXEC:
            space.code_changed(start, stop)
    return _range(task, at, size)


def msync(task: Task, at: int, size: int, flags: int) -> int:
    """Write file mappings back."""
    result = _range(task, at, size)
    if result:
        return result
    return task.syscall(HOST["msync"], task.base + at, size, flags)


def mincore(task: Task, at: int, size: int, vector: int) -> int:
    """Which pages are in memory."""
    result = _range(task, at, size)
    if result:
        return result
    return task.syscall(HOST["mincore"], task.base + at, size, task.host(vector))


def mlock(task: Task, at: int, size: int) -> int:
    """Keep pages in memory."""
    start = at & -PAGE
    result = _range(task, start, size + at - start)
    return result or task.syscall(HOST["mlock"], task.base + at, size)


def mlock2(task: Task, at: int, size: int, flags: int) -> int:
    """Keep pages in memory, or those that are touched."""
    start = at & -PAGE
    result = _range(task, start, size + at - start)
    return result or task.syscall(HOST["mlock2"], task.base + at, size, flags)


def munlock(task: Task, at: int, size: int) -> int:
    """Undo mlock."""
    start = at & -PAGE
    result = _range(task, start, size + at - start)
    return result or task.syscall(HOST["munlock"], task.base + at, size)


def mlockall(task: Task, flags: int) -> int:
    """Lock what the guest has mapped: the host's own call would take our reservation too."""
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        return -EINVAL
    if flags & MCL_ONFAULT:
        return -ENOSYS
    if flags & MCL_CURRENT:
        for region in list(task.space.regions):
            if region.prot:
                size = region.end - region.start
                result = task.syscall(HOST["mlock"], task.base + region.start, size)
                if result:
                    return result
    task.process.lock_future = bool(flags & MCL_FUTURE)
    return 0
