from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from hartwood.lab.budget import exit_status, load_budgets, spend
from hartwood.lab.history import record_of
from hartwood.lab.workload import LabError
from unit.lab_results import a_judgement, a_run

TODAY = date(2026, 11, 27)
END = 'reason = "agreed"\nexpires = 2027-01-31\n'


def _spent(tmp_path: Path, text: str) -> tuple[list[str], int]:
    path = tmp_path / "budgets.toml"
    path.write_text(text)
    record = record_of(a_run(1.1), a_run(revision="d" * 40))
    found = spend(load_budgets(path), TODAY, a_run(), a_judgement(), record)
    assert all(each.line() for each in found)
    return [each.state for each in found], exit_status(found)


@pytest.mark.parametrize(
    ("entry", "state", "status"),
    [
        ('benchmark = "boot"\nkind = "absolute"\nseconds = 0.03\n', "ok", 0),
        ('benchmark = "boot"\nkind = "absolute"\nseconds = 0.02\n', "breach", 1),
        ('benchmark = "*"\nkind = "absolute"\nseconds = 0.02\n', "breach", 1),
        ('component = "tlb"\nkind = "absolute"\nseconds = 1e-6\n', "ok", 0),
        ('benchmark = "read/*"\nkind = "relative"\npercent = 4\n', "breach", 1),
        ('benchmark = "read/*"\nkind = "relative"\npercent = 6\n', "ok", 0),
        ('component = "tlb"\nkind = "relative"\npercent = 1\n', "ok", 0),
        ('component = "tlb"\nkind = "cumulative"\npercent = 9\n', "breach", 1),
        ('component = "tlb"\nkind = "cumulative"\npercent = 11\n', "ok", 0),
        ('benchmark = "gone"\nkind = "relative"\npercent = 1\n', "unknown", 2),
    ],
)
def test_budgets(tmp_path: Path, entry: str, state: str, status: int) -> None:
    assert _spent(tmp_path, f"[[budget]]\n{entry}{END}") == ([state], status)


def test_an_expired_budget_is_not_green(tmp_path: Path) -> None:
    text = '[[budget]]\nbenchmark = "boot"\nkind = "absolute"\nseconds = 9\nreason = "r"\n'
    assert _spent(tmp_path, text + "expires = 2026-11-26\n") == (["expired"], 1)
    assert _spent(tmp_path, text + "expires = 2026-11-27\n") == (["ok"], 0)


@pytest.mark.parametrize(
    "text",
    ["", "x = 1", "[[budget]]", "budget = 3", "budget = [3]", "[[budget", "\x00",
     f'[[budget]]\nbenchmark = "a"\nkind = "odd"\npercent = 1\n{END}',
     f'[[budget]]\nbenchmark = "a"\nkind = ["odd"]\npercent = 1\n{END}',
     f'[[budget]]\nbenchmark = "a"\ncomponent = "b"\nkind = "relative"\npercent = 1\n{END}',
     f'[[budget]]\nbenchmark = "a"\nkind = "relative"\nseconds = 1\n{END}',
     f'[[budget]]\nbenchmark = "a"\nkind = "relative"\npercent = nan\n{END}',
     f'[[budget]]\nbenchmark = "a"\nkind = "relative"\npercent = true\n{END}',
     f'[[budget]]\nbenchmark = "a"\nkind = "absolute"\nseconds = 0\n{END}',
     f'[[budget]]\nbenchmark = ""\nkind = "relative"\npercent = 1\n{END}',
     '[[budget]]\nbenchmark = "a"\nkind = "relative"\npercent = 1\nreason = "r"\nexpires = "x"\n'],
)  # fmt: skip
def test_a_bad_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "budgets.toml"
    path.write_text(text)
    with pytest.raises(LabError, match=r"budgets\.toml") as caught:
        load_budgets(path)
    assert "\n" not in str(caught.value)


def test_the_manuals_example_is_one(tmp_path: Path) -> None:
    manual = Path(__file__).resolve().parents[2] / "docs/PERFORMANCE_MONITORING.md"
    path = tmp_path / "budgets.toml"
    path.write_text(manual.read_text().split("```toml\n")[1].split("```")[0])
    assert [each.kind for each in load_budgets(path)] == ["relative", "absolute"]
