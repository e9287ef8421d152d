"""The entry points for any CI: what they say, what they end with, what they refuse to believe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hartwood.lab.judgement import judgement_json, save_judgement
from hartwood.lab.report import MARK
from hartwood.lab.results import save_run
from system.benchmarked import Project
from system.fake_github import BOT, READ, WRITE, GitHub, serving
from unit.lab_results import HOSTILE, a_judgement, a_run

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
OURS = (
    "run_benchmarks.sh", "performance_history.sh", "detect_regression.py",
    "generate_benchmark_report.py", "pull_request_comment.py",
)  # fmt: skip


def script(name: str, *words: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS / name), *map(str, words)]
    if name.endswith(".py"):
        command.insert(0, sys.executable)
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **env}
    )


@pytest.mark.parametrize("name", OURS)
def test_help_has_examples_and_exit_statuses(name: str, tmp_path: Path) -> None:
    done = script(name, "--help", cwd=tmp_path)
    assert done.returncode == 0
    said = done.stdout.lower()
    assert "example" in said
    assert "exit status: 0" in said
    assert os.access(SCRIPTS / name, os.X_OK)
    wrong = script(name, "--nonsense", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize(
    ("verdict", "status"), [("pass", 0), ("improved", 0), ("regressed", 1), ("inconclusive", 2)]
)
def test_detect_regression_on_a_stored_judgement(verdict: str, status: int, tmp_path: Path) -> None:
    judgement = a_judgement("regressed" if verdict == "regressed" else "pass")
    judgement.verdict = verdict
    save_judgement(judgement, tmp_path / "gate.json")
    done = script("detect_regression.py", tmp_path / "gate.json", cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert verdict in done.stderr.splitlines()[-1]


def test_detect_regression_never_takes_an_error_for_a_verdict(tmp_path: Path) -> None:
    name, path = "detect_regression.py", tmp_path / "gate.json"
    assert script(name, path, cwd=tmp_path).returncode == 2
    for damaged in ("", "{", "[]", '{"schema": "hartwood-lab/1"}'):
        path.write_text(damaged)
        done = script(name, path, cwd=tmp_path)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
    # Neither, or both, of what there is to judge.
    assert script(name, cwd=tmp_path).returncode == 2
    assert script(name, path, "--base", "main", cwd=tmp_path).returncode == 2
    done = script(name, "--base", "main", "--repo", tmp_path, cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 2, "no repository here"
    # A Python that has no Hartwood: Python's own status would be 1.
    bare = subprocess.run(
        [sys.executable, "-S", "-I", str(SCRIPTS / name), str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert bare.returncode == 2
    assert "run it with .venv/bin/python" in bare.stderr


FAKE = """#!/bin/sh
echo "$@" >> calls
case "$*" in
  *"bench run"*) echo run > "$5"; exit {run} ;;
  *"bench gate"*) echo gate > "$4"; exit {gate} ;;
