"""`bench compare`: runs, baselines or git revisions side by side, with ratios and their intervals.

It describes; it does not judge. Runs that were made one after the other differ by more than their
intervals say on a noisy machine (docs/BENCHMARKING.md); the gate interleaves them.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from hartwood.lab.results import Benchmark, Run, baseline_path, load_run
from hartwood.lab.workload import LabError, select

if TYPE_CHECKING:
    from types import ModuleType

#: Resamples of one interval; its ends are the 2.5th and the 97.5th percentile of the ratios.
RESAMPLES = 2000
#: Bytes that one batch of resamples may take.
_BATCH = 8 << 20


@dataclass(frozen=True)
class Cell:
    """One benchmark in one column: `seconds` is the median per unit; `ratio` to the first column
    with its 95 % interval [`low`, `high`], above 1 where it is slower."""

    seconds: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One benchmark; a column that does not have it (or has it failed) is None."""

    name: str
    unit: str
    cells: tuple[Cell | None, ...]


def numpy() -> ModuleType:
    """numpy, or a `LabError` that says how to get it."""
    try:
        import numpy as np
    except ImportError:
        raise LabError("numpy is not installed: pip install 'hartwood[lab]'") from None
    return np


def ratio_interval(
    base: Sequence[float], other: Sequence[float], paired: bool = False
) -> tuple[float, float]:
    """Percentile bootstrap of the ratio of medians, each side resampled by itself; `paired`, of the
    median of ratios (Efron and Tibshirani, An Introduction to the Bootstrap, 13). The same samples
    give the same interval."""
    np = numpy()
    rng = np.random.default_rng(len(base) * 1_000_003 + len(other))

    def medians(times: Any) -> Any:
        step = max(1, _BATCH // (8 * len(times)))
        sizes = [min(step, RESAMPLES - start) for start in range(0, RESAMPLES, step)]
        parts = [np.median(rng.choice(times, (size, len(times))), axis=1) for size in sizes]
        return np.concatenate(parts)

    one, two = np.asarray(base), np.asarray(other)
    ratios = medians(two / one) if paired else medians(two) / medians(one)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def _cell(base: Benchmark | None, found: Benchmark | None, together: bool) -> Cell | None:
    if found is None or found.status != "ok":
        return None
    seconds = median(found.times) / found.per_call
    if found is base or base is None or base.status != "ok":
        # Without a base there is no ratio; NaN would not survive JSON, so 1 by definition.
        return Cell(seconds, 1.0, 1.0, 1.0)
    paired = together and len(base.times) == len(found.times)
    low, high = ratio_interval(base.times, found.times, paired)
    if paired:
        ratio = median(b / a for a, b in zip(base.times, found.times, strict=True))
    else:
        ratio = median(found.times) / median(base.times)
    scale = base.per_call / found.per_call
    return Cell(seconds, ratio * scale, low * scale, high * scale)


def _together(run: Run, other: Run) -> bool:
    """Whether two runs are arms of one, which took turns: then noise is common to a pair."""
    arms = run.settings.get("arms", 1)
    return arms != 1 and (run.created, run.settings) == (other.created, other.settings)


def compare(runs: Sequence[Run], selectors: Sequence[str] = ()) -> list[Row]:
    """A row for each benchmark of any of the runs. Raises `LabError` where the runs have none in
    common, or the clocks of one differ."""
    common = set.intersection(*({b.name for b in run.benchmarks} for run in runs))
    if not common:
        raise LabError("the runs have no benchmark in common; were they renamed?")
    everything = {b.name: b for run in runs for b in run.benchmarks}
    together = [_together(runs[0], run) for run in runs]
    rows = []
    for each in select(list(everything.values()), selectors):
        found = [run.named(each.name) for run in runs]
        here = [benchmark for benchmark in found if benchmark is not None]
        if len({(benchmark.clock, benchmark.unit) for benchmark in here}) > 1:
            raise LabError(f"{each.name}: the runs measured it in different units or clocks")
        cells = (_cell(found[0], one, pair) for one, pair in zip(found, together, strict=True))
        rows.append(Row(each.name, each.unit, tuple(cells)))
    return rows


def same_machine(runs: Sequence[Run], labels: Sequence[str]) -> None:
    """Raise `LabError` unless all runs were made on one machine with one Python."""
    for what in ("identity", "python"):
        first = runs[0].machine.get(what)
        for run, label in zip(runs, labels, strict=True):
            if run.machine.get(what) != first:
                kind = "machine" if what == "identity" else "Python"
                raise LabError(
                    f"{label} was measured on another {kind} than {labels[0]}: the ratio would "
                    "say nothing about the code (--any-machine compares all the same)"
                )


def git(repository: Path, *words: str) -> str:
    """Standard output of a git command. Raises `LabError` with the last line of its complaint."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=repository, capture_output=True, text=True, check=True
        )
    except OSError as error:
        raise LabError(f"git cannot be run: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        raise LabError(f"git {words[0]}: {said[-1] if said else error.returncode}") from None
    return done.stdout.strip()


@contextmanager
def checkout(repository: Path, revision: str) -> Iterator[Path]:
    """A temporary worktree of a revision, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="hartwood-lab-") as folder:
        tree = Path(folder) / "tree"
        git(repository, "worktree", "add", "--quiet", "--detach", str(tree), revision)
        try:
            yield tree
        finally:
            git(repository, "worktree", "remove", "--force", str(tree))


def import_paths(tree: Path) -> list[Path]:
    """What goes on the import path for a checkout: its `src` where it has one, else itself."""
    return [tree / "src" if (tree / "src").is_dir() else tree]


def resolve(name: str, repository: Path) -> Run | str:
    """What `name` means: the run in a file, a baseline's, or the full name of a git revision.

    Raises `LabError` where it means none of them.
    """
    path = Path(name)
    if path.is_file():
        return load_run(path)
    if not any(fnmatchcase(name, pattern) for pattern in ("*/*", "*[~^@]*")):
        stored = baseline_path(name)
        if stored.is_file():
            return load_run(stored)
    try:
        return git(repository, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except LabError:
        raise LabError(
            f"{name!r} is no file of results, no baseline and no git revision here"
        ) from None
