"""Device trees against dtc, kernels as files, and the firmware's answers."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.board import BoardError, LoaderError, RiscvVirt
from hartwood.board.fdt import Node, TreeError, flatten, wide
from hartwood.board.loader import load, read
from hartwood.board.sbi import (
    ALREADY,
    BAD_ADDRESS,
    EXTENSIONS,
    INVALID,
    NOT_SUPPORTED,
    SUCCESS,
    Sbi,
)
from hartwood.errors import MemoryFault
from hartwood.tools.boot import size

BASE = 0x8000_0000
U64 = (1 << 64) - 1


# Trees.
def source(blob: bytes, dtc: str) -> str:
    """What dtc reads; it complains of what a tree must not be."""
    done = subprocess.run(
        [dtc, "-I", "dtb", "-O", "dts", "-q"], input=blob, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_another_reader_sees_the_same_tree(oracle: Callable[[str], str]) -> None:
    root = Node("", {"#address-cells": 2, "compatible": ["a,b", "c"], "empty": None})
    child = root.add("child@10", reg=wide(0x1_0000_0002, 3), name2="text")
    child.add("inner", cells=(1, 2, 0xFFFF_FFFF))
    text = " ".join(source(flatten(root), oracle("dtc")).split())
    for part in (
        "#address-cells = <0x02>;", 'compatible = "a,b\\0c";', "empty;", "child@10 {",
        "reg = <0x01 0x02 0x00 0x03>;", 'name2 = "text";', "cells = <0x01 0x02 0xffffffff>;",
    ):  # fmt: skip
        assert part in text or part.replace("\\0", '", "') in text, (part, text)


@given(st.recursive(
    st.dictionaries(st.from_regex(r"[a-z][a-z0-9,-]{0,8}", fullmatch=True), st.integers(0, 99)),
    lambda inner: st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), inner, max_size=3),
    max_leaves=8,
))  # fmt: skip
def test_blobs_keep_their_own_rules(shape: dict[str, Any]) -> None:
    def build(node: Node, what: dict[str, Any]) -> None:
        for name, value in what.items():
            if isinstance(value, dict):
                build(node.add(name), value)
            else:
                node.properties[name] = value

    root = Node("")
    build(root, shape)
    blob = flatten(root)
    magic, total, words, strings, _, version, _, _, size_s, size_w = struct.unpack(
        ">10I", blob[:40]
    )
    assert (magic, total, version) == (0xD00DFEED, len(blob), 17)
    assert words + size_w == strings
    assert strings + size_s == total
    assert words % 4 == 0
    assert blob[strings - 4 : strings] == struct.pack(">I", 9)


@pytest.mark.parametrize("value", [1 << 32, -1, (1, 1 << 40)])
def test_cells_have_32_bits(value: int | tuple[int, ...]) -> None:
    with pytest.raises(TreeError, match="reg"):
        flatten(Node("", {"reg": value}))


@pytest.mark.parametrize("text", ["gr\udce9", "a\0b"])
def test_text_that_no_tree_can_hold(text: str) -> None:
    with pytest.raises(TreeError, match="bootargs") as raised:
        flatten(Node("", {"bootargs": text}))
    assert raised.value.exit_status == 2
    str(raised.value).encode()  # it can be said on any terminal


# Kernels.
def image(offset: int = 0x20_0000, memory: int = 0x10_0000, extra: bytes = b"code") -> bytes:
    head = bytearray(64)
    head[8:16], head[16:24] = offset.to_bytes(8, "little"), memory.to_bytes(8, "little")
    head[48:56], head[56:60] = b"RISCV\0\0\0", b"RSC\x05"
    return bytes(head) + extra


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "kernel"
    path.write_bytes(data)
    return path


def test_an_image_says_where_it_lies_and_how_much_it_takes(tmp_path: Path) -> None:
    kernel = load(written(tmp_path, image()), BASE)
    assert kernel.parts == ((BASE + 0x20_0000, image()),)
    assert (kernel.entry, kernel.end) == (BASE + 0x20_0000, BASE + 0x30_0000)


def test_a_compressed_image_is_unpacked(tmp_path: Path) -> None:
    kernel = load(written(tmp_path, gzip.compress(image(), mtime=0)), BASE)
    assert kernel.parts[0][1] == image()


def efi(kind: bytes, payload: bytes) -> bytes:
    """A vmlinuz.efi: zboot's header, a stub, the payload."""
    head = struct.pack("<4s4sII8x32s", b"MZ\0\0", b"zimg", 128, len(payload), kind)
    return head.ljust(128, b"\0") + payload


