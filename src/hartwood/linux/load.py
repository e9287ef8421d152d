"""Mapping a checked program and its dynamic linker into the guest's address space.

Follows Linux's fs/binfmt_elf.c without randomisation: the same program lands at the same place
in every run, so that its translated code can be reused.
"""

from __future__ import annotations

import os
from errno import ELIBBAD, ENOENT, ENOMEM

from hartwood.errors import LoadError, MappingError, MemoryFault
from hartwood.linux.elf import PAGE, Program, read_program
from hartwood.mem.hostmem import MAP_ANONYMOUS, MAP_PRIVATE
from hartwood.mem.regions import WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hartwood.mem.flat import FlatSpace

#: Where position-independent programs go: two thirds of the address space (arch/riscv elf.h).
DYNAMIC_BASE = (1 << 38) // 3 * 2 & -PAGE


class Loaded:
    """Where a program came to be: what the auxiliary vector and brk need.

    `start` is the first pc (the dynamic linker's where there is one), `entry` the program's own,
    `headers` its program headers, `link_base` the dynamic linker's load address or 0, `brk` the
    first free page after the program.
    """

    __slots__ = ("brk", "entry", "header_count", "headers", "link_base", "program", "start")

    def __init__(self, program: Program, bias: int) -> None:
        self.program = program
        self.entry = self.start = program.entry + bias
        self.headers = program.headers + bias if program.headers else 0
        self.header_count = program.header_count
        self.link_base = 0
        self.brk = program.high + bias


class Link:
    """A checked dynamic linker: `program`, open at `fd`, a descriptor of ours."""

    __slots__ = ("fd", "program")

    def __init__(self, fd: int, program: Program) -> None:
        self.fd = fd
        self.program = program


def open_link(
    program: Program, open_interpreter: Callable[[bytes], int], limit: int
) -> Link | None:
    """Open and check what PT_INTERP names, if the program has one.

    `open_interpreter` turns its path into a host descriptor or raises `OSError`. Raises
    `LoadError` naming the file at fault.
    """
    if program.interpreter is None:
        return None
    name = os.fsdecode(program.interpreter)
    try:
        fd = open_interpreter(program.interpreter)
    except OSError as error:
        reason = f"its interpreter {name} cannot be opened ({error.strerror})"
        if error.errno == ENOENT:
            reason += "; a system root with it can be given with --root"
        raise LoadError(program.path, reason, error.errno or ENOENT) from None
    try:
        return Link(fd, read_program(fd, name, limit))
    except LoadError as error:
        os.close(fd)
        raise LoadError(error.path, error.reason, ELIBBAD) from None


def load(space: FlatSpace, fd: int, program: Program, link: Link | None) -> Loaded:
    """Map `program` (open at `fd`) and its dynamic linker; the caller closes the descriptors.

    Raises `LoadError` where the address space has no room for them.
    """
    try:
        loaded = _place(space, fd, program)
        if link is not None:
            linker = link.program
            bias = 0
            if linker.position_independent:
                at = space.find_free(linker.high - linker.low + linker.alignment)
                bias = _aligned(at, linker) - linker.low
            _map_segments(space, link.fd, linker, bias)
            loaded.start = linker.entry + bias
            loaded.link_base = linker.low + bias
    except (MappingError, MemoryFault) as error:
        raise LoadError(program.path, str(error), ENOMEM) from None
    return loaded


def _aligned(at: int, program: Program) -> int:
    return -(-at // program.alignment) * program.alignment


def _place(space: FlatSpace, fd: int, program: Program) -> Loaded:
    bias = 0
    if program.position_independent:
        bias = _aligned(DYNAMIC_BASE, program) - program.low
        if program.high + bias > space.mmap_top:
            raise LoadError(program.path, "too large for the address space", ENOMEM)
    elif program.low < PAGE:
        raise LoadError(program.path, "wants to be loaded at address 0", ENOMEM)
    if program.high + bias > space.mmap_top:
        raise LoadError(program.path, "too large for the address space", ENOMEM)
    _map_segments(space, fd, program, bias)
    return Loaded(program, bias)


def _map_segments(space: FlatSpace, fd: int, program: Program, bias: int) -> None:
    status = os.fstat(fd)
    path = os.readlink(f"/proc/self/fd/{fd}")
    for segment in program.segments:
        va = segment.va + bias
        start = va & -PAGE
        file_end = va + segment.filled
        end = -(-(va + segment.size) // PAGE) * PAGE
        mapped = start
        if segment.filled:
            mapped = -(-file_end // PAGE) * PAGE
            tail = mapped - file_end if segment.size > segment.filled else 0
            space.map(
                start,
                mapped - start,
                segment.prot | (WRITE if tail else 0),
                flags=MAP_PRIVATE,
                fd=fd,
                offset=segment.offset - (va - start),
                path=path,
                device=status.st_dev,
                inode=status.st_ino,
            )
            if tail:
                # The rest of the last file page belongs to .bss and must read as zeros.
                space.write(file_end, bytes(tail))
                if not segment.prot & WRITE:
                    space.protect(start, mapped - start, segment.prot)
        if end > mapped:
            space.map(mapped, end - mapped, segment.prot, flags=MAP_PRIVATE | MAP_ANONYMOUS)
