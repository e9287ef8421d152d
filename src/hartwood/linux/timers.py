"""Sleeping and POSIX timers."""

from __future__ import annotations

from hartwood.linux.calls import HOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.task import Task


def timer_create(task: Task, clock: int, event: int, timer: int) -> int:
    """Create a timer; execve deletes it, so it is remembered."""
    result = task.syscall(HOST["timer_create"], clock, task.host(event), task.host(timer))
    if result == 0:
        task.process.timers.append(task.space.read_u32(timer))
    return result
