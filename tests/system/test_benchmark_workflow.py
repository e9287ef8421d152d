"""The workflows: GitHub's schema takes them, they forgive nothing, and every step of theirs runs.

A tiny project stands in for ours: its benchmarks bring a clock of their own, `make dev` puts
wrappers into .venv, and everything else is the workflow's and the scripts' own text.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from hartwood.lab.judgement import load_judgement
from hartwood.lab.report import MARK
from system.actions import WORKFLOWS, Expression, Job, Runner, expand
from system.benchmarked import BENCH, FAST, Project
from system.fake_github import READ, WRITE, GitHub, serving

ROOT = WORKFLOWS.parents[1]
FILES = sorted(path.name for path in WORKFLOWS.glob("*.yml"))
NAMES = ("benchmark.yml", "comment.yml", "performance.yml")


def parsed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load((WORKFLOWS / name).read_text())
    return found


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in parsed(name)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", FILES)
def test_githubs_schema_takes_it(name: str) -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [str(program), "--builtin-schema", "vendor.github-workflows", str(WORKFLOWS / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", FILES)
def test_no_failure_is_forgiven(name: str) -> None:
    text = (WORKFLOWS / name).read_text()
    for word in ("|| true", "continue-on-error", "secrets.", "pull_request_target", "|| :"):
        assert word not in text
    used = {step["uses"] for step in steps(name) if "uses" in step}
    assert used <= {"actions/checkout@v4", "actions/upload-artifact@v4"}
    for step in steps(name):
        # What a stranger can name (a branch, a title) is never part of a script.
        assert "${{" not in step.get("run", "")


def test_who_may_write_and_who_runs_when() -> None:
    gate, comment, nightly = map(parsed, NAMES)
    assert gate["permissions"] == {"contents": "read"}
    assert set(gate["on"]) == {"push", "pull_request", "workflow_dispatch", "schedule"}
    assert set(gate["on"]["workflow_dispatch"]["inputs"]) == {"alert", "warn"}
    assert gate["on"]["schedule"] == [{"cron": "0 2 * * *"}]
    assert gate["name"] in comment["on"]["workflow_run"]["workflows"]
    assert comment["permissions"]["pull-requests"] == "write"
    assert set(nightly["on"]) == {"schedule", "workflow_dispatch"}, "never a stranger's code"
    assert nightly["on"]["schedule"] != gate["on"]["schedule"]


def test_the_scripts_are_what_shellcheck_likes(oracle, tmp_path: Path) -> None:
    files = sorted(ROOT.glob("scripts/*.sh"))
    for name in FILES:
        for at, step in enumerate(steps(name)):
            if "run" in step:
                path = tmp_path / f"{name}-{at}.sh"
                # `set -e` is what GitHub adds to a step without `shell:`.
                path.write_text(f"#!/usr/bin/env bash\nset -e\n{step['run']}")
                files.append(path)
    assert len(files) > 10
    done = subprocess.run(
        [oracle("shellcheck"), *map(str, files)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b || 'x'", "x"),
        ("github.sha", "s"),
        ("inputs.n || '10'", "3"),
        ("github.sha == 's' && !failure()", False),
        ("success() || always()", True),
        ("(github.sha != 's') || 'it''s'", "it's"),
    ],
)
def test_the_runners_expressions(text: str, value: object) -> None:
    contexts = {"github": {"sha": "s"}, "inputs": {"n": "3"}}
    assert Expression(text, contexts, True).value() == value
    with pytest.raises(ValueError, match="not understood"):
        Expression("a + b", contexts, False)
    assert expand("<${{ github.sha }}|${{ github.none }}>", contexts) == "<s|>"


WRAPPER = """#!/bin/sh
case $2 in
  run | gate | selftest) exec {python} -m hartwood "$@" --file bench_mine.py --seed 7 ;;
  *) exec {python} -m hartwood "$@" ;;
