"""`hartwood boot` with Debian's kernel: commands, the terminal, and all that can go wrong."""

from __future__ import annotations

import calendar
import json
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import hartwood
from conftest import unavailable
from hartwood.guests import GUESTS
from hartwood.guests.bootable import MARKER
from hartwood.machine.gate import StateError

SECONDS = 150
#: Where Debian's package `opensbi` puts its images.
OPENSBI = Path("/usr/lib/riscv64-linux-gnu/opensbi/generic")


@pytest.fixture
def files(guest: Callable[[str], Path]) -> list[str]:
    kernel, initrd = GUESTS["debian-riscv64"].paths(guest("debian-riscv64"))
    return ["--kernel", str(kernel), "--initrd", str(initrd)]


def boot(command: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, "boot", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * SECONDS + 20,
        check=False,
    )  # fmt: skip


def test_a_command_runs_and_the_machine_powers_off(
    hartwood_command: list[str], files: list[str], tmp_path: Path
) -> None:
    stats = tmp_path / "stats.json"
    append = "quiet console=ttyS0 -- uname -m; cat /proc/interrupts; free -m | head -2"
    words = ["--append", append, "--memory", "256M", "--stats", str(stats)]
    done = boot(hartwood_command, *files, *words, "--timeout", str(SECONDS))
    lines = done.stdout.replace("\r", "").splitlines()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [line for line in lines if line in (MARKER, "riscv64", "hartwood: status 0")] == [
        MARKER, "riscv64", "hartwood: status 0"
    ]  # fmt: skip
    assert any("PLIC" in line and "ttyS0" in line for line in lines)
    counters = json.loads(stats.read_text())
    assert counters["instructions"] > 100_000_000
    assert counters["engine"] == "auto"
    assert counters["translated"] + counters["interpreted"] == counters["instructions"]
    assert counters["tlb_misses"] > 0
    assert counters["seconds"] > 0 < counters["cpu_seconds"]
    assert counters["peak_rss_bytes"] > 64 << 20
    assert counters["cache_hits"] + counters["cache_misses"] >= 2  # the handlers, the stencils
    assert counters["regions"] > 100


@pytest.mark.parametrize(
    ("image", "harts", "command"),
    [("fw_dynamic.bin", "1", "hwclock -u"), ("fw_jump.elf", "4", "nproc; cat /proc/interrupts")],
    ids=["dynamic", "jump"],
)
@pytest.mark.timeout(2 * SECONDS + 60)
def test_opensbi_starts_linux(
    hartwood_command: list[str], files: list[str], image: str, harts: str, command: str
) -> None:
    """In M-mode, by CLINT and finisher; the clock is the host's, and all harts come up."""
    firmware = OPENSBI / image
    if not firmware.exists():
        unavailable(f"{firmware} (scripts/oracles.sh installs it)")
    words = [
        "--bios",
        str(firmware),
        "--harts",
        harts,
        "--append",
        f"quiet console=ttyS0 -- {command}",
    ]
    done = boot(hartwood_command, *files, *words, "--timeout", str(2 * SECONDS))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.replace("\r", "").splitlines()
    assert f"Platform HART Count       : {harts}" in lines
    assert "hartwood: status 0" in lines
    if harts == "1":
        told = next(line for line in lines if line.endswith(" 0.000000 seconds"))
        told = " ".join(told.split()[:5])
        clock = calendar.timegm(time.strptime(told, "%a %b %d %H:%M:%S %Y"))
        assert abs(time.time() - clock) < 3600
    else:
        assert "4" in lines
        timers = next(line for line in lines if line.endswith("riscv-timer")).split()
        assert all(int(count) > 10 for count in timers[1:5])


