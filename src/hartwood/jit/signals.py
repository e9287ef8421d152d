"""Host signals without Python in the way: faults of generated code, and signals for the guest.

The handlers are generated code (`host_x86_signals`); here is the memory they share with Python
and the calls that install them. A fault becomes a jump to the landing block of the access; any
other signal goes into a ring that Python drains when it gets round to it.
"""

from __future__ import annotations

import ctypes
from _thread import allocate_lock, get_ident
from os import getpid, strerror
from struct import Struct

from hartwood.errors import SignalError
from hartwood.jit.arena import reserve
from hartwood.jit.host_x86 import SYS_RT_SIGACTION
from hartwood.mem import hostmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hartwood.jit.arena import CodeArena
    from hartwood.jit.image import Image

#: What `safe_syscall` gives when a signal came before the call was made (-ERESTARTSYS).
INTERRUPTED = -512
#: What it gives when one was pending already, so that the call has certainly not begun
#: (-ERESTARTNOINTR): it is to be made again, also where a call under way would give EINTR.
NOT_BEGUN = -513

# The context: one block of private memory a process. Offsets in bytes.
TABLE, ABORT, PENDING, OVERFLOW, TAIL, THREAD_COUNT = 0, 8, 16, 24, 64, 128
ACTION, SIGNALS = 32, 64
PREVIOUS = 192  # struct sigaction of the kernel, one a signal, [0] unused
# The table of threads. The key is the thread's own address; 0 is a free entry.
THREADS = PREVIOUS + ACTION * (SIGNALS + 1) + 32
THREAD, MAX_THREADS = 64, 8192
THREAD_MAILBOX, THREAD_STOP, THREAD_STACK, THREAD_ERROR, THREAD_RIP = 8, 16, 24, 32, 40
# A mailbox is 16 bytes of the thread's own: signo u32, si_code i32, si_addr u64.
MAILBOX_CODE, MAILBOX_ADDRESS = 4, 8
# The ring of signals.
SIGINFO = 128
CELL_SIGNO, CELL_TID, CELL_INFO = 8, 12, 16
CELL, CELLS = CELL_INFO + SIGINFO, 1024
RING = THREADS + THREAD * MAX_THREADS
CONTEXT = RING + CELL * CELLS

SIGBUS, SIGSEGV = 7, 11

_SA_SIGINFO, _SA_RESTORER = 0x4, 0x0400_0000
_SA_ONSTACK, _SA_RESTART = 0x0800_0000, 0x1000_0000
_ACTION = Struct("<4Q")  # handler, flags, restorer, mask
_INFO_HEAD = Struct("<iii")
_CELL_HEAD = Struct("<II")

_Call = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_uint64] * 8)
_Take = ctypes.PYFUNCTYPE(ctypes.c_uint64)


