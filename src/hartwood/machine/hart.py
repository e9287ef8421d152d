"""Harts and the machine they belong to, as user-mode Linux and tools see them."""

from __future__ import annotations

from hartwood.jit import abi
from hartwood.jit.engine import SLICE, Engine
from hartwood.machine.floating import flags_of, mxcsr_of
from hartwood.mem.regions import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hartwood.machine.reference import Reference
    from hartwood.machine.trace import Tracer
    from hartwood.mem.flat import FlatSpace

SIGBUS, SIGSEGV = 7, 11
MAPERR, ACCERR = 1, 2  # si_code of SIGSEGV
ADRALN, ADRERR = 1, 2  # si_code of SIGBUS

_ADDRESS = (1 << 64) - 1
#: Instructions that the reference may take over in a slice: they are slow, and signals wait.
_HANDED_OVER = 200


class Stop:
    """Why a hart came back.

    `cause` is "slice", "ecall" or "ebreak" (pc is at the instruction), "illegal", "fetch", "load"
    or "store". Faults carry the guest address, and the signal and si_code that Linux gives them.
    """

    __slots__ = ("address", "cause", "code", "signo")

    def __init__(self, cause: str, address: int = 0, signo: int = 0, code: int = 0) -> None:
        self.cause = cause
        self.address = address
        self.signo = signo
        self.code = code

    def __repr__(self) -> str:
        return f"<Stop {self.cause} address={self.address:#x} signo={self.signo} code={self.code}>"


_SLICE = Stop("slice")
_ECALL = Stop("ecall")
_EBREAK = Stop("ebreak")
_ILLEGAL = Stop("illegal")


