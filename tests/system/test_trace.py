"""`--trace` shows every instruction once, the same in every engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hartwood.isa.riscv import RISCV
from system.elf_of import executable

PROGRAM = """
    li a0, 3
    li a1, 0
loop:
    add a1, a1, a0
    addi a0, a0, -1
    bnez a0, loop
    fcvt.d.l ft0, a1, rne
    mv a0, a1
    li a7, 93
    ecall
"""


def trace(program: Path, folder: Path, engine: str) -> tuple[int, list[str], int]:
    """Exit status, lines of the trace, instructions counted."""
    stats = folder / f"{engine}.json"
    done = subprocess.run(
        [sys.executable, "-m", "hartwood", "run", "--trace", f"--engine={engine}",
         f"--stats={stats}", str(program)],
        env={**os.environ, "HARTWOOD_CACHE": str(folder / "cache")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    counted = json.loads(stats.read_text())["instructions"]
    return done.returncode, done.stderr.splitlines(), counted


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[str], int]]:
    folder = tmp_path_factory.mktemp("trace")
    program = folder / "sum"
    program.write_bytes(executable(RISCV.assemble(PROGRAM, pc=0x10000), at=0x10000))
    program.chmod(0o755)
    return {engine: trace(program, folder, engine) for engine in ("interp", "jit", "reference")}


def test_each_instruction_has_one_line(traces) -> None:
    for status, lines, counted in traces.values():
        assert status == 6
        assert len(lines) == counted == 2 + 3 * 3 + 4


def test_every_engine_prints_the_same(traces) -> None:
    assert traces["interp"] == traces["jit"] == traces["reference"]


def test_a_line_tells_where_what_and_what_changed(traces) -> None:
    lines = traces["interp"][1]
    assert lines[0].split() == ["10000", "addi", "a0,", "zero,", "3", "#", "x10=0x3"]
    assert lines[2].split() == ["10008", "add", "a1,", "a1,", "a0", "#", "x11=0x3"]
    assert "f0=0x4018000000000000" in lines[-4]
    assert lines[-1].split() == ["10020", "ecall", "(trap)"]
