"""Images made to harm: refused or read in bounded time and memory, with one line."""

from __future__ import annotations

import errno
import os
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hartwood import storage
from hartwood.errors import DiskError
from hartwood.storage import copying, partitions
from hartwood.storage import qcow2_snapshots as snapshots
from hartwood.storage.qcow2 import Qcow2
from hartwood.storage.qcow2_check import check, repair
from unit.disk_images import GIB, KIB, MIB, get, put, refused, word

COPIED = 1 << 63
SOAK = bool(os.environ.get("HARTWOOD_SOAK"))


@pytest.fixture(autouse=True)
def the_drive_need_not_be_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Qcow2.create(str(tmp_path / "disk.qcow2"), 4 * MIB)
    with Qcow2(str(tmp_path / "disk.qcow2")) as disk:
        disk.write(0, b"x" * 200 * KIB)
        snapshots.create(disk, "one")
        disk.write(100 * KIB, b"y" * 200 * KIB)
    return tmp_path / "disk.qcow2"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("magic", [0, 0x514649FA]),
        ("version", [0, 1, 4, 0xFFFFFFFF]),
        ("cluster_bits", [0, 8, 22, 63, 0xFFFFFFFF]),
        ("size", [1 << 40, 1 << 60, (1 << 64) - 512, 1000]),
        ("crypt", [1, 2, 0xFFFFFFFF]),
        ("l1_size", [0, (32 << 20) // 8 + 1, 0xFFFFFFFF]),
        ("l1_offset", [0, 512, 1, 1 << 40, (1 << 64) - 65536]),
        ("reftable_offset", [0, 1, 1 << 41, (1 << 64) - 65536]),
        ("reftable_clusters", [0, 129, 1000, 0xFFFFFFFF]),
        ("snapshots", [65537, 0xFFFFFFFF]),
        ("snapshots_offset", [0, 7, 1 << 62]),
        ("incompatible", [4, 16, 32, 1 << 63]),
        ("refcount_order", [7, 31, 0xFFFFFFFF]),
        ("header_length", [0, 8, 103, 105, 1 << 20, 0xFFFFFFFF]),
        ("compression", [1, 2, 255]),
    ],
)
def test_a_header_out_of_range_is_refused(path: Path, field: str, values: list[int]) -> None:
    whole = path.read_bytes()
    for value in values:
        path.write_bytes(whole)
        put(path, field, value)
        error = refused(storage.open, path, format="qcow2")
        assert error.errno == errno.EINVAL, (field, value, error)


def test_tables_that_overlap_are_refused(path: Path) -> None:
    put(path, "l1_offset", get(path, "reftable_offset"))
    assert "overlaps" in str(refused(storage.open, path, format="qcow2"))


@pytest.mark.parametrize("size", [0, 1, 71, 72, 100, 110])
def test_a_file_that_ends_in_its_header(path: Path, size: int) -> None:
    os.truncate(path, size)
    refused(storage.open, path, format="qcow2")


def test_names_of_features_and_backing_files_do_no_harm(path: Path) -> None:
    name = b"/etc/\x1b[2J\xffpasswd\n"
    with path.open("r+b") as file:
        file.seek(0x200)
        file.write(name)
    put(path, "backing_offset", 0x200)
    put(path, "backing_size", len(name))
    error = refused(storage.open, path, format="qcow2")
    assert "\x1b" not in str(error)
    put(path, "backing_size", 1024)
    refused(storage.open, path, format="qcow2")
    put(path, "backing_offset", 65536)
    put(path, "backing_size", 10)
    refused(storage.open, path, format="qcow2")


def test_an_entry_that_leads_to_metadata_is_an_error_and_writes_nothing(path: Path) -> None:
    l1 = get(path, "l1_offset")
    l2 = word(path, l1) & ~COPIED
    whole = path.read_bytes()
    block = word(path, get(path, "reftable_offset"))
    for target in (0x1_0000, l1, block, get(path, "snapshots_offset"), 1 << 50, 0x200, l2):
        path.write_bytes(whole)
        put(path, l2, target | COPIED)
        with Qcow2(str(path)) as disk:
            report = check(disk)
            assert report.corruptions, hex(target)
            if target == get(path, "snapshots_offset"):
                continue  # found by check only
            for call in (lambda: disk.read(0, 512), lambda: disk.write(0, b"z" * 512)):
                assert refused(call).errno == errno.EIO
        after = path.read_bytes()
        assert after[:l2] == whole[:l2]


def test_a_table_that_is_its_own_or_the_l1(path: Path) -> None:
    l1 = get(path, "l1_offset")
    for target in (l1, 0x1_0000, 0x200, 1 << 50, 1 << 55):
        put(path, l1, target | COPIED)
        with Qcow2(str(path), readonly=True) as disk:
            assert check(disk).corruptions
            try:
                disk.read(0, disk.size)
            except DiskError as error:
                assert error.errno == errno.EIO


