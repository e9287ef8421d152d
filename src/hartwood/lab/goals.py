"""Goals and what was stored about them: the checklist of a performance programme, peers beside us.

Figures come from stored results alone; a goal that none of them has is "not measured", never met.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from hartwood.lab.budget import toml_entries
from hartwood.lab.evidence import Figures, figures_from
from hartwood.lab.judgement import judgement_from
from hartwood.lab.results import Benchmark, Run, _want, decode, read_json, run_from

#: Where benchmarks that measure another program are: `peer/<what>/<program>`.
PEER, OURS = "peer/", "hartwood"
STATES = ("aim", "must", "short", "not measured")


@dataclass(frozen=True)
class Goal:
    """One goal: `figure` is what stored results call it, `must` and `aim` are in `unit`. Where
    `aim` is the smaller, less is better."""

    name: str
    figure: str
    unit: str
    must: float
    aim: float

    def state(self, value: float | None) -> str:
        """Which of the goals `value` reaches."""
        if value is None:
            return "not measured"
        sign = 1 if self.aim > self.must else -1
        if sign * value >= sign * self.aim:
            return "aim"
        return "must" if sign * value >= sign * self.must else "short"


@dataclass
class EngineFigure:
    """One line of the goals in what `make bench` leaves."""

    name: str
    value: float | None
    unit: str
    must: float
    aim: float
    verdict: str


@dataclass
class EngineProgram:
    """One program in what `make bench` leaves: seconds by arm."""

    name: str
    kinds: list[str]
    cpu: dict[str, float]
    wall: dict[str, float]
    fault: str


@dataclass
class Engine:
    """What `make bench --json` leaves, as far as a report is on it."""

    date: str
    figures: list[EngineFigure]
    programs: list[EngineProgram]

    def _validate(self) -> None:
        _want(_moment(self.date) is not None, "date is no time with a zone")


@dataclass(frozen=True)
class Peers:
    """One piece of work under several programs: median seconds by program."""

    name: str
    source: str
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """Figures by name of one stored result, and when it was made."""

    created: str
    figures: dict[str, float]

    @property
    def day(self) -> str:
        """The date of it."""
        return self.created[:10]


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def load_goals(path: Path) -> list[Goal]:
    """The `[[goal]]` entries of a TOML file. Raises `LabError`."""
    entries = toml_entries(path, "goal")
    return [decode(Goal, entry, f"{path}: goal {at}") for at, entry in enumerate(entries, 1)]


def is_engine(value: object) -> bool:
    """Whether parsed JSON is what `make bench` leaves."""
    return isinstance(value, dict) and {"figures", "programs", "date"} <= set(value)


def engine_from(value: dict[str, Any], source: str) -> Engine:
    """It, checked. Raises `LabError`."""
    return decode(Engine, {key: value[key] for key in ("date", "figures", "programs")}, source)


def stored_from(value: object, source: str) -> Stored:
    """The figures of any stored result. Raises `LabError` for what is none."""
    schema = str(value.get("schema")) if isinstance(value, dict) else ""
    if is_engine(value) and isinstance(value, dict):
        engine = engine_from(value, source)
        known = {each.name: each.value for each in engine.figures if each.value is not None}
        return Stored(engine.date, known)
    if schema.startswith("hartwood-lab-selftest/"):
        found = figures_from(value, source)
        return Stored(found.created, dict(_of_selftest(found)))
    if schema.startswith("hartwood-lab-gate/"):
        judgement = judgement_from(value, source)
        whole = not judgement.settings.get("select") and judgement.verdict == "pass"
        return Stored(judgement.created, {"gate seconds": judgement.seconds} if whole else {})
    run = run_from(value, source)
    return Stored(run.created, dict(_of_run(run)))


def _of_selftest(found: Figures) -> Iterator[tuple[str, float]]:
    if found.false_seen.of >= 100:
        yield "suites of identical code blocked", found.false_seen.share * 100
    if found.same.of:
        yield "comparisons of identical code", float(found.same.of)
    for share, rate in found.power_seen.items():
        if rate.of >= 20:
            yield f"+{share} blocked", rate.share * 100
    if found.named.of:
        yield "component named", found.named.share * 100


def _peers(run: Run) -> Iterator[tuple[str, dict[str, Benchmark]]]:
    """The benchmarks of a run that are the same work under several programs, by program."""
    having = [e for e in run.benchmarks if e.name.startswith(PEER) and e.status == "ok"]
    for name, group in groupby(having, key=lambda each: each.name.rpartition("/")[0]):
        yield name.removeprefix(PEER), {each.name.rpartition("/")[2]: each for each in group}


def _of_run(run: Run) -> Iterator[tuple[str, float]]:
    """How often we are as fast as peers, which took turns with us; outliers of a whole run, in per
    cent of all samples."""
    for what, arms in _peers(run):
        ours = arms.pop(OURS, None)
        for peer, theirs in arms.items():
            if ours is not None and len(ours.times) == len(theirs.times):
                ratios = (b / a for a, b in zip(ours.times, theirs.times, strict=True))
                yield f"{what} against {peer}", median(ratios)
    samples = sum(len(each.wall) for each in run.benchmarks)
    if run.settings.get("select") or not samples:
        return
    for clock in ("wall", "cpu"):
        counts = [getattr(each.outliers, clock) for each in run.benchmarks]
        yield f"outliers, {clock}", 100 * sum(one.mild + one.severe for one in counts) / samples


def stored(paths: Iterable[Path]) -> list[Stored]:
    """The figures of stored results, oldest first. Raises `LabError`."""
    found = [stored_from(read_json(path), str(path)) for path in paths]
    return sorted(found, key=lambda each: _moment(each.created) or datetime.min)


def peers_of_run(run: Run) -> list[Peers]:
    """The benchmarks of a run that are the same work under several programs."""
    source = f"bench run, {run.created[:10]}"
    return [
        Peers(what, source, {arm: median(each.times) for arm, each in arms.items()})
        for what, arms in _peers(run)
    ]


def peers_of_engine(engine: Engine) -> list[Peers]:
    """The programs of `make bench`; one with a wrong answer has no times."""
    source = f"make bench, {engine.date[:10]}, CPU"
    return [Peers(e.name, source, {} if e.fault else e.cpu) for e in engine.programs]


def _shown(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}".strip() if abs(value) < 1000 else f"{value:,.0f} {unit}".strip()


def checklist(goals: Sequence[Goal], results: Sequence[Stored]) -> str:
    """A Markdown page: every goal, what it was at first and is now, and whether it is reached."""
    lines = [
        "# Performance checklist", "",
        "Written by `hartwood bench report --checklist` from stored results",
        "(`bench/evidence/*.json`) and the goals of `bench/goals.toml`; not to be edited.",
        "*Before* is the oldest stored figure, *after* the newest; what no stored result has is",
        "*not measured*. What is against a peer is a ratio of measurements that took turns.", "",
        "## Summary", "", *_summary(goals, results), "", "## Goals", "",
        "| | Goal | Before | After | Must | Aim | Reached |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for goal in goals:
        having = [each for each in results if goal.figure in each.figures]
        cells = ["", ""]
        if having:
            cells = [f"{_shown(e.figures[goal.figure], goal.unit)} ({e.day})" for e in having]
        before = cells[0] if len(having) > 1 else "not measured"
        after = cells[-1] if having else "not measured"
        state = goal.state(_latest(goal, results))
        box = "[x]" if state in ("aim", "must") else "[ ]"
        wanted = [_shown(goal.must, goal.unit), _shown(goal.aim, goal.unit)]
        lines.append("| " + " | ".join([box, goal.name, before, after, *wanted, state]) + " |")
    return "\n".join(lines) + "\n"


def _latest(goal: Goal, results: Sequence[Stored]) -> float | None:
    having = [each.figures[goal.figure] for each in results if goal.figure in each.figures]
    return having[-1] if having else None


def _summary(goals: Sequence[Goal], results: Sequence[Stored]) -> list[str]:
    """What a person wants to know who reads no table."""
    states = {goal.name: goal.state(_latest(goal, results)) for goal in goals}
    counts = {state: sum(each == state for each in states.values()) for state in STATES}
    days = sorted(each.day for each in results)
    span = f"from {days[0]} to {days[-1]}" if days else "none"
    lines = [
        f"Of {len(goals)} goals {counts['aim']} reach the aim, {counts['must']} what they must, "
        f"{counts['short']} fall short, {counts['not measured']} are not measured. "
        f"Stored results: {len(results)}, {span}.", "",
    ]  # fmt: skip
    for goal in goals:
        value = _latest(goal, results)
        if states[goal.name] == "short" and value is not None:
            worse = _short_by(goal, value)
            lines.append(f"- short: {goal.name}: {_shown(value, goal.unit)}{worse}")
    unknown = [goal.name for goal in goals if states[goal.name] == "not measured"]
    if unknown:
        lines.append(f"- not measured: {'; '.join(unknown)}")
    return lines


def _short_by(goal: Goal, value: float) -> str:
    if not goal.must or not value:
        return f", must be {_shown(goal.must, goal.unit)}"
    factor = math.exp(abs(math.log(value / goal.must)))
    return f", must be {_shown(goal.must, goal.unit)} ({factor:.2g} times off)"


def summary(goals: Sequence[Goal], results: Sequence[Stored]) -> str:
    """One page: the summary alone, for those who were not there."""
    return "\n".join(["# Performance in short", "", *_summary(goals, results)]) + "\n"
