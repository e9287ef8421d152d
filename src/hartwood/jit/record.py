"""Where the operand fields of an instruction live in its 16-byte pre-decoded record.

handler pointer 0..7 | immediate word 8..11 | three register bytes 12..14 | length 15. A field
that indexes registers gets a byte; the others share the immediate word, alone and sign-extended
where there is one, packed side by side where there are several.
"""

from __future__ import annotations

from dataclasses import dataclass

from hartwood.errors import Error
from hartwood.isa.insn import Insn
from hartwood.isa.insnset import InsnSet

IMMEDIATE = 8
REGISTERS = 12
LENGTH = 15


class RecordError(Error):
    """An instruction has more operands than a record holds."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A byte of the record (`byte`), or bits `lo..lo+width` of its immediate word."""

    byte: int | None
    lo: int = 0
    width: int = 0
    signed: bool = False
    #: Writes to x0 go to a register slot of their own.
    sink: bool = False


def slots(insns: InsnSet, insn: Insn) -> dict[str, Slot]:
    """The record slot of every operand field that is not a variant.

    Raises `RecordError` naming the instruction where the fields do not fit.
    """
    p = insns.properties(insn, next(iter(insn.cases())))
    sinks = p.x_writes
    indexes = sinks | p.x_reads | p.f64_reads | p.f64_writes | p.f32_reads | p.f32_writes
    given: dict[str, Slot] = {}
    free = [REGISTERS, REGISTERS + 1, REGISTERS + 2]
    values = []
    for name in insn.fields:
        if name in insn.variants:
            continue
        if name in indexes and free:
            given[name] = Slot(free.pop(0), sink=name in sinks)
        else:
            values.append(name)
    if len(values) == 1:
        spec = insn.row.fields[values[0]]
        given[values[0]] = Slot(None, 0, 32, spec.signed, values[0] in sinks)
        return given
    lo = 0
    for name in values:
        spec = insn.row.fields[name]
        width = max(spec.width, 6 if name in sinks else 0)
        given[name] = Slot(None, lo, width, spec.signed, name in sinks)
        lo += width
    if lo > 32:
        raise RecordError(f"{insn.name}: its operands need {lo} bits, a record has 32")
    return given
