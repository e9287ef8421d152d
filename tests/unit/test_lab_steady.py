"""What a series says about itself: Tukey's fences, causes, steadiness, the median's interval."""

from __future__ import annotations

import random
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.lab.steady import (
    WINDOW,
    drifted,
    fences,
    is_steady,
    median_interval,
    outliers,
    spread,
)
from hartwood.lab.worker import Sample

TIMES = st.lists(st.floats(1e-9, 1e3), min_size=4, max_size=60)


def noisy(mean: float, count: int, sigma: float = 0.02, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(mean, sigma * mean) for _ in range(count)]


def samples(times: list[float], **what: Any) -> list[Sample]:
    return [Sample(1, time, time, **what) for time in times]


@given(TIMES)
def test_fences_are_tukeys(times: list[float]) -> None:
    low, high = np.quantile(times, [0.25, 0.75])
    reach = high - low
    expected = (low - 3 * reach, low - 1.5 * reach, high + 1.5 * reach, high + 3 * reach)
    assert fences(times) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(TIMES)
def test_outliers_are_those_beyond_the_fences(times: list[float]) -> None:
    found = outliers(samples(times))
    outer_low, low, high, outer_high = fences(times)
    outside = [time for time in times if not low <= time <= high]
    assert found.wall == found.cpu
    assert found.wall.mild + found.wall.severe == len(outside)
    assert found.wall.severe == sum(not outer_low <= time <= outer_high for time in outside)
    assert sum(found.causes.values()) == len(outside)


def test_mild_and_severe() -> None:
    base = [1.0, 1.01, 1.02, 1.03] * 10
    found = outliers(samples([*base, 1.08, 1.2, 0.5]))
    assert (found.wall.mild, found.wall.severe) == (1, 2)


def test_clocks_are_looked_at_apart() -> None:
    """A preempted sample takes long on the wall, and no more CPU time than the others."""
    some = [Sample(10, 1.0 + i / 1000, 1.0 + i / 1000) for i in range(20)]
    found = outliers([*some, Sample(10, 3.0, 1.01, switches=2)])
    assert (found.wall.severe, found.cpu.severe) == (1, 0)
    assert found.causes == {"preempted": 1}


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ({"steal": 1, "switches": 3, "collections": 1}, "steal"),
        ({"switches": 1, "collections": 1}, "preempted"),
        ({"collections": 1, "pace": 2e-5}, "gc"),
        ({"pace": 2e-5}, "speed"),
        ({"pace": 1e-5}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_causes_in_order(what: dict[str, Any], cause: str) -> None:
    usual = samples(noisy(1.0, 20), **({"pace": 1e-5} if "pace" in what else {}))
    found = outliers([*usual, Sample(1, 9.0, 9.0, **what)])
    assert found.causes[cause] == 1


def test_a_collection_in_every_sample_is_no_cause() -> None:
    found = outliers([*samples([1.0, 1.1] * 10, collections=2), Sample(1, 9.0, 9.0, collections=2)])
    assert found.causes == {"unknown": 1}


def test_loops_are_divided_by() -> None:
    found = outliers([*samples([1.0, 1.01, 1.02, 1.03]), Sample(100, 101.5, 101.5)])
    assert found.wall.mild + found.wall.severe == 0


def test_no_samples_have_no_outliers() -> None:
    assert outliers([]).causes == {}
    assert outliers(samples([1.0, 100.0, 1.0])).wall.severe == 0, "three samples prove nothing"


def test_noise_alone_is_steady() -> None:
    steady = [is_steady(noisy(1.0, 2 * WINDOW, seed=seed)) for seed in range(300)]
    assert sum(steady) > 250
    still = [not drifted(noisy(1.0, 40, seed=seed)) for seed in range(300)]
    assert sum(still) > 290


def test_a_warm_up_is_not_steady_until_it_is_over() -> None:
    falling = [1.0 + 2.0 * 0.8**i for i in range(60)]
    first = next(i for i in range(len(falling)) if is_steady(falling[: i + 1]))
    assert falling[first - WINDOW] < 1.05
    assert first > 2 * WINDOW


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
def test_a_step_is_seen(factor: float) -> None:
    times = noisy(1.0, 20) + noisy(factor, 20, seed=2)
    assert drifted(times)
    assert not is_steady(times[20 - WINDOW : 20 + WINDOW])


def test_too_few_measurements_are_never_steady_and_have_not_drifted() -> None:
    assert not is_steady([1.0] * (2 * WINDOW - 1))
    assert is_steady([1.0] * 2 * WINDOW)
    assert not drifted([1.0, 5.0])


def test_spread_is_the_median_absolute_deviation() -> None:
    assert spread([1, 1, 2, 2, 4, 6, 9]) == 1


def test_the_interval_of_the_median_covers_it_as_often_as_it_says() -> None:
    rng = random.Random(5)
    hits = 0
    for _ in range(1000):
        low, high = median_interval([rng.expovariate(1.0) for _ in range(40)])
        hits += low <= 0.6931 <= high
    assert 0.93 <= hits / 1000 <= 0.985


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=50))
def test_the_interval_contains_the_median(times: list[float]) -> None:
    low, high = median_interval(times)
    assert low <= median(times) <= high
