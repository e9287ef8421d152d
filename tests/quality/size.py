"""The size budgets, and a reader of how large the tree is."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE_SOFT, FILE_HARD = 500, 800  # lines of one module
PACKAGE = 41_000  # lines of the machine's src in the first year
LABORATORY = 8_000  # and of the laboratory, which serves any Python project
ROOT_ENTRIES = 15  # names at the top of the repository
TEST_SUFFIXES = {".py", ".c", ".cpp", ".h", ".s", ".lua", ".pl", ".sql", ".ins", ".blk"}


def lines(path: Path) -> int:
    """The number of lines of a file."""
    return path.read_bytes().count(b"\n")


def modules(folder: str) -> dict[Path, int]:
    """Every Python module under `folder` and its lines."""
    found = sorted((ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT): lines(path) for path in found}


def lines_of_tests() -> int:
    """Lines under tests: what checks, and the guests and golden rows it checks with."""
    files = (path for path in (ROOT / "tests").rglob("*") if path.suffix in TEST_SUFFIXES)
    return sum(lines(path) for path in files)


def rooms() -> dict[str, int]:
    """Lines by room of the package."""
    totals: dict[str, int] = {}
    for path, count in modules("src").items():
        room = path.parts[2] if len(path.parts) > 3 else "(top)"
        totals[room] = totals.get(room, 0) + count
    return totals


def root_entries() -> set[str]:
    """The names at the top of the repository that git knows or would take."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition("/")[0] for name in done.stdout.splitlines()}
