"""Threads and processes: clone, exit, futexes, and what a dying thread leaves behind."""

from __future__ import annotations

import _thread
import os
import struct
from errno import EAGAIN, EFAULT, EINVAL, ENOSYS, ESRCH

from hartwood.errors import MemoryFault
from hartwood.linux import exec as execution
from hartwood.linux.calls import HOST
from hartwood.linux.task import MESSAGE, Ended, Task
from hartwood.mem import descriptors, hostmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.process import Process

CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND = 0x100, 0x200, 0x400, 0x800
CLONE_PIDFD, CLONE_VFORK, CLONE_PARENT, CLONE_THREAD = 0x1000, 0x4000, 0x8000, 0x10000
CLONE_SYSVSEM, CLONE_SETTLS, CLONE_PARENT_SETTID = 0x40000, 0x80000, 0x100000
CLONE_CHILD_CLEARTID, CLONE_DETACHED, CLONE_CHILD_SETTID = 0x200000, 0x400000, 0x1000000
CLONE_IO, CLONE_CLEAR_SIGHAND = 0x80000000, 0x100000000
SIGCHLD = 17

THREAD_FLAGS = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD
THREAD_KNOWN = (
    THREAD_FLAGS | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID | CLONE_DETACHED | CLONE_CHILD_SETTID | CLONE_IO
)  # fmt: skip
FORK_KNOWN = (
    CLONE_VM | CLONE_VFORK | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID
    | CLONE_CHILD_SETTID | CLONE_PIDFD | CLONE_DETACHED | CLONE_IO | CLONE_CLEAR_SIGHAND
    | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM
)  # fmt: skip
#: What a vfork child writes above its stack pointer within this many bytes reaches the parent.
VFORK_WINDOW = 16384

FUTEX_COMMAND = 0x7F
FUTEX_WAKE = 1
#: Commands whose fourth argument is a timeout; it is a count for the others.
FUTEX_TIMED = frozenset({0, 6, 9, 11, 13})
FUTEX_TWO_WORDS = frozenset({3, 4, 5, 11, 12})
FUTEX_OWNER_DIED, FUTEX_WAITERS, FUTEX_TID_MASK = 0x40000000, 0x80000000, 0x3FFFFFFF
ROBUST_LIMIT = 2048


def clone(task: Task, flags: int, stack: int, parent_tid: int, tls: int, child_tid: int) -> int:
    """Start a thread or a process (CLONE_BACKWARDS argument order)."""
    pidfd = parent_tid if flags & CLONE_PIDFD else 0
    return start(task, flags & ~0xFF, flags & 0xFF, stack, parent_tid, tls, child_tid, pidfd)


_ARGUMENTS = struct.Struct("<8Q")
_LARGEST_ARGUMENTS = 4096


def clone3(task: Task, at: int, size: int) -> int:
    """Start a thread or a process, arguments in a structure."""
    if size < 64 or size > _LARGEST_ARGUMENTS:
        return -EINVAL if size < 64 else -7
    data = task.space.read(at, size)
    flags, pidfd, child_tid, parent_tid, signal, stack, stack_size, tls = _ARGUMENTS.unpack(
        data[:64]
    )
    if any(data[64:]):
        return -ENOSYS if len(data) <= 88 else -7  # set_tid and cgroup: not to be had here
    if bool(stack) != bool(stack_size) or signal > 64 or flags & 0xFF:
        return -EINVAL
    return start(task, flags, signal, stack + stack_size, parent_tid, tls, child_tid, pidfd)


def start(
    task: Task,
    flags: int,
    signal: int,
    stack: int,
    parent_tid: int,
    tls: int,
    child_tid: int,
    pidfd: int,
) -> int:
    """What clone and clone3 share: sort out who is wanted."""
    if flags & CLONE_THREAD:
        if flags & THREAD_FLAGS != THREAD_FLAGS or flags & ~THREAD_KNOWN:
            return -EINVAL
        return _thread_start(task, flags, stack, parent_tid, tls, child_tid)
    # Memory, files or handlers shared between processes cannot be had from a fork; vfork's
    # sharing is only visible until exec, and what of it matters is given back (see _vfork).
    shared = CLONE_FS | CLONE_FILES | CLONE_SIGHAND
    if flags & ~FORK_KNOWN or signal not in (0, SIGCHLD):
        return -EINVAL
    if flags & (CLONE_VM | shared) and not flags & CLONE_VFORK:
        return -EINVAL
    return _fork(task, flags, stack, parent_tid, tls, child_tid, pidfd)


