"""Our own file descriptors, kept where a guest does not meet them.

A guest's descriptor numbers are the host's. Whatever this process opens for itself (memory files,
cache files, pipes to the compile worker) is moved up to numbers at the end of the range that
programs use, closed on exec, and listed here so that the guest's calls can refuse it.
"""

from __future__ import annotations

import os
from fcntl import F_DUPFD_CLOEXEC, fcntl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: Descriptors of ours; a guest call that names one gets EBADF.
private: set[int] = set()

#: The highest number to move to: larger ones make the kernel's table, copied by fork, larger.
CEILING = 4096
_ROOM = 64


def floor() -> int:
    """The lowest number our descriptors are moved to: the end of the soft limit, if low enough."""
    # The module `resource` is only needed here, once.
    from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

    soft, _ = getrlimit(RLIMIT_NOFILE)
    if soft == RLIM_INFINITY or soft > CEILING:
        return CEILING
    return max(soft - _ROOM, soft // 2)


def hide(fd: int) -> int:
    """Move `fd` out of the guest's sight and return its new number; the old one is closed.

    Raises `OSError` (EMFILE) where there is no room above the floor.
    """
    try:
        hidden = fcntl(fd, F_DUPFD_CLOEXEC, floor())
    finally:
        os.close(fd)
    private.add(hidden)
    return hidden


def close(fd: int) -> None:
    """Close a descriptor that `hide` returned."""
    private.discard(fd)
    os.close(fd)


def forget(fds: Iterable[int]) -> None:
    """Close several of them, whether still open or not (after a fork, in the child)."""
    for fd in tuple(fds):
        private.discard(fd)
        try:
            os.close(fd)
        except OSError:  # already closed: the aim is reached
            continue
