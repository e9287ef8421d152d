"""qcow2 images against a model in memory, and against QEMU in both directions."""

from __future__ import annotations

import errno
import os
import random
import resource
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hartwood import storage
from hartwood.errors import DiskError
from hartwood.storage import qcow2_snapshots as snapshots
from hartwood.storage.hostfile import HostFile
from hartwood.storage.qcow2 import Qcow2
from hartwood.storage.qcow2_check import check, repair
from unit.disk_images import KIB, MIB, get, put, qemu_io, refused, run, word

SOAK = bool(os.environ.get("HARTWOOD_SOAK"))
SHAPES = [  # version, cluster, bits of a refcount
    (3, 65536, 16),
    (3, 512, 16),
    (3, 512, 64),
    (3, 4096, 1),
    (3, 65536, 4),
    (3, 1024, 8),
    (3, 4096, 32),
    (2, 65536, 16),
    (2, 512, 16),
    (3, 256 * KIB, 2),
]


@pytest.fixture(autouse=True)
def the_drive_need_not_be_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Qcow2.create(str(tmp_path / "disk.qcow2"), 4 * MIB)
    return tmp_path / "disk.qcow2"


def sound(path: Path, leaks: int = 0) -> None:
    """Our check and QEMU's find nothing, and agree about leaks."""
    with Qcow2(str(path), readonly=True, checking=True) as image:
        report = check(image)
    assert (report.corruptions, report.leaks) == (0, leaks), report
    output = run("qemu-img", "check", "-f", "qcow2", path, status=3 if leaks else 0)
    assert leaks == 0 or f"{leaks} leaked clusters" in output


def same(path: Path, data: bytes, tmp_path: Path, *options: str) -> None:
    """QEMU reads `data` in the image."""
    out = tmp_path / "as-qemu-reads-it.raw"
    run("qemu-img", "convert", "-f", "qcow2", *options, "-O", "raw", path, out)
    assert out.read_bytes() == data


@pytest.mark.parametrize(("version", "cluster", "bits"), SHAPES)
@pytest.mark.parametrize("size", [0, 512, 5 * MIB + 512])
def test_a_new_image_is_what_qemu_knows(version, cluster, bits, size, tmp_path) -> None:
    path = tmp_path / "new.qcow2"
    Qcow2.create(str(path), size, version=version, cluster=cluster, refcount_bits=bits)
    sound(path)
    output = run("qemu-img", "info", path)
    assert f"cluster_size: {cluster}" in output
    assert f"refcount bits: {bits}" in output
    assert f"compat: {'1.1' if version == 3 else '0.10'}" in output
    with storage.open(path, format="qcow2") as disk:
        assert disk.size == size
        assert list(disk.extents()) == []
        assert disk.read(0, size) == bytes(size)


