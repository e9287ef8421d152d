"""The words whose native form is the same in the interpreter and in translated code.

Memory, atomics and floating point on the host; what leaves the instruction early is left to the
subclass (`only_reference_if`, the fault labels of `memory`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hartwood.bits.ssa import SsaHart, Text, Val, constant
from hartwood.bits.ssa_float import DYN, on_host
from hartwood.bits.ssa_float_x86 import X86Float
from hartwood.isa.insnset import InsnSet
from hartwood.jit import abi
from hartwood.jit.calling import field

NO_RESERVATION = (1 << 64) - 1


def _reservation(address: Val, size: int) -> Val:
    """Address and size of a reservation in one word: the address is a multiple of 4."""
    return address | abi.RESERVED_WORD if size == 4 else address


class Memory(Protocol):
    """What accesses of guest memory are in text."""

    def load(self, address: Val, size: int) -> Val:
        """`size` bytes, as 8*size bits."""
        ...

    def store(self, address: Val, value: Val) -> None:
        """Store all bits of `value`."""
        ...

    def amo(self, op: str, address: Val, value: Val) -> Val:
        """Atomic read-modify-write, sequentially consistent."""
        ...

    def compare_exchange(self, address: Val, expected: Val, value: Val) -> Val:
        """Store `value` if memory holds `expected`, atomically; one bit tells."""
        ...

    def new_block(self) -> None:
        """Control may come from elsewhere."""
        ...


class NativeHart(SsaHart):
    """`words.Hart` on the host's own memory and floating-point unit."""

    memory: Memory
    #: Whether floating-point results may stay raw (see `Val.raw`) between instructions.
    raw_floats = False

    def __init__(self, text: Text, insns: InsnSet) -> None:
        super().__init__(text)
        self.insns = insns
        self._float = X86Float(
            text, self._scratch, lambda: self.state_load("frm").name, outlined=True
        )

    def _scratch(self) -> str:
        """Memory of this hart's through which the host's control word travels."""
        return self.text.value(field("scratch"))

    def state_load(self, name: str, width: int = 64) -> Val:
        """A field of `State`."""
        where = self.text.value(field(name))
        return Val(self.text, width, self.text.value(f"load i{width}, ptr {where}"))

    def state_store(self, name: str, value: Val | int, width: int = 64) -> None:
        """Set a field of `State`."""
        where = self.text.value(field(name))
        word = value if isinstance(value, Val) else constant(self.text, value, width)
        self.text.emit(f"store i{word.width} {word.name}, ptr {where}")

    def load(self, address: Val, size: int) -> Val:
        """See `words.Hart.load`."""
        return self.memory.load(address, size)

    def store(self, address: Val, value: Val) -> None:
        """See `words.Hart.store`."""
        self.memory.store(address, value)

    def amo(self, op: str, address: Val, value: Val) -> Val:
        """See `words.Hart.amo`."""
        return self.memory.amo(op, address, value)

    def load_reserved(self, address: Val, size: int) -> Val:
        """See `words.Hart.load_reserved`: the reservation is address and size, and the value."""
        value = self.memory.load(address, size)
        self.state_store("reserved_address", _reservation(address, size))
        self.state_store("reserved_value", value.zext(64))
        return value

    def store_conditional(self, address: Val, value: Val) -> Val:
        """See `words.Hart.store_conditional`: succeeds where memory still holds what LR saw."""
        text = self.text
        match = self.state_load("reserved_address") == _reservation(address, value.width // 8)
        # The forms of both that are used below, made where every path comes by.
        _ = address.name, value.name
        start, attempt, join = text.block, text.fresh_label("sc"), text.fresh_label("scd")
        text.emit(f"br i1 {match.name}, label %{attempt}, label %{join}")
        text.label(attempt)
        expected = self.state_load("reserved_value").trunc(value.width)
        stored = self.memory.compare_exchange(address, expected, value)
        tried = text.block
        text.emit(f"br label %{join}")
        text.label(join)
        self.memory.new_block()
        won = text.value(f"phi i1 [false, %{start}], [{stored.name}, %{tried}]")
        # Only now: an attempt that faulted is run again with its reservation.
        self.state_store("reserved_address", NO_RESERVATION)
        return Val(text, 1, won)

    def fence(self) -> None:
        """See `words.Hart.fence`."""
        self.text.emit("fence seq_cst")

    def fence_i(self) -> None:
        """A store to a page that holds decoded code is seen at once, as the page is protected; but
        the page's memory may have been written through another mapping: Python looks."""
        self.only_reference()

    def only_reference(self) -> None:
        """This instruction needs the reference meaning; what follows is not reached."""
        raise NotImplementedError

    def only_reference_if(self, condition: str) -> None:
        """The same where an i1 operand holds."""
        raise NotImplementedError

    def csr_update(self, number: Val | int, op: str, value: Val | int, source: Val | int) -> Val:
        """See `words.Hart.csr_update`."""
        known = number if isinstance(number, int) else number.const
        if known is None:
            return self._csr_switch(number, op, value, source)  # type: ignore[arg-type]
        csr = self.insns.csrs.get(known)
        if csr is None:
            self.only_reference()
            return constant(self.text, 0, 64)
        return csr.update(self, op, value, source)  # type: ignore[arg-type, return-value]

    def _csr_switch(self, number: Val, op: str, value: Val | int, source: Val | int) -> Val:
        """The same for a number that is known only when running: each CSR's definition in a
        block of its own. Those that need the reference leave from there."""
        text = self.text
        labels = {known: text.fresh_label("csr") for known in self.insns.csrs}
        other, join = text.fresh_label("csr"), text.fresh_label("csrd")
        arms = " ".join(f"i64 {known}, label %{label}" for known, label in labels.items())
        text.emit(f"switch i64 {number.name}, label %{other} [{arms}]")
        results = []
        for known, label in labels.items():
            text.label(label)
            old = self.csr_update(known, op, value, source).name
            results.append(f"[{old}, %{text.block}]")
            text.emit(f"br label %{join}")
        text.label(other)
        self.only_reference()
        text.emit("unreachable")
        text.label(join)
        return Val(text, 64, text.value(f"phi i64 {', '.join(results)}"))

    def counter(self, name: str) -> Val:
        """See `words.Hart.counter`: the reference knows the time."""
        self.only_reference()
        return constant(self.text, 0, 64)

    # Floating point. MXCSR holds the guest's flags and rounding mode while native code runs.
    @property
    def fflags(self) -> Val:
        """See `words.Hart.fflags`."""
        return Val(self.text, 64, self._float.read_flags())

    @fflags.setter
    def fflags(self, value: Val | int) -> None:
        self._float.write_flags(self.const(value, 64).name)

    @property
    def frm(self) -> Val:
        """See `words.Hart.frm`."""
        return self.state_load("frm")

    @frm.setter
    def frm(self, value: Val | int) -> None:
        mode = self.const(value, 64) & 7
        self.state_store("frm", mode)
        self.state_store("frm_reserved", mode.shr_u(2))
        self._float.write_mode(mode.name)

    def dynamic_rounding(self) -> None:
        """The instruction rounds as `frm` says: leave where the host's FPU cannot do that."""
        self.only_reference_if((self.state_load("frm_reserved") != 0).name)

    def _mode(self, rm: int) -> int:
        """A rounding mode that the host can do; RMM leaves for the reference."""
        if rm == DYN:
            self.dynamic_rounding()
        elif not on_host(rm):
            self.only_reference()
            return 0
        return rm

    def _mode_for(self, rm: int, *, exact: bool) -> int:
        """The same for a conversion: an exact one has the same result in any mode, but a reserved
        dynamic mode makes it illegal all the same (Unpriv. 20.2)."""
        return DYN if exact and rm != DYN else self._mode(rm)

    def _result(self, width: int, name: str) -> Val:
        """A result that is canonical: raw and settled are the same."""
        value = Val(self.text, width, fp=name)
        value.raw = name
        return value

    def _arithmetic(
        self, operation: Callable[..., str], operands: tuple[Val, ...], width: int, rm: int
    ) -> Val:
        """An operation whose result may stay raw until it is looked at."""
        mode = self._mode(rm)
        names = [operand.raw_name for operand in operands]
        if not self.raw_floats:
            return self._result(width, operation(*names, width, mode))
        value = Val(self.text, width)
        value.raw = operation(*names, width, mode, raw=True)
        value.canonical = lambda name: self._float.canonical(name, width)
        return value

    def _compare(self, operation: Callable[[str, str, int], str], a: Val, b: Val) -> Val:
        return Val(self.text, 1, operation(a.raw_name, b.raw_name, a.width))

    def fadd(self, a: Val, b: Val, rm: int) -> Val:
        """See `words.Hart.fadd`."""
        return self._arithmetic(self._float.add, (a, b), a.width, rm)

    def fsub(self, a: Val, b: Val, rm: int) -> Val:
        """See `words.Hart.fsub`."""
        return self._arithmetic(self._float.sub, (a, b), a.width, rm)

    def fmul(self, a: Val, b: Val, rm: int) -> Val:
        """See `words.Hart.fmul`."""
        return self._arithmetic(self._float.mul, (a, b), a.width, rm)

    def fdiv(self, a: Val, b: Val, rm: int) -> Val:
        """See `words.Hart.fdiv`."""
        return self._arithmetic(self._float.div, (a, b), a.width, rm)

    def fsqrt(self, a: Val, rm: int) -> Val:
        """See `words.Hart.fsqrt`."""
        return self._arithmetic(self._float.sqrt, (a,), a.width, rm)

    def fma(self, a: Val, b: Val, c: Val, rm: int) -> Val:
        """See `words.Hart.fma`."""
        mode = self._mode(rm)
        names = a.raw_name, b.raw_name, c.raw_name
        return self._result(a.width, self._float.fma(*names, a.width, mode))

    def fmin(self, a: Val, b: Val) -> Val:
        """See `words.Hart.fmin`."""
        return self._result(a.width, self._float.minimum(a.raw_name, b.raw_name, a.width))

    def fmax(self, a: Val, b: Val) -> Val:
        """See `words.Hart.fmax`."""
        return self._result(a.width, self._float.maximum(a.raw_name, b.raw_name, a.width))

    def feq(self, a: Val, b: Val) -> Val:
        """See `words.Hart.feq`."""
        return self._compare(self._float.eq, a, b)

    def flt(self, a: Val, b: Val) -> Val:
        """See `words.Hart.flt`."""
        return self._compare(self._float.lt, a, b)

    def fle(self, a: Val, b: Val) -> Val:
        """See `words.Hart.fle`."""
        return self._compare(self._float.le, a, b)

    def float_to_int(self, a: Val, width: int, signed: bool, rm: int) -> Val:
        """See `words.Hart.float_to_int`; the host side knows every static mode."""
        if rm == DYN:
            self.dynamic_rounding()
        name = self._float.to_int(a.raw_name, a.width, width, signed, rm)
        return Val(self.text, width, name)

    def int_to_float(self, a: Val, signed: bool, width: int, rm: int) -> Val:
        """See `words.Hart.int_to_float`."""
        mode = self._mode_for(rm, exact=a.width < width)
        return self._result(width, self._float.from_int(a.name, a.width, signed, width, mode))

    def float_to_float(self, a: Val, width: int, rm: int) -> Val:
        """See `words.Hart.float_to_float`."""
        mode = self._mode_for(rm, exact=a.width < width)
        return self._result(width, self._float.convert(a.raw_name, a.width, width, mode))

    def _read_f32(self, index: Val | int) -> Val:
        return Val(self.text, 32, fp=self._float.unbox(self.read_f(index).float_name))

    def _write_f32(self, index: Val | int, value: Val) -> None:
        self.write_f(index, Val(self.text, 64, fp=self._float.box(value.float_name)))


class StateHart(NativeHart):
    """`words.Hart` whose registers stay in `State`, where `register` says."""

    def register(self, file: str, index: Val | int) -> str:
        """A pointer to register `index` of `file`, "x" or "f"."""
        raise NotImplementedError

    def read_x(self, index: Val | int) -> Val:
        where = self.register("x", index)
        return Val(self.text, 64, self.text.value(f"load i64, ptr {where}"))

    def write_x(self, index: Val | int, value: Val) -> None:
        if isinstance(index, Val) or index:
            self.text.emit(f"store i64 {value.name}, ptr {self.register('x', index)}")

    def read_f(self, index: Val | int) -> Val:
        where = self.register("f", index)
        return Val(self.text, 64, fp=self.text.value(f"load double, ptr {where}"))

    def write_f(self, index: Val | int, value: Val) -> None:
        kind, name = ("i64", value.name) if value.fp is None else ("double", value.fp)
        self.text.emit(f"store {kind} {name}, ptr {self.register('f', index)}")
