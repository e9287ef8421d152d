"""Rules of `softfloat` that a reader can check by hand, and its errors."""

from __future__ import annotations

import math
import struct

import pytest

from hartwood.bits import softfloat
from hartwood.bits.softfloat import DZ, NV, NX, OF, RDN, RMM, RNE, RTZ, RUP, UF, FloatError
from hartwood.errors import Error

INF, NAN = 0x7FF0 << 48, 0x7FF8 << 48
SIGNALLING = INF + 1
SIGN = 1 << 63
HUGE = INF - 1


def d(value: float) -> int:
    return int.from_bytes(struct.pack("<d", value), "little")


def test_plain_arithmetic_agrees_with_python() -> None:
    values = [0.1, -2.5, 3e300, 7e-310, 1 / 3, -12345.678]
    for a in values:
        assert softfloat.sqrt(d(abs(a)), 64, RNE)[0] == d(math.sqrt(abs(a)))
        for b in values:
            assert softfloat.add(d(a), d(b), 64, RNE)[0] == d(a + b)
            assert softfloat.sub(d(a), d(b), 64, RNE)[0] == d(a - b)
            assert softfloat.mul(d(a), d(b), 64, RNE)[0] == d(a * b)
            assert softfloat.div(d(a), d(b), 64, RNE)[0] == d(a / b)


@pytest.mark.parametrize(
    ("rm", "positive", "negative"),
    [(RNE, 2, -2), (RTZ, 2, -2), (RDN, 2, -3), (RUP, 3, -2), (RMM, 3, -3)],
)
def test_a_tie_in_every_mode(rm: int, positive: int, negative: int) -> None:
    assert softfloat.to_int(d(2.5), 64, 32, True, rm) == (positive, NX)
    assert softfloat.to_int(d(-2.5), 64, 32, True, rm) == (negative % 2**32, NX)


@pytest.mark.parametrize(
    ("rm", "positive", "negative"),
    [(RNE, INF, INF), (RTZ, HUGE, HUGE), (RDN, HUGE, INF), (RUP, INF, HUGE), (RMM, INF, INF)],
)
def test_overflow_stops_where_the_mode_says(rm: int, positive: int, negative: int) -> None:
    assert softfloat.add(HUGE, HUGE, 64, rm) == (positive, OF | NX)
    assert softfloat.add(SIGN | HUGE, SIGN | HUGE, 64, rm) == (SIGN | negative, OF | NX)


def test_tininess_is_detected_after_rounding() -> None:
    normal = 1 << 52  # 2**-1022, the smallest normal number
    # 2**-1022 * (1 - 2**-53) fits 53 bits below the normal range: tiny, though it rounds up.
    assert softfloat.mul(normal, d(1.0) - 1, 64, RNE) == (normal, NX | UF)
    # (2**-1022 - 2**-1074) * (1 + 2**-52) does not, and rounds to 2**-1022 at full precision.
    assert softfloat.mul(normal - 1, d(1.0) + 1, 64, RNE) == (normal, NX)
    # Neither does 2**-1022 * (1 - 2**-53 + 2**-105), where the mode decides.
    almost = SIGN | normal - 1, d(2.0**-53), normal
    assert softfloat.fma(*almost, 64, RUP) == (normal, NX)
    assert softfloat.fma(*almost, 64, RNE) == (normal, NX | UF)


def test_a_subnormal_that_is_exact_does_not_underflow() -> None:
    assert softfloat.mul(1 << 52, d(0.5), 64, RNE) == (1 << 51, 0)
    assert softfloat.sub((1 << 52) + 1, 1 << 52, 64, RNE) == (1, 0)


def test_invalid_operations_give_the_canonical_nan() -> None:
    assert softfloat.add(INF, INF | SIGN, 64, RNE) == (NAN, NV)
    assert softfloat.sub(INF, INF, 64, RNE) == (NAN, NV)
    assert softfloat.mul(INF, 0, 64, RNE) == (NAN, NV)
    assert softfloat.div(0, SIGN, 64, RNE) == (NAN, NV)
    assert softfloat.div(INF, INF, 64, RNE) == (NAN, NV)
    assert softfloat.sqrt(d(-1.0), 64, RNE) == (NAN, NV)
    assert softfloat.fma(INF, d(1.0), INF | SIGN, 64, RNE) == (NAN, NV)


def test_nans_lose_their_payload_and_sign() -> None:
    odd = NAN | SIGN | 12345
    for quiet, flags in ((odd, 0), (SIGNALLING, NV)):
        assert softfloat.add(quiet, d(1.0), 64, RNE) == (NAN, flags)
        assert softfloat.mul(d(1.0), quiet, 64, RNE) == (NAN, flags)
        assert softfloat.sqrt(quiet, 64, RNE) == (NAN, flags)
        assert softfloat.convert(quiet, 64, 32, RNE) == (0x7FC0_0000, flags)


def test_fused_infinity_times_zero_is_invalid_even_beside_a_quiet_nan() -> None:
    assert softfloat.fma(INF, 0, NAN, 64, RNE) == (NAN, NV)
    assert softfloat.fma(SIGN, INF, NAN, 64, RNE) == (NAN, NV)
    assert softfloat.fma(d(1.0), 0, NAN, 64, RNE) == (NAN, 0)


