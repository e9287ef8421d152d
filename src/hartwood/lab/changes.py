"""Where a series changed: change points that spikes do not fool, and creep too slow for a step.

Thresholds are shared/design/lab.md's: raw series gave 31 % false ones, filtered ones 1 to 3 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

WINDOW, DEVIATIONS = 9, 3.0  # Hampel's filter
SEGMENT, EFFECT, P = 4, 0.02, 1e-4
#: CUSUM in units of the noise's standard deviation: slack, and how far it may drift.
SLACK, DRIFT = 0.5, 5.0
#: A median absolute deviation times this is a normal distribution's standard deviation.
NORMAL = 1.4826


@dataclass(frozen=True)
class Change:
    """From point `at` on the series is `ratio` times what it was before; `p` is the test's."""

    at: int
    ratio: float
    p: float


def hampel(values: Sequence[float]) -> list[float]:
    """The values with spikes replaced by their neighbourhood's median (Hampel 1974)."""
    half, found = WINDOW // 2, []
    for at, value in enumerate(values):
        near = values[max(0, at - half) : at + half + 1]
        middle = median(near)
        spread = NORMAL * median(abs(each - middle) for each in near)
        found.append(middle if abs(value - middle) > DEVIATIONS * spread else value)
    return found


def changes(values: Sequence[float]) -> list[Change]:
    """Change points of a series of positive times or ratios, by binary segmentation.

    A split is kept if Student's test gives it p under 1e-4, both sides have four points or
    more, and the medians differ by 2 % or more.
    """
    logs = [math.log(value) for value in hampel(values)]
    found: list[Change] = []
    spans = [(0, len(logs))]
    while spans:
        start, end = spans.pop()
        split = _split(logs[start:end])
        if split is None:
            continue
        spans += [(start, start + split.at), (start + split.at, end)]
        found.append(Change(start + split.at, split.ratio, split.p))
    return sorted(found, key=lambda change: change.at)


def _split(logs: Sequence[float]) -> Change | None:
    """The best split of a span, if it is one."""
    count = len(logs)
    best, place = 0.0, 0
    for at in range(SEGMENT, count - SEGMENT + 1):
        gain = (fmean(logs[at:]) - fmean(logs[:at])) ** 2 * at * (count - at) / count
        if gain > best:
            best, place = gain, at
    if not place:
        return None
    left, right = logs[:place], logs[place:]
    ratio = math.exp(median(right) - median(left))
    if abs(ratio - 1) < EFFECT:
        return None
    p = _student(left, right)
    return Change(place, ratio, p) if p < P else None


def _student(left: Sequence[float], right: Sequence[float]) -> float:
    """Two-sided p of Student's test for equal means; 0 for two different constants."""
    from scipy.special import stdtr

    a, b = fmean(left), fmean(right)
    squares = sum((x - a) ** 2 for x in left) + sum((x - b) ** 2 for x in right)
    freedom = len(left) + len(right) - 2
    error = math.sqrt(squares / freedom * (1 / len(left) + 1 / len(right)))
    # Equal to the last digits of a float is constant.
    if error < 1e-12:
        return 0.0
    return float(2 * stdtr(freedom, -abs(a - b) / error))


def creep(values: Sequence[float], release: int) -> float | None:
    """How much slower (0.03 is 3 %) the series has crept since the last release, None if not.

    A one-sided CUSUM (Page 1954) of everything after point `release` against the median of up to
    nine points that end with it; the noise is taken from differences of neighbours, which creep
    does not inflate.
    """
    logs = [math.log(value) for value in hampel(values)]
    before, after = logs[max(0, release - WINDOW + 1) : release + 1], logs[release + 1 :]
    if not before or len(after) < SEGMENT:
        return None
    base = median(before)
    steps = [abs(b - a) for a, b in pairwise(logs)]
    noise = max(NORMAL * median(steps) / math.sqrt(2), 1e-4)
    total = 0.0
    for value in after:
        total = max(0.0, total + (value - base) / noise - SLACK)
    size = math.expm1(median(after[-SEGMENT:]) - base)
    return size if total > DRIFT and size >= EFFECT else None
