"""The smallest executables: one segment of code, made without a toolchain."""

from __future__ import annotations

import struct


def executable(code: bytes, at: int) -> bytes:
    """A static riscv64 ELF whose one segment holds `code` at the page-aligned address `at`."""
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 243, 1, at, 64, 0, 5, 64, 56, 1, 64, 0, 0)
    offset = 4096
    segment = struct.pack("<IIQQQQQQ", 1, 5, offset, at, at, len(code), len(code), 4096)
    return (ident + header + segment).ljust(offset, b"\0") + code
