"""Builds guest programs from source with the cross compilers; the results are kept between runs.

A program is named by its file under this directory; its key is the text of everything that went
into it, so a changed source or flag is built again and an unchanged one never is.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
PREFIX = "riscv64-linux-gnu-"
CROSS_ROOT = Path("/usr/riscv64-linux-gnu")  # the cross C library: a sysroot for dynamic programs
LEVELS = ("-O0", "-O1", "-O2", "-O3", "-Os")
ALWAYS = ("-Wall", "-Wno-unused-result", "-pthread")


class BuildError(Exception):
    """The compiler refused; its words are the text."""


def compiler(source: Path, prefix: str = PREFIX) -> str:
    """The name of the compiler for `source` (C, C++ or assembly)."""
    return prefix + ("g++" if source.suffix == ".cpp" else "gcc")


def build(
    source: str | Path,
    flags: Sequence[str] = ("-O2",),
    *,
    static: bool = True,
    prefix: str = PREFIX,
) -> Path:
    """Compile `source` (relative to this directory, or absolute); return the program.

    `prefix=""` builds for the host. Raises `BuildError`.
    """
    path = HERE / source
    program = compiler(path, prefix)
    words = [*ALWAYS, *flags, *(["-static"] if static else []), str(path), "-lm"]
    key = hashlib.blake2b(digest_size=12)
    for part in (_version(program), *words):
        key.update(part.encode() + b"\0")
    key.update(path.read_bytes())
    for header in sorted(path.parent.glob("*.h")):
        key.update(header.read_bytes())
    target = _store() / f"{path.stem}-{key.hexdigest()}"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        made = Path(work) / "program"
        done = subprocess.run(
            [program, *words, "-o", str(made)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BuildError(f"{path.name}: {done.stderr.strip()}")
        made.rename(target)  # atomic: test workers build at the same time
    return target


@cache
def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.partition("\n")[0]


@cache
def _store() -> Path:
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    store = Path(cache_home).expanduser() / "hartwood" / "built-guests"
    store.mkdir(parents=True, exist_ok=True)
    return store
