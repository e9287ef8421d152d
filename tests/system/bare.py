"""Bare-metal programs for QEMU's `virt` machine and ours: what they print is what is compared.

A program is assembly around a list of cases. A trap of any case is recorded by one handler in
M-mode, which goes on at the address in s11; whatever a case puts into `a0` is recorded after it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from hartwood.isa.riscv.system import SYSTEM
from hartwood.machine.bare import Machine

RAM, SIZE, UART, FINISHER = 0x8000_0000, 8 << 20, 0x1000_0000, 0x10_0000
LOG, TABLES = RAM + 0x10_0000, RAM + 0x20_0000
#: What marks a trap in the log.
TAG = 0x123_4000
CPU = "rv64,h=false,sstc=true,svpbmt=true,svnapot=true,svinval=true"

_START = """
start:
    auipc s10, 0x100        # LOG
    auipc t0, 0
    addi t0, t0, %offset
    csrrw zero, mtvec, t0
    csrrw zero, mie, zero
"""
# Every record: a tag, then four words.
_HANDLER = """
handler:
    csrrw t6, mscratch, t6
    lui t6, 0x1234
    sd t6, 0(s10)
    csrrs t6, mcause, zero
    sd t6, 8(s10)
    csrrs t6, mtval, zero
    sd t6, 16(s10)
    csrrs t6, mepc, zero
    sd t6, 24(s10)
    csrrs t6, mstatus, zero
    sd t6, 32(s10)
    addi s10, s10, 40
    csrrw zero, mepc, s11
    lui t6, 0x22            # MPP = M, MPRV off, as far as that goes
    addiw t6, t6, -2048
    csrrs zero, mstatus, t6
    lui t6, 0x20
    csrrc zero, mstatus, t6
    csrrw t6, mscratch, t6
    mret
"""
_END = """
    auipc s9, 0
    srli s9, s9, 20
    slli s9, s9, 20
    lui t1, 0x100
    add s9, s9, t1          # LOG
    lui t0, 0x10000
print:
    bgeu s9, s10, done
    lbu t1, 0(s9)
    sb t1, 0(t0)
    addi s9, s9, 1
    j print
done:
    lui t0, 0x100
    lui t1, 5
    addi t1, t1, 0x555
    sw t1, 0(t0)
    j done
"""


def number(register: str, value: int) -> str:
    """Assembly that loads any 64-bit number, eleven bits at a time."""
    value &= (1 << 64) - 1
    lines = [f"addi {register}, zero, {value >> 55}"]
    for shift in (44, 33, 22, 11, 0):
        part = value >> shift & 0x7FF
        lines += [
            f"slli {register}, {register}, 11",
            f"xori {register}, {register}, {part & 0x3FF}",
        ]
        if part & 0x400:  # the immediate is signed, so its top bit goes apart
            lines += ["addi t6, zero, 1", "slli t6, t6, 10", f"xor {register}, {register}, t6"]
    return "\n".join(lines)


def program(cases: Iterable[str]) -> bytes:
    """Machine code of a program of these cases, to run at `RAM`."""
    body = []
    for case in cases:
        # s11 is where the case ends; 'auipc' is patched by the sizes that the assembler finds.
        size = len(SYSTEM.assemble(case)) + 8
        assert size < 2048, case
        body.append(f"auipc s11, 0\naddi s11, s11, {size}\n{case}\nsd a0, 0(s10)\naddi s10, s10, 8")
    start = _START.replace("%offset", "20")
    start += f"j begin\n{_HANDLER}\nbegin:\n"
    # mtvec points just after the jump.
    return SYSTEM.assemble(start + "\n".join(body) + _END, RAM)


def image(code: bytes, tables: bytes = b"") -> bytes:
    """What is loaded at `RAM`: the program, and page tables at `TABLES`."""
    assert len(code) < LOG - RAM
    return code + bytes(TABLES - RAM - len(code)) + tables if tables else code


def run_qemu(qemu: str, folder: Path, data: bytes) -> bytes:
    """What a program prints under QEMU."""
    path, out = folder / "program.bin", folder / "serial"
    path.write_bytes(data)
    words = [qemu, "-M", "virt", "-cpu", CPU, "-m", "64M", "-display", "none", "-monitor", "none"]
    words += ["-bios", str(path), "-serial", f"file:{out}"]
    subprocess.run(words, check=True, timeout=20, stdin=subprocess.DEVNULL)
    return out.read_bytes()


class Board:
    """The two devices that a program uses."""

    def __init__(self, mode: str = "interp") -> None:
        self.out = bytearray()
        self.machine = machine = Machine("riscv64", mode=mode, deterministic=True)
        machine.mem.map(RAM, SIZE)
        machine.mem.map_io(UART, 0x100, lambda at, width: 0x60 if at == 5 else 0, self._uart)
        machine.mem.map_io(FINISHER, 0x1000, lambda at, width: 0, self._finish)

    def _uart(self, at: int, width: int, value: int) -> None:
        self.out.append(value)

    def _finish(self, at: int, width: int, value: int) -> None:
        self.machine.request_stop()


def run_ours(data: bytes, mode: str = "interp", instructions: int = 3_000_000) -> bytes:
    """What the same program prints here."""
    board = Board(mode)
    board.machine.mem[RAM : RAM + len(data)] = data
    board.machine.pc = RAM
    stop = board.machine.run(instructions=instructions, seconds=100)
    board.machine.close()
    assert stop.reason == "stopped", stop
    return bytes(board.out)


def words(data: bytes) -> list[int]:
    """The log as 64-bit words."""
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


def records(data: bytes) -> list[list[int]]:
    """The log by case: the traps it took, four words each, and then what it left in a0."""
    found: list[list[int]] = [[]]
    log = words(data)
    while log:
        if log[0] == TAG and len(log) > 5:
            found[-1] += log[1:5]
            del log[:5]
        else:
            found[-1].append(log.pop(0))
            found.append([])
    return found[:-1]