esac
"""


@pytest.mark.parametrize(
    ("run", "gate", "status"),
    [(0, 0, 0), (0, 1, 1), (1, 0, 1), (0, 2, 2), (2, 0, 2), (2, 1, 1), (1, 2, 1), (0, 139, 2)],
)
def test_run_benchmarks_ends_with_the_worst(
    run: int, gate: int, status: int, tmp_path: Path
) -> None:
    fake = tmp_path / "hartwood"
    fake.write_text(FAKE.format(run=run, gate=gate))
    fake.chmod(0o755)
    done = script(
        "run_benchmarks.sh", "--base", "main", "--out", "out", "--mode", "full", "--file", "b.py",
        "read/*", cwd=tmp_path, HARTWOOD=str(fake),
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert (tmp_path / "calls").read_text().splitlines() == [
        "bench run --full --json out/run.json --file b.py read/*",
        "bench gate --json out/gate.json --base main --file b.py read/*",
    ]


def test_run_benchmarks_leaves_nothing_of_the_last_time(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "results"
    out.mkdir(parents=True)
    (out / "gate.json").write_text("old and green")
    fake = tmp_path / "hartwood"
    fake.write_text('#!/bin/sh\necho "$@" > calls\nexit 2\n')
    fake.chmod(0o755)
    words = ("--mode", "none", "--base", "0" * 40)
    done = script("run_benchmarks.sh", *words, cwd=tmp_path, HARTWOOD=str(fake))
    assert done.returncode == 2
    assert not (out / "gate.json").exists()
    # A branch that is new has no commit before: the gate finds its base by itself.
    assert "--base" not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--mode", "slow"), "--mode is quick"),
        (("--mode", "none"), "nothing to do"),
        (("--base",), "--base wants a value"),
        (("--out", "/proc/none"), "cannot be made"),
    ],
)
def test_run_benchmarks_refuses(words: tuple[str, ...], part: str, tmp_path: Path) -> None:
    done = script("run_benchmarks.sh", *words, cwd=tmp_path, HARTWOOD="true")
    assert done.returncode == 2
    assert part in done.stderr
    nothing = script("run_benchmarks.sh", cwd=tmp_path, HARTWOOD="nowhere", PATH="/usr/bin:/bin")
    assert "there is no hartwood here" in nothing.stderr


def test_a_report_on_what_there_is(tmp_path: Path) -> None:
    save_judgement(a_judgement("pass"), tmp_path / "gate.json")
    save_run(a_run(), tmp_path / "run.json")
    done = script("generate_benchmark_report.py", tmp_path, "--out", tmp_path / "o", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    names = ["junit.xml", "report.html", "report.json", "report.md", "report.sarif"]
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == names
    whole = json.loads((tmp_path / "o" / "report.json").read_text())
    assert whole["headline"] == "pass"
    assert whole["selftest"] is None
    assert "not measured: there are no figures" in (tmp_path / "o" / "report.md").read_text()


def test_a_report_on_what_is_missing_or_damaged_is_written_and_not_green(tmp_path: Path) -> None:
    name = "generate_benchmark_report.py"
    done = script(name, tmp_path, "--wants", "gate.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "gate.json is missing" in done.stderr
    assert "### Performance: not judged: " in (tmp_path / "report.md").read_text()
    assert 'errors="1"' in (tmp_path / "junit.xml").read_text()
    # A damaged history does not hide a verdict.
    save_judgement(a_judgement("regressed"), tmp_path / "gate.json")
    (tmp_path / "history").mkdir()
    done = script(name, tmp_path, "--history", tmp_path / "history", cwd=tmp_path)
    assert done.returncode == 2
    text = (tmp_path / "report.md").read_text()
    assert "### Performance: regressed" in text
    assert "there is no history yet" in text
    assert "Missing" in (tmp_path / "report.html").read_text()


@pytest.fixture
def history(tmp_path: Path) -> Project:
    """A project with a remote, in whose folder history scripts can run."""
    project = Project(tmp_path / "project")
    project.commit("start", a="1")
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "remote")], check=True)
    project.git("remote", "add", "origin", str(tmp_path / "remote"))
    project.git("push", "-q", "origin", "main")
    return project


def test_the_history_branch(history: Project) -> None:
    name, cwd = "performance_history.sh", history.folder
    lines = cwd / "h" / "history.jsonl"
    first = script(name, "pull", "h", cwd=cwd)
    assert (first.returncode, "first run" in first.stdout) == (0, True)
    assert script(name, "push", "h", cwd=cwd).returncode == 2, "nothing is not pushed"
    head = history.git("rev-parse", "HEAD")
    assert script(name, "reference", "h", cwd=cwd).stdout.strip() == head
    history.git("tag", "v1")
    later = history.commit("later", a="2")
    assert script(name, "reference", "h", cwd=cwd).stdout.strip() == head, "the newest tag"
    lines.write_text(f'{{"reference": "{later}"}}\n{{"reference": ""}}\n')
    assert script(name, "reference", "h", cwd=cwd).stdout.strip() == later, "the history's own"
    assert script(name, "reference", "h", "v1", cwd=cwd).stdout.strip() == head, "what is said"
    assert script(name, "reference", "h", "v9", cwd=cwd).returncode == 2
    assert script(name, "push", "h", cwd=cwd).returncode == 0
    assert "nothing new" in script(name, "push", "h", cwd=cwd).stdout
    back = script(name, "pull", "other", cwd=cwd)
    assert "2 records" in back.stdout
    assert (cwd / "other" / "history.jsonl").read_text() == lines.read_text()
    # What is there stays: lines can be added, not taken away or changed.
    lines.write_text(lines.read_text().replace(later, "f" * 40))
    done = script(name, "push", "h", cwd=cwd)
    assert (done.returncode, "does not continue" in done.stderr) == (2, True)
    # The work tree and its branch are as they were.
    assert history.git("rev-parse", "HEAD") == later
    assert history.git("branch", "--list").split() == ["*", "main"]


def test_a_remote_that_does_not_answer_is_not_a_first_run(history: Project) -> None:
    history.git("remote", "set-url", "origin", str(history.folder / "nowhere"))
    done = script("performance_history.sh", "pull", "h", cwd=history.folder)
    assert done.returncode == 2
    assert "does not answer" in done.stderr
    assert "first run" not in done.stdout


@pytest.fixture
def github() -> Iterator[GitHub]:
    with serving() as made:
        made.pull("fork", "topic", "a" * 40)
        made.run("fork", "topic", "a" * 40)
        yield made


def comment(github: GitHub, *words: object, token: str = WRITE, cwd: Path = ROOT):
    return script(
        "pull_request_comment.py", *(words or ("--run", 1000)), cwd=cwd, GITHUB_TOKEN=token,
        GITHUB_REPOSITORY="o/r", GITHUB_API_URL=github.api,
    )  # fmt: skip


def gate_json(verdict: str = "regressed") -> bytes:
    return json.dumps(judgement_json(a_judgement(verdict))).encode()


def test_one_comment_among_many_is_found_again(github: GitHub) -> None:
    for at in range(130):
        github.comment(1, f"talk {at}", "somebody")
    github.comment(1, f"{MARK}\nold", BOT)
    for at in range(90):
        github.comment(1, f"more talk {at}", BOT)
    github.artifact(1000, "benchmark", {"gate.json": gate_json(), "report.md": b"all is well"})
    done = comment(github)
    assert (done.returncode, done.stdout) == (0, "comment on #1: updated\n"), done.stderr
    assert len(github.comments) == 221
    text = github.comments[130]["body"]
    assert "### Performance: regressed" in text
    assert "all is well" not in text, "the artifact's own words are not believed"
    # A stranger's names are text: no markup, no mention.
    assert HOSTILE not in text
    assert "@me" not in text
    assert comment(github).stdout == "comment on #1: left as it was\n"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"other.json": b"{}"},
        {"gate.json": b"not JSON"},
        {"gate.json": json.dumps({"schema": "hartwood-lab/1"}).encode()},
        {"gate.json": gate_json("pass").replace(b'"pass"', b'"fine"')},
        {"gate.json": b" " * (21 << 20)},
        {"../gate.json": gate_json("pass")},
    ],
    ids="empty other damaged run verdict large outside".split(),
)
def test_an_artifact_that_is_none_is_not_green(files: dict[str, bytes], github: GitHub) -> None:
    github.artifact(1000, "benchmark", files)
    done = comment(github)
    assert done.returncode == 0, done.stderr
    assert "### Performance: not judged: " in github.comments[0]["body"]
    assert len(github.comments[0]["body"]) < 1000


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no zip", b"x" * (21 << 20)])
def test_an_artifact_that_is_no_zip(data: bytes, github: GitHub) -> None:
    github.artifact(1000, "benchmark", {})
    github.artifacts[0]["data"] = data
    assert comment(github).returncode == 0
    assert "### Performance: not judged: " in github.comments[0]["body"]


def test_a_zip_that_is_damaged_inside(github: GitHub) -> None:
    github.artifact(1000, "benchmark", {"gate.json": gate_json("pass")})
    whole = github.artifacts[0]["data"]
    github.artifacts[0]["data"] = (
        whole[:60] + bytes(each ^ 0x55 for each in whole[60:80]) + whole[80:]
    )
    assert comment(github).returncode == 0
    assert "### Performance: not judged: " in github.comments[0]["body"]


def test_no_artifact_and_one_that_has_expired(github: GitHub) -> None:
    assert comment(github).returncode == 0
    github.artifact(1000, "benchmark", {"gate.json": gate_json("pass")})
    github.artifacts[0]["expired"] = True
    github.artifact(1000, "something else", {"gate.json": gate_json("pass")})
    assert comment(github).stdout == "comment on #1: left as it was\n"
    assert "the run left no judgement" in github.comments[0]["body"]


def test_a_run_that_is_not_the_newest_says_nothing(github: GitHub) -> None:
    github.artifact(1000, "benchmark", {"gate.json": gate_json("pass")})
    github.pulls[0]["head"]["sha"] = "b" * 40
    done = comment(github)
    assert (done.returncode, github.comments) == (0, [])
    assert "not of its newest commit" in done.stdout
    github.pulls[0]["head"]["sha"] = "a" * 40
    github.pulls[0]["state"] = "closed"
    assert comment(github).returncode == 0
    assert github.comments == []


def test_a_comment_that_would_be_too_long_is_cut(github: GitHub) -> None:
    judgement = a_judgement("regressed")
    one = judgement.benchmarks[0]
    judgement.benchmarks += [type(one)(f"n{at}", reason="x" * 200) for at in range(2000)]
    data = json.dumps(judgement_json(judgement)).encode()
    github.artifact(1000, "benchmark", {"gate.json": data})
    assert comment(github).returncode == 0
    text = github.comments[0]["body"]
    assert len(text) < 65_536
    assert "the rest is in the artifact" in text
    assert text.rstrip().endswith("/actions/runs/1000)")


@pytest.mark.parametrize("broken", ["/comments", "/pulls", "/zip", "/artifacts", "/runs/1000"])
def test_what_github_refuses_is_an_error_of_one_line(broken: str, github: GitHub) -> None:
    github.artifact(1000, "benchmark", {"gate.json": gate_json("pass")})
    github.broken = broken
    done = comment(github)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "500" in done.stderr
    assert github.comments == []


def test_tokens(github: GitHub, tmp_path: Path) -> None:
    github.artifact(1000, "benchmark", {"gate.json": gate_json("pass")})
    done = comment(github, token=READ)
    assert (done.returncode, "403" in done.stderr) == (2, True)
    assert comment(github, token="wrong").returncode == 2
    assert "GITHUB_TOKEN" in comment(github, token="").stderr
    for token in (READ, WRITE):
        assert token not in done.stdout + done.stderr
    # With any other CI: the number and the file are known already.
    (tmp_path / "gate.json").write_bytes(gate_json())
    words = ("--pull", 7, "--judgement", tmp_path / "gate.json", "--author", BOT)
    assert comment(github, *words).stdout == "comment on #7: made\n"
    assert comment(github, "--pull", 7).returncode == 2
