"""What makes packages a disk that boots: initramfs, settings, first boot. No network, no boot."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

import pytest

from hartwood.guests import GuestError, disk
from hartwood.guests.tree import Tree
from unit.debian_archives import control_of, make_package, member

KERNEL = "6.12-riscv64"


@pytest.fixture(autouse=True)
def _dpkg(oracle: Callable[[str], str]) -> None:
    oracle("dpkg-deb")


class FakeApt:
    """Has a kernel, busybox, and one package to install."""

    architecture = "riscv64"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        kernel = [member(f"./boot/vmlinux-{KERNEL}")]
        image = f"linux-image-{KERNEL}"
        meta = {"control": control_of("linux-image-riscv64", f"Depends: {image} (= 1)")}
        self.archives = [
            make_package(folder, [], control=meta, name="linux-image-riscv64"),
            make_package(folder, kernel, b"kernel", name=image),
            make_package(folder, [member("./usr/bin/busybox")], b"busybox", name="busybox-static"),
        ]
        self.asked = [
            make_package(
                folder,
                [member("./usr/bin/tool", mode=0o755), member("./usr/share/doc/tool/NEWS.gz")],
                control={"control": control_of("tool")},
                name="tool",
            )
        ]

    def download(self, packages: Sequence[str], *, dependencies: bool = True) -> list[Path]:
        if dependencies:
            assert tuple(packages) == ("?essential", "tool")
            return self.asked
        return [path for path in self.archives if path.name.partition("_")[0] in packages]


def make(apt: FakeApt, tree: Path) -> list[str]:
    heard: list[str] = []
    tree.mkdir()
    disk.make(apt, ("?essential", "tool"), tree, heard.append)  # type: ignore[arg-type]
    return heard


def debugfs(image: Path, request: str) -> str:
    program = shutil.which("debugfs") or shutil.which("debugfs", path="/usr/sbin:/sbin")
    if program is None:
        pytest.skip("missing: debugfs (scripts/oracles.sh installs it)")
    done = subprocess.run(
        [program, "-R", request, image], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_disk_has_the_packages_and_what_boots_them(tmp_path: Path) -> None:
    heard = make(FakeApt(tmp_path / "apt"), tmp_path / "tree")
    assert {path.name for path in (tmp_path / "tree").iterdir()} == {"Image", "initrd", "disk.img"}
    assert {path.name for path in tmp_path.iterdir()} == {"apt", "tree"}
    assert (tmp_path / "tree/Image").read_bytes() == b"kernel"
    image = tmp_path / "tree/disk.img"
    assert image.stat().st_size == disk.SIZE
    assert image.stat().st_blocks * 512 < 4 << 20
    assert debugfs(image, "cat /usr/bin/tool") == "text"
    assert not debugfs(image, "cat /usr/share/doc/tool/NEWS.gz")
    assert "Package: tool\nStatus: install ok installed\n" in debugfs(
        image, "cat /var/lib/dpkg/status"
    )
    assert not debugfs(image, "cat /var/lib/hartwood/first-boot")
    assert debugfs(image, "cat /etc/inittab") == disk._INITTAB
    assert "unpacking 1 packages to a disk" in heard
    assert disk.INIT.encode() in (tmp_path / "tree/initrd").read_bytes()


def test_what_has_scripts_that_nobody_read_is_left_to_the_guest(tmp_path: Path) -> None:
    apt = FakeApt(tmp_path / "apt")
    for name in ("mawk", "tool", "other"):
        control = {"control": control_of(name), "preinst" if name == "other" else "postinst": b":"}
        apt.asked.append(make_package(tmp_path / "apt", [], control=control, name=name))
    apt.asked.pop(0)
    make(apt, tmp_path / "tree")
    image = tmp_path / "tree/disk.img"
    status = debugfs(image, "cat /var/lib/dpkg/status")
    assert re.findall(r"Package: (.*)\nStatus: install ok (.*)\n", status) == [
        ("mawk", "installed"), ("tool", "unpacked"), ("other", "unpacked"),
    ]  # fmt: skip
    script = debugfs(image, "cat /var/lib/hartwood/first-boot")
    assert "\nfor package in tool other; do\n" in script
    assert disk.BEGUN in script
    assert disk.DONE in script


def test_the_same_packages_make_the_same_disk(tmp_path: Path) -> None:
    images = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make(FakeApt(tmp_path / name / "apt"), tmp_path / name / "tree")
        with (tmp_path / name / "tree/disk.img").open("rb") as file:
            images.append(file.read(64 << 20))
    assert images[0] == images[1]


def scripts() -> dict[str, str]:
    tree = Tree(io.BytesIO(), limit=1 << 20)
    disk.complete(tree, ["one", "two"], architecture="riscv64")
    return {
        "init": disk.INIT,
        "first-boot": tree.read("var/lib/hartwood/first-boot").decode(),
        "sysinit": tree.read("etc/rc.sysinit").decode(),
    }


@pytest.mark.parametrize("name", ["init", "first-boot", "sysinit"])
def test_the_scripts_are_sound_shell(name: str, oracle: Callable[[str], str]) -> None:
    text = scripts()[name]
    assert "@" not in text
    done = subprocess.run(
        [oracle("sh"), "-n"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(text.splitlines()) > 15


def test_boot_scripts_of_other_packages_are_run_in_their_order(
    oracle: Callable[[str], str], tmp_path: Path
) -> None:
    """The loop of the script that stands in for those of initscripts, by the machine's shell."""
    _, begin, loop = scripts()["sysinit"].partition("own=")
    (tmp_path / "rcS.d").mkdir()
    for name in ("S02other", "S01hostname.sh", "S10last", "S03host"):
        (tmp_path / "rcS.d" / name).write_text(f"#!/bin/sh\necho {name} $1\n")
        (tmp_path / "rcS.d" / name).chmod(0o755)
    (tmp_path / "list").write_text("/etc/init.d/halt\n/etc/init.d/hostname.sh\n/etc/init.d\n")
    loop = loop.replace("/etc/rcS.d", f"{tmp_path}/rcS.d")
    loop = loop.replace("/var/lib/dpkg/info/initscripts.list", f"{tmp_path}/list")
    done = subprocess.run(
        [oracle("sh"), "-ec", begin + loop], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["S02other start", "S03host start", "S10last start"]


def test_dpkg_will_leave_out_what_the_disk_leaves_out() -> None:
    tree = Tree(io.BytesIO(), limit=1 << 20)
    disk.complete(tree, [], architecture="riscv64")
    rules = [
        line.removeprefix("path-").split("=")
        for line in tree.read("etc/dpkg/dpkg.cfg.d/hartwood").decode().split()
    ]

    def kept(path: str) -> bool:  # dpkg(1): the last rule that matches
        verdicts = [kind == "include" for kind, glob in rules if fnmatch(path, glob)]
        return not verdicts or verdicts[-1]

    for path in (
        "/usr/share/doc/a/NEWS.gz", "/usr/share/doc/a/copyright", "/usr/share/locale/de/x.mo",
        "/usr/share/info/a", "/usr/share/man/man1/a.1.gz", "/usr/bin/doc", "/usr/share/documents/a",
        "/usr/share/lintian/overrides/a",
    ):  # fmt: skip
        assert kept(path) is not bool(re.search(disk._EXCLUDE, path)), path


def test_a_hostile_package_makes_no_disk(tmp_path: Path) -> None:
    apt = FakeApt(tmp_path / "apt")
    apt.asked = [
        make_package(
            tmp_path / "apt",
            [member("./x", tarfile.LNKTYPE, "../../../../etc/passwd")],
            control={"control": control_of("tool")},
            name="tool",
        )
    ]
    with pytest.raises(GuestError, match=r"tool_1_all\.deb"):
        make(apt, tmp_path / "tree")