def test_an_efi_program_that_unpacks_itself_is_unpacked(tmp_path: Path) -> None:
    data = efi(b"gzip", gzip.compress(image(), mtime=0))
    assert load(written(tmp_path, data), BASE) == load(written(tmp_path, image()), BASE)


def test_an_image_of_gigabytes_in_a_small_file_is_refused(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    data = b"".join(packer.compress(zeros) for _ in range(300)) + packer.flush()
    with pytest.raises(LoaderError, match="more than 256 MiB"):
        load(written(tmp_path, data), BASE)


def test_raw_code_lies_where_linux_would(tmp_path: Path) -> None:
    kernel = load(written(tmp_path, b"\x13\0\0\0"), BASE)
    assert kernel.parts == ((BASE + 0x20_0000, b"\x13\0\0\0"),)


def elf(machine: int = 243, entry: int = BASE, load_at: int = BASE, kind: int = 1) -> bytes:
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, machine, 1, entry, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    part = struct.pack("<IIQQQQQQ", kind, 5, 120, entry & -4096, load_at, 4, 0x2000, 0x1000)
    return head + part + b"CODE"


def test_elf_segments_lie_at_their_physical_addresses(tmp_path: Path) -> None:
    kernel = load(written(tmp_path, elf()), BASE)
    assert kernel.parts == ((BASE, b"CODE"),)
    assert (kernel.entry, kernel.end) == (BASE, BASE + 0x2000)


def test_an_entry_in_virtual_memory_is_found_in_physical(tmp_path: Path) -> None:
    kernel = load(written(tmp_path, elf(entry=0x1000_0010, load_at=BASE)), BASE)
    assert kernel.entry == BASE + 0x10


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is empty"),
        (elf(machine=62), "EM_X86_64, not riscv64"),
        (elf(kind=4), "nothing to load"),
        (elf()[:70], "damaged ELF|nothing to load"),
        (elf()[:-1], "truncated: a segment of 4 bytes has 3"),
        (b"MZ" + bytes(200), "no riscv64 Linux Image"),
        (b"\x1f\x8b\x08" + bytes(20), "damaged gzip"),
        (gzip.compress(image(), mtime=0)[:-9], "damaged gzip"),
        (image(offset=1 << 40), "cannot be"),
        (image(memory=1 << 50), "cannot be"),
        (b"#!/bin/sh\necho this is no kernel\n" * 200, "text, not a kernel"),
        (b"\x7fELF\1\1\1" + elf()[7:], "ELF"),
        (lzma.compress(image()), "xz -d"),
        (lzma.compress(image(), lzma.FORMAT_ALONE), "lzma"),
        (bz2.compress(image()), "bunzip2"),
        (b"\x28\xb5\x2f\xfd" + image(), "zstd -d"),
        (flatten(Node("")), "a device tree"),
        (b"MZ" + bytes(0x200) + b"HdrS" + bytes(999), "for x86, not riscv64"),
        (b"MZ" + bytes(54) + b"ARM\x64" + bytes(999), "for arm64, not riscv64"),
        (bytes(5000), "0x0 at its start is no instruction"),
        (b"\xff" * 100, "0xffffffff at its start is no instruction"),
        (b"\x13", "no instruction"),
        (efi(b"zstd", image()), "compressed with zstd"),
        (efi(b"gzip", gzip.compress(image(), mtime=0))[:-3], "truncated"),
        (efi(b"gzip", b"not gzip"), "truncated|damaged"),
    ],
    ids=range(25),
)
def test_what_is_no_kernel_is_one_line(tmp_path: Path, data: bytes, complaint: str) -> None:
    with pytest.raises(LoaderError, match=complaint) as raised:
        load(written(tmp_path, data), BASE)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


@given(st.binary(max_size=300), st.sampled_from([elf(), image(), gzip.compress(image(), mtime=0)]),
       st.integers(0, 120))  # fmt: skip
def test_no_file_is_worse_than_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, good: bytes, at: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(good[:at] + noise + good[at + len(noise) :])
    try:
        kernel = load(path, BASE)
    except LoaderError as error:
        assert "\n" not in str(error)
    else:
        assert kernel.parts


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match="initrd: cannot read the initramfs: No such file"):
        read(tmp_path / "initrd", "initramfs")


# The board.
@pytest.mark.parametrize("harts", [0, 9])
def test_a_number_of_harts_that_cannot_be(tmp_path: Path, harts: int) -> None:
    with pytest.raises(BoardError, match="harts"):
        RiscvVirt(kernel=written(tmp_path, image()), harts=harts)


