"""The guest `debian-riscv64-disk`: the disk is sound, and boots under QEMU as under Hartwood.

QEMU is the oracle for the disk: what does not work there is the disk's fault. The packages' own
scripts are the oracle for what the host did in their place (the soak run has them say so).
"""

from __future__ import annotations

import base64
import io
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from conftest import unavailable
from hartwood import storage
from hartwood.guests import GUESTS, configured, disk
from hartwood.guests.tree import Tree
from unit.disk_images import run
from unit.test_disk_guest import debugfs

NAME = "debian-riscv64-disk"
PROMPT = "ready: "
#: A machine that the host let wait for a while is no fault of the kernel's to speak of.
APPEND = "quiet nowatchdog rcupdate.rcu_cpu_stall_suppress=1 root=/dev/vda rw console=ttyS0"
#: What packages' scripts write beyond what the host does: logs, locks and backups, caches of what
#: can be found without, and what is for systemd.
EXPECTED = re.compile(
    r"^. (\S+  )?/(run|etc/(\.pwd\.lock|(passwd|group|g?shadow)-|shadow|ld\.so\.cache|systemd/)"
    r"|etc/init\.d(/\.depend|\s)|usr/share/(info|python3)|usr/lib/python3"
    r"|var/lib/(dpkg|python|systemd|urandom))"
)
SOAK = bool(os.environ.get("HARTWOOD_SOAK"))

Start = Callable[..., AbstractContextManager["Console"]]


class Console:
    """What a machine says, as far as it has been looked at, and what it is told."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.input, self.output = process, process.stdin, process.stdout
        self.text = self.seen = ""

    def until(self, text: str, seconds: float, other: str = "\0") -> str:
        """Read on until `text`, or the `other` one; return what came before it."""
        end = time.monotonic() + seconds
        while not (found := [each for each in (text, other) if each in self.text]):
            assert time.monotonic() < end, self.text[-3000:]
            if select.select([self.output], [], [], 1)[0]:
                piece = os.read(self.output.fileno(), 1 << 16)
                assert piece, f"it ended: {self.text[-3000:]}"
                self.text += piece.decode(errors="replace").replace("\r", "")
        before, text, self.text = self.text.partition(found[0])
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


@pytest.fixture(params=["qemu", "hartwood"])
def start(
    request: pytest.FixtureRequest, files: list[Path], tmp_path: Path,
    oracle: Callable[[str], str], hartwood_command: list[str],
) -> Start:  # fmt: skip
    """How a machine is started: with the disk, or what was written over it, and more options."""
    kernel, initrd, base = files
    overlay = tmp_path / "overlay.qcow2"
    storage.create(overlay, disk.SIZE, "qcow2", backing=str(base))

    @contextmanager
    def qemu(*more: str) -> Iterator[Console]:
        command = [
            oracle("qemu-system-riscv64"), "-M", "virt", "-m", "512", "-nographic", "-no-reboot",
            "-kernel", str(kernel), "-initrd", str(initrd), "-append", APPEND,
            "-drive", f"file={overlay},format=qcow2,if=none,id=d",
            "-device", "virtio-blk-device,drive=d", *more,
        ]  # fmt: skip
        with console(command) as made:
            yield made

    @contextmanager
    def hartwood(*more: str) -> Iterator[Console]:
        command = [
            *hartwood_command, "boot", "--kernel", str(kernel), "--initrd", str(initrd),
            "--append", APPEND, "--disk", f"{overlay},format=qcow2,backing={base}", *more,
        ]  # fmt: skip
        with console(command) as made:
            yield made

    return qemu if request.param == "qemu" else hartwood


@contextmanager
def console(command: list[str]) -> Iterator[Console]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Console(process)
        finally:
            process.kill()


def check(image: Path) -> None:
    """e2fsck has nothing to say, of a disk or of an overlay with the disk below it."""
    program = shutil.which("e2fsck") or shutil.which("e2fsck", path="/usr/sbin:/sbin")
    if program is None:
        unavailable("e2fsck (scripts/oracles.sh installs it)")
    assert program is not None
    if image.suffix == ".qcow2":
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, image.with_suffix(".img"))
        image = image.with_suffix(".img")
    done = subprocess.run([program, "-f", "-n", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def login(console: Console) -> None:
    """As root without a password, to a plain shell that does not echo what it is told."""
    console.until("debian login: ", 600)
    console.tell("root")
    console.until("root@debian:~# ", 300, "login: timed out")
    if console.seen.endswith("timed out"):  # the host had let it wait for a minute
        login(console)
        return
    console.tell("stty -echo; exec sh")
    console.until("# ", 120)
    console.tell(f"PS1='{PROMPT}'")
    console.until(PROMPT, 120)


def halt(console: Console) -> None:
    console.tell("poweroff")
    console.until("Power down", 300)
    assert console.process.wait(60) == 0


def test_the_disk_is_sound_and_every_package_is_installed(files: list[Path]) -> None:
    image = files[2]
    assert image.stat().st_size == disk.SIZE
    check(image)
    status = debugfs(image, "cat /var/lib/dpkg/status").split("\n\n")[:-1]
    states = [re.findall("^(?:Package|Status): (.*)$", each, re.MULTILINE) for each in status]
    assert {state for _, state in states} == {"install ok installed"}
    names = {name for name, _ in states}
    assert len(names) > 100
    assert names >= configured.PACKAGES  # or it is known no more than by name
    assert not debugfs(image, "cat /var/lib/hartwood/first-boot")
    assert debugfs(image, "stat /etc/shadow").partition("Mode:  ")[2].startswith("0640")


@pytest.mark.timeout(900)
def test_it_boots_to_what_it_is_for(
    start: Start, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Under QEMU only as far as that it runs; what it is for is long there (`make soak`)."""
    with start() as console:
        login(console)
        assert disk.BEGUN not in console.seen
        assert console.ask("python3 -c 'print(6*7)'") == ("42\n", 0)
        if "hartwood" in request.node.name:
            works(console, "0")
        halt(console)
    check(tmp_path / "overlay.qcow2")


