"""The gate's statistics on simulated trials: exactness, symmetry, errors, power, bad input.

Nothing here reads a clock; every random number has a seed.
"""

from __future__ import annotations

import ast
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hartwood.lab import LabError, verdict
from hartwood.lab.verdict import (
    Rules,
    detectable,
    direction,
    estimate,
    holm,
    judge,
    proof,
    severity,
    signed_rank,
    spread,
    trial,
    wants_second,
)

RULES = Rules()
TIME = st.floats(1e-9, 10.0)
PAIRS = st.lists(st.tuples(TIME, TIME), min_size=1, max_size=50)
TRIALS = st.lists(st.floats(-1.0, 1.0), min_size=20, max_size=20)


def draws(rng: random.Random, shift: float, sigma: float, count: int) -> list[float]:
    return [rng.gauss(math.log1p(shift), sigma) for _ in range(count)]


def gated(rng: random.Random, shift: float, sigma: float) -> tuple[list[float], list[float]]:
    """What the two stages give for a true slowdown and a scatter of trials."""
    first = draws(rng, shift, sigma, RULES.first)
    return first, draws(rng, shift, sigma, RULES.second) if wants_second(first, RULES) else []


def verdicts(rng: random.Random, shift: float, sigma: float, times: int) -> list[str]:
    return [judge({"x": gated(rng, shift, sigma)}, RULES)["x"].verdict for _ in range(times)]


def test_the_file_can_be_audited() -> None:
    text = Path(verdict.__file__).read_text()
    assert text.count("\n") < 300
    names = [
        node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    ours = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}
    assert ours == {"hartwood.lab.workload"}, "statistics only, and no clock"
    assert "time" not in names


@given(PAIRS, st.floats(1e-3, 1e3))
def test_a_trial_does_not_know_the_unit(pairs, factor: float) -> None:
    scaled = [(base * factor, head * factor) for base, head in pairs]
    assert trial(scaled) == pytest.approx(trial(pairs), abs=1e-9)


@given(PAIRS)
def test_swapped_arms_are_the_opposite_trial(pairs) -> None:
    assert trial([(head, base) for base, head in pairs]) == pytest.approx(-trial(pairs), abs=1e-12)


def test_a_trial_does_not_see_what_disturbs_a_few_samples() -> None:
    calm = [(1.0, 1.05)] * 40
    rough = [(1.0, 1.05)] * 25 + [(9.0, 1.05)] * 8 + [(1.0, 50.0)] * 7
    assert trial(rough) == trial(calm) == pytest.approx(math.log(1.05))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_times_that_are_none_are_refused(bad: float) -> None:
    for pair in ((bad, 1.0), (1.0, bad)):
        with pytest.raises(LabError, match="its clock jumped"):
            trial([(1.0, 1.0), pair])
    with pytest.raises(LabError, match="without samples"):
        trial([])


@pytest.mark.parametrize("count", [1, 5, 8, 20, 40])
@pytest.mark.parametrize("shift", [-0.5, 0.0, 0.7])
def test_signed_rank_is_scipys_exact_test(count: int, shift: float) -> None:
    rng = random.Random(count)
    values = [rng.gauss(shift, 1) for _ in range(count)]
    expected = stats.wilcoxon(values, alternative="greater", method="exact").pvalue
    assert signed_rank(values, 0.0) == pytest.approx(expected, rel=1e-12)
    moved = [value + 3 for value in values]
    assert signed_rank(moved, 3.0) == pytest.approx(expected, rel=1e-9)


def test_ties_and_zeros_stay_exact() -> None:
    # By hand: 1, 1, -1 share rank 2; sums of 4 or more are 3 of 8 (two of three) and 1 (all).
    assert signed_rank([1.0, 1.0, -1.0], 0.0) == 4 / 8
    assert signed_rank([1.0, 1.0, -1.0, 0.0, 0.0], 0.0) == 4 / 8
    assert signed_rank([0.0] * 20, 0.0) == 1.0, "no change at all proves none"
    assert signed_rank([0.5] * 20, 0.0) == 2.0**-20


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12))
def test_p_is_a_probability_and_falls_with_the_bound(values) -> None:
    ps = [signed_rank(values, bound) for bound in (-0.5, 0.0, 0.5)]
    assert all(0 <= p <= 1 for p in ps)
    assert ps == sorted(ps)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = random.Random(5)
    hits = 0
    for _ in range(2000):
        low, high = estimate(draws(rng, 0.03, 0.02, 20))[1]
        hits += low <= math.log1p(0.03) <= high
    assert 0.935 < hits / 2000 < 0.97


