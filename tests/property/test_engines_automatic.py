"""Random programs on a machine that translates by itself: in its worker while they run, and from
what earlier runs left in the code cache."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from random import Random

import pytest

from property.engines import Engines, difference, machine_of
from property.programs import Start, draw_pieces, start_of
from property.test_engines_programs import FAULTY

COUNT = 400 if os.environ.get("HARTWOOD_SOAK") else 15


def programs(kind: str) -> Iterator[tuple[int, Start]]:
    for number in range(COUNT):
        random = Random(f"automatic {kind} {number}")
        weights = {"weights": FAULTY} if number % 3 == 0 else {}
        yield number, start_of(draw_pieces(random, random.randint(20, 120), **weights), number)


def check(engines: Engines, kind: str, runs: int) -> int:
    """Compare several runs of each program with the reference; how much was translated code."""
    translated = 0
    for number, start in programs(kind):
        whole = engines.run(start, "reference")
        random = Random(number)
        for run in range(runs):
            # Between two slices the worker's answers are taken in.
            parts = engines.run(start, "auto", budget=partial(random.randint, 1, 300))
            if parts != whole:
                pytest.fail(f"program {number}, run {run}: {difference(parts, whole)}")
            translated += engines.translated
            time.sleep(0.01)
    return translated


def test_while_it_is_translated_and_from_the_cache(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for engines in machine_of(tmp_path_factory, "jit"):
        first = check(engines, "first", 4)
        assert engines.machine.stats()["regions"]
    # Another process's life: everything is there from the beginning.
    for engines in machine_of(tmp_path_factory, "jit"):
        second = check(engines, "first", 1)
        assert engines.machine.stats()["cache_hits"]
    assert first > 0
    assert second > 0


def test_many_programs_at_one_address_share_the_cache(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What the cache has for a page is for one content of that page."""
    for engines in machine_of(tmp_path_factory, "jit"):
        check(engines, "second", 2)
        check(engines, "first", 1)
        check(engines, "second", 1)
