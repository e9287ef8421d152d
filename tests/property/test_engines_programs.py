"""Random programs on every engine: each exception with all registers, flags and counts, and the
memory left behind, have to be the same, and the same as another emulator's."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from property.engines import Engines, Outcome, difference, listing, machine_of
from property.program_oracle import ProgramOracle, comparable
from property.programs import WEIGHTS, Piece, Start, draw_pieces, start_of, text_of

SOAK = bool(os.environ.get("HARTWOOD_SOAK"))
#: Each group of seeds is a test.
GROUPS = range(40 if SOAK else 2)
CALLS = WEIGHTS | {"call": 40, "function": 30, "wild": 30, "branch": 15}
FAULTY = WEIGHTS | {"fault": 14, "odd": 4, "wild": 8}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    yield from machine_of(tmp_path_factory)


def chosen(random: Random, start: Start, most: int) -> list[int]:
    """Where translation begins: at the beginning and a few other places, so that some transfers
    stay inside a region, some go to another one and some to code that is not translated."""
    return [
        start.pc,
        *random.sample(start.entries, min(random.randrange(most), len(start.entries))),
    ]


def smaller(pieces: Sequence[Piece], fails: Callable[[Sequence[Piece]], bool]) -> list[Piece]:
    """What remains of a failing program when every piece is left out that can be."""
    kept = list(pieces)
    step = max(len(kept) // 2, 1)
    while step:
        at = 0
        while at < len(kept):
            fewer = kept[:at] + kept[at + step :]
            if fails(fewer):
                kept = fewer
            else:
                at += step
        step //= 2
    return kept


def report(pieces: Sequence[Piece], seed: int, start: Start, ours: Outcome, theirs: Outcome) -> str:
    """A failing program and what is wrong with it."""
    lines = [f"start_of({list(pieces)!r}, {seed})", text_of(pieces), difference(ours, theirs)]
    for mine, other in zip(ours.moments, theirs.moments, strict=False):
        if mine != other:
            lines += [listing(start, mine.pc), "instead of", listing(start, other.pc)]
            break
    return "\n".join(lines)


def check(engines: Engines, pieces: Sequence[Piece], seed: int, *, shrink: bool = True) -> Outcome:
    """Compare the engines on one program."""

    def outcomes(of: Sequence[Piece]) -> tuple[Start, Outcome, list[Outcome]]:
        start, random = start_of(of, seed), Random(seed)
        entries = chosen(random, start, random.choice([4, 40]))
        level = random.choice([1, 2, 2])
        reference = engines.run(start, "reference")
        natives = [
            engines.run(start, "interp"),
            engines.run(start, "stitch"),
            engines.run(start, "jit", entries=entries, level=level),
        ]
        return start, reference, natives

    def fails(of: Sequence[Piece]) -> bool:
        _, reference, natives = outcomes(of)
        return any(native != reference for native in natives)

    start, reference, natives = outcomes(pieces)
    if any(native != reference for native in natives):
        if shrink:
            pieces = smaller(pieces, fails)
            start, reference, natives = outcomes(pieces)
        wrong = next(native for native in natives if native != reference)
        pytest.fail(report(pieces, seed, start, wrong, reference), pytrace=False)
    return reference


@pytest.mark.parametrize("group", GROUPS)
def test_programs(engines: Engines, group: int) -> None:
    total = translated = 0
    stops: Counter[str] = Counter()
    for number in range(60):
        random = Random(f"programs {group} {number}")
        pieces = draw_pieces(random, random.randint(5, 120))
        outcome = check(engines, pieces, random.getrandbits(32))
        total += outcome.moments[-1].instructions
        translated += engines.translated
        stops.update(moment.cause for moment in outcome.moments)
    # The sample has to be worth something: programs that run, and stop for several reasons.
    assert total > 15_000
    assert translated > total * 0.3
    assert stops["ebreak"] > 40
    assert len(stops) >= 3


@pytest.mark.parametrize("group", GROUPS)
def test_programs_full_of_faults(engines: Engines, group: int) -> None:
    """Faults in the middle of everything, with registers that only the host knows."""
    stops: Counter[str] = Counter()
    for number in range(40):
        random = Random(f"faults {group} {number}")
        pieces = draw_pieces(random, random.randint(5, 60), FAULTY)
        outcome = check(engines, pieces, random.getrandbits(32))
        stops.update(moment.cause for moment in outcome.moments)
    assert len(stops) >= 5
    assert stops["load"] + stops["store"] >= 20


@pytest.mark.parametrize("group", GROUPS)
def test_programs_full_of_calls(engines: Engines, group: int) -> None:
    """Calls, returns to where they came from and to elsewhere, jumps out of nested calls."""
    total = translated = 0
    for number in range(25):
        random = Random(f"calls {group} {number}")
        pieces = draw_pieces(random, random.randint(10, 60), CALLS)
        outcome = check(engines, pieces, random.getrandbits(32))
        total += outcome.moments[-1].instructions
        translated += engines.translated
    assert total > 5_000
    assert translated > total * 0.15


def test_long_programs(engines: Engines) -> None:
    """More code than one region takes, over several pages."""
    for number in range(20 if SOAK else 2):
        random = Random(f"long {number}")
        pieces = draw_pieces(random, 900)
        assert len(start_of(pieces, 0).areas[0].data) > 3 * 4096
        check(engines, pieces, random.getrandbits(32), shrink=SOAK)


@settings(
    max_examples=2000 if SOAK else 25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    pieces=st.lists(
        st.tuples(st.sampled_from(sorted(FAULTY)), st.integers(0, (1 << 48) - 1)), max_size=30
    ),
    seed=st.integers(0, (1 << 32) - 1),
)
def test_any_program(engines: Engines, pieces: list[Piece], seed: int) -> None:
    check(engines, pieces, seed, shrink=False)


@pytest.fixture(scope="module")
def emulator(
    tmp_path_factory: pytest.TempPathFactory, oracle: Callable[[str], str]
) -> ProgramOracle:
    return ProgramOracle(oracle, tmp_path_factory.mktemp("oracle"))


@pytest.mark.parametrize("weights", [WEIGHTS, FAULTY], ids=["plain", "faulty"])
def test_programs_against_another_emulator(
    engines: Engines, emulator: ProgramOracle, weights: dict[str, int]
) -> None:
    seen: Counter[tuple[int, int]] = Counter()
    for group in range(30 if SOAK else 1):
        random = Random(f"emulator {len(seen)} {group}")
        drawn = [(draw_pieces(random, random.randint(5, 150), weights), n) for n in range(250)]
        starts = [start_of(pieces, seed, later=False) for pieces, seed in drawn]
        for number, theirs in enumerate(emulator.run(starts)):
            start, (pieces, seed) = starts[number], drawn[number]
            # The interpreter's outcome is as good as the others': those are compared above.
            engine = "jit" if number % 25 == 0 else "interp"
            ours = comparable(engines.run(start, engine, entries=[start.pc]))
            if ours != theirs:
                pytest.fail(report(pieces, seed, start, ours, theirs), pytrace=False)
            seen.update(moment.signal for moment in theirs.moments)
    assert {(4, 0), (5, 0), (11, 1), (11, 2)} <= set(seen)
