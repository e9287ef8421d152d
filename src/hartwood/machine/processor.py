"""A hart with privilege levels: registers by name, the run loop, interrupts and the clock."""

from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import dataclass

from hartwood.bits.ints import Int, Trap
from hartwood.errors import Error, MemoryFault
from hartwood.isa.riscv.regs import F_NAMES, X_NAMES
from hartwood.isa.riscv.system import ADUE, CBCFE, CBIE, CBZE, FS, MACHINE, PBMTE, SD, SIE, STCE
from hartwood.jit import abi, sysabi
from hartwood.jit.syscode import system_code
from hartwood.machine.floating import flags_of, mxcsr_of
from hartwood.machine.sysreference import SYSTEM, SystemIntHart, SystemReference
from hartwood.mem.bus import Bus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_U64 = (1 << 64) - 1
#: Instructions between two looks at what Python was asked for: some milliseconds.
SLICE = 2_000_000
#: Ticks of guest time a second.
FREQUENCY = sysabi.FREQUENCY
#: Instructions that may run past a budget: those of a page without a jump.
_OVERRUN = 2100
_NUMBERS = {
    **{name: index for index, name in enumerate(X_NAMES)},
    "fp": 8,
    **{f"x{index}": index for index in range(32)},
}
_FLOATS = {
    **{name: index for index, name in enumerate(F_NAMES)},
    **{f"f{index}": index for index in range(32)},
}
#: Fields of the state that are saved as they are.
_SAVED = ("pc", *sysabi.REGISTERS)
_CSRS = {csr.name: csr for csr in SYSTEM.csrs.values()}
_Read = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
_Write = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)


class RegisterError(Error, AttributeError):
    """A name that is no register, or a value that a register does not take."""


class ProcessorError(Error):
    """A hart that cannot run: its machine was closed."""


@dataclass(frozen=True)
class Stop:
    """Why a run ended: `reason` is "instructions", "seconds", "until", "stopped" (somebody asked),
    "waiting" (a WFI that nothing will end) or "lockup" (the trap handler itself cannot be
    fetched); `pc` is the address of the next instruction."""

    reason: str
    pc: int


