"""Guest programs that ask the kernel everything, compared with the same source on the host.

The host's own kernel is the best oracle there is: system calls, their errors and their order of
checks are Linux's, whatever the processor. What depends on the processor (signal frames, faults) is
compared with QEMU.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guests.build import build
from system.running import explain, qemu, run

KERNEL = ["files", "memory", "network", "processes"]
SIGNALS = (
    "faults registers floats nesting alternates blocking restarting inheritance deaths threads"
    " timers"
).split()
QUIET = (
    "-Wno-nonnull -Wno-stringop-overflow -Wno-stringop-overread -Wno-format-overflow"
    " -Wno-infinite-recursion"
).split()


@pytest.fixture(autouse=True, scope="module")
def oracles(oracle: Callable[[str], str]) -> None:
    for program in ("riscv64-linux-gnu-gcc", "gcc", "qemu-riscv64"):
        oracle(program)


def built(name: str, level: str = "-O1") -> Path:
    return build(f"linux/{name}.c", (level, *QUIET))


@pytest.mark.parametrize("engine", ["auto", "interp"])
@pytest.mark.parametrize("name", KERNEL)
def test_calls_answer_as_on_the_host(name: str, engine: str, hartwood_command: list[str]) -> None:
    expected = run([build(f"linux/{name}.c", ("-O1", *QUIET), static=False, prefix="")])
    ours = run([*hartwood_command, "run", "--engine", engine, built(name)])
    assert ours.seen == expected.seen, explain(ours, expected)


@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("part", SIGNALS)
def test_signals_as_under_qemu(part: str, level: str, hartwood_command: list[str]) -> None:
    program = built("signals", level)
    expected = run([*qemu(), program, part])
    ours = run([*hartwood_command, "run", program, part])
    assert expected.status == 0, explain(ours, expected)
    assert ours.seen == expected.seen, explain(ours, expected)


@pytest.mark.parametrize(
    ("signo", "text"),
    [
        ("SIGSEGV", b"uncaught SIGSEGV (SEGV_MAPERR at 0x8), pc 0x"),
        ("SIGABRT", b"uncaught SIGABRT"),
    ],
)
def test_an_uncaught_fault_says_one_line_and_ends_by_that_signal(
    signo: str, text: bytes, hartwood_command: list[str]
) -> None:
    ours = run([*hartwood_command, "run", built("ends"), signo])
    assert ours.status == -signal.Signals[signo]
    assert text in ours.err
    assert ours.err.count(b"\n") == 1


def test_interrupt_while_the_guest_computes(hartwood_command: list[str]) -> None:
    command = [*hartwood_command, "run", str(built("ends")), "loop"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"looping\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(10)
        assert process.returncode == -signal.SIGINT
        assert time.monotonic() - began < 2
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_signal_that_the_parent_ignores_is_ignored(hartwood_command: list[str]) -> None:
    words = " ".join([*hartwood_command, "run", str(built("ends")), "hup"])
    ours = run(["sh", "-c", f"trap '' HUP; exec {words}"])
    assert ours.seen == (0, b"alive\n")
    assert run([*hartwood_command, "run", built("ends"), "hup"]).status == -signal.SIGHUP


def test_a_broken_pipe_kills_the_guest_not_python(hartwood_command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*hartwood_command, "run", str(built("ends")), "pipe"]
    process = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert process.returncode == -signal.SIGPIPE
    assert process.stderr == b""


def test_own_descriptors_are_not_the_guests(hartwood_command: list[str]) -> None:
    expected = run([build("linux/ends.c", ("-O1",), static=False, prefix=""), "descriptors"])
    ours = run([*hartwood_command, "run", built("ends"), "descriptors"])
    assert ours.seen == expected.seen, explain(ours, expected)


def test_memory_that_is_not_there_is_refused_not_taken(hartwood_command: list[str]) -> None:
    ours = run([*hartwood_command, "run", built("ends"), "eat"], timeout=60)
    assert ours.status == 0, ours.err
    assert ours.out == b"refused\n"


def test_processes_without_end_are_refused(hartwood_command: list[str]) -> None:
    ours = run([*hartwood_command, "run", built("ends"), "forks"])
    assert ours.seen == (0, b"EAGAIN\n"), ours.err


def test_what_proc_says_is_about_the_guest(hartwood_command: list[str]) -> None:
    program = built("ends")
    ours = run([*hartwood_command, "run", "--argv0", "zero", program, "proc"])
    text = ours.out.decode()
    assert ours.status == 0, ours.err
    assert f"exe {program}\n" in text
    assert "cmdline zero proc\n" in text
    assert any(" r-xp 0" in line and line.endswith(str(program)) for line in text.splitlines())
    assert "[stack]" in text
    assert "[heap]" in text
    assert "python" not in text
    assert "isa\t\t: rv64imafdc" in text
    assert "auxv ok\n" in text


def test_environment_of_the_machine(hartwood_command: list[str]) -> None:
    ours = run([*hartwood_command, "run", built("ends"), "machine"])
    assert ours.out.splitlines() == [
        b"riscv64",
        b"hwcap 112d",
        b"base 1",
        b"ima 438080000003b",
        b"misaligned 3",
        b"unknown key -1 0",
        b"minsigstksz 1088",
        b"secure 0",
        b"sysinfo 0",
    ]


@pytest.mark.parametrize("engine", ["auto", "interp"])
def test_threads_signals_and_forks_at_once(engine: str, hartwood_command: list[str]) -> None:
    milliseconds = 20_000 if os.environ.get("HARTWOOD_SOAK") else 700
    ours = run([*hartwood_command, "run", "--engine", engine, built("stress"), str(milliseconds)])
    assert ours.seen == (0, b"lost 0 bad 0 ticked 1 locked 1\n"), ours


def test_a_process_in_a_python_of_ours_leaves_it_as_it_was() -> None:
    """Through the library: several runs, dispositions and mask put back, an error is an error."""
    code = f"""
import signal, hartwood
for _ in range(2):
    status = hartwood.Process({str(built("ends"))!r}, ["ends", "machine"]).run()
    print(status, signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)
print(hartwood.Process({str(built("ends"))!r}, ["ends", "SIGSEGV"]).run(), flush=True)
try:
    hartwood.Process("/nonexistent/program").run()
except hartwood.Error as error:
    print(error, flush=True)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    done = run([sys.executable, "-c", code])
    lines = done.out.decode().splitlines()
    assert lines.count("0 set()") == 2, done
    assert "-11" in lines
    assert lines[-2] == "/nonexistent/program: No such file or directory"
    assert lines[-1] == "interrupted"


def test_few_descriptors_are_the_guests_affair(
    hartwood_command: list[str], guest: Callable[[str], Path]
) -> None:
    """With its numbers used up a guest still starts programs and warms up the engine."""
    root = str(guest("riscv64-sysroot"))
    script = "ulimit -n 8; ulimit -n; /usr/bin/true; echo $?; echo b a | tr ' ' '\\n' | sort"
    ours = run([*hartwood_command, "run", "--root", root, "/usr/bin/bash", "-c", script])
    assert ours.seen == (0, b"8\n0\na\nb\n"), ours
