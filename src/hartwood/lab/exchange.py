"""Other tools' results: a table of formats, each a reader to a `Run`, a writer from one, or both.

Formats are as each tool documents them; times become seconds per call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, pstdev, quantiles
from typing import Any

from hartwood.lab.results import Benchmark, Run, now, parse_json, run_from, run_json
from hartwood.lab.workload import LabError

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
Samples = Iterable[tuple[str, list[float]]]


@dataclass(frozen=True)
class Format:
    """How a tool's file is read (from its text) and written; None where it cannot be."""

    read: Callable[[str, str], Samples] | None = None
    write: Callable[[Run], Any] | None = None


def _ok(run: Run) -> list[Benchmark]:
    found = [each for each in run.benchmarks if each.status == "ok"]
    if not found:
        raise LabError("nothing to export: no benchmark of the run is ok")
    return found


def _write_pytest(run: Run) -> Any:
    def stats(times: list[float]) -> dict[str, Any]:
        q1, middle, q3 = quantiles(times, n=4, method="inclusive") if times[1:] else times * 3
        return {
            "min": min(times), "max": max(times), "mean": fmean(times), "median": middle,
            "stddev": pstdev(times), "q1": q1, "q3": q3, "iqr": q3 - q1, "rounds": len(times),
            "iterations": 1, "ops": 1 / fmean(times), "total": sum(times), "data": times,
        }  # fmt: skip

    return {
        "machine_info": run.machine, "commit_info": {"id": run.revision},
        "datetime": run.created, "version": "4.0.0",
        "benchmarks": [
            {"group": each.group or None, "name": each.name, "fullname": each.name, "params": None,
             "param": None, "extra_info": {"component": each.component}, "options": {},
             "stats": stats(each.times)} for each in _ok(run)
        ],
    }  # fmt: skip


def _read_pytest(text: str, source: str) -> Samples:
    for each in parse_json(text, source)["benchmarks"]:
        yield each["fullname"], each["stats"].get("data") or [each["stats"]["mean"]]


def _write_pyperf(run: Run) -> Any:
    return {
        "version": "1.0",
        "metadata": {"unit": "second"},
        "benchmarks": [
            {"metadata": {"name": each.name, "loops": each.loops}, "runs": [{"values": each.times}]}
            for each in _ok(run)
        ],
    }


def _read_pyperf(text: str, source: str) -> Samples:
    data = parse_json(text, source)
    for each in data["benchmarks"]:
        name = {**data.get("metadata", {}), **each.get("metadata", {})}["name"]
        yield name, [value for one in each["runs"] for value in one.get("values", [])]


def _write_bencher(run: Run) -> Any:
    return {
        each.name: {
            "latency": {
                "value": median(each.times) * 1e9,
                "lower_value": min(each.times) * 1e9,
                "upper_value": max(each.times) * 1e9,
            }
        }
        for each in _ok(run)
    }


def _read_bencher(text: str, source: str) -> Samples:
    for name, each in parse_json(text, source).items():
        yield name, [each["latency"]["value"] * 1e-9]


def _write_action(run: Run) -> Any:
    return [
        {"name": each.name, "unit": "ns", "value": median(each.times) * 1e9,
         "range": f"± {pstdev(each.times) * 1e9:.4g}", "extra": f"{len(each.times)} samples"}
        for each in _ok(run)
    ]  # fmt: skip


def _read_action(text: str, source: str) -> Samples:
    for each in parse_json(text, source):
        yield each["name"], [each["value"] * UNITS[each["unit"].removesuffix("/iter")]]


def _read_criterion(text: str, source: str) -> Samples:
    # One JSON object: {full id: sample.json's content}; `read` puts it together from the folder.
    for name, each in parse_json(text, source).items():
        pairs = zip(each["times"], each["iters"], strict=True)
        yield name, [nanoseconds / count * 1e-9 for nanoseconds, count in pairs]


