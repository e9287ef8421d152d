"""Kernel modules for the initial file system: found, unpacked, with all that they depend on."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

import pytest

from hartwood.guests import GuestError
from hartwood.guests.bootable import INIT, initial
from hartwood.guests.modules import WANTED, collect

BASE = "lib/modules/6.1-test"


def module(depends: str = "", aliases: tuple[str, ...] = ()) -> bytes:
    """An ELF file with nothing but a section .modinfo."""
    says = b"".join(f"alias={alias}\0".encode() for alias in aliases)
    says += f"license=GPL\0depends={depends}\0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01" + bytes(9), 1, 243, 1, 0, 0,
        64 + len(says) + len(names), 0, 64, 0, 0, 64, 3, 2,
    )  # fmt: skip
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, 64, len(says), 0, 0, 1, 0)
    at = 64 + len(says)
    sections += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, at, len(names), 0, 0, 1, 0)
    return header + says + names + sections


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An unpacked kernel package, with modules plain and packed."""
    folder = tmp_path / "usr/lib/modules/6.1-test/kernel"
    files = {
        "drivers/virtio/virtio_mmio.ko": module(aliases=("of:N*T*Cvirtio,mmio",)),
        "drivers/char/virtio-rng.ko.xz": lzma.compress(module(aliases=("virtio:d00000004v*",))),
        "fs/9p/9p.ko.xz": lzma.compress(module("9pnet,netfs", ("fs-9p",))),
        "net/9p/9pnet.ko.xz": lzma.compress(module("netfs")),
        "net/9p/9pnet_virtio.ko": module("9pnet", ("9p-virtio",)),
        "fs/netfs/netfs.ko": module(),
        "drivers/other.ko": b"nobody looks at this one",
    }
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path


def test_what_is_wanted_comes_with_what_it_needs(package: Path) -> None:
    files = collect(package)
    names = {"virtio_mmio", "virtio_rng", "9p", "9pnet", "9pnet_virtio", "netfs"}
    assert set(files) == {f"{BASE}/{name}.ko" for name in names} | {
        f"{BASE}/modules.dep", f"{BASE}/modules.alias"
    }  # fmt: skip
    assert files[f"{BASE}/9p.ko"] == module("9pnet,netfs", ("fs-9p",))


def test_dependencies_are_listed_last_needed_first(package: Path) -> None:
    """modules.dep(5): what comes first may use what comes after it."""
    lines = collect(package)[f"{BASE}/modules.dep"].decode().splitlines()
    assert lines == [
        "9p.ko: 9pnet.ko netfs.ko", "9pnet.ko: netfs.ko", "9pnet_virtio.ko: 9pnet.ko netfs.ko",
        "netfs.ko:", "virtio_mmio.ko:", "virtio_rng.ko:",
    ]  # fmt: skip


def test_aliases_are_what_the_modules_say(package: Path) -> None:
    assert collect(package)[f"{BASE}/modules.alias"].decode().splitlines() == [
        "alias 9p-virtio 9pnet_virtio", "alias fs-9p 9p", "alias of:N*T*Cvirtio,mmio virtio_mmio",
        "alias virtio:d00000004v* virtio_rng",
    ]  # fmt: skip


def test_a_kernel_without_modules_has_none(tmp_path: Path) -> None:
    assert collect(tmp_path) == {}


def test_a_module_that_is_not_there_is_named(package: Path) -> None:
    next(package.rglob("netfs.ko")).unlink()
    with pytest.raises(GuestError, match="no module netfs, which another one needs"):
        collect(package)


@pytest.mark.parametrize("data", [b"", b"\xfd7zXZ\0 cut off", lzma.compress(b"text")[:-4]])
def test_a_damaged_archive_is_named(package: Path, data: bytes) -> None:
    next(package.rglob("virtio-rng.ko.xz")).write_bytes(data)
    with pytest.raises(GuestError, match=r"virtio-rng\.ko\.xz"):
        collect(package)


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ" * 40, module()[:100]])
def test_a_damaged_module_is_named(package: Path, data: bytes) -> None:
    next(package.rglob("virtio_mmio.ko")).write_bytes(data)
    with pytest.raises(GuestError, match=r"virtio_mmio\.ko"):
        collect(package)


def test_loops_of_dependencies_end(package: Path) -> None:
    next(package.rglob("netfs.ko")).write_bytes(module("9pnet"))
    with pytest.raises(GuestError, match="depend on each other"):
        collect(package)


def test_names_are_those_of_modules() -> None:
    """With underscores, as the kernel has them (modprobe(8))."""
    assert all("-" not in name and "." not in name for name in WANTED)


def test_the_archive_holds_them() -> None:
    archive = initial(b"busybox", files={f"{BASE}/a.ko": b"module"})
    for name in (b"lib\0", b"lib/modules\0", b"lib/modules/6.1-test\0", b"6.1-test/a.ko\0"):
        assert name in archive
    assert b"/sbin/modprobe" in archive
    assert "modprobe -q virtio_mmio" in INIT