class Processor:
    """One hart on a bus. Only one thread at a time may run it; `set_pending` and `request_stop`
    may be called from any.

    `mode` is "interp" or "reference". With `deterministic` guest time is the instruction count.
    """

    def __init__(
        self, bus: Bus, number: int = 0, *, mode: str = "interp", deterministic: bool = False
    ) -> None:
        self.bus = bus
        self.mode = mode
        self.deterministic = deterministic
        self.code = system_code()
        self.state = self.code.new_state()
        self._at = ctypes.addressof(self.state)
        self._wake = threading.Event()
        self._lines = threading.Lock()
        self._failure: BaseException | None = None
        #: Handles an ecall from S-mode where it is not the guest's own firmware that does.
        self.supervisor_call: Callable[[Processor], None] | None = None
        #: Instructions that the last piece of a run took, trapped ones included.
        self._spent = 0
        self.idle_seconds = 0.0
        self.device_seconds = 0.0
        self._callbacks = _Read(self._io_read), _Write(self._io_write)
        self._int = SystemIntHart(self.state, bus, self._counter, self._context)
        self._reference = SystemReference(self._int, self.state, bus)
        self._number = number
        bus.ram.add_hart(self._at)
        self.reset()

    def reset(self) -> None:
        """The state after power-on, pc 0, time 0 (Priv. 3.4)."""
        fresh, state = self.code.new_state(), self.state
        ctypes.memmove(self._at, ctypes.addressof(fresh), ctypes.sizeof(state))
        ram = self.bus.ram
        state.memory, state.records, state.flags = ram.host, ram.records, ram.flags_at
        state.table = ram.table_at
        ram.decode = self.code.entries["decode"]
        state.mode, state.mstatus = MACHINE, 2 << 32 | 2 << 34
        state.mhartid = self._number
        state.stimecmp = state.mtimecmp = _U64
        state.io_read, state.io_write = (
            ctypes.cast(call, ctypes.c_void_p).value for call in self._callbacks
        )
        if not self.deterministic:
            libc = ctypes.CDLL(None)
            state.clock = ctypes.cast(libc.clock_gettime, ctypes.c_void_p).value
        self.clock = 0
        self._context()

    # Registers and time.
    def __getattr__(self, name: str) -> int:
        state = self.__dict__.get("state")
        if state is not None:
            if name in _NUMBERS:
                return int(state.x[_NUMBERS[name]])
            if name in _FLOATS:
                return int(state.f[_FLOATS[name]])
            if name in _CSRS:
                return Int(0, 64)._of(self._privileged(name, lambda: _CSRS[name].read(self._int)))
        raise RegisterError(f"there is no register {name}")

    def __setattr__(self, name: str, value: object) -> None:
        if name == "pc" or name in _NUMBERS or name in _FLOATS or name in _CSRS:
            if not isinstance(value, int) or not -(1 << 63) <= value < 1 << 64:
                raise RegisterError(f"{name} takes a number of 64 bits, not {value!r}")
            self.set_register(name, value & _U64)
        else:
            object.__setattr__(self, name, value)

    def set_register(self, name: str, value: int) -> None:
        """Write a register by its manual name, a CSR as M-mode would. Raises `RegisterError`."""
        if name == "pc":
            self.state.pc = value & ~1
        elif name in _NUMBERS:
            if _NUMBERS[name]:
                self.state.x[_NUMBERS[name]] = value
        elif name in _FLOATS:
            self.state.f[_FLOATS[name]] = value
        else:
            write = _CSRS[name].write
            if write is None:
                raise RegisterError(f"{name} is read-only")
            self._privileged(name, lambda: write(self._int, Int(value, 64)))

    def _privileged(self, name: str, what: Callable[[], object]) -> object:
        """Access a CSR as M-mode would, and floating-point ones whatever mstatus.FS says."""
        state = self.state
        mode = state.mode
        off = name in ("fflags", "frm", "fcsr") and not state.mstatus & FS
        state.mode = MACHINE
        if off:
            state.mstatus |= FS
        try:
            return what()
        finally:
            state.mode = mode
            if off:
                state.mstatus &= ~(FS | SD)
            self._context()

    @property
    def pc(self) -> int:
        """Address of the next instruction."""
        return int(self.state.pc)

    @pc.setter
    def pc(self, value: int) -> None:
        self.set_register("pc", value)

    @property
    def privilege(self) -> int:
        """0, 1 or 3: U, S or M."""
        return int(self.state.mode)

    @property
    def instructions(self) -> int:
        """Instructions retired."""
        state = self.state
        return int(state.goal - state.budget & _U64)

    @property
    def clock(self) -> int:
        """Guest time, in ticks of `sysabi.FREQUENCY`."""
        return int(self.code.now(self._at, self.state.budget))

    @clock.setter
    def clock(self, value: int) -> None:
        self.state.time_offset = self.state.time_offset + value - self.clock & _U64

    def _counter(self, name: str) -> int:
        return self.clock if name == "time" else self.instructions

    def _context(self) -> None:
        """Python changed privileged state: forget translations, look for interrupts."""
        self.code.flush(self._at, 0, True)
        self.code.settle(self._at)
        self.state.attention = 1

    def enter_supervisor(self, pc: int, a0: int = 0, a1: int = 0) -> None:
        """The state in which firmware starts a kernel: S-mode, everything delegated to it, all
        memory open, counters, timer and cache operations allowed."""
        state = self.state
        state.mode, state.satp = 1, 0
        state.mstatus &= ~SIE
        state.medeleg, state.mideleg = 0xB1FF, 0x222
        state.mcounteren = state.scounteren = 7
        state.menvcfg = ADUE | STCE | CBZE | CBCFE | CBIE & 1 << 4 | PBMTE
        state.pmpcfg0, state.pmpaddr0 = 0x1F, (1 << 54) - 1
        state.x[10], state.x[11], state.pc = a0, a1, pc
        self._context()

    # Interrupts, from any thread.
    def set_pending(self, bit: int, level: bool) -> None:
        """Raise or lower the line of interrupt `bit` (3 software, 7 timer, 9 and 11 external)."""
        with self._lines:
            lines = self.state.lines
            self.state.lines = lines | 1 << bit if level else lines & ~(1 << bit)
        self.state.attention = 1
        self._wake.set()

    def post(self, bit: int) -> None:
        """Set software-writable interrupt `bit` in mip (1 for an IPI to S-mode), which the guest
        clears itself."""
        with self._lines:
            self.state.posted |= 1 << bit
        self.state.attention = 1
        self._wake.set()

    def set_timer(self, when: int) -> None:
        """Set stimecmp, as firmware does for the kernel: interrupt 5 at guest time `when`. For
        the thread that runs this hart."""
        self.state.stimecmp = when & _U64
        self.state.attention = 1

    def wait(self) -> None:
        """Wait for an interrupt that is enabled in mie, or for `request_stop`, as WFI does. For
        the thread that runs this hart."""
        if not self.mip & self.mie:
            self._sleep(None)

    def flush_local(self) -> None:
        """Make this hart forget its translations. For the thread that runs it."""
        self.code.flush(self._at, 0, True)

    def flush_remote(self) -> None:
        """Make this hart forget its translations; returns when it has, or will have before it
        runs again. For other harts' threads."""
        state = self.state
        state.flush_asked = state.attention = 1
        while state.running and state.flush_asked:
            time.sleep(0)

    def request_stop(self) -> None:
        """Make `run` return with "stopped" soon."""
        self.state.stop = 1
        self.state.attention = 1
        self._wake.set()

    # Devices: called by generated code, which cannot take an exception.
    def _io_read(self, at: int, size: int) -> int:
        begin = time.perf_counter()
        try:
            return self.bus.load(at, size)
        except MemoryFault:
            self.state.io_fault = 1
        except BaseException as reason:
            self._fail(reason)
        finally:
            self.device_seconds += time.perf_counter() - begin
        return 0

    def _io_write(self, at: int, size: int, value: int) -> None:
        begin = time.perf_counter()
        try:
            self.bus.store(at, size, value)
        except MemoryFault:
            self.state.io_fault = 1
        except BaseException as reason:
            self._fail(reason)
        finally:
            self.device_seconds += time.perf_counter() - begin

    def _fail(self, reason: BaseException) -> None:
        """A device raised an error of its own, or Ctrl-C came: `run` raises it."""
        self._failure = reason
        self.request_stop()

    # Running.
    def step(self) -> Stop:
        """Execute one instruction, or take one interrupt."""
        return self.run(instructions=1)

    def run(
        self,
        instructions: int | None = None,
        until: int | Callable[[], bool] | None = None,
        seconds: float | None = None,
    ) -> Stop:
        """Run until `instructions` have been executed or have trapped, `seconds` have passed, or
        `until`: an address that the pc has to reach (one instruction at a time, so slowly), or a
        function that is asked every few milliseconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        left = instructions
        single = isinstance(until, int)
        self.state.stop = 0
        while True:
            if callable(until) and until():
                return Stop("until", self.pc)
            if left is not None and left <= 0:
                return Stop("instructions", self.pc)
            if deadline is not None and time.monotonic() >= deadline:
                return Stop("seconds", self.pc)
            most = SLICE if left is None else left - _OVERRUN
            reason = self._go(1 if single or most <= 0 else min(most, SLICE))
            if left is not None:
                left -= self._spent
            stop = self._after(reason, deadline)
            if stop is not None:
                return stop
            if single and self.pc == until:
                return Stop("until", self.pc)

    def _go(self, count: int) -> int:
        """Run about `count` instructions, exactly one for 1; gives the reason of coming back."""
        state = self.state
        if self.bus.ram.closed:
            raise ProcessorError("this machine was closed; make another one")
        if self.mode == "reference":
            self._spent = min(count, 1000)
            for _ in range(self._spent):
                if self._reference.step():
                    state.goal += 1
            return abi.SLICE
        retired = self.instructions
        if count == 1:
            state.goal, state.budget, state.left = retired + 1, 1, 0
            self.code.step(self._at)
        else:
            state.goal, state.budget, state.left = retired, 0, count
            self.code.run(self._at)
        # What trapped counts too, or a budget might never end.
        budget = int(state.budget)
        self._spent = count - int(state.left) - (budget - (budget >> 63 << 64))
        if state.reason in (abi.REFERENCE, abi.TRAP):
            self._spent += 1
        return int(state.reason)

    def _after(self, reason: int, deadline: float | None) -> Stop | None:
        """Deal with what the native code came back for; gives a stop where that ends the run."""
        state = self.state
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if reason == abi.BANK:
            self.code.load_bank(state.tval)
        elif reason == abi.REFERENCE:
            self._hand_over()
        elif reason == abi.TRAP and self.supervisor_call is not None:
            state.pc += 4
            state.goal += 1
            self.supervisor_call(self)
        elif reason == sysabi.WAIT and not self._sleep(deadline):
            return Stop("waiting", self.pc)
        elif reason == sysabi.LOCKUP:
            return Stop("lockup", self.pc)
        if state.stop:
            state.stop = 0
            return Stop("stopped", self.pc)
        return None

    def _hand_over(self) -> None:
        """Execute one instruction by the reference; its exception is taken natively."""
        state = self.state
        try:
            self._reference.execute(state.step_word)
            state.goal += 1
        except Trap as raised:
            state.cause, state.tval = raised.cause, raised.tval
            state.left = 0
            self.code.throw(self._at)

    def _sleep(self, deadline: float | None) -> bool:
        """Wait for an interrupt; False where none can come any more."""
        state = self.state
        self._wake.clear()
        if state.lines & state.mie or state.posted or state.stop:
            return True
        alarm = min(state.stimecmp, state.mtimecmp)
        if self.deterministic:
            if alarm == _U64:
                return False
            self.clock = max(alarm, self.clock)
            return True
        ticks = alarm - self.clock if alarm != _U64 else sysabi.FREQUENCY * 3600
        wait = ticks / sysabi.FREQUENCY
        if deadline is not None:
            wait = min(wait, deadline - time.monotonic())
        if wait > 0:
            before = time.monotonic()
            self._wake.wait(wait)
            self.idle_seconds += time.monotonic() - before
        return True

    # Life.
    def save(self) -> dict[str, int | list[int]]:
        """All that the guest can see of this hart, as numbers by name; not while it runs."""
        state = self.state
        flags = flags_of(state.mxcsr) | state.frm << 5
        values: dict[str, int | list[int]] = {name: getattr(state, name) for name in _SAVED}
        values |= {"x": list(state.x)[:32], "f": list(state.f), "fcsr": flags}
        return values | {"clock": self.clock, "instructions": self.instructions}

    def restore(self, values: dict[str, int | list[int]]) -> None:
        """Become what `save` gave, perhaps elsewhere. Raises `ProcessorError` naming what is
        wrong with a value, with nothing changed; memory is the caller's business."""
        wanted = {*_SAVED, "x", "f", "fcsr", "clock", "instructions"}
        if values.keys() != wanted:
            raise ProcessorError(f"hart state with other fields: {sorted(values.keys() ^ wanted)}")
        numbers: dict[str, int] = {}
        for name, value in values.items():
            listed = value if isinstance(value, list) else [value]
            if len(listed) != (32 if name in ("x", "f") else 1) or not all(
                type(number) is int and 0 <= number <= _U64 for number in listed
            ):
                raise ProcessorError(f"hart state with a bad {name}: {value!r}")
            numbers[name] = listed[0]
        if numbers["mode"] not in (0, 1, 3) or numbers["x"] or numbers["fcsr"] > 0xFF:
            raise ProcessorError("hart state with a mode, x0 or fcsr that cannot be")
        state = self.state
        for name in _SAVED:
            setattr(state, name, numbers[name])
        for name in ("x", "f"):
            getattr(state, name)[:32] = values[name]
        state.frm = numbers["fcsr"] >> 5
        state.frm_reserved = state.frm > 3
        state.mxcsr = mxcsr_of(numbers["fcsr"] & 31, state.frm)
        state.reserved_address, state.posted, state.stop = _U64, 0, 0
        state.goal, state.budget, state.left = numbers["instructions"], 0, 0
        self.clock = numbers["clock"]
        self._context()

    def stats(self) -> dict[str, object]:
        """Counters of the run so far, under the names of `--stats`."""
        return {
            "instructions": self.instructions,
            "interpreted": self.instructions,
            "translated": 0,
            "tlb_misses": self.state.tlb_misses,
            "tlb_flushes": self.state.tlb_flushes,
            "device_seconds": self.device_seconds,
            "idle_seconds": self.idle_seconds,
        }
