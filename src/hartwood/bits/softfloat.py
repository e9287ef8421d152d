"""Exact IEEE 754 arithmetic on bit patterns, in Python integers: the living definition of RISC-V
floating point. Slow and obvious on purpose; what runs on the host's FPU is tested against it.

A float is an unsigned integer of `width` (32 or 64) bits, the pattern of IEEE 754 binary32 or
binary64. Every operation gives `(bits, flags)`: flags are those this one operation raises, in the
layout of `fflags` (Unpriv. 20.2). The rules where IEEE 754 leaves a choice are RISC-V's: every NaN
result is the canonical one (20.3), tininess is detected after rounding (20.4), inf * 0 + quiet NaN
raises NV (20.6). Every function raises `FloatError` for a width or a rounding mode not listed here.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple, TypeAlias

from hartwood.errors import Error

#: Rounding modes (Unpriv. 20.2): to nearest with ties to even, toward zero, down, up, and to
#: nearest with ties away from zero ("to maximum magnitude").
RNE, RTZ, RDN, RUP, RMM = range(5)
#: Exception flags: inexact, underflow, overflow, division by zero, invalid.
NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16

#: A pattern (or integer, or truth) and the flags raised on the way to it.
Result: TypeAlias = tuple[int, int]


class FloatError(Error):
    """A width or a rounding mode that this arithmetic does not have."""


class Format(NamedTuple):
    """One interchange format (IEEE 754-2019, table 3.5)."""

    #: Stored bits of the significand; the precision is one more.
    fraction: int
    #: Exponent of the last place of a subnormal: the smallest positive value is 2**tiny.
    tiny: int
    #: Patterns: the sign bit, plus infinity, the canonical NaN, the bit that makes a NaN quiet.
    sign: int
    infinity: int
    nan: int
    quiet: int

    def is_nan(self, bits: int) -> bool:
        """Whether the pattern is a NaN, quiet or signalling."""
        return bits & ~self.sign > self.infinity

    def invalid(self, *operands: int) -> int:
        """NV where one of the operands is a signalling NaN, else no flag."""
        return NV * any(self.is_nan(bits) and not bits & self.quiet for bits in operands)

    def finite(self, bits: int) -> tuple[bool, int, int]:
        """`(negative, m, e)` such that the magnitude of a finite operand is exactly m * 2**e."""
        biased = (bits & self.infinity) >> self.fraction
        significand = bits & (1 << self.fraction) - 1
        if biased:
            significand += 1 << self.fraction
        return bool(bits & self.sign), significand, self.tiny + max(biased, 1) - 1


FORMATS = {
    32: Format(23, -149, 1 << 31, 0x7F80_0000, 0x7FC0_0000, 1 << 22),
    64: Format(52, -1074, 1 << 63, 0x7FF0 << 48, 0x7FF8 << 48, 1 << 51),
}


def _format(width: int) -> Format:
    try:
        return FORMATS[width]
    except KeyError:
        raise FloatError(f"no floating-point format of {width} bits: use 32 or 64") from None


def _shift_right(significand: int, shift: int, negative: bool, rm: int) -> tuple[int, bool]:
    """Divide by 2**shift and round; the truth says that the result is inexact."""
    if shift <= 0:
        return significand << -shift, False
    kept = significand >> shift
    rest = significand - (kept << shift)
    half = 1 << shift - 1
    if rm == RNE:
        up = rest > half or (rest == half and kept & 1 == 1)
    elif rm == RTZ:
        up = False
    elif rm == RDN:
        up = negative and rest != 0
    elif rm == RUP:
        up = not negative and rest != 0
    else:
        up = rest >= half
    return kept + up, rest != 0


def _check_mode(rm: int) -> None:
    if not RNE <= rm <= RMM:
        raise FloatError(f"no rounding mode {rm}: resolve it to one of 0 to 4 first")


def _round(negative: bool, significand: int, exponent: int, width: int, rm: int) -> Result:
    """The float nearest to the exact value +-significand * 2**exponent in direction `rm`."""
    fmt = _format(width)
    _check_mode(rm)
    sign = fmt.sign if negative else 0
    if not significand:
        return sign, 0
    # Exponent of the last place if it had no lower bound, and with it.
    unbounded = exponent + significand.bit_length() - fmt.fraction - 1
    place = max(unbounded, fmt.tiny)
    kept, inexact = _shift_right(significand, place - exponent, negative, rm)
    # A carry out of the significand moves into the exponent by itself, up to infinity.
    magnitude = ((place - fmt.tiny) << fmt.fraction) + kept
    if magnitude >= fmt.infinity:
        # IEEE 754-2019, 7.4: directed rounding may stop at the largest finite number.
        away = rm in (RNE, RMM) or rm == (RDN if negative else RUP)
        return sign | (fmt.infinity if away else fmt.infinity - 1), OF | NX
    if not inexact:
        return sign | magnitude, 0
    if unbounded >= fmt.tiny:
        return sign | magnitude, NX
    # Tiny after rounding: below the normal range even if rounded to full precision.
    full, _ = _shift_right(significand, unbounded - exponent, negative, rm)
    tiny = unbounded < fmt.tiny - 1 or full < 2 << fmt.fraction
    return sign | magnitude, NX | UF * tiny


def _nan_result(fmt: Format, *operands: int) -> Result | None:
    """The result forced by a NaN among the operands, if there is one."""
    if any(fmt.is_nan(bits) for bits in operands):
        return fmt.nan, fmt.invalid(*operands)
    return None


def _sum(a: tuple[bool, int, int], b: tuple[bool, int, int], width: int, rm: int) -> Result:
    """Add two exact finite values and round once."""
    (a_negative, a_significand, a_exponent), (b_negative, b_significand, b_exponent) = a, b
    exponent = min(a_exponent, b_exponent)
    total = (-a_significand if a_negative else a_significand) << a_exponent - exponent
    total += (-b_significand if b_negative else b_significand) << b_exponent - exponent
    if total:
        negative = total < 0
    else:  # IEEE 754-2019, 6.3: the sign of an exact zero sum
        negative = a_negative if a_negative == b_negative else rm == RDN
    return _round(negative, abs(total), exponent, width, rm)


def add(a: int, b: int, width: int, rm: int) -> Result:
    """a + b."""
    fmt = _format(width)
    _check_mode(rm)
    if forced := _nan_result(fmt, a, b):
        return forced
    a_infinite, b_infinite = a & ~fmt.sign == fmt.infinity, b & ~fmt.sign == fmt.infinity
    if a_infinite and b_infinite and a != b:
        return fmt.nan, NV
    if a_infinite or b_infinite:
        return (a if a_infinite else b), 0
    return _sum(fmt.finite(a), fmt.finite(b), width, rm)


def sub(a: int, b: int, width: int, rm: int) -> Result:
    """a - b."""
    # The sign of a NaN operand does not matter, so this holds for NaNs as well.
    return add(a, b ^ _format(width).sign, width, rm)


def mul(a: int, b: int, width: int, rm: int) -> Result:
    """a * b."""
    fmt = _format(width)
    _check_mode(rm)
    if forced := _nan_result(fmt, a, b):
        return forced
    sign = (a ^ b) & fmt.sign
    magnitudes = a & ~fmt.sign, b & ~fmt.sign
    if fmt.infinity in magnitudes:
        return (fmt.nan, NV) if 0 in magnitudes else (sign | fmt.infinity, 0)
    _, a_significand, a_exponent = fmt.finite(a)
    _, b_significand, b_exponent = fmt.finite(b)
    return _round(bool(sign), a_significand * b_significand, a_exponent + b_exponent, width, rm)


def fma(a: int, b: int, c: int, width: int, rm: int) -> Result:
    """a * b + c with one rounding."""
    fmt = _format(width)
    _check_mode(rm)
    magnitudes = a & ~fmt.sign, b & ~fmt.sign
    infinite = fmt.infinity in magnitudes
    if infinite and 0 in magnitudes:  # NV even where c is a quiet NaN (Unpriv. 20.6)
        return fmt.nan, NV
    if forced := _nan_result(fmt, a, b, c):
        return forced
    negative = bool((a ^ b) & fmt.sign)
    if infinite:
        product = fmt.infinity | (fmt.sign if negative else 0)
        return (fmt.nan, NV) if c == product ^ fmt.sign else (product, 0)
    if c & ~fmt.sign == fmt.infinity:
        return c, 0
    _, a_significand, a_exponent = fmt.finite(a)
    _, b_significand, b_exponent = fmt.finite(b)
    exact = negative, a_significand * b_significand, a_exponent + b_exponent
    return _sum(exact, fmt.finite(c), width, rm)


def div(a: int, b: int, width: int, rm: int) -> Result:
    """a / b."""
    fmt = _format(width)
    _check_mode(rm)
    if forced := _nan_result(fmt, a, b):
        return forced
    sign = (a ^ b) & fmt.sign
    a_magnitude, b_magnitude = a & ~fmt.sign, b & ~fmt.sign
    if a_magnitude == b_magnitude and a_magnitude in (0, fmt.infinity):
        return fmt.nan, NV
    if a_magnitude == fmt.infinity:
        return sign | fmt.infinity, 0
    if b_magnitude == fmt.infinity:
        return sign, 0
    if b_magnitude == 0:
        return sign | fmt.infinity, DZ
    _, a_significand, a_exponent = fmt.finite(a)
    _, b_significand, b_exponent = fmt.finite(b)
    # Two bits more than the precision, and below them one that stands for the whole remainder.
    shift = max(0, fmt.fraction + 3 + b_significand.bit_length() - a_significand.bit_length())
    quotient, rest = divmod(a_significand << shift, b_significand)
    exponent = a_exponent - b_exponent - shift - 1
    return _round(bool(sign), quotient << 1 | (rest != 0), exponent, width, rm)


def sqrt(a: int, width: int, rm: int) -> Result:
    """The square root of a; that of -0 is -0."""
    fmt = _format(width)
    _check_mode(rm)
    if forced := _nan_result(fmt, a):
        return forced
    if a & ~fmt.sign == 0 or a == fmt.infinity:
        return a, 0
    if a & fmt.sign:
        return fmt.nan, NV
    _, significand, exponent = fmt.finite(a)
    shift = 2 * (fmt.fraction + 3)
    shift += (exponent - shift) & 1
    scaled = significand << shift
    root = isqrt(scaled)
    exponent = (exponent - shift) // 2 - 1
    return _round(False, root << 1 | (root * root != scaled), exponent, width, rm)


def _order(bits: int, fmt: Format) -> int:
    """An integer that orders as the number does; both zeros give 0."""
    magnitude = bits & ~fmt.sign
    return -magnitude if bits & fmt.sign else magnitude


def eq(a: int, b: int, width: int) -> Result:
    """a == b, quiet: only a signalling NaN raises NV."""
    fmt = _format(width)
    if fmt.is_nan(a) or fmt.is_nan(b):
        return 0, fmt.invalid(a, b)
    return int(_order(a, fmt) == _order(b, fmt)), 0


def lt(a: int, b: int, width: int) -> Result:
    """a < b, signalling: any NaN raises NV."""
    fmt = _format(width)
    if fmt.is_nan(a) or fmt.is_nan(b):
        return 0, NV
    return int(_order(a, fmt) < _order(b, fmt)), 0


def le(a: int, b: int, width: int) -> Result:
    """a <= b, signalling: any NaN raises NV."""
    fmt = _format(width)
    if fmt.is_nan(a) or fmt.is_nan(b):
        return 0, NV
    return int(_order(a, fmt) <= _order(b, fmt)), 0


def _extreme(a: int, b: int, width: int, largest: bool) -> Result:
    fmt = _format(width)
    flags = fmt.invalid(a, b)
    if fmt.is_nan(a):
        return (fmt.nan if fmt.is_nan(b) else b), flags
    if fmt.is_nan(b):
        return a, flags
    # Second in the key: -0 is below +0.
    key_a, key_b = ((_order(bits, fmt), not bits & fmt.sign) for bits in (a, b))
    return (a if (key_a > key_b) == largest else b), flags


def minimum(a: int, b: int, width: int) -> Result:
    """IEEE 754-2019 minimumNumber: -0 below +0; one NaN is ignored, though NV is raised if it is
    a signalling one."""
    return _extreme(a, b, width, largest=False)


def maximum(a: int, b: int, width: int) -> Result:
    """IEEE 754-2019 maximumNumber."""
    return _extreme(a, b, width, largest=True)


def to_int(a: int, width: int, int_width: int, signed: bool, rm: int) -> Result:
    """Round to an integer of `int_width` bits, given as an unsigned pattern. What does not fit
    after rounding saturates and raises NV alone; NaN gives the largest (Unpriv. 20.7)."""
    fmt = _format(width)
    _check_mode(rm)
    lowest, highest = -(1 << int_width - 1), (1 << int_width - 1) - 1
    if not signed:
        lowest, highest = 0, (1 << int_width) - 1
    if fmt.is_nan(a):
        return highest, NV
    # An infinity reads as 2**128 or 2**1024 here, out of range of every integer there is.
    negative, significand, exponent = fmt.finite(a)
    value, inexact = _shift_right(significand, -exponent, negative, rm)
    value = -value if negative else value
    if not lowest <= value <= highest:
        value, flags = (lowest if negative else highest), NV
    else:
        flags = NX * inexact
    return value & (1 << int_width) - 1, flags


def from_int(value: int, int_width: int, signed: bool, width: int, rm: int) -> Result:
    """Convert an integer, given as a pattern of `int_width` bits, to a float."""
    value &= (1 << int_width) - 1
    if signed and value >> int_width - 1:
        value -= 1 << int_width
    return _round(value < 0, abs(value), 0, width, rm)


def convert(a: int, from_width: int, to_width: int, rm: int) -> Result:
    """Convert between formats."""
    source, target = _format(from_width), _format(to_width)
    _check_mode(rm)
    if source.is_nan(a):
        return target.nan, source.invalid(a)
    negative, significand, exponent = source.finite(a)
    if a & ~source.sign == source.infinity:
        return target.infinity | (target.sign if negative else 0), 0
    return _round(negative, significand, exponent, to_width, rm)
