"""A hart with privilege levels: registers by name, the run loop, interrupts and the clock."""

from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import dataclass
from functools import partial

from hartwood.bits.ints import Int, Trap
from hartwood.errors import Error, MemoryFault
from hartwood.isa.riscv.regs import F_NAMES, X_NAMES
from hartwood.isa.riscv.system import ADUE, CBCFE, CBIE, CBZE, FS, MACHINE, PBMTE, SD, SIE, STCE
from hartwood.isa.riscv.trap import MTI, STI
from hartwood.jit import abi, sysabi
from hartwood.jit.syscode import system_code
from hartwood.machine.floating import flags_of, mxcsr_of
from hartwood.machine.gate import Gate
from hartwood.machine.sysreference import SYSTEM, SystemIntHart, SystemReference
from hartwood.mem.bus import Bus
from hartwood.mem.hostmem import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hartwood.jit.sysstitch import SystemStitches

_U64 = (1 << 64) - 1
#: Instructions between two looks at what Python was asked for, at least and at most; and the
#: seconds that they are to take, since looking takes some 20 microseconds.
SLICE, LONGEST = 2_000_000, 16_000_000
_SHORT, _LONG = 0.002, 0.006
#: Ticks of guest time a second.
FREQUENCY = sysabi.FREQUENCY
#: Ways of running code (see `Processor`).
MODES = ("auto", "stitch", "interp", "reference")
#: Transfers to one place that make it worth stitching.
STITCH = 50
#: Instructions that may run past a budget: those of a page without a jump; and single steps that
#: are taken at a time.
_OVERRUN, _STEPS = 2100, 5000
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
_SAVED = ("pc", "reserved_address", "reserved_value", *sysabi.REGISTERS)
#: Interrupts that have a wire (Priv. 3.1.9).
_LINES = 1 << 3 | 1 << 7 | 1 << 9 | 1 << 11
#: Registers that are not zero after power-on: XLEN of S and U is 64 (Priv. 3.1.6.3).
_POWER_ON = {"mstatus": 2 << 32 | 2 << 34, "stimecmp": _U64, "mtimecmp": _U64}
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

    `mode` is "auto" (code that runs often is stitched as soon as that can be done), "stitch" (all
    that control is transferred to, from the beginning), "interp" or "reference". With
    `deterministic` guest time is the instruction count; "auto" is then "interp", since stitched
    code looks for interrupts at other instructions, depending on what was stitched so far.
    """

    def __init__(
        self, bus: Bus, number: int = 0, *, mode: str = "auto", deterministic: bool = False
    ) -> None:
        self.bus = bus
        self.mode = "interp" if deterministic and mode == "auto" else mode
        self.deterministic = deterministic
        self.code = system_code(learn=self.mode in ("auto", "stitch"))
        self.state = self.code.new_state()
        self._at = ctypes.addressof(self.state)
        self._wake = threading.Event()
        self._lines = threading.Lock()
        self._failure: BaseException | None = None
        #: Where this hart waits while its machine is held.
        self.gate = Gate()
        #: Somebody asked for a stop; the thread that is in `run`.
        self._asked, self._thread = False, 0
        #: Handles an ecall from S-mode where it is not the guest's own firmware that does.
        self.supervisor_call: Callable[[Processor], None] | None = None
        #: Instructions that the last piece of a run took, trapped ones included, and all pieces.
        self._spent = self.executed = 0
        self._slice = SLICE
        #: A deterministic hart that waits skips time; one among others leaves that to their board.
        self.alone = True
        if deterministic:  # or the first use of a bank would end a piece early
            self.code.load_banks()
        self.idle_seconds = 0.0
        self.device_seconds = 0.0
        self._callbacks = _Read(self._io_read), _Write(self._io_write)
        self._int = SystemIntHart(self.state, bus, self._counter, self._context)
        self._reference = SystemReference(self._int, self.state, bus)
        self._number = number
        if mode in ("auto", "stitch"):
            learner = self.code.learn()
            if mode == "stitch":
                learner.join()
        bus.ram.add_hart(self._at)
        bus.ram.translations.append(self._forget_map)
        self.power_on()

    def power_on(self) -> None:
        """The state after power-on, pc 0, time 0 (Priv. 3.4)."""
        fresh, state = self.code.new_state(), self.state
        self._stitches: SystemStitches | None = None
        ctypes.memmove(self._at, ctypes.addressof(fresh), ctypes.sizeof(state))
        ram = self.bus.ram
        state.memory, state.records, state.flags = ram.host, ram.records, ram.flags_at
        state.table = ram.table_at
        ram.forget = lambda offset, size: self.code.discard(self._at, offset, size)
        state.mode, state.mhartid = MACHINE, self._number
        for name, value in _POWER_ON.items():
            setattr(state, name, value)
        state.io_read, state.io_write = (
            ctypes.cast(call, ctypes.c_void_p).value for call in self._callbacks
        )
        self.thaw()
        self.clock = 0
        self._context()

    def freeze(self) -> None:
        """Guest time stands, until `thaw`. Not while the hart runs."""
        now = self.clock
        self.state.clock = 0  # from here on it is the instruction count
        self.clock = now

    def thaw(self) -> None:
        """Guest time goes on with the host's clock, unless it is the instruction count."""
        if not self.deterministic:
            now = self.clock
            clock = ctypes.CDLL(None).clock_gettime
            self.state.clock = ctypes.cast(clock, ctypes.c_void_p).value
            self.clock = now

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
        with self.gate.hold():
            self._set(name, value)

    def _set(self, name: str, value: int) -> None:
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
        with self.gate.hold():
            return self._as_machine(name, what)

    def _as_machine(self, name: str, what: Callable[[], object]) -> object:
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
        if bool(self.state.lines >> bit & 1) == level:  # a wire is one device's
            return
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

    def set_machine_timer(self, when: int) -> None:
        """Set mtimecmp: interrupt 7 at guest time `when`. From any thread."""
        self.state.mtimecmp = when & _U64
        self.state.attention = 1
        self._wake.set()

    def shift_clock(self, ticks: int) -> None:
        """Guest time jumps by so many ticks. From any thread."""
        self.state.time_offset = self.state.time_offset + ticks & _U64
        self.state.attention = 1
        self._wake.set()

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

    def _forget_map(self) -> Callable[[], bool]:
        """Ask this hart to forget its translations; gives what says whether it has, or will have
        before it runs again. From any thread, its own as well."""
        state = self.state
        state.flush_asked = state.attention = 1

        def done() -> bool:
            if self._thread != threading.get_ident():
                return not (state.running and state.flush_asked)
            # In this order: what is asked between the two is not lost.
            state.flush_asked = 0
            self.flush_local()
            return True

        return done

    def request_stop(self) -> None:
        """Make `run` return with "stopped" soon."""
        self._asked = True
        self.kick()

    def kick(self) -> None:
        """Make this hart leave native code soon. A deterministic one does so where it would have
        anyway, unless it is its own instruction that asks."""
        if not self.deterministic or self._thread == threading.get_ident():
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
        `until`: an address that the pc has to reach (one instruction at a time, so slowly: some two
        million a second), or a function that is asked every few milliseconds."""
        deadline = None if seconds is None else self._now() + seconds
        left = instructions
        single = isinstance(until, int)
        self.state.until = until if isinstance(until, int) else sysabi.NOWHERE
        self.state.stop, self._asked = 0, False
        while True:
            if callable(until) and until():
                return Stop("until", self.pc)
            if left is not None and left <= 0:
                return Stop("instructions", self.pc)
            if deadline is not None and self._now() >= deadline:
                return Stop("seconds", self.pc)
            most = LONGEST if left is None else left - _OVERRUN
            begin = time.perf_counter()
            if exact := single or most <= 0:
                most = _STEPS if left is None else left
            stop = self._piece(min(most, _STEPS if exact else self._slice), deadline, exact=exact)
            self._fit(time.perf_counter() - begin)
            if left is not None:
                left -= self._spent
            if stop is not None:
                return stop
            if single and self.pc == until:
                return Stop("until", self.pc)

    def _fit(self, seconds: float) -> None:
        """Choose the next slice's length by what the last one took; not where runs are repeated."""
        if seconds > _LONG:
            self._slice = max(SLICE, self._slice // 2)
        elif seconds < _SHORT and self._spent >= self._slice and not self.deterministic:
            self._slice = min(LONGEST, self._slice * 2)

    def translate(self, at: int | None = None) -> None:
        """Compile the code at a guest-physical address, or all that is stitched by now, which
        otherwise happens to what runs most; in modes that translate, and not while it runs. Raises
        `MemoryFault` where there is no memory, `WorkerError` where there is no compiler."""
        if self.mode not in ("auto", "stitch"):
            return
        if self._stitches is None:
            self.code.learn().join()
            self._stitch()
        assert self._stitches is not None
        if at is None:
            self._stitches.regions.translate_stitched(self.state)
        else:
            page, inside = divmod(self.bus.ram.find(at, 2), PAGE)
            self._stitches.regions.translate(self.state, page, [inside])

    def turn(self, count: int) -> Stop | None:
        """Run `count` instructions and on to the next jump; gives a stop where one comes first."""
        while count > 0:
            stop = self._piece(count, None)
            if stop is not None:
                return stop
            count -= self._spent
        return None

    @property
    def alarm(self) -> int:
        """The guest time that ends a wait; all ones where none does. An interrupt that is not
        enabled in mie ends no wait (Priv. 3.3.3)."""
        state = self.state
        alarms = ((state.stimecmp, 1 << STI), (state.mtimecmp, 1 << MTI))
        return min(int(when) if state.mie & bit else _U64 for when, bit in alarms)

    def _now(self) -> float:
        """Seconds that the machine was not held."""
        return time.monotonic() - self.gate.seconds

    def _piece(self, count: int, deadline: float | None, *, exact: bool = False) -> Stop | None:
        """Run about `count` instructions, or not more, and deal with what they ask of Python, while
        nobody holds the machine; gives a stop where that ends the run."""
        if not self.gate.enter(self):
            return Stop("stopped", self.pc)
        try:
            self._thread, self._spent = threading.get_ident(), 0
            if self._asked:
                self._asked = False
                return Stop("stopped", self.pc)
            reason = self._go(count, exact=exact)
            for flush in self.bus.flushes:
                flush()
            stop = self._after(reason, deadline)
            self.executed += self._spent
            return stop
        finally:
            self._thread = 0
            self.gate.leave()

    def _go(self, count: int, *, exact: bool) -> int:
        """Run about `count` instructions, or not more; gives the reason of coming back."""
        state = self.state
        if self.bus.ram.closed:
            raise ProcessorError("this machine was closed; make another one")
        if self.mode == "reference":
            self._spent = 0
            while self._spent < min(count, 1000):
                state.goal += self._reference.step()
                self._spent += 1
                if exact and state.pc == state.until:
                    break
            return abi.SLICE
        if self._stitches is None and self.mode != "interp" and self.code.stencils is not None:
            self._stitch()
        if self._stitches is None:
            self._enter(count, exact=exact)
        else:
            self._stitches.begin()
            try:
                self._enter(count, exact=exact)
            finally:
                self._stitches.end()
            if self.mode == "auto":
                self._stitches.regions.pump(state)
        # What trapped counts too, or a budget might never end.
        budget = 0 if exact else int(state.budget)
        self._spent = count - int(state.left) - (budget - (budget >> 63 << 64))
        if state.reason in (abi.REFERENCE, abi.TRAP):
            self._spent += 1
        return int(state.reason)

    def _stitch(self) -> None:
        """From now on code that runs often is stitched."""
        self._stitches = self.code.stitches(self.bus.ram)
        threshold = STITCH if self.mode == "auto" else 1
        self._stitches.enable(self.state, threshold)

    def _enter(self, count: int, *, exact: bool) -> None:
        """Run native code, one step after the other where not more than `count` may run."""
        state = self.state
        state.goal, state.budget, state.left = self.instructions, 0, count
        (self.code.step if exact else self.code.run)(self._at)

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
        state.stop = 0
        if self._asked:
            self._asked = False
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
        if state.lines & state.mie or state.posted or state.stop or self._asked:
            return True
        alarm = self.alarm
        if self.deterministic:
            if alarm == _U64 or not self.alone:
                return False
            self.clock = max(alarm, self.clock)
            return True
        ticks = alarm - self.clock if alarm != _U64 else sysabi.FREQUENCY * 3600
        wait = ticks / sysabi.FREQUENCY
        if deadline is not None:
            wait = min(wait, deadline - self._now())
        if wait > 0 and not self.gate.wanted:
            before = time.monotonic()
            self._wake.wait(wait)
            self.idle_seconds += time.monotonic() - before
        return True

    # Life.
    def save_hart(self) -> dict[str, int | list[int]]:
        """All that the guest can see of this hart, as numbers by name; not while it runs."""
        state = self.state
        flags = flags_of(state.mxcsr) | state.frm << 5
        values: dict[str, int | list[int]] = {name: getattr(state, name) for name in _SAVED}
        values["mip"] = state.mip | state.posted
        values |= {"x": list(state.x)[:32], "f": list(state.f), "fcsr": flags}
        return values | {"clock": self.clock, "instructions": self.instructions}

    def load_hart(self, values: dict[str, int | list[int]], *, foreign: bool = False) -> None:
        """Become what `save_hart` gave, perhaps elsewhere; where it is `foreign`, values that no
        guest could have written are refused too. Raises `ProcessorError` naming what is wrong
        with a value, with nothing changed; memory is the caller's business."""
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
        if numbers["pc"] & 1 or numbers["lines"] & ~_LINES:
            raise ProcessorError("hart state with an odd pc or lines that are not there")
        before = self.save_hart()
        self._load(values)
        if foreign:
            wrong = self._illegal()
            self._load(before if wrong else values)
            if wrong:
                raise ProcessorError(f"hart state with a bad {wrong}: {values[wrong]!r}")

    def _illegal(self) -> str:
        """A register that its own CSR would not take (WARL, Priv. 2.3), were it written after
        power-on. Counters take anything. Leaves the registers in between."""
        csrs = {name: _CSRS[name] for name in reversed(_SAVED) if name in _CSRS}
        held = {name: int(getattr(self.state, name)) for name in csrs}
        bases = {name: self._privileged(name, partial(csrs[name].base, self._int)) for name in csrs}
        for name in csrs:
            setattr(self.state, name, _POWER_ON.get(name, 0))
        for name, csr in csrs.items():  # addresses of PMP before what may lock them
            if csr.write is not None and name not in ("mcycle", "minstret"):
                self._set(name, Int(0, 64)._of(bases[name]))
                if int(getattr(self.state, name)) != held[name]:
                    return name
        return ""

    def _load(self, values: dict[str, int | list[int]]) -> None:
        state = self.state
        numbers = {name: value for name, value in values.items() if isinstance(value, int)}
        for name in _SAVED:
            setattr(state, name, numbers[name])
        for name in ("x", "f"):
            getattr(state, name)[:32] = values[name]
        state.frm = numbers["fcsr"] >> 5
        state.frm_reserved = state.frm > 3
        state.mxcsr = mxcsr_of(numbers["fcsr"] & 31, state.frm)
        state.posted, state.stop = 0, 0
        state.goal, state.budget, state.left = numbers["instructions"], 0, 0
        self.clock = numbers["clock"]
        self._context()

    @property
    def regions(self) -> int:
        """Units of stitched code that its machine has made."""
        return self._stitches.code.units if self._stitches is not None else 0

    @property
    def regions_installed(self) -> int:
        """Regions of compiled code that its machine has linked."""
        return self._stitches.regions.installed if self._stitches is not None else 0

    def stats(self) -> dict[str, object]:
        """Counters of the run so far, under the names of `--stats`."""
        return {
            "instructions": self.instructions,
            "interpreted": self.instructions - self.state.translated,
            "translated": self.state.translated,
            "tlb_misses": self.state.tlb_misses,
            "tlb_flushes": self.state.tlb_flushes,
            "device_seconds": self.device_seconds,
            "idle_seconds": self.idle_seconds,
        }
