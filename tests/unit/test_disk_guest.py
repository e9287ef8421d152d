"""What makes packages a disk that boots: initramfs, settings, first boot. No network, no boot."""

from __future__ import annotations

import io
import lzma
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
MODULE = b"\x7fELF\0depends=\0name=x\0"


@pytest.fixture(autouse=True)
def _dpkg(oracle: Callable[[str], str]) -> None:
    oracle("dpkg-deb")


class FakeApt:
    """Has a kernel with modules, busybox, and one package to install."""

    architecture = "riscv64"

    def __init__(self, folder: Path, *, modules: Sequence[str] = disk.MODULES) -> None:
        folder.mkdir()
        lib = f"./usr/lib/modules/{KERNEL}"
        kernel = [member(f"./boot/vmlinux-{KERNEL}"), member(f"{lib}/modules.builtin")]
        kernel += [member(f"{lib}/kernel/{name}.ko") for name in modules]
        image = f"linux-image-{KERNEL}"
        meta = {"control": control_of("linux-image-riscv64", f"Depends: {image} (= 1)")}
        self.archives = [
            make_package(folder, [], control=meta, name="linux-image-riscv64"),
            make_package(folder, kernel, MODULE, name=image),
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
    assert (tmp_path / "tree/Image").read_bytes() == MODULE
    image = tmp_path / "tree/disk.img"
    assert image.stat().st_size == disk.SIZE
    assert image.stat().st_blocks * 512 < 4 << 20
    assert debugfs(image, "cat /usr/bin/tool") == "text"
    assert not debugfs(image, "cat /usr/share/doc/tool/NEWS.gz")
    assert "Package: tool\nStatus: install ok unpacked\n" in debugfs(
        image, "cat /var/lib/dpkg/status"
    )
    assert "unpacking 1 packages to a disk" in heard


def test_the_same_packages_make_the_same_disk(tmp_path: Path) -> None:
    images = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make(FakeApt(tmp_path / name / "apt"), tmp_path / name / "tree")
        with (tmp_path / name / "tree/disk.img").open("rb") as file:
            images.append(file.read(64 << 20))
    assert images[0] == images[1]


def test_a_kernel_without_the_disks_modules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="no kernel module ext4"):
        make(FakeApt(tmp_path / "apt", modules=disk.MODULES[:-1]), tmp_path / "tree")


def test_the_initramfs_loads_modules_in_their_order(oracle: Callable[[str], str]) -> None:
    names = [f"m{number}" for number in range(12)]
    archive = disk.initial(b"busybox", {name: name.encode() for name in names})
    listed = subprocess.run(
        [oracle("cpio"), "-t", "--quiet"], input=archive, capture_output=True, check=True
    )
    files = listed.stdout.decode().split()
    assert {"init", "bin/busybox", "dev/console"} <= set(files)
    modules = sorted(path for path in files if path.startswith("modules/"))  # as the shell does
    assert [re.sub(r"modules/\d+-(.*)\.ko", r"\1", path) for path in modules] == names


def scripts() -> dict[str, str]:
    tree = Tree(io.BytesIO(), limit=1 << 20)
    disk.complete(tree, "riscv64")
    return {
        "init": disk.initial(b"", {}).decode(errors="replace").partition("#!/bin/busybox sh\n")[2],
        "first-boot": tree.read("var/lib/hartwood/first-boot").decode(),
    }


@pytest.mark.parametrize("name", ["init", "first-boot"])
def test_the_scripts_are_sound_shell(name: str, oracle: Callable[[str], str]) -> None:
    text = scripts()[name].partition("\0")[0]
    assert "@" not in text
    done = subprocess.run(
        [oracle("sh"), "-n"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(text.splitlines()) > 15


def test_dpkg_will_leave_out_what_the_disk_leaves_out() -> None:
    tree = Tree(io.BytesIO(), limit=1 << 20)
    disk.complete(tree, "riscv64")
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


def test_modules_may_be_compressed(tmp_path: Path) -> None:
    apt = FakeApt(tmp_path / "apt", modules=disk.MODULES[:-1])
    lib = f"./usr/lib/modules/{KERNEL}"
    files = {f"./boot/vmlinux-{KERNEL}": b"kernel", f"{lib}/modules.builtin": b""}
    files |= {f"{lib}/kernel/{name}.ko.xz": lzma.compress(MODULE) for name in disk.MODULES}
    tree = tmp_path / "package"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_bytes(control_of(f"linux-image-{KERNEL}"))
    for path, data in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    command = ["dpkg-deb", "--build", "--root-owner-group", str(tree), str(apt.archives[1])]
    subprocess.run(command, check=True, capture_output=True)
    make(apt, tmp_path / "tree")
    assert MODULE in (tmp_path / "tree/initrd").read_bytes()
