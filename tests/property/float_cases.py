"""Floating-point cases that hurt: the operations, and operands near every boundary there is.

Shared by the tests of `softfloat` (against an outside oracle) and of `ssa_float` (against
`softfloat`). Operands are patterns; drawing is done through `Draw`, so that the same generators
serve a seeded `random.Random` (thousands of cases) and hypothesis (which shrinks).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st

from hartwood.bits import softfloat
from hartwood.bits.softfloat import FORMATS, Result

T = TypeVar("T")
MODES = range(5)


class Operation(NamedTuple):
    """One instruction: how the reference does it and what its operands are."""

    name: str
    #: Bits of each operand and of the result; operands that are integers, not floats.
    width: int
    result_width: int
    takes_int: bool
    operands: int
    run: Callable[[Sequence[int], int], Result]


def _operations(width: int) -> list[Operation]:
    other = 96 - width
    table: list[Operation] = []

    def row(
        name: str,
        function: Callable[..., Result],
        operands: int,
        result: int,
        *more: int,
        source: int = width,
        rounds: bool = True,
    ) -> None:
        def run(values: Sequence[int], rm: int) -> Result:
            return function(*values[:operands], *more, *((rm,) if rounds else ()))

        takes_int = name.startswith("from_int")
        table.append(Operation(name, source, result, takes_int, operands, run))

    for function in (softfloat.add, softfloat.sub, softfloat.mul, softfloat.div):
        row(function.__name__, function, 2, width, width)
    row("sqrt", softfloat.sqrt, 1, width, width)
    row("fma", softfloat.fma, 3, width, width)
    for pick in (softfloat.minimum, softfloat.maximum):
        row(pick.__name__, pick, 2, width, width, rounds=False)
    for compare in (softfloat.eq, softfloat.lt, softfloat.le):
        row(compare.__name__, compare, 2, 1, width, rounds=False)
    kinds = [(size, signed) for size in (32, 64) for signed in (True, False)]
    for n, signed in kinds:
        row(f"to_int{n}{'us'[signed]}", softfloat.to_int, 1, n, width, n, signed)
    for n, signed in kinds:
        row(f"from_int{n}{'us'[signed]}", softfloat.from_int, 1, width, n, signed, width, source=n)
    row("convert", softfloat.convert, 1, width, other, width, source=other)
    return table


#: Numbered as softfloat_oracle.c numbers them: the ones with a binary32 result or operand first;
#: a conversion between formats belongs to the one it gives.
OPERATIONS = [*_operations(32), *_operations(64)]


def _edges(width: int) -> list[int]:
    fmt = FORMATS[width]
    one = (1 << fmt.fraction) * ((1 << width - fmt.fraction - 2) - 1)
    normal = 1 << fmt.fraction
    edges = {0, 1, 2, normal - 1, normal, normal + 1, fmt.infinity - 1, fmt.infinity}
    edges |= {fmt.nan, fmt.nan | 1, fmt.nan | normal - 1, fmt.infinity + 1, fmt.nan - 1}
    edges |= {one - 1, one, one + 1, one + normal // 2, one - normal, one + normal}
    for power in (7, 8, 23, 24, 31, 32, 52, 53, 63, 64):
        for value in (1 << power, (1 << power) - 1, (1 << power) + 1):
            bits, _ = softfloat.from_int(value, 128, True, width, softfloat.RTZ)
            edges |= {bits - 1, bits, bits + 1}
            # The halves beside an integer: ties, where the format still has them.
            for half in (2 * value - 1, 2 * value + 1):
                bits, _ = softfloat.from_int(half, 128, True, width, softfloat.RTZ)
                edges.add(bits - normal)
    # Products and quotients of these land on both sides of the underflow threshold.
    for exponent in (1, 2, 23, 52, 53, 54):
        edges |= {one >> 1 | exponent << fmt.fraction, (one >> 1 | exponent << fmt.fraction) - 1}
    return sorted(edges | {bits | fmt.sign for bits in edges})


def _specials(width: int) -> list[int]:
    """Few enough to try every triple: what the rules about signs, zeros and NaNs speak of."""
    fmt = FORMATS[width]
    one = (1 << fmt.fraction) * ((1 << width - fmt.fraction - 2) - 1)
    some = [0, 1, 1 << fmt.fraction, one, fmt.infinity - 1, fmt.infinity, fmt.infinity + 1]
    return [bits | sign for bits in [*some, fmt.nan, fmt.nan + 3] for sign in (0, fmt.sign)]


SPECIALS = {width: _specials(width) for width in (32, 64)}
EDGES = {width: _edges(width) for width in (32, 64)}
INT_EDGES = {
    width: sorted(
        {
            (base + delta) % (1 << width)
            for power in (0, 1, 8, 23, 24, 25, 31, 32, 40, 52, 53, 54, 62, 63, 64)
            for base in (1 << power, -(1 << power))
            for delta in (-1, 0, 1)
        }
    )
    for width in (32, 64)
}


class Draw:
    """Where the choices come from."""

    def number(self, low: int, high: int) -> int:
        raise NotImplementedError

    def choice(self, options: Sequence[T]) -> T:
        return options[self.number(0, len(options) - 1)]


class RandomDraw(Draw):
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def number(self, low: int, high: int) -> int:
        return self._rng.randint(low, high)


def bit_run(draw: Draw, width: int) -> int:
    """A number with few changes between zeros and ones: what makes ties and carries."""
    low, high = sorted((draw.number(0, width), draw.number(0, width)))
    return (1 << high) - (1 << low) ^ (1 << draw.number(0, width) >> 1)


def float_operand(draw: Draw, width: int) -> int:
    """One pattern: an edge, a structured one, or any."""
    fmt = FORMATS[width]
    kind = draw.number(0, 7)
    if kind <= 1:
        return draw.choice(EDGES[width])
    if kind == 2:
        return draw.number(0, (1 << width) - 1)
    fraction = bit_run(draw, fmt.fraction) if kind & 1 else draw.number(0, (1 << fmt.fraction) - 1)
    bias = (1 << width - fmt.fraction - 2) - 1
    top = 2 * bias + 1
    narrow = (bias - 149, bias - 126, bias + 127)  # binary32 has its limits here
    middle = draw.choice((0, bias // 2, bias, bias + 31, bias + 63, 3 * bias // 2, top, *narrow))
    exponent = min(max(middle + draw.number(-3, 3), 0), top)
    if kind == 7:
        exponent = draw.number(0, top)
    sign = fmt.sign * draw.number(0, 1)
    return sign | exponent << fmt.fraction | fraction & (1 << fmt.fraction) - 1


def int_operand(draw: Draw, width: int) -> int:
    kind = draw.number(0, 3)
    if kind == 0:
        return draw.choice(INT_EDGES[width])
    if kind == 1:
        return draw.number(0, (1 << width) - 1) >> draw.number(0, width - 1)
    if kind == 2:
        return -(draw.number(0, (1 << width) - 1) >> draw.number(0, width - 1)) % (1 << width)
    return bit_run(draw, width) & (1 << width) - 1


def operands(draw: Draw, operation: Operation) -> tuple[int, ...]:
    """Three operands (unused ones too), often near each other so that they cancel."""
    width = operation.width
    if operation.takes_int:
        return int_operand(draw, width), 0, 0
    fmt = FORMATS[width]
    mask = (1 << width) - 1
    a, b, c = (float_operand(draw, width) for _ in range(3))
    relation = draw.number(0, 7)
    if relation == 0:
        b = (a ^ fmt.sign * draw.number(0, 1)) + draw.number(-2, 2) & mask
    elif relation == 1:
        b = a ^ draw.number(0, fmt.fraction + 2) << fmt.fraction
    elif relation == 2:
        # a * b or a / b on either side of the smallest normal number, by less than an ulp.
        partner = softfloat.mul if operation.name == "div" else softfloat.div
        b, _ = partner(1 << fmt.fraction, a, width, draw.number(0, 4))
        a, b = (b, a) if operation.name == "div" else (a, b)
        b = b + draw.number(-1, 1) & mask
    if operation.operands == 3 and draw.number(0, 1):
        product, _ = softfloat.mul(a, b, width, draw.number(0, 4))
        c = product ^ fmt.sign * draw.number(0, 3) & fmt.sign
        kind = draw.number(0, 2)
        if kind == 0:
            c = c + draw.number(-2, 2) & mask
        elif kind == 1:
            c ^= draw.number(0, fmt.fraction + 2) << fmt.fraction
        else:
            c = draw.number(0, 1)
    return a, b & mask, c & mask


@st.composite
def cases(draw: st.DrawFn, operation: Operation) -> tuple[int, tuple[int, ...]]:
    """`(rm, operands)` for hypothesis."""

    class HypothesisDraw(Draw):
        def number(self, low: int, high: int) -> int:
            return draw(st.integers(low, high))

    return draw(st.sampled_from(MODES)), operands(HypothesisDraw(), operation)
