"""Files that are no programs, and programs that are damaged: one clear line, never a traceback."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from guests.build import build
from system.running import Outcome, run

DAMAGED = 40


@pytest.fixture(scope="module")
def program(oracle: Callable[[str], str]) -> bytes:
    oracle("riscv64-linux-gnu-gcc")
    return build("linux/ends.c", ("-O1",)).read_bytes()


def start(command: list[str], file: Path, data: bytes, *rest: str) -> Outcome:
    file.write_bytes(data)
    file.chmod(0o755)
    return run([*command, "run", file, *rest], timeout=20)


def is_one_clear_line(outcome: Outcome, file: Path | str, words: str) -> None:
    assert outcome.status == 2, outcome
    text = outcome.err.decode()
    assert text.count("\n") == 1, text
    assert text.startswith("hartwood: ")
    assert str(file) in text
    assert words in text, text
    assert outcome.out == b""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"\x7fELF", "truncated"),
        (b"not a program\n" * 100, "not an ELF file"),
        (bytes(10000), "not an ELF file"),
        (b"#!\n", "names no interpreter"),
        (b"#!/nonexistent/interpreter\n", "No such file"),
    ],
)
def test_no_program(tmp_path: Path, hartwood_command: list[str], data: bytes, words: str) -> None:
    file = tmp_path / "prog"
    outcome = start(hartwood_command, file, data)
    named = "/nonexistent/interpreter" if b"nonexistent" in data else file
    is_one_clear_line(outcome, named, words)


def test_other_machines_programs(hartwood_command: list[str]) -> None:
    outcome = run([*hartwood_command, "run", "/bin/sh"])
    is_one_clear_line(outcome, "/bin/sh", "not for riscv64")


def test_directory_missing_and_unreadable(tmp_path: Path, hartwood_command: list[str]) -> None:
    is_one_clear_line(run([*hartwood_command, "run", tmp_path]), tmp_path, "regular file")
    missing = tmp_path / "missing"
    is_one_clear_line(run([*hartwood_command, "run", missing]), missing, "No such file")
    if os.geteuid():
        closed = tmp_path / "closed"
        closed.touch(0o000)
        is_one_clear_line(run([*hartwood_command, "run", closed]), closed, "Permission denied")


def test_a_missing_library_or_linker_is_named(
    tmp_path: Path, hartwood_command: list[str], oracle: Callable[[str], str]
) -> None:
    oracle("riscv64-linux-gnu-gcc")
    dynamic = build("linux/ends.c", ("-O1",), static=False)
    outcome = run([*hartwood_command, "run", "--root", tmp_path, dynamic])
    is_one_clear_line(outcome, dynamic, "ld-linux-riscv64-lp64d.so.1 cannot be opened")
    assert b"--root" in outcome.err
    (tmp_path / "lib").mkdir()
    linker = Path("/usr/riscv64-linux-gnu/lib/ld-linux-riscv64-lp64d.so.1")
    (tmp_path / "lib" / linker.name).write_bytes(linker.read_bytes())
    outcome = run([*hartwood_command, "run", "--root", tmp_path, dynamic])
    assert outcome.status == 127
    assert b"libc.so.6" in outcome.err


@pytest.mark.parametrize("length", [64, 100, 1000, 4096, 100_000])
def test_truncated(
    tmp_path: Path, hartwood_command: list[str], program: bytes, length: int
) -> None:
    file = tmp_path / "prog"
    is_one_clear_line(start(hartwood_command, file, program[:length]), file, "truncated")


def test_damaged_programs_end_without_a_traceback(
    tmp_path: Path, hartwood_command: list[str], program: bytes
) -> None:
    """Bits flipped in headers, code and data: refused, or run to whatever end of the guest's."""
    rng = random.Random(20)
    ends = {"refused": 0, "exit": 0, "signal": 0}
    for number in range(DAMAGED):
        data = bytearray(program)
        where = (64, 0x4000, len(data))[number % 3]
        for _ in range((1, 30, 300)[number % 3]):
            data[rng.randrange(0x18, where)] ^= 1 << rng.randrange(8)
        limited = ["sh", "-c", 'ulimit -t 5; exec "$0" "$@"', *hartwood_command]
        outcome = start(limited, tmp_path / f"prog{number}", bytes(data), "machine")
        assert b"Traceback" not in outcome.err, outcome.err
        assert b"hartwood: " not in outcome.err or outcome.err.count(b"\n") <= 2, outcome.err
        if outcome.status == 2 and outcome.err.startswith(b"hartwood: "):
            ends["refused"] += 1
        elif outcome.status >= 0:
            ends["exit"] += 1
        else:
            assert -outcome.status in {
                signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT,
                signal.SIGXCPU, signal.SIGKILL,
            }, outcome  # fmt: skip
            ends["signal"] += 1
    assert all(ends.values()), ends
