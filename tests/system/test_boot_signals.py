"""`hartwood boot` when it is told to stop, and when it is asked for what cannot be."""

from __future__ import annotations

import os
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest

from system.test_boot import Terminal, boot
from unit.small_guests import FOREVER, POWEROFF, REBOOT, kernel, put

READY = put("ready\n")
SLEEPS = READY + "sleep: wfi\nj sleep\n"
#: It says something without end.
TALKS = READY + "li t0, 0x10000000\nli t1, 46\nagain: sb t1, 0(t0)\nj again\n"


@pytest.mark.parametrize(
    ("code", "number"),
    [
        (SLEEPS, signal.SIGTERM), (READY + FOREVER, signal.SIGTERM), (TALKS, signal.SIGTERM),
        (SLEEPS, signal.SIGHUP), (READY + FOREVER, signal.SIGINT), (SLEEPS, signal.SIGQUIT),
    ],
    ids=range(6),
)  # fmt: skip
def test_a_signal_stops_it_and_the_terminal_is_as_it_was(
    hartwood_command: list[str], tmp_path: Path, code: str, number: signal.Signals
) -> None:
    command = [*hartwood_command, "boot", "--kernel", str(kernel(tmp_path, code))]
    terminal = Terminal(command)
    try:
        terminal.wait_for(b"ready")
        assert termios.tcgetattr(terminal.slave)[3] & (termios.ECHO | termios.ICANON) == 0
        terminal.process.send_signal(number)
        deadline = time.monotonic() + 30
        while terminal.process.poll() is None and time.monotonic() < deadline:
            terminal.drain()
        assert terminal.process.wait(1) == 128 + number
        assert termios.tcgetattr(terminal.slave) == terminal.before
        terminal.wait_for(f"hartwood: stopped by {number.name}\r\n".encode())
    finally:
        terminal.close()


@pytest.mark.parametrize("code", [SLEEPS, TALKS], ids=["sleeps", "talks"])
@pytest.mark.parametrize("reads", [True, False])
def test_control_c_stops_a_piped_run(
    hartwood_command: list[str], tmp_path: Path, code: str, reads: bool
) -> None:
    """Also where nobody reads what it says any more."""
    process = subprocess.Popen(
        [*hartwood_command, "boot", "--kernel", str(kernel(tmp_path, code))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.read(5) == b"ready"
        time.sleep(0.5)  # the pipe fills
        process.send_signal(signal.SIGINT)
        if reads:
            process.communicate(timeout=30)
        assert process.wait(30) == 130
        if not reads:
            assert process.stderr.read() == b"hartwood: stopped by SIGINT\n"
    finally:
        process.kill()
        process.communicate()


def test_a_signal_that_was_ignored_stays_so(hartwood_command: list[str], tmp_path: Path) -> None:
    """As `nohup` wants it."""
    path = kernel(tmp_path, SLEEPS)
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *hartwood_command, "boot", "--kernel", path],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.read(5) == b"ready"
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    finally:
        process.kill()
        process.communicate()


def test_a_reader_that_goes_ends_it(hartwood_command: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*hartwood_command, "boot", "--kernel", str(kernel(tmp_path, TALKS))],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.read(5) == b"ready"
    process.stdout.close()
    try:
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
        process.stderr.close()
    finally:
        process.kill()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
def test_closed_streams_are_nobodys(
    hartwood_command: list[str], tmp_path: Path, closed: str
) -> None:
    path = kernel(tmp_path, READY + POWEROFF)
    words = [*hartwood_command, "boot", "--kernel", str(path), "--timeout", "60"]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *words], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_all_of_a_long_output_arrives(hartwood_command: list[str], tmp_path: Path) -> None:
    code = "li t0, 0x10000000\nli t1, 46\nli t2, 30000\nagain: sb t1, 0(t0)\naddi t2, t2, -1\n"
    path = kernel(tmp_path, code + "bne t2, zero, again\n" + POWEROFF)
    done = boot(hartwood_command, "--kernel", str(path), "--timeout", "60")
    assert (done.returncode, done.stdout, done.stderr) == (0, "." * 30000, "")


def test_what_is_said_is_seen_at_once(hartwood_command: list[str], tmp_path: Path) -> None:
    """A guest that says something and then waits for ever has been heard."""
    process = subprocess.Popen(
        [*hartwood_command, "boot", "--kernel", str(kernel(tmp_path, SLEEPS))],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.read(6) == b"ready\n"
    finally:
        process.kill()
        process.communicate()


def test_resets_without_end_are_a_failure(hartwood_command: list[str], tmp_path: Path) -> None:
    done = boot(hartwood_command, "--kernel", str(kernel(tmp_path, READY + REBOOT)))
    assert done.returncode == 1
    assert done.stdout.count("ready") == 3
    assert done.stderr == "hartwood: the guest resets itself over and over\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--stats", "/nowhere/x"], "--stats /nowhere/x: cannot write it: No such file"),
        (["--stats", "/"], "--stats /: cannot write it: Is a directory"),
        ([b"--append", b"gr\xe9"], "bootargs: this is not text in UTF-8"),
        (["--memory", "9" * 5000], "--memory 99999"),
        (["--memory", "65G"], "69793218560 bytes of memory cannot be"),
        (["--memory", "0"], "0 bytes of memory cannot be"),
        (["--timeout", "nan"], "--timeout nan: a number of seconds above 0"),
        (["--timeout", "-1"], "--timeout -1.0: a number of seconds above 0"),
        (["--timeout", "0"], "--timeout 0.0: a number of seconds above 0"),
        (["--timeout", "inf"], "--timeout inf: a number of seconds above 0"),
    ],
    ids=range(10),
)
def test_what_cannot_be_is_one_short_line(
    hartwood_command: list[str], tmp_path: Path, words: list[str], complaint: str
) -> None:
    path = kernel(tmp_path, READY + POWEROFF)
    done = subprocess.run(
        [*hartwood_command, "boot", "--kernel", str(path), *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"hartwood: {complaint}")
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 200
    assert done.stdout == ""


def test_statistics_that_cannot_be_written_in_the_end(
    hartwood_command: list[str], tmp_path: Path
) -> None:
    """/dev/full takes the file but not what is in it."""
    if not os.path.exists("/dev/full"):
        pytest.skip("missing: /dev/full")
    path = kernel(tmp_path, READY + POWEROFF)
    done = boot(hartwood_command, "--kernel", str(path), "--stats", "/dev/full")
    assert done.returncode == 2
    assert done.stderr == "hartwood: --stats /dev/full: cannot write it: No space left on device\n"
