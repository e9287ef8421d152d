"""`make check`: format, lint, types, layers, sizes, spelling; `ROOM=mem` narrows it to a room."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PYTHON = sys.executable


def commands(room: str) -> Iterator[tuple[str, list[str]]]:
    """The checks as (name, command); `room` narrows those that can be narrowed."""
    whole = [
        "src",
        "tests",
        "scripts",
        "bench",
        *(name for name in ("examples",) if Path(name).is_dir()),
    ]
    paths = [f"src/hartwood/{room}"] if room else whole
    if room and not Path(paths[0]).exists():
        paths = [f"{paths[0]}.py"]
    yield "format", [PYTHON, "-m", "ruff", "format", "--check", "--quiet", *paths]
    yield "lint", [PYTHON, "-m", "ruff", "check", "--quiet", *paths]
    yield "types", [PYTHON, "-m", "mypy", "--no-error-summary", *(paths if room else [])]
    prose = [name for name in ("docs", "README.md", "CHANGELOG.md") if Path(name).exists()]
    spelled = paths if room else [*paths, *prose]
    yield "spelling", [str(Path(PYTHON).parent / "codespell"), *spelled]
    yield "layers, sizes", [PYTHON, "-m", "pytest", "-q", "--no-header", "tests/quality"]


def main(arguments: list[str]) -> int:
    """Run every check, even after one failed; return 1 when one did."""
    failed = []
    for name, command in commands(arguments[0] if arguments else ""):
        begin = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        verdict = "failed" if done.returncode else "ok"
        print(f"check: {name:14} {verdict:7} {time.monotonic() - begin:5.1f} s", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout + done.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
