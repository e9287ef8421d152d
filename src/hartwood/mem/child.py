"""A process of our own that a guest's wait does not find.

execve makes every child one that wait4(-1) reports, whatever clone said. So the process is started
by another in between, which ends at once and leaves an orphan; and that other is a "clone child"
(wait(2), __WCLONE), whose end sends no SIGCHLD to the guest.

That other runs Python only where ours is the one thread. Python's lock would never come back to it
from a thread that was waiting for it, for that thread does not exist there; nor would malloc's.
"""

from __future__ import annotations

import ctypes
import os
import sys
from errno import EAGAIN

from hartwood.mem import hostmem
from hartwood.mem.descriptors import Room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The host's number of clone(2), whose first argument is the flags everywhere.
_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220}
_WAIT_CLONE = -0x80000000  # __WCLONE, bit 31 of an int

_LAST_FD = 0x7FFFFFFF
_STACK = 256 << 10
_MAP_STACK = hostmem.MAP_PRIVATE | hostmem.MAP_ANONYMOUS

# With the GIL: released, another thread could hold it at the fork, and the child never get it.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long,) * 6


def _clone() -> int:
    """Fork without an exit signal, and without Python's own preparations."""
    pid: int = _syscall(_CLONE[os.uname().machine], 0, 0, 0, 0, 0)
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return pid


def spawn_unseen(
    arguments: Sequence[str], environment: Mapping[str, str], files: Mapping[int, int]
) -> int:
    """Start the program `arguments[0]` as an orphan in a session of its own; its process id.

    `files` gives the only descriptors it has beyond 2: number in the child (above 2), number here.
    Its standard streams are /dev/null: one that it kept would hold up whoever waits for the
    end of the guest's output. Raises `OSError` where the host has no room for a process.
    """
    with Room():
        reading, writing = os.pipe()
    try:
        if len(sys._current_frames()) > 1:
            with Room():
                _spawn_by_shell(arguments, files, writing)
        else:
            _spawn_by_fork(arguments, environment, files, writing)
        os.close(writing)
        writing = -1
        number = int.from_bytes(os.read(reading, 8), "little")
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if not number:
        raise OSError(EAGAIN, "no room for another process")
    return number


def _spawn_by_fork(
    arguments: Sequence[str], environment: Mapping[str, str], files: Mapping[int, int], note: int
) -> None:
    """Start the program and write its process id to `note`; for a process of one thread."""
    middle = _clone()
    if middle == 0:
        # Nothing here may return into our caller's code, whatever happens.
        try:
            child = _clone()
            if child == 0:
                _become(arguments, environment, files)
            os.write(note, child.to_bytes(8, "little"))
        finally:
            os._exit(0)
    os.waitpid(middle, _WAIT_CLONE)


def _spawn_by_shell(arguments: Sequence[str], files: Mapping[int, int], note: int) -> None:
    """The same, with this process's own environment, whatever other threads are doing: the one in
    between runs nothing but the C library's system(3), and Python starts afresh."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from hartwood.mem.child import arrive; "
        f"arrive({list(arguments)!r}, {dict(files)!r}, {note})"
    )
    command = f"{_quoted(sys.executable)} -S -c {_quoted(code)} </dev/null >/dev/null 2>&1 &"
    text = command.encode("utf-8", "surrogateescape")
    stack = hostmem.mmap(0, _STACK, hostmem.PROT_READ | hostmem.PROT_WRITE, _MAP_STACK)
    inherited = [fd for fd in (*files.values(), note) if not os.get_inheritable(fd)]
    try:
        for fd in inherited:
            os.set_inheritable(fd, True)
        middle = _libc.clone(
            _libc.system, ctypes.c_void_p(stack + _STACK), 0, ctypes.c_char_p(text)
        )
        if middle < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        os.waitpid(middle, _WAIT_CLONE)
    finally:
        for fd in inherited:
            os.set_inheritable(fd, False)
        hostmem.munmap(stack, _STACK)


def _quoted(text: str) -> str:
    """One word of a shell's."""
    return "'" + text.replace("'", "'\\''") + "'"


def arrive(arguments: Sequence[str], files: Mapping[int, int], note: int) -> None:
    """What the shell's child does: report and become the program."""
    os.write(note, os.getpid().to_bytes(8, "little"))
    _become(arguments, os.environ, files)


def _become(
    arguments: Sequence[str], environment: Mapping[str, str], files: Mapping[int, int]
) -> None:
    try:
        os.setsid()
        Room().__enter__()  # for good: the numbers below may lie beyond the guest's limit
        # Two steps, because a number that is wanted may be the number of another file now.
        above = max((*files, *files.values(), 2)) + 1
        for step, fd in enumerate(files.values()):
            os.dup2(fd, above + step, inheritable=False)
        for step, target in enumerate(files):
            os.dup2(above + step, target, inheritable=True)
        null = os.open("/dev/null", os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        # A guest's pipe that stayed open here would never come to its end for the guest.
        low = 3
        for target in sorted(files):
            os.closerange(low, target)
            low = target + 1
        os.closerange(low, _LAST_FD)
        _open_signals()
        os.execve(arguments[0], list(arguments), dict(environment))
    finally:
        os._exit(127)


def _open_signals() -> None:
    """The guest's mask is not the new program's."""
    from signal import SIG_SETMASK, pthread_sigmask

    pthread_sigmask(SIG_SETMASK, ())