esac
"""
MAKEFILE = """dev:
\tmkdir -p .venv/bin
\tcp wrappers/* .venv/bin/
"""
BUDGETS = """[[budget]]
component = "engine"
kind = "cumulative"
percent = 4
reason = "what everything waits for"
expires = 2999-01-01
"""


class Site:
    """The project, a bare repository that stands for GitHub's, and machines to run jobs on."""

    def __init__(self, folder: Path, github: GitHub) -> None:
        self.folder, self.github, self.jobs = folder, github, 0
        self.project = project = Project(folder / "project")
        shutil.copytree(ROOT / "scripts", project.folder / "scripts")
        wrappers = project.folder / "wrappers"
        wrappers.mkdir()
        (wrappers / "hartwood").write_text(WRAPPER.format(python=sys.executable))
        (wrappers / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        for path in wrappers.iterdir():
            path.chmod(0o755)
        (project.folder / "Makefile").write_text(MAKEFILE)
        (project.folder / ".gitignore").write_text(".venv/\nbench/results/\n__pycache__/\n")
        (project.folder / "bench").mkdir()
        (project.folder / "bench" / "budgets.toml").write_text(BUDGETS)
        self.start = project.commit("start", bench_mine=BENCH, slow="COST = 99_999\n", fast=FAST)
        self.remote = folder / "remote.git"
        subprocess.run(["git", "init", "-q", "--bare", str(self.remote)], check=True)
        project.git("remote", "add", "origin", str(self.remote))
        project.git("push", "-q", "origin", "main")

    def change(self, branch: str, **files: str) -> str:
        """A commit on a branch of main's, pushed as GitHub has it for a pull request."""
        self.project.git("checkout", "-q", "-B", branch, "main")
        made = self.project.commit(branch, **files)
        self.project.git("push", "-q", "-f", "origin", f"HEAD:refs/changes/{branch}")
        return made

    def _job(self, workflow: str, sha: str, event: dict[str, Any], inputs=None) -> Job | None:
        self.jobs += 1
        temporary = self.folder / f"tmp{self.jobs}"
        temporary.mkdir()
        self.uploads: dict[str, dict[str, bytes]] = {}

        def checkout(folder: Path, options: dict[str, str]) -> None:
            if workflow == "comment.yml":
                # The default branch: what of it the job needs.
                for name in ("src", "scripts"):
                    (folder / name).symlink_to(ROOT / name)
                return
            command = ["git", "clone", "-q", "--no-checkout", str(self.remote), str(folder)]
            subprocess.run(command, check=True)
            for words in (("fetch", "-q", "origin", sha), ("checkout", "-q", sha)):
                subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)

        def upload(folder: Path, options: dict[str, str]) -> None:
            found = [p for line in options["path"].split() for p in sorted(folder.glob(line))]
            if not found and options["if-no-files-found"] == "error":
                raise FileNotFoundError("No files were found with the provided path")
            # The root of what is uploaded is the folder all of it is in.
            top = Path(os.path.commonpath([path.parent for path in found]))
            self.uploads[options["name"]] = {
                str(path.relative_to(top)): path.read_bytes() for path in found
            }

        runner = Runner(
            workflow, self.folder / f"job{self.jobs}",
            {"actions/checkout": checkout, "actions/upload-artifact": upload},
            {"TMPDIR": str(temporary), "XDG_CACHE_HOME": str(self.folder / "cache")},
        )  # fmt: skip
        github = {
            "event": event, "sha": sha, "repository": self.github.repository,
            "api_url": self.github.api,
            "token": WRITE if workflow == "comment.yml" else READ,
        }  # fmt: skip
        return runner.run(github, inputs)

    def push(self, sha: str, before: str | None, inputs=None) -> Job:
        """The gate on a push (or on demand, where there is no `before`)."""
        job = self._job("benchmark.yml", sha, {"before": before} if before else {}, inputs)
        assert job is not None
        return job

    def pull_request(self, owner: str, branch: str, sha: str) -> tuple[Job, Job | None]:
        """The gate on a pull request, then the workflow that its end starts."""
        number = next(
            (p["number"] for p in self.github.pulls if p["head"]["ref"] == branch), None
        ) or self.github.pull(owner, branch, sha)
        self.github.pulls[number - 1]["head"]["sha"] = sha
        event = {"pull_request": {"number": number, "base": {"sha": self.start}}}
        tree = self.project.git("rev-parse", f"{sha}^{{tree}}")
        merged = self.project.git(
            "commit-tree", tree, "-p", self.start, "-p", sha, "-m", f"Merge {sha}"
        )
        self.project.git("push", "-q", "-f", "origin", f"{merged}:refs/pull/{number}/merge")
        gate = self._job("benchmark.yml", merged, event)
        assert gate is not None
        run = self.github.run(owner, branch, sha)
        for name, files in self.uploads.items():
            self.github.artifact(run["id"], name, files)
        return gate, self._job("comment.yml", self.start, {"workflow_run": run})

    def night(self, sha: str, **inputs: str) -> Job:
        """The nightly run, with a short self-test."""
        job = self._job("performance.yml", sha, {}, {"arms": "2", "plant": "10", **inputs})
        assert job is not None
        return job


@pytest.fixture
def site(tmp_path: Path):
    with serving() as github:
        yield Site(tmp_path, github)


def conclusions(job: Job) -> dict[str, str]:
    return {step.name: step.conclusion for step in job.steps}


def test_a_pull_request_from_a_fork_from_checkout_to_comment(site: Site) -> None:
    # Somebody else has the marker in a comment of theirs: that one is not ours to change.
    site.github.comment(1, f"{MARK}\nall green!", "stranger")
    slow = site.change("slower", slow="COST = 119_999\n")
    gate, comment = site.pull_request("stranger", "slower", slow)
    assert gate.conclusion == "failure"
    assert conclusions(gate) == {
        "actions/checkout": "success", "Set up": "success", "Gate": "failure",
        "Report": "success", "actions/upload-artifact": "success",
    }  # fmt: skip
    assert "### Performance: regressed" in gate.summary
    assert "no write token and needs no\nsecret" in gate.summary
    assert [each["name"] for each in site.github.artifacts] == ["benchmark"]
    assert comment is not None
    assert comment.conclusion == "success", comment.steps[-1].output
    theirs, ours = site.github.comments
    assert theirs["body"].endswith("all green!")
    assert ours["body"].startswith(MARK)
    assert "### Performance: regressed" in ours["body"]
    assert "| work | regressed (alert) | +20.0 %" in ours["body"]
    assert "https://github.com/o/r/actions/runs/1000" in ours["body"]
    # Nothing but the comment was written, and only by the token that may.
    assert [each for each in site.github.log if each[0] != "GET"] == [
        ("POST", "/repos/o/r/issues/1/comments")
    ]
    # The next commit is fine: the same comment says so.
    fine = site.change("slower", slow="COST = 99_999\n")
    gate, comment = site.pull_request("stranger", "slower", fine)
    assert gate.conclusion == "success"
    assert comment is not None
    assert comment.conclusion == "success"
    assert len(site.github.comments) == 2
    assert site.github.comments[1]["id"] == ours["id"]
    assert "### Performance: pass" in site.github.comments[1]["body"]


def test_a_push_to_main_that_is_slower_or_faster(site: Site) -> None:
    slow = site.change("slower", slow="COST = 103_999\n")
    job = site.push(slow, site.start)
    assert job.conclusion == "failure"
    assert "regressed (slight)" in job.summary
    gate = site.folder / "gate.json"
    gate.write_bytes(site.uploads["benchmark"]["gate.json"])
    assert load_judgement(gate).base == site.start
    assert set(site.uploads["benchmark"]) == {
        "gate.json", "report.html", "report.md", "report.json", "report.sarif", "junit.xml",
    }  # fmt: skip
    # On demand, with other thresholds; the base is then found without being told.
    job = site.push(slow, None, {"warn": "3", "alert": "4"})
    assert "regressed (alert)" in job.summary
    assert "Alerts from 4 %, warnings from 3 %" in job.summary
    fast = site.change("faster", slow="COST = 79_999\n")
    job = site.push(fast, "0" * 40)
    assert job.conclusion == "success", job.steps[2].output
    assert "### Performance: improved" in job.summary


@pytest.mark.parametrize("base_loads", [True, False])
def test_what_could_not_be_judged_is_red_and_says_so(site: Site, base_loads: bool) -> None:
    wrong = BENCH.replace("lambda: spend(slow", "lambda: 1 / 0 or (slow")
    assert wrong != BENCH
    gone = site.change("gone", bench_mine=wrong)
    if not base_loads:
        site.start = site.change("broken", bench_mine="import nothing_there\n")
    gate, comment = site.pull_request("o", "gone", gone)
    assert gate.conclusion == "failure"
    # A benchmark that fails is a verdict, inconclusive; where nothing loads there is none.
    assert conclusions(gate) == {
        "actions/checkout": "success", "Set up": "success", "Gate": "failure",
        "Report": "success" if base_loads else "failure", "actions/upload-artifact": "success",
    }  # fmt: skip
    said = "### Performance: " + ("inconclusive" if base_loads else "not judged")
    assert said in gate.summary
    (artifact,) = site.github.artifacts
    with zipfile.ZipFile(io.BytesIO(artifact["data"])) as archive:
        assert ("gate.json" in archive.namelist()) == base_loads
    assert comment is not None
    assert comment.conclusion == "success"
    (ours,) = site.github.comments
    assert said in ours["body"]


def test_a_set_up_that_fails_leaves_a_comment_that_says_so(site: Site) -> None:
    (site.project.folder / "Makefile").write_text("dev:\n\tfalse\n")
    sha = site.change("broken")
    gate, comment = site.pull_request("o", "broken", sha)
    assert conclusions(gate) == {
        "actions/checkout": "success", "Set up": "failure", "Gate": "skipped",
        "Report": "failure", "actions/upload-artifact": "failure",
    }  # fmt: skip
    assert comment is not None
    assert comment.conclusion == "success"
    assert "not judged: the run left no judgement" in site.github.comments[0]["body"]


def test_only_pull_requests_get_comments(site: Site) -> None:
    run = site.github.run("o", "main", site.start) | {"event": "push"}
    assert site._job("comment.yml", site.start, {"workflow_run": run}) is None


@pytest.mark.timeout(400)
def test_nights(site: Site) -> None:
    git = site.project.git
    first = site.night(site.start)
    assert first.conclusion == "success", [s for s in first.steps if s.conclusion == "failure"]
    assert "this is the first run" in first.step("History").output
    assert "2 records on performance-history" in first.step("Keep the history").output
    assert "### Performance: pass" in first.summary
    assert "recorded until" in first.summary
    kept = site.uploads["performance"]
    assert {
        "run.json",
        "gate.json",
        "selftest.jsonl",
        "report.html",
        "history/history.jsonl",
    } <= set(kept)
    lines = [json.loads(line) for line in kept["history/history.jsonl"].splitlines()]
    assert [line["reference"] for line in lines] == ["", site.start], "the first run pins itself"

    # Another commit, 8 % slower: measured against the same reference, red, and kept all the same.
    git("checkout", "-q", "main")
    slower = site.project.commit("slower", slow="COST = 107_999\n")
    git("push", "-q", "origin", "main")
    second = site.night(slower)
    assert second.conclusion == "failure"
    assert "2 records from performance-history" in second.step("History").output
    assert conclusions(second) == {
        **dict.fromkeys(conclusions(second), "success"), "Measure": "failure", "Budgets": "failure",
    }  # fmt: skip
    assert "+8.00 % of +4.00 %" in second.step("Budgets").output
    assert "budget component engine" in second.summary
    git("fetch", "-q", "origin", "performance-history")
    lines = [json.loads(line) for line in git("show", "FETCH_HEAD:history.jsonl").splitlines()]
    assert len(lines) == 4
    assert lines[3]["reference"] == site.start
    assert lines[3]["ratios"]["work"] == pytest.approx(1.08)
    assert git("rev-list", "--count", "FETCH_HEAD") == "2"


@pytest.mark.timeout(400)
def test_a_night_on_which_nothing_can_be_measured(site: Site) -> None:
    site.project.git("checkout", "-q", "main")
    broken = site.project.commit("broken", bench_mine="import nothing_there\n")
    site.project.git("push", "-q", "origin", "main")
    job = site.night(broken)
    assert job.conclusion == "failure"
    assert conclusions(job) == {
        **dict.fromkeys(conclusions(job), "failure"), "actions/checkout": "success",
        "Set up": "success", "History": "success", "actions/upload-artifact": "success",
    }  # fmt: skip
    assert "not judged" in job.summary
    assert "run.json is missing" in job.step("Report").output
    assert not site.project.git("ls-remote", "origin", "performance-history")
