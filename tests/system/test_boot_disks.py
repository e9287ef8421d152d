"""`hartwood boot` with disks and a shared folder, by the command itself, under Debian's kernel."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from hartwood import storage
from hartwood.guests import GUESTS
from system.test_linux_virtio import marked
from unit.disk_images import run

SECONDS = 400
SIZE = 4 << 20
pytestmark = pytest.mark.timeout(SECONDS + 60)
#: The shell's script is in the folder that is shared, since the kernel takes 32 words.
APPEND = 'quiet console=ttyS0 -- "mount -t 9p -o trans=virtio,version=9p2000.L share /root; sh /root/script"'  # noqa: E501
SCRIPT = r"""
say() { name=$1; shift; echo "<$name>$("$@" 2>&1)</$name>"; }
cd /sys/block
say sectors cat vda/queue/logical_block_size vdb/queue/logical_block_size vdc/queue/logical_block_size
say serials cat vda/serial vdb/serial vdc/serial
say readonly cat vda/ro vdb/ro vdc/ro
say raw sha256sum /dev/vda
say qcow2 sha256sum /dev/vdb
dd if=/root/data of=/dev/vda bs=4096 seek=3 conv=fsync 2>/dev/null
dd if=/root/data of=/dev/vdb bs=512 seek=77 conv=fsync 2>/dev/null
say refused dd if=/root/data of=/dev/vdc bs=4096 count=1 conv=fsync
echo 3 > /proc/sys/vm/drop_caches
sha256sum /dev/vda /dev/vdb /dev/vdc > /root/sums
sync
"""  # noqa: E501


@dataclass
class Booted:
    """What one boot said and left behind."""

    folder: Path
    raw: bytes
    qcow2: bytes
    data: bytes
    done: subprocess.CompletedProcess[str]

    @property
    def said(self) -> dict[str, str]:
        return marked(self.done.stdout)


@pytest.fixture(scope="module")
def booted(
    guest: Callable[[str], Path], hartwood_command: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Booted:  # fmt: skip
    kernel, initrd = GUESTS["debian-riscv64"].paths(guest("debian-riscv64"))
    folder = tmp_path_factory.mktemp("disks")
    raw, qcow2, data = (Random(n).randbytes(size) for n, size in enumerate((SIZE, SIZE, 123_456)))
    (folder / "raw").write_bytes(raw)
    (folder / "fixed").write_bytes(raw)
    storage.create(folder / "qcow2", SIZE, "qcow2")
    with storage.open(folder / "qcow2", format="qcow2") as disk:
        disk.write(0, qcow2)
    shared = folder / "shared"
    shared.mkdir()
    (shared / "script").write_text(SCRIPT)
    (shared / "data").write_bytes(data)
    words = ["--kernel", kernel, "--initrd", initrd, "--append", APPEND, "--memory", "256M"]
    words += ["--disk", f"{folder}/raw,sector=4096", "--disk", f"{folder}/qcow2,format=qcow2"]
    words += ["--disk", f"{folder}/fixed,format=raw,readonly,serial=FIXED", "--share", shared]
    done = subprocess.run(
        [*hartwood_command, "boot", *map(str, words), "--timeout", str(SECONDS)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Booted(folder, raw, qcow2, data, done)


def changed(data: bytes, at: int, more: bytes) -> bytes:
    """A disk after a write, by the host's own reckoning."""
    return data[:at] + more + data[at + len(more) :]


def test_it_ran_to_the_end(booted: Booted) -> None:
    assert (booted.done.returncode, booted.done.stderr) == (0, "")
    assert "hartwood: status 0" in booted.done.stdout


def test_disks_stand_in_the_order_of_the_options(booted: Booted) -> None:
    assert booted.said["sectors"].split() == ["4096", "512", "512"]
    assert booted.said["serials"].replace("\n", "") == "rawqcow2FIXED"
    assert booted.said["readonly"].split() == ["0", "0", "1"]


def test_the_guest_reads_what_the_host_wrote(booted: Booted) -> None:
    for name, data in (("raw", booted.raw), ("qcow2", booted.qcow2)):
        assert booted.said[name].split()[0] == hashlib.sha256(data).hexdigest(), name


def test_the_host_reads_what_the_guest_wrote(booted: Booted) -> None:
    """The qcow2 as QEMU reads it, too."""
    raw = changed(booted.raw, 3 * 4096, booted.data)
    qcow2 = changed(booted.qcow2, 77 * 512, booted.data)
    assert (booted.folder / "raw").read_bytes() == raw
    copy = booted.folder / "copy"
    run("qemu-img", "check", "-f", "qcow2", booted.folder / "qcow2")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", booted.folder / "qcow2", copy)
    assert copy.read_bytes() == qcow2
    sums = (booted.folder / "shared/sums").read_text().split()[::2]
    assert sums == [hashlib.sha256(each).hexdigest() for each in (raw, qcow2, booted.raw)]


def test_a_disk_that_is_read_only_refuses(booted: Booted) -> None:
    assert "not permitted" in booted.said["refused"] or "ead-only" in booted.said["refused"]
    assert (booted.folder / "fixed").read_bytes() == booted.raw
