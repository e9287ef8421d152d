"""cpio archives for kernels, read back by Debian's cpio, and what a bootable guest is made of."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.guests import GUESTS, GuestError, bootable
from hartwood.guests.initramfs import Initramfs, InitramfsError

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)


def sample() -> Initramfs:
    made = Initramfs()
    made.directory("bin")
    made.file("bin/tool", b"odd", 0o755)
    made.file("empty", b"")
    made.link("bin/other", "tool")
    made.device("console", 5, 1)
    made.files({"etc/deep/er": b"x" * 1001, "etc/a": b"1"})
    return made


def test_another_reader_finds_everything(tmp_path: Path, oracle: Callable[[str], str]) -> None:
    archive = sample().archive()
    listed = subprocess.run(
        [oracle("cpio"), "-tv", "--quiet"], input=archive, capture_output=True, check=True
    )
    lines = [line.split() for line in listed.stdout.decode().splitlines()]
    modes = {line[-3] if "->" in line else line[-1]: line[0] for line in lines}
    assert modes == {
        "bin": "drwxr-xr-x", "bin/tool": "-rwxr-xr-x", "empty": "-rw-r--r--",
        "bin/other": "lrwxrwxrwx", "console": "crw-------", "etc": "drwxr-xr-x",
        "etc/deep": "drwxr-xr-x", "etc/deep/er": "-rw-r--r--", "etc/a": "-rw-r--r--",
    }  # fmt: skip
    command = [oracle("cpio"), "-id", "--quiet", "bin/*", "etc*", "empty", "bin"]
    subprocess.run(command, input=archive, cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / "bin/tool").read_bytes() == b"odd"
    assert (tmp_path / "bin/other").readlink() == Path("tool")
    assert (tmp_path / "etc/deep/er").read_bytes() == b"x" * 1001
    assert (tmp_path / "empty").read_bytes() == b""


def test_it_is_a_whole_number_of_blocks_with_parents_first() -> None:
    archive = sample().archive()
    assert len(archive) % 512 == 0
    assert archive.index(b"etc\0") < archive.index(b"etc/deep\0") < archive.index(b"etc/deep/er\0")
    assert archive.rindex(b"TRAILER!!!") > archive.index(b"etc/a\0")


@given(st.dictionaries(NAMES.filter(lambda n: n not in (".", "..", "TRAILER!!!")), st.binary()))
def test_every_entry_is_aligned_and_says_its_size(files: dict[str, bytes]) -> None:
    made = Initramfs()
    for name, data in files.items():
        made.file(name, data)
    archive, at, found = made.archive(), 0, {}
    while True:
        assert at % 4 == 0
        head = archive[at : at + 110]
        assert head[:6] == b"070701"
        size, length = int(head[54:62], 16), int(head[94:102], 16)
        name = archive[at + 110 : at + 110 + length - 1].decode()
        data_at = (at + 110 + length + 3) & -4
        if name == "TRAILER!!!":
            break
        found[name] = archive[data_at : data_at + size]
        at = (data_at + size + 3) & -4
    assert found == files


@pytest.mark.parametrize("path", ["", "/", "a/../b", "..", "a\0b", "TRAILER!!!"])
def test_names_that_are_none_are_refused(path: str) -> None:
    with pytest.raises(InitramfsError):
        Initramfs().file(path, b"")


def test_a_name_is_given_once() -> None:
    made = Initramfs()
    made.file("init", b"")
    with pytest.raises(InitramfsError, match="init: is in the initramfs already"):
        made.directory("init")


# Bootable guests.
class Archive:
    """An apt that has one file for each package."""

    architecture = "riscv64"

    def __init__(self, folder: Path, packages: dict[str, str]) -> None:
        self.folder, self.packages = folder, packages

    def download(self, names: list[str], *, dependencies: bool = True) -> list[Path]:
        assert not dependencies
        return [self.build(name) for name in names if name in self.packages]

    def build(self, name: str) -> Path:
        tree = self.folder / name
        (tree / "DEBIAN").mkdir(parents=True)
        depends = self.packages[name]
        (tree / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\n"
            f"Description: x\n{depends}"
        )
        if name.startswith("linux-image-6"):
            (tree / "boot").mkdir()
            (tree / "boot/vmlinux-6").write_bytes(b"kernel")
        if name == "busybox-static":
            (tree / "usr/bin").mkdir(parents=True)
            (tree / "usr/bin/busybox").write_bytes(b"busybox")
        command = ["dpkg-deb", "--build", "--root-owner-group", str(tree), str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)
        return self.folder / f"{name}_1_all.deb"


PACKAGES = {
    "linux-image-riscv64": "Depends: linux-image-6.12-riscv64 (= 1)\n",
    "linux-image-6.12-riscv64": "",
    "busybox-static": "",
}


def test_the_kernel_is_the_one_that_the_suites_own_package_names(tmp_path: Path) -> None:
    (tmp_path / "apt").mkdir()
    tree, heard = tmp_path / "tree", list[str]()
    tree.mkdir()
    bootable.make(Archive(tmp_path / "apt", PACKAGES), tree, heard.append)  # type: ignore[arg-type]
    assert (tree / "Image").read_bytes() == b"kernel"
    initrd = (tree / "initrd").read_bytes()
    assert b"bin/busybox\0" in initrd
    assert bootable.MARKER.encode() in initrd
    assert b"bin/lease\0" in initrd
    assert b"00-virtio_mmio" not in initrd
    assert len(heard) == 2
    assert GUESTS["debian-riscv64"].paths(tree) == [tree / "Image", tree / "initrd"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["apt", "tree"]


@pytest.mark.parametrize("missing", sorted(PACKAGES))
def test_a_package_that_is_not_there_is_named(tmp_path: Path, missing: str) -> None:
    (tmp_path / "apt").mkdir()
    (tmp_path / "tree").mkdir()
    packages = {name: text for name, text in PACKAGES.items() if name != missing}
    with pytest.raises(GuestError, match=missing):
        bootable.make(Archive(tmp_path / "apt", packages), tmp_path / "tree", print)  # type: ignore[arg-type]


def test_a_package_that_names_no_kernel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "apt").mkdir()
    (tmp_path / "tree").mkdir()
    packages = {**PACKAGES, "linux-image-riscv64": "Depends: libc6\n"}
    with pytest.raises(GuestError, match="does not say which kernel"):
        bootable.make(Archive(tmp_path / "apt", packages), tmp_path / "tree", print)  # type: ignore[arg-type]
