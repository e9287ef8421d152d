"""Guest programs from the repository's own source: `hartwood run` against QEMU, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guests.build import CROSS_ROOT, HERE, LEVELS, build
from system.running import Outcome, explain, qemu, run

PROGRAMS = sorted(path.name for path in (HERE / "c").glob("*.c*"))
# QEMU's user mode cannot execve a guest program without the kernel's help (binfmt_misc).
NATIVE_ORACLE = {"process.c"}
INPUT = b"first line\nsecond line\nno newline at the end"
WAYS = {
    "return": 0,
    "three": 3,
    "large": 0xFF,
    "_exit": 44,
    "thread": 5,
    "abort": -6,
    "read": -11,
    "write": -11,
    "code": -11,
    "call": -11,
    "illegal": -4,
    "stack": -11,
    "term": -15,
    "kill": -9,
    "pipe": -13,
}

Oracle = Callable[[str], str]


@pytest.fixture(autouse=True)
def _compilers(oracle: Oracle) -> None:
    for program in ("qemu-riscv64", "riscv64-linux-gnu-gcc", "riscv64-linux-gnu-g++"):
        oracle(program)


def expected_of(name: str, program: Path, root: Path | None = None) -> Outcome:
    if name in NATIVE_ORACLE:
        return run([build(f"c/{name}", ("-O1",), prefix="")], stdin=INPUT)
    return run([*qemu(root), program], stdin=INPUT)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_static_program(name: str, level: str, hartwood_command: list[str]) -> None:
    program = build(f"c/{name}", (level,))
    expected = expected_of(name, program)
    ours = run([*hartwood_command, "run", program], stdin=INPUT)
    assert ours.seen == expected.seen, explain(ours, expected)


@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_dynamic_program(name: str, level: str, hartwood_command: list[str]) -> None:
    program = build(f"c/{name}", (level,), static=False)
    expected = expected_of(name, program, CROSS_ROOT)
    ours = run([*hartwood_command, "run", "--root", CROSS_ROOT, program], stdin=INPUT)
    assert ours.seen == expected.seen, explain(ours, expected)


@pytest.mark.parametrize("engine", ["interp", "jit"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_engine(name: str, engine: str, hartwood_command: list[str]) -> None:
    program = build(f"c/{name}", ("-O2",))
    expected = expected_of(name, program)
    ours = run([*hartwood_command, "run", "--engine", engine, program], stdin=INPUT)
    assert ours.seen == expected.seen, explain(ours, expected)


def test_static_pie(hartwood_command: list[str]) -> None:
    # The cross C library has no start code for static-PIE, so this one brings its own.
    link = "-Wl,--no-dynamic-linker,--as-needed"
    flags = ("-O2", "-fPIE", "-pie", "-nostdlib", "-ffreestanding", link)
    program = build("freestanding/pie.c", flags, static=False)
    expected = run([*qemu(), program, "a", "b"])
    ours = run([*hartwood_command, "run", program, "a", "b"])
    assert ours.seen == expected.seen, explain(ours, expected)
    assert (expected.status, expected.out.count(b"\n")) == (3, 4)


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_end(way: str, hartwood_command: list[str]) -> None:
    program = build("c/ending.c", ("-O1",))
    ours = run([*hartwood_command, "run", program, way])
    assert (ours.status, ours.out.splitlines()[0]) == (WAYS[way], f"ending by {way}".encode())
    expected = run([*qemu(), program, way])
    assert ours.seen == expected.seen, explain(ours, expected)
    if way in ("read", "write", "code", "call", "illegal"):
        line = ours.err.decode().strip().splitlines()
        assert len(line) == 1, ours.err
        assert "pc" in line[0].lower()
        assert ("SIGILL" if way == "illegal" else "SIGSEGV") in line[0]


def test_arguments_environment_and_streams(hartwood_command: list[str]) -> None:
    program = build("c/startup.c", ("-O2",))
    words = ["--root", "-x", "", "two words", "--", "ünï"]
    options = ["--env", "HARTWOOD_TWO=2=2", "--env=HARTWOOD_THREE=", "--argv0", "zeroth"]
    ours = run(
        [*hartwood_command, "run", *options, program, *words],
        stdin=INPUT,
        env={"HARTWOOD_TONE": "1"},
    )
    lines = ours.out.decode().splitlines()
    assert lines[:7] == ["argv[0]=zeroth", *(f"argv[{i + 1}]={w}" for i, w in enumerate(words))]
    assert {line for line in lines if line.startswith("HARTWOOD_T")} == {
        "HARTWOOD_TONE=1",
        "HARTWOOD_TWO=2=2",
        "HARTWOOD_THREE=",
    }
    assert [line[4:] for line in lines if line.startswith("in: ")] == INPUT.decode().splitlines()
    assert (ours.status, ours.err) == (7, b"to standard error\n")
