"""What a run leaves behind: dataclasses and their JSON, "hartwood-lab/1", checked field by field.

A file is either sound or a `LabError` of one line; nothing downstream has to look twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from hartwood.lab.workload import CLOCKS, LabError

SCHEMA = "hartwood-lab/1"
STATUSES = ("ok", "failed", "skipped")
Scalar = str | int | float | bool
_T = TypeVar("_T")


@dataclass
class Outliers:
    """How many samples lie outside Tukey's fences: 1.5 (mild) and 3 (severe) interquartile ranges.

    `severe` are not counted as mild too.
    """

    mild: int = 0
    severe: int = 0


@dataclass
class OutlierCounts:
    """Outliers on either clock, and how many samples that were any had which cause."""

    wall: Outliers = field(default_factory=Outliers)
    cpu: Outliers = field(default_factory=Outliers)
    causes: dict[str, int] = field(default_factory=dict)


@dataclass
class Warmup:
    """What came before the samples: `first` is the first call's seconds, `steady` whether the
    measurements had settled before the time for it was over."""

    seconds: float = 0.0
    samples: int = 0
    first: float = 0.0
    steady: bool = False


@dataclass
class Benchmark:
    """One benchmark of a run. `wall` and `cpu` are samples, in seconds per call; `retaken` counts
    timings that were taken again because the process lost its processor meanwhile."""

    name: str
    family: str = ""
    group: str = ""
    component: str = ""
    unit: str = "calls"
    per_call: int = 1
    clock: str = "cpu"
    status: str = "ok"
    reason: str = ""
    loops: int = 1
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    warmup: Warmup = field(default_factory=Warmup)
    outliers: OutlierCounts = field(default_factory=OutlierCounts)
    retaken: int = 0

    @property
    def times(self) -> list[float]:
        """The samples on the clock that judges this benchmark."""
        return self.cpu if self.clock == "cpu" else self.wall

    def _validate(self) -> None:
        _want(bool(self.name), "name is empty")
        _want(self.status in STATUSES, f"status {self.status!r} is none of {', '.join(STATUSES)}")
        _want(self.clock in CLOCKS, f"clock {self.clock!r} is none of {', '.join(CLOCKS)}")
        _want(self.per_call >= 1 and self.loops >= 1, "per_call and loops are at least 1")
        _want(self.status == "ok" or bool(self.reason), f"{self.status} without a reason")
        for times in (self.wall, self.cpu):
            _want(all(time > 0 for time in times), "a time is zero or negative")
        if self.status == "ok":
            _want(bool(self.wall), "ok without samples")
            _want(len(self.wall) == len(self.cpu), "wall and cpu have different lengths")
        counts = [*self.counters.values(), *self.outliers.causes.values(), self.warmup.samples]
        counts += [self.retaken, self.outliers.wall.mild, self.outliers.wall.severe]
        counts += [self.outliers.cpu.mild, self.outliers.cpu.severe]
        _want(all(count >= 0 for count in counts), "a count is negative")
        _want(self.warmup.seconds >= 0 and self.warmup.first >= 0, "a warm-up time is negative")


@dataclass
class Run:
    """Everything one `bench run` found out. `created` is UTC in ISO 8601, `revision` what git calls
    the tree that was measured (or "")."""

    created: str = ""
    revision: str = ""
    machine: dict[str, Scalar] = field(default_factory=dict)
    settings: dict[str, Scalar] = field(default_factory=dict)
    benchmarks: list[Benchmark] = field(default_factory=list)
    schema: str = SCHEMA

    def _validate(self) -> None:
        names = [benchmark.name for benchmark in self.benchmarks]
        twice = next((name for name in names if names.count(name) > 1), None)
        _want(twice is None, f"{twice} is there twice")
        try:
            moment = datetime.fromisoformat(self.created)
        except ValueError:
            moment = None
        _want(moment is not None and moment.tzinfo is not None, "created is no time with a zone")

    def named(self, name: str) -> Benchmark | None:
        """The benchmark of that name."""
        return next((found for found in self.benchmarks if found.name == name), None)


def now() -> str:
    """The moment as `Run.created` wants it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Invalid(Exception):
    """A value that is not what the schema says; `where` grows on the way out."""


def _want(good: bool, what: str) -> None:
    if not good:
        raise _Invalid(what)


