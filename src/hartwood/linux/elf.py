"""Reading an ELF64 riscv64 program file: every header field checked before anything is mapped.

Source: the System V gABI chapters 4 and 5, the RISC-V ELF psABI, and Linux's fs/binfmt_elf.c,
whose refusals are kept and widened: a file that Linux would map and then crash is refused here
with a reason.
"""

from __future__ import annotations

import os
import struct
from errno import EACCES, EISDIR, ELIBBAD, ENOEXEC
from stat import S_ISDIR, S_ISREG

from hartwood.errors import LoadError

PAGE = 4096
EM_RISCV = 243
ET_NAMES = {0: "no type", 1: "a relocatable object", 4: "a core dump"}
ET_EXEC, ET_DYN = 2, 3
PT_LOAD, PT_INTERP, PT_PHDR, PT_GNU_STACK = 1, 3, 6, 0x6474E551
PF_X, PF_W, PF_R = 1, 2, 4
EF_RVE, EF_FLOAT_ABI, EF_FLOAT_QUAD = 0x8, 0x6, 0x6

#: For the error line: what other machines' programs are called.
MACHINES = {
    2: "SPARC",
    3: "x86 (32-bit)",
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC64",
    22: "S390",
    40: "ARM (32-bit)",
    43: "SPARC V9",
    62: "x86-64",
    183: "AArch64",
    243: "RISC-V",
    247: "BPF",
    258: "LoongArch",
}

