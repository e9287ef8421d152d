"""Pure values of the reference meaning: `Bits` as unsigned Python ints."""

from __future__ import annotations

from typing import NoReturn

from hartwood.bits.words import Value
from hartwood.errors import LawError


class Int:
    """`Bits` as an unsigned Python int of `width` bits; `signed` is its two's complement."""

    __slots__ = ("_width", "value")

    def __init__(self, value: int, width: int) -> None:
        self._width = width
        self.value = value & (1 << width) - 1

    @property
    def width(self) -> int:
        """Number of bits."""
        return self._width

    @property
    def signed(self) -> int:
        """The value as a signed number."""
        return self.value - (self.value >> (self._width - 1) << self._width)

    def __repr__(self) -> str:
        return f"Int({self.value:#x}, {self._width})"

    def _of(self, other: object) -> int:
        """The other operand as an unsigned number of this width."""
        if isinstance(other, Int):
            if other._width != self._width:
                raise LawError(f"widths {self._width} and {other._width} meet in one operation")
            return other.value
        if isinstance(other, int):
            return other & (1 << self._width) - 1
        raise LawError(f"{other!r} is not a value")

    def _signed_of(self, other: object) -> int:
        return Int(self._of(other), self._width).signed

    def _new(self, value: int) -> Int:
        return Int(value, self._width)

    def __add__(self, other: Value) -> Int:
        return self._new(self.value + self._of(other))

    __radd__ = __add__

    def __sub__(self, other: Value) -> Int:
        return self._new(self.value - self._of(other))

    def __rsub__(self, other: Value) -> Int:
        return self._new(self._of(other) - self.value)

    def __mul__(self, other: Value) -> Int:
        return self._new(self.value * self._of(other))

    def __and__(self, other: Value) -> Int:
        return self._new(self.value & self._of(other))

    __rand__ = __and__

    def __or__(self, other: Value) -> Int:
        return self._new(self.value | self._of(other))

    __ror__ = __or__

    def __xor__(self, other: Value) -> Int:
        return self._new(self.value ^ self._of(other))

    __rxor__ = __xor__

    def __invert__(self) -> Int:
        return self._new(~self.value)

    def __neg__(self) -> Int:
        return self._new(-self.value)

    def __eq__(self, other: object) -> Int:  # type: ignore[override]
        return Int(self.value == self._of(other), 1)

    def __ne__(self, other: object) -> Int:  # type: ignore[override]
        return Int(self.value != self._of(other), 1)

    __hash__ = None  # type: ignore[assignment]

    def _refuse(self, *_: object) -> NoReturn:
        raise LawError("a guest value has no truth, no order and no `>>`: use select, lt_u, shr_u")

    __bool__ = __index__ = __lt__ = __le__ = __gt__ = __ge__ = __rshift__ = __lshift__ = _refuse
    __truediv__ = __floordiv__ = __mod__ = _refuse

    def lt_s(self, other: Value) -> Int:
        """Signed less-than."""
        return Int(self.signed < self._signed_of(other), 1)

    def lt_u(self, other: Value) -> Int:
        """Unsigned less-than."""
        return Int(self.value < self._of(other), 1)

    def _amount(self, amount: Value) -> int:
        return self._of(amount) % self._width

    def shl(self, amount: Value) -> Int:
        """Shift left."""
        return self._new(self.value << self._amount(amount))

    def shr_u(self, amount: Value) -> Int:
        """Logical shift right."""
        return self._new(self.value >> self._amount(amount))

    def shr_s(self, amount: Value) -> Int:
        """Arithmetic shift right."""
        return self._new(self.signed >> self._amount(amount))

    def rotl(self, amount: Value) -> Int:
        """Rotate left."""
        count = self._amount(amount)
        return self._new(self.value << count | self.value >> (self._width - count))

    def rotr(self, amount: Value) -> Int:
        """Rotate right."""
        return self.rotl(-self._amount(amount))

    def _divisor(self, other: Value) -> int:
        divisor = self._of(other)
        if divisor == 0:
            raise LawError("division by zero is undefined: guard it with select")
        return divisor

    def _divide_signed(self, other: Value) -> tuple[int, int]:
        divisor = self._new(self._divisor(other)).signed
        quotient = abs(self.signed) // abs(divisor)
        if (self.signed < 0) != (divisor < 0):
            quotient = -quotient
        if quotient >> (self._width - 1) > 0:
            raise LawError("INT_MIN / -1 is undefined: guard it with select")
        return quotient, self.signed - quotient * divisor

    def div_s(self, other: Value) -> Int:
        """Signed quotient; raises `LawError` where it is undefined, so do the next three."""
        return self._new(self._divide_signed(other)[0])

    def rem_s(self, other: Value) -> Int:
        """Signed remainder."""
        return self._new(self._divide_signed(other)[1])

    def div_u(self, other: Value) -> Int:
        """Unsigned quotient."""
        return self._new(self.value // self._divisor(other))

    def rem_u(self, other: Value) -> Int:
        """Unsigned remainder."""
        return self._new(self.value % self._divisor(other))

    def mulh_s(self, other: Value) -> Int:
        """High half of the signed product."""
        return self._new(self.signed * self._signed_of(other) >> self._width)

    def mulh_u(self, other: Value) -> Int:
        """High half of the unsigned product."""
        return self._new(self.value * self._of(other) >> self._width)

    def mulh_su(self, other: Value) -> Int:
        """High half of signed times unsigned."""
        return self._new(self.signed * self._of(other) >> self._width)

    def sext(self, width: int) -> Int:
        """Sign-extend."""
        if width < self._width:
            raise LawError(f"extension from {self._width} to {width} bits")
        return Int(self.signed, width)

    def zext(self, width: int) -> Int:
        """Zero-extend."""
        if width < self._width:
            raise LawError(f"extension from {self._width} to {width} bits")
        return Int(self.value, width)

    def trunc(self, width: int) -> Int:
        """Low bits."""
        if width > self._width:
            raise LawError(f"truncation from {self._width} to {width} bits")
        return Int(self.value, width)

    def clz(self) -> Int:
        """Leading zeros."""
        return self._new(self._width - self.value.bit_length())

    def ctz(self) -> Int:
        """Trailing zeros."""
        lowest = self.value & -self.value
        return self._new(lowest.bit_length() - 1 if lowest else self._width)

    def popcount(self) -> Int:
        """One bits."""
        return self._new(self.value.bit_count())

    def bswap(self) -> Int:
        """Bytes reversed."""
        size = self._width // 8
        return self._new(int.from_bytes(self.value.to_bytes(size, "little"), "big"))
