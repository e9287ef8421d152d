"""Partition tables in sectors of 512 and 4096 bytes, and whether a file system bears the larger.

GPT is UEFI 2.10, chapter 5; offsets of file systems are those of their own specifications.
"""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from hartwood.errors import DiskError
from hartwood.storage.image import Image

OLD, NEW = 512, 4096
#: signature, revision, header size, CRC, reserved, this, other, first and last usable, disk GUID,
#: entries at, how many, size of one, their CRC (UEFI 5.3.2).
_GPT = struct.Struct("<8sIIIIQQQQ16sQIII")
_SIGNATURE, _REVISION = b"EFI PART", 0x10000
_MBR_ENTRY = struct.Struct("<B3sB3sII")
_PROTECTIVE, _EXTENDED = 0xEE, {0x05, 0x0F, 0x85}
_BIOS_BOOT = bytes.fromhex("4861682149646f6e744e656564454649")
_NO_CHS = b"\xfe\xff\xff"  # "see the LBA"


@dataclass(frozen=True)
class Partition:
    """A partition, in bytes; `start` to `end`, which is not part of it."""

    number: int
    start: int
    end: int
    entry: bytes
    name: str


@dataclass(frozen=True)
class Tables:
    """What a disk begins with: "gpt", "mbr" or "none", and its partitions."""

    kind: str
    partitions: list[Partition]
    header: tuple[int | bytes, ...] = ()
    boot: bytes = b""


def _refuse(image: Image, why: str) -> DiskError:
    return DiskError(image.path, f"cannot be migrated: {why}", errno.EINVAL)


def read_tables(image: Image) -> Tables:
    """The tables of a disk with sectors of 512 bytes. Raises `DiskError` for damaged ones."""
    first = image.read(0, OLD) if image.size >= OLD else b""
    entries = [_MBR_ENTRY.unpack_from(first, 446 + 16 * n) for n in range(4)] if first else []
    if first[510:512] != b"\x55\xaa" or b"FAT" in first[54:90] or first[3:11] in _BOOT_SECTORS:
        return Tables("none", [Partition(0, 0, image.size, b"", "the disk")])
    used = [(n, each) for n, each in enumerate(entries) if each[2]]
    if any(each[2] == _PROTECTIVE for _, each in used):
        if len(used) > 1:
            raise _refuse(image, "a hybrid MBR, which names partitions twice")
        return _read_gpt(image)
    partitions = []
    for n, (_, _, kind, _, start, count) in used:
        if kind in _EXTENDED:
            raise _refuse(image, f"partition {n + 1} is extended; only primary ones can be")
        entry = first[446 + 16 * n : 462 + 16 * n]
        partitions.append(
            Partition(n + 1, start * OLD, (start + count) * OLD, entry, f"partition {n + 1}")
        )
    return Tables("mbr", partitions, boot=first[:446])


def _read_gpt(image: Image) -> Tables:
    raw = image.read(OLD, OLD) if image.size >= 2 * OLD else bytes(OLD)
    header = _GPT.unpack_from(raw)
    signature, _, size, crc, _, this, *_, at, count, each, entries_crc = header
    sound = signature == _SIGNATURE and _GPT.size <= size <= OLD and this == 1
    if not sound or zlib.crc32(raw[:16] + bytes(4) + raw[20:size]) != crc:
        raise _refuse(image, "the GPT header is damaged; repair it first with: gdisk")
    if each not in (128, 256, 512, 1024) or not 0 < count <= 1024:
        raise _refuse(image, f"a GPT of {count} entries of {each} bytes")
    data = image.read(at * OLD, count * each)
    if zlib.crc32(data) != entries_crc:
        raise _refuse(image, "the GPT entries are damaged; repair them first with: gdisk")
    partitions = []
    for n in range(count):
        entry = data[n * each : (n + 1) * each]
        if any(entry[:16]):
            start, last = struct.unpack_from("<QQ", entry, 32)
            title = entry[56:128].decode("utf-16-le", "replace").rstrip("\0")
            name = f"partition {n + 1}" + (f" ({title})" if title.isprintable() and title else "")
            partitions.append(Partition(n + 1, start * OLD, (last + 1) * OLD, entry, name))
    return Tables("gpt", partitions, header)