def _thread_start(
    task: Task, flags: int, stack: int, parent_tid: int, tls: int, child_tid: int
) -> int:
    process = task.process
    ready = _thread.allocate_lock()
    ready.acquire()
    answer: list[int] = []

    def body() -> None:
        try:
            child = _new_thread(process, task, flags, stack, tls)
            tid = child.tid
            if flags & CLONE_PARENT_SETTID:
                process.space.write_u32(parent_tid, tid)
            if flags & CLONE_CHILD_SETTID:
                process.space.write_u32(child_tid, tid)
            if flags & CLONE_CHILD_CLEARTID:
                child.clear_tid = child_tid
            process.tasks[tid] = child
        except MemoryFault:
            answer.append(-EFAULT)
            ready.release()
            return
        except BaseException:
            answer.append(-EAGAIN)
            ready.release()
            raise
        answer.append(tid)
        ready.release()
        process.serve(child)

    try:
        _thread.start_new_thread(body, ())
    except RuntimeError:  # the host has no room for another thread
        return -EAGAIN
    ready.acquire()
    return answer[0]


def _new_thread(process: Process, parent: Task, flags: int, stack: int, tls: int) -> Task:
    """A task for the calling host thread that continues with the parent's registers."""
    child = Task(process, process.machine.new_hart())
    child.tid = _thread.get_native_id()
    child.mask = parent.mask
    hart, old = child.hart, parent.hart
    for number in range(1, 32):
        child.x[number] = parent.x[number]
    for number in range(32):
        hart.f[number] = old.f[number]
    hart.fcsr = old.fcsr
    hart.pc = old.pc + 4
    child.x[10] = 0
    if stack:
        child.x[2] = stack
    if flags & CLONE_SETTLS:
        child.x[4] = tls
    return child


def _fork(
    task: Task, flags: int, stack: int, parent_tid: int, tls: int, child_tid: int, pidfd: int
) -> int:
    process = task.process
    pipe: tuple[int, int] | None = None
    if flags & CLONE_VFORK:
        with descriptors.Room():
            reading, writing = os.pipe()
            pipe = descriptors.hide(reading), descriptors.hide(writing)
    pid = process.fork()
    if pid == 0:
        _become_child(task, flags, stack, tls, child_tid, pipe)
        return 0
    if pid < 0:
        if pipe:
            descriptors.forget(pipe)
        return pid
    if flags & CLONE_PARENT_SETTID and not pidfd:
        task.space.write_u32(parent_tid, pid)
    if pidfd:
        task.space.write_u32(pidfd, os.pidfd_open(pid))
    if pipe:
        descriptors.close(pipe[1])
        _wait_for_vfork(task, pipe[0])
    return pid


def _become_child(
    task: Task, flags: int, stack: int, tls: int, child_tid: int, pipe: tuple[int, int] | None
) -> None:
    process = task.process
    if process.vfork_pipe is not None:
        descriptors.close(process.vfork_pipe)
        process.vfork_pipe = None
    if pipe is not None:
        descriptors.close(pipe[0])
        process.vfork_pipe = pipe[1]
        sp = task.x[2]
        process.vfork_window = sp, task.space.read_some(sp, VFORK_WINDOW)
    task.tid = process.pid
    process.tasks = {task.tid: task}
    process.leader = task
    process.timers.clear()
    process.ending = process.request = None
    task.pending.clear()
    task.robust_list = 0
    task.clear_tid = child_tid if flags & CLONE_CHILD_CLEARTID else 0
    if stack:
        task.x[2] = stack
    if flags & CLONE_SETTLS:
        task.x[4] = tls
    if flags & CLONE_CHILD_SETTID:
        try:
            task.space.write_u32(child_tid, task.tid)
        except MemoryFault:  # as the kernel, which ignores a bad address here
            task.clear_tid = 0
    if flags & CLONE_CLEAR_SIGHAND:
        process.reset_actions()


_CHANGE = struct.Struct("<QQ")


def _wait_for_vfork(task: Task, pipe: int) -> None:
    """Wait until the child has called execve or is gone; take over what it left on our stack."""
    received = b""
    while True:
        at = task.scratch.address + MESSAGE
        result = task.syscall(HOST["read"], pipe, at, 4096)
        if result > 0:
            received += bytes(task.scratch.view[MESSAGE : MESSAGE + result])
        elif result == 0 or result not in (-4, -512, -513) or task.process.ending is not None:
            break
        else:
            from hartwood.linux import signals

            # Signals wait until the child is done, as the kernel makes them wait.
            signals.collect(task.process)
    descriptors.close(pipe)
    for address, word in _CHANGE.iter_unpack(received[: len(received) & -_CHANGE.size]):
        task.space.write_u64(address, word)