_HEADER = struct.Struct("<4sBBBBB7sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
#: Linux reads at most this many bytes of program headers.
MAX_TABLE = 65536
MAX_INTERPRETER = 4096


class Segment:
    """One PT_LOAD: `size` bytes of memory at `va`, the first `filled` of them from `offset`."""

    __slots__ = ("filled", "offset", "prot", "size", "va")

    def __init__(self, va: int, size: int, offset: int, filled: int, prot: int) -> None:
        self.va = va
        self.size = size
        self.offset = offset
        self.filled = filled
        self.prot = prot


class Program:
    """A checked program file. Addresses are as in the file, before any load bias.

    `low` and `high` bound the loaded pages; `headers` is where the program headers will be found
    (AT_PHDR) or 0; `alignment` is the largest p_align; `interpreter` is PT_INTERP's path.
    """

    __slots__ = (
        "alignment",
        "entry",
        "executable_stack",
        "header_count",
        "headers",
        "high",
        "interpreter",
        "low",
        "path",
        "position_independent",
        "segments",
    )

    def __init__(self, path: str) -> None:
        self.path = path
        self.segments: list[Segment] = []
        self.interpreter: bytes | None = None
        self.executable_stack = True
        self.position_independent = False
        self.entry = self.headers = self.header_count = 0
        self.low = self.high = 0
        self.alignment = PAGE


def is_elf(start: bytes) -> bool:
    """Whether a file that begins with `start` claims to be ELF."""
    return start[:4] == b"\x7fELF"


def machine_of(start: bytes) -> int | None:
    """The e_machine of an ELF header, or None where `start` is not one."""
    if len(start) < 20 or not is_elf(start):
        return None
    return int.from_bytes(start[18:20], "little" if start[5] != 2 else "big")


def read_program(fd: int, path: str, limit: int) -> Program:
    """Check the ELF file open at `fd` and describe it.

    `limit` is the end of the guest's address space. Raises `LoadError`, whose errno is what
    execve(2) answers: ENOEXEC for a file of the wrong kind, ELIBBAD for a damaged one.
    """
    status = os.fstat(fd)
    if S_ISDIR(status.st_mode):
        raise LoadError(path, "is a directory, not a program", EISDIR)
    if not S_ISREG(status.st_mode):
        raise LoadError(path, "is not a regular file", EACCES)
    size = status.st_size
    if size == 0:
        raise LoadError(path, "the file is empty")
    header = os.pread(fd, 64, 0)
    program = Program(path)
    table_at, count = _read_header(program, header, size)
    table = os.pread(fd, count * 56, table_at)
    if len(table) != count * 56:
        raise LoadError(path, "the program headers cannot be read", ELIBBAD)
    _read_segments(program, table, table_at, count, size, limit, fd)
    _check_entry(program)
    return program


def _read_header(program: Program, header: bytes, size: int) -> tuple[int, int]:
    """File offset and number of the program headers."""
    path = program.path
    if not is_elf(header):
        raise LoadError(path, "not an ELF file (it does not start with 7f 'ELF')")
    if len(header) < 64:
        raise LoadError(path, f"truncated: {size} bytes are less than an ELF header", ELIBBAD)
    (_, kind, order, version, abi, _, _, e_type, machine, e_version, entry, phoff, _, flags) = (
        _HEADER.unpack(header)[:14]
    )
    ehsize, phentsize, phnum = struct.unpack_from("<HHH", header, 52)
    if kind not in (1, 2) or order not in (1, 2):
        raise LoadError(path, f"damaged ELF header: class {kind}, byte order {order}", ELIBBAD)
    if order == 2:
        raise LoadError(path, "a big-endian program; this machine is little-endian riscv64")
    if machine != EM_RISCV:
        name = MACHINES.get(machine, f"machine {machine}")
        raise LoadError(path, f"a program for {name}, not for riscv64")
    if kind == 1:
        raise LoadError(path, "a 32-bit RISC-V program; only riscv64 is supported")
    if version != 1 or e_version != 1:
        raise LoadError(path, f"unknown ELF version {version}/{e_version}", ELIBBAD)
    if abi not in (0, 3):
        raise LoadError(path, f"built for operating system ABI {abi}, not Linux")
    if e_type not in (ET_EXEC, ET_DYN):
        what = ET_NAMES.get(e_type, f"ELF type {e_type}")
        raise LoadError(path, f"{what}, not an executable program")
    if flags & EF_RVE:
        raise LoadError(path, "built for RV64E (16 registers), which is not supported")
    if flags & EF_FLOAT_ABI == EF_FLOAT_QUAD:
        raise LoadError(path, "built for the quad-precision float ABI, which is not supported")
    if ehsize != 64 or phentsize != 56:
        raise LoadError(path, f"damaged ELF header: sizes {ehsize} and {phentsize}", ELIBBAD)
    if phnum == 0 or phnum * 56 > MAX_TABLE:
        raise LoadError(path, f"{phnum} program headers, 1 to {MAX_TABLE // 56} expected", ELIBBAD)
    if phoff > size or phoff + phnum * 56 > size:
        raise LoadError(path, "truncated: the program headers lie past its end", ELIBBAD)
    program.entry = entry
    program.position_independent = e_type == ET_DYN
    program.header_count = phnum
    return phoff, phnum


def _read_segments(
    program: Program, table: bytes, table_at: int, count: int, size: int, limit: int, fd: int
) -> None:
    path = program.path
    end = 0
    for number in range(count):
        kind, flags, offset, va, _, filled, memory, align = _SEGMENT.unpack_from(table, number * 56)
        if kind == PT_LOAD:
            if memory == 0 and filled == 0:
                continue
            where = f"segment {number}"
            if filled > memory:
                raise LoadError(
                    path, f"{where}: {filled:#x} bytes of file for {memory:#x} of memory", ELIBBAD
                )
            if offset > size or offset + filled > size:
                raise LoadError(path, f"truncated: {where} lies past the file's end", ELIBBAD)
            if align & (align - 1):
                raise LoadError(path, f"{where}: alignment {align:#x} is no power of two", ELIBBAD)
            if (va - offset) % PAGE:
                raise LoadError(path, f"{where}: address and file offset disagree", ELIBBAD)
            if va >= limit or va + memory > limit:
                raise LoadError(path, f"{where}: outside the address space", ELIBBAD)
            if va < end:
                raise LoadError(path, f"{where}: overlaps or precedes the one before it", ELIBBAD)
            end = va + memory
            prot = flags >> 2 & 1 | flags & 2 | (flags & 1) << 2
            program.segments.append(Segment(va, memory, offset, filled, prot))
            program.alignment = max(program.alignment, align)
            if offset <= table_at and table_at + count * 56 <= offset + filled:
                program.headers = table_at - offset + va
        elif kind == PT_INTERP:
            if program.interpreter is not None:
                raise LoadError(path, "has two interpreters", ELIBBAD)
            program.interpreter = _read_interpreter(path, fd, offset, filled, size)
        elif kind == PT_GNU_STACK:
            program.executable_stack = bool(flags & PF_X)
    if not program.segments:
        raise LoadError(path, "has nothing to load (no PT_LOAD segment)", ELIBBAD)
    if program.alignment > limit // 4:
        raise LoadError(path, f"asks for an alignment of {program.alignment:#x}", ELIBBAD)
    program.low = program.segments[0].va & -PAGE
    program.high = -(-end // PAGE) * PAGE


def _read_interpreter(path: str, fd: int, offset: int, filled: int, size: int) -> bytes:
    if not 2 <= filled <= MAX_INTERPRETER or offset > size or offset + filled > size:
        raise LoadError(path, "the interpreter's name is damaged", ELIBBAD)
    name = os.pread(fd, filled, offset)
    if len(name) != filled or name[-1] or not name[0]:
        raise LoadError(path, "the interpreter's name is damaged", ELIBBAD)
    return name[: name.index(0)]


def _check_entry(program: Program) -> None:
    entry = program.entry
    for segment in program.segments:
        if segment.va <= entry < segment.va + segment.size and segment.prot & 4:
            if entry & 1:
                break
            return
    raise LoadError(program.path, f"the entry point {entry:#x} is not in executable code", ENOEXEC)
