"""Kernels as files: Linux's Image (boot-image-header.rst of arch/riscv), ELF, or raw code."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

from hartwood.errors import Error

#: Where Linux wants to be in memory, and the most that a compressed kernel may unpack to.
OFFSET, _MOST = 0x20_0000, 256 << 20
_MAGIC2, _MACHINE = b"RSC\x05", 243


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


def load(path: Path, base: int) -> Kernel:
    """The kernel in a file, for memory that begins at `base`. Raises `LoaderError`."""
    data = read(path, "kernel")
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(data)) as packed:
                data = packed.read(_MOST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise LoaderError(f"{path}: damaged gzip file: {error}") from None
        if len(data) > _MOST:
            raise LoaderError(f"{path}: unpacks to more than {_MOST >> 20} MiB")
    if data[:4] == b"\x7fELF":
        return _elf(path, data)
    if len(data) >= 64 and data[56:60] == _MAGIC2:
        offset = int.from_bytes(data[8:16], "little") or OFFSET
        size = int.from_bytes(data[16:24], "little")
        if offset > 1 << 30 or size > 1 << 32:
            raise LoaderError(f"{path}: an Image of {size} bytes at offset {offset:#x} cannot be")
        at = base + offset
        return Kernel(((at, data),), at, at + max(size, len(data)))
    if data[:2] == b"MZ":
        raise LoaderError(f"{path}: an EFI program that is no riscv64 Linux Image")
    return Kernel(((base + OFFSET, data),), base + OFFSET, base + OFFSET + len(data))


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