@given(TRIALS)
def test_estimate_and_interval_are_in_order_and_mirror(trials) -> None:
    centre, (low, high) = estimate(trials)
    assert min(trials) <= low <= centre <= high <= max(trials)
    mirrored, (left, right) = estimate([-value for value in trials])
    assert (mirrored, left, right) == pytest.approx((-centre, -high, -low), abs=1e-12)


def test_an_interval_of_few_trials_is_all_of_them() -> None:
    centre, interval = estimate([0.1, 0.3])
    assert centre == pytest.approx(0.2)
    assert interval == (0.1, 0.3)


def test_spread_is_the_standard_deviation_of_normal_trials() -> None:
    rng = random.Random(3)
    found = [spread(draws(rng, 0, 0.02, 8)) for _ in range(3000)]
    assert sum(found) / len(found) == pytest.approx(0.02, rel=0.03)
    assert spread([0.1]) == 0.0


@pytest.mark.parametrize("sigma", [0.008, 0.016, 0.026, 0.04])
def test_what_is_called_detectable_is_detected(sigma: float) -> None:
    rng = random.Random(7)
    mde = detectable([sigma * stats.norm.ppf((i + 0.5) / 400) for i in range(400)], RULES)
    found = verdicts(rng, mde, sigma, 400)
    assert 0.92 < found.count("regressed") / len(found) <= 1.0
    smaller = verdicts(rng, mde / 2, sigma, 200)
    assert smaller.count("regressed") / 200 < 0.9, "else something smaller is detectable"


def test_detectable_grows_with_the_scatter_and_is_never_below_the_least() -> None:
    calm, rough = ([sign * size for sign in (-1, 1)] * 10 for size in (0.001, 0.05))
    assert RULES.least <= detectable([0.0] * 8, RULES) < detectable(calm, RULES)
    assert detectable(calm, RULES) < 0.025
    assert detectable(rough, RULES) > RULES.warn


@pytest.mark.parametrize("sigma", [0.016, 0.026, 0.05])
def test_identical_code_is_not_blocked(sigma: float) -> None:
    rng = random.Random(11)
    for _ in range(300):
        suite = {str(at): gated(rng, 0.0, sigma) for at in range(10)}
        found = [decision.verdict for decision in judge(suite, RULES).values()]
        assert "regressed" not in found
        assert "improved" not in found


@pytest.mark.parametrize(
    ("shift", "sigma", "least"), [(0.05, 0.02, 0.99), (0.05, 0.026, 0.98), (0.10, 0.04, 0.99)]
)
def test_true_regressions_are_found(shift: float, sigma: float, least: float) -> None:
    found = verdicts(random.Random(13), shift, sigma, 400)
    assert found.count("regressed") / 400 >= least
    faster = verdicts(random.Random(13), 1 / (1 + shift) - 1, sigma, 400)
    assert faster.count("improved") / 400 >= least


def test_a_change_below_the_margin_is_not_blocked_however_sure() -> None:
    decision = judge({"x": ([0.019] * 8, [0.019] * 20)}, RULES)["x"]
    assert (decision.verdict, decision.severity) == ("pass", "")
    assert decision.reason == "1.9% slower, less than 2%"
    assert decision.p < RULES.alpha_second


def test_too_much_noise_is_not_a_pass() -> None:
    rng = random.Random(17)
    first, second = draws(rng, 0, 0.3, 8), draws(rng, 0, 0.3, 20)
    assert wants_second(first, RULES)
    decision = judge({"x": (first, second)}, RULES)["x"]
    assert decision.verdict == "inconclusive"
    assert decision.mde > 0.1
    assert "too noisy" in decision.reason


@given(st.integers(0, 10**6), st.floats(-0.15, 0.15), st.floats(0.001, 0.08))
def test_swapped_arms_mirror_the_verdict(seed: int, shift: float, sigma: float) -> None:
    rng = random.Random(seed)
    suite = {str(at): gated(rng, shift * at / 3, sigma) for at in range(4)}
    turned = {n: ([-v for v in a], [-v for v in b]) for n, (a, b) in suite.items()}
    other = {"regressed": "improved", "improved": "regressed"}
    mirrored = judge(turned, RULES)
    for name, decision in judge(suite, RULES).items():
        twin = mirrored[name]
        assert twin.verdict == other.get(decision.verdict, decision.verdict)
        assert twin.severity == decision.severity
        assert twin.ratio == pytest.approx(1 / decision.ratio)
        assert twin.p == pytest.approx(decision.p)
        assert twin.mde == pytest.approx(decision.mde)


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_is_scipys_and_never_below_the_raw(raw: dict[str, float]) -> None:
    adjusted = holm(raw)
    assert set(adjusted) == set(raw)
    assert all(min(1, len(raw) * p) >= adjusted[name] >= p for name, p in raw.items())
    by_rank = [adjusted[name] for name in sorted(raw, key=lambda name: raw[name])]
    assert by_rank == sorted(by_rank)


