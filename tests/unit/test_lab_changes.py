from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import numpy
import pytest
import ruptures

from conftest import unavailable
from hartwood.lab.changes import changes, creep, hampel
from unit.lab_results import series


def test_spikes_are_taken_out_and_steps_stay() -> None:
    assert hampel([1, 1.01, 1, 5, 1.01, 1, 1.01])[3] == pytest.approx(1.01)
    assert hampel([1.0] * 9 + [2.0] * 9) == [1.0] * 9 + [2.0] * 9


def test_quiet_series_with_spikes_have_no_change() -> None:
    wrong = sum(bool(changes(series(seed))) for seed in range(100))
    assert wrong <= 3


@pytest.mark.parametrize("step", [0.03, 0.05, -0.05, 0.10])
def test_steps_are_found_where_ruptures_finds_them(step: float) -> None:
    hits = 0
    for seed in range(20):
        values = series(seed, step=step)
        found = changes(values)
        signal = numpy.log(hampel(values))
        (theirs, _) = ruptures.Binseg(model="l2").fit(signal).predict(n_bkps=1)
        # Ruptures rounds to every fifth place.
        hits += len(found) >= 1 and any(abs(each.at - theirs) <= 5 for each in found)
        assert all(abs(each.ratio - 1) >= 0.02 for each in found)
    assert hits >= 18


OTAVA = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").joinpath(
    "hartwood", "oracles", "otava-0.8.0", "bin", "python"
)
SCRIPT = Path(__file__).resolve().parents[1] / "oracles" / "otava_points.py"


def otava(found: list[list[float]]) -> list[list[int]]:
    """Otava's change points, in the environment that scripts/oracles.sh made for it."""
    if not OTAVA.with_name("..").joinpath("complete").exists():
        unavailable("Apache Otava (scripts/oracles.sh installs it)")
    done = subprocess.run(
        [OTAVA, SCRIPT], input=json.dumps(found), capture_output=True, text=True, check=True
    )
    places: list[list[int]] = json.loads(done.stdout)
    return places


def near(places: list[int]) -> bool:
    """Whether the planted step, at 30, is among them."""
    return any(abs(place - 30) <= 2 for place in places)


@pytest.mark.parametrize("step", [0.0, 0.03, 0.05, -0.05, 0.10])
def test_steps_are_where_otava_finds_them_and_spikes_are_none(step: float) -> None:
    planted = [series(seed, step=step) for seed in range(15)]
    ours = [[each.at for each in changes(values)] for values in planted]
    theirs = otava([hampel(values) for values in planted])
    raw = otava(planted)
    if not step:
        # Without the filter spikes are changes to it; here nothing is.
        assert ours == [[]] * 15
        assert sum(map(bool, raw)) >= 2
        return
    assert sum(map(near, ours)) == 15
    assert sum(map(near, theirs)) >= 14
    # What both of them call the step is the same place, give or take a spike's neighbourhood.
    for mine, other in zip(ours, theirs, strict=True):
        if near(mine) and near(other):
            closest = min(abs(a - b) for a in mine for b in other)
            assert closest <= 2
    assert sum(len(each) > 1 for each in ours) <= 1, "and nothing else"


def test_small_and_short_changes_are_none() -> None:
    assert changes(series(1, step=0.01)) == []
    assert changes([1.0] * 20 + [1.5] * 3) == []
    assert changes([]) == []
    assert changes([1.0] * 50) == []


def test_two_steps_are_two_changes_in_order() -> None:
    values = [1.0] * 20 + [1.1] * 20 + [1.05] * 20
    found = changes(values)
    assert [each.at for each in found] == [20, 40]
    assert found[0].ratio > 1.02
    assert found[1].ratio < 0.98


def test_creep_too_slow_for_a_step_is_seen() -> None:
    rng = random.Random(2)
    values = [rng.gauss(1, 0.003) for _ in range(10)]
    values += [(1 + 0.0015 * n) * rng.gauss(1, 0.003) for n in range(30)]
    size = creep(values, 9)
    assert size is not None
    assert 0.03 < size < 0.06


def test_what_does_not_creep() -> None:
    assert sum(creep(series(seed), 10) is not None for seed in range(50)) == 0
    assert creep([1.0, 1.0, 1.5, 1.5], 1) is None
    assert creep([1.0] * 10 + [0.9] * 10, 9) is None
