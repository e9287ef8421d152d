"""The guest `debian-riscv64-disk` on another machine: that the disk itself is sound.

Configuring some 130 packages takes minutes of emulation, so the suite sees it begin and the soak
run sees it end: login, Python, a compiler, dpkg and apt, a second boot.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hartwood.guests import GUESTS, disk

NAME = "debian-riscv64-disk"
PROMPT = "ready: "
SOAK = bool(os.environ.get("HARTWOOD_SOAK"))


class Console:
    """What a machine says, as far as it has been looked at, and what it is told."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.input, self.output = process, process.stdin, process.stdout
        self.text = self.seen = ""

    def until(self, text: str, seconds: float) -> str:
        """Read on until `text`; return what came before it."""
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, self.text[-3000:]
            if select.select([self.output], [], [], 1)[0]:
                piece = os.read(self.output.fileno(), 1 << 16)
                assert piece, f"it ended: {self.text[-3000:]}"
                self.text += piece.decode(errors="replace").replace("\r", "")
        before, _, self.text = self.text.partition(text)
        self.seen += before + text
        return before

    def tell(self, line: str) -> None:
        self.input.write(f"{line}\n".encode())
        self.input.flush()

    def ask(self, command: str, seconds: float = 120) -> tuple[str, int]:
        """Run a command in the shell that `login` left; what it printed and its status."""
        self.tell(f"{command}; echo status=$?=")
        said, status = self.until("status=", seconds), self.until("=", seconds)
        self.until(PROMPT, seconds)
        return said, int(status)


@pytest.fixture(scope="module")
def files(guest: Callable[[str], Path]) -> list[Path]:
    return GUESTS[NAME].paths(guest(NAME))


@contextmanager
def machine(qemu: str, files: list[Path], image: Path, *more: str) -> Iterator[Console]:
    kernel, initrd, _ = files
    command = [
        qemu, "-M", "virt", "-m", "512", "-nographic", "-no-reboot", *more,
        "-kernel", str(kernel), "-initrd", str(initrd),
        "-drive", f"file={image},format=raw,if=none,id=d", "-device", "virtio-blk-device,drive=d",
        "-append", "quiet root=/dev/vda rw console=ttyS0",
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Console(process)
        finally:
            process.kill()


def check(image: Path) -> None:
    program = shutil.which("e2fsck") or shutil.which("e2fsck", path="/usr/sbin:/sbin")
    if program is None:
        pytest.skip("missing: e2fsck (scripts/oracles.sh installs it)")
    done = subprocess.run([program, "-f", "-n", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_disk_is_sound_small_and_begins_to_configure_itself(
    files: list[Path], oracle: Callable[[str], str]
) -> None:
    image = files[2]
    assert image.stat().st_size == disk.SIZE
    check(image)
    with machine(oracle("qemu-system-riscv64"), files, image, "-snapshot") as console:
        console.until(disk.BEGUN, 160)


@pytest.mark.skipif(not SOAK, reason="takes minutes; make soak runs it")
def test_from_the_first_boot_to_a_compiler_and_again(
    files: list[Path], oracle: Callable[[str], str], tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    subprocess.run(["cp", "--sparse=always", files[2], image], check=True)
    qemu = oracle("qemu-system-riscv64")
    with machine(qemu, files, image) as console:
        said = console.until(disk.DONE, 2400)
        assert "error processing" not in said
        login(console)
        works(console)
        console.tell("poweroff")
        assert console.process.wait(300) == 0
    check(image)
    with machine(qemu, files, image) as console:
        login(console)
        assert disk.BEGUN not in console.seen
        assert console.ask("./a.out") == ("forty-two 42\n", 0)


def login(console: Console) -> None:
    """As root without a password, to a plain shell that does not echo what it is told."""
    console.until("debian login: ", 600)
    console.tell("root")
    console.until("root@debian:~# ", 120)
    console.tell("stty -echo; exec sh")
    console.until("# ", 120)
    console.tell(f"PS1='{PROMPT}'")
    console.until(PROMPT, 120)


def works(console: Console) -> None:
    """What the guest is for; every package is configured, and dpkg finds nothing amiss."""
    assert console.ask("python3 -c 'import json, sqlite3; print(json.dumps([6 * 7]))'") == (
        "[42]\n",
        0,
    )
    source = r"#include <stdio.h>\nint main(void) { printf(\"forty-two %d\\n\", 6 * 7); }\n"
    assert console.ask(f'printf "{source}" > a.c') == ("", 0)
    assert console.ask("gcc -O2 -Wall a.c && ./a.out", 300) == ("forty-two 42\n", 0)
    assert console.ask("dpkg --audit") == ("", 0)
    listed, status = console.ask("dpkg -l | cat")
    assert status == 0
    packages = [line for line in listed.splitlines() if re.match(r"[a-z]{2} ", line)]
    assert len(packages) > 100
    assert all(line.startswith("ii ") for line in packages)
    installed, status = console.ask("apt list --installed 2>/dev/null | cat")
    assert status == 0
    assert len(re.findall(r"\[installed", installed)) == len(packages)
    assert console.ask("apt-get check -qq; apt-cache policy gcc | grep -c Installed")[0] == "1\n"
    assert console.ask("stat -c '%U %a' /etc/shadow /usr/bin/passwd")[0] == "root 640\nroot 4755\n"
    assert console.ask("touch /var/tmp/x; cat /proc/1/comm; uname -m")[0] == "init\nriscv64\n"
