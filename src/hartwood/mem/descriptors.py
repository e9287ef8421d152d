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


class Room:
    """A context in which we may open files although the guest has used up its own numbers.

    The soft limit is the guest's; the hard one is kept higher for us where the host gave it so.
    `floor` is the lowest number for what stays open: beyond the guest's, unless there is no beyond.
    """

    def __enter__(self) -> Room:
        # Not at the top: most programs come here once or never.
        from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit

        soft, hard = self._before = getrlimit(RLIMIT_NOFILE)
        self._raised = soft != hard
        if self._raised:
            setrlimit(RLIMIT_NOFILE, (hard, hard))
        if soft == RLIM_INFINITY or soft > CEILING:
            self.floor = CEILING
        elif self._raised:
            self.floor = soft
        else:
            self.floor = max(soft - _ROOM, soft // 2)
        return self

    def __exit__(self, *_: object) -> None:
        if self._raised:
            from resource import RLIMIT_NOFILE, setrlimit

            setrlimit(RLIMIT_NOFILE, self._before)


def hide(fd: int) -> int:
    """Move `fd` out of the guest's sight and return its new number; the old one is closed.

    Raises `OSError` (EMFILE) where there is no room above the floor.
    """
    try:
        with Room() as room:
            hidden = fcntl(fd, F_DUPFD_CLOEXEC, room.floor)
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
