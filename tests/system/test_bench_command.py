"""`hartwood bench list | run | compare` as a person meets them, with benchmarks of their own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hartwood.lab.results import load_run, save_run
from system.running import Outcome, run

MINE = """
from hartwood.lab import Skip, workload
from project import work

@workload("work/{n}", unit="rounds", per_call=lambda n: n, params=[{"n": 100}, {"n": 1000}])
def working(rng, n):
    return lambda: work(n), n * (n - 1) // 2

@workload("numa", unit="calls", gate=False, why="one node only")
def numa(rng):
    raise Skip("one node only")
"""
PROJECT = "def work(n):\n    return sum(range(n))\n"
SLOWER = "def work(n):\n    return sum(list(range(n)) + [0] * n)\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository that is not Hartwood: a good commit, and a slower one."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "bench_mine.py").write_text(MINE)

    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    git("config", "user.email", "a@example.org")
    git("config", "user.name", "A")
    for number, text in enumerate((PROJECT, SLOWER)):
        (folder / "project.py").write_text(text)
        git("add", ".")
        git("commit", "-qm", str(number))
    return folder


@pytest.fixture
def bench(hartwood_command: list[str], project: Path):
    def call(*words: str | Path, **env: str) -> Outcome:
        whole = {"HARTWOOD_BASELINES": str(project / "kept"), **env}
        return run([*hartwood_command, "bench", *words], cwd=project, env=whole)

    return call


FILE = ("--file", "bench_mine.py")


def test_list_and_check(bench) -> None:
    shown = bench("list", *FILE).out.decode().splitlines()
    assert [line.split("\t")[0] for line in shown] == ["work/100", "work/1000", "numa"]
    assert shown[0].split("\t")[1:] == ["bench_mine", "", "rounds", "gate"]
    assert shown[2].endswith("not in the gate: one node only")
    checked = bench("list", "--check", *FILE)
    assert checked.status == 0
    assert [line.split("\t")[-1] for line in checked.out.decode().splitlines()] == [
        "ok",
        "ok",
        "skipped: one node only",
    ]


def test_check_finds_wrong_answers(bench, project: Path) -> None:
    (project / "project.py").write_text("def work(n):\n    return n\n")
    done = bench("list", "--check", *FILE)
    assert done.status == 2
    shown = done.err.decode()
    assert shown.count("\n") == 1
    assert "2 of 3 are bad: " in shown
    assert "work/100: wrong answer 100: it should be 4950" in shown


def test_a_run_its_file_its_baseline_and_its_comparison(bench, project: Path) -> None:
    done = bench("run", *FILE, "--json", "a.json", "--save-baseline", "before")
    assert done.status == 0, done.err
    lines = [line.split("\t") for line in done.out.decode().splitlines()]
    assert [line[0] for line in lines] == ["work/100", "work/1000", "numa"]
    assert lines[0][1].endswith("/round")
    assert lines[2][-1] == "skipped: one node only"
    assert b"2 ok, 0 failed, 1 skipped; outliers" in done.err
    made = load_run(project / "a.json")
    assert made == load_run(project / "kept" / "before.json")
    assert len(made.benchmarks[0].cpu) >= 5
    assert made.revision.strip("+") == revision(project)
    again = bench("run", "work/1000", *FILE, "--baseline", "before")
    assert again.status == 0, again.err
    row = again.out.decode().splitlines()[-1].split("\t")
    assert row[0] == "work/1000"
    assert 0.2 < float(row[2].split()[0]) < 5
    compared = bench("compare", "a.json", "before", "--select", "work")
    assert [line.split("\t")[2].split()[0] for line in compared.out.decode().splitlines()] == [
        "1.000",
        "1.000",
    ]


def revision(folder: Path) -> str:
    words = ["git", "rev-parse", "HEAD"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True).stdout.strip()


def test_revisions_are_compared_in_trees_of_their_own(bench, project: Path) -> None:
    (project / "project.py").write_text("raise SystemError('the tree as it is')")
    done = bench("compare", "HEAD~1", "HEAD", *FILE, "--select", "work/1000")
    assert done.status == 0, done.err
    (row,) = [line.split("\t") for line in done.out.decode().splitlines()]
    ratio = float(row[2].split()[0])
    assert ratio > 1.2, "the second commit does twice the work"
    assert row[-1] == "!"
    listed = subprocess.run(["git", "worktree", "list"], cwd=project, capture_output=True)
    assert listed.stdout.count(b"\n") == 1


def test_a_failure_is_in_the_table_and_in_the_status(bench, project: Path) -> None:
    (project / "project.py").write_text(
        "import os\ndef work(n):\n    return os._exit(9) if n == 100 else n * (n - 1) // 2\n"
    )
    done = bench("run", *FILE, "--json", "a.json")
    assert done.status == 1
    assert "failed: work/100: the worker is lost (exit 9)" in done.out.decode()
    assert [b.status for b in load_run(project / "a.json").benchmarks] == [
        "failed",
        "ok",
        "skipped",
    ]


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (["run", "nothing", *FILE], 2, "nothing is called 'nothing'"),
        (["run", "--file", "absent.py"], 2, "absent.py: no such file of benchmarks"),
        (["run", *FILE, "--quick", "--full"], 2, "--quick and --full exclude each other"),
        (["run", *FILE, "--baseline", "absent"], 2, "absent.json: No such file"),
        (["run", *FILE, "--save-baseline", "../x"], 2, "no name for a baseline"),
        (["run", "work/100", *FILE, "--json", "/dev/full/x"], 2, "cannot be written"),
        (["run", "work/100", *FILE, "--json", "/proc/x.json"], 2, "cannot be written"),
        (["compare", "damaged.json", "damaged.json"], 2, "damaged.json: damaged JSON"),
        (["compare", "old.json", "old.json"], 2, "its schema is 'hartwood-lab/0'"),
        (["compare", "HEAD"], 2, "at least two"),
        (["compare", "HEAD", "nothing"], 2, "no git revision here"),
        (["compare"], 2, "what"),
        (["bogus"], 2, "bogus"),
        ([], 2, "Missing command"),
    ],
)
def test_errors_are_one_line(words: list[str], status: int, part: str, bench, project) -> None:
    (project / "damaged.json").write_text('{"schema": "hartwood-lab/1", ')
    (project / "old.json").write_text('{"schema": "hartwood-lab/0"}')
    done = bench(*words)
    shown = done.err.decode()
    last = shown.splitlines()[-1]
    assert done.status == status, shown
    assert "Traceback" not in shown
    assert last.startswith("hartwood: ")
    assert part in last


def test_results_of_another_machine_are_refused_unless_asked_for(bench, project: Path) -> None:
    bench("run", "work/100", *FILE, "--json", "a.json")
    other = load_run(project / "a.json")
    other.machine["identity"] = "elsewhere"
    save_run(other, project / "b.json")
    done = bench("compare", "a.json", "b.json")
    assert (done.status, done.out) == (2, b"")
    assert b"b.json was measured on another machine than a.json" in done.err
    assert bench("compare", "a.json", "b.json", "--any-machine").status == 0


def test_a_full_disk_loses_nothing_that_was_there(bench, project: Path) -> None:
    folder = project / "small"
    folder.mkdir()
    bench("run", "work/100", *FILE, "--json", "small/a.json")
    before = (folder / "a.json").read_bytes()
    # A limit on the size of files does what a full disk does, without one.
    words = f"ulimit -f 1; trap '' XFSZ; exec {' '.join(FULL)}"
    done = run(["bash", "-c", words], cwd=project)
    assert done.status == 2, done
    assert b"small/a.json: cannot be written" in done.err
    assert (folder / "a.json").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["a.json"]


FULL = ["hartwood", "bench", "run", "work/100", *FILE, "--json", "small/a.json"]


@pytest.fixture(autouse=True)
def command_on_path(hartwood_command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(Path(hartwood_command[0]).parent)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_progress_is_for_terminals_only(hartwood_command: list[str], project: Path) -> None:
    words = [*hartwood_command, "bench", "run", "work/100", *FILE]
    assert b"\x1b" not in run(words, cwd=project).err
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words, cwd=project, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how a terminal ends
            break
        if not chunk:
            break
        seen += chunk
    os.close(ours)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert b"work/100" in seen
    assert b"0/1" in seen, "how many are done of how many"
    assert b"\t" in out, "the results are for the pipe"


def test_a_closed_pipe_is_silent_and_the_results_are_kept(
    hartwood_command: list[str], project: Path
) -> None:
    command = " ".join([*hartwood_command, "bench", "run", *FILE, "--json", "a.json"])
    run(["bash", "-c", f"{command} 2>err | true"], cwd=project)
    assert b"Traceback" not in (project / "err").read_bytes()
    assert len(load_run(project / "a.json").benchmarks) == 3


def test_results_are_the_schema_that_is_documented(bench, project: Path) -> None:
    bench("run", "work/100", *FILE, "--json", "a.json")
    whole = json.loads((project / "a.json").read_text())
    assert list(whole) == ["schema", "created", "revision", "machine", "settings", "benchmarks"]
    assert {"name", "wall", "cpu", "counters", "warmup", "outliers"} <= set(whole["benchmarks"][0])


def test_control_c_ends_it_and_its_worker(hartwood_command: list[str], project: Path) -> None:
    (project / "project.py").write_text(
        "import os, time\n"
        "def work(n):\n    open('started', 'w').write(str(os.getpid()))\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [*hartwood_command, "bench", "run", *FILE], cwd=project, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    started, give_up = project / "started", time.monotonic() + 30
    while not (started.exists() and started.read_text()):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    worker = Path("/proc") / started.read_text() / "cmdline"
    assert not worker.exists() or worker.read_bytes() == b"", "it is gone, or a zombie"
