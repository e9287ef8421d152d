"""One guest thread: its registers, its signal state, and the loop that serves its system calls."""

from __future__ import annotations

from errno import EFAULT, EINTR

from hartwood.errors import Error, MappingError, MemoryFault
from hartwood.linux import signals
from hartwood.mem import hostmem
from hartwood.mem.flat import LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.engine import Hart
    from hartwood.linux.process import Process
    from hartwood.linux.table import Call

A0, A7 = 10, 17
WORD = (1 << 64) - 1

#: The host kernel's own codes: the call was interrupted and would be restarted under SA_RESTART;
#: the call never began and is to be made again whatever happens.
ERESTARTSYS, ERESTARTNOINTR = 512, 513

# Regions of the scratch buffer, in bytes.
PATHS = (0, 8192)
VECTORS = 16384
MESSAGE = 49152
SCRATCH = 65536


class Ended(Error):
    """Leaves the loop of a task that is over."""


class Task:
    """A guest thread. `tid` is the host thread's, `mask` the blocked signals (bit n-1 for n).

    `saved_mask` is what sigsuspend and its like have to put back; `pending` holds signals that
    were taken from the host but are not delivered yet, oldest first.
    """

    def __init__(self, process: Process, hart: Hart) -> None:
        self.process = process
        self.hart = hart
        self.x = hart.x
        self.syscall = hart.syscall
        self.space = process.space
        self.base = process.space.base
        self.tid = 0
        self.mask = 0
        self.saved_mask: int | None = None
        self.pending: list[tuple[int, bytes]] = []
        self.stack_at = self.stack_size = 0
        self.stack_flags = signals.SS_DISABLE
        self.clear_tid = 0
        self.robust_list = 0
        self.scratch = hostmem.Buffer(SCRATCH)

    # What handlers need. `syscall` is for the guest's calls only: it gives way to a pending signal,
    # and then nothing has happened. Calls of our own go through `hostmem.syscall`.
    def host(self, va: int) -> int:
        """Host address for a guest pointer: 0 stays 0, a bad one becomes one that faults."""
        if 0 < va < LIMIT:
            return va + self.base
        return self.base + LIMIT if va else 0

    def place(self, slot: int, data: bytes) -> int:
        """Put bytes for the host kernel into the scratch buffer; their host address."""
        self.scratch.view[slot : slot + len(data)] = data
        return self.scratch.address + slot

    def path(self, va: int) -> bytes:
        """The path string at `va`. Raises `MemoryFault`, or `OSError` where it is too long."""
        text = self.space.read_cstring(va, 4096)
        if text is None:
            raise OSError(36, "File name too long")
        return text

    # The loop.
    def run(self) -> None:
        """Serve this thread until it ends (raises `Ended`)."""
        hart, x, run = self.hart, self.x, self.hart.run
        calls = self.process.calls
        known = calls.known
        word = self.process.delivery.word
        while True:
            stop = run()
            if stop.cause == "ecall":
                number = x[A7]
                call = known.get(number) or calls.resolve(number)
                result = self.make(call)
                if result is not None:
                    x[A0] = result & WORD
                    hart.pc += 4
            elif stop.cause != "slice":
                signals.fault(self, stop)
            if word[0] or self.pending or self.process.ending:
                self.check()

    def make(self, call: Call) -> int | None:
        """Make the call whose arguments are in the registers; None where there is no result."""
        arguments = self.x[A0 : A0 + call.arity].tolist()
        try:
            result = call.function(self, *arguments)
            if result == -EFAULT and self.space.release_write_protection():
                result = call.function(self, *arguments)
        except MemoryFault:
            return -EFAULT
        except MappingError as error:
            return -error.errno
        except OSError as error:
            if error.errno == EINTR:
                return self.interrupted(call, -EINTR)
            return -(error.errno or EFAULT)
        if result is not None and result in (-EINTR, -ERESTARTSYS, -ERESTARTNOINTR):
            return self.interrupted(call, result)
        return result

    def interrupted(self, call: Call, result: int) -> int | None:
        """After a host call that a signal cut short: deliver, and return EINTR or restart.

        Restarting leaves pc at the ecall and the arguments as they were.
        """
        if call.never_restarts and result == -ERESTARTSYS:
            result = -ERESTARTNOINTR  # it cannot be restarted, so it had not begun
        if result == -ERESTARTNOINTR:
            restart = "always"
        elif result == -EINTR and (call.never_restarts or self.process.delivery.exact):
            restart = "no"
        else:
            restart = "yes"
        self.check_ending()
        signals.collect(self.process)
        signals.deliver(self, -EINTR, restart=restart)
        return None

    def check(self) -> None:
        """Look for pending signals and for the end of the process."""
        self.check_ending()
        signals.collect(self.process)
        signals.deliver(self)

    def check_ending(self) -> None:
        """Raise `Ended` where the process is to end or another thread has called execve."""
        ending = self.process.ending
        if ending is not None and ending is not self:
            raise Ended("the process ends")