class Hart:
    """One guest thread's processor. Only the thread that made it may run it.

    `x` and `f` are views of 64-bit words; x[0] must stay zero.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.state = machine.engine.new_state()
        whole = memoryview(self.state).cast("B")
        words = whole.cast("Q")
        self.x = words[abi.offset("x") // 8 : abi.offset("x") // 8 + 32]
        self.f = words[abi.offset("f") // 8 : abi.offset("f") // 8 + 32]
        self._reference: Reference | None = None
        self._tracer: Tracer | None = None
        self.instructions = 0
        self._entered = False
        machine.harts.append(self)

    @property
    def pc(self) -> int:
        """Address of the next instruction."""
        return self.state.pc  # type: ignore[no-any-return]

    @pc.setter
    def pc(self, value: int) -> None:
        self.state.pc = value

    @property
    def fcsr(self) -> int:
        """Floating-point control and status: rounding mode above five flag bits."""
        mode: int = self.state.frm
        return flags_of(self.state.mxcsr) | mode << 5

    @fcsr.setter
    def fcsr(self, value: int) -> None:
        mode = value >> 5 & 7
        self.state.frm, self.state.frm_reserved = mode, mode > 3
        self.state.mxcsr = mxcsr_of(value & 31, mode)

    def copy_from(self, other: Hart) -> None:
        """Take over another hart's registers (clone)."""
        for name in ("x", "f", "pc", "mxcsr", "frm", "frm_reserved"):
            setattr(self.state, name, getattr(other.state, name))

    def reference(self) -> Reference:
        """The meaning in Python of what this hart's native engines cannot do."""
        if self._reference is None:
            from hartwood.machine.reference import Reference

            fence = self.machine.engine.fence_code
            self._reference = Reference(self.machine.space, self.state, fence)
        return self._reference

    def run(self, budget: int = SLICE) -> Stop:
        """Run until something needs Python, at most about `budget` instructions."""
        engine, state = self.machine.engine, self.state
        if not self._entered:
            engine.enter_thread(state)
            self._entered = True
        state.instret = self.instructions
        state.slice_budget = budget
        if self.machine.mode == "reference" and not self.machine.trace:
            reason = self._run_reference(budget)
        elif self.machine.trace:
            reason = self._run_traced(budget)
        else:
            reason = engine.run(state, budget)
            for _ in range(_HANDED_OVER):
                if reason != abi.REFERENCE:
                    break
                reason = self.reference().step()
                if reason == abi.NONE:
                    left = self._left()
                    reason = engine.run(state, left) if left > 0 else abi.SLICE
        self.instructions += budget - self._left()
        return self._stop(reason)

    def _left(self) -> int:
        """Instructions left of the budget; below zero where a slice ended late."""
        left: int = self.state.budget
        return left - (left >> 63 << 64)

    def _run_traced(self, budget: int) -> int:
        if self._tracer is None:
            from hartwood.machine.trace import Tracer

            self._tracer = Tracer(self)
        return self._tracer.run(budget)

    def _run_reference(self, budget: int) -> int:
        reference, state = self.reference(), self.state
        state.budget = budget
        for _ in range(min(budget, 10_000)):
            reason = reference.step()
            if reason != abi.NONE:
                return reason
        return abi.SLICE

    def _stop(self, reason: int) -> Stop:
        state = self.state
        if reason in (abi.SLICE, abi.REFERENCE):
            return _SLICE
        if reason == abi.TRAP:
            cause: int = state.cause
            if cause == 8:
                self.instructions += 1
                return _ECALL
            if cause == 3:
                return _EBREAK
            kind = "load" if cause == 4 else "store"
            return Stop(kind, state.tval, SIGBUS, ADRALN)
        if reason == abi.FAULT:
            return self._fault("load" if state.cause == 13 else "store")
        if reason == abi.FETCH:
            address: int = state.tval
            space = self.machine.space
            known = address < abi.LIMIT and space.regions.at(address & -PAGE) is not None
            return Stop("fetch", address, SIGSEGV, ACCERR if known else MAPERR)
        return _ILLEGAL

    def _fault(self, kind: str) -> Stop:
        """A data access that failed: the host's own verdict, in guest addresses."""
        state, space = self.state, self.machine.space
        address: int = state.tval
        if address >= abi.LIMIT or self.machine.mode == "reference":
            known = address < abi.LIMIT and space.regions.at(address & -PAGE) is not None
            return Stop(kind, address, SIGSEGV, ACCERR if known else MAPERR)
        at = state.fault_address - space.base & _ADDRESS
        if state.fault_signo == SIGBUS:
            return Stop(kind, at, SIGBUS, state.fault_code)
        # A hole of the guest's is reserved memory of the host's: ask our own map, not si_code.
        known = at < abi.LIMIT and space.regions.at(at & -PAGE) is not None
        return Stop(kind, at, SIGSEGV, ACCERR if known else MAPERR)

    def syscall(self, number: int, *arguments: int) -> int:
        """One raw host system call without the GIL; the result or a negative errno.

        -513 (ERESTARTNOINTR) where a signal came before it began, -512 (ERESTARTSYS) where one
        came before it had any effect.
        """
        signals = self.machine.engine.signals
        padded = arguments + (0,) * (6 - len(arguments))
        return signals.safe_syscall(number, *padded, signals.pending_at)

    def request_stop(self) -> None:
        """Make `run` return with "slice" soon; callable from any thread."""
        self.state.stop = 1

    def close(self) -> None:
        """The thread ends: nothing of this hart may be used any more."""
        self.machine.harts.remove(self)
        self.machine.retired += self.instructions
        self.machine.translated += self.state.translated
        if self._entered:
            self.machine.engine.leave_thread()


class Machine:
    """The harts of one process and what they share. There is one in a host process.

    `mode` is "auto", "jit", "interp" or "reference"; with `trace` every instruction is printed to
    standard error, which takes the interpreter one step at a time.
    """

    def __init__(self, space: FlatSpace, mode: str = "auto", *, trace: bool = False) -> None:
        self.space = space
        self.mode = mode
        self.trace = trace
        self.engine = Engine(space, "interp" if mode == "reference" else mode)
        self.harts: list[Hart] = []
        #: Instructions of harts that are gone, and how many of those ran translated.
        self.retired = self.translated = 0
        self.before_fork: list[Callable[[], None]] = [self.engine.before_fork]
        self.after_fork_parent: list[Callable[[], None]] = [self.engine.after_fork_parent]
        self.after_fork_child: list[Callable[[], None]] = [self.engine.after_fork_child]

    def new_hart(self) -> Hart:
        """Another hart on the same space, registers zero; for the calling thread."""
        return Hart(self)

    def flush_code(self) -> None:
        """Forget decoded and translated code."""
        self.engine.code_changed(0, abi.LIMIT)

    def stats(self) -> dict[str, object]:
        """Counters of the run so far, under the names of `--stats`."""
        instructions = self.retired + sum(hart.instructions for hart in self.harts)
        translated = self.translated + sum(hart.state.translated for hart in self.harts)
        return {
            "instructions": instructions,
            "engine": self.mode,
            "interpreted": instructions - translated,
            "translated": translated,
            **self.engine.stats(),
        }

    def close(self) -> None:
        """End the compile worker and give address space back."""
        self.engine.close()
