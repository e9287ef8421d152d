"""`hartwood bench gate | bisect | selftest` on a tiny repository that is not Hartwood.

Its benchmarks bring a clock of their own, which goes on by what a call costs: real processes, real
checkouts, exact verdicts, and nothing that a busy machine could upset. One test at the end has the
machine's own clock.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from hartwood.lab import LabError
from hartwood.lab.checkout import Tree, only_one
from hartwood.lab.evidence import load
from hartwood.lab.gate import Settings, arms, plan
from hartwood.lab.judgement import Judgement, load_judgement
from hartwood.lab.worker import SERVE
from system.benchmarked import BENCH, FAST, Project
from system.running import Outcome, run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "project")
    made.commit("start", bench_mine=BENCH, slow="COST = 99_999\n", fast=FAST)
    made.git("checkout", "-qb", "change")
    return made


@pytest.fixture
def bench(hartwood_command: list[str], project: Project, tmp_path: Path):
    """Run `hartwood bench` from outside the repository; the lock is in a folder of this test's."""

    def call(verb: str, *words: str | Path) -> Outcome:
        command = [*hartwood_command, "bench", verb, *words]
        where = ["--repo", str(project.folder), "--file", "bench_mine.py", "--seed", "7"]
        env = {"TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        return run([*command, *where], cwd=tmp_path, env=env, timeout=350)

    return call


@pytest.fixture
def gate(bench, tmp_path: Path):
    def call(*words: str | Path) -> tuple[Outcome, Judgement]:
        path = tmp_path / "judgement.json"
        done = bench("gate", *words, "--json", path)
        assert path.is_file(), done.err
        return done, load_judgement(path)

    return call


def only(judgement: Judgement, name: str = "work"):
    return next(each for each in judgement.benchmarks if each.name == name)


def test_a_change_of_nothing_passes(gate, project: Project) -> None:
    head = project.commit("nothing")
    done, judgement = gate()
    assert done.status == 0, done.err
    assert judgement.verdict == "pass"
    assert judgement.head == head
    assert judgement.base == project.git("rev-parse", "main")
    assert {each.verdict for each in judgement.benchmarks} == {"pass"}
    assert only(judgement).ratio == 1.0
    assert len(only(judgement).trials[0]) == 8
    assert project.git("worktree", "list").count("\n") == 0, "no checkout is left behind"


@pytest.mark.parametrize(
    ("cost", "verdict", "severity", "status"),
    [
        (101_499, "pass", "", 0),
        (102_999, "regressed", "slight", 1),
        (104_999, "regressed", "warning", 1),
        (109_999, "regressed", "alert", 1),
        (79_999, "improved", "alert", 0),
    ],
)
def test_slowdowns_are_blocked_and_labelled(
    cost: int, verdict: str, severity: str, status: int, gate, project: Project
) -> None:
    project.commit("another cost", slow=f"COST = {cost}\n")
    done, judgement = gate("work")
    one = only(judgement)
    assert (one.verdict, one.severity, done.status) == (verdict, severity, status), done.err
    assert one.ratio == pytest.approx((cost + 1) / 100_000)
    if status:
        assert judgement.blocked == ["work"]
        assert one.culprit == "slow.py"
        assert len(one.trials[1]) == 20


def test_block_lets_through_what_it_is_told_to(gate, project: Project) -> None:
    project.commit("slower", slow="COST = 103_999\n")
    done, judgement = gate("work", "--block", "warn")
    assert done.status == 0
    assert (only(judgement).verdict, judgement.blocked) == ("regressed", [])
    assert gate("work", "--block", "warn", "--warn", "3")[0].status == 1


def test_the_culprit_is_the_component_that_slows_when_it_is_put_back(gate, project) -> None:
    text = '[tool.hartwood.components]\nengine = ["slow*"]\n'
    (project.folder / "pyproject.toml").write_text(text)
    project.commit("components")
    project.git("branch", "-f", "main")
    project.commit("a lot", slow="COST = 119_999\n", fast=FAST + "# rewritten\n", other="x = 1\n")
    done, judgement = gate("work")
    assert done.status == 1
    assert only(judgement).culprit == "engine"
    assert "100% of it goes without engine" in only(judgement).reason


def test_the_tree_as_it_is_is_judged(gate, project: Project) -> None:
    (project.folder / "slow.py").write_text("COST = 119_999\n")
    done, judgement = gate("work")
    assert done.status == 1
    assert judgement.head.endswith("+")
    assert gate("work", "--head", "HEAD", "--base", "main")[0].status == 0


def test_exact_counters_block_without_a_clock(gate, project: Project) -> None:
    project.commit("more steps", fast="COST = 1\nSTEPS = 11\n")
    done, judgement = gate("counted")
    one = only(judgement, "counted")
    assert (done.status, one.verdict, one.severity) == (1, "regressed", "alert")
    assert "steps a call: 10 -> 11" in one.reason
    assert one.ratio == 1.0
    assert gate("counted", "--budget", "10")[0].status == 0


WITHOUT = BENCH.partition("done =")[0]


@pytest.mark.parametrize(
    ("files", "words", "reason"),
    [
        ({"bench_mine": WITHOUT}, (), "was deleted"),
        (
            {"bench_mine": BENCH.replace('component="counter"', "gate=False, why='late'")}, (),
            "has left the gate",
        ),
        ({"slow": "import os\nCOST = os.getpid and -5\n"}, ("work",), "wrong answer False"),
        (
            {"bench_mine": BENCH.replace("lambda: spend(slow", "lambda: __import__('os')._exit(3"
             " if slow.COST else 0) or spend(slow")}, ("work",), "lost (exit 3)",
        ),
        (
            {"bench_mine": BENCH.replace("    return lambda: spend(slow.COST",
             "    raise __import__('hartwood.lab').lab.Skip('no')\n    return lambda: spend(slow")},
            ("work",), "only one revision can run it",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_never_green(files, words, reason, gate, project) -> None:
    project.commit("change", **files)
    done, judgement = gate(*words)
    assert done.status == 2, done.err
    assert judgement.verdict == "inconclusive"
    assert reason in judgement.reason
    assert b"Traceback" not in done.err


def test_what_is_too_long_for_lockstep_is_said_so(gate, project: Project) -> None:
    project.commit("a second a call", slow="COST = 10**9\n")
    project.git("branch", "-f", "main")
    project.commit("nothing")
    done, judgement = gate("work")
    assert done.status == 2
    assert "too long for the gate: mark it gate=False" in judgement.reason


def test_a_benchmark_may_go_when_it_is_meant_to(gate, project: Project) -> None:
    project.commit("less", bench_mine=WITHOUT)
    assert gate("--removed", "counted")[0].status == 0


def test_a_new_benchmark_does_not_block_and_alone_is_no_pass(gate, project: Project) -> None:
    more = '\n@workload("more", unit="calls")\ndef more(rng):\n    return lambda: spend(9), True\n'
    project.commit("more", bench_mine=BENCH + more)
    done, judgement = gate()
    assert (done.status, only(judgement, "more").verdict) == (0, "new")
    assert gate("more")[0].status == 2


def test_the_others_go_on_after_a_crash(gate, project: Project) -> None:
    crash = BENCH.replace(
        "lambda: spend(slow.COST + fast.COST)", "lambda: __import__('os').abort()"
    )
    project.commit("crash", bench_mine=crash, fast="COST = 1\nSTEPS = 20\n")
    done, judgement = gate()
    assert "SIGABRT" in only(judgement).reason
    assert (done.status, only(judgement, "counted").verdict) == (1, "regressed")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--base", "nowhere"], "'nowhere' is no revision"),
        (["--head", "nowhere"], "'nowhere' is no revision"),
        (["nothing"], "nothing is called 'nothing'"),
        (["--file", "absent.py"], "absent.py: no such file of benchmarks"),
        (["--file", "/etc/passwd"], "no such file of benchmarks"),
        (["--removed", "work"], "--removed work: the head still has it"),
        (["--block", "some"], "--block is one of any, warn, alert"),
        (["--warn", "20"], "--warn <= --alert"),
        (["--warn", "nan"], "a number above 0"),
        (["--build", "echo broken >&2; exit 4"], "failed: broken"),
        (["--path", "lib"], "there is no folder lib"),
        (["--json", "/proc/judgement.json"], "cannot be written"),
    ],
)
def test_errors_are_one_line_and_status_2(words: list[str], part: str, bench, project) -> None:
    project.commit("nothing")
    done = bench("gate", *words)
    assert done.status == 2, done
    shown = done.err.decode().splitlines()[-1]
    assert shown.startswith("hartwood: ")
    assert part in shown
    assert b"Traceback" not in done.err


def test_two_gates_at_once(bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with only_one():
        done = bench("gate")
    assert done.status == 2
    assert b"another gate is measuring" in done.err


def test_the_base_is_where_the_change_began(gate, project: Project) -> None:
    start = project.git("rev-parse", "main")
    project.commit("nothing")
    project.git("checkout", "-q", "main")
    project.commit("main has become faster", slow="COST = 49_999\n")
    project.git("checkout", "-q", "change")
    done, judgement = gate("work")
    assert (done.status, judgement.base) == (0, start), "or it would be slower than main's tip"


def test_on_the_main_branch_the_base_is_the_commit_before(gate, bench, project: Project) -> None:
    project.git("checkout", "-q", "main")
    first = bench("gate")
    assert first.status == 2
    assert b"the first commit there is" in first.err
    before = project.git("rev-parse", "HEAD")
    project.commit("slower", slow="COST = 199_999\n")
    done, judgement = gate("work")
    assert (done.status, judgement.base) == (1, before)


def test_code_from_elsewhere_is_found_out(bench, project: Project, tmp_path: Path) -> None:
    # Both checkouts keep their modules where nobody looks, and an installed copy is found instead.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder in (project.folder / "python", elsewhere):
        folder.mkdir(exist_ok=True)
        (folder / "fast.py").write_text(FAST)
        (folder / "slow.py").write_text("COST = 99_999\n")
    project.git("rm", "-q", "fast.py", "slow.py")
    (project.folder / "src").mkdir()
    (project.folder / "src" / "nothing.py").write_text("")
    project.git("add", ".")
    project.commit("moved", bench_mine=BENCH)
    project.git("branch", "-f", "main")
    project.commit("nothing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(elsewhere))
        done = bench("gate")
        assert done.status == 2
        assert b"not from its checkout: say with --path" in done.err
        assert bench("gate", "--path", "python").status == 0


def test_other_packages_mean_other_environments(gate, project: Project) -> None:
    (project.folder / "requirements.txt").write_text("# nothing but this\n")
    check = BENCH.replace("import time", "import sys, time\nassert 'lab' in sys.prefix, sys.prefix")
    project.commit("needs", bench_mine=check)
    done, _ = gate("work")
    # The base has the old file, which asks for nothing; both have environments of their own.
    assert done.status == 0, done.err


@pytest.mark.timeout(400)
def test_bisect_finds_the_commit_of_thirty_two(bench, project: Project) -> None:
    good = project.git("rev-parse", "HEAD")
    cost, guilty = 99_999, ""
    for number in range(32):
        if number == 21:
            cost *= 2
        made = project.commit(f"commit {number}", slow=f"COST = {cost}\n# {number}\n")
        guilty = made if number == 21 else guilty
    done = bench("bisect", good, "HEAD", "work")
    assert done.status == 0, done.err
    commit, ratio, subject = done.out.decode().splitlines()[-1].split("\t")
    assert (commit, subject) == (guilty, "commit 21")
    assert ratio == "x2.000"
    assert done.out.count(b" of 32: ") == 5, "a search by halves"


def test_bisect_wants_something_to_find(bench, project: Project) -> None:
    good = project.git("rev-parse", "HEAD")
    assert b"nothing between them" in bench("bisect", "HEAD", "HEAD", "work").err
    project.commit("nothing")
    done = bench("bisect", good, "HEAD", "work")
    assert done.status == 2
    assert b"is not slower than" in done.err


@pytest.mark.timeout(400)
def test_selftest_records_adds_up_and_says_whether_to_trust(bench, tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    words = ("--record", record, "--resamples", "50")
    planted = bench("selftest", "work", "--arms", "1", "--plant", "10", *words)
    assert planted.status == 1
    assert b"no suite of identical code is recorded" in planted.err
    whole = bench("selftest", "work", "--arms", "3", "--plant", "5,10", *words)
    (one, two) = [line for line in load(record) if line.kind == "crowd"]
    assert (one.shares, two.shares) == ([0.0, 0.1], [0.0, 0.0, 0.0, 0.05, 0.1])
    shown = whole.out.decode()
    assert "A/A suites blocked, as recorded\t0 of 3" in shown
    assert "planted +5% blocked, as recorded\t3 of 3" in shown
    assert "planted +10% blocked, as recorded\t4 of 4" in shown
    assert whole.status == 0, shown
    lines = len(load(record))
    record.write_text(record.read_text() + '{"kind": "bl')
    damaged = bench("selftest", *words)
    assert damaged.status == 2
    assert b"record.jsonl:%d: damaged JSON" % (lines + 1) in damaged.err


FAMILY = """
from hartwood import {name}
from hartwood.lab import workload

@workload("own", unit="calls")
def own(rng):
    return lambda: {name}, 1
"""


def virtual_machine(folder: Path, name: str) -> Tree:
    """A tree laid out like ours, whose only benchmark wants the name `name` of the package."""
    package = folder / "src" / "hartwood"
    shutil.copytree(SERVE.parent, package / "lab", ignore=shutil.ignore_patterns("workloads"))
    shutil.copyfile(SERVE.parents[1] / "errors.py", package / "errors.py")
    (package / "__init__.py").write_text(f"{name} = 1\n")
    (package / "lab" / "workloads").mkdir()
    (package / "lab" / "workloads" / "__init__.py").write_text("")
    (package / "lab" / "workloads" / "family.py").write_text(FAMILY.format(name=name))
    return Tree(folder, name, Path(sys.executable), (folder / "src",))


def test_our_own_benchmarks_are_the_heads_where_the_base_can_run_them(tmp_path: Path) -> None:
    same = [virtual_machine(tmp_path / each / "same", "same") for each in ("base", "head")]
    base, head = arms(same[0], same[1], [])
    made = plan(base, head, Settings())
    assert [entry.name for entry in made.entries] == ["own"]
    assert made.base.serve == head.serve == same[1].path / "src/hartwood/lab/serve.py"
    changed = virtual_machine(tmp_path / "changed", "renamed")
    base, head = arms(same[0], changed, [])
    made = plan(base, head, Settings())
    assert [entry.name for entry in made.entries] == ["own"], "not taken for a new one"
    assert made.base.serve == same[0].path / "src/hartwood/lab/serve.py"
    (changed.path / "src/hartwood/lab/workloads/family.py").write_text("import absent")
    with pytest.raises(LabError, match=r"family cannot be loaded: .*absent"):
        plan(base, head, Settings())


REAL = """
from hartwood.lab import workload
from project import work

@workload("real", unit="rounds", per_call=500)
def working(rng):
    return lambda: work(500), 124750
"""


def test_the_machines_own_clock(gate, project: Project) -> None:
    fast = "def work(n):\n    return sum(range(n))\n"
    project.commit("real", bench_mine=REAL, project=fast)
    project.git("branch", "-f", "main")
    project.commit("nothing")
    same, judgement = gate()
    # On a machine that is far too busy it may give up, but it never blocks.
    assert same.status == 0 or "too noisy" in judgement.reason
    twice = "def work(n):\n    sum(range(n))\n    return sum(range(n))\n"
    project.commit("twice the work", project=twice)
    slower, judgement = gate()
    assert slower.status == 1
    assert only(judgement, "real").severity == "alert"
    assert only(judgement, "real").ratio > 1.5


def test_nothing_of_the_gate_is_left(gate, project: Project, tmp_path: Path) -> None:
    project.commit("nothing")
    gate("work")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("hartwood-lab-")] == [
        f"hartwood-lab-{os.getuid()}.lock"
    ]