def size_needed(image: Image, tables: Tables) -> int:
    """Bytes of the migrated disk: the old ones, and more where the backup GPT has no room."""
    end = -(-image.size // NEW) * NEW
    if tables.kind != "gpt":
        return end
    last = max((each.end for each in tables.partitions), default=0)
    return max(end, -(-last // NEW) * NEW + (1 + _entry_sectors(tables)) * NEW)


def _entry_sectors(tables: Tables) -> int:
    count, each = tables.header[11], tables.header[12]
    assert isinstance(count, int)
    assert isinstance(each, int)
    return -(-count * each // NEW)


def check(image: Image, tables: Tables) -> list[str]:
    """What is in each partition, in words. Raises `DiskError` where one cannot be migrated."""
    found, before, first = [], 0, None
    if tables.kind != "none":
        first = (2 + _entry_sectors(tables)) * NEW if tables.kind == "gpt" else NEW
    for each in sorted(tables.partitions, key=lambda each: each.start):
        if each.end > image.size or each.start >= each.end or each.start < before:
            raise _refuse(image, f"{each.name} overlaps another or is not within the disk")
        before = each.end
        if each.start % NEW:
            raise _refuse(
                image,
                f"{each.name} begins at byte {each.start}, no multiple of {NEW}; "
                "move it first with: parted or sgdisk",
            )
        if first is not None and each.start < first:
            raise _refuse(image, f"{each.name} begins before byte {first}, where the table goes")
        if each.entry[:16] == _BIOS_BOOT:
            raise _refuse(image, f"{each.name} is a BIOS boot partition, which counts in 512 bytes")
        what, unit = contents(image, each.start, each.end)
        if unit is None:
            raise _refuse(image, f"{each.name} holds {what}, which cannot be checked")
        if unit and unit < NEW:
            raise _refuse(
                image,
                f"{each.name} holds {what} with units of {unit} bytes; "
                f"make it anew with units of {NEW}",
            )
        found.append(f"{each.name}: {what}")
    return found


_BOOT_SECTORS = (b"NTFS    ", b"EXFAT   ")


def contents(image: Image, start: int, end: int) -> tuple[str, int | None]:
    """What a range of the disk holds and the smallest unit that it is accessed in.

    The unit is 0 for an empty range, None where it is not known.
    """
    data = image.read(start, min(end - start, 128 << 10)).ljust(128 << 10, b"\0")

    def number(form: str, at: int) -> int:
        return int(struct.unpack_from(form, data, at)[0])

    if number("<H", 1080) == 0xEF53:
        return "ext4", 1024 << min(number("<I", 1048), 20)
    if data[:4] == b"XFSB":
        return "XFS", number(">H", 102)
    if data[65600:65608] == b"_BHRfS_M":
        return "Btrfs", number("<I", 65536 + 144)
    if data[4086:4096] == b"SWAPSPACE2":
        return "swap", NEW
    if data[:4] == b"hsqs":
        return "SquashFS", NEW  # reads only, in whatever the device has
    if data[3:11] == b"EXFAT   ":
        return "exFAT", 1 << min(data[108], 20)
    if data[3:11] == b"NTFS    ":
        return "NTFS", number("<H", 11)
    if data[510:512] == b"\x55\xaa" and b"FAT" in data[54:90]:
        return "FAT", number("<H", 11)
    if not any(data):
        return "nothing", 0
    return "no file system that is known", None


def new_tables(tables: Tables, size: int) -> Iterator[tuple[int, bytes]]:
    """The tables for a disk of `size` bytes in sectors of 4096: (at, bytes), the first one last."""
    boot = bytearray(tables.boot.ljust(512, b"\0"))
    boot[510:512] = b"\x55\xaa"
    if tables.kind == "mbr":
        for each in tables.partitions:
            flag, _, kind, _, _, _ = _MBR_ENTRY.unpack(each.entry)
            where = each.start // NEW, -(-each.end // NEW) - each.start // NEW
            entry = _MBR_ENTRY.pack(flag, _NO_CHS, kind, _NO_CHS, *where)
            boot[430 + 16 * each.number : 446 + 16 * each.number] = entry
    elif tables.kind == "gpt":
        last = size // NEW - 1
        signature, revision, _, _, _, _, _, _, _, guid, _, count, each_size, _ = tables.header
        assert isinstance(count, int)
        assert isinstance(each_size, int)
        entries = bytearray(count * each_size)
        for each in tables.partitions:
            # An end within a sector moves to the sector's: what follows begins with a sector.
            lbas = struct.pack("<QQ", each.start // NEW, -(-each.end // NEW) - 1)
            at = (each.number - 1) * each_size
            entries[at : at + each_size] = each.entry[:32] + lbas + each.entry[48:]
        room = _entry_sectors(tables)

        def header(this: int, other: int, entries_at: int) -> bytes:
            fields = [signature, revision, _GPT.size, 0, 0, this, other, 2 + room, last - room - 1]
            fields += [guid, entries_at, count, each_size, zlib.crc32(entries)]
            fields[3] = zlib.crc32(_GPT.pack(*fields))
            return _GPT.pack(*fields).ljust(NEW, b"\0")

        yield (last - room) * NEW, bytes(entries)
        yield last * NEW, header(last, 1, last - room)
        yield 2 * NEW, bytes(entries)
        yield NEW, header(1, last, 2)
        protective = 0, b"\0\2\0", _PROTECTIVE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF)
        boot[446:462] = _MBR_ENTRY.pack(*protective)
    else:
        return
    yield 0, bytes(boot).ljust(NEW, b"\0")
