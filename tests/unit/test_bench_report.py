"""The benchmark's arithmetic: medians, ratios, means, goals and faults."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import report
from bench.measure import Sample, become_reaper, measure


def sample(cpu: float, *, out: bytes = b"x", status: int = 0) -> Sample:
    return Sample(cpu * 1.1, cpu, status, out, b"complaint")


def test_row_takes_medians_and_finds_no_fault() -> None:
    row = report.row("a", (), {"native": [sample(1), sample(9), sample(2)], "qemu": [sample(4)]})
    assert (row.cpu, row.fault) == ({"native": 2, "qemu": 4}, "")
    assert row.ratio("qemu", "native") == 2
    assert row.ratio("warm", "native") is None


def test_row_reports_arms_that_disagree() -> None:
    row = report.row("a", (), {"native": [sample(1)], "warm": [sample(1, out=b"y")]})
    assert "disagree" in row.fault


def test_row_reports_a_bad_status_with_the_words_of_the_program() -> None:
    row = report.row("a", (), {"native": [sample(1)], "warm": [sample(1, status=-11)]})
    assert "warm ended with -11: complaint" in row.fault


def test_ratio_does_not_trust_the_grain_of_the_clock() -> None:
    row = report.row("a", (), {"native": [sample(0.0)], "qemu": [sample(0.001)]})
    assert row.ratio("qemu", "native") == 1


def test_geometric_mean_leaves_out_what_was_not_measured() -> None:
    mean = report.geometric_mean([1.0, 4.0, None, 16.0])
    assert mean is not None
    assert math.isclose(mean, 4.0)
    assert report.geometric_mean([None]) is None


def rows() -> list[report.Row]:
    def make(name: str, kinds: tuple[str, ...], native: float, qemu: float, warm: float):
        cpu = {"native": native, "qemu": qemu, "warm": warm, "cold": warm * 2}
        return report.Row(name, kinds, cpu, dict(cpu), "")

    return [
        make("near", (), 1.0, 1.1, 1.0),
        make("float", ("float",), 1.0, 30.0, 2.0),
        make("slow", ("reads",), 1.0, 2.0, 1.5),
        report.Row(
            "wrong", ("float",), {"native": 1, "qemu": 1, "warm": 99, "cold": 99}, {}, "bad"
        ),
    ]


def test_figures_hold_each_goal_against_its_programs() -> None:
    goals = {each.name: each for each in report.figures(rows(), {"interpreter": 500.0})}
    assert goals["worst where QEMU is near native"].value == pytest.approx(1.1)
    assert goals["worst elsewhere"].value == pytest.approx(2 / 1.5)
    assert goals["worst elsewhere"].verdict == "must"
    assert goals["floating point against QEMU"].value == pytest.approx(15)
    assert goals["reads against native"].verdict == "must"
    assert goals["mean against native, warm"].value == pytest.approx(3 ** (1 / 3))
    assert goals["interpreter alone"].verdict == "must"
    assert goals["hello, cold"].verdict == "not measured"
    assert goals["calls against QEMU"].verdict == "not measured"


def test_some_programs_do_not_stand_for_all() -> None:
    whole = {each.name: each.value for each in report.figures(rows(), {}, [])}
    part = {each.name: each.value for each in report.figures(rows(), {}, [("calls",), ()])}
    same = {"floating point against QEMU", "reads against native"}
    assert {name for name, value in part.items() if value is not None} == same
    assert all(part[name] == whole[name] for name in same)
    assert report.figures(rows(), {}, [("float",)])[4].value is None


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.05, "aim"), (0.1, "aim"), (0.3, "must"), (0.5, "short")]
)
def test_goals_where_less_is_better(value: float, verdict: str) -> None:
    figure = report.Figure("hello", value, "s", 0.4, 0.1)
    assert figure.verdict == verdict


def test_markdown_has_a_rule_under_its_head() -> None:
    assert report.markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.fixture
def reaper() -> Iterator[None]:
    become_reaper()
    yield
    become_reaper(False)


BURN = "import time\nt = time.process_time()\nwhile time.process_time() - t < 0.3: pass\n"


def test_measure_counts_the_child_that_was_left_behind(reaper: None) -> None:
    orphan = f"import os\nif os.fork() == 0:\n os.setsid()\n exec({BURN!r})\n os._exit(0)\n"
    taken = measure([sys.executable, "-c", orphan + "print('left')"])
    assert (taken.status, taken.out) == (0, b"left\n")
    assert taken.cpu > 0.25
    assert taken.wall < taken.cpu


def test_measure_reports_signals_and_standard_streams(reaper: None) -> None:
    script = "import os, sys\nprint(sys.stdin.read(), file=sys.stderr)\nos.kill(os.getpid(), 15)"
    taken = measure([sys.executable, "-c", script], stdin="given")
    assert (taken.status, taken.err) == (-15, b"given\n")


def test_measure_samples_the_memory_of_the_tree(reaper: None) -> None:
    script = (
        "import os, time\npid = os.fork()\nx = bytearray(os.urandom(1 << 20) * 30)\n"
        "time.sleep(0.8)\npid or os._exit(0)\nos.wait()"
    )
    taken = measure([sys.executable, "-c", script], memory=True)
    assert 60e6 < taken.peak < 200e6  # each holds its 30 MB twice for a moment


def test_measure_samples_orphans_too(reaper: None) -> None:
    script = (
        "import os, time\nif os.fork() == 0:\n if os.fork() == 0:\n  os.setsid()\n"
        "  x = bytearray(os.urandom(1 << 20) * 60)\n  time.sleep(0.5)\n os._exit(0)\n"
        "os.wait()\ntime.sleep(0.4)"
    )
    assert measure([sys.executable, "-c", script], memory=True).peak > 60e6


def test_measure_stops_what_does_not_end(reaper: None) -> None:
    with pytest.raises(TimeoutError):
        measure([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)
