"""The checklist of goals, and what reports say of peers and of the gate's self-test."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import report as engine_report
from hartwood.lab import LabError
from hartwood.lab.evidence import Figures, Rate, figures_from
from hartwood.lab.goals import (
    Goal,
    Peers,
    checklist,
    engine_from,
    is_engine,
    load_goals,
    peers_of_engine,
    peers_of_run,
    stored,
    stored_from,
    summary,
)
from hartwood.lab.judgement import judgement_json
from hartwood.lab.page import html
from hartwood.lab.report import Report, as_json, load, markdown, peer_rows
from hartwood.lab.results import Benchmark, run_json
from hartwood.lab.workloads.machine_memory import PEERS
from unit.lab_results import HOSTILE, a_judgement, a_run

ROOT = Path(__file__).resolve().parents[2]
DAY = "2026-11-{:02}T10:00:00+00:00"


def engine(day: int, **values: float | None) -> dict[str, object]:
    """What `make bench --json` leaves, with some of its figures."""
    figures = [
        {"name": name.replace("_", " "), "value": value, "unit": "x", "must": 1.0, "aim": 2.0,
         "verdict": "must"}
        for name, value in values.items()
    ]  # fmt: skip
    arms = {"native": 1.0, "qemu": 4.0, "cold": 3.0, "warm": 2.0}
    programs = [
        {"name": "sieve", "kinds": ["reads"], "cpu": arms, "wall": arms, "fault": ""},
        {"name": "wrong", "kinds": [], "cpu": arms, "wall": arms, "fault": "the arms disagree"},
    ]
    return {
        "date": DAY.format(day).replace("+00:00", "Z"), "machine": {}, "quick": False,
        "figures": figures, "programs": programs, "samples": {}, "extra": {}, "stats": {},
    }  # fmt: skip


def selftest(day: int = 28, **change: object) -> Figures:
    made = Figures(
        benchmarks=72, comparisons=6000, trials=168_000, same=Rate(0, 5500),
        false_drawn=Rate(0, 2000), false_seen=Rate(0, 120), called_faster=Rate(1, 120),
        power={"5%": Rate(999, 1000, 0.99)},
        power_seen={"3%": Rate(3, 4), "5%": Rate(80, 80), "10%": Rate(79, 80)},
        named=Rate(20, 20), mde={"a": 0.02}, rivals={"asv": {"0%": [0.0, 0.5]}}, armed=True, why="",
        created=DAY.format(day),
    )  # fmt: skip
    for name, value in change.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("must", "aim", "value", "state"),
    [
        (1.7, 1.25, 1.8, "short"),
        (1.7, 1.25, 1.7, "must"),
        (1.7, 1.25, 1.25, "aim"),
        (2.4, 3.3, 2.3, "short"),
        (2.4, 3.3, 2.4, "must"),
        (2.4, 3.3, 9.0, "aim"),
        (0, 0, 0, "aim"),
        (0, 0, 0.1, "short"),
        (1, 2, None, "not measured"),
    ],
)
def test_states(must: float, aim: float, value: float | None, state: str) -> None:
    assert Goal("g", "f", "x", must, aim).state(value) == state


def test_our_goals_are_those_that_are_measured() -> None:
    goals = {goal.figure: goal for goal in load_goals(ROOT / "bench" / "goals.toml")}
    for figure in engine_report.figures([], {}):
        goal = goals[figure.name]
        assert (goal.unit, goal.must, goal.aim) == (figure.unit, figure.must, figure.aim)
    known = {figure.name for figure in engine_report.figures([], {})}
    for value in (selftest().as_json(), run_json(a_run()), judgement_json(a_judgement("pass"))):
        known |= set(stored_from(value, "here").figures)
    peers = {f"{what} against {arm}" for what, (_, arms) in PEERS.items() for arm in arms}
    assert set(goals) <= known | peers, "a goal that no stored result can have"


def test_our_goals_are_those_of_the_specification() -> None:
    text = (ROOT / "docs" / "SPECIFICATION.md").read_text()
    rows = re.findall(
        r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|", text.partition("## Correctness")[0], re.M
    )
    said = {row[0].strip(): row[1] + row[2] for row in rows[2:]}
    for goal in load_goals(ROOT / "bench" / "goals.toml"):
        name = next((name for name in said if goal.name.startswith(name)), None)
        if name is None:
            assert goal.name.startswith(("gate:", "outliers", "from Python:")), goal.name
            continue
        # Two goals are of one line: hello cold and warm.
        cells = said[name] if "hello" in name else said.pop(name)
        numbers = {float(each) for each in re.findall(r"\d+\.?\d*", cells)}
        assert {goal.must, goal.aim} <= numbers, goal.name
    assert [name for name in said if "hello" not in name] == [], "a promise that is no goal"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[[goal",
        "goal = 1",
        "[[goal]]\nname = 'a'",
        "x = 1\n[[goal]]\nname='a'\nfigure='f'\nunit=''\nmust=1\naim=2",
        "[[goal]]\nname='a'\nfigure='f'\nunit=''\nmust='1'\naim=2",
        "[[goal]]\nname='a'\nfigure='f'\nunit=''\nmust=nan\naim=2",
    ],
)
def test_goals_that_are_none_are_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "goals.toml"
    with pytest.raises(LabError, match=r"goals\.toml"):
        load_goals(path)
    path.write_text(text)
    with pytest.raises(LabError, match=r"goals\.toml"):
        load_goals(path)


def write(folder: Path, **values: object) -> list[Path]:
    made = []
    for name, value in values.items():
        made.append(folder / f"{name}.json")
        made[-1].write_text(json.dumps(value))
    return made


def test_stored_results_give_their_figures_oldest_first(tmp_path: Path) -> None:
    whole = a_judgement("pass")
    paths = write(
        tmp_path, late=engine(27, mean=1.9), early=engine(22, mean=2.5, hello=None),
        selftest=selftest(28).as_json(), run=run_json(a_run()), gate=judgement_json(whole),
    )  # fmt: skip
    found = stored(paths)
    assert [each.day for each in found] == [
        "2026-11-22", "2026-11-27", "2026-11-27", "2026-11-27", "2026-11-28",
    ]  # fmt: skip
    assert found[0].figures == {"mean": 2.5}, "what was not measured is no figure"
    everything = {name: value for each in found for name, value in each.figures.items()}
    assert everything["gate seconds"] == 3.0
    assert everything["outliers, wall"] == 0
    assert everything["suites of identical code blocked"] == 0
    assert everything["+5% blocked"] == 100
    assert everything["+10% blocked"] == 98.75
    assert "+3% blocked" not in everything, "four comparisons are no rate"
    assert everything["component named"] == 100


def test_parts_do_not_stand_for_the_whole(tmp_path: Path) -> None:
    part = run_json(a_run())
    part["settings"]["select"] = "memory/*"
    assert stored_from(part, "part").figures == {}
    regressed = judgement_json(a_judgement("regressed"))
    assert stored_from(regressed, "gate").figures == {}
    few = selftest(false_seen=Rate(0, 99))
    assert "suites of identical code blocked" not in stored_from(few.as_json(), "few").figures
    nothing = run_json(a_run())
    nothing["benchmarks"] = []
    assert stored_from(nothing, "nothing").figures == {}


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ([], "schema is 'None'"),
        ({"schema": "hartwood-lab-selftest/9"}, "selftest/9"),
        ({"date": "yesterday", "figures": [], "programs": []}, "no time with a zone"),
        ({"date": DAY.format(1), "figures": [{}], "programs": []}, "name is missing"),
        ({"date": DAY.format(1), "figures": [], "programs": [1]}, "not an object"),
        ({"schema": "hartwood-lab-selftest/1"}, "benchmarks is missing"),
    ],
)
def test_what_is_no_stored_result_is_named(value: object, part: str, tmp_path: Path) -> None:
    (path,) = write(tmp_path, bad=value)
    with pytest.raises(LabError, match=part) as caught:
        stored([path])
    assert "bad.json" in str(caught.value)


GOALS = [
    Goal("mean", "mean", "x slower", 1.7, 1.25),
    Goal("calls", "calls", "x faster", 2.5, 4),
    Goal("suites", "suites of identical code blocked", "%", 0, 0),
    Goal("boots", "boots", "s", 2, 1),
]


def test_the_checklist() -> None:
    results = [
        stored_from(engine(22, mean=2.5), "a"), stored_from(engine(27, mean=1.9, calls=3.0), "b"),
        stored_from(selftest().as_json(), "c"),
    ]  # fmt: skip
    lines = checklist(GOALS, results).splitlines()
    assert (
        "| [ ] | mean | 2.5 x slower (2026-11-22) | 1.9 x slower (2026-11-27) | 1.7 x slower | "
        "1.25 x slower | short |"
    ) in lines
    calls = "| [x] | calls | not measured | 3 x faster (2026-11-27) | 2.5 x faster | "
    assert f"{calls}4 x faster | must |" in lines
    assert "| [x] | suites | not measured | 0 % (2026-11-28) | 0 % | 0 % | aim |" in lines
    assert "| [ ] | boots | not measured | not measured | 2 s | 1 s | not measured |" in lines
    short = summary(GOALS, results)
    assert "Of 4 goals 1 reach the aim, 1 what they must, 1 fall short, 1 are not measured" in short
    assert "- short: mean: 1.9 x slower, must be 1.7 x slower (1.1 times off)" in short
    assert "- not measured: boots" in short
    assert all(line in lines for line in short.splitlines()[2:])


def test_a_checklist_of_nothing_claims_nothing() -> None:
    text = checklist(GOALS, [])
    assert text.count("| not measured |\n") == 4
    assert "[x]" not in text
    assert "Stored results: 0, none." in text


def test_the_command_writes_it(tmp_path: Path) -> None:
    (tmp_path / "bench" / "evidence").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    write(tmp_path / "bench" / "evidence", engine=engine(22, mean=2.5))
    (tmp_path / "bench" / "goals.toml").write_text(
        '[[goal]]\nname = "mean"\nfigure = "mean"\nunit = "x"\nmust = 3\naim = 2\n'
    )
    command = [sys.executable, "-m", "hartwood", "bench", "report", "--checklist"]
    words = [*command, "--summary", "short.md"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = (tmp_path / "docs" / "PERFORMANCE_OPTIMIZATION_CHECKLIST.md").read_text()
    assert "| [x] | mean | not measured | 2.5 x (2026-11-22) | 3 x | 2 x | must |" in text
    assert "1 what they must" in (tmp_path / "short.md").read_text()
    (tmp_path / "bench" / "goals.toml").unlink()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "goals.toml" in done.stderr


def test_our_own_checklist_is_what_the_stored_results_say() -> None:
    path = ROOT / "docs" / "PERFORMANCE_OPTIMIZATION_CHECKLIST.md"
    results = stored(sorted((ROOT / "bench" / "evidence").glob("*.json")))
    made = checklist(load_goals(ROOT / "bench" / "goals.toml"), results)
    assert path.read_text() == made, "write it again: hartwood bench report --checklist"


def a_run_with_peers():
    run = a_run()
    for kind in ("alu", "float"):
        for arm, seconds in (("hartwood", 0.5), ("qemu", 1.0), ("unicorn", 4.0)):
            times = [seconds] * 5
            run.benchmarks.append(Benchmark(f"peer/{kind}/{arm}", wall=times, cpu=times))
    run.benchmarks.append(Benchmark("peer/alu/absent", status="skipped", reason="not installed"))
    return run


def test_ratios_to_peers_are_those_of_pairs() -> None:
    run = a_run()
    run.settings["select"] = "peer/memory-read"  # so that it says nothing of outliers
    ours = [1.0, 2.0, 4.0, 1.0, 3.0]
    for arm, times in (
        ("hartwood", ours), ("unicorn", [each * 6 for each in ours]), ("short", [1.0] * 4),
    ):  # fmt: skip
        name = f"peer/memory-read/{arm}"
        run.benchmarks.append(Benchmark(name, wall=times, cpu=times))
    run.benchmarks.append(Benchmark("peer/other/qemu", wall=ours, cpu=ours))
    run.benchmarks.append(Benchmark("peer/gone/hartwood", wall=ours, cpu=ours))
    run.benchmarks.append(Benchmark("peer/gone/qemu", status="failed", reason="gone"))
    assert stored_from(run_json(run), "x").figures == {"memory-read against unicorn": 6.0}


def test_peers_stand_side_by_side() -> None:
    alu, floats = peers_of_run(a_run_with_peers())
    assert alu == Peers(
        "alu", "bench run, 2026-11-27", {"hartwood": 0.5, "qemu": 1.0, "unicorn": 4.0}
    )
    assert floats.name == "float"
    value = engine(22, mean=1.0)
    assert is_engine(value)
    sieve, wrong = peers_of_engine(engine_from(value, "x"))
    assert sieve.seconds["native"] == 1.0
    assert wrong.seconds == {}, "a wrong answer has no time"
    heads, first, second, third = peer_rows([alu, sieve, wrong])
    assert heads == ["work", "measured by", "cold", "hartwood", "native", "qemu", "unicorn", "warm"]
    assert first[2:] == ["", "0.5 s (1.00x)", "", "1 s (2.00x)", "4 s (8.00x)", ""]
    assert second[2:] == ["3 s (1.50x)", "", "1 s (0.50x)", "4 s (2.00x)", "", "2 s (1.00x)"]
    assert third[2:] == [""] * 6


def test_every_report_has_peers_and_the_self_test(tmp_path: Path) -> None:
    run = a_run_with_peers()
    run.benchmarks[-2].name = "peer/float/" + "q<b>|@me"
    report = load(write(tmp_path, run=run_json(run), engine=engine(22, mean=1.0)))
    report.selftest = selftest()
    text, page, tree = markdown(report), html(report), as_json(report)
    assert "| sieve | make bench, 2026-11-22, CPU |" in text.replace("&#", "&#")
    assert "A/A suites blocked, as recorded: 0 of 120 (0.0%)" in text
    assert "planted +5% blocked, as recorded: 80 of 80" in text
    assert "<h2>Peers</h2>" in page
    assert "recorded until 2026-11-28: armed" in page
    assert "A/A suites blocked, as recorded: 0 of 120 (0.0%)" in page
    for form in (text, page):
        assert "q<b>" not in form
        assert HOSTILE not in form
    assert "|@me" not in text
    assert tree["peers"][0]["seconds"]["hartwood"] == 0.5
    assert tree["selftest"]["same"] == {"hits": 0, "of": 5500, "worst": 0.0}
    assert json.loads(json.dumps(tree)) == tree


def test_a_gate_that_is_not_to_be_trusted_says_so_in_every_report() -> None:
    report = Report(selftest=selftest(armed=False, why="identical code was blocked"))
    assert "not to be trusted: identical code was blocked" in markdown(report)
    assert "not to be trusted" in html(report)
    assert "not measured: there are no figures" in html(Report())
    assert as_json(Report())["selftest"] is None


def test_figures_come_back_as_they_were() -> None:
    made = selftest()
    assert figures_from(json.loads(json.dumps(made.as_json())), "x") == made
    assert asdict(made)["schema"] == "hartwood-lab-selftest/1"


def test_faults_are_the_headline_and_are_listed() -> None:
    report = Report(faults=["gate.json is missing", "the history is damaged"])
    assert report.headline == "not judged: gate.json is missing"
    assert "- the history is damaged" in markdown(report)
    assert "<li>the history is damaged</li>" in html(report)
    assert as_json(report)["faults"] == report.faults
