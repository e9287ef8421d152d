"""What a gate leaves behind: dataclasses and their JSON, "hartwood-lab-gate/1", checked on reading.

Exit statuses follow from the verdict here and nowhere else, so that a report agrees with the gate.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hartwood.lab.results import Scalar, _want, decode, read_json, write_json
from hartwood.lab.workload import LabError

SCHEMA = "hartwood-lab-gate/1"
#: `new`: the base does not have it; `skipped`: neither revision can run it on this machine, and
#: `reason` says why. Neither blocks by itself, but a gate that has nothing else could not judge.
VERDICTS = ("pass", "regressed", "improved", "inconclusive", "new", "skipped")
#: Labels on a proven regression (or improvement) by its size: `warning` from --warn, `alert` from
#: --alert on, `slight` below either; "" where nothing is proven.
SEVERITIES = ("", "slight", "warning", "alert")
EXIT_STATUS = {"pass": 0, "improved": 0, "regressed": 1, "inconclusive": 2}


@dataclass
class Judged:
    """One benchmark of a gate. `ratio` is head's time over base's (above 1 is slower), `interval`
    its 95 % confidence interval; `trials` are the log ratios of stage one and of stage two, `mde`
    is the smallest slowdown (0.03 is 3 %) that would have been seen 95 times in 100.

    `culprit` is the component whose change is to blame, found by swapping it. `suspect` is what
    the tiers that cannot block have noticed.
    """

    name: str
    family: str = ""
    component: str = ""
    clock: str = "cpu"
    verdict: str = "inconclusive"
    severity: str = ""
    ratio: float = 1.0
    interval: list[float] = field(default_factory=lambda: [0.0, 0.0])
    trials: list[list[float]] = field(default_factory=list)
    mde: float = 0.0
    p: float = 1.0
    culprit: str = ""
    suspect: str = ""
    reason: str = ""

    def _validate(self) -> None:
        _want(bool(self.name), "name is empty")
        _want(self.verdict in VERDICTS, f"verdict {self.verdict[:20]!r} is none of {VERDICTS}")
        _want(self.severity in SEVERITIES, f"severity {self.severity[:20]!r} is unknown")
        _want(len(self.interval) == 2, "interval is not a pair")
        _want(self.ratio > 0 and self.mde >= 0 and 0 <= self.p <= 1, "a figure is out of range")
        _want(self.verdict != "pass" or bool(self.trials), "passed without trials")
        _want(self.verdict != "inconclusive" or bool(self.reason), "inconclusive without a reason")


@dataclass
class Judgement:
    """Everything one gate found out. `created` is UTC in ISO 8601, `base` and `head` are revisions
    (head ends in + where the tree had changes). `blocked` names what made it red."""

    created: str = ""
    base: str = ""
    head: str = ""
    verdict: str = "inconclusive"
    reason: str = ""
    seconds: float = 0.0
    machine: dict[str, Scalar] = field(default_factory=dict)
    settings: dict[str, Scalar] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    benchmarks: list[Judged] = field(default_factory=list)
    schema: str = SCHEMA

    def _validate(self) -> None:
        _want(self.verdict in EXIT_STATUS, f"verdict {self.verdict[:20]!r} is unknown")
        _want(self.verdict == "inconclusive" or bool(self.benchmarks), "judged without benchmarks")
        names = [benchmark.name for benchmark in self.benchmarks]
        _want(len(set(names)) == len(names), "a benchmark is there twice")
        known = set(names) >= set(self.blocked)
        _want(known, "blocked by a benchmark that is not there")
        _want((self.verdict == "regressed") == bool(self.blocked), "verdict and blocked disagree")
        try:
            zone = datetime.fromisoformat(self.created).tzinfo
        except ValueError:
            zone = None
        _want(zone is not None, "created is no time with a zone")

    @property
    def exit_status(self) -> int:
        """0 nothing regressed, 1 regressed, 2 could not judge."""
        return EXIT_STATUS[self.verdict]


def judgement_json(judgement: Judgement) -> dict[str, Any]:
    """The judgement as what `json.dumps` takes."""
    data = dataclasses.asdict(judgement)
    return {"schema": data.pop("schema"), **data}


def judgement_from(value: object, source: str) -> Judgement:
    """A judgement from parsed JSON; `source` is what to call it. Raises `LabError`."""
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise LabError(f"{source}: its schema is {str(schema)[:40]!r}, this version reads {SCHEMA}")
    return decode(Judgement, value, source)


def load_judgement(path: Path) -> Judgement:
    """A stored judgement. Raises `LabError` for anything that is not one."""
    return judgement_from(read_json(path), str(path))


def save_judgement(judgement: Judgement, path: Path) -> None:
    """Store a judgement. Raises `LabError`; an existing file is then as it was."""
    data = judgement_json(judgement)
    judgement_from(data, str(path))
    write_json(path, data)