def give_back(process: Process) -> None:
    """A vfork child that ends without execve: send what it changed on its parent's stack.

    Under vfork(2) it shares the parent's memory; posix_spawn reports a failed execve that way.
    """
    if process.vfork_pipe is None:
        return
    sp, before = process.vfork_window
    now = process.space.read_some(sp, len(before))
    changes = b"".join(
        _CHANGE.pack(sp + at, int.from_bytes(now[at : at + 8], "little"))
        for at in range(0, min(len(now), len(before)) - 7, 8)
        if now[at : at + 8] != before[at : at + 8]
    )
    try:
        os.write(process.vfork_pipe, changes)
    except OSError:  # the parent is gone: nobody is interested
        pass
    execution.release_parent(process)


def exit(task: Task, status: int) -> None:
    """End the calling thread; the status of the last one is the process's (since Linux 5.18)."""
    process = task.process
    if process.ending is None:
        process.exit_status = status & 0xFF
    raise Ended("the thread ends")


def exit_group(task: Task, status: int) -> None:
    """End the process."""
    task.process.end(task, status & 0xFF)


def set_tid_address(task: Task, at: int) -> int:
    """Where to write 0 when the thread ends."""
    task.clear_tid = at
    return task.tid


def set_robust_list(task: Task, head: int, size: int) -> int:
    """Where the locks are that must not stay locked when the thread dies."""
    if size != 24:
        return -EINVAL
    task.robust_list = head
    return 0


def get_robust_list(task: Task, tid: int, head: int, size: int) -> int:
    """Read a thread's robust list; other processes' are theirs."""
    other = task if not tid else task.process.tasks.get(tid & 0xFFFFFFFF)
    if other is None:
        return -ESRCH
    task.space.write_u64(size, 24)
    task.space.write_u64(head, other.robust_list)
    return 0


def release(task: Task) -> None:
    """What the kernel does for a thread that ended: robust locks, the word that join waits for."""
    try:
        if task.robust_list:
            _release_locks(task)
        if task.clear_tid and len(task.process.tasks) > 1:
            task.space.write_u32(task.clear_tid, 0)
            hostmem.syscall(HOST["futex"], task.host(task.clear_tid), FUTEX_WAKE, 1)
    except MemoryFault:  # the guest's own pointers; the kernel gives up silently too
        return


def _release_locks(task: Task) -> None:
    space = task.space
    head, offset, pending = struct.unpack("<QqQ", space.read(task.robust_list, 24))
    entry = head
    for _ in range(ROBUST_LIMIT):
        if entry & ~1 == task.robust_list:
            break
        following = space.read_u64(entry & ~1)
        if entry != pending:
            _release_lock(task, (entry & ~1) + offset)
        entry = following
    if pending:
        _release_lock(task, (pending & ~1) + offset)


def _release_lock(task: Task, at: int) -> None:
    word = task.space.read_u32(at)
    if word & FUTEX_TID_MASK == task.tid:
        task.space.write_u32(at, word & FUTEX_WAITERS | FUTEX_OWNER_DIED)
        # Wakes always: a waiter may have announced itself between the read and the write.
        hostmem.syscall(HOST["futex"], task.host(at), FUTEX_WAKE, 1)


def futex(
    task: Task, word: int, operation: int, value: int, timeout: int, second: int, value3: int
) -> int:
    """Wait and wake on the host's futexes: guest words are host words."""
    command = operation & FUTEX_COMMAND
    if command in FUTEX_TIMED:
        timeout = task.host(timeout)
    if command in FUTEX_TWO_WORDS:
        second = task.host(second)
    return task.syscall(HOST["futex"], task.host(word), operation, value, timeout, second, value3)


_WAITER = struct.Struct("<QQII")


def futex_waitv(task: Task, waiters: int, count: int, flags: int, timeout: int, clock: int) -> int:
    """Wait on several futexes."""
    if not 0 < count <= 128:
        return -EINVAL
    data = task.space.read(waiters, 24 * count)
    packed = b"".join(
        _WAITER.pack(value, task.host(word), kind, reserved)
        for value, word, kind, reserved in _WAITER.iter_unpack(data)
    )
    at = task.place(MESSAGE, packed)
    return task.syscall(HOST["futex_waitv"], at, count, flags, task.host(timeout), clock)