def _decode(kind: Any, value: Any, where: str) -> Any:
    """`value` as JSON gave it as an instance of `kind`; raises `_Invalid`."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_object(kind, value, where)
    if origin is list:
        _want(isinstance(value, list), f"{where} is not a list")
        (item,) = typing.get_args(kind)
        return [_decode(item, each, f"{where}[{at}]") for at, each in enumerate(value)]
    if origin is dict:
        _want(isinstance(value, dict), f"{where} is not an object")
        item = typing.get_args(kind)[1]
        return {key: _decode(item, each, f"{where}.{key}") for key, each in value.items()}
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if float in kinds and type(value) is int and int not in kinds:
        _want(abs(value) < 1 << 1000, f"{where} is out of range")
        value = float(value)
    # bool is an int to Python, but not to us.
    _want(type(value) in kinds, f"{where} is not {' or '.join(kind.__name__ for kind in kinds)}")
    _want(not isinstance(value, float) or math.isfinite(value), f"{where} is not a finite number")
    return value


def _decode_object(kind: Any, value: Any, where: str) -> Any:
    _want(isinstance(value, dict), f"{where or 'it'} is not an object")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    _want(not unknown, f"{where or 'it'} has an unknown field {', '.join(unknown)[:60]}")
    given = {}
    for each in dataclasses.fields(kind):
        inner = f"{where}.{each.name}".lstrip(".")
        if each.name in value:
            given[each.name] = _decode(hints[each.name], value[each.name], inner)
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise _Invalid(f"{inner} is missing")
    made = kind(**given)
    try:
        validate: Callable[[], None] | None = getattr(made, "_validate", None)
        if validate is not None:
            validate()
    except _Invalid as error:
        label = getattr(made, "name", "") or where
        raise _Invalid(f"{label}: {error}" if label else str(error)) from None
    return made


def decode(kind: type[_T], value: object, source: str) -> _T:
    """A dataclass of ours from parsed JSON. Raises `LabError` that begins with `source`."""
    try:
        return typing.cast("_T", _decode(kind, value, ""))
    except _Invalid as error:
        raise LabError(f"{source}: {error}") from None


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not a number that JSON has")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is there twice in one object")
    return made


def parse_json(text: str, source: str) -> Any:
    """Strict JSON: no NaN, no duplicate names. Raises `LabError` that begins with `source`."""
    try:
        return json.loads(text, parse_constant=_constant, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise LabError(f"{source}: damaged JSON: {what}") from None


def read_json(path: Path) -> Any:
    """What is in a JSON file. Raises `LabError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise LabError(f"{path}: damaged JSON: not UTF-8") from None
    return parse_json(text, str(path))


def load_run(path: Path) -> Run:
    """A stored run. Raises `LabError` for anything that is not one."""
    return run_from(read_json(path), str(path))


def run_from(value: object, source: str) -> Run:
    """A run from parsed JSON; `source` is what to call it. Raises `LabError`."""
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise LabError(f"{source}: its schema is {str(schema)[:40]!r}, this version reads {SCHEMA}")
    return decode(Run, value, source)


def run_json(run: Run) -> dict[str, Any]:
    """The run as what `json.dumps` takes."""
    data = dataclasses.asdict(run)
    return {"schema": data.pop("schema"), **data}


def write_json(path: Path, value: object) -> None:
    """Write JSON so that `path` is either the old file or the whole new one. Raises `LabError`."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise LabError(f"{path}: cannot be written: {what}") from None


def save_run(run: Run, path: Path) -> None:
    """Store a run. Raises `LabError`; an existing file is then as it was."""
    data = run_json(run)
    run_from(data, str(path))
    write_json(path, data)


_BASELINE = re.compile(r"[\w][\w.+-]*")


def baseline_path(name: str) -> Path:
    """Where a baseline of that name is kept: HARTWOOD_BASELINES, or .hartwood/baselines here.

    Raises `LabError` for what is no name.
    """
    if not _BASELINE.fullmatch(name):
        raise LabError(f"{name!r} is no name for a baseline: letters, digits and _.+- only")
    folder = os.environ.get("HARTWOOD_BASELINES") or ".hartwood/baselines"
    return Path(folder) / f"{name}.json"
