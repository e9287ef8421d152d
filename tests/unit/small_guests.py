"""Guests of a few instructions, for boards: raw kernels that talk to the firmware."""

from __future__ import annotations

from pathlib import Path

from hartwood.machine.sysreference import SYSTEM

#: Where a raw kernel is put, and where the second part of one begins.
ENTRY, SECOND = 0x8020_0000, 0x8020_0200
HSM, RESET, IPI, CONSOLE = 0x48534D, 0x53525354, 0x735049, 0x4442434E


def call(extension: int, function: int, *arguments: int) -> str:
    """A call of the firmware."""
    words = [f"li a{number}, {value}" for number, value in enumerate(arguments)]
    return "\n".join([*words, f"li a7, {extension}", f"li a6, {function}", "ecall", ""])


def put(text: str) -> str:
    """Say something on the serial port."""
    lines = ["li t6, 0x10000000"]
    for byte in text.encode():
        lines += [f"li t5, {byte}", "sb t5, 0(t6)"]
    return "\n".join([*lines, ""])


POWEROFF = call(RESET, 0, 0, 0)
REBOOT = call(RESET, 0, 1, 0)
FOREVER = "forever: j forever\n"


def digit(register: str) -> str:
    """Say the number in a register, one letter from 'a' on; -1 is a backquote."""
    return f"li t6, 0x10000000\naddi t5, {register}, 97\nsb t5, 0(t6)\n"


def kernel(folder: Path, first: str, second: str = "nop") -> Path:
    """A raw kernel; `second` is code at `SECOND`."""
    code = SYSTEM.assemble(first, ENTRY)
    assert len(code) <= SECOND - ENTRY
    path = folder / "guest.bin"
    path.write_bytes(code.ljust(SECOND - ENTRY, b"\0") + SYSTEM.assemble(second, SECOND))
    return path
