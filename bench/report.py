"""What the measurements come to: the table of programs and the figures with their goals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bench.measure import Sample

# CPU seconds below which a ratio says more of the clock's grain than of the program.
GRAIN = 0.005
# No host executes more guest instructions a second: beyond it the work was not done.
PLAUSIBLE_MIPS = 40_000


class Row(NamedTuple):
    """One program's CPU and wall seconds by arm (medians), and what is wrong with it, if anything.

    Arms are "native", "qemu", "cold" and "warm".
    """

    name: str
    kinds: tuple[str, ...]
    cpu: dict[str, float]
    wall: dict[str, float]
    fault: str

    def ratio(self, above: str, below: str) -> float | None:
        """CPU seconds of one arm over another's; None where one was not measured."""
        if above not in self.cpu or below not in self.cpu:
            return None
        return max(self.cpu[above], GRAIN) / max(self.cpu[below], GRAIN)


class Figure(NamedTuple):
    """One line of the goals: what was measured, what it must be, what it is meant to become."""

    name: str
    value: float | None
    unit: str
    must: float
    aim: float

    @property
    def verdict(self) -> str:
        """ "aim", "must" or "short", by the goal that is reached; "not measured"."""
        if self.value is None:
            return "not measured"
        sign = 1 if self.aim > self.must else -1
        if sign * self.value >= sign * self.aim:
            return "aim"
        return "must" if sign * self.value >= sign * self.must else "short"


def row(name: str, kinds: tuple[str, ...], samples: Mapping[str, list[Sample]]) -> Row:
    """Medians by arm, and whether every arm gave the same answer and a good status."""
    arms = {arm: taken for arm, taken in samples.items() if taken}
    answers = {sample.out for taken in arms.values() for sample in taken}
    faults = [
        f"{arm} ended with {sample.status}: {sample.err[-200:].decode(errors='replace')}"
        for arm, taken in arms.items()
        for sample in taken
        if sample.status
    ]
    if not faults and len(answers) > 1:
        faults.append("the arms disagree: " + ", ".join(sorted(str(a[:40]) for a in answers)))
    return Row(
        name,
        kinds,
        {arm: statistics.median(s.cpu for s in taken) for arm, taken in arms.items()},
        {arm: statistics.median(s.wall for s in taken) for arm, taken in arms.items()},
        "; ".join(dict.fromkeys(faults)),
    )


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """The geometric mean of those that were measured; None of none."""
    known = [value for value in values if value is not None]
    return math.exp(statistics.fmean(map(math.log, known))) if known else None


def figures(
    rows: list[Row], extra: Mapping[str, float | None], left_out: Sequence[Sequence[str]] = ()
) -> list[Figure]:
    """The goals of the engine against the measurements; a faulty program counts in none.

    `left_out` has the kinds of each program that was not asked for: a figure that it is a part of
    was not measured.

    `extra` has what is not a program's line: "interpreter", "hello cold", "hello warm",
    "processes" (QEMU over ours) and "memory" (MB beyond the guest's own).
    """
    sound = [each for each in rows if not each.fault]

    def mean(above: str, below: str, kind: str = "") -> float | None:
        if any(not kind or kind in kinds for kinds in left_out):
            return None
        chosen = (each for each in sound if not kind or kind in each.kinds)
        return geometric_mean(each.ratio(above, below) for each in chosen)

    near: list[float] = []
    far: list[float] = []
    for each in sound:
        behind, gain = each.ratio("qemu", "native"), each.ratio("qemu", "warm")
        if behind is not None and gain is not None and not left_out:
            (near if behind <= 1.2 else far).append(gain)
    floats, calls = mean("qemu", "warm", "float"), mean("qemu", "warm", "calls")
    table = [
        ("mean against native, warm", mean("warm", "native"), "x slower", 1.7, 1.25),
        ("mean against QEMU, cold", mean("qemu", "cold"), "x faster", 2.4, 3.3),
        ("worst where QEMU is near native", min(near, default=None), "x faster", 0.95, 1.0),
        ("worst elsewhere", min(far, default=None), "x faster", 1.2, 1.5),
        ("floating point against QEMU", floats, "x faster", 8, 20),
        ("calls against QEMU", calls, "x faster", 2.5, 4),
        ("reads against native", mean("warm", "native", "reads"), "x slower", 1.5, 1.1),
        ("interpreter alone", extra.get("interpreter"), "MIPS", 400, 900),
        ("hello, cold", extra.get("hello cold"), "s", 0.40, 0.10),
        ("hello, warm", extra.get("hello warm"), "s", 0.20, 0.10),
        ("500 processes against QEMU", extra.get("processes"), "x faster", 1.0, 2.0),
        ("memory beyond the guest's own", extra.get("memory"), "MB", 250, 120),
    ]
    return [Figure(*line) for line in table]


def program_cells(each: Row) -> list[str]:
    """One line of the table of programs: CPU (wall) by arm, then the ratios."""
    cells = [each.name]
    for arm in ("native", "qemu", "cold", "warm"):
        known = arm in each.cpu
        cells.append(f"{each.cpu[arm]:.2f} ({each.wall[arm]:.2f})" if known else "-")
    for above, below in (("warm", "native"), ("qemu", "warm"), ("qemu", "cold")):
        ratio = None if each.fault else each.ratio(above, below)
        cells.append("-" if ratio is None else f"{ratio:.2f}")
    return [*cells, " ".join(each.fault.split())[:200] or "ok"]


PROGRAM_COLUMNS = [
    "program", "native", "qemu", "cold", "warm", "warm/native", "qemu/warm", "qemu/cold", "answer",
]  # fmt: skip
FIGURE_COLUMNS = ["figure", "measured", "must", "aim", "reached"]


def figure_cells(each: Figure) -> list[str]:
    """One line of the table of goals."""
    value = "-" if each.value is None else f"{each.value:.3g} {each.unit}"
    return [each.name, value, f"{each.must:g}", f"{each.aim:g}", each.verdict]


def markdown(columns: list[str], rows: Iterable[list[str]]) -> str:
    """A table for a document."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
