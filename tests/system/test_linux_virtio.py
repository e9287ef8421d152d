"""Virtio devices under the drivers of Debian's kernel: one boot for all of it."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from hartwood.board import RiscvVirt
from hartwood.dev.virtio.blk import VirtioBlk
from hartwood.dev.virtio.console import VirtioConsole
from hartwood.dev.virtio.fs9p import VirtioFs9p
from hartwood.dev.virtio.rng import VirtioRng
from hartwood.dev.virtio.tree import Tree
from hartwood.guests import GUESTS
from hartwood.guests.initramfs import Initramfs
from system.file_disk import FileDisk

SECONDS = 400
SIZE = 4 << 20
#: A boot with all this takes some 20 s on an idle machine, and many times that on one that is not.
pytestmark = pytest.mark.timeout(SECONDS + 60)
#: The kernel takes no more than 32 words for its init, so what is to be done comes as a file. Each
#: command's output is found between two marks.
SCRIPT = r"""
cd /sys/block
say() { name=$1; shift; echo "<$name>$("$@" 2>&1)</$name>"; }
say drivers ls /sys/bus/virtio/drivers
say names cat vda/serial vdb/serial
say sectors cat vda/queue/logical_block_size vdb/queue/logical_block_size
say physical cat vda/queue/physical_block_size vdb/queue/physical_block_size
say readonly cat vda/ro vdb/ro
say size cat vda/size
say sum sha256sum /dev/vda
dd if=/dev/zero bs=4096 count=3 2>/dev/null | tr '\0' w |
  dd of=/dev/vda bs=4096 seek=5 conv=fsync 2>/dev/null
