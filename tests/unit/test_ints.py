"""The pure words over Python ints: each against plain arithmetic, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.bits.ints import Int, IntHart, State, Trap, amo_result
from hartwood.errors import LawError
from unit.test_golden import Sparse

WIDTHS = (1, 8, 16, 32, 64, 128)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, int, int]:
    """A width and two signed numbers of it, often at its ends."""
    width = draw(st.sampled_from(WIDTHS))
    low, high = -(1 << width - 1), (1 << width - 1) - 1
    numbers = st.integers(low, high) | st.sampled_from([low, high, 0, -1])
    return width, draw(numbers), draw(numbers)


def signed(value: int, width: int) -> int:
    value %= 1 << width
    return value - (1 << width) if value >> width - 1 else value


@given(pairs())
def test_arithmetic_wraps(case: tuple[int, int, int]) -> None:
    width, a, b = case
    x, y, top = Int(a, width), Int(b, width), 1 << width
    assert (x + y).value == (x + b).value == (a + x - a + b).value == (a + b) % top
    assert (x - y).value == (a - y).value == (a - b) % top
    assert (x * y).value == a * b % top
    assert (-x).value == -a % top
    assert (~x).signed == -a - 1
    assert (x & y).signed == (a & y).signed == a & b
    assert (x | y).signed == (a | y).signed == a | b
    assert (x ^ y).signed == (a ^ y).signed == a ^ b


@given(pairs())
def test_comparisons_are_one_bit(case: tuple[int, int, int]) -> None:
    width, a, b = case
    x, y = Int(a, width), Int(b, width)
    assert [(x == y).value, (x != b).value] == [a == b, a != b]
    assert x.lt_s(y).value == (a < b)
    assert x.lt_u(y).value == (a % (1 << width) < b % (1 << width))
    assert (x == y).width == x.lt_s(y).width == 1


@given(pairs())
def test_division_is_toward_zero_and_guarded(case: tuple[int, int, int]) -> None:
    width, a, b = case
    x, y = Int(a, width), Int(b, width)
    if b == 0:
        for word in (x.div_s, x.rem_s, x.div_u, x.rem_u):
            with pytest.raises(LawError, match="division by zero is undefined"):
                word(y)
        return
    assert (x.div_u(y) * y + x.rem_u(y)).value == x.value
    assert x.rem_u(y).value < y.value
    if b == -1 and a == -(1 << width - 1):
        with pytest.raises(LawError, match="INT_MIN / -1"):
            x.div_s(y)
        return
    quotient, remainder = x.div_s(y).signed, x.rem_s(y).signed
    assert quotient * b + remainder == a
    assert abs(remainder) < abs(b)
    assert remainder == 0 or (remainder < 0) == (a < 0)


@given(pairs())
def test_high_halves_complete_the_product(case: tuple[int, int, int]) -> None:
    width, a, b = case
    x, y, low = Int(a, width), Int(b, width), a * b % (1 << width)
    assert (x.mulh_s(y).signed << width) + low == a * b
    assert (x.mulh_u(y).value << width) + low == x.value * y.value
    assert (x.mulh_su(y).signed << width) + x.value * y.value % (1 << width) == a * y.value


@given(pairs())
def test_shifts_take_the_amount_modulo_the_width(case: tuple[int, int, int]) -> None:
    width, a, b = case
    x, count = Int(a, width), b % (1 << width) % width
    assert x.shl(b).value == (a << count) % (1 << width)
    assert x.shr_u(Int(b, width)).value == x.value >> count
    assert x.shr_s(b).signed == a >> count
    digits = f"{x.value:0{width}b}"
    assert f"{x.rotl(b).value:0{width}b}" == digits[count:] + digits[:count]
    assert x.rotr(b).rotl(b).value == x.value


@given(pairs())
def test_widths_change_and_bits_are_counted(case: tuple[int, int, int]) -> None:
    width, a, _ = case
    x = Int(a, width)
    digits = f"{x.value:0{width}b}"
    assert x.clz().value == (digits.index("1") if a else width) % (1 << width)
    assert x.ctz().value == (digits[::-1].index("1") if a else width) % (1 << width)
    assert x.popcount().value == digits.count("1") % (1 << width)
    assert (x.sext(128).signed, x.zext(128).value) == (a, x.value)
    assert x.sext(128).trunc(width).value == x.value
    if width >= 8:
        assert x.bswap().value.to_bytes(width // 8, "big") == x.value.to_bytes(width // 8, "little")


@pytest.mark.parametrize(
    "use",
    [
        bool,
        lambda x: x < 1,
        lambda x: x >= x,
        lambda x: x >> 1,
        lambda x: x << 1,
        lambda x: x / 2,
        lambda x: x // 2,
        lambda x: x % 2,
        lambda x: x + Int(1, 32),
        lambda x: x + "1",
        lambda x: x == None,  # noqa: E711 - that is the comparison under test
        lambda x: x.trunc(128),
        lambda x: x.zext(8),
        lambda x: x.sext(8),
    ],
)
def test_what_would_hide_a_choice_is_refused(use) -> None:
    with pytest.raises(LawError):
        use(Int(5, 64))


def test_values_print_their_width() -> None:
    assert repr(Int(-1, 8)) == "Int(0xff, 8)"


@given(pairs(), st.sampled_from([4, 8]))
def test_atomic_results(case: tuple[int, int, int], size: int) -> None:
    _, a, b = case
    width = 8 * size
    m, v = a % (1 << width), b % (1 << width)
    expected = {
        "swap": v,
        "add": m + v,
        "and": m & v,
        "or": m | v,
        "xor": m ^ v,
        "min": min(signed(m, width), signed(v, width)),
        "max": max(signed(m, width), signed(v, width)),
        "minu": min(m, v),
        "maxu": max(m, v),
    }
    for op, result in expected.items():
        assert amo_result(op, m, v, size) == result % (1 << width), op


def test_a_hart_keeps_x0_zero_and_boxes_singles() -> None:
    state = State()
    hart = IntHart(state, Sparse({}))
    hart.x[0] = 7
    assert state.x[0] == 0
    hart.f32[1] = 0x3F80_0000
    assert state.f[1] == 0xFFFF_FFFF_3F80_0000
    state.f[2] = 0x0000_0000_3F80_0000
    values = [hart.f32[1], hart.f32[2], hart.f64[2]]
    assert [value.value for value in values] == [0x3F80_0000, 0x7FC0_0000, 0x3F80_0000]  # type: ignore[attr-defined]
    with pytest.raises(LawError, match="not an operand field"):
        hart.x[Int(1, 64)]


def test_selects_agree_on_a_width() -> None:
    hart = IntHart(State(), Sparse({}))
    assert hart.select(Int(1, 1), Int(5, 8), -1).value == 5
    assert (hart.select(0, Int(5, 8), -1).value, hart.select(0, 1, 2).width) == (255, 64)
    with pytest.raises(LawError, match="meet in one select"):
        hart.select(1, Int(5, 8), Int(5, 16))


def test_traps_say_cause_and_value() -> None:
    hart = IntHart(State(), Sparse({}))
    with pytest.raises(Trap) as caught:
        hart.trap_if(Int(1, 1), 5, Int(0x123, 64))
    assert (caught.value.cause, caught.value.tval) == (5, 0x123)
    hart.trap_if(Int(0, 1), 5)
    with pytest.raises(Trap, match="cause 2"):
        hart.csr_update(0x7FF, "write", 0, 1)
    hart.frm = 5
    with pytest.raises(Trap, match="cause 2"):
        hart.fadd(Int(0, 64), Int(0, 64), 7)
