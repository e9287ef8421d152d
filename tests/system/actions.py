"""Runs workflow files on this machine: jobs, conditions, expressions, `run:` steps as they stand.

Of the actions there are only checkout and upload-artifact, and what they do here is what their
documentation says. Expressions are those of docs.github.com/actions/learn-github-actions, as far
as our workflows use them; anything else is an error, not a guess.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

WORKFLOWS = Path(__file__).resolve().parents[2] / ".github" / "workflows"
_TOKEN = re.compile(r"\s*(?:('(?:[^']|'')*')|(\|\||&&|==|!=|!|\(|\))|([A-Za-z_][\w.-]*))")
_WHOLE = re.compile(r"\$\{\{(.*?)\}\}")


class Expression:
    """A recursive descent over `||`, `&&`, comparisons, contexts and status functions."""

    def __init__(self, text: str, contexts: Mapping[str, Any], failed: bool) -> None:
        self.tokens: list[str] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if not found:
                raise ValueError(f"not understood: {text[at:]!r}")
            self.tokens.append(found[0].strip())
            at = found.end()
        self.contexts, self.failed = contexts, failed

    def value(self) -> Any:
        found = self._either()
        if self.tokens:
            raise ValueError(f"left over: {self.tokens}")
        return found

    def _take(self, *wanted: str) -> bool:
        if self.tokens and self.tokens[0] in wanted:
            self.tokens.pop(0)
            return True
        return False

    def _either(self) -> Any:
        found = self._both()
        while self._take("||"):
            other = self._both()
            found = found or other
        return found

    def _both(self) -> Any:
        found = self._compared()
        while self._take("&&"):
            other = self._compared()
            found = found and other
        return found

    def _compared(self) -> Any:
        found = self._atom()
        for sign in ("==", "!="):
            if self._take(sign):
                return (found == self._atom()) == (sign == "==")
        return found

    def _atom(self) -> Any:
        if self._take("!"):
            return not self._atom()
        if self._take("("):
            found = self._either()
            assert self._take(")")
            return found
        name = self.tokens.pop(0)
        if name.startswith("'"):
            return name[1:-1].replace("''", "'")
        if self._take("("):
            assert self._take(")")
            return {"always": True, "success": not self.failed, "failure": self.failed}[name]
        found = self.contexts
        for part in name.split("."):
            found = (found or {}).get(part) if isinstance(found, Mapping) else None
        return found


def expand(text: object, contexts: Mapping[str, Any], failed: bool = False) -> str:
    """Text with its `${{ }}` replaced."""

    def one(found: re.Match[str]) -> str:
        value = Expression(found[1], contexts, failed).value()
        return "" if value is None else str(value)

    return _WHOLE.sub(one, str(text))


@dataclass
class Step:
    """What came of one step."""

    name: str
    conclusion: str
    output: str = ""
    script: str = ""


@dataclass
class Job:
    """What came of a job."""

    conclusion: str = "success"
    steps: list[Step] = field(default_factory=list)
    summary: str = ""

    def step(self, name: str) -> Step:
        (found,) = [each for each in self.steps if each.name == name]
        return found


class Runner:
    """One job of one workflow in a folder. `actions` has what a `uses:` does, by its name before
    the @; `environment` is what the machine has besides what GitHub sets."""

    def __init__(
        self,
        workflow: str,
        folder: Path,
        actions: Mapping[str, Callable[[Path, dict[str, str]], None]],
        environment: Mapping[str, str],
    ) -> None:
        self.workflow = YAML(typ="safe").load((WORKFLOWS / workflow).read_text())
        self.folder, self.actions, self.environment = folder, actions, environment

    def run(self, github: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> Job | None:
        """Run it; None where the job's own condition says no."""
        (job,) = self.workflow["jobs"].values()
        contexts: dict[str, Any] = {"github": github, "inputs": inputs or {}}
        expand(self.workflow.get("concurrency", {}).get("group", ""), contexts)
        if "if" in job and not Expression(job["if"], contexts, False).value():
            return None
        self.folder.mkdir(parents=True)
        summary = self.folder.with_name(f"{self.folder.name}.summary")
        base = {
            "PATH": os.environ["PATH"], "HOME": str(self.folder), "CI": "true",
            "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary),
            "GITHUB_REPOSITORY": github["repository"], "GITHUB_API_URL": github["api_url"],
            **self.environment,
        }  # fmt: skip
        base |= {key: expand(text, contexts) for key, text in job.get("env", {}).items()}
        done = Job()
        for step in job["steps"]:
            failed = done.conclusion == "failure"
            name = step.get("name") or step["uses"].partition("@")[0]
            if not Expression(step.get("if", "success()"), contexts, failed).value():
                done.steps.append(Step(name, "skipped"))
                continue
            made = self._step(step, name, contexts, base)
            done.steps.append(made)
            if made.conclusion == "failure" and not step.get("continue-on-error"):
                done.conclusion = "failure"
        done.summary = summary.read_text() if summary.exists() else ""
        return done

    def _step(
        self, step: dict[str, Any], name: str, contexts: dict[str, Any], base: dict[str, str]
    ) -> Step:
        if "uses" in step:
            options = {key: expand(value, contexts) for key, value in step.get("with", {}).items()}
            try:
                self.actions[step["uses"].partition("@")[0]](self.folder, options)
            except FileNotFoundError as error:
                return Step(name, "failure", str(error))
            return Step(name, "success")
        env = base | {key: expand(text, contexts) for key, text in step.get("env", {}).items()}
        script = expand(step["run"], contexts)
        # Without `shell:` it is `bash -e {0}`: no pipefail.
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=self.folder, env=env, check=False, timeout=170,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        conclusion = "success" if done.returncode == 0 else "failure"
        return Step(name, conclusion, done.stdout, script)