def test_every_byte_of_much_output_arrives(hartwood_command: list[str], files: list[str]) -> None:
    """Some 220 kB through Linux's driver, whose buffer they fill again and again."""
    append = "quiet console=ttyS0 -- echo begin; seq 1 38000 | cat; echo end"
    words = ["--append", append, "--harts", "2", "--timeout", str(SECONDS)]
    done = subprocess.run(
        [*hartwood_command, "boot", *files, *words],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    expected = b"".join(b"%d\r\n" % number for number in range(1, 38001))
    begin = done.stdout.index(b"begin\r\n") + 7
    assert done.stdout[begin:].startswith(expected + b"end\r\n")
    assert len(expected) > 200_000


def test_until_a_text_is_seen(hartwood_command: list[str], files: list[str]) -> None:
    done = boot(hartwood_command, *files, "--until", "Linux version", "--timeout", str(SECONDS))
    assert done.returncode == 0
    assert "Linux version 6." in done.stdout
    assert MARKER not in done.stdout


def test_a_panic_is_a_failure(hartwood_command: list[str], files: list[str]) -> None:
    append = "console=ttyS0 rdinit=/nowhere"
    done = boot(hartwood_command, *files, "--append", append, "--timeout", str(SECONDS))
    assert done.returncode == 1
    assert done.stderr == "hartwood: the kernel panicked\n"
    assert "Kernel panic - not syncing" in done.stdout


def test_time_that_runs_out_is_a_failure(hartwood_command: list[str], files: list[str]) -> None:
    done = boot(hartwood_command, *files, "--timeout", "1")
    assert done.returncode == 1
    assert done.stderr == "hartwood: not done after 1 s (--timeout)\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--kernel", "/nowhere/Image"], "/nowhere/Image: cannot read the kernel"),
        (["--memory", "8M"], "8 MiB are too little"),
        (["--memory", "lots"], "--memory lots"),
        (["--harts", "40"], "40 harts cannot be"),
        (["--initrd", "/nowhere/initrd"], "/nowhere/initrd: cannot read the initramfs"),
    ],
)
def test_what_cannot_be_is_one_line(
    hartwood_command: list[str], files: list[str], words: list[str], complaint: str
) -> None:
    done = boot(hartwood_command, *files, *words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"hartwood: {complaint}")
    assert done.stderr.count("\n") == 1


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, words: list[str]) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        self.out = b""

    def wait_for(self, text: bytes) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.out:
            assert time.monotonic() < deadline, self.out[-500:]
            self.drain()

    def drain(self) -> None:
        """Take what is there, or what comes within a moment."""
        ready, _, _ = select.select([self.master], [], [], 0.2)
        if ready:
            self.out += os.read(self.master, 4096)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def test_a_shell_on_the_terminal(hartwood_command: list[str], files: list[str]) -> None:
    """Keys reach the guest as they are, Ctrl-C too; Ctrl-A x leaves and the terminal is as it
    was."""
    terminal = Terminal([*hartwood_command, "boot", *files, "--append", "quiet console=ttyS0"])
    try:
        terminal.wait_for(b"# ")
        assert termios.tcgetattr(terminal.slave)[3] & (termios.ECHO | termios.ICANON) == 0
        terminal.type(b"echo $((6 * 7))\r")
        terminal.wait_for(b"\n42\r\n")
        terminal.type(b"sleep 1000\r")
        terminal.wait_for(b"sleep 1000\r\n")
        time.sleep(0.5)
        terminal.type(b"\x03")
        terminal.wait_for(b"^C")
        terminal.type(b"echo still $((1 + 1))\r")
        terminal.wait_for(b"\nstill 2\r\n")
        terminal.type(b"\x01x")
        assert terminal.process.wait(30) == 0
        assert termios.tcgetattr(terminal.slave) == terminal.before
    finally:
        terminal.close()


def test_a_machine_is_scripted(files: list[str]) -> None:
    """Two harts, a conversation, an end; and then no more."""
    with hartwood.board.RiscvVirt(
        kernel=files[1], initrd=files[3], append="quiet console=ttyS0", memory=256 << 20, harts=2
    ) as machine:
        out = bytearray()
        machine.uart.tx = out.extend
        assert machine.run(until=machine.uart.saw(b"# "), seconds=SECONDS).reason == "until"
        count = machine.stats()["instructions"]
        time.sleep(0.3)
        assert machine.stats()["instructions"] == count  # nobody runs between two runs
        machine.uart.feed(b"echo $(nproc) processors\n")
        wanted = machine.uart.saw(b"\n2 processors\r\n")
        assert machine.run(until=wanted, seconds=30).reason == "until"
        assert machine.run(seconds=0.2).reason == "seconds"
        machine.uart.feed(b"exit\n")
        assert machine.run(seconds=60).reason == "poweroff"
        assert b"Power down" in out
        with pytest.raises(StateError, match="stopped"):
            machine.run()
