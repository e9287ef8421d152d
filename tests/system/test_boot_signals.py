"""`hartwood boot` when it is told to stop, and when it is asked for what cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hartwood.tools import cli
from system.test_boot import Terminal
from unit.small_guests import FOREVER, HSM, POWEROFF, REBOOT, RESET, call, kernel, put

READY = put("ready\n")
#: `hartwood boot` in this process: its status, what the guest said, what it said itself.
Here = Callable[..., tuple[int, str, str]]
SLEEPS = READY + "sleep: wfi\nj sleep\n"
POWEROFF_BARE = "li t0, 0x100000\nli t1, 0x5555\nsw t1, 0(t0)\n" + FOREVER
#: It says something without end.
TALKS = READY + "li t0, 0x10000000\nli t1, 46\nagain: sb t1, 0(t0)\nj again\n"


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> Here:
    def run(*words: str) -> tuple[int, str, str]:
        status = cli.main(["boot", *words])
        return status, *capfd.readouterr()

    return run


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


@pytest.mark.parametrize(
    ("code", "reads"), [(SLEEPS, True), (TALKS, True), (TALKS, False)], ids=range(3)
)
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


@pytest.mark.parametrize("closed", [">&-", "<&- >&-"])
def test_closed_streams_are_nobodys(
    hartwood_command: list[str], tmp_path: Path, closed: str
) -> None:
    path = kernel(tmp_path, READY + POWEROFF)
    words = [*hartwood_command, "boot", "--kernel", str(path), "--timeout", "60"]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *words], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_all_of_a_long_output_arrives(here: Here, tmp_path: Path) -> None:
    code = "li t0, 0x10000000\nli t1, 46\nli t2, 30000\nagain: sb t1, 0(t0)\naddi t2, t2, -1\n"
    path = kernel(tmp_path, code + "bne t2, zero, again\n" + POWEROFF)
    assert here("--kernel", str(path), "--timeout", "60") == (0, "." * 30000, "")


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


def test_resets_without_end_are_a_failure(here: Here, tmp_path: Path) -> None:
    status, out, complaint = here("--kernel", str(kernel(tmp_path, READY + REBOOT)))
    assert (status, out) == (1, "ready\n" * 3)
    assert complaint == "hartwood: the guest resets itself over and over\n"


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        (call(RESET, 0, 0, 1), "the guest ended: fail 1"),
        (call(RESET, 0, 2, 1), "the guest ended: fail 1"),
        ("li t0, 0x100000\nli t1, 0x33333\nsw t1, 0(t0)\n", "the guest ended: fail 3"),
        (call(HSM, 1), "the guest has stopped all its harts, and nothing can start one again"),
    ],
    ids=range(4),
)
def test_a_failure_that_the_guest_tells_of_is_one(
    here: Here, tmp_path: Path, code: str, complaint: str
) -> None:
    told = here("--kernel", str(kernel(tmp_path, code + FOREVER)))
    assert told == (1, "", f"hartwood: {complaint}\n")


def test_firmware_alone_is_run(here: Here, tmp_path: Path) -> None:
    """Without a kernel; and where there is neither, or no such file, it is one line."""
    path = kernel(tmp_path, READY + POWEROFF_BARE)  # it can lie anywhere
    assert here("--bios", str(path)) == (0, "ready\n", "")
    nothing = "hartwood: there is nothing to run; give a kernel, or firmware as bios\n"
    assert here() == (2, "", nothing)
    absent = "hartwood: /nowhere/fw: cannot read the firmware: No such file or directory\n"
    assert here("--bios", "/nowhere/fw") == (2, "", absent)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--stats", "/nowhere/x"], "--stats /nowhere/x: cannot write it: No such file"),
        (["--stats", "/"], "--stats /: cannot write it: Is a directory"),
        (["--append", os.fsdecode(b"gr\xe9")], "bootargs: this is not text in UTF-8"),
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
    here: Here, tmp_path: Path, words: list[str], complaint: str
) -> None:
    path = kernel(tmp_path, READY + POWEROFF)
    status, out, told = here("--kernel", str(path), *words)
    assert (status, out) == (2, "")
    assert told.startswith(f"hartwood: {complaint}")
    assert told.count("\n") == 1
    assert len(told) < 200


def test_statistics_that_cannot_be_written_in_the_end(here: Here, tmp_path: Path) -> None:
    """/dev/full takes the file but not what is in it."""
    if not os.path.exists("/dev/full"):
        pytest.skip("missing: /dev/full")
    path = kernel(tmp_path, READY + POWEROFF)
    complaint = "hartwood: --stats /dev/full: cannot write it: No space left on device\n"
    assert here("--kernel", str(path), "--stats", "/dev/full") == (2, "", complaint)


def test_statistics_are_written(here: Here, tmp_path: Path) -> None:
    path, stats = kernel(tmp_path, READY + POWEROFF), tmp_path / "stats.json"
    assert here("--kernel", str(path), "--stats", str(stats)) == (0, "ready\n", "")
    counters = json.loads(stats.read_text())
    assert 10 < counters["instructions"] < 100
    assert counters["engine"] == "auto"
