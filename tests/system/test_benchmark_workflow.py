"""The workflow is what GitHub takes, never forgives, and its report step does what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hartwood.lab.judgement import save_judgement
from unit.lab_results import a_judgement

WORKFLOW = Path(__file__).resolve().parents[2] / ".github/workflows/benchmark.yml"


def test_githubs_schema_takes_it() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [str(program), "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_gate_that_fails_is_not_forgiven_and_forks_need_no_token() -> None:
    text = WORKFLOW.read_text()
    assert "|| true" not in text
    assert "continue-on-error" not in text
    assert YAML(typ="safe").load(text)["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("verdict", ["regressed", "pass", None])
def test_the_report_step(tmp_path: Path, verdict: str | None) -> None:
    steps = YAML(typ="safe").load(WORKFLOW.read_text())["jobs"]["gate"]["steps"]
    (step,) = [each for each in steps if each.get("name") == "Report"]
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "hartwood").write_text(f'#!/bin/sh\nexec {sys.executable} -m hartwood "$@"\n')
    (programs / "hartwood").chmod(0o755)
    if verdict:
        save_judgement(a_judgement(verdict), tmp_path / "gate.json")
    summary = tmp_path / "summary"
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step["run"]], cwd=tmp_path, check=False,
        env={**os.environ, "GITHUB_STEP_SUMMARY": str(summary)}, capture_output=True, text=True,
    )  # fmt: skip
    if verdict is None:
        assert done.returncode == 2
        assert "gate.json: No such file" in done.stderr
        assert not summary.exists()
        return
    assert done.returncode == 0
    assert f"### Performance: {verdict}" in summary.read_text()
    for name in ("report.html", "junit.xml", "gate.sarif"):
        assert (tmp_path / name).stat().st_size > 100
