"""Budgets: what a benchmark or component may cost, why, and until when that was agreed.

A budget that has expired, or that nothing was measured for, is never green.
"""

from __future__ import annotations

import fnmatch
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from statistics import fmean, median
from typing import Any

from hartwood.lab.history import Record
from hartwood.lab.judgement import Judgement
from hartwood.lab.results import Run
from hartwood.lab.workload import LabError

#: Kind -> what it limits: seconds per call; per cent over the base; per cent over the reference.
KINDS = {"absolute": "seconds", "relative": "percent", "cumulative": "percent"}


@dataclass(frozen=True)
class Budget:
    """One `[[budget]]`: `benchmark` is a name or glob, or `component` a component's name.

    A component's absolute cost is the sum of its benchmarks' medians, its change the geometric
    mean of their ratios.
    """

    kind: str
    limit: float
    reason: str
    expires: date
    benchmark: str = ""
    component: str = ""

    @property
    def subject(self) -> str:
        """What it is about, for a person."""
        return self.benchmark or f"component {self.component}"


@dataclass(frozen=True)
class Spent:
    """What came of a budget: `state` is ok, breach, expired or unknown (nothing measured)."""

    budget: Budget
    state: str
    value: float | None
    worst: str = ""

    def line(self) -> str:
        """One line for a person."""
        budget = self.budget
        head = f"{budget.subject}\t{budget.kind}\t{self.state}\t"
        if self.value is None:
            return f"{head}nothing was measured for it"
        if budget.kind == "absolute":
            figures = f"{self.value:.4g} s of {budget.limit:.4g} s"
        else:
            figures = f"{self.value:+.2f} % of {budget.limit:+.2f} %"
        where = f" ({self.worst})" if self.worst and self.worst != budget.subject else ""
        return f"{head}{figures}{where}, until {budget.expires}: {budget.reason}"


def load_budgets(path: Path) -> list[Budget]:
    """The budgets of a TOML file. Raises `LabError` that names the entry at fault."""
    entries = toml_entries(path, "budget")
    return [_budget(entry, f"{path}: budget {at}") for at, entry in enumerate(entries, 1)]


def toml_entries(path: Path, name: str) -> list[Any]:
    """The `[[name]]` entries of a TOML file that holds nothing else. Raises `LabError`."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise LabError(f"{path}: damaged TOML: {error}") from None
    entries = data.get(name)
    if not isinstance(entries, list) or not entries or set(data) != {name}:
        raise LabError(f"{path}: wants [[{name}]] entries and nothing else")
    return entries


def _budget(entry: Any, where: str) -> Budget:
    if not isinstance(entry, dict):
        raise LabError(f"{where} is not a table")
    about = {"benchmark", "component"} & set(entry)
    kind = entry.get("kind")
    if len(about) != 1:
        raise LabError(f"{where}: wants a benchmark or a component")
    if not isinstance(kind, str) or kind not in KINDS:
        raise LabError(f"{where}: kind is one of {', '.join(KINDS)}")
    (which,), amount = about, KINDS[kind]
    wanted = {which, "kind", amount, "reason", "expires"}
    if set(entry) != wanted:
        odd = ", ".join(sorted(set(entry) ^ wanted))
        raise LabError(f"{where}: has to say {', '.join(sorted(wanted))}; {odd} is amiss")
    limit, until = entry[amount], entry["expires"]
    if type(limit) not in (int, float) or not math.isfinite(limit) or abs(limit) > 1e9:
        raise LabError(f"{where}: {amount} is no sensible number")
    if kind == "absolute" and limit <= 0:
        raise LabError(f"{where}: seconds have to be more than 0")
    if not isinstance(until, date) or isinstance(until, datetime):
        raise LabError(f"{where}: expires is a date as in 2027-01-31")
    for key in (which, "reason"):
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise LabError(f"{where}: {key} is no text")
    return Budget(kind, float(limit), entry["reason"], until, **{which: entry[which]})


def spend(
    budgets: Sequence[Budget],
    today: date,
    run: Run | None = None,
    judgement: Judgement | None = None,
    record: Record | None = None,
) -> list[Spent]:
    """What came of each: absolute ones want a run, relative ones a gate's judgement, cumulative
    ones the newest record of a history with a reference."""
    figures: dict[str, dict[str, tuple[str, float]]] = {kind: {} for kind in KINDS}
    if run is not None:
        figures["absolute"] = {
            each.name: (each.component, median(each.times))
            for each in run.benchmarks if each.status == "ok"
        }  # fmt: skip
    if judgement is not None:
        figures["relative"] = {
            each.name: (each.component, each.ratio) for each in judgement.benchmarks if each.trials
        }
    if record is not None:
        figures["cumulative"] = {
            name: (record.components.get(name, ""), ratio) for name, ratio in record.ratios.items()
        }
    return [_spent(budget, today, figures[budget.kind]) for budget in budgets]


def _spent(budget: Budget, today: date, figures: dict[str, tuple[str, float]]) -> Spent:
    found = {
        name: value
        for name, (component, value) in figures.items()
        if (budget.component and component == budget.component)
        or (budget.benchmark and fnmatch.fnmatchcase(name, budget.benchmark))
    }
    value, worst = None, ""
    if found:
        worst = max(found, key=lambda name: found[name])
        absolute = budget.kind == "absolute"
        value = found[worst]
        if budget.component:
            logs = [math.log(each) for each in found.values()]
            value = sum(found.values()) if absolute else math.exp(fmean(logs))
        value = value if absolute else (value - 1) * 100
    if budget.expires < today:
        return Spent(budget, "expired", value, worst)
    if value is None:
        return Spent(budget, "unknown", None)
    return Spent(budget, "breach" if value > budget.limit else "ok", value, worst)


def exit_status(spent: Sequence[Spent]) -> int:
    """1 for a breach or an expired budget, else 2 if something was not measured, else 0."""
    states = {each.state for each in spent}
    return 1 if states & {"breach", "expired"} else 2 if "unknown" in states else 0
