"""Micro-guests as programs of user-mode Linux: the smallest ELF files there are, and who runs them.

ELF-64 as in the System V ABI, chapters 4 and 5: one header, one segment, no sections.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import ModuleType

from hartwood.isa.riscv import RISCV
from hartwood.lab import LabError, Skip

_BASE = 0x10000
_HEADERS = 64 + 56
_RISCV64 = 243
#: System calls of one run of GETPPID.
CALLS = 20_000
GETPPID = f"li s1, {CALLS}; loop: li a7, 173; ecall; addi s1, s1, -1; bnez s1, loop"
GETPPID += "; li a0, 42; li a7, 93; ecall"
_folder: Path | None = None


def folder() -> Path:
    """A folder of this process's own; its worker has it removed."""
    global _folder
    if _folder is None:
        _folder = Path(tempfile.mkdtemp())
    return _folder


def program(name: str, text: str, room: int = 0) -> Path:
    """An executable made of assembly; `room` bytes of zeros follow the code, writable like it."""
    entry = _BASE + _HEADERS
    code = RISCV.assemble(text, entry)
    size = _HEADERS + len(code)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 2, _RISCV64, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, size, size + room, 4096)
    path = folder() / name
    path.write_bytes(header + segment + code)
    path.chmod(0o700)
    return path


def hartwood(guest: Path, cache: str | Path) -> int:
    """The exit status of a program under this checkout's Hartwood, with a code cache of its own."""
    Path(cache).mkdir(mode=0o700, exist_ok=True)
    return run([sys.executable, "-m", "hartwood", "run", str(guest)], HARTWOOD_CACHE=str(cache))


def run(words: list[str], **environment: str) -> int:
    """The exit status of a command. Raises `LabError` where it says something is wrong."""
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    if done.stderr:
        raise LabError(f"{words[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done.returncode


def unicorn() -> ModuleType:
    """The package of that name, its constants for RISC-V loaded. Raises `Skip`."""
    try:
        import_module("unicorn.riscv_const")
        return import_module("unicorn")
    except ImportError:
        raise Skip("unicorn is not installed: pip install unicorn") from None
