"""The statistics of the gate and its verdict, all of it: to be audited, so it needs nothing but
Python. Times come in as pairs of adjacent samples, verdicts go out; nothing here reads a clock.

One *trial* is the median of some forty log ratios of adjacent samples (head over base): what
disturbs both samples of a pair cancels, and what disturbs one of them is an outlier the median does
not see. Everything after that works on trials:

1. Stage one, `first` trials. Whoever is slower (or faster) than `margin` at `alpha_first`, a level
   at which one in five is, goes on. This saves time; it decides nothing.
2. Stage two, `second` fresh trials, each of a pair of processes of its own: processes of the same
   code differ (where their memory lies), and trials that share them are not independent. Slower
   than `margin` at `alpha_second`, Holm-adjusted over all that came to stage two, *and* by at least
   `least`: regressed. The other way round: improved.

Holm's family is the suspects and not the suite, since their p-values are of trials that had no part
in choosing them: given the choice, the family-wise error stays below `alpha_second`.

The test is Wilcoxon's signed-rank test (Biometrics 1, 1945), exact, one-sided; the estimate is that
of Hodges and Lehmann (Ann. Math. Statist. 34, 1963), the interval is the one that belongs to them
(Hollander and Wolfe, Nonparametric Statistical Methods, 3.1 to 3.3). `warn` and `alert` are labels
on what is proven: a threshold of 5 % would miss every second regression of 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from statistics import NormalDist, fmean, median

from hartwood.lab.workload import LabError

#: Power that the minimum detectable effect is stated for.
POWER = 0.95
#: Trials that a t-test would need for one of the signed-rank test's, on normal data: 3 / pi for
#: very many of them, less for twenty at this alpha (simulated in the tests).
_EFFICIENCY = 0.83
#: Error of the interval that is shown.
_INTERVAL_ERROR = 0.05


@dataclass(frozen=True)
class Rules:
    """The gate's settings. Shares are fractions: 0.02 is 2 %. `blind` is the minimum detectable
    effect beyond which "nothing found" is not a pass. Raises `LabError` for what makes no sense."""

    first: int = 8
    alpha_first: float = 0.2
    margin: float = 0.01
    second: int = 20
    alpha_second: float = 0.002
    least: float = 0.02
    warn: float = 0.05
    alert: float = 0.10
    blind: float = 0.10

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise LabError(f"the gate's {field.name} is {value}: it is a number above 0")
        if not self.least <= self.warn <= self.alert:
            raise LabError(
                f"the gate wants {self.least:.0%} <= --warn <= --alert, "
                f"not {self.warn:.1%} and {self.alert:.1%}"
            )
        if max(self.alpha_first, self.alpha_second) >= 0.5:
            raise LabError("the gate's alphas are below a half")
        if 0.5**self.first > self.alpha_first or 0.5**self.second > self.alpha_second:
            raise LabError("so few trials can never prove anything at these alphas")


@dataclass(frozen=True)
class Decision:
    """What the statistics say of one benchmark; the fields are those of `judgement.Judged`."""

    verdict: str
    severity: str
    ratio: float
    interval: tuple[float, float]
    mde: float
    p: float
    reason: str


def trial(pairs: Sequence[tuple[float, float]]) -> float:
    """The estimate of one trial from (base, head) times of adjacent samples, as a log ratio.

    Raises `LabError` for times that are none: a clock that jumped, a call that did nothing.
    """
    if not pairs:
        raise LabError("a trial without samples")
    for pair in pairs:
        if not all(math.isfinite(time) and time > 0 for time in pair):
            raise LabError(f"a sample took {min(pair):g} s: its clock jumped, or it did nothing")
    return median(math.log(head / base) for base, head in pairs)


def signed_rank(trials: Sequence[float], bound: float) -> float:
    """p of "the trials lie at `bound` or below it" against "above", exact.

    Zeros are left out and ties share their mean rank, as Wilcoxon did; the distribution is that of
    the ranks as they are, so it stays exact.
    """
    apart = [value - bound for value in trials if value != bound]
    if not apart:
        return 1.0
    sizes = sorted(abs(value) for value in apart)
    # Twice the mean rank, so that it is an integer: first place + last place of its like.
    doubled = {size: 2 * sizes.index(size) + sizes.count(size) + 1 for size in set(sizes)}
    observed = sum(doubled[value] for value in apart if value > 0)
    counts = _rank_sums(tuple(sorted(doubled[abs(value)] for value in apart)))
    return float(sum(counts[observed:]) / 2 ** len(apart))


@lru_cache(maxsize=256)
def _rank_sums(ranks: tuple[int, ...]) -> tuple[int, ...]:
    """In how many of the 2**n ways to give ranks a sign the positive ones add up to each sum."""
    counts = [1] + [0] * sum(ranks)
    for rank in ranks:
        for at in range(len(counts) - 1, rank - 1, -1):
            counts[at] += counts[at - rank]
    return tuple(counts)


def _walsh(trials: Sequence[float]) -> list[float]:
    """The means of all pairs, each value with itself included, in order."""
    return sorted((a + b) / 2 for at, a in enumerate(trials) for b in trials[at:])


def estimate(trials: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The Hodges-Lehmann estimate of a log ratio, and its 95 % interval (wider where trials are so
    few that there is none)."""
    means = _walsh(trials)
    counts = _rank_sums(tuple(range(1, len(trials) + 1)))
    # The largest number of means to cut off each end with at most half the error: H&W (3.27).
    allowed, cut, tail = 2 ** len(trials) * _INTERVAL_ERROR / 2, 0, 0
    while cut < len(counts) and tail + counts[cut] <= allowed:
        tail += counts[cut]
        cut += 1
    return median(means), (means[max(cut - 1, 0)], means[len(means) - max(cut, 1)])