def test_too_little_memory_says_how_much_it_takes(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match=r"2 MiB are too little: this takes 4 MiB"):
        RiscvVirt(kernel=written(tmp_path, image()), memory=2 << 20)


def test_memory_that_is_no_whole_page(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="whole pages"):
        RiscvVirt(kernel=written(tmp_path, image()), memory=(8 << 20) + 1)


def test_a_command_line_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="too long"):
        RiscvVirt(kernel=written(tmp_path, image()), memory=16 << 20, append="x" * 70_000)


@pytest.mark.parametrize(
    ("text", "count"), [("512M", 512 << 20), ("1g", 1 << 30), ("4096", 4096), ("64K", 65536)]
)
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "M", "-1M", "1.5G", "12Q", "1MM", "9" * 5000, "9" * 16])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(BoardError, match="--memory") as raised:
        size(text)
    assert len(str(raised.value)) < 100


def test_the_tree_of_the_board_is_one_that_dtc_takes(
    tmp_path: Path, oracle: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs: list[bytes] = []

    def remembered(node: Node) -> bytes:
        blobs.append(flatten(node))
        return blobs[0]

    monkeypatch.setattr("hartwood.board.riscv.flatten", remembered)
    monkeypatch.setenv("HARTWOOD_CACHE", os.environ.get("HARTWOOD_CACHE", str(tmp_path / "code")))
    with RiscvVirt(kernel=written(tmp_path, image()), memory=16 << 20, harts=2, append="a b"):
        text = " ".join(source(blobs[0], oracle("dtc")).split())
    assert 'bootargs = "a b";' in text
    assert text.count('device_type = "cpu"') == 2
    assert "memory@80000000 {" in text
    assert "serial@10000000 {" in text


# The firmware.
class Hart:
    """As much of a hart as the firmware touches."""

    def __init__(self, ram: Any) -> None:
        self.a0 = self.a1 = self.a2 = self.a3 = self.a4 = self.a6 = self.a7 = 0
        self.bus = SimpleNamespace(ram=ram)
        self.did: list[Any] = []

    def set_timer(self, when: int) -> None:
        self.did.append(("timer", when))

    def post(self, bit: int) -> None:
        self.did.append(("post", bit))

    def flush_local(self) -> None:
        self.did.append("local")

    def flush_remote(self) -> None:
        self.did.append("remote")


class Memory:
    def __init__(self) -> None:
        self.data = bytearray(b"some text here")

    def find(self, at: int, count: int) -> int:
        if not 0x1000 <= at <= at + count <= 0x1000 + len(self.data):
            raise MemoryFault(at, count, "read")
        return at - 0x1000

    def read(self, at: int, count: int) -> bytes:
        start = self.find(at, count)
        return bytes(self.data[start : start + count])

    def write(self, at: int, data: bytes) -> None:
        start = self.find(at, len(data))
        self.data[start : start + len(data)] = data


class FakeBoard:
    def __init__(self) -> None:
        self.memory = Memory()
        self.harts: list[Any] = [Hart(self.memory) for _ in range(3)]
        self.did: list[Any] = []
        self.out, self.input = b"", b"typed"
        self.states: Any = self
        self.sbi = Sbi(self)

    def start(self, number: int, entry: int, opaque: int) -> bool:
        self.did.append(("start", number, entry, opaque))
        return number != 0

    def stop(self, number: int) -> None:
        self.did.append(("stop", number))

    def suspend(self, number: int) -> None:
        self.did.append(("suspend", number))

    def state(self, number: int) -> int:
        return number

    def end(self, reason: str) -> None:
        self.did.append(reason)

    def put(self, data: bytes) -> None:
        self.out += data

    def get(self, most: int) -> bytes:
        data, self.input = self.input[:most], self.input[most:]
        return data

    def call(self, extension: int, function: int, *arguments: int) -> tuple[int, int]:
        hart = self.harts[0]
        hart.a7, hart.a6 = extension, function
        padded = (*arguments, 0, 0, 0, 0, 0)
        hart.a0, hart.a1, hart.a2, hart.a3, hart.a4 = padded[:5]
        self.sbi(hart)
        return hart.a0 - (hart.a0 >> 63 << 64), hart.a1


@pytest.fixture
def board() -> FakeBoard:
    return FakeBoard()


def test_base_tells_version_and_what_there_is(board: FakeBoard) -> None:
    assert board.call(0x10, 0) == (SUCCESS, 2 << 24)
    for extension in EXTENSIONS:
        assert board.call(0x10, 3, extension) == (SUCCESS, 1)
    assert board.call(0x10, 3, 0x735048) == (SUCCESS, 0)
    assert [board.call(0x10, n)[0] for n in (1, 2, 4, 5, 6, 7)] == [0, 0, 0, 0, 0, NOT_SUPPORTED]


def test_unknown_calls_are_not_supported(board: FakeBoard) -> None:
    for extension, function in ((0x999, 0), (0x54494D45, 1), (0x735049, 1), (0x52464E43, 3),
                                (0x48534D, 4), (0x53525354, 1), (0x4442434E, 3)):  # fmt: skip
        assert board.call(extension, function)[0] == NOT_SUPPORTED


def test_the_timer_is_the_calling_harts(board: FakeBoard) -> None:
    assert board.call(0x54494D45, 0, 1234) == (SUCCESS, 0)
    assert board.harts[0].did == [("timer", 1234)]


def test_interrupts_and_fences_reach_the_harts_of_the_mask(board: FakeBoard) -> None:
    assert board.call(0x735049, 0, 0b11, 1)[0] == SUCCESS
    # The second is stopped, as `state` says.
    assert [hart.did for hart in board.harts] == [[], [], [("post", 1)]]
    assert board.call(0x52464E43, 1, 0, U64, 0, U64)[0] == SUCCESS
    assert [hart.did[-1] for hart in board.harts] == ["local", "remote", "remote"]
    assert board.call(0x735049, 0, 0b1000, 0)[0] == INVALID
    assert board.call(0x52464E43, 0, 1, 70)[0] == INVALID


def test_harts_start_stop_and_tell(board: FakeBoard) -> None:
    assert board.call(0x48534D, 0, 2, 0x1000, 5) == (SUCCESS, 0)
    assert board.call(0x48534D, 0, 0, 0x1000, 5)[0] == ALREADY
    assert board.call(0x48534D, 0, 3, 0x1000, 5)[0] == INVALID
    assert board.call(0x48534D, 0, 2, 0x8000, 5)[0] == BAD_ADDRESS
    assert [board.call(0x48534D, 2, n) for n in (0, 1)] == [(SUCCESS, 0), (SUCCESS, 1)]
    assert board.call(0x48534D, 2, 9)[0] == INVALID
    board.call(0x48534D, 1)
    assert board.did[0] == ("start", 2, 0x1000, 5)
    assert board.did[-1] == ("stop", 0)


def test_a_hart_is_suspended_and_keeps_its_registers(board: FakeBoard) -> None:
    assert board.call(0x48534D, 3, 0) == (SUCCESS, 0)
    assert board.did == [("suspend", 0)]
    assert board.call(0x48534D, 3, 0x9000_0000)[0] == NOT_SUPPORTED
    assert board.call(0x48534D, 3, 0x8000_0000, 0x8000)[0] == BAD_ADDRESS
    assert board.call(0x48534D, 3, 5)[0] == INVALID
    assert len(board.did) == 1


def test_the_machine_ends_as_it_is_told(board: FakeBoard) -> None:
    for kind, why in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1)):
        board.call(0x53525354, 0, kind, why)
    assert board.did == ["poweroff", "fail 1", "reset", "reset", "fail 1"]
    assert board.call(0x53525354, 0, 7, 0)[0] == INVALID
    assert board.call(0x53525354, 0, 0, 2)[0] == INVALID
    assert board.call(0x53525354, 0, 0xF000_0001, 0)[0] == NOT_SUPPORTED


