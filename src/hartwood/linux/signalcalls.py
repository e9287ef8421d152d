"""The signal system calls."""

from __future__ import annotations

import os
import struct
from errno import EINTR, EINVAL, EPERM

from hartwood.linux import signals
from hartwood.linux.calls import HOST
from hartwood.linux.signals import (
    SIG_BLOCK,
    SIG_SETMASK,
    SIG_UNBLOCK,
    SIGNALS,
    UNBLOCKABLE,
    Action,
    bit,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.task import Task

#: struct sigaction of riscv64 (no restorer): handler, flags, mask.
_ACTION = struct.Struct("<QQQ")
_STACK = struct.Struct("<QI4xQ")


def rt_sigaction(task: Task, signo: int, new: int, old: int, size: int) -> int:
    """Set and read a disposition."""
    signo &= 0xFFFFFFFF
    if size != 8 or not 1 <= signo <= SIGNALS or (new and bit(signo) & UNBLOCKABLE):
        return -EINVAL
    process = task.process
    before = process.actions[signo]
    action = None
    if new:
        handler, flags, mask = _ACTION.unpack(task.space.read(new, 24))
        action = Action(handler, flags, mask & ~UNBLOCKABLE)
    if old:
        task.space.write(old, _ACTION.pack(before.handler, before.flags, before.mask))
    if action is not None:
        process.set_action(signo, action)
    return 0


def rt_sigprocmask(task: Task, how: int, new: int, old: int, size: int) -> int:
    """Change the calling thread's blocked signals."""
    if size != 8:
        return -EINVAL
    before = task.mask
    if new:
        given = task.space.read_u64(new)
        if how == SIG_BLOCK:
            mask = before | given
        elif how == SIG_UNBLOCK:
            mask = before & ~given
        elif how == SIG_SETMASK:
            mask = given
        else:
            return -EINVAL
        signals.set_mask(task, mask)
    if old:
        task.space.write_u64(old, before)
    return 0


def rt_sigpending(task: Task, at: int, size: int) -> int:
    """Blocked signals that wait: the host kernel's and those we hold ourselves."""
    if size > 8:
        return -EINVAL
    result = task.syscall(HOST["rt_sigpending"], task.scratch.address, 8)
    if result < 0:
        return result
    pending = int.from_bytes(task.scratch.view[:8], "little")
    for signo, _ in task.pending:
        pending |= bit(signo)
    task.space.write(at, (pending & task.mask).to_bytes(8, "little")[:size])
    return 0


def rt_sigsuspend(task: Task, at: int, size: int) -> int:
    """Wait for a signal with another mask."""
    if size != 8:
        return -EINVAL
    mask = task.space.read_u64(at)
    address = signals.suspend_mask(task, mask)
    if _held(task, ~mask):
        return -EINTR
    return task.syscall(HOST["rt_sigsuspend"], address, 8)


def _held(task: Task, wanted: int) -> bool:
    """Whether we hold a signal for this thread that is in the set `wanted`."""
    return any(wanted & bit(signo) for signo, _ in task.pending)


def rt_sigtimedwait(task: Task, at: int, info: int, timeout: int, size: int) -> int:
    """Take a blocked signal, waiting for it."""
    if size != 8:
        return -EINVAL
    wanted = task.space.read_u64(at)
    for index, (signo, data) in enumerate(task.pending):
        if wanted & bit(signo):
            if info:
                task.space.write(info, data)
            del task.pending[index]
            return signo
    address = task.place(0, (wanted & ~(signals.HOST_OPEN | UNBLOCKABLE)).to_bytes(8, "little"))
    number = HOST["rt_sigtimedwait"]
    return task.syscall(number, address, task.host(info), task.host(timeout), 8)


def rt_sigreturn(task: Task) -> None:
    """Back from a handler."""
    signals.pop_frame(task)


def sigaltstack(task: Task, new: int, old: int) -> int:
    """Set and read the alternate stack."""
    sp = task.x[2]
    state = signals.stack_state(task, sp)
    before = _STACK.pack(
        task.stack_at, state | task.stack_flags & signals.SS_AUTODISARM, task.stack_size
    )
    result = 0
    if new:
        at, flags, size = _STACK.unpack(task.space.read(new, 24))
        if state == signals.SS_ONSTACK:
            return -EPERM
        result = signals.set_stack(task, at, flags, size)
    if old and result == 0:
        task.space.write(old, before)
    return result


def kill(task: Task, pid: int, signo: int) -> int:
    """Send a signal to processes; to ourselves it is known at once where we stand."""
    return _send(task, "kill", pid, signo)


def tkill(task: Task, tid: int, signo: int) -> int:
    """Send a signal to a thread."""
    return _send(task, "tkill", tid, signo)


def tgkill(task: Task, pid: int, tid: int, signo: int) -> int:
    """Send a signal to a thread of a process."""
    return _send(task, "tgkill", pid, tid, signo)


def _send(task: Task, name: str, *arguments: int) -> int:
    target, signo = arguments[-2] & 0xFFFFFFFF, arguments[-1] & 0xFFFFFFFF
    if (
        signo in signals.DUMPING
        and target in (task.tid, task.process.pid)
        and arguments[0] & 0xFFFFFFFF in (task.tid, task.process.pid)
        and not task.mask & bit(signo)
        and task.process.actions[signo].handler == signals.SIG_DFL
    ):
        # abort() and its like: die here, where pc and registers are known, not in the kernel.
        code = 0 if name == "kill" else -6
        info = signals.user_info(signo, code, os.getpid(), os.getuid())
        signals.default_action(task, signo, info)
    return task.syscall(HOST[name], *arguments)


def restart_syscall(task: Task) -> int:
    """Only the kernel itself sets this call up; made by hand it is interrupted."""
    return -EINTR