def test_holm_by_hand() -> None:
    # Holm 1979: 0.01 x 3, then max(.., 0.02 x 2), then max(.., 0.03).
    assert holm({"c": 0.03, "a": 0.01, "b": 0.02}) == pytest.approx(
        {"a": 0.03, "b": 0.04, "c": 0.04}
    )


def test_suspects_pay_for_each_other_and_those_that_passed_do_not() -> None:
    weak = [0.03 + at * 1e-4 for at in range(15)] + [-0.01 - at * 1e-4 for at in range(5)]
    p = proof(weak, 1, RULES)
    assert RULES.alpha_second / 3 < p <= RULES.alpha_second
    calm = {f"calm{at}": ([0.0] * 8, []) for at in range(50)}
    assert judge({"x": (weak[:8], weak), **calm}, RULES)["x"].verdict == "regressed"
    others = {f"other{at}": (weak[:8], weak) for at in range(2)}
    assert judge({"x": (weak[:8], weak), **others}, RULES)["x"].verdict == "pass"


@pytest.mark.parametrize(
    ("ratio", "label"),
    [
        (1.02, "slight"), (1.0499, "slight"), (1.05, "warning"), (1 / 1.05, "warning"),
        (1.0999, "warning"), (1.10, "alert"), (1 / 1.1, "alert"), (3.0, "alert"),
    ],
)  # fmt: skip
def test_labels_sit_on_what_is_proven(ratio: float, label: str) -> None:
    assert severity(ratio, RULES) == label
    trials = [math.log(ratio)] * 20
    decision = judge({"x": (trials[:8], trials)}, RULES)["x"]
    assert decision.severity == label
    assert decision.verdict == ("regressed" if ratio > 1 else "improved")


def test_missing_trials_are_no_evidence() -> None:
    for stages, words in (
        (([0.0] * 7, []), "too few"),
        (([0.0] * 8, [0.0] * 19), "too few"),
        (([0.5] * 8, []), "asked for a second"),
        (([0.0] * 7 + [math.nan], [0.0] * 20), "not a number"),
        (([], []), "too few"),
    ):
        with pytest.raises(LabError, match=words):
            judge({"x": stages}, RULES)
    assert judge({}, RULES) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"alpha_first": 0.0}, {"alpha_second": 0.7}, {"margin": math.nan}, {"first": 2},
        {"second": 5}, {"warn": 0.2}, {"warn": 0.01}, {"alert": -0.1}, {"least": math.inf},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(change: dict[str, float]) -> None:
    with pytest.raises(LabError):
        replace(RULES, **change)  # type: ignore[arg-type]


def test_direction() -> None:
    assert direction([0.1, 0.2, -0.1]) == 1
    assert direction([-0.1, -0.2, 0.1]) == -1


@pytest.mark.parametrize(("pairs", "least", "most"), [(20, 0, 1), (5, 2, 60)])
def test_trials_that_share_their_processes_would_block_identical_code(
    pairs: int, least: int, most: int
) -> None:
    # What was recorded of bulk/write/1MiB: pairs of processes differ by 3 %, their trials by 1.7 %.
    rng = random.Random(23)
    wrong = 0
    for _ in range(300):
        first = [each for _ in range(2) for each in clustered(rng, 4)]
        second = [each for _ in range(pairs) for each in clustered(rng, 20 // pairs)]
        if wants_second(first, RULES):
            wrong += judge({"x": (first, second)}, RULES)["x"].verdict in ("regressed", "improved")
    assert least <= wrong <= most


def clustered(rng: random.Random, count: int) -> list[float]:
    shared = rng.gauss(0, 0.03)
    return [shared + rng.gauss(0, 0.017) for _ in range(count)]


def test_the_gate_has_a_pair_of_processes_for_each_trial_of_stage_two() -> None:
    from hartwood.lab.gate import Settings

    settings = Settings()
    assert settings.pairs[1] == settings.rules.second
