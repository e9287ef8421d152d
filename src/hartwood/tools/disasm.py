"""`hartwood disasm`: the code of an ELF file as assembly, with the names of its functions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from hartwood.errors import Error
from hartwood.isa.riscv import RISCV

EXECUTABLE_SECTION = 0x4  # SHF_EXECINSTR, gABI 4
EXECUTABLE_SEGMENT = 0x1  # PF_X, gABI 5


_PROVOKED = (ELFError, ValueError, KeyError, OverflowError, TypeError, AttributeError)


class DisassemblyError(Error):
    """The file has no code that can be shown; the text names it and says why."""


class Line(NamedTuple):
    """One line: `kind` is "section", "label" or "code"."""

    kind: str
    at: int
    raw: bytes
    text: str

    def __str__(self) -> str:
        if self.kind == "section":
            return f"\n{self.text}:"
        if self.kind == "label":
            return f"\n{self.at:016x} <{self.text}>:"
        return f"{self.at:8x}:  {self.raw[::-1].hex():8}  {self.text}"


def disassemble(path: Path) -> Iterator[Line]:
    """The lines of the executable sections of `path` (of its segments where there are none).

    Raises `DisassemblyError` for a file that is unreadable, damaged or not for RISC-V.
    """
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            if elf["e_machine"] != "EM_RISCV" or elf.elfclass != 64:
                machine = elf.get_machine_arch()
                raise DisassemblyError(f"{path}: a program for {machine}, not for 64-bit RISC-V")
            _check_extents(elf, path.stat().st_size)
            labels = _labels(elf)
            parts = list(_parts(elf))
    except OSError as error:
        raise DisassemblyError(f"{path}: {error.strerror}") from error
    # What a damaged file provokes in the parser has no common base class.
    except (*_PROVOKED, MemoryError) as error:
        raise DisassemblyError(f"{path}: not a sound ELF file ({error})") from error
    for name, start, code in parts:
        yield Line("section", start, b"", name)
        # Code begins anew at each label: data between functions must not swallow a beginning.
        past = start + len(code)
        cuts = sorted({start, past, *(at for at in labels if start < at < past)})
        for begin, end in pairwise(cuts):
            for label in labels.get(begin, ()):
                yield Line("label", begin, b"", label)
            for at, raw, text in RISCV.listing(code[begin - start : end - start], begin):
                yield Line("code", at, raw, text)


def _check_extents(elf: ELFFile, size: int) -> None:
    """Refuse a header that would have the parser read far more than there is."""
    for section in elf.iter_sections():
        within = section["sh_offset"] + section["sh_size"] <= size
        if section["sh_type"] != "SHT_NOBITS" and not within:
            raise ValueError(f"section {section.name} ends beyond the file")
    for segment in elf.iter_segments():
        if segment["p_offset"] + segment["p_filesz"] > size:
            raise ValueError(f"a segment at {segment['p_vaddr']:#x} ends beyond the file")


def _parts(elf: ELFFile) -> Iterator[tuple[str, int, bytes]]:
    sections = [s for s in elf.iter_sections() if s["sh_flags"] & EXECUTABLE_SECTION]
    for section in sections:
        if section["sh_type"] != "SHT_NOBITS":
            yield section.name, section["sh_addr"], section.data()
    if not sections:
        for segment in elf.iter_segments("PT_LOAD"):
            if segment["p_flags"] & EXECUTABLE_SEGMENT:
                yield "segment", segment["p_vaddr"], segment.data()


def _labels(elf: ELFFile) -> dict[int, list[str]]:
    labels: dict[int, list[str]] = {}
    for section in elf.iter_sections():
        if not isinstance(section, SymbolTableSection):
            continue
        for symbol in section.iter_symbols():
            if symbol["st_info"]["type"] in ("STT_FUNC", "STT_NOTYPE") and symbol.name:
                # Names that begin with $ map code and data; they are nobody's labels.
                known = labels.setdefault(symbol["st_value"], [])
                if symbol.name not in known and not symbol.name.startswith(("$", ".L")):
                    known.append(symbol.name)
    return {at: names for at, names in labels.items() if names}