def test_a_bomb_of_tables_that_are_all_one_is_counted_once(tmp_path: Path) -> None:
    # 64 Ki entries of L1, all the same table of 64 entries, all the same cluster.
    path = tmp_path / "bomb.qcow2"
    Qcow2.create(str(path), 2 * GIB, cluster=512)
    with Qcow2(str(path)) as disk:
        disk.write(0, b"x" * 512)
        l1, entry, target = disk.header.l1_offset, disk.l1[0], disk.place(0).host | COPIED
    with path.open("r+b") as file:
        file.seek(l1)
        file.write(struct.pack(">Q", entry) * 65536)
        file.seek(entry & ~COPIED)
        file.write(struct.pack(">Q", target) * 64)
    reads = []
    with Qcow2(str(path), readonly=True) as disk:
        real = disk.load_table

        def load(host: int):
            reads.append(host)
            return real(host)

        disk.load_table = load  # type: ignore[method-assign]
        report = check(disk)
    assert report.corruptions
    assert len(reads) <= 2
    assert len(report.messages) <= 20


def test_files_of_absurd_size_take_no_memory(path: Path) -> None:
    os.truncate(path, 1 << 42)
    tracemalloc.start()
    try:
        with Qcow2(str(path), readonly=True, checking=True) as disk:
            assert disk.read(0, 512) == b"x" * 512
            assert not any(disk.read(3 * MIB, MIB))
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()
    os.truncate(path, 1 << 43)
    with Qcow2(str(path), readonly=True) as disk:
        assert "too many" in str(refused(check, disk))


def test_compressed_data_that_is_none_or_too_much(path: Path) -> None:
    l2 = word(path, get(path, "l1_offset")) & ~COPIED
    bomb = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = bomb.compress(bytes(8 * MIB)) + bomb.flush()
    short = zlib.compressobj(9, zlib.DEFLATED, -12)
    too_short = short.compress(bytes(1000)) + short.flush()
    at = os.path.getsize(path)
    for data in (b"\xff" * 512, b"", too_short, packed):
        with path.open("r+b") as file:
            file.seek(at)
            file.truncate()
            file.write(data.ljust(65536, b"\0"))
        put(path, l2, 1 << 62 | 120 << 54 | at)
        with Qcow2(str(path), readonly=True) as disk:
            if data == packed:  # only as much as a cluster is unpacked
                assert disk.read(0, 65536) == bytes(65536)
            else:
                assert refused(disk.read, 0, 512).errno == errno.EIO
    for entry in (1 << 62 | 1 << 53, 1 << 62 | (1 << 54) - 1):
        put(path, l2, entry)
        with Qcow2(str(path), readonly=True) as disk:
            assert refused(disk.read, 0, 512).errno == errno.EIO
            assert check(disk).corruptions


def test_snapshots_out_of_range(path: Path) -> None:
    at = get(path, "snapshots_offset")
    whole = path.read_bytes()
    for offset, value, form in (
        (0, 1, ">Q"),
        (0, 1 << 60, ">Q"),
        (8, 0xFFFFFFFF, ">I"),
        (36, 0xFFFFFFFF, ">I"),
        (36, 1025, ">I"),
        (12, 0xFFFF, ">H"),
    ):
        path.write_bytes(whole)
        put(path, at + offset, value, form)
        with Qcow2(str(path)) as disk:
            with pytest.raises(DiskError):
                snapshots.apply(disk, "one")
            assert disk.read(0, 512) == b"x" * 512
    path.write_bytes(whole + bytes(4 * MIB))  # 60,000 entries of zeros are within the file
    put(path, "snapshots", 60000)
    with Qcow2(str(path), readonly=True) as disk:
        assert "corrupt: snapshot" in str(refused(check, disk))


def test_refcounts_that_say_metadata_is_free(path: Path) -> None:
    block = word(path, get(path, "reftable_offset"))
    with path.open("r+b") as file:
        file.seek(block)
        file.write(bytes(64))
    whole = path.read_bytes()
    with Qcow2(str(path)) as disk:
        assert check(disk).corruptions > 5
        assert "is in use, not free" in str(refused(disk.write, 2 * MIB, b"z" * 65536))
        assert disk.read(0, 512) == b"x" * 512
    assert path.read_bytes()[:block] == whole[:block]


def test_a_repair_that_would_lose_data_is_refused(path: Path) -> None:
    l2 = word(path, get(path, "l1_offset")) & ~COPIED
    put(path, l2, 0x1_0000 | COPIED)
    put(path, "incompatible", 1)
    whole = path.read_bytes()
    assert "cannot be repaired" in str(refused(Qcow2, str(path)))
    with Qcow2(str(path), checking=True) as disk:
        refused(repair, disk)
    assert path.read_bytes() == whole


