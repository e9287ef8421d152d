"""Kernel modules in the order they load in, from packages that depmod has not seen."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from hartwood.guests import GuestError
from hartwood.guests.modules import load_order


def module(depends: str | None) -> bytes:
    """An ELF file as far as one looks: the strings of .modinfo between other bytes."""
    said = b"" if depends is None else f"depends={depends}\0".encode()
    return b"\x7fELF" + b"\0\1\2license=GPL\0" + said + b"name=x\0\xff\xfe"


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A tree of modules: fs needs log and cache, log needs crc-16, which needs core."""
    files = {
        "kernel/fs/fs.ko.xz": lzma.compress(module("log,cache")),
        "kernel/fs/log.ko": module("crc-16"),
        "kernel/fs/cache.ko.xz": lzma.compress(module("")),
        "kernel/lib/crc-16.ko.gz": gzip.compress(module("core")),
        "kernel/drivers/plain.ko": module(None),
        "kernel/loop/a.ko": module("b"),
        "kernel/loop/b.ko": module("a"),
        "kernel/odd/lost.ko": module("nowhere"),
        "kernel/odd/zst.ko.zst": b"(\xb5/\xfd",
        "kernel/odd/cut.ko.xz": lzma.compress(module(""))[:-9],
        "kernel/odd/bad.ko.gz": gzip.compress(module(""))[:-20] + b"x" * 12,
        "kernel/odd/text.ko": b"not ELF",
        "modules.builtin": b"kernel/lib/core.ko\n",
    }
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return tmp_path


def test_what_a_module_depends_on_comes_before_it_and_once(kernel: Path) -> None:
    order = load_order(kernel, ["fs", "cache", "plain"])
    assert list(order) == ["crc_16", "log", "cache", "fs", "plain"]
    assert order["fs"] == module("log,cache")
    assert order["crc_16"] == module("core")


def test_what_is_built_in_is_left_out(kernel: Path) -> None:
    assert load_order(kernel, ["core"]) == {}
    assert load_order(kernel, []) == {}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nothing", "no kernel module nothing"),
        ("lost", "no kernel module nowhere"),
        ("a", "a: depends on itself"),
        ("zst", "zst.ko.zst: a kernel module compressed in an unknown way"),
        ("cut", "cut.ko.xz: damaged kernel module"),
        ("bad", "bad.ko.gz: damaged kernel module"),
        ("text", "text.ko: damaged kernel module: no ELF file"),
    ],
)
def test_what_cannot_be_loaded_is_an_error(name: str, complaint: str, kernel: Path) -> None:
    with pytest.raises(GuestError, match=complaint):
        load_order(kernel, [name])


def test_a_folder_of_no_kernel_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match=r"modules.builtin: No such file"):
        load_order(tmp_path, ["fs"])
