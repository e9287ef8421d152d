"""The command line as a person meets it: start-up, one-line errors, pipes, listings, cache."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from guests.build import build
from system.running import run

Oracle = Callable[[str], str]
# None of these may be loaded before a guest runs: each costs more than a small guest takes.
SLOW = {
    "argparse", "asyncio", "dataclasses", "inspect", "json", "llvmlite", "logging", "numpy", "rich",
    "multiprocessing", "subprocess", "tempfile", "threading", "typer", "typing",
}  # fmt: skip


@pytest.fixture
def hello(oracle: Oracle) -> Path:
    oracle("riscv64-linux-gnu-gcc")
    return build("freestanding/hello.c", ("-O1", "-nostdlib", "-ffreestanding"))


def imported(words: list[str]) -> dict[str, int]:
    """Modules that `python -X importtime` saw, with their own microseconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hartwood", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    lines = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr)
    return {name: int(microseconds) for microseconds, name in lines}


def test_run_imports_nothing_slow_before_the_guest() -> None:
    seen = imported(["run", "/nonexistent/program"])
    assert "hartwood.linux.process" in seen
    assert not {name.partition(".")[0] for name in seen} & SLOW


def test_run_imports_nothing_slow_with_the_guest(hello: Path) -> None:
    imported(["run", str(hello)])  # fills the cache: only a cold start may need the worker
    assert not {name.partition(".")[0] for name in imported(["run", str(hello)])} & SLOW


def test_importing_the_package_imports_no_room() -> None:
    code = "import sys, hartwood; print(*[m for m in sys.modules if m.startswith('hartwood.')])"
    done = run([sys.executable, "-c", code])
    assert set(done.out.split()) <= {b"hartwood.errors"}, done


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (["run"], 2, "no program named"),
        (["run", "--bogus"], 2, "unknown option --bogus"),
        (["run", "/nonexistent/program"], 2, "/nonexistent/program"),
        (["run", "/etc/passwd"], 2, "/etc/passwd"),
        (["run", "/"], 2, "/"),
        (["bogus"], 2, "bogus"),
        (["guests"], 2, "Missing command"),
        (["guests", "fetch"], 2, "name"),
        (["guests", "fetch", "nothing"], 2, "riscv64-busybox"),
        (["disasm"], 2, "file"),
        (["disasm", "/nonexistent"], 1, "/nonexistent"),
        (["disasm", "/etc/passwd"], 1, "/etc/passwd"),
    ],
)
def test_errors_are_one_line(
    words: list[str], status: int, part: str, hartwood_command: list[str]
) -> None:
    done = run([*hartwood_command, *words])
    shown = done.err.decode()
    assert done.status == status, shown
    assert done.out == b""
    assert shown.count("\n") == 1, shown
    assert shown.startswith("hartwood: ")
    assert part in shown


def test_help_names_every_command(hartwood_command: list[str]) -> None:
    for words in ([], ["--help"]):
        done = run([*hartwood_command, *words])
        assert done.status == 0
        for command in (b"run", b"guests", b"disasm", b"info", b"cache"):
            assert command in done.out
    assert b"--strace" in run([*hartwood_command, "run", "--help"]).out


def test_python_dash_m_is_the_same_command() -> None:
    done = run([sys.executable, "-m", "hartwood", "guests", "list"])
    assert done.status == 0
    assert [line.split(b"\t")[0] for line in done.out.splitlines()][:1] == [b"riscv64-busybox"]


def test_info_says_what_this_build_can_do(hartwood_command: list[str]) -> None:
    pairs = dict(
        line.split("\t", 1) for line in run([*hartwood_command, "info"]).out.decode().splitlines()
    )
    assert {"i", "m", "a", "f", "d", "c", "zba", "zbb", "zbs"} <= set(pairs["extensions"].split())
    assert pairs["engines"] == "auto interp jit reference"


def test_cache_is_counted_and_cleared(
    tmp_path: Path, hello: Path, hartwood_command: list[str]
) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path)}
    shown = "files\t0 "
    for _ in range(5):  # a run that is over may be killed before it has kept what it made
        if "files\t0 " in shown:
            assert run([*hartwood_command, "run", hello], env=env).status == 6
            shown = run([*hartwood_command, "cache", "info"], env=env).out.decode()
    assert str(tmp_path) in shown
    assert "files\t0 " not in shown
    stranger = tmp_path / "hartwood" / "code" / "notes.txt"
    stranger.write_text("mine")
    assert run([*hartwood_command, "cache", "clear"], env=env).out.startswith(b"removed ")
    assert re.search(r"files\t0 ", run([*hartwood_command, "cache", "info"], env=env).out.decode())
    assert stranger.read_text() == "mine"
    assert run([*hartwood_command, "run", hello], env=env).status == 6


def test_disassembly_has_labels_and_assembles_back(
    oracle: Oracle, hello: Path, hartwood_command: list[str]
) -> None:
    objdump = oracle("riscv64-linux-gnu-objdump")
    lines = run([*hartwood_command, "disasm", hello]).out.decode().splitlines()
    assert any(line.endswith("<_start>:") for line in lines)
    ours = dict(re.findall(r"^ *([0-9a-f]+):  (\w+)", "\n".join(lines), re.MULTILINE))
    theirs = dict(
        re.findall(
            r"^ *([0-9a-f]+):\t(\w+)", run([objdump, "-d", hello]).out.decode(), re.MULTILINE
        )
    )
    assert ours == theirs


def test_disassembly_into_a_closed_pipe_is_silent(hello: Path, hartwood_command: list[str]) -> None:
    command = " ".join([*hartwood_command, "disasm", str(hello)])
    done = run(["bash", "-o", "pipefail", "-c", f"{command} | head -n 1 > /dev/null"])
    assert done.err == b""


def test_disassembly_of_damaged_files(tmp_path: Path, hello: Path) -> None:
    from hartwood.tools.disasm import DisassemblyError, disassemble

    whole = hello.read_bytes()
    outcomes, noise = set(), random.Random(7)
    for at in range(0, len(whole), max(1, len(whole) // 300)):
        damaged = tmp_path / "damaged"
        damaged.write_bytes(whole[:at] + noise.randbytes(8) + whole[at + 8 :])
        try:
            outcomes.add(bool(list(disassemble(damaged))))
        except DisassemblyError as error:
            assert str(damaged) in str(error)
    assert True in outcomes
