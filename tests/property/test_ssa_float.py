"""The host's FPU against `softfloat`: the text of every operation, compiled and run, must give the
same bits and the same flags, in every rounding mode, whatever flags were there before.
"""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hartwood.bits import softfloat
from hartwood.bits.softfloat import RDN, RMM, RNE, RTZ, RUP
from hartwood.bits.ssa import Text
from hartwood.bits.ssa_float import DYN, KIND, NotOnHost
from property.float_cases import (
    EDGES,
    OPERATIONS,
    SPECIALS,
    Operation,
    RandomDraw,
    cases,
    float_operand,
    operands,
)
from property.host_floats import (
    Compiled,
    begin,
    call,
    emit,
    end,
    function_text,
    operand,
    operation_text,
    result_kind,
    store,
)

SOAK = 50 if os.environ.get("HARTWOOD_SOAK") else 1
FRM = (RNE, RTZ, RDN, RUP)
CHAINED = ("add", "sub", "mul", "div", "sqrt", "fma", "minimum", "maximum")


def _translatable() -> Iterator[tuple[int, int, str]]:
    for number, operation in enumerate(OPERATIONS):
        for rm in (*FRM, RMM, DYN):
            try:
                yield number, rm, operation_text(f"op{number}_{rm}", operation, rm)
            except NotOnHost:
                assert rm == RMM


TEXTS = {(number, rm): text for number, rm, text in _translatable()}


@pytest.fixture(scope="module", params=[2, 0], ids=["optimised", "unoptimised"])
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled(list(TEXTS.values()), level=request.param)


def check(
    compiled: Compiled, number: int, rm: int, values: Sequence[int], frm: int, before: int
) -> None:
    operation = OPERATIONS[number]
    result, flags = operation.run(values, frm if rm == DYN else rm)
    frame, got = call(compiled.function(f"op{number}_{rm}"), values, before, frm)
    assert (frame[3] & (1 << operation.result_width) - 1, got) == (result, flags | before), (
        f"{operation.name}{operation.width} rm={rm} frm={frm} {[hex(v) for v in values]}"
    )


def test_only_ties_away_from_zero_are_left_to_the_reference() -> None:
    left = {OPERATIONS[number].name for number in range(len(OPERATIONS))}
    left -= {OPERATIONS[number].name for number, rm in TEXTS if rm == RMM}
    assert left == {"add", "sub", "mul", "div", "sqrt", "fma", "from_int64s", "from_int64u"}
    narrowing = [number for number, o in enumerate(OPERATIONS) if o.result_width == 32]
    left = {OPERATIONS[number].name for number in narrowing if (number, RMM) not in TEXTS}
    assert {"convert", "from_int32s", "from_int32u"} < left


def test_no_operation_is_a_call(compiled: Compiled) -> None:
    assert "vaddsd" in compiled.assembly
    assert not re.findall(r"^\s*(?:call|jmp)q?\s+[^.\s].*$", compiled.assembly, re.M)


EACH = pytest.mark.parametrize(
    ("number", "rm"),
    TEXTS,
    ids=[f"{OPERATIONS[n].name}-{OPERATIONS[n].result_width}-{rm}" for n, rm in TEXTS],
)


@EACH
def test_random_operands(compiled: Compiled, number: int, rm: int) -> None:
    rng = random.Random(8 * number + rm)
    draw = RandomDraw(rng)
    for _ in range(200 * SOAK):
        values = operands(draw, OPERATIONS[number])
        check(compiled, number, rm, values, rng.choice(FRM), rng.choice((0, 0, 31, 21, 10)))


@EACH
def test_edges(compiled: Compiled, number: int, rm: int) -> None:
    operation = OPERATIONS[number]
    rng = random.Random(8 * number + rm)
    values: list[tuple[int, ...]]
    if operation.takes_int or operation.operands == 1:
        values = [(edge,) for edge in EDGES[operation.width]]
    else:
        every = itertools.product(SPECIALS[operation.width], repeat=operation.operands)
        values = rng.sample(list(every), 256)
    for case in values:
        check(compiled, number, rm, case, rng.choice(FRM), 0)


