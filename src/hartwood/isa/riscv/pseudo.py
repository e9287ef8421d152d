"""The manual's pseudo-instructions (Unpriv. 27), as text over its instructions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hartwood.errors import AssemblyError

_TEXTS = """
nop -> addi zero, zero, 0
c.nop -> c.addi zero, 0
mv A B -> addi A, B, 0
not A B -> xori A, B, -1
neg A B -> sub A, zero, B
negw A B -> subw A, zero, B
sext.w A B -> addiw A, B, 0
zext.b A B -> andi A, B, 255
zext.w A B -> add.uw A, B, zero
seqz A B -> sltiu A, B, 1
snez A B -> sltu A, zero, B
sltz A B -> slt A, B, zero
sgtz A B -> slt A, zero, B
beqz A B -> beq A, zero, B
bnez A B -> bne A, zero, B
blez A B -> bge zero, A, B
bgez A B -> bge A, zero, B
bltz A B -> blt A, zero, B
bgtz A B -> blt zero, A, B
bgt A B C -> blt B, A, C
ble A B C -> bge B, A, C
bgtu A B C -> bltu B, A, C
bleu A B C -> bgeu B, A, C
j A -> jal zero, A
jal A -> jal ra, A
jr A -> jalr zero, 0(A)
jalr A -> jalr ra, 0(A)
ret -> jalr zero, 0(ra)
fence -> fence iorw, iorw
fmv.s A B -> fsgnj.s A, B, B
fabs.s A B -> fsgnjx.s A, B, B
fneg.s A B -> fsgnjn.s A, B, B
fmv.d A B -> fsgnj.d A, B, B
fabs.d A B -> fsgnjx.d A, B, B
fneg.d A B -> fsgnjn.d A, B, B
fgt.s A B C -> flt.s A, C, B
fge.s A B C -> fle.s A, C, B
fgt.d A B C -> flt.d A, C, B
fge.d A B C -> fle.d A, C, B
csrr A B -> csrrs A, B, zero
csrw A B -> csrrw zero, A, B
csrs A B -> csrrs zero, A, B
csrc A B -> csrrc zero, A, B
csrwi A B -> csrrwi zero, A, B
csrsi A B -> csrrsi zero, A, B
csrci A B -> csrrci zero, A, B
frcsr A -> csrrs A, fcsr, zero
fscsr A -> csrrw zero, fcsr, A
frrm A -> csrrs A, frm, zero
fsrm A -> csrrw zero, frm, A
frflags A -> csrrs A, fflags, zero
fsflags A -> csrrw zero, fflags, A
rdcycle A -> csrrs A, cycle, zero
rdtime A -> csrrs A, time, zero
rdinstret A -> csrrs A, instret, zero
"""


def _replace(operands: str, text: str) -> Callable[[Sequence[str]], Sequence[str]]:
    """A pseudo-instruction that is one line with its operands put in. Given another number of
    operands it gives no lines: `jal` and `jalr` are pseudo-instructions with one operand only."""
    wanted = operands.split()

    def expand(given: Sequence[str]) -> Sequence[str]:
        if len(given) != len(wanted):
            return []
        known = dict(zip(wanted, given, strict=True))
        return [re.sub(r"\b[ABC]\b", lambda found: known[found[0]], text)]

    return expand


def load_immediate(given: Sequence[str]) -> Sequence[str]:
    """`li rd, number`: the shortest of addi, lui and addiw, or those with shifts for 64 bits."""
    if len(given) != 2:
        return []
    try:
        rd, value = given[0], int(given[1], 0)
    except ValueError:
        raise AssemblyError(f"li needs a number, not '{given[1]}'") from None
    return _load(rd, ((value & (1 << 64) - 1) ^ 1 << 63) - (1 << 63))


def _load(rd: str, value: int) -> list[str]:
    low = ((value & 0xFFF) ^ 0x800) - 0x800
    if value == low:
        return [f"addi {rd}, zero, {value}"]
    if value in range(-(1 << 31), 1 << 31):
        # The sum wraps to 32 bits in addiw, so 0x7fffffff is lui 0x80000 and addiw -1.
        upper = [f"lui {rd}, {value - low >> 12 & 0xFFFFF:#x}"]
        return upper + ([f"addiw {rd}, {rd}, {low}"] if low else [])
    rest, shift = value - low >> 12, 12
    while not rest & 1:
        rest, shift = rest >> 1, shift + 1
    rest = ((rest & (1 << 64) - 1) ^ 1 << 63) - (1 << 63)
    lines = [*_load(rd, rest), f"slli {rd}, {rd}, {shift}"]
    return lines + ([f"addi {rd}, {rd}, {low}"] if low else [])


def _table() -> dict[str, Callable[[Sequence[str]], Sequence[str]]]:
    found: dict[str, Callable[[Sequence[str]], Sequence[str]]] = {"li": load_immediate}
    for line in _TEXTS.strip().splitlines():
        left, text = line.split(" -> ")
        name, _, operands = left.partition(" ")
        found[name] = _replace(operands, text)
    return found


#: Pseudo-instructions by mnemonic.
PSEUDO = _table()
