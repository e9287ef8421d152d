"""Kernels and firmware as files: Linux's Image (Documentation/arch/riscv/boot-image-header.rst),
also compressed, ELF, or raw code."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

from hartwood.errors import Error
from hartwood.machine.sysreference import SYSTEM

#: Where Linux wants to be in memory, and the most that a compressed kernel may unpack to.
OFFSET, _MOST = 0x20_0000, 256 << 20
_MAGIC2 = b"RSC\x05"
#: How other files begin that are taken for kernels, and what they are.
_OTHERS = {
    b"\xfd7zXZ\0": "compressed with xz; unpack it with `xz -d`",
    b"BZh": "compressed with bzip2; unpack it with `bunzip2`",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it with `zstd -d`",
    b"\x04\x22\x4d\x18": "compressed with lz4; unpack it with `lz4 -d`",
    b"\x02\x21\x4c\x18": "compressed with lz4; unpack it with `lz4 -d`",
    b"\x5d\0\0": "compressed with lzma; unpack it with `xz -d`",
    b"\x89LZO": "compressed with lzop; unpack it with `lzop -d`",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"QFI\xfb": "a disk image, not a kernel",
    b"\x27\x05\x19\x56": "a U-Boot image; give the kernel in it",
    b"\xd0\x0d\xfe\xed": "a device tree, not a kernel",
    b"070701": "a cpio archive; it may be an --initrd",
}
_TEXT = frozenset(range(0x20, 0x7F)) | frozenset(b"\t\n\r\f\x1b")


class LoaderError(Error):
    """A kernel or initramfs that cannot be started; the text says which file and why."""

    exit_status = 2


@dataclass(frozen=True)
class Kernel:
    """What to put where: (guest-physical address, bytes) each, where to begin, and where the
    kernel's memory ends, beyond what is in the file."""

    parts: tuple[tuple[int, bytes], ...]
    entry: int
    end: int


def read(path: Path, what: str) -> bytes:
    """A whole file. Raises `LoaderError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LoaderError(f"{path}: cannot read the {what}: {error.strerror}") from None
    if not data:
        raise LoaderError(f"{path}: the {what} is empty")
    return data


def load(path: Path, base: int, raw: int = OFFSET, what: str = "kernel") -> Kernel:
    """The kernel in a file, for memory that begins at `base`; raw code lies `raw` bytes above.
    Raises `LoaderError`."""
    data = _unpacked(path, read(path, what))
    if data[:4] == b"\x7fELF":
        return _elf(path, data)
    if len(data) >= 64 and data[56:60] == _MAGIC2:
        offset = int.from_bytes(data[8:16], "little") or OFFSET
        size = int.from_bytes(data[16:24], "little")
        if offset > 1 << 30 or size > 1 << 32:
            raise LoaderError(f"{path}: an Image of {size} bytes at offset {offset:#x} cannot be")
        at = base + offset
        return Kernel(((at, data),), at, at + max(size, len(data)))
    _refuse_others(path, data)
    return Kernel(((base + raw, data),), base + raw, base + raw + len(data))


def _unpacked(path: Path, data: bytes) -> bytes:
    """What is in an Image.gz, or in an EFI program that unpacks itself (vmlinuz.efi: offset and
    size of the payload at 8, the kind of compression at 24; drivers/firmware/efi/libstub)."""
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        kind = data[24:56].split(b"\0")[0].decode("ascii", "replace")
        start, size = (int.from_bytes(data[at : at + 4], "little") for at in (8, 12))
        if kind != "gzip":
            raise LoaderError(f"{path}: compressed with {kind}; give the Image that is in it")
        data = data[start : start + size]
        if len(data) != size or data[:2] != b"\x1f\x8b":
            raise LoaderError(f"{path}: truncated: {len(data)} of {size} bytes are there")
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.open(io.BytesIO(data)) as packed:
            data = packed.read(_MOST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise LoaderError(f"{path}: damaged gzip file: {error}") from None
    if len(data) > _MOST:
        raise LoaderError(f"{path}: unpacks to more than {_MOST >> 20} MiB")
    return data


def _refuse_others(path: Path, data: bytes) -> None:
    """Raw code may be anything that a hart can begin to run; what it cannot be is refused."""
    if data[0x202:0x206] == b"HdrS":
        raise LoaderError(f"{path}: a Linux kernel for x86, not riscv64")
    if data[56:60] == b"ARM\x64":
        raise LoaderError(f"{path}: a Linux kernel for arm64, not riscv64")
    if data[:2] == b"MZ":
        raise LoaderError(f"{path}: an EFI program that is no riscv64 Linux Image")
    for magic, what in _OTHERS.items():
        if data.startswith(magic):
            raise LoaderError(f"{path}: {what}")
    if _TEXT.issuperset(data[:4096]):
        raise LoaderError(f"{path}: text, not a kernel")
    word = int.from_bytes(data[:4], "little")
    if len(data) < 2 or SYSTEM.decode(word) is None:
        raise LoaderError(
            f"{path}: neither ELF nor a riscv64 Image, and {word:#x} at its start is no instruction"
        )


def _elf(path: Path, data: bytes) -> Kernel:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(io.BytesIO(data))
        if elf.elfclass != 64 or not elf.little_endian or elf["e_machine"] != "EM_RISCV":
            raise LoaderError(f"{path}: an ELF file for {elf['e_machine']}, not riscv64")
        parts, end, entry = [], 0, int(elf["e_entry"])
        for segment in elf.iter_segments():
            if segment["p_type"] != "PT_LOAD" or not segment["p_memsz"]:
                continue
            at, size = int(segment["p_paddr"]), int(segment["p_memsz"])
            content = segment.data()
            if len(content) != segment["p_filesz"]:
                raise LoaderError(
                    f"{path}: truncated: a segment of {segment['p_filesz']} bytes has "
                    f"{len(content)} in the file"
                )
            if len(content) > size or size > _MOST:
                raise LoaderError(f"{path}: a segment of {size} bytes cannot be loaded")
            parts.append((at, content))
            end = max(end, at + size)
            inside = entry - int(segment["p_vaddr"])
            if 0 <= inside < size and segment["p_vaddr"] != at:
                entry = at + inside
    except (ELFError, ValueError, KeyError, OverflowError) as error:
        raise LoaderError(f"{path}: damaged ELF file: {error}") from None
    if not parts:
        raise LoaderError(f"{path}: an ELF file with nothing to load")
    return Kernel(tuple(parts), entry, end)