echo 3 > /proc/sys/vm/drop_caches
say written sha256sum /dev/vda
say refused sh -c 'echo x > /dev/vdb'
say noise sh -c 'head -c 1000 /dev/hwrng | wc -c'
say rng cat /sys/class/misc/hw_random/rng_current
echo "over there" > /dev/hvc0
# The driver sets the size some time after the console was opened.
sized() {
  n=0
  until [ -n "$(stty size 2>/dev/null)" ] || [ $n = 100 ]; do usleep 20000; n=$((n+1)); done
  stty size
}
say window sized < /dev/hvc0
say line sh -c 'exec 3<>/dev/hvc0; echo ready >&3; read line <&3; echo "$line"'
mkdir -p /mnt
say mount mount -t 9p -o trans=virtio,version=9p2000.L here /mnt
cd /mnt
say shared cat hello
say tree find . -type f
say large sha256sum large
say link cat link
echo made > new && mkdir dir && mv new dir/moved && ln -s moved dir/sym && chmod 600 dir/moved
say made ls dir
say through cat dir/sym
say append sh -c 'echo more >> dir/moved; cat dir/moved'
say node sh -c 'mknod zero c 1 5 2>&1'
rm -r tree
cd / && umount /mnt
"""


@dataclass
class Result:
    """What one boot left behind."""

    said: dict[str, str]
    reason: str
    folder: Path
    disk: bytes
    console: bytes
    troubles: list[str]
    kinds: set[str]


@pytest.fixture(scope="module")
def result(guest: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Result:
    kernel, initrd = GUESTS["debian-riscv64"].paths(guest("debian-riscv64"))
    path = tmp_path_factory.mktemp("virtio")
    more = Initramfs()
    more.file("script", SCRIPT.encode())
    archive = path / "initrd"
    archive.write_bytes(initrd.read_bytes() + more.archive())
    disks = []
    for name, sector, readonly in (("first", 4096, False), ("second", 512, True)):
        (path / name).write_bytes(Random(name).randbytes(SIZE))
        disks.append(FileDisk(path / name, sector, readonly))
    folder = shared(path / "shared")
    out, tty = bytearray(), bytearray()
    console = VirtioConsole(tx=tty.extend)
    console.resize(132, 43)
    devices = [
        *(VirtioBlk(disk=disk, requests=disk) for disk in disks), console, VirtioRng(),
        VirtioFs9p(tree=Tree(folder), tag="here"),
    ]  # fmt: skip
    append = "quiet console=ttyS0 -- sh /script"
    with RiscvVirt(
        devices=devices, kernel=kernel, initrd=archive, append=append, memory=256 << 20, harts=2
    ) as board:
        board.uart.tx = out.extend

        def answered() -> bool:
            if b"ready" in tty:
                tty.clear()
                console.feed(b"typed\n")
            return False

        ending = board.run(until=answered, seconds=SECONDS)
        for device in devices:
            device.quiesce()
    for disk in disks:
        disk.close()
    return Result(
        marked(out.decode(errors="replace")), ending.reason, folder, (path / "first").read_bytes(),
        bytes(tty), [device.trouble for device in devices], disks[0].kinds,
    )  # fmt: skip


def shared(folder: Path) -> Path:
    (folder / "tree/a/b").mkdir(parents=True)
    (folder / "hello").write_text("hello from the host\n")
    (folder / "tree/a/b/file").touch()
    (folder / "large").write_bytes(Random(5).randbytes(300_001))
    (folder.parent / "secret").write_text("host's own")
    (folder / "link").symlink_to("../secret")
    return folder


def marked(text: str) -> dict[str, str]:
    """What stands between marks of the script."""
    said = {}
    for part in text.replace("\r", "").split("<")[1:]:
        name, _, value = part.partition(">")
        if not name.startswith("/"):
            said[name] = value
    return said


def test_it_ran_to_the_end(result: Result) -> None:
    assert result.reason == "poweroff", result.said
    assert result.troubles == [""] * 5
    drivers = "9pnet_virtio", "virtio_blk", "virtio_console", "virtio_rng"
    assert set(drivers) <= set(result.said["drivers"].split())


def test_disks_are_what_they_say(result: Result) -> None:
    said = result.said
    assert said["names"].replace("\n", "") == "firstsecond"
    assert said["sectors"].split() == ["4096", "512"]
    assert said["physical"].split() == ["4096", "4096"]
    assert said["readonly"].split() == ["0", "1"]
    assert said["size"] == str(SIZE // 512)


def test_the_disk_holds_what_the_guest_reads_and_writes(result: Result) -> None:
    data = bytearray(Random("first").randbytes(SIZE))
    assert result.said["sum"].split()[0] == hashlib.sha256(data).hexdigest()
    data[5 * 4096 : 8 * 4096] = b"w" * 3 * 4096
    assert result.disk == data
    assert result.said["written"].split()[0] == hashlib.sha256(data).hexdigest()
    assert {"read", "write", "flush"} <= result.kinds


def test_a_disk_that_is_read_only_is_not_written(result: Result) -> None:
    assert "not permitted" in result.said["refused"] or "ead-only" in result.said["refused"]


def test_there_is_noise(result: Result) -> None:
    assert result.said["noise"] == "1000"
    assert result.said["rng"].startswith("virtio_rng")


def test_the_console_speaks_both_ways_and_knows_its_window(result: Result) -> None:
    assert result.said["line"] == "typed"
    assert result.said["window"] == "43 132"


def test_a_folder_is_shared(result: Result) -> None:
    said, folder = result.said, result.folder
    assert said["mount"] == ""
    assert said["shared"] == "hello from the host"
    assert set(said["tree"].split()) == {"./hello", "./large", "./tree/a/b/file"}
    assert said["large"].split()[0] == hashlib.sha256(Random(5).randbytes(300_001)).hexdigest()
    assert sorted(said["made"].split()) == ["moved", "sym"]
    assert said["through"] == "made"
    assert said["append"].split() == ["made", "more"]
    assert (folder / "dir/moved").read_text() == "made\nmore\n"
    assert (folder / "dir/moved").stat().st_mode & 0o777 == 0o600
    assert (folder / "dir/sym").readlink() == Path("moved")
    assert not (folder / "tree").exists()


def test_nothing_leads_out_of_the_folder(result: Result) -> None:
    assert "host's own" not in result.said["link"]
    assert "No such file" in result.said["link"]  # the guest's own kernel follows the link
    assert "not permitted" in result.said["node"]
    assert not (result.folder / "zero").exists()


def test_lists_of_modules_are_those_of_depmod(
    guest: Callable[[str], Path], oracle: Callable[[str], str], tmp_path: Path
) -> None:
    """kmod finds the same dependencies and aliases by what symbols the modules use."""
    _, initrd = GUESTS["debian-riscv64"].paths(guest("debian-riscv64"))
    command = [oracle("cpio"), "-id", "--quiet", "lib*"]
    subprocess.run(command, input=initrd.read_bytes(), cwd=tmp_path, check=True)
    (folder,) = (tmp_path / "lib/modules").iterdir()
    names = ("modules.dep", "modules.alias")
    ours = [lines(folder / name) for name in names]
    assert len(ours[0]) > 10
    subprocess.run([oracle("depmod"), "-b", str(tmp_path), folder.name], check=True)
    assert [lines(folder / name) for name in names] == ours


def lines(path: Path) -> list[str]:
    """Of a list, without remarks; what a module needs in any order that is one of its own."""
    return sorted(
        " ".join(sorted(line.split())) for line in path.read_text().splitlines() if line[:1] != "#"
    )