class SignalRing:
    """Signals the handler has caught and Python has not yet seen, oldest first."""

    __slots__ = ("_bytes", "_early", "_head", "_take", "_words", "lock")

    def __init__(self, context: int) -> None:
        self._bytes = hostmem.view(context, CONTEXT)
        self._words = self._bytes.cast("Q")
        self._head = 0
        self._early: list[tuple[int, int, bytes]] = []
        self._take: Callable[[], int] = int  # nothing can be lost before a handler is there
        #: Held while the ring is read, and by a fork.
        self.lock = allocate_lock()

    def attach(self, take_overflow: int) -> None:
        """Use the generated function at this address to fetch the signals that did not fit."""
        self._take = _Take(take_overflow)

    @property
    def pending(self) -> bool:
        """Whether a signal came since the last `drain`."""
        return bool(self._bytes[PENDING])

    def drain(self) -> list[tuple[int, int, bytes]]:
        """(signo, thread id that took it, 128 bytes of siginfo) of every signal caught so far.

        Signals that came while the ring was full are at the end, once for each signo, with
        thread id 0 and a siginfo that says no more than their number.
        """
        # Before the cells are read, with the lock's locked instruction between: otherwise the
        # store could overtake the handler's and hide a signal that was just published.
        self._bytes[PENDING] = 0
        with self.lock:
            found, self._early = self._early, []
            words = self._words
            while True:
                lap, index = divmod(self._head, CELLS)
                if words[(RING + CELL * index) // 8] != 2 * lap + 1:
                    break
                found.append(self._pop())
            if words[OVERFLOW // 8]:
                lost = self._take()
                for signo in range(1, SIGNALS + 1):
                    if lost >> (signo - 1) & 1:
                        info = _INFO_HEAD.pack(signo, 0, 0).ljust(SIGINFO, b"\0")
                        found.append((signo, 0, info))
        return found

    def _pop(self) -> tuple[int, int, bytes]:
        """What the cell at the head holds; then the cell is free for the next lap."""
        lap, index = divmod(self._head, CELLS)
        view, at = self._bytes, RING + CELL * index
        signo, tid = _CELL_HEAD.unpack_from(view, at + CELL_SIGNO)
        info = bytes(view[at + CELL_INFO : at + CELL])
        self._words[at // 8] = 2 * lap + 2
        self._head += 1
        return signo, tid, info

    def after_fork_in_child(self) -> None:
        """Drop the signals that were caught for the parent (fork(2): none is inherited).

        Includes cells that another thread's handler had claimed and not filled when the fork
        took its snapshot; nobody will ever fill them here.
        """
        me = getpid()
        lost = self._take() if self._words[OVERFLOW // 8] else 0
        del lost  # the parent's; the child's own cannot have overflowed a ring so soon
        popped = [self._pop() for _ in range(self._words[TAIL // 8] - self._head)]
        self._early = [signal for signal in popped if signal[1] == me]


class HostSignals:
    """The process's side of the generated handlers: their memory, their threads, what they catch.

    Order of use: make one for the arena, install the image that holds the handlers with
    `slots`, `attach` it, then `take_faults` and `catch`. One a process; a fork goes between
    `before_fork` and `after_fork_in_parent` or `after_fork_in_child`.
    """

    #: `safe_syscall(nr, a0, a1, a2, a3, a4, a5, pending_at) -> int`: a raw host system call,
    #: without the GIL; the result or a negative errno. It is `NOT_BEGUN` where the u32 at
    #: host address `pending_at` is not 0 when the call would begin, `INTERRUPTED` if a signal is
    #: caught before the call has had an effect or so that the kernel would restart it. No signal
    #: can slip in between the test and the call.
    safe_syscall: Callable[..., int]

    def __init__(self, arena: CodeArena) -> None:
        self.address = reserve(CONTEXT)
        self._words = hostmem.view(self.address, CONTEXT).cast("Q")
        self._words[TABLE // 8] = arena.table
        self._lock = allocate_lock()
        self._entries: dict[str, int] = {}
        self._taken: set[int] = set()
        self._new = hostmem.Buffer(_ACTION.size)
        self.ring = SignalRing(self.address)
        #: Host address of the u32 that becomes 1 when any signal is caught; `drain` clears it.
        self.pending_at = self.address + PENDING

    @property
    def slots(self) -> dict[str, int]:
        """What `CodeArena.install` has to fill into the handlers' image."""
        return {"hw_context": self.address}

    def attach(self, image: Image, base: int) -> None:
        """Use the handlers of `image`, installed at `base`. Raises `SignalError` if it has none."""
        names = ("fault_handler", "signal_handler", "restorer", "safe_syscall", "take_overflow")
        try:
            self._entries = {name: base + image.entries[f"hw_{name}"] for name in names}
        except KeyError as name:
            raise SignalError(f"the image has no {name}: not the signal runtime") from None
        self.safe_syscall = _Call(self._entries["safe_syscall"])
        self.ring.attach(self._entries["take_overflow"])

    def take_faults(self) -> None:
        """Handle SIGSEGV and SIGBUS: a fault in generated code continues at its landing, any
        other meets whatever was there before. Idempotent."""
        for signo in (SIGSEGV, SIGBUS):
            if signo not in self._taken:
                previous = PREVIOUS + ACTION * signo
                self._act(signo, "fault_handler", _SA_RESTART, self.address + previous)
                self._taken.add(signo)

    def catch(self, signo: int, *, restart: bool = True) -> None:
        """Put every later `signo` into the ring. Without `restart` the kernel gives EINTR for a
        call that was already waiting, instead of `INTERRUPTED`. SIGSEGV and SIGBUS stay with the
        fault handler, which rings those that another process sent. Raises `SignalError`."""
        if signo in (SIGSEGV, SIGBUS):
            self.take_faults()
        else:
            self._act(signo, "signal_handler", _SA_RESTART if restart else 0, 0)

    def leave(self, signo: int, *, ignore: bool = False) -> None:
        """Set the default action of `signo`, or ignore it. Raises `SignalError`."""
        _ACTION.pack_into(self._new.view, 0, int(ignore), 0, 0, 0)
        self._install(signo, 0)
        self._taken.discard(signo)

    def _act(self, signo: int, handler: str, flags: int, previous: int) -> None:
        if not self._entries:
            raise SignalError("no generated code is attached yet")
        flags |= _SA_SIGINFO | _SA_RESTORER | _SA_ONSTACK
        # Every other signal waits until the handler is done: it takes under a microsecond.
        mask = (1 << 64) - 1
        entries = self._entries
        _ACTION.pack_into(self._new.view, 0, entries[handler], flags, entries["restorer"], mask)
        self._install(signo, previous)

    def _install(self, signo: int, previous: int) -> None:
        result = hostmem.syscall(SYS_RT_SIGACTION, signo, self._new.address, previous, 8)
        if result:
            raise SignalError(f"no handler for signal {signo} on this host: {strerror(-result)}")

    def register_thread(self, mailbox: int, stop: int, stack: int = 0) -> int:
        """Say where this thread wants to be told: the 16 bytes at host address `mailbox` receive
        signo u32, si_code i32 and si_addr u64 of a fault, the u32 at `stop` becomes 1 when it
        catches a signal. `stack` is a stack pointer to abort to, or 0; see `abort_to`.

        Gives the address of the thread's entry (fields at THREAD_* there). Registering again
        replaces. Raises `SignalError` when MAX_THREADS threads are registered.
        """
        with self._lock:
            at = self._find(get_ident())
            if at is None:
                at = self._find(0)
            if at is None:
                count = self._words[THREAD_COUNT // 8]
                if count == MAX_THREADS:
                    raise SignalError(f"more than {MAX_THREADS} threads")
                at = THREADS + THREAD * count
                self._words[THREAD_COUNT // 8] = count + 1
            words, first = self._words, at // 8
            words[first + THREAD_MAILBOX // 8] = mailbox
            words[first + THREAD_STOP // 8] = stop
            words[first + THREAD_STACK // 8] = stack
            words[first] = get_ident()  # last: from here the handler believes it
            return self.address + at

    def unregister_thread(self) -> None:
        """Forget this thread, before the memory it registered goes away."""
        with self._lock:
            at = self._find(get_ident())
            if at is not None:
                self._words[at // 8] = 0

    def _find(self, key: int) -> int | None:
        for index in range(self._words[THREAD_COUNT // 8]):
            at = THREADS + THREAD * index
            if self._words[at // 8] == key:
                return at
        return None

    def abort_to(self, address: int) -> None:
        """Continue at this host address after a fault in the arena that has no landing, with
        the stack pointer the thread registered and the thread's entry as first argument. 0: let
        the previous handler have it."""
        self._words[ABORT // 8] = address

    def before_fork(self) -> None:
        """Take the locks, so that the child gets everything in a consistent state."""
        self._lock.acquire()
        self.ring.lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Give the locks back."""
        self.ring.lock.release()
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Forget the parent's other threads and the signals that were the parent's."""
        me = get_ident()
        for index in range(self._words[THREAD_COUNT // 8]):
            at = (THREADS + THREAD * index) // 8
            if self._words[at] != me:
                self._words[at] = 0
        self.ring.after_fork_in_child()
        self.after_fork_in_parent()
