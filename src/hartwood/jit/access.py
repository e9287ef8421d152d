"""Memory accesses that may fault, in LLVM text: the only place generated code touches memory.

Every access is a `callbr` with a `.hwfault` entry, so a host fault becomes an ordinary edge of
the control-flow graph and the values that are live there are exact (see `signals`).
"""

from __future__ import annotations

from collections.abc import Callable

from hartwood.bits.ssa import Text, Val
from hartwood.jit import host_x86 as host
from hartwood.jit.abi import LIMIT

#: Half of what `FlatSpace` leaves inaccessible on either side.
NEAR = 1 << 19


def load_pointer(text: Text, address: str, fault: str) -> str:
    """Load a `ptr` from a host address (an i64 operand); branches to `fault` if it faults."""
    where = text.value(f"inttoptr i64 {address} to ptr")
    done = text.fresh_label("ok")
    value = text.fresh()
    text.emit(f"{value} = {host.load(8, where, done, fault, guest=False)}")
    text.label(done)
    return text.value(f"inttoptr i64 {value} to ptr")


class Access:
    """One load of `FlatMemory`: what writes its line."""

    #: Lines that follow before the result can be used: the label it continues at.
    after = 1

    def __init__(self, where: str, done: str, slow: str) -> None:
        self._where, self._done, self._slow = where, done, slow

    def load(self, size: int, *, signed: bool = False, width: int = 0) -> str:
        """The right-hand side of an integer load (see `host_x86.load`)."""
        return host.load(size, self._where, self._done, self._slow, signed=signed, width=width)

    def load_double(self) -> str:
        """The right-hand side of a load to a floating-point register."""
        return host.load_double(self._where, self._done, self._slow, avx=True)


class Loaded(Val):
    """What a guest load gives. Its line is written when the first use tells which form it should
    have: extended with or without sign, or straight into a floating-point register.
    """

    __slots__ = ("_access", "_line", "_wide")

    def __init__(self, text: Text, size: int, access: Access) -> None:
        super().__init__(text, 8 * size)
        self._line: int | None = len(text.lines)
        self._wide: Val | None = None
        self._access = access
        text.emit("")
        text.pending.append(self.settle)

    def _write(self, call: str) -> str:
        assert self._line is not None
        value = self.text.fresh()
        self.text.lines[self._line] = f"  {value} = {call}"
        self._line = None
        return value

    def settle(self) -> None:
        """Nobody asked for another form: load an integer, zero-extended."""
        if self._line is None:
            return
        size, last = self.width // 8, self._line + self._access.after
        value = self._write(self._access.load(size))
        self._name = value
        if size < 4:  # the load gave 32 bits
            self._name = self.text.fresh()
            line = f"  {self._name} = trunc i32 {value} to i{self.width}"
            self.text.lines[last] += "\n" + line

    @property
    def is_float(self) -> bool:
        """A load that nobody looked at yet can be either."""
        return self.fp is not None or (self._line is not None and self.width == 64)

    @property
    def name(self) -> str:
        self.settle()
        if self._name is None and self._wide is not None:
            self._name = self._wide.trunc(self.width).name
        return super().name

    @property
    def float_name(self) -> str:
        if self._line is not None and self.width == 64:
            self.fp = self._write(self._access.load_double())
        else:
            self.settle()
        return super().float_name

    def _extended(self, signed: bool) -> Val:
        call = self._access.load(self.width // 8, signed=signed, width=64)
        self._wide = Val(self.text, 64, self._write(call))
        return self._wide

    def sext(self, width: int) -> Val:
        if self._line is not None and width == 64 and self.width < 64:
            return self._extended(True)
        return super().sext(width)

    def zext(self, width: int) -> Val:
        if self._line is not None and width == 64 and self.width < 64:
            return self._extended(False)
        return super().zext(width)


class FlatMemory:
    """Guest memory as one host reservation: an access is a compare and a plain host access.

    `slow` gives, for a guest address and whether it is a store, the label of the block that
    leaves precisely at this instruction; `limit` is an operand that holds `LIMIT`.
    """

    def __init__(
        self, text: Text, slow: Callable[[Val, bool], str], limit: str = str(LIMIT)
    ) -> None:
        self._text = text
        self._slow = slow
        self._limit = limit
        #: Offsets from a value, by its name, at most so far from an address that was found inside
        #: the address space: because it was compared, or because an access of it did not fault.
        self.inside: dict[str, list[tuple[int, int]]] = {}

    def new_block(self) -> None:
        """Forget which addresses were compared with the limit: control may come from elsewhere."""
        self.inside.clear()

    def _pointer(self, address: Val, slow: str) -> str:
        text = self._text
        inside = self.inside.setdefault(address.root or address.name, [])
        # What is near an address inside is inside or in the guard zones around the reservation.
        known = address.const is not None and address.const < LIMIT
        if not known and not any(abs(address.offset - at) + by < NEAR for at, by in inside):
            below = text.value(f"icmp ult i64 {address.name}, {self._limit}")
            ok = text.fresh_label("in")
            text.emit(f"br i1 {below}, label %{ok}, label %{slow}, !prof !0")
            text.label(ok)
        inside.append((address.offset, 0))
        return text.value(f"inttoptr i64 {address.name} to ptr")

    def load(self, address: Val, size: int) -> Val:
        """`size` bytes, as 8*size bits."""
        text, slow = self._text, self._slow(address, False)
        where = self._pointer(address, slow)
        done = text.fresh_label("ok")
        loaded = Loaded(text, size, Access(where, done, slow))
        text.label(done)
        return loaded

    def store(self, address: Val, value: Val) -> None:
        """Store all bits of `value`."""
        text, slow = self._text, self._slow(address, True)
        where = self._pointer(address, slow)
        done = text.fresh_label("ok")
        if value.is_float and value.width == 64:
            text.emit(host.store_double(where, value.float_name, done, slow, avx=True))
        else:
            text.emit(host.store(value.width // 8, where, value.name, done, slow))
        text.label(done)

    def amo(self, op: str, address: Val, value: Val) -> Val:
        """Atomic read-modify-write, sequentially consistent."""
        text, slow = self._text, self._slow(address, True)
        where = self._pointer(address, slow)
        done, old = text.fresh_label("ok"), text.fresh()
        text.emit(f"{old} = {host.amo(op, value.width // 8, where, value.name, done, slow)}")
        text.label(done)
        return Val(text, value.width, old)

    def compare_exchange(self, address: Val, expected: Val, value: Val) -> Val:
        """Store `value` if memory holds `expected`, atomically; one bit tells."""
        text, slow = self._text, self._slow(address, True)
        where = self._pointer(address, slow)
        done, old = text.fresh_label("ok"), text.fresh()
        size = value.width // 8
        line = host.compare_exchange(size, where, expected.name, value.name, done, slow)
        text.emit(f"{old} = {line}")
        text.label(done)
        return Val(text, value.width, old) == expected
