"""The golden rows against the reference, the assembler and the disassembler."""

from __future__ import annotations

import pytest

from hartwood.bits.ints import IntHart, State, Trap, amo_result
from hartwood.isa.riscv import RISCV
from unit.golden import Golden, Snapshot, load, parse, value

ROWS = load()


class Sparse:
    """Only the bytes that a row names; any other access faults."""

    def __init__(self, memory: dict[int, bytes]) -> None:
        self.bytes = {at + n: byte for at, raw in memory.items() for n, byte in enumerate(raw)}

    def _check(self, address: int, size: int, cause: int) -> None:
        if any(address + n not in self.bytes for n in range(size)):
            raise Trap(cause, address)

    def load(self, address: int, size: int) -> int:
        self._check(address, size, 5)
        return sum(self.bytes[address + n] << 8 * n for n in range(size))

    def store(self, address: int, size: int, value: int) -> None:
        self._check(address, size, 7)
        for n in range(size):
            self.bytes[address + n] = value >> 8 * n & 0xFF

    def amo(self, op: str, address: int, size: int, value: int) -> int:
        self._check(address, size, 7)
        old = self.load(address, size)
        self.store(address, size, amo_result(op, old, value, size))
        return old

    def compare_exchange(self, address: int, size: int, expected: int, value: int) -> bool:
        if self.load(address, size) != expected:
            return False
        self.store(address, size, value)
        return True


def run(case: Golden) -> tuple[Snapshot, tuple[int, int] | None]:
    """Execute one case by the reference; the state after and the exception, if any."""
    before = case.before.copy()
    state = State(before.x, before.f, before.pc, before.fflags, before.frm)
    memory = Sparse(before.memory)
    hart = IntHart(state, memory, RISCV.csrs, {"cycle": 11, "time": 22, "instret": 33}.__getitem__)
    trap = None
    at = 0
    while at < len(case.code) and trap is None:
        decoded = RISCV.decode(int.from_bytes(case.code[at : at + 4], "little"))
        assert decoded is not None
        try:
            hart.step(decoded)
        except Trap as raised:
            trap = raised.cause, raised.tval
        at += decoded.length
    now = {
        place: bytes(memory.bytes[place + n] for n in range(len(raw)))
        for place, raw in before.memory.items()
    }
    return Snapshot(state.pc, before.x, before.f, state.fflags, state.frm, now), trap


@pytest.mark.parametrize("case", ROWS, ids=lambda case: f"{case.where}:{case.name}")
def test_reference_does_what_the_row_says(case: Golden) -> None:
    after, trap = run(case)
    assert trap == case.trap
    assert after == (case.after if case.trap is None else case.before)


def test_rows_are_assembled_and_printed_as_written() -> None:
    for case in ROWS:
        assert RISCV.assemble(case.asm, case.before.pc) == case.code, case.where
        again = RISCV.disassemble(case.code, case.before.pc)
        assert RISCV.assemble(again, case.before.pc) == case.code, case.where


def test_every_instruction_has_a_row() -> None:
    spelled = set()
    for case in ROWS:
        decoded = RISCV.decode(int.from_bytes(case.code[:4], "little"))
        assert decoded is not None
        spelled.add(decoded.spelling)
    missing = {encoding.name for encoding in RISCV.encodings()} - spelled
    assert not missing


def test_the_loader_reads_all_that_its_text_promises() -> None:
    text = """
addi x1, x2, 3 | 93 00 31 00    # a comment
    x2=-1 pc=0x40 mem[0x2000]=0x1234:2 fflags=3 f1=1.5 f2=1.5f => x1=2 fflags=1 mem[0x2000]=7:2
    x2=INT_MAX => trap 5 pc+4
"""
    first, second = parse(text, "here")
    assert first.where == "here:3"
    assert first.before.memory == {0x2000: b"\x34\x12"}
    assert first.after.memory == {0x2000: b"\x07\x00"}
    assert (first.before.pc, first.after.pc) == (0x40, 0x44)
    assert (first.before.x[2], first.after.x[1]) == ((1 << 64) - 1, 2)
    assert (first.before.f[1], first.before.f[2]) == (0x3FF8 << 48, 0xFFFFFFFF3FC00000)
    assert (first.before.fflags, first.after.fflags) == (3, 1)
    assert second.trap == (5, 0x10004)
    assert value("INT_MIN", 0) == 1 << 63
    with pytest.raises(ValueError, match="know no y1"):
        list(parse("x | 00\n    y1=0 => x1=0", "here"))
