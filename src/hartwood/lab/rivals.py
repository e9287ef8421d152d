"""How other tools decide, re-implemented: would they have called the head slower on these samples?

For the self-test's table only. Each rule is its tool's default, on the samples it is given; what is
simplified is said where it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

from hartwood.lab.compare import numpy
from hartwood.lab.workload import LabError

Rule = Callable[[Sequence[float], Sequence[float]], bool]
#: criterion resamples 100,000 times; a yes or no at 5 % does not need as many.
RESAMPLES = 1000


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise LabError("scipy is not installed: pip install 'hartwood[lab]'") from None
    return stats


def criterion(base: Sequence[float], head: Sequence[float]) -> bool:
    """criterion.rs: the t statistic against its bootstrap under "no change" at 5 %, and the 95 %
    interval of the change of the mean beyond the noise threshold of 1 %."""
    np = numpy()
    rng = np.random.default_rng(len(base))
    ours, theirs = np.asarray(head), np.asarray(base)

    def t(a: Any, b: Any) -> Any:
        spread = a.var(axis=-1, ddof=1) / a.shape[-1] + b.var(axis=-1, ddof=1) / b.shape[-1]
        return (a.mean(axis=-1) - b.mean(axis=-1)) / np.sqrt(np.maximum(spread, 1e-300))

    pooled = np.concatenate([ours, theirs])
    drawn = rng.choice(pooled, (RESAMPLES, len(pooled)))
    null = t(drawn[:, : len(ours)], drawn[:, len(ours) :])
    if (np.abs(null) >= abs(t(ours, theirs))).mean() > 0.05:
        return False
    means = rng.choice(ours, (RESAMPLES, len(ours))).mean(axis=1)
    means /= rng.choice(theirs, (RESAMPLES, len(theirs))).mean(axis=1)
    return bool(np.percentile(means, 2.5) - 1 > 0.01)


def pyperf(base: Sequence[float], head: Sequence[float]) -> bool:
    """pyperf compare_to: Student's t over all values, two-sided, 95 %."""
    return bool(_stats().ttest_ind(head, base).pvalue < 0.05) and fmean(head) > fmean(base)


def benchstat(base: Sequence[float], head: Sequence[float]) -> bool:
    """benchstat: Mann and Whitney's U, two-sided, 5 %, over ten results a side (-count=10), each
    a mean of consecutive samples as `go test` reports it."""
    a, b = _chunks(base, 10), _chunks(head, 10)
    return bool(_stats().mannwhitneyu(a, b).pvalue < 0.05) and median(b) > median(a)


def asv(base: Sequence[float], head: Sequence[float]) -> bool:
    """asv continuous: a factor of 1.1 between medians, and U's p below 0.002."""
    if median(head) <= 1.1 * median(base):
        return False
    return bool(_stats().mannwhitneyu(base, head).pvalue < 0.002)


def pytest_benchmark(base: Sequence[float], head: Sequence[float]) -> bool:
    """pytest-benchmark --benchmark-compare-fail=min:5%, the example of its manual."""
    return min(head) > 1.05 * min(base)


def mean_plus_ten(base: Sequence[float], head: Sequence[float]) -> bool:
    """A stored mean and 10 % on top of it."""
    return fmean(head) > 1.10 * fmean(base)


RULES: dict[str, Rule] = {
    "criterion": criterion,
    "pyperf": pyperf,
    "benchstat": benchstat,
    "asv": asv,
    "pytest-benchmark": pytest_benchmark,
    "mean+10%": mean_plus_ten,
}


def _chunks(samples: Sequence[float], count: int) -> list[float]:
    size = max(1, len(samples) // count)
    return [fmean(samples[at : at + size]) for at in range(0, size * count, size) if samples[at:]]


def blockers(base: Sequence[float], head: Sequence[float]) -> list[str]:
    """The tools that would have called the head slower."""
    return [name for name, rule in RULES.items() if rule(base, head)]