def test_division_by_zero() -> None:
    assert softfloat.div(d(1.0), SIGN, 64, RNE) == (INF | SIGN, DZ)
    assert softfloat.div(INF, 0, 64, RNE) == (INF, 0)


def test_an_exact_zero_sum_is_negative_only_rounding_down() -> None:
    for rm in (RNE, RTZ, RUP, RMM):
        assert softfloat.sub(d(1.5), d(1.5), 64, rm) == (0, 0)
    assert softfloat.sub(d(1.5), d(1.5), 64, RDN) == (SIGN, 0)
    assert softfloat.add(SIGN, SIGN, 64, RNE) == (SIGN, 0)
    assert softfloat.fma(d(2.0), d(3.0), d(-6.0), 64, RDN) == (SIGN, 0)


def test_comparisons() -> None:
    assert softfloat.eq(0, SIGN, 64) == (1, 0)
    assert softfloat.lt(SIGN, 0, 64) == (0, 0)
    assert softfloat.le(d(-1.0), d(1.0), 64) == (1, 0)
    assert softfloat.eq(NAN, NAN, 64) == (0, 0)
    assert softfloat.eq(SIGNALLING, d(1.0), 64) == (0, NV)
    assert softfloat.lt(NAN, d(1.0), 64) == (0, NV)
    assert softfloat.le(d(1.0), NAN, 64) == (0, NV)


def test_minimum_and_maximum() -> None:
    assert softfloat.minimum(0, SIGN, 64) == softfloat.minimum(SIGN, 0, 64) == (SIGN, 0)
    assert softfloat.maximum(0, SIGN, 64) == softfloat.maximum(SIGN, 0, 64) == (0, 0)
    assert softfloat.minimum(NAN, d(1.0), 64) == softfloat.maximum(d(1.0), NAN, 64) == (d(1.0), 0)
    assert softfloat.minimum(SIGNALLING, d(1.0), 64) == (d(1.0), NV)
    assert softfloat.maximum(NAN | 1, NAN | SIGN, 64) == (NAN, 0)


@pytest.mark.parametrize(
    ("value", "width", "signed", "expected"),
    [
        (3e9, 32, True, (2**31 - 1, NV)),
        (-3e9, 32, True, (2**31, NV)),
        (2.0**32, 32, False, (2**32 - 1, NV)),
        (-1.0, 32, False, (0, NV)),
        (-0.5, 64, False, (0, NX)),
        (1e30, 64, True, (2**63 - 1, NV)),
        (-(2.0**63), 64, True, (2**63, 0)),
        (2.0**63, 64, False, (2**63, 0)),
        (math.inf, 64, False, (2**64 - 1, NV)),
        (-math.inf, 64, True, (2**63, NV)),
        (math.nan, 64, True, (2**63 - 1, NV)),
        (-math.nan, 32, False, (2**32 - 1, NV)),
    ],
)
def test_conversion_to_integers_saturates(
    value: float, width: int, signed: bool, expected: tuple[int, int]
) -> None:
    assert softfloat.to_int(d(value), 64, width, signed, RTZ) == expected


def test_conversion_from_integers() -> None:
    assert softfloat.from_int(-1, 32, True, 64, RNE) == (d(-1.0), 0)
    assert softfloat.from_int(2**32 - 1, 32, True, 64, RNE) == (d(-1.0), 0)
    assert softfloat.from_int(2**64 - 1, 64, False, 64, RTZ) == (d(2.0**64) - 1, NX)
    assert softfloat.from_int(2**24 + 1, 64, True, 32, RUP) == (0x4B80_0001, NX)


def test_conversion_between_formats() -> None:
    assert softfloat.convert(1, 32, 64, RNE) == (d(2.0**-149), 0)
    assert softfloat.convert(d(1e-50), 64, 32, RUP) == (1, UF | NX)
    assert softfloat.convert(d(1e50), 64, 32, RTZ) == (0x7F7F_FFFF, OF | NX)
    assert softfloat.convert(SIGN | INF, 64, 32, RNE) == (0xFF80_0000, 0)


def test_a_width_or_mode_that_does_not_exist_is_named() -> None:
    assert issubclass(FloatError, Error)
    with pytest.raises(FloatError, match="no floating-point format of 16 bits"):
        softfloat.add(0, 0, 16, RNE)
    for call in (
        lambda: softfloat.add(NAN, 0, 64, 7),
        lambda: softfloat.mul(0, 0, 64, -1),
        lambda: softfloat.div(0, 0, 64, 5),
        lambda: softfloat.sqrt(0, 64, 6),
        lambda: softfloat.fma(INF, 0, 0, 64, 5),
        lambda: softfloat.to_int(NAN, 64, 32, True, 5),
        lambda: softfloat.from_int(0, 64, True, 64, 5),
        lambda: softfloat.convert(NAN, 64, 32, 5),
    ):
        with pytest.raises(FloatError, match="no rounding mode"):
            call()
