"""From call number to function: handlers by name, and calls passed to the host as they are."""

from __future__ import annotations

from errno import EBADF, ENOSYS
from importlib import import_module

from hartwood.linux.calls import Row, row
from hartwood.mem.descriptors import private
from hartwood.mem.flat import LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hartwood.linux.process import Process
    from hartwood.linux.task import Task
    from hartwood.mem.flat import FlatSpace

#: Which module has the handlers of which calls; a handler is a function with the call's name.
HANDLERS = {
    "exec": "execve execveat",
    "files": "openat openat2 close dup3 fcntl close_range getdents64 readlinkat newfstatat fstat",
    "vectors": (
        "readv writev preadv pwritev preadv2 pwritev2 vmsplice process_vm_readv process_vm_writev"
    ),
    "ioctl": "ioctl",
    "ipc": "semctl shmat shmdt mq_notify",
    "identity": (
        "getpid gettid uname personality getrlimit setrlimit prlimit64 prctl riscv_hwprobe"
        " riscv_flush_icache unshare"
    ),
    "memory": (
        "brk mmap munmap mremap mprotect pkey_mprotect msync mlock mlock2 munlock mlockall"
        " mincore madvise"
    ),
    "net": "sendmsg recvmsg sendmmsg recvmmsg bind connect setsockopt",
    "polling": "epoll_ctl epoll_pwait epoll_pwait2 ppoll pselect6 signalfd4",
    "signalcalls": (
        "rt_sigaction rt_sigprocmask rt_sigpending rt_sigsuspend rt_sigtimedwait rt_sigreturn"
        " sigaltstack kill tkill tgkill restart_syscall"
    ),
    "threads": (
        "clone clone3 exit exit_group set_tid_address set_robust_list get_robust_list futex"
        " futex_waitv"
    ),
    "timers": "timer_create",
}
#: Modules whose calls look at the memory map and then change it: one thread at a time.
SERIAL = frozenset({"memory", "ipc"})
_MODULE_OF = {name: module for module, names in HANDLERS.items() for name in names.split()}

#: Calls that a handled signal always ends with EINTR, SA_RESTART or not (signal(7)).
NEVER_RESTARTED = frozenset(
    "rt_sigsuspend rt_sigtimedwait ppoll pselect6 epoll_pwait epoll_pwait2 nanosleep"
    " clock_nanosleep semop semtimedop msgsnd msgrcv".split()
)

AT_SYMLINK_NOFOLLOW = 0x100


class Call:
    """A call ready to be made: `function(task, *arguments)` with `arity` arguments."""

    __slots__ = ("arity", "function", "kinds", "name", "never_restarts")

    def __init__(
        self, name: str, kinds: tuple[str, ...], function: Callable[..., int | None]
    ) -> None:
        self.name = name
        self.kinds = kinds
        self.arity = len(kinds)
        self.function = function
        self.never_restarts = name in NEVER_RESTARTED


class Calls:
    """The calls that this process has made so far, by number; others are looked up once.

    `unknown` counts by name the calls that were answered with ENOSYS.
    """

    def __init__(self, process: Process, *, trace: bool) -> None:
        self.known: dict[int, Call] = {}
        self.unknown: dict[str, int] = {}
        self._process = process
        self._trace = trace

    def resolve(self, number: int) -> Call:
        """The call with this number, from now on in `known`."""
        entry = row(number)
        if entry is None:
            call = self._absent(f"syscall_{number}", ())
        elif entry.name in _MODULE_OF:
            module = import_module(f"hartwood.linux.{_MODULE_OF[entry.name]}")
            function = getattr(module, entry.name)
            if _MODULE_OF[entry.name] in SERIAL:
                function = _one_at_a_time(function, self._process.space)
            call = Call(entry.name, entry.kinds, function)
        elif entry.how == "=":
            call = Call(entry.name, entry.kinds, pass_through(entry, self._process))
        else:
            call = self._absent(entry.name, entry.kinds)
        if self._trace:
            from hartwood.linux.strace import traced

            call = traced(call)
        self.known[number] = call
        return call

    def _absent(self, name: str, kinds: tuple[str, ...]) -> Call:
        unknown = self.unknown

        def absent(task: Task, *arguments: int) -> int:
            unknown[name] = unknown.get(name, 0) + 1
            return -ENOSYS

        return Call(name, kinds, absent)


def _one_at_a_time(
    function: Callable[..., int | None], space: FlatSpace
) -> Callable[..., int | None]:
    lock = space.lock

    def call(task: Task, *arguments: int) -> int | None:
        with lock:
            return function(task, *arguments)

    return call


def pass_through(entry: Row, process: Process) -> Callable[..., int | None]:
    """A function that makes the host's call of the same name, pointers and paths translated."""
    host, kinds = entry.host, entry.kinds
    assert host is not None, entry.name
    base = process.space.base
    bad = base + LIMIT  # inside the guard: the kernel answers EFAULT in its own order of checks
    plain = [index for index, kind in enumerate(kinds) if kind in ("fd", "at", "path", "link")]
    if not kinds:
        return lambda task: task.syscall(host)
    if not plain and not any(kind.endswith("*") for kind in kinds):
        return lambda task, *arguments: task.syscall(host, *arguments)
    if len(kinds) >= 3 and kinds[:3] == ("fd", "buf*", "size") and len(kinds) <= 4:
        return _transfer(host, process)
    pointers = [index for index, kind in enumerate(kinds) if kind.endswith("*")]
    sized = [index for index in pointers if kinds[index + 1 : index + 2] == ("size",)]
    fds = [index for index, kind in enumerate(kinds) if kind in ("fd", "at")]
    paths = [(index, kind) for index, kind in enumerate(kinds) if kind in ("path", "link")]
    flags = kinds.index("atflags") if "atflags" in kinds else None
    space = process.space

    def call(task: Task, *arguments: int) -> int:
        words = list(arguments)
        for index in fds:
            if words[index] & 0xFFFFFFFF in private:
                return -EBADF
        for slot, (index, kind) in enumerate(paths):
            follow = kind == "path"
            if flags is not None and words[flags] & AT_SYMLINK_NOFOLLOW:
                follow = False
            words[index] = process.paths.host_path(task, words[index], follow, slot)
        if space.protected_pages:
            for index in sized:
                space.unprotect_code(words[index], words[index] + words[index + 1])
        for index in pointers:
            va = words[index]
            if va:
                words[index] = va + base if va < LIMIT else bad
        return task.syscall(host, *words)

    return call


def _transfer(host: int, process: Process) -> Callable[..., int | None]:
    """read, write and their like, by far the most frequent calls."""
    base = process.space.base
    bad = base + LIMIT
    space = process.space

    def call(task: Task, fd: int, buf: int, size: int, *offset: int) -> int:
        if fd & 0xFFFFFFFF in private:
            return -EBADF
        if space.protected_pages:
            space.unprotect_code(buf, buf + size)
        return task.syscall(host, fd, buf + base if 0 < buf < LIMIT else buf and bad, size, *offset)

    return call