def play(path: Path, format: str) -> None:
    """Everything that a user or a guest can do to an image."""
    with storage.open(path, format=format) as disk:
        actions: list[Callable[[], object]] = [
            lambda: disk.read(0, min(disk.size, 2 * MIB)),
            lambda: disk.read(max(0, disk.size - 512), min(disk.size, 512)),
            lambda: list(zip(disk.extents(), range(100), strict=False)),
            lambda: disk.write(0, b"z" * min(disk.size, 70000)),
            lambda: disk.zero(0, min(disk.size, MIB), may_unmap=True),
            lambda: disk.discard(0, min(disk.size, MIB)),
            disk.flush,
        ]
        if isinstance(disk, Qcow2):
            actions += [
                lambda: check(disk),
                lambda: snapshots.create(disk, "new"),
                lambda: snapshots.apply(disk, "one"),
                lambda: snapshots.delete(disk, "one"),
            ]
        for action in actions:
            try:
                action()
            except DiskError as error:
                assert "\n" not in str(error)


@settings(
    max_examples=5000 if SOAK else 60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_mutated_images_are_refused_or_survived(path: Path, data: st.DataObject) -> None:
    good = path.with_name("good")
    if not good.exists():
        good.write_bytes(path.read_bytes())
    image = bytearray(good.read_bytes())
    l1, refs = 0x28, 0x30
    places = [
        st.integers(0, 112),
        st.integers(0, 255).map(lambda n: int.from_bytes(image[l1 : l1 + 8], "big") + n),
        st.integers(0, 255).map(lambda n: int.from_bytes(image[refs : refs + 8], "big") + n),
        st.integers(0, len(image) // 65536 - 1).flatmap(
            lambda n: st.integers(n << 16, (n << 16) + 200)
        ),
        st.integers(0, len(image) - 1),
    ]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(places)) % len(image)
        new = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.integers(0, 20).map(lambda n: struct.pack(">Q", n << 16 | COPIED)),
            )
        )
        image[at : at + len(new)] = new
    if data.draw(st.booleans()):
        del image[data.draw(st.integers(0, len(image))) :]
    path.write_bytes(image)
    try:
        play(path, "qcow2")
    except DiskError as error:
        assert "\n" not in str(error)


@given(st.binary(max_size=300), st.integers(0, 400))
def test_a_damaged_save_of_an_overlay_is_refused(junk: bytes, at: int) -> None:
    from hartwood.storage.layered import Overlay

    class Blank:
        path, size, sector, serial = "blank", 1 << 20, 512, ""

        def readv(self, at: int, buffers) -> None:
            for buffer in buffers:
                buffer[:] = bytes(len(buffer))

    over = Overlay(Blank())  # type: ignore[arg-type]
    over.write(1000, random.Random(1).randbytes(100))
    saved = over.save()
    damaged = saved[:at] + junk + saved[at + len(junk) :]
    for data in (junk, damaged):
        if data != saved:
            before = over.read(0, 4096)
            with pytest.raises(DiskError, match="does not fit or is damaged"):
                over.load(data)
            assert over.read(0, 4096) == before
    # Right in form and checksum, wrong in what it says.
    body = bytearray(saved[:-4])
    for offset, value in ((8, 1 << 62), (20, 1 << 31), (24, 1 << 62), (32, 1 << 40)):
        lie = body.copy()
        lie[offset : offset + 4] = (
            value.to_bytes(8, "little")[:4] if value < 1 << 32 else b"\xff" * 4
        )
        with pytest.raises(DiskError):
            over.load(bytes(lie) + struct.pack("<I", zlib.crc32(lie)))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=8)), max_size=4))
def test_mutated_partition_tables(tmp_path: Path, changes) -> None:
    path = tmp_path / "disk.raw"
    blank = partitions.Tables(
        "gpt",
        [partitions.Partition(1, 32 * KIB, 64 * KIB, bytes(range(1, 129)), "one")],
        (b"EFI PART", 0x10000, 92, 0, 0, 1, 0, 0, 0, b"g" * 16, 2, 128, 128, 0),
    )
    image = bytearray(MIB)
    for at, data in partitions.new_tables(blank, MIB):
        image[at : at + len(data)] = data
    image[512:1024] = image[4096:4608]  # as if in sectors of 512 bytes
    for at, data in changes:
        image[at : at + len(data)] = data
    path.write_bytes(image)
    out = tmp_path / "out"
    with storage.open(path, readonly=True, format="raw") as disk:
        try:
            copying.migrate(disk, str(out))
        except DiskError as error:
            assert "\n" not in str(error)
            assert not out.exists()
        else:
            out.unlink()
    for left in tmp_path.glob("out.*"):
        left.unlink()