def test_the_debug_console_moves_bytes(board: FakeBoard) -> None:
    assert board.call(0x4442434E, 0, 4, 0x1005, 0) == (SUCCESS, 4)
    assert board.call(0x4442434E, 2, ord("!")) == (SUCCESS, 0)
    assert board.out == b"text!"
    assert board.call(0x4442434E, 1, 9, 0x1000, 0) == (SUCCESS, 5)
    assert board.memory.data[:6] == b"typedt"


@pytest.mark.parametrize("at", [0, 0x1000 - 1, 0x1000 + 10, U64])
def test_the_debug_console_stays_in_memory(board: FakeBoard, at: int) -> None:
    for function in (0, 1):
        assert board.call(0x4442434E, function, 8, at, 0)[0] == INVALID
    assert board.call(0x4442434E, 0, 4, 0x1000, 1)[0] == INVALID  # the high half is an address too
    assert board.memory.data == b"some text here"


def test_the_old_console(board: FakeBoard) -> None:
    hart = board.harts[0]
    hart.a7, hart.a0 = 1, ord("x")
    board.sbi(hart)
    hart.a7 = 2
    board.sbi(hart)
    assert (board.out, hart.a0) == (b"x", ord("t"))
    board.input = b""
    hart.a7 = 2
    board.sbi(hart)
    assert hart.a0 == U64