def test_to_create_never_overwrites_and_never_leaves_half(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    assert refused(Qcow2.create, str(path), MIB).errno == errno.EEXIST
    assert path.read_bytes() == before
    for named in ({"cluster": 1000}, {"version": 4}, {"refcount_bits": 5}, {"backing": "x" * 1024}):
        refused(Qcow2.create, str(tmp_path / "no"), MIB, **named)
    assert refused(Qcow2.create, str(tmp_path / "no"), 1 << 59).errno == errno.EFBIG
    assert refused(Qcow2.create, str(tmp_path / "no"), 1000).errno == errno.EINVAL
    assert os.listdir(tmp_path) == ["disk.qcow2"]


STEP = st.tuples(
    st.sampled_from(
        "write write write zero unmap discard flush reopen keep apply drop grow shrink".split()
    ),
    st.integers(0, 300 * KIB),
    st.one_of(st.integers(1, 8 * KIB), st.integers(1, 300 * KIB)),
)


class Model:
    """An array of bytes, and the arrays that snapshots keep."""

    def __init__(self, disk: Qcow2, data: bytearray) -> None:
        self.disk, self.data = disk, data
        self.kept: dict[str, bytes] = {}

    def step(self, number: int, kind: str, at: int, size: int) -> None:
        disk, data = self.disk, self.data
        at = min(at, len(data))
        size = min(size, len(data) - at)
        if kind == "write":
            new = random.Random(number).randbytes(size)
            disk.writev(at, [memoryview(new)[: size // 3], memoryview(new)[size // 3 :]])
            data[at : at + size] = new
        elif kind in ("zero", "unmap"):
            disk.zero(at, size, may_unmap=kind == "unmap")
            data[at : at + size] = bytes(size)
        elif kind == "discard":
            disk.discard(at, size)
            data[at : at + size] = disk.read(at, size)
        elif kind == "flush":
            disk.flush()
        elif kind in ("grow", "shrink"):
            new_size = max(512, len(data) + (1 if kind == "grow" else -1) * (size // 512 * 512))
            disk.resize(new_size)
            del data[new_size:]
            data.extend(bytes(new_size - len(data)))
        elif kind == "keep" and len(self.kept) < 3:
            snapshots.create(disk, f"s{number}")
            self.kept[f"s{number}"] = bytes(data)
        elif kind == "apply" and self.kept:
            name = sorted(self.kept)[at % len(self.kept)]
            snapshots.apply(disk, name)
            data[:] = self.kept[name]
        elif kind == "drop" and self.kept:
            name = sorted(self.kept)[at % len(self.kept)]
            snapshots.delete(disk, name)
            del self.kept[name]


@settings(
    max_examples=1000 if SOAK else 20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(SHAPES), st.booleans(), st.lists(STEP, max_size=20))
def test_any_sequence_against_a_model_and_qemu(tmp_path: Path, shape, over: bool, steps) -> None:
    version, cluster, bits = shape
    if bits < 4:  # too few for a snapshot, or for three
        steps = [step for step in steps if step[0] != "keep"]
    path, base_path = tmp_path / "model.qcow2", tmp_path / "base.raw"
    path.unlink(missing_ok=True)
    data = bytearray(300 * KIB)
    backing = None
    if over:
        data[: 100 * KIB] = random.Random(1).randbytes(100 * KIB)
        base_path.write_bytes(data[: 100 * KIB])
        backing = storage.open(base_path, readonly=True)
    Qcow2.create(
        str(path),
        len(data),
        version=version,
        cluster=cluster,
        refcount_bits=bits,
        backing=str(base_path) if over else "",
    )
    model = Model(Qcow2(str(path), backing=backing), data)
    for number, (kind, at, size) in enumerate(steps):
        if kind == "reopen":
            model.disk.close()
            model.disk = Qcow2(str(path), backing=backing)
        else:
            if over and kind == "grow" and len(data) < 100 * KIB:
                continue  # what the backing file has there would come back, as it does in QEMU
            model.step(number, kind, at, size)
        assert model.disk.size == len(data)
    assert model.disk.read(0, len(data)) == data
    inside = b"".join(
        bytes(data[start:end]) for start, end in _gaps(list(model.disk.extents()), len(data))
    )
    assert not any(inside)
    model.disk.close()
    if backing is not None:
        backing.close()
    sound(path)
    same(path, bytes(data), tmp_path)
    for name, kept in model.kept.items():
        if len(kept) == len(data):
            same(path, kept, tmp_path, "-l", name)


def _gaps(extents: list[tuple[int, int]], size: int):
    at = 0
    for start, end in extents:
        assert at <= start < end <= size
        yield at, start
        at = end
    yield at, size


MADE_BY_QEMU = {
    "plain": [],
    "old": ["compat=0.10"],
    "lazy": ["lazy_refcounts=on"],
    "small": ["cluster_size=512"],
    "large": ["cluster_size=2M"],
    "one bit": ["refcount_bits=1"],
    "wide": ["refcount_bits=64"],
    "preallocated": ["preallocation=metadata"],
}


@pytest.mark.parametrize("name", MADE_BY_QEMU)
def test_what_qemu_writes_we_read_and_change(name: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.qcow2"
    options = [part for each in MADE_BY_QEMU[name] for part in ("-o", each)]
    run("qemu-img", "create", "-q", "-f", "qcow2", *options, path, "8M")
    qemu_io(path, "write -P 0x11 3k 100k", "write -z 1M 256k", "write -P 0x22 5M 1000k")
    data = bytearray(8 * MIB)
    data[3 * KIB : 103 * KIB] = b"\x11" * (100 * KIB)
    data[5 * MIB : 5 * MIB + 1000 * KIB] = b"\x22" * (1000 * KIB)
    with storage.open(path, format="qcow2") as disk:
        assert disk.read(0, disk.size) == data
        disk.write(50 * KIB, b"\x33" * MIB)
        disk.zero(6 * MIB - 100, 200)
    data[50 * KIB : 50 * KIB + MIB] = b"\x33" * MIB
    data[6 * MIB - 100 : 6 * MIB + 100] = bytes(200)
    sound(path)
    same(path, bytes(data), tmp_path)
    qemu_io(path, "read -P 0x33 50k 1M", "write -P 0x44 100k 10k")
    with storage.open(path, format="qcow2", readonly=True) as disk:
        assert disk.read(100 * KIB, 10 * KIB) == b"\x44" * (10 * KIB)


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_compressed_clusters_are_read_and_written_over(kind: str, tmp_path: Path) -> None:
    if kind == "zstd":
        pytest.importorskip("zstandard")
    source, path = tmp_path / "source.raw", tmp_path / "packed.qcow2"
    data = bytearray(b"".join(b"%08d" % n for n in range(MIB // 8)))
    data[300 * KIB : 400 * KIB] = random.Random(5).randbytes(100 * KIB)  # does not compress
    source.write_bytes(data)
    option = f"compression_type={kind}"
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", option, source, path)
    with Qcow2(str(path)) as disk:
        assert disk.read(0, MIB) == data
        disk.write(70000, b"over")
        data[70000:70004] = b"over"
        snapshots.create(disk, "kept")
        disk.write(200 * KIB, b"x" * 70000)
        disk.discard(0, 65536)
        snapshots.apply(disk, "kept")
        assert disk.read(0, MIB) == data
    sound(path)
    same(path, bytes(data), tmp_path)


def test_zstd_without_its_library_is_one_line(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "packed.qcow2"
    (tmp_path / "source").write_bytes(b"x" * 65536)
    words = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd"]
    run("qemu-img", *words, tmp_path / "source", path)
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with Qcow2(str(path), readonly=True) as disk:
        error = refused(disk.read, 0, 512)
    assert error.errno == errno.EOPNOTSUPP
    assert "pip install zstandard" in str(error)


def test_qemus_snapshots_are_ours_and_ours_are_qemus(path: Path, tmp_path: Path) -> None:
    qemu_io(path, "write -P 1 0 4M")
    run("qemu-img", "snapshot", "-c", "theirs", path)
    qemu_io(path, "write -P 2 1M 1M")
    with Qcow2(str(path)) as disk:
        assert [each.name for each in snapshots.load(disk).all] == ["theirs"]
        snapshots.create(disk, "ours")
        disk.write(0, b"\3" * MIB)
        refused(snapshots.create, disk, "ours")
        refused(snapshots.create, disk, "")
        assert "theirs, ours" in str(refused(snapshots.apply, disk, "nobody's"))
    sound(path)
    listed = run("qemu-img", "snapshot", "-l", path)
    assert "theirs" in listed
    assert "ours" in listed
    same(path, b"\1" * MIB + b"\2" * MIB + b"\1" * (2 * MIB), tmp_path, "-l", "ours")
    run("qemu-img", "snapshot", "-a", "theirs", path)
    with Qcow2(str(path)) as disk:
        assert disk.read(0, 4 * MIB) == b"\1" * (4 * MIB)
        snapshots.delete(disk, "theirs")
        snapshots.apply(disk, "2")
        assert disk.read(0, 2 * MIB) == b"\1" * MIB + b"\2" * MIB
        snapshots.delete(disk, "ours")
        assert snapshots.load(disk).all == []
    sound(path)


def test_a_snapshots_id_comes_before_anothers_name(path: Path) -> None:
    """As `qemu-img snapshot` has it; the crash tests name them by numbers, and found it."""
    with Qcow2(str(path)) as disk:
        for byte, name in ((b"a", "2"), (b"b", "other")):
            disk.write(0, byte * 512)
            snapshots.create(disk, name)
        disk.write(0, b"c" * 512)
        snapshots.apply(disk, "2")
        assert disk.read(0, 1) == b"b"
        assert snapshots.find(disk, "other").ident == "2"
        snapshots.delete(disk, "2")
        snapshots.apply(disk, "2")  # the name now
        assert disk.read(0, 1) == b"a"


def test_a_snapshot_of_another_size(path: Path) -> None:
    with Qcow2(str(path)) as disk:
        disk.write(0, b"x" * MIB)
        snapshots.create(disk, "small")
        disk.resize(900 * MIB)  # needs a larger L1 table
        disk.write(800 * MIB, b"y")
        snapshots.apply(disk, "small")
        assert disk.size == 4 * MIB
        assert disk.read(0, MIB) == b"x" * MIB
    sound(path)


def test_refcounts_that_are_too_narrow_for_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "narrow.qcow2"
    Qcow2.create(str(path), MIB, refcount_bits=1)
    with Qcow2(str(path)) as disk:
        disk.write(0, b"x" * MIB)
        assert "cannot be used 2 times" in str(refused(snapshots.create, disk, "s"))
        assert "open it anew" in str(refused(disk.write, 0, b"y"))
    with Qcow2(str(path)) as disk:  # what was half done is mended
        assert disk.read(0, MIB) == b"x" * MIB
        disk.write(0, b"y")
    sound(path)


def test_a_backing_file_is_named_by_the_user_or_not_used(tmp_path: Path) -> None:
    secret, path = tmp_path / "secret", tmp_path / "over.qcow2"
    secret.write_bytes(b"secret" * 1000 + bytes(144))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", path, "1M")
    error = refused(storage.open, path, format="qcow2")
    assert str(secret) in str(error)
    assert "backing=" in str(error)
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine" * 128)
    with (
        storage.open(mine, readonly=True) as base,
        storage.open(path, format="qcow2", backing=base) as disk,
    ):
        assert disk.read(0, 8) == b"minemine"
        assert disk.read(500, 24) == b"mine" * 3 + bytes(12)  # the backing is shorter
        disk.write(510, b"xyz")
        assert disk.read(500, 16) == b"mineminemixyz" + bytes(3)
        disk.discard(0, 65536)
        assert disk.read(0, 1024) == bytes(1024)  # not what is below, in version 3
    assert mine.read_bytes() == b"mine" * 128


def test_an_image_on_itself_is_refused(path: Path) -> None:
    with Qcow2(str(path), readonly=True) as base:
        assert refused(Qcow2, str(path), readonly=True, backing=base).errno == errno.ELOOP
        link = path.with_name("link")
        link.symlink_to(path)
        over = storage.overlay(base)
        assert refused(Qcow2, str(link), readonly=True, backing=over).errno == errno.ELOOP


def test_overlays_upon_overlays(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"0" * MIB)
    disks = [storage.open(tmp_path / "base", readonly=True)]
    for n in range(1, 5):
        disks.append(storage.overlay(disks[-1], tmp_path / f"{n}.qcow2"))
        disks[-1].write(n * 100000, bytes([48 + n]) * 10000)
    expected = bytearray(b"0" * MIB)
    for n in range(1, 5):
        expected[n * 100000 : n * 100000 + 10000] = bytes([48 + n]) * 10000
    assert disks[-1].read(0, MIB) == expected
    for disk in reversed(disks):
        disk.close()
    same(tmp_path / "4.qcow2", bytes(expected), tmp_path)


def test_shrunk_and_grown_again_reads_as_zeros(path: Path) -> None:
    with Qcow2(str(path)) as disk:
        disk.write(0, b"x" * 4 * MIB)
        disk.resize(MIB + 512)
        refused(disk.read, MIB, 1024)
        disk.resize(4 * MIB)
        assert disk.read(MIB, 1024) == b"x" * 512 + bytes(512)
        assert not any(disk.read(MIB + 512, 3 * MIB - 512))
        refused(disk.resize, 100)
        refused(disk.resize, 1 << 61)
    sound(path)


def test_many_small_clusters_need_a_larger_refcount_table(tmp_path: Path) -> None:
    path = tmp_path / "many.qcow2"
    Qcow2.create(str(path), 24 * MIB, cluster=512)  # one cluster of table covers 8 MiB
    data = random.Random(2).randbytes(20 * MIB)
    with Qcow2(str(path)) as disk:
        for at in range(0, len(data), MIB):
            disk.write(at, data[at : at + MIB])
    sound(path)
    with Qcow2(str(path), readonly=True) as disk:
        assert disk.header.reftable_clusters > 1
        assert disk.read(0, len(data)) == data


def test_freed_clusters_are_used_again_and_room_is_given_back(path: Path) -> None:
    with Qcow2(str(path)) as disk:
        disk.write(0, b"x" * 4 * MIB)
        disk.flush()
        large, used = path.stat().st_size, path.stat().st_blocks
        disk.discard(0, 4 * MIB)
        disk.flush()
        assert path.stat().st_blocks < used - 3 * MIB // 512
        disk.flush()
        disk.write(100, b"y")
        assert disk.read(0, 65536) == bytes(100) + b"y" + bytes(65435)  # nothing old comes back
        disk.write(0, b"y" * 4 * MIB)
    assert path.stat().st_size <= large + 65536
    sound(path)


def test_a_flush_of_data_alone_is_one_sync(path: Path) -> None:
    with Qcow2(str(path)) as disk:
        disk.write(0, b"x" * 65536)
        disk.flush()
        before = disk.file.calls
        disk.write(100, b"y" * 1000)
        disk.flush()
        assert disk.file.calls - before == 2  # pwritev and fdatasync
        before = disk.file.calls
        disk.writev(65536, [memoryview(b"z" * 4096)] * 64)
        assert disk.file.calls - before == 1  # four new clusters, in a row


def test_the_dirty_bit_of_lazy_refcounts_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "lazy.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", path, "4M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", "-c", "abort", path, status=None)
    assert get(path, "incompatible") == 1
    with Qcow2(str(path), readonly=True) as disk:  # the tables are right, refcounts are not used
        assert disk.read(0, MIB) == b"\7" * MIB
    with Qcow2(str(path)) as disk:
        disk.write(MIB, b"\7" * MIB)
    assert get(path, "incompatible") == 0
    sound(path)
    qemu_io(path, "read -P 7 0 2M")


def test_what_other_programs_keep_beside_the_data_is_declared_stale(path: Path) -> None:
    run("qemu-img", "bitmap", "--add", path, "dirt")
    assert get(path, "autoclear") == 1
    with Qcow2(str(path), readonly=True) as disk:
        assert check(disk).leaks == 0
    assert get(path, "autoclear") == 1
    Qcow2(str(path)).close()
    assert get(path, "autoclear") == 0


def test_a_leak_is_found_and_repaired(path: Path) -> None:
    with Qcow2(str(path)) as disk:
        disk.write(0, b"x" * 4 * 65536)
        free = [disk.place(n).host >> 16 for n in (1, 2)]
        disk.discard(65536, 2 * 65536)
    sound(path)
    block = word(path, get(path, "reftable_offset"))
    for cluster in free:
        put(path, block + 2 * cluster, cluster, ">H")
    sound(path, leaks=2)
    with Qcow2(str(path), checking=True) as disk:
        assert repair(disk).leaks == 2
    sound(path)


def test_corruption_is_found(path: Path) -> None:
    with Qcow2(str(path)) as disk:
        disk.write(0, b"x" * 4 * 65536)
    l1 = get(path, "l1_offset")
    l2 = word(path, l1) & ~(1 << 63)
    sound(path)
    whole = path.read_bytes()
    block = word(path, get(path, "reftable_offset"))
    data = word(path, l2) & ~(1 << 63)
    for at, value, form in (
        (block + 2 * (data >> 16), 0, ">H"),  # data that is not counted
        (block, 0, ">H"),  # the header is not counted
        (l2, 0x7_0000, ">Q"),  # without COPIED
        (l2 + 8, data | 1 << 63, ">Q"),  # two for one cluster
        (l2, (l2 | 1 << 63), ">Q"),  # data in its own table
        (l2, data + 512 | 1 << 63, ">Q"),  # not at a cluster's start
        (l2, 1 << 63 | 1 << 50, ">Q"),  # far past the end
        (l1, 1 << 63 | 1 << 50, ">Q"),
        (l1, 1 << 63 | 0x10200, ">Q"),
        (get(path, "reftable_offset"), 0x123, ">Q"),
    ):
        path.write_bytes(whole)
        put(path, at, value, form)
        theirs = run("qemu-img", "check", path, status=None)
        assert "No errors" not in theirs
        with Qcow2(str(path), readonly=True, checking=True) as disk:
            report = check(disk)
        assert report.corruptions, (at, value, theirs)
        assert report.messages


def test_an_image_marked_corrupt_is_not_written(path: Path) -> None:
    put(path, "incompatible", 2)
    assert refused(Qcow2, str(path)).errno == errno.EROFS
    Qcow2(str(path), readonly=True).close()
    with Qcow2(str(path), checking=True) as disk:
        repair(disk)
    Qcow2(str(path)).close()


def until_refused(disk: Qcow2, at: int = 0) -> tuple[DiskError, int]:
    """Fill a disk from `at` until there is no room; the error and where it came."""
    while True:
        try:
            disk.write(at, bytes([at >> 16 & 0xFF | 1]) * 65536)
        except DiskError as error:
            return error, at
        at += 65536


def test_writes_where_the_file_may_not_grow_leave_it_whole(path: Path) -> None:
    with Qcow2(str(path)) as disk:
        disk.write(0, b"kept" * 16384)
        disk.flush()
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
        try:
            error, _ = until_refused(disk, 65536)
            assert error.errno == errno.EFBIG
            disk.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert disk.read(0, 65536) == b"kept" * 16384
        disk.write(3 * MIB, b"y" * 65536)  # and with room again it goes on
    sound(path)


def test_a_full_file_system(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2m", "none", small)
    try:
        path = small / "disk.qcow2"
        Qcow2.create(str(path), 16 * MIB)
        with Qcow2(str(path)) as disk:
            error, written = until_refused(disk)
            assert error.errno == errno.ENOSPC
            try:  # flushing may find no room for a table either, and says so
                disk.write(8 * MIB, b"x" * 4096)
                disk.flush()
            except DiskError as again:
                assert again.errno == errno.ENOSPC
            disk.discard(0, written // 2 // 65536 * 65536)
            disk.flush()
            disk.write(8 * MIB, b"x" * 4096)
            assert disk.read(written - 512, 512) == bytes([written - 65536 >> 16 & 0xFF | 1]) * 512
        sound(path)
    finally:
        run("umount", small)


def test_a_failed_write_of_tables_is_tried_again(path: Path, monkeypatch) -> None:
    real = HostFile.write

    def fail(self: HostFile, at: int, data: bytes) -> None:
        raise DiskError(self.path, "no", errno.ENOSPC)

    with Qcow2(str(path)) as disk:
        disk.write(0, b"x" * 65536)
        monkeypatch.setattr(HostFile, "write", fail)
        assert refused(disk.flush).errno == errno.ENOSPC
        assert disk.read(0, 65536) == b"x" * 65536
        monkeypatch.setattr(HostFile, "write", real)
        disk.flush()
        disk.write(65536, b"y")
        monkeypatch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(5, "gone")))
        refused(disk.flush)
        monkeypatch.undo()
        assert "earlier flush" in str(refused(disk.flush))
        refused(disk.close)
    with Qcow2(str(path)) as disk:
        assert disk.read(0, 65536) == b"x" * 65536


def test_a_file_cut_short_under_us(path: Path) -> None:
    with Qcow2(str(path)) as disk:
        disk.write(0, b"x" * 4 * MIB)
        disk.flush()
        os.truncate(path, MIB)
        assert refused(disk.read, 0, 4 * MIB).errno == errno.EIO
        assert disk.read(0, 65536) == b"x" * 65536


def test_readonly_changes_nothing(path: Path) -> None:
    before = path.read_bytes()
    with Qcow2(str(path), readonly=True) as disk:
        for call in (lambda: disk.write(0, b"x"), lambda: disk.resize(MIB)):
            assert refused(call).errno == errno.EROFS
        assert refused(snapshots.create, disk, "s").errno == errno.EROFS
        disk.flush()
    assert path.read_bytes() == before


def test_threads_share_a_disk(path: Path) -> None:
    # Each has stripes of its own, so each must read what it wrote, whatever the others do.
    stop, faults = threading.Event(), []

    def work(own: int) -> None:
        generator = random.Random(own)
        model: dict[int, int] = {}
        try:
            for _ in range(150):
                stripe = generator.randrange(own, 1024, 4)
                value = generator.randrange(1, 256)
                action = generator.randrange(8)
                if action == 0:
                    disk.zero(stripe * 4096, 4096, may_unmap=True)
                    value = 0
                elif action == 1:
                    disk.flush()
                    continue
                else:
                    disk.write(stripe * 4096, bytes([value]) * 4096)
                model[stripe] = value
                for each in generator.sample(sorted(model), min(3, len(model))):
                    assert disk.read(each * 4096, 4096) == bytes([model[each]]) * 4096
        except BaseException as fault:
            faults.append(fault)
        finally:
            stop.set()

    with Qcow2(str(path)) as disk:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not faults
    sound(path)


def test_more_tables_than_the_cache_holds(tmp_path: Path, monkeypatch) -> None:
    from hartwood.storage import qcow2

    monkeypatch.setattr(qcow2, "CACHE_BYTES", 4 * 512)
    monkeypatch.setattr(qcow2, "DIRTY_TABLES", 3)
    path = tmp_path / "many.qcow2"
    Qcow2.create(str(path), 4 * MIB, cluster=512)  # a table is 32 KiB of disk
    with Qcow2(str(path)) as disk:
        for at in range(0, 4 * MIB, 32 * KIB):
            disk.write(at, struct.pack(">I", at))
        for at in range(0, 4 * MIB, 32 * KIB):
            assert disk.read(at, 4) == struct.pack(">I", at)
        assert len(disk.dirty) <= 5
        assert len(disk._tables) <= 9
    sound(path)
