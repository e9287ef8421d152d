"""System V semaphores and shared memory, POSIX queue notification."""

from __future__ import annotations

from errno import EINVAL, ENOMEM

from hartwood.linux.calls import HOST
from hartwood.linux.structs import (
    GUEST_SEMAPHORE,
    HOST_SEMAPHORE,
    semaphore_to_guest,
    semaphore_to_host,
)
from hartwood.linux.task import MESSAGE
from hartwood.mem.regions import EXEC, PAGE, READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.task import Task

IPC_RMID, IPC_SET, IPC_STAT, IPC_INFO = 0, 1, 2, 3
GETPID, GETVAL, GETALL, GETNCNT, GETZCNT, SETVAL, SETALL = 11, 12, 13, 14, 15, 16, 17
SEM_STAT, SEM_INFO, SEM_STAT_ANY = 18, 19, 20
SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_EXEC = 0o10000, 0o20000, 0o40000, 0o100000
SIGEV_THREAD = 2


def semctl(task: Task, ident: int, number: int, command: int, argument: int) -> int:
    """Control semaphores; struct semid64_ds differs from the host's."""
    command &= 0xFFFFFFFF
    host = HOST["semctl"]
    at = task.scratch.address + MESSAGE
    if command in (IPC_STAT, SEM_STAT, SEM_STAT_ANY):
        result = task.syscall(host, ident, number, command, at)
        if result >= 0:
            data = task.scratch.view[MESSAGE : MESSAGE + HOST_SEMAPHORE]
            task.space.write(argument, semaphore_to_guest(data))
        return result
    if command == IPC_SET:
        task.place(MESSAGE, semaphore_to_host(task.space.read(argument, GUEST_SEMAPHORE)))
        return task.syscall(host, ident, number, command, at)
    if command in (GETALL, SETALL, IPC_INFO, SEM_INFO):
        argument = task.host(argument)
    return task.syscall(host, ident, number, command, argument)


def shmat(task: Task, ident: int, at: int, flags: int) -> int:
    """Attach shared memory inside the guest's address space."""
    status = task.syscall(HOST["shmctl"], ident, IPC_STAT, task.scratch.address + MESSAGE)
    if status < 0:
        return status
    # struct shmid64_ds begins with ipc64_perm (48 bytes) and the segment's size.
    size = int.from_bytes(task.scratch.view[MESSAGE + 48 : MESSAGE + 56], "little")
    size = size + PAGE - 1 & -PAGE
    space = task.space
    if at & PAGE - 1:
        if not flags & SHM_RND:
            return -EINVAL
        at &= -PAGE
    if not at:
        at = space.find_free(size)
    elif at + size > space.limit or not (flags & SHM_REMAP or space.regions.is_free(at, at + size)):
        return -EINVAL
    # The reservation is there already, so that the host has to replace it.
    wanted = (flags | SHM_REMAP) & ~SHM_EXEC
    result = task.syscall(HOST["shmat"], ident, task.base + at, wanted)
    if -4096 < result < 0:
        return result
    if result != task.base + at:
        return -ENOMEM
    prot = READ | (0 if flags & SHM_RDONLY else WRITE) | (EXEC if flags & SHM_EXEC else 0)
    space.adopt(at, size, prot, shared=True, path=f"/SYSV{ident & 0xFFFFFFFF:08x} (deleted)")
    task.process.segments[at] = size
    return at


def shmdt(task: Task, at: int) -> int:
    """Detach shared memory."""
    size = task.process.segments.pop(at, None)
    if size is None:
        return -EINVAL
    # Mapping the reservation over it detaches it for the host too.
    task.space.unmap(at, size)
    return 0


def mq_notify(task: Task, queue: int, event: int) -> int:
    """Ask for a signal on arrival; a notification thread is made by libc over a socket."""
    address = 0
    if event:
        data = bytearray(task.space.read(event, 64))
        if int.from_bytes(data[12:16], "little") == SIGEV_THREAD:
            # sigev_value then points to the cookie that the kernel sends.
            cookie = int.from_bytes(data[:8], "little")
            data[:8] = task.host(cookie).to_bytes(8, "little")
        address = task.place(MESSAGE, bytes(data))
    return task.syscall(HOST["mq_notify"], queue, address)
