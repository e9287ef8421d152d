"""What a series of samples says about itself: has it settled, which samples are outliers, and why.

Standard library only: it is small, and `bench run` works without the `lab` extra.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median, quantiles

from hartwood.lab.results import OutlierCounts, Outliers
from hartwood.lab.worker import Sample

#: Measurements of each of the two windows that are held against each other.
WINDOW = 8
#: Relative difference of medians that counts as none.
SETTLED = 0.01
#: Relative difference from the usual pace that explains an outlier.
OFF_PACE = 0.1


def spread(times: Sequence[float]) -> float:
    """The median absolute deviation from the median."""
    middle = median(times)
    return median(abs(time - middle) for time in times)


def _shifted(before: Sequence[float], after: Sequence[float], errors: float) -> bool:
    """Whether the medians differ by more than `errors` standard errors, and by more than a little.

    A median's standard error is 1.2533 sd / sqrt(n), and the sd 1.4826 MAD, where all is normal.
    """
    one, other = median(before), median(after)
    noise = max(spread(before), spread(after)) * 1.4826 * 1.2533
    noise *= math.sqrt(1 / len(before) + 1 / len(after))
    return abs(one - other) > max(SETTLED * one, errors * noise)


def is_steady(times: Sequence[float]) -> bool:
    """Whether the last measurements of a warm-up are no faster and no slower than those before."""
    if len(times) < 2 * WINDOW:
        return False
    return not _shifted(times[-2 * WINDOW : -WINDOW], times[-WINDOW:], 2)


def drifted(times: Sequence[float]) -> bool:
    """Whether the second half of the samples is not what the first half was: code that was still
    being compiled, a processor that slowed down."""
    half = len(times) // 2
    return half >= WINDOW and _shifted(times[:half], times[half:], 4)


def fences(times: Sequence[float]) -> tuple[float, float, float, float]:
    """Tukey's outer and inner fences: 3 and 1.5 interquartile ranges beyond the quartiles, as
    (outer low, inner low, inner high, outer high)."""
    if len(times) < 4:
        return -math.inf, -math.inf, math.inf, math.inf
    low, _, high = quantiles(times, n=4, method="inclusive")
    reach = high - low
    return low - 3 * reach, low - 1.5 * reach, high + 1.5 * reach, high + 3 * reach


def off_pace(pace: float, usual: float) -> bool:
    """Whether the processor was noticeably faster or slower than usual (`Sample.pace`)."""
    return abs(pace - usual) > OFF_PACE * usual


def _classify(times: Sequence[float]) -> tuple[Outliers, set[int]]:
    outer_low, low, high, outer_high = fences(times)
    outside = {i for i, time in enumerate(times) if not low <= time <= high}
    severe = sum(not outer_low <= times[i] <= outer_high for i in outside)
    return Outliers(len(outside) - severe, severe), outside


def outliers(samples: Sequence[Sample]) -> OutlierCounts:
    """Outliers on both clocks, and for each sample that is one on either the likeliest cause.

    Stolen time comes before preemption, which it looks like from inside; a garbage collection is a
    cause where it does not happen in every other sample as well, the processor's speed where a
    fixed piece of work beside the sample took longer or shorter than usual, too.
    """
    wall, on_wall = _classify([sample.wall / sample.loops for sample in samples])
    cpu, on_cpu = _classify([sample.cpu / sample.loops for sample in samples])
    usual = median(sample.collections for sample in samples) if samples else 0
    pace = median(sample.pace for sample in samples) if samples else 0.0
    causes: dict[str, int] = {}
    for index in on_wall | on_cpu:
        sample = samples[index]
        if sample.steal:
            cause = "steal"
        elif sample.switches:
            cause = "preempted"
        elif sample.collections > usual:
            cause = "gc"
        elif off_pace(sample.pace, pace):
            cause = "speed"
        else:
            cause = "unknown"
        causes[cause] = causes.get(cause, 0) + 1
    return OutlierCounts(wall, cpu, causes)


def median_interval(times: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median from order statistics (binomial, normal approximation)."""
    ordered = sorted(times)
    reach = 0.98 * math.sqrt(len(ordered))
    low = max(0, math.floor(len(ordered) / 2 - reach))
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + reach) - 1)
    return ordered[low], ordered[high]