@pytest.mark.skipif(not SOAK, reason="takes minutes; make soak runs it")
@pytest.mark.timeout(2400)
def test_the_scripts_of_the_packages_find_nothing_left_to_do(start: Start, tmp_path: Path) -> None:
    """They are run for each package as for a new one, and a second boot is as the first."""
    with start() as console:
        login(console)
        works(console, "2")
        assert console.ask("insserv -n -v 2>&1 | grep -i -e 'enable' -e 'remove'")[0] == ""
        listing = (
            "{ find / -xdev \\( -path '*/__pycache__' -o -path /var/log -o -path /var/cache \\) "
        )
        listing += "-prune -o -printf '%p %M %u %g %l\\n'; find /etc /var/lib/dpkg/alternatives "
        listing += "/var/lib/pam /root -type f | xargs md5sum; } | sort"
        assert console.ask(f"{listing} > /run/before", 600) == ("", 0)
        unpack = "sed -i 's/^Status: install ok installed/Status: install ok unpacked/'"
        assert console.ask(f"{unpack} /var/lib/dpkg/status") == ("", 0)
        configure = "DEBIAN_FRONTEND=noninteractive dpkg --force-unsafe-io --configure -a"
        assert console.ask(configure, 2000)[1] == 0
        assert console.ask("dpkg --audit") == ("", 0)
        assert console.ask(f"{listing} > /run/after", 600) == ("", 0)
        changed, _ = console.ask("diff /run/before /run/after | grep '^[<>]' | cat")
        lines = [line for line in changed.splitlines() if not EXPECTED.search(line)]
        assert lines == []
        halt(console)
    check(tmp_path / "overlay.qcow2")
    with start() as console:
        login(console)
        assert console.ask("./a.out") == ("forty-two 42\n", 0)
        halt(console)


@pytest.mark.skipif(not SOAK, reason="takes minutes; make soak runs it")
@pytest.mark.timeout(1200)
def test_a_package_that_is_left_to_the_guest_is_configured(start: Start, tmp_path: Path) -> None:
    """As if nobody had read mawk's scripts, nor those of tzdata."""
    tree = Tree(io.BytesIO(), limit=1 << 20)
    disk.complete(tree, ["mawk", "tzdata"], architecture="riscv64")
    script = base64.b64encode(tree.read("var/lib/hartwood/first-boot")).decode()
    with start() as console:
        login(console)
        for name in ("mawk", "tzdata"):
            edit = f"/^Package: {name}$/,/^$/s/^Status: .*/Status: install ok unpacked/"
            assert console.ask(f"sed -i '{edit}' /var/lib/dpkg/status") == ("", 0)
        assert console.ask("rm /etc/localtime /etc/alternatives/awk /usr/bin/awk")[1] == 0
        assert console.ask("mkdir /var/lib/hartwood; : > /var/lib/hartwood/coded")[1] == 0
        for at in range(0, len(script), 500):
            piece = script[at : at + 500]
            assert console.ask(f"printf %s {piece} >> /var/lib/hartwood/coded")[1] == 0
        decode = "base64 -d /var/lib/hartwood/coded > /var/lib/hartwood/first-boot"
        assert console.ask(decode) == ("", 0)
        halt(console)
    with start() as console:
        console.until(disk.BEGUN, 300)
        console.until(disk.DONE, 600)
        login(console)
        assert console.ask("dpkg --audit; ls /var/lib/hartwood 2>&1 | wc -l") == ("1\n", 0)
        assert console.ask("awk 'BEGIN {print 6 * 7}'; readlink /etc/localtime")[0] == (
            "42\n/usr/share/zoneinfo/Etc/UTC\n"
        )
        halt(console)
    check(tmp_path / "overlay.qcow2")


def works(console: Console, level: str) -> None:
    """What the guest is for; every package is configured, and dpkg finds nothing amiss."""
    assert console.ask("python3 -c 'import json; print(json.dumps([6 * 7]))'") == ("[42]\n", 0)
    source = r'int main(void) { printf("forty-two %d\n", 6 * 7); }'
    write = f"printf '%s\\n' '#include <stdio.h>' '{source}' > a.c"
    assert console.ask(write) == ("", 0)
    assert console.ask(f"gcc -O{level} -Wall a.c && ./a.out", 300) == ("forty-two 42\n", 0)
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
    simulated, status = console.ask("apt-get install --no-download -s mawk")
    assert status == 0
    assert "0 upgraded, 0 newly installed" in simulated
    assert console.ask("stat -c '%U %a' /etc/shadow /usr/bin/passwd")[0] == "root 640\nroot 4755\n"
    assert console.ask("touch /var/tmp/x; cat /proc/1/comm; uname -m")[0] == "init\nriscv64\n"
