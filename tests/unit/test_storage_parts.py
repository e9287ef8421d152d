"""The pieces that images are made of: refcounts, header, the shared lock, the walk of buffers."""

from __future__ import annotations

import os
import random
import struct
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hartwood import storage
from hartwood.errors import DiskError
from hartwood.storage import partitions, qcow2_format
from hartwood.storage.hostfile import HostFile
from hartwood.storage.opening import MAGICS, create, magic_of
from hartwood.storage.qcow2 import DATA, HOLE, PACKED, ZEROS, Qcow2
from hartwood.storage.qcow2_check import check
from hartwood.storage.qcow2_refcounts import Refcounts, _pack, _unpack
from hartwood.storage.queue import Queue, Request
from hartwood.storage.sharing import Cursor, SharedLock, fill
from hartwood.tools.disk import DiskProblem, parse_size
from unit.disk_images import GIB, KIB, MIB, refused, run


@pytest.fixture(autouse=True)
def the_drive_need_not_be_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


# Refcounts


@pytest.mark.parametrize(
    ("order", "data", "expected"),
    [  # the first entry is in the low bits of a byte, wider ones are big-endian
        (0, b"\x01\x80", [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        (1, b"\xe4", [0, 1, 2, 3]),
        (2, b"\x2f", [15, 2]),
        (3, b"\x07\xff", [7, 255]),
        (4, b"\x01\x02", [0x102]),
        (5, b"\x01\x02\x03\x04", [0x1020304]),
        (6, b"\x01\x02\x03\x04\x05\x06\x07\x08", [0x102030405060708]),
    ],
)
def test_refcounts_are_packed_as_the_format_says(order: int, data: bytes, expected) -> None:
    block = _unpack(data, order)
    assert block.tolist() == expected
    assert _pack(block, order) == data


@given(st.integers(0, 6), st.binary(min_size=8, max_size=64).map(lambda b: b[: len(b) // 8 * 8]))
def test_packing_is_the_reverse_of_unpacking(order: int, data: bytes) -> None:
    assert _pack(_unpack(data, order), order) == data


def counts_of(path: Path) -> tuple[HostFile, Refcounts, qcow2_format.Header]:
    file = HostFile(str(path), readonly=False)
    header = qcow2_format.parse(file)
    return file, Refcounts(file, header, {0}), header


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([(512, 16), (512, 64), (1024, 1), (4096, 8)]),
    st.lists(
        st.one_of(
            st.integers(1, 3),
            st.integers(200, 1300),
            st.integers(-5, -1),
        ),
        max_size=25,
    ),
)
def test_no_cluster_is_given_out_twice(tmp_path: Path, shape, steps: list[int]) -> None:
    # Positive: so many clusters in a row. Negative: one of the rows comes back.
    path = tmp_path / "counts.qcow2"
    path.unlink(missing_ok=True)
    Qcow2.create(str(path), 0, cluster=shape[0], refcount_bits=shape[1])
    file, counts, header = counts_of(path)
    metadata = {n for n in range(100) if counts.get(n)}
    rows: list[range] = []
    for step in steps:
        if step > 0:
            first = counts.allocate(step)
            row = range(first, first + step)
            used = {cluster for other in rows for cluster in other} | metadata
            assert used.isdisjoint(row)
            rows.append(row)
        elif rows:
            for cluster in rows.pop(step % len(rows)):
                assert counts.change(cluster, -1) == 0
        blocks = {at // header.cluster for at in counts.table if at}
        taken = {cluster for row in rows for cluster in row}
        assert taken.isdisjoint(blocks)
        assert all(counts.get(cluster) == 1 for cluster in taken | blocks)
    for index in counts.dirty:
        file.write(*counts.stored(index))
    file.close()
    # What is in the file says the same.
    file, again, header = counts_of(path)
    assert all(again.get(cluster) == 1 for row in rows for cluster in row)
    own = range(header.reftable_offset // header.cluster, 1 << 40)[: header.reftable_clusters]
    assert all(again.get(cluster) == 1 for cluster in own)
    file.close()


def test_a_row_longer_than_a_block_counts(tmp_path: Path) -> None:
    # An L1 table of 1024 clusters, and blocks that count 256: each would be in the row's way.
    path = tmp_path / "long.qcow2"
    Qcow2.create(str(path), 2 * GIB, cluster=512)
    with Qcow2(str(path)) as disk:
        disk.write(2 * GIB - 512, b"end" * 170 + b"..")
        assert not check(disk).corruptions
    assert "No errors" in run("qemu-img", "check", path)


def test_a_refcount_keeps_to_its_width(tmp_path: Path) -> None:
    path = tmp_path / "narrow.qcow2"
    Qcow2.create(str(path), MIB, refcount_bits=2)
    file, counts, _ = counts_of(path)
    cluster = counts.allocate()
    assert [counts.change(cluster, 1) for _ in range(2)] == [2, 3]
    for by in (1, -4):
        refused(counts.change, cluster, by)
    assert counts.get(cluster) == 3
    refused(counts.set, 1 << 40, 1)  # no block counts that far
    file.close()


# Header


@given(
    st.builds(
        qcow2_format.Header,
        version=st.just(3),
        cluster_bits=st.integers(10, 21),
        size=st.integers(0, 1 << 20).map(lambda n: n * 512),
        l1_size=st.just(64),
        refcount_order=st.integers(0, 6),
        compatible=st.integers(0, (1 << 64) - 1),
        autoclear=st.integers(0, (1 << 64) - 1),
        backing=st.text("abc/ü ", max_size=50),
        extensions=st.dictionaries(
            st.integers(1, (1 << 32) - 1), st.binary(max_size=20), max_size=4
        ),
    )
)
def test_a_header_is_parsed_as_it_was_packed(tmp_path_factory, header) -> None:
    cluster = header.cluster
    header.l1_size = max(header.l1_size, header.l1_needed)
    header.reftable_offset, header.reftable_clusters = cluster, 1
    header.l1_offset = 2 * cluster
    path = tmp_path_factory.mktemp("header") / "h"
    with path.open("wb") as out:
        out.write(header.pack())
        out.truncate(2 * cluster + header.l1_size * 8)
    file = HostFile(str(path), readonly=True)
    assert qcow2_format.parse(file) == header
    file.close()


def test_words_are_big_endian() -> None:
    table = qcow2_format.words(struct.pack(">3Q", 1, 2, 1 << 63))
    assert table.tolist() == [1, 2, 1 << 63]
    assert qcow2_format.big_endian(table) == struct.pack(">3Q", 1, 2, 1 << 63)
    assert table.tolist() == [1, 2, 1 << 63]  # the table is as it was


def test_entries_are_decoded_as_the_format_says(tmp_path: Path) -> None:
    path = tmp_path / "d.qcow2"
    Qcow2.create(str(path), MIB)
    with Qcow2(str(path)) as disk:
        disk.write(0, b"x" * 65536)
        host = disk.place(0).host
        assert disk.place(0) == (DATA, host, 0, True)
        assert disk.place(1).kind == HOLE
        assert disk.decode(host) == (DATA, host, 0, False)
        assert disk.decode(host | 1) == (ZEROS, host, 0, False)
        assert disk.decode(1).kind == ZEROS
        # 62 - (16 - 8) = 54 bits of offset, then sectors beyond the first one.
        packed = disk.decode(1 << 62 | 3 << 54 | host + 700)
        assert packed == (PACKED, host + 700, 4 * 512 - 700 % 512, False)
        assert (
            list(disk.clusters_of(1 << 62 | 3 << 54 | host + 65000))
            == [
                host >> 16,
                (host >> 16) + 1,
            ][: 1 + (host + 65536 < path.stat().st_size)]
        )
        assert list(disk.clusters_of(1)) == []


# The lock and the walk


def test_sharers_are_together_and_one_is_alone() -> None:
    lock, inside, faults = SharedLock(), [0, 0], []
    count = threading.Lock()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            alone = chance.random() < 0.2
            with lock.alone() if alone else lock.shared():
                with count:
                    inside[alone] += 1
                    now = tuple(inside)
                if now[1] > 1 or (now[1] and now[0]):
                    faults.append(now)
                with count:
                    inside[alone] -= 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert inside == [0, 0]


def test_two_can_share_at_once() -> None:
    lock, both = SharedLock(), threading.Barrier(2, timeout=60)

    def work() -> None:
        with lock.shared():
            both.wait()

    thread = threading.Thread(target=work)
    thread.start()
    work()  # would break the barrier if one had to wait for the other
    thread.join()


def test_an_error_inside_lets_go() -> None:
    lock = SharedLock()
    for take in (lock.shared, lock.alone):
        with pytest.raises(KeyError), take():
            raise KeyError
    with lock.alone():
        pass
    with lock.shared():
        pass


@given(st.lists(st.binary(max_size=9), max_size=8), st.data())
def test_a_cursor_takes_every_byte_once(parts: list[bytes], data: st.DataObject) -> None:
    whole, taken = b"".join(parts), b""
    cursor = Cursor([memoryview(part) for part in parts])
    while len(taken) < len(whole):
        size = data.draw(st.integers(1, len(whole) - len(taken)))
        pieces = cursor.take(size)
        assert sum(piece.nbytes for piece in pieces) == size
        taken += b"".join(pieces)
    assert taken == whole
    assert cursor.take(0) == []


def test_fill() -> None:
    target = bytearray(b"......")
    view = memoryview(target)
    fill([view[:2], view[3:]], b"abcde")
    assert target == b"ab.cde"
    fill([view[1:4]])
    assert target == b"a\0\0\0de"


# Opening and making


@pytest.mark.parametrize(("at", "magic", "name"), MAGICS)
def test_every_known_beginning_is_seen(at: int, magic: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_bytes(bytes(at) + magic + bytes(1024))
    assert magic_of(str(path)) == name
    path.write_bytes(bytes(at) + magic[:-1] + b"\x99" + bytes(1024))
    assert magic_of(str(path)) == "raw"


@pytest.mark.parametrize("format", ["raw", "qcow2"])
@pytest.mark.parametrize("sector", [512, 4096])
def test_made_opened_and_used_through_a_queue(format: str, sector: int, tmp_path: Path) -> None:
    path = tmp_path / "d"
    create(path, MIB, format)
    answers: list[int] = []
    with storage.open(path, format=format, sector=sector, serial="S" * 20) as disk:
        queue = Queue(disk, workers=3)
        for start in range(0, MIB, 128 * KIB):
            data = [memoryview(bytes([start >> 17 | 1]) * sector) for _ in range(8)]
            queue.submit(
                Request("write", start + n * sector, [each], sector, answers.append)
                for n, each in enumerate(data)
            )
        queue.submit([Request("flush", 0, [], 0, answers.append)])
        queue.submit([Request("write", MIB, [memoryview(b"x" * sector)], sector, answers.append)])
        queue.close()
        assert sorted(answers) == [0] * 65 + [22]  # EINVAL: beyond the end
        assert queue.calls["write"] == 9
        for start in range(0, MIB, 128 * KIB):
            assert disk.read(start, 8 * sector) == bytes([start >> 17 | 1]) * 8 * sector


def test_sectors_of_4096_want_a_disk_of_whole_ones(tmp_path: Path) -> None:
    for format in ("raw", "qcow2"):
        create(tmp_path / format, 4096 * 3 + 512, format)
        with pytest.raises(DiskError, match="no whole sectors of 4096"):
            storage.open(tmp_path / format, format=format, sector=4096)
        storage.open(tmp_path / format, format=format).close()


def test_closing_twice_and_names_of_the_room(tmp_path: Path) -> None:
    for format in ("raw", "qcow2"):
        create(tmp_path / format, MIB, format)
        disk = storage.open(tmp_path / format, format=format)
        disk.close()
        disk.close()
    assert set(storage.__all__) >= {"Queue", "Request", "create", "open", "overlay"}
    for name in storage.__all__:
        assert getattr(storage, name) is not None
    with pytest.raises(AttributeError):
        storage.nothing  # noqa: B018


def test_tables_of_a_disk_of_4096_byte_sectors_are_complete() -> None:
    entry = bytes(range(16)) * 2 + bytes(16) + bytes(80)
    tables = partitions.Tables(
        "gpt",
        [partitions.Partition(3, MIB, 2 * MIB, entry, "p")],
        (b"EFI PART", 0x10000, 92, 0, 0, 1, 0, 0, 0, b"g" * 16, 2, 128, 128, 0),
    )
    written = list(partitions.new_tables(tables, 8 * MIB))
    assert [at for at, _ in written] == [8 * MIB - 5 * 4096, 8 * MIB - 4096, 8192, 4096, 0]
    # The entry keeps its type, its identity and its name, and stands at its number.
    start, last = struct.unpack_from("<QQ", written[2][1], 2 * 128 + 32)
    assert (start * 4096, (last + 1) * 4096) == (MIB, 2 * MIB)
    assert written[2][1][256:288] == entry[:32]
    protective = written[-1][1]
    assert protective[510:512] == b"\x55\xaa"
    assert protective[450] == 0xEE
    assert struct.unpack_from("<II", protective, 454) == (1, 8 * MIB // 4096 - 1)
    assert array("B", protective[462:510]).tolist() == [0] * 48


# The command's own pieces


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("4k", 4096), ("3M", 3 * MIB), ("1GiB", GIB), ("2TB", 2 << 40), ("0", 0)],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1.5G", "1 G", "0x10", "1E", "9" * 30, "1G\n"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(DiskProblem, match="--size"):
        parse_size(text)


# A host that does less than it might


def test_a_file_system_without_holes_or_locks(tmp_path: Path, monkeypatch) -> None:
    import errno
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(errno.EINVAL, "no")

    create(tmp_path / "d", MIB)
    monkeypatch.setattr(fcntl, "fcntl", unsupported)
    monkeypatch.setattr(os, "lseek", _without_data(os.lseek))
    with storage.open(tmp_path / "d") as disk:
        assert list(disk.extents()) == [(0, MIB)]
        disk.write(0, b"x")
        assert disk.read(0, 2) == b"x\0"


def _without_data(real: Callable[[int, int, int], int]):
    def lseek(fd: int, at: int, whence: int) -> int:
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(22, "no")
        return real(fd, at, whence)

    return lseek


def test_writes_go_on_while_a_flush_waits_for_the_drive(tmp_path: Path, monkeypatch) -> None:
    waiting, go = threading.Event(), threading.Event()

    def slow(_: int) -> None:
        waiting.set()
        assert go.wait(60)

    Qcow2.create(str(tmp_path / "d"), 4 * MIB)
    with Qcow2(str(tmp_path / "d")) as disk:
        disk.write(0, b"a" * 65536)
        monkeypatch.setattr(os, "fdatasync", slow)
        flush = threading.Thread(target=disk.flush)
        flush.start()
        assert waiting.wait(60)
        disk.write(MIB, b"b" * 65536)  # a new cluster in a table that is just being stored
        disk.write(10, b"c")
        assert disk.read(0, 11) == b"a" * 10 + b"c"
        assert disk.read(MIB, 2) == b"bb"
        go.set()
        flush.join()
        monkeypatch.setattr(os, "fdatasync", lambda _: None)
        disk.flush()
        assert not check(disk).corruptions
    with Qcow2(str(tmp_path / "d"), readonly=True) as disk:
        assert disk.read(MIB, 65536) == b"b" * 65536
        assert check(disk) == check(disk)
        assert check(disk).leaks == 0