@settings(max_examples=300 * SOAK, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_operation(compiled: Compiled, data: st.DataObject) -> None:
    number, rm = data.draw(st.sampled_from(sorted(TEXTS)))
    frm, values = data.draw(cases(OPERATIONS[number]))
    check(compiled, number, rm, values, frm % 4, data.draw(st.integers(0, 31)))


# Several operations in one function: nothing may move across what reads or sets the environment,
# and NaNs that are not canonical yet must not be seen.

Step = tuple[str, int, tuple[int, ...]]


def program(rng: random.Random, width: int) -> list[Step]:
    """Steps `(what, rm or constant, indices of earlier values)`; the values are at first the
    three operands, then what each arithmetic step gave."""
    by_name = {o.name: o for o in OPERATIONS if o.width == width and o.name in CHAINED}
    steps: list[Step] = []
    count = 3
    for _ in range(10):
        what = rng.choice((*CHAINED, "flags", "clear", "mode", "add", "mul", "fma"))
        if what in CHAINED:
            used = tuple(rng.randrange(count) for _ in range(by_name[what].operands))
            steps.append((what, rng.choice((*FRM, DYN, DYN, DYN, DYN)), used))
            count += 1
        else:
            steps.append((what, rng.randrange(32 if what == "clear" else 4), ()))
    return steps


def program_text(name: str, steps: Sequence[Step], width: int, outlined: bool) -> str:
    text, kind = Text(), KIND[width]
    values = [operand(text, i, kind) for i in range(3)]
    host = begin(text, outlined)
    seen = "0"
    for what, number, used in steps:
        if what == "flags":
            shifted = text.value(f"shl i64 {seen}, 5")
            seen = text.value(f"or i64 {shifted}, {host.read_flags()}")
        elif what == "clear":
            host.write_flags(str(number))
        elif what == "mode":
            host.write_mode(str(number))
            store(text, "i64", str(number), 8)
        else:
            arguments = [values[i] for i in used]
            more = (number,) if what not in ("minimum", "maximum") else ()
            raw = {"raw": True} if what in ("add", "sub", "mul", "div", "sqrt") else {}
            values.append(getattr(host, what)(*arguments, width, *more, **raw))
    last = host.canonical(values[-1], width)
    end(text)
    store(text, kind, last)
    store(text, "i64", seen, 0)
    return function_text(name, text)


def program_reference(
    steps: Sequence[Step], operands: Sequence[int], width: int, frm: int
) -> tuple[int, int, int]:
    by_name = {o.name: o for o in OPERATIONS if o.width == width}
    values, sticky, seen = list(operands), 0, 0
    for what, number, used in steps:
        if what == "flags":
            seen = (seen << 5 | sticky) % 2**64
        elif what == "clear":
            sticky = number
        elif what == "mode":
            frm = number
        else:
            rm = frm if number == DYN else number
            result, flags = by_name[what].run([values[i] for i in used], rm)
            values.append(result)
            sticky |= flags
    last = values[-1]
    if softfloat.FORMATS[width].is_nan(last):  # an operand that nothing was done to
        last = softfloat.FORMATS[width].nan
    return last, seen, sticky


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("seed", range(3 * SOAK))
def test_programs(width: int, seed: int) -> None:
    rng = random.Random(seed)
    draw = RandomDraw(rng)
    programs = [program(rng, width) for _ in range(15)]
    texts = [program_text(f"p{i}", p, width, bool(i % 2)) for i, p in enumerate(programs)]
    compiled = Compiled(texts)
    for index, steps in enumerate(programs):
        function = compiled.function(f"p{index}")
        for _ in range(40):
            values = [float_operand(draw, width) for _ in range(3)]
            frm = rng.choice(FRM)
            frame, flags = call(function, values, 0, frm, keep_mode=False)
            got = frame[3] & (1 << width) - 1, frame[0], flags
            assert got == program_reference(steps, values, width, frm), (steps, values, frm)


# Operands that LLVM knows, and must not compute with: it does not know the rounding mode.


def literal(bits: int, width: int) -> str:
    """A pattern as an LLVM constant, which spells a float as a double of the same value."""
    if width == 32:
        narrow, wide = softfloat.FORMATS[32], softfloat.FORMATS[64]
        if narrow.is_nan(bits):
            payload = bits & (1 << narrow.fraction) - 1
            sign = wide.sign if bits & narrow.sign else 0
            bits = sign | wide.infinity | payload << wide.fraction - narrow.fraction
        else:
            bits, _ = softfloat.convert(bits, 32, 64, RNE)
    return f"0x{bits:016X}"


@pytest.mark.parametrize("width", [32, 64])
def test_constant_operands(width: int) -> None:
    rng = random.Random(width)
    one, three = (softfloat.from_int(n, 32, True, width, RNE)[0] for n in (1, 3))
    third, _ = softfloat.div(one, three, width, RNE)
    constants = [*SPECIALS[width], third, third | softfloat.FORMATS[width].sign]
    chosen: list[tuple[Operation, list[int | None]]] = []
    for operation in OPERATIONS:
        if operation.width != width or operation.takes_int:
            continue
        for bits in constants:
            values: list[int | None] = [rng.choice(constants) for _ in range(operation.operands)]
            values[rng.randrange(operation.operands)] = bits
            chosen.append((operation, values))
            if operation.operands > 1:
                chosen.append((operation, [None, *values[1:]]))
                chosen.append((operation, [*values[:-1], None]))
                chosen.append((operation, [bits] * operation.operands))
    texts = []
    for index, (operation, known) in enumerate(chosen):
        text = Text()
        loaded = [operand(text, i, KIND[width]) for i in range(3)]
        host = begin(text)
        used = [loaded[i] if bits is None else literal(bits, width) for i, bits in enumerate(known)]
        result = emit(host, operation, DYN, used)
        end(text)
        store(text, result_kind(operation), result)
        texts.append(function_text(f"c{index}", text))
    compiled = Compiled(texts)
    for index, (operation, known) in enumerate(chosen):
        function = compiled.function(f"c{index}")
        for frm in FRM:
            given_now = [rng.choice(constants) if bits is None else bits for bits in known]
            frame, flags = call(function, given_now, 0, frm)
            got = frame[3] & (1 << operation.result_width) - 1, flags
            assert got == operation.run(given_now, frm), (operation.name, known, given_now, frm)


@pytest.mark.parametrize("width", [32, 64])
def test_rare_work_out_of_line(width: int) -> None:
    number = next(n for n, o in enumerate(OPERATIONS) if o.name == "fma" and o.width == width)
    text = operation_text(f"op{number}_{DYN}", OPERATIONS[number], DYN, outlined=True)
    compiled = Compiled([text])
    assert "fused_nan" in compiled.assembly
    for values in itertools.product(SPECIALS[width], repeat=3):
        check(compiled, number, DYN, values, RNE, 0)


# The environment, and boxes.


@pytest.fixture(scope="module")
def environment() -> Compiled:
    functions = []
    for name in ("read", "write", "mode", "box", "unbox"):
        text = Text()
        value = operand(text, 0, "i64")
        double, single = operand(text, 0, "double"), operand(text, 0, "float")
        host = begin(text)
        if name == "read":
            value = host.read_flags()
        elif name == "write":
            host.write_flags(value)
        elif name == "mode":
            host.write_mode(value)
        elif name == "box":
            value = text.value(f"bitcast double {host.box(single)} to i64")
        else:
            low = text.value(f"bitcast float {host.unbox(double)} to i32")
            value = text.value(f"zext i32 {low} to i64")
        end(text)
        store(text, "i64", value)
        functions.append(function_text(name, text))
    return Compiled(functions)


def test_flags_are_read_and_written(environment: Compiled) -> None:
    read, write = environment.function("read"), environment.function("write")
    for before in range(32):
        frame, flags = call(read, [0], before, RUP)
        assert frame[3] == flags == before
        for value in (*range(32), 0xFFE0, 2**64 - 1):
            _, flags = call(write, [value], before, RDN)
            assert flags == value & 31


def test_modes_are_written(environment: Compiled) -> None:
    mode = environment.function("mode")
    add = Compiled([TEXTS[20, DYN]]).function(f"op20_{DYN}")
    third = 0x3FD5_5555_5555_5555
    for before in FRM:
        for frm in range(8):
            frame, flags = call(mode, [frm], 9, before, keep_mode=False)
            assert flags == 9
            assert frame[5] >> 13 & 3 == {RTZ: 3, RDN: 1, RUP: 2}.get(frm, 0)
    for frm in FRM:  # what the numbers above mean
        frame, _ = call(add, [third, 1], 0, frm)
        assert frame[3] == softfloat.add(third, 1, 64, frm)[0]


def test_boxes(environment: Compiled) -> None:
    box, unbox = environment.function("box"), environment.function("unbox")
    for low in (0, 1, 0x3F80_0000, 0x7F80_0001, 0xFFFF_FFFF, 0x7FC0_0000):
        boxed = 0xFFFF_FFFF_0000_0000 | low
        assert call(box, [low], 0, RNE)[0][3] == boxed
        assert call(unbox, [boxed], 0, RNE)[0][3] == low
        for spoilt in (low, boxed ^ 1 << 32, boxed ^ 1 << 63):
            assert call(unbox, [spoilt], 0, RNE)[0][3] == 0x7FC0_0000


def test_operations_are_told_apart() -> None:
    names = [(o.name, o.width, o.result_width) for o in OPERATIONS]
    assert len(set(names)) == len(names) == 40
    assert all(isinstance(o, Operation) for o in OPERATIONS)
