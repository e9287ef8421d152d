"""Comparisons: rows, ratios and their intervals, revisions, and runs that cannot be compared."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from hartwood.lab import LabError
from hartwood.lab.compare import (
    checkout,
    compare,
    git,
    import_paths,
    ratio_interval,
    resolve,
    same_machine,
)
from hartwood.lab.results import Benchmark, Run, now, save_run
from hartwood.lab.table import outlier_rates, run_rows, seconds, variation


def times(mean: float, count: int = 60, seed: int = 1, sigma: float = 0.02) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(mean, sigma * mean) for _ in range(count)]


def run(machine: str = "m", **benchmarks: list[float]) -> Run:
    made = [Benchmark(name=name, wall=each, cpu=each) for name, each in benchmarks.items()]
    return Run(now(), "", {"identity": machine, "python": "3"}, {}, made)


def test_three_ways() -> None:
    base = times(1.0)
    runs = [run(a=base), run(a=times(1.1, seed=2)), run(a=times(0.5, seed=3))]
    (row,) = compare(runs)
    first, second, third = row.cells
    assert (first.ratio, first.low, first.high) == (1.0, 1.0, 1.0)
    assert second.low < second.ratio < second.high
    assert 1.08 < second.low < second.high < 1.12
    assert third.ratio == pytest.approx(0.5, rel=0.02)
    assert third.seconds == pytest.approx(0.5, rel=0.02)


def test_the_interval_is_the_bootstrap_s() -> None:
    """SciPy's percentile bootstrap of the same statistic is the oracle."""
    base, other = times(1.0, 40), times(1.3, 50, seed=2)

    def ratio(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(np.median(b, axis=axis) / np.median(a, axis=axis))

    oracle = scipy.stats.bootstrap(
        (base, other), ratio, n_resamples=9999, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = ratio_interval(base, other)
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.004)
    assert (low, high) == ratio_interval(base, other), "the same samples, the same interval"


def test_the_interval_covers_the_truth() -> None:
    hits = 0
    for seed in range(120):
        low, high = ratio_interval(times(1.0, 40, seed), times(1.0, 40, seed + 1000))
        hits += low <= 1 <= high
    assert hits >= 105


def test_arms_of_one_run_are_compared_pair_by_pair() -> None:
    """Noise that is common to both sides of a pair hides nothing; to each by itself it does."""
    rng = random.Random(3)
    noise = [rng.choice([1.0, 1.3, 1.6]) for _ in range(60)]
    old = run(a=[t * n for t, n in zip(times(1.0), noise, strict=True)])
    new = run(a=[t * n for t, n in zip(times(1.05, seed=2), noise, strict=True)])
    apart = compare([old, new])[0].cells[1]
    assert apart.high - apart.low > 0.1
    for each in (old, new):
        each.settings = {"arms": 2}
    new.created = old.created
    pairs = compare([old, new])[0].cells[1]
    assert 1.02 < pairs.low < pairs.ratio < pairs.high < 1.08
    new.benchmarks[0].cpu.pop()
    new.benchmarks[0].wall.pop()
    assert compare([old, new])[0].cells[1].low < 1.0, "pairs that do not match are none"


def test_long_series_are_resampled_in_pieces() -> None:
    low, high = ratio_interval([1.0] * 3000, [2.0] * 3000)
    assert (low, high) == (2.0, 2.0)


def test_other_amounts_of_work_are_divided_out() -> None:
    old, new = run(a=times(1.0)), run(a=times(1.0, seed=2))
    new.benchmarks[0].per_call = 2
    cell = compare([old, new])[0].cells[1]
    assert cell.ratio == pytest.approx(0.5, rel=0.02)
    assert cell.low < cell.ratio < cell.high < 0.55


def test_what_is_missing_or_failed_has_no_cell() -> None:
    old, new = run(a=times(1.0), b=times(1.0)), run(a=times(1.0), c=times(2.0))
    new.benchmarks[0].status, new.benchmarks[0].reason = "failed", "wrong answer"
    rows = {row.name: row.cells for row in compare([old, new])}
    assert rows["a"][1] is None
    assert rows["b"][1] is None
    assert rows["c"][0] is None
    assert rows["c"][1].ratio == 1.0, "without a base there is no ratio"
    assert list(rows) == ["a", "b", "c"]
    assert [row.name for row in compare([old, new], ["b"])] == ["b"]


def test_runs_that_cannot_be_compared() -> None:
    with pytest.raises(LabError, match="no benchmark in common; were they renamed"):
        compare([run(a=times(1.0)), run(b=times(1.0))])
    old, new = run(a=times(1.0)), run(a=times(1.0))
    new.benchmarks[0].clock = "wall"
    with pytest.raises(LabError, match="a: the runs measured it in different"):
        compare([old, new])
    with pytest.raises(LabError, match="nothing is called 'z'"):
        compare([old, old], ["z"])


def test_another_machine_is_said() -> None:
    runs = [run(), run("other")]
    with pytest.raises(LabError, match="new was measured on another machine than old"):
        same_machine(runs, ["old", "new"])
    runs[1].machine = {"identity": "m", "python": "4"}
    with pytest.raises(LabError, match="another Python"):
        same_machine(runs, ["old", "new"])
    same_machine([runs[0], runs[0]], ["a", "b"])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    for words in (
        ["init", "-q", "-b", "main"],
        ["config", "user.email", "a@example.org"],
        ["config", "user.name", "A"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)
    for number in (1, 2):
        (folder / "value.txt").write_text(str(number))
        subprocess.run(["git", "add", "."], cwd=folder, check=True)
        subprocess.run(["git", "commit", "-qm", f"{number}"], cwd=folder, check=True)
    return folder


def test_a_checkout_is_another_tree_and_gone_afterwards(repository: Path) -> None:
    with checkout(repository, "HEAD~1") as tree:
        assert (tree / "value.txt").read_text() == "1"
        assert import_paths(tree) == [tree]
        (tree / "src").mkdir()
        assert import_paths(tree) == [tree / "src"]
        (tree / "value.txt").write_text("changed")
    assert not tree.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    with pytest.raises(LabError, match="git worktree: "), checkout(repository, "nothing"):
        pass


def test_a_name_is_a_file_a_baseline_or_a_revision(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARTWOOD_BASELINES", str(tmp_path / "kept"))
    save_run(run(file=[1.0]), tmp_path / "run.json")
    save_run(run(kept=[1.0]), tmp_path / "kept" / "v1.json")
    for name, expected in ((str(tmp_path / "run.json"), "file"), ("v1", "kept")):
        found = resolve(name, repository)
        assert isinstance(found, Run)
        assert found.benchmarks[0].name == expected
    for name in ("HEAD~1", "main", "HEAD^"):
        assert resolve(name, repository) == git(repository, "rev-parse", name)
    for name in ("nothing", "no/such/file.json", "--help", "a b"):
        with pytest.raises(LabError, match=r"no file of results|no name for a baseline"):
            resolve(name, repository)


def test_no_git_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabError, match="git rev-parse: "):
        git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="git cannot be run"):
        git(tmp_path, "status")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2.0, "2 s"),
        (0.0123, "12.3 ms"),
        (5.31e-7, "531 ns"),
        (5.3e-10, "530 ps"),
        (1e-14, "1e-14 s"),
    ],
)
def test_seconds_have_a_unit(value: float, shown: str) -> None:
    assert seconds(value) == shown


