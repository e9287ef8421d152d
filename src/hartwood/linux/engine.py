"""What this room needs from the engine, as Protocols; `hartwood.machine` provides it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hartwood.linux.delivery import Dispositions
from hartwood.mem.flat import FlatSpace


class Stop(Protocol):
    """Why a hart came back to Python.

    `cause` is "ecall" (pc is at the instruction), "ebreak", "illegal", "fetch", "load", "store"
    (faults, with `address`, `signo` and the si_code in `code`) or "slice" (look for signals).
    """

    cause: str
    address: int
    signo: int
    code: int


class Hart(Protocol):
    """One guest thread's registers and the means to run it."""

    x: memoryview
    f: memoryview
    pc: int
    fcsr: int

    def run(self) -> Stop:
        """Run until something needs Python."""
        ...

    def syscall(self, number: int, *arguments: int) -> int:
        """One raw host system call for the guest; the result or a negative errno.

        -513 (ERESTARTNOINTR) where a signal was pending before it began, -512 (ERESTARTSYS)
        where one came before it had an effect and SA_RESTART would restart it.
        """
        ...

    def request_stop(self) -> None:
        """Make `run` return with "slice" soon; callable from any thread."""
        ...


class Machine(Protocol):
    """The harts of one process and the translated code they share."""

    space: FlatSpace
    #: Called before and after a guest fork, the latter in the child.
    before_fork: list[Callable[[], None]]
    after_fork_parent: list[Callable[[], None]]
    after_fork_child: list[Callable[[], None]]

    def new_hart(self) -> Hart:
        """Another hart on the same space, registers zero; used by the calling thread only."""
        ...

    def stats(self) -> dict[str, object]:
        """Counters of the run so far, under the names of `--stats`."""
        ...

    def close(self) -> None:
        """The process is over: end the compile worker, give address space back."""
        ...

    def flush_code(self) -> None:
        """Forget decoded and translated code (execve, fence.i on other harts)."""
        ...


class Delivery(Protocol):
    """How host signals that a guest wants reach Python."""

    #: Non-zero at index 0 while `drain` has something to give; cheap to test after every call.
    word: memoryview
    dispositions: Dispositions
    #: Whether a host call gives EINTR only where it must not be restarted, ERESTARTSYS elsewhere.
    exact: bool

    def drain(self) -> list[tuple[int, int, bytes]]:
        """Signals that arrived: (signo, host thread that took it, 128 bytes of siginfo)."""
        ...

    def catch(self, signo: int, flags: int) -> None:
        """Route a host signal here; `flags` are the guest's SA_NOCLDSTOP and SA_NOCLDWAIT."""
        ...

    def default(self, signo: int, flags: int) -> None:
        """Give a host signal its default action."""
        ...

    def ignore(self, signo: int, flags: int) -> None:
        """Ignore a host signal."""
        ...

    def kick(self, tid: int) -> None:
        """Interrupt a thread of ours in whatever host call it is in; no guest sees it."""
        ...

    def after_fork(self) -> None:
        """In a forked child: forget what was pending for the parent."""
        ...

    def close(self) -> None:
        """Restore every disposition that was there before."""
        ...