_GO = re.compile(r"^(Benchmark\S*?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op")


def _read_go(text: str, source: str) -> Samples:
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        if match := _GO.match(line):
            found.setdefault(match[1], []).append(float(match[2]) * 1e-9)
    return found.items()


def _read_hyperfine(text: str, source: str) -> Samples:
    for each in parse_json(text, source)["results"]:
        yield each["command"], each.get("times") or [each["mean"]]


def _read_google(text: str, source: str) -> Samples:
    found: dict[str, list[float]] = {}
    for each in parse_json(text, source)["benchmarks"]:
        if each.get("error_occurred"):
            raise LabError(f"{source}: {each['name']}: {each.get('error_message', 'failed')}")
        if each.get("run_type", "iteration") == "iteration":
            time = each["real_time"] * UNITS[each.get("time_unit", "ns")]
            found.setdefault(each.get("run_name", each["name"]), []).append(time)
    return found.items()


FORMATS = {
    "pytest-benchmark": Format(_read_pytest, _write_pytest),
    "pyperf": Format(_read_pyperf, _write_pyperf),
    "bencher": Format(_read_bencher, _write_bencher),
    "github-action-benchmark": Format(_read_action, _write_action),
    "criterion": Format(_read_criterion),
    "go": Format(_read_go),
    "hyperfine": Format(_read_hyperfine),
    "google-benchmark": Format(_read_google),
}


def export(run: Run, kind: str) -> Any:
    """The run in another tool's JSON. Raises `LabError` for a format that cannot be written."""
    form = FORMATS.get(kind)
    if form is None or form.write is None:
        able = ", ".join(name for name, each in FORMATS.items() if each.write)
        raise LabError(f"{kind}: no format to export to; there are {able}")
    return form.write(run)


def parse(text: str, kind: str, source: str) -> Run:
    """Another tool's results as a run; `source` is what to call them. Raises `LabError`."""
    form = FORMATS.get(kind)
    if form is None or form.read is None:
        raise LabError(f"{kind}: no format to import; there are {', '.join(FORMATS)}")
    found: dict[str, list[float]] = {}
    try:
        for name, times in form.read(text, source):
            if not times or not name:
                raise LabError(f"{source}: {str(name)[:60]!r} has no name or no samples")
            if not all(type(t) in (int, float) and math.isfinite(t) and t > 0 for t in times):
                raise LabError(f"{source}: {name[:60]}: a time is no positive number")
            found.setdefault(name, []).extend(float(time) for time in times)
    except LabError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = " ".join(str(error).split())[:80]
        raise LabError(f"{source}: not {kind}'s: {type(error).__name__}: {what}") from None
    if not found:
        raise LabError(f"{source}: no benchmark of {kind} is in it")
    made = [
        # Tools give one clock: it stands for both, and wall is what judges.
        Benchmark(name, clock="wall", wall=times, cpu=list(times))
        for name, times in found.items()
    ]
    run = Run(now(), settings={"imported_from": kind}, benchmarks=made)
    return run_from(run_json(run), source)


def read(path: Path, kind: str) -> Run:
    """A file of another tool (criterion: its folder, target/criterion) as a run."""
    try:
        if kind == "criterion" and path.is_dir():
            return parse(_criterion(path), kind, str(path))
        return parse(path.read_text(encoding="utf-8"), kind, str(path))
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LabError(f"{path}: not UTF-8") from None


def _criterion(folder: Path) -> str:
    import json

    found = {}
    for about in sorted(folder.glob("**/new/benchmark.json")):
        sample = about.with_name("sample.json")
        try:
            name = parse_json(about.read_text(encoding="utf-8"), str(about))["full_id"]
        except (LookupError, TypeError):
            raise LabError(f"{about}: has no full_id") from None
        found[str(name)] = parse_json(sample.read_text(encoding="utf-8"), str(sample))
    return json.dumps(found)
