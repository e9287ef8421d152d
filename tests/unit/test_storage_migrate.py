"""From 512-byte sectors to 4096: tables that fdisk and gdisk find right, file systems that fsck
does, refusals with their reason, and interruptions anywhere."""

from __future__ import annotations

import errno
import json
import os
import random
import struct
from pathlib import Path

import pytest

from hartwood import storage
from hartwood.storage import copying, partitions
from hartwood.storage.copying import convert, migrate
from unit.disk_images import KIB, MIB, refused, run


def gpt_disk(path: Path, *partition_words: str, size: int = 64 * MIB) -> None:
    """A GPT by sgdisk; its partitions are filled by the caller."""
    with path.open("wb") as file:
        file.truncate(size)
    run("sgdisk", "-o", *partition_words, path)


def ext4(path: Path, at: int, size: int, block: int = 4096) -> None:
    run("mkfs.ext4", "-q", "-F", "-b", block, "-E", f"offset={at}", path, f"{size // KIB}k")


def fat(path: Path, at: int, size: int, sector: int) -> None:
    part = path.with_name("fat.part")
    with part.open("wb") as file:
        file.truncate(size)
    run("mkfs.vfat", "-S", sector, part)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(part.read_bytes())


def content(path: Path, at: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(size)


def moved(path: Path, out: Path, format: str = "raw") -> list[str]:
    before = path.read_bytes()
    with storage.open(path, readonly=True) as source:
        found = migrate(source, str(out), format)
    assert path.read_bytes() == before
    assert sorted(each.name for each in out.parent.glob(f"{out.name}.*")) == []
    return found


def reason(path: Path, out: Path) -> str:
    with storage.open(path, readonly=True, format="raw") as source:
        error = refused(migrate, source, str(out))
    assert not list(out.parent.glob(f"{out.name}*"))
    return str(error)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A GPT with ext4, FAT of 4096-byte sectors, swap, and an end that sgdisk chose."""
    path = tmp_path / "old.raw"
    words = ["-n", "1:2048:+24M", "-c", "1:root", "-A", "1:set:2"]
    gpt_disk(path, *words, "-n", "2:0:+16M", "-t", "2:ef00", "-n", "5:0:+4M", "-n", "3:0:0")
    ext4(path, MIB, 24 * MIB)
    fat(path, 25 * MIB, 16 * MIB, 4096)
    with path.open("r+b") as file:
        file.seek(41 * MIB + 4086)
        file.write(b"SWAPSPACE2")
    return path


def test_a_gpt_is_right_for_other_programs(disk: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.raw"
    assert moved(disk, out) == [
        "partition 1 (root): ext4",
        "partition 2: FAT",
        "partition 5: swap",
        "partition 3: nothing",
    ]
    listed = run("fdisk", "-b", "4096", "-l", out)
    assert "corrupt" not in listed
    lines = [line.split() for line in listed.splitlines() if line.startswith(str(out))]
    table = {line[0].removeprefix(str(out)): (int(line[1]), int(line[2])) for line in lines}
    assert table["1"] == (256, 6399)
    assert table["2"] == (6400, 10495)
    assert table["5"] == (10496, 11519)
    assert table["3"][0] == 11520
    for at, size in ((MIB, 24 * MIB), (25 * MIB, 16 * MIB), (41 * MIB, 4 * MIB)):
        assert content(out, at, size) == content(disk, at, size)
    part = tmp_path / "part"
    part.write_bytes(content(out, MIB, 24 * MIB))
    run("e2fsck", "-fn", part)
    part.write_bytes(content(out, 25 * MIB, 16 * MIB))
    run("fsck.vfat", "-n", part)


def test_both_headers_and_their_checksums(disk: Path, tmp_path: Path) -> None:
    # gdisk believes the sector size of a block device only: it is asked through a loop.
    out = tmp_path / "new.raw"
    moved(disk, out)
    if os.geteuid() == 0:
        device = run("losetup", "--find", "--show", "-b", "4096", out, status=None).strip()
        if device.startswith("/dev/"):
            try:
                said = run("sgdisk", "-v", device)
                assert "No problems found" in said
                assert "Attribute flags: 0000000000000004" in run("sgdisk", "-i", "1", device)
            finally:
                run("losetup", "-d", device)
    # Whoever has only the backup finds the same: the first header is destroyed.
    with out.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))
    listed = run("fdisk", "-b", "4096", "-l", out)
    assert "root" in listed or f"{out}1" in listed


def test_the_disk_grows_where_the_backup_has_no_room(tmp_path: Path) -> None:
    path, out = tmp_path / "old.raw", tmp_path / "new.raw"
    gpt_disk(path, "-a", "1", "-n", "1:2048:0")
    ext4(path, MIB, 62 * MIB)
    moved(path, out)
    assert path.stat().st_size < out.stat().st_size <= path.stat().st_size + MIB
    assert out.stat().st_size % 4096 == 0
    assert "corrupt" not in run("fdisk", "-b", "4096", "-l", out)
    assert out.stat().st_blocks * 512 < 16 * MIB  # holes stayed holes


def test_an_mbr(tmp_path: Path) -> None:
    path, out = tmp_path / "old.raw", tmp_path / "new.raw"
    with path.open("wb") as file:
        file.truncate(32 * MIB)
        file.write(b"boot code")
    script = tmp_path / "script"
    script.write_text("2048,16384,83,*\n,16384,82\n")
    run("sh", "-c", f"sfdisk -q {path} < {script}")
    ext4(path, MIB, 8 * MIB)
    assert moved(path, out) == ["partition 1: ext4", "partition 2: nothing"]
    listed = run("fdisk", "-b", "4096", "-l", out)
    rows = [line.split() for line in listed.splitlines() if line.startswith(str(out))]
    assert rows[0][1:4] == ["*", "256", "2303"]
    assert rows[1][1:3] == ["2304", "4351"]
    assert content(out, 0, 9) == b"boot code"
    assert content(out, MIB, 8 * MIB) == content(path, MIB, 8 * MIB)


def test_no_table_at_all(tmp_path: Path) -> None:
    path, out = tmp_path / "old.raw", tmp_path / "new.qcow2"
    with path.open("wb") as file:
        file.truncate(16 * MIB + 512)
    ext4(path, 0, 16 * MIB)
    assert moved(path, out, "qcow2") == ["the disk: ext4"]
    with storage.open(out, format="qcow2", sector=4096) as disk:
        assert disk.size == 16 * MIB + 4096
        assert disk.read(0, 16 * MIB) == content(path, 0, 16 * MIB)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: ext4(p, MIB, 16 * MIB, 1024), "ext4 with units of 1024 bytes"),
        (lambda p: fat(p, MIB, 16 * MIB, 512), "FAT with units of 512 bytes"),
        (lambda p: put(p, MIB, b"\xeb\x52\x90NTFS    \0\2"), "NTFS with units of 512"),
        (lambda p: put(p, MIB, b"XFSB".ljust(102, b"\0") + b"\2\0"), "XFS with units of 512"),
        (
            lambda p: put(p, MIB + 3, b"EXFAT   ".ljust(105, b"\0") + b"\t"),
            "exFAT with units of 512",
        ),
        (lambda p: put(p, MIB, b"LUKS\xba\xbe\0\2"), "cannot be checked"),
        (lambda p: put(p, 512, b"EFI FART"), "header is damaged"),
        (lambda p: put(p, 512 + 24, b"\7"), "header is damaged"),
        (lambda p: put(p, 1024 + 60, b"\7"), "entries are damaged"),
        (lambda p: put(p, 446 + 16 + 4, b"\x83"), "hybrid MBR"),
    ],
    ids="ext4 fat ntfs xfs exfat luks signature header entries hybrid".split(),
)
def test_what_cannot_be_is_refused_with_the_reason(make, says: str, tmp_path: Path) -> None:
    path = tmp_path / "old.raw"
    gpt_disk(path, "-n", "1:2048:+32M", "-c", "1:data")
    make(path)
    assert says in reason(path, tmp_path / "new.raw")


def put(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-a", "1", "-n", "1:2049:+8M"], "begins at byte 1049088, no multiple of 4096"),
        (["-a", "1", "-n", "1:40:+8M"], "where the table goes"),
        (["-n", "1:2048:+1M", "-t", "1:ef02"], "BIOS boot"),
    ],
    ids=["unaligned", "early", "bios"],
)
def test_partitions_that_cannot_stay_where_they_are(words, says: str, tmp_path: Path) -> None:
    gpt_disk(tmp_path / "old.raw", *words)
    assert says in reason(tmp_path / "old.raw", tmp_path / "new.raw")


@pytest.mark.parametrize("kind", [0x05, 0x0F, 0x85])
def test_extended_partitions_are_refused(kind: int, tmp_path: Path) -> None:
    path = tmp_path / "old.raw"
    path.write_bytes(bytes(8 * MIB))
    put(path, 446, struct.pack("<B3sB3sII", 0, b"", kind, b"", 2048, 2048))
    put(path, 510, b"\x55\xaa")
    assert "extended" in reason(path, tmp_path / "new.raw")
    put(path, 446, struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 2048, 1 << 31))
    assert "not within the disk" in reason(path, tmp_path / "new.raw")


class Stop(BaseException):
    """An interruption."""


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_interrupted_anywhere_it_goes_on(format: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(copying, "STRIDE", 2 * MIB)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    path, whole, out = tmp_path / "old.raw", tmp_path / "whole", tmp_path / "new"
    gpt_disk(path, "-n", "1:2048:+24M", size=32 * MIB)
    ext4(path, MIB, 24 * MIB)
    put(path, 9 * MIB, random.Random(9).randbytes(12 * MIB))
    moved(path, whole, format)
    chance, stops = random.Random(format), 0
    copied = copying._copy_piece
    total = 0

    def count(*arguments) -> None:
        nonlocal total
        if chance.random() < 0.2:
            raise Stop
        total += 1
        copied(*arguments)

    monkeypatch.setattr(copying, "_copy_piece", count)
    with storage.open(path, readonly=True) as source:
        while not out.exists():
            try:
                migrate(source, str(out), format)
            except Stop:
                stops += 1
                assert not out.exists()
                assert stops < 200
    assert stops
    with (
        storage.open(whole, format=format, readonly=True) as one,
        storage.open(out, format=format, readonly=True) as other,
    ):
        assert one.read(0, one.size) == other.read(0, other.size)
    assert not list(tmp_path.glob("new.*"))


def test_a_journal_of_something_else_is_not_followed(
    disk: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "new"

    def stop(*_: object) -> None:
        raise Stop

    with storage.open(disk, readonly=True) as source:
        with pytest.raises(Stop):
            migrate(source, str(out), say=stop)
        journal = tmp_path / "new.journal"
        good = journal.read_text()
        for bad in ("", "{", "[]", "{}", json.dumps({"plan": "x", "done": 5}), "\xff" * 9):
            journal.write_text(bad)
            assert "rm " in str(refused(migrate, source, str(out)))
        journal.write_text(good)
    os.utime(disk, (1, 1))  # the source has changed meanwhile
    with storage.open(disk, readonly=True) as source:
        assert refused(migrate, source, str(out)).errno == errno.EEXIST
        journal.unlink()
        assert refused(migrate, source, str(out)).errno == errno.EEXIST  # nor is it overwritten
        (tmp_path / "new.partial").unlink()
        migrate(source, str(out))
        assert "remove it first" in str(refused(migrate, source, str(out)))


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_converted_is_the_same_and_as_sparse(format: str, tmp_path: Path) -> None:
    path, out = tmp_path / "in.raw", tmp_path / "out"
    data = bytearray(8 * MIB)
    data[MIB + 5 : MIB + 10] = b"hello"
    data[3 * MIB : 3 * MIB + 100 * KIB] = random.Random(1).randbytes(100 * KIB)
    path.write_bytes(data)  # all of it allocated: zeros are found too
    heard: list[tuple[int, int]] = []
    with storage.open(path, readonly=True) as source:
        convert(source, str(out), format, say=lambda *done: heard.append(done))
        assert refused(convert, source, str(out), format).errno == errno.EEXIST
        convert(source, str(out), format, force=True)
        assert refused(convert, source, str(tmp_path / "x"), "vmdk").errno == errno.EINVAL
    assert heard[-1] == (8 * MIB, 8 * MIB)
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", format, path, out)
    assert out.stat().st_blocks * 512 < MIB
    assert sorted(os.listdir(tmp_path)) == ["in.raw", "out"]


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    path, out = tmp_path / "in.raw", tmp_path / "out"
    path.write_bytes(b"x" * MIB)
    out.write_bytes(b"precious")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(copying, "_copy_piece", fail)
    with storage.open(path, readonly=True) as source:
        assert refused(convert, source, str(out), "raw", force=True).errno == errno.ENOSPC
    assert out.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["in.raw", "out"]


def test_contents_of_an_empty_and_of_an_odd_range(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(bytes(MIB) + b"hsqs" + bytes(508) + bytes(65536 - 512))
    with storage.open(tmp_path / "d", readonly=True) as disk:
        assert partitions.contents(disk, 0, MIB) == ("nothing", 0)
        assert partitions.contents(disk, MIB, MIB + 512) == ("SquashFS", 4096)
