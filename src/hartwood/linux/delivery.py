"""How host signals reach the guest: through the engine's generated handlers, or Python's own.

Both give the same `Delivery` interface. `NativeDelivery` stands on a ring that generated code
fills, and is exact. `PythonDelivery` needs no generated code and serves the reference engine:
it knows no siginfo, and wants to be used on Python's main thread.
"""

from __future__ import annotations

import os
import struct
from _thread import get_native_id

from hartwood.linux import signals
from hartwood.linux.calls import HOST
from hartwood.linux.signals import HOST_OPEN, KICK_VALUE, SI_QUEUE, SIGKICK, SIGNALS, bit, user_info
from hartwood.mem import hostmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Ring(Protocol):
        """The caught signals."""

        def drain(self) -> list[tuple[int, int, bytes]]:
            """Signals caught since the last time."""
            ...

    class HostSignals(Protocol):
        """What `NativeDelivery` needs of the engine's signal runtime."""

        pending_at: int

        @property
        def ring(self) -> Ring:
            """Caught signals."""
            ...

        def catch(self, signo: int) -> None:
            """Put every later `signo` into the ring."""
            ...


#: struct sigaction of the host kernel: handler, flags, restorer, mask.
_ACTION = struct.Struct("<QQQQ")
_KEEP = signals.SA_NOCLDSTOP | signals.SA_NOCLDWAIT


class Dispositions:
    """Host signal dispositions, set by raw calls and put back at the end."""

    def __init__(self) -> None:
        self.before = {signo: self.read(signo) for signo in range(1, SIGNALS + 1)}

    def read(self, signo: int) -> bytes:
        """The kernel's struct sigaction for `signo`; empty for a signal that has none."""
        buffer = hostmem.Buffer(_ACTION.size)
        if hostmem.syscall(HOST["rt_sigaction"], signo, 0, buffer.address, 8):
            return b""
        return bytes(buffer.view)

    def write(self, signo: int, action: bytes) -> None:
        """Set it; a signal that takes none (SIGKILL) is left alone."""
        buffer = hostmem.Buffer(_ACTION.size)
        buffer.view[:] = action
        hostmem.syscall(HOST["rt_sigaction"], signo, buffer.address, 0, 8)

    def set(self, signo: int, handler: int, flags: int) -> None:
        """Default action (0) or ignored (1), with SA_NOCLDSTOP and SA_NOCLDWAIT from `flags`."""
        self.write(signo, _ACTION.pack(handler, flags & _KEEP, 0, 0))

    def add_flags(self, signo: int, flags: int) -> None:
        """Add SA_NOCLDSTOP and SA_NOCLDWAIT to the action that is set."""
        if flags & _KEEP:
            handler, have, restorer, mask = _ACTION.unpack(self.read(signo))
            self.write(signo, _ACTION.pack(handler, have | flags & _KEEP, restorer, mask))

    def ignored(self, signo: int) -> bool:
        """Whether `signo` was ignored when we started, as execve hands it down.

        Python itself ignores SIGPIPE and SIGXFSZ and hides what it inherited for them; they
        count as default.
        """
        if signo in (13, 25):
            return False
        action = self.before[signo]
        return bool(action) and _ACTION.unpack(action)[0] == signals.SIG_IGN

    def differs(self, signo: int) -> bool:
        """Whether we started with a handler, or with Python's own choice to ignore it."""
        action = self.before[signo]
        return bool(action) and _ACTION.unpack(action)[0] != signals.SIG_DFL

    def close(self) -> None:
        """Put everything back."""
        for signo, action in self.before.items():
            if action:
                self.write(signo, action)


class _Base:
    """What both ways share: dispositions that need no handler, and the kick."""

    def __init__(self, before: Dispositions | None = None) -> None:
        self.dispositions = before or Dispositions()

    def default(self, signo: int, flags: int) -> None:
        """Give a host signal its default action; the engine's own stay caught."""
        if not bit(signo) & HOST_OPEN:
            self.dispositions.set(signo, signals.SIG_DFL, flags)

    def ignore(self, signo: int, flags: int) -> None:
        """Ignore a host signal; the engine's own stay caught."""
        if not bit(signo) & HOST_OPEN:
            self.dispositions.set(signo, signals.SIG_IGN, flags)

    def kick(self, tid: int) -> None:
        """Interrupt a thread of this process in whatever host call it is in."""
        pid = os.getpid()
        info = user_info(SIGKICK, SI_QUEUE, pid, os.getuid(), KICK_VALUE)
        buffer = hostmem.Buffer(signals.INFO_SIZE)
        buffer.view[:] = info
        hostmem.syscall(HOST["rt_tgsigqueueinfo"], pid, tid, SIGKICK, buffer.address)

    def close(self) -> None:
        """Restore every disposition that was there before."""
        self.dispositions.close()


class NativeDelivery(_Base):
    """Signals caught by generated handlers into a ring."""

    exact = True

    def __init__(self, host_signals: HostSignals, before: Dispositions | None = None) -> None:
        super().__init__(before)
        self._signals = host_signals
        self.word = hostmem.view(host_signals.pending_at, 4)
        self.catch(SIGKICK, 0)

    def drain(self) -> list[tuple[int, int, bytes]]:
        """Signals that arrived: (signo, host thread that took it, siginfo)."""
        return self._signals.ring.drain()

    def catch(self, signo: int, flags: int) -> None:
        """Route a host signal here."""
        self._signals.catch(signo)
        self.dispositions.add_flags(signo, flags)

    def after_fork(self) -> None:
        """Nothing to do: the engine resets its ring itself."""


class PythonDelivery(_Base):
    """Signals caught by Python's signal module: coarse, but without generated code."""

    exact = False

    def __init__(self) -> None:
        super().__init__()
        self._word = bytearray(4)
        self.word = memoryview(self._word)
        self._caught: list[tuple[int, int, bytes]] = []
        self.catch(SIGKICK, 0)

    def _take(self, signo: int, _: object) -> None:
        code = SI_QUEUE if signo == SIGKICK else 0
        value = KICK_VALUE if signo == SIGKICK else 0
        info = user_info(signo, code, os.getpid(), os.getuid(), value)
        self._caught.append((signo, get_native_id(), info))
        self._word[0] = 1

    def drain(self) -> list[tuple[int, int, bytes]]:
        """Signals that arrived, all as if taken by the calling thread."""
        self._word[0] = 0
        caught, self._caught = self._caught, []
        return caught

    def catch(self, signo: int, flags: int) -> None:
        """Route a host signal here; the engine's own fault signals are left to the engine."""
        if signo in (signals.SIGSEGV, signals.SIGBUS):
            return
        import signal

        signal.signal(signo, self._take)
        self.dispositions.add_flags(signo, flags)

    def after_fork(self) -> None:
        """Forget what was pending for the parent."""
        self._caught.clear()
        self._word[0] = 0