def test_rows_of_a_run_say_what_matters() -> None:
    made = run(good=times(1e-6), bad=[1.0])
    made.benchmarks[0].unit = "reads"
    made.benchmarks[0].outliers.wall.mild = 3
    made.benchmarks[0].warmup.samples = 20
    made.benchmarks[0].outliers.causes = {"steal": 3}
    made.benchmarks[1].status, made.benchmarks[1].reason = "failed", "wrong answer"
    good, bad = run_rows(made)
    assert good[0] == "good"
    assert good[1].endswith("/read")
    assert good[4:] == ["3 0 of 60", "not steady, 3 steal"]
    made.benchmarks[0].warmup.samples, made.benchmarks[0].retaken = 2, 4
    assert run_rows(made)[0][5].startswith("calls too long to tell")
    assert run_rows(made)[0][5].endswith("4 retaken")
    assert bad[0] == "bad"
    assert bad[-1] == "failed: wrong answer"
    assert outlier_rates(made) == (3 / 61, 0.0)
    assert variation([1.0]) == 0.0
    assert variation([1.0, 3.0]) == pytest.approx(0.7071, abs=1e-4)


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(LabError, match=r"numpy is not installed: pip install 'hartwood\[lab\]'"):
        compare([run(a=times(1.0)), run(a=times(1.1))])