def spread(trials: Sequence[float]) -> float:
    """Standard deviation of one trial, from the mean absolute deviation: what a stray trial does to
    the signed-rank test is about what it does to this."""
    middle, count = median(trials), len(trials)
    deviation = fmean(abs(value - middle) for value in trials)
    return deviation * math.sqrt(math.pi / 2 * count / max(count - 1, 1))


def detectable(trials: Sequence[float], rules: Rules) -> float:
    """The smallest slowdown (0.03 is 3 %) that the whole gate would find with `POWER`, if trials
    scatter as these do: it has to pass stage one, stage two, and be seen as `least` or more."""
    scatter, normal = spread(trials), NormalDist()
    # Stage one and stage two both have to find it, on trials of their own.
    certain = normal.inv_cdf((1 + POWER) / 2)

    def step(margin: float, alpha: float | None, count: int) -> float:
        needed = certain + (normal.inv_cdf(1 - alpha) if alpha else 0.0)
        return math.log1p(margin) + needed * scatter / math.sqrt(count * _EFFICIENCY)

    return math.expm1(
        max(
            step(rules.margin, rules.alpha_first, rules.first),
            step(rules.margin, rules.alpha_second, rules.second),
            step(rules.least, None, rules.second),
        )
    )


def direction(trials: Sequence[float]) -> int:
    """1 where the trials say slower, -1 faster."""
    return 1 if estimate(trials)[0] >= 0 else -1


def proof(trials: Sequence[float], sign: int, rules: Rules) -> float:
    """p of "not slower than the margin" (sign 1), or not faster (sign -1)."""
    return signed_rank([sign * value for value in trials], math.log1p(rules.margin))


def wants_second(first: Sequence[float], rules: Rules) -> bool:
    """Whether stage one is not the end: something may have changed, or it could not be seen."""
    suspicious = proof(first, direction(first), rules) <= rules.alpha_first
    return suspicious or detectable(first, rules) > rules.blind


def holm(found: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for their number (Holm, Scand. J. Statist. 6, 1979)."""
    adjusted, before = {}, 0.0
    for rank, name in enumerate(sorted(found, key=lambda name: found[name])):
        before = max(before, min(1.0, (len(found) - rank) * found[name]))
        adjusted[name] = before
    return adjusted


def severity(ratio: float, rules: Rules) -> str:
    """The label of a proven change: slowdown and speed-up of one factor have the same."""
    size = math.expm1(abs(math.log(ratio)))
    # A label must not hang on the last bit of a logarithm.
    size += 1e-12
    return "alert" if size >= rules.alert else "warning" if size >= rules.warn else "slight"


def judge(stages: Mapping[str, tuple[Sequence[float], Sequence[float]]], rules: Rules) -> dict[
    str, Decision
]:  # fmt: skip
    """The verdict on each benchmark from its trials of stage one and two (the latter empty where
    stage one was the end). Raises `LabError` where trials are missing: none is no evidence."""
    for name, (first, second) in stages.items():
        if len(first) < rules.first or (second and len(second) < rules.second):
            raise LabError(f"{name}: {len(first)} and {len(second)} trials are too few to judge")
        if not all(map(math.isfinite, [*first, *second])):
            raise LabError(f"{name}: a trial is not a number")
        if not second and wants_second(first, rules):
            raise LabError(f"{name}: stage one asked for a second that never was")
    raw = {
        name: proof(second, direction(second), rules)
        for name, (_, second) in stages.items()
        if second
    }
    adjusted = holm(raw)
    decided = {}
    for name, (first, second) in stages.items():
        decided[name] = _decide(second or first, adjusted.get(name), rules)
    return decided


def _decide(trials: Sequence[float], p: float | None, rules: Rules) -> Decision:
    centre, (low, high) = estimate(trials)
    ratio, interval = math.exp(centre), (math.exp(low), math.exp(high))
    mde = detectable(trials, rules)
    proven = p is not None and p <= rules.alpha_second
    change = "slower" if centre >= 0 else "faster"
    size = f"{math.expm1(abs(centre)):.1%}"
    if proven and abs(centre) + 1e-12 >= math.log1p(rules.least):
        verdict = "regressed" if centre > 0 else "improved"
        label = severity(ratio, rules)
        return Decision(verdict, label, ratio, interval, mde, p or 0.0, f"{size} {change}")
    shown = 1.0 if p is None else p
    if mde > rules.blind:
        reason = f"too noisy: it would have seen {mde:.1%} and more, {rules.blind:.0%} is wanted"
        return Decision("inconclusive", "", ratio, interval, mde, shown, reason)
    reason = f"{size} {change}, less than {rules.least:.0%}" if proven else ""
    return Decision("pass", "", ratio, interval, mde, shown, reason)
