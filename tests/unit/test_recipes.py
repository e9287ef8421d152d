"""The recipes in docs/ are executed: a page that no longer works is a failure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Golden rows are held against the reference once the page's own definitions are registered.
ROWS = """
import sys
sys.path.insert(0, {tests!r})
from unit.golden import parse
from unit.test_golden import run
cases = list(parse({rows!r}, {page!r}))
assert cases
for case in cases:
    after, trap = run(case)
    assert trap == case.trap, case
    assert after == (case.after if case.trap is None else case.before), case
    assert RISCV.assemble(case.asm, case.before.pc) == case.code, case
"""


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page as (language, text)."""
    return FENCE.findall(page.read_text())


@pytest.mark.parametrize("name", ["adding-an-instruction.md"])
def test_recipe(name: str) -> None:
    found = blocks(ROOT / "docs" / name)
    assert {language for language, _ in found} == {"python", "ins"}
    script = "\n".join(text for language, text in found if language == "python")
    rows = "".join(text for language, text in found if language == "ins")
    script += ROWS.format(tests=str(ROOT / "tests"), rows=rows, page=name)
    # A process of its own: what it registers would stay in ours.
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_recipe_for_devices() -> None:
    found = blocks(ROOT / "docs" / "adding-a-device.md")
    assert {language for language, _ in found} == {"python"}
    script = f"import sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
    script += "\n".join(text for _, text in found)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_recipe_for_benchmarks(tmp_path: Path) -> None:
    """The page's Python is one file of benchmarks; its commands are run beside it, in order."""
    found = blocks(ROOT / "docs" / "BENCHMARKING.md")
    script = "\n\n".join(text for language, text in found if language == "python")
    (tmp_path / "bench_mine.py").write_text(script)
    lines = [line for language, text in found if language == "sh" for line in text.splitlines()]
    assert len(lines) > 3
    bin_folder = str(Path(sys.executable).parent)
    for line in lines:
        assert line.startswith("hartwood bench "), line
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert "sort/" in done.stdout, line


def test_readme_python_is_sound() -> None:
    for language, text in blocks(ROOT / "README.md"):
        if language == "python":
            compile(text, "README.md", "exec")


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")))
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:src|tests|scripts|bench|docs)/[\w/.*-]+)`", page.read_text()):
        assert list(ROOT.glob(name.rstrip("/"))), f"{page.name} names {name}"
