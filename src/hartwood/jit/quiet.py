"""Comparisons between `frflags` and `fsflags`: how compilers spell one that raises nothing.

C's `isless` and the test before a square root become `frflags a; flt; fsflags a` (Unpriv. 21.8).
Done literally that reads and writes the host's control word, and both wait for all arithmetic in
flight. Known for what it is, it is a quiet comparison: the flags change only where an operand is
a NaN, and are put back there.
"""

from __future__ import annotations

from hartwood.isa.insnset import InsnSet
from hartwood.jit.flow import Step

#: The CSR of the flags: writing it does not change the rounding mode.
FFLAGS = 0x001
_COMPARISONS = frozenset(
    f"{name}.{width}" for name in ("feq", "flt", "fle") for width in ("s", "d")
)


def _opens(step: Step) -> int | None:
    """The register that an `frflags` reads the flags into."""
    fields = step.decoded.fields
    is_read = step.decoded.insn.name == "csrrs" and fields["csr"] == FFLAGS
    return fields["rd"] or None if is_read and fields["rs1"] == 0 else None


def _closes(step: Step, register: int) -> bool:
    """Whether this is `fsflags` from `register`."""
    fields = step.decoded.fields
    is_write = step.decoded.insn.name == "csrrw" and fields["csr"] == FFLAGS
    return is_write and fields["rd"] == 0 and fields["rs1"] == register


def quiet_windows(insns: InsnSet, steps: list[Step]) -> dict[int, int]:
    """For each step, by its position in the block, that a window makes quiet: the register that
    holds the flags. It covers the comparisons and the `fsflags` that ends the window."""
    found: dict[int, int] = {}
    register, since = None, 0
    for at, step in enumerate(steps):
        if register is not None and _closes(step, register):
            inside = range(since + 1, at + 1)
            found |= dict.fromkeys(
                (i for i in inside if i == at or steps[i].decoded.insn.name in _COMPARISONS),
                register,
            )
            register = None
        opened = _opens(step)
        if opened is not None:
            register, since = opened, at
            continue
        name, fields = step.decoded.insn.name, step.decoded.fields
        properties = insns.properties(step.decoded.insn, step.decoded.insn.variant(fields))
        disturbs = properties.may_trap or properties.csr or properties.ends_block
        raises = name not in _COMPARISONS and (disturbs or properties.rounding)
        if raises or (register is not None and step.writes >> register & 1):
            register = None
    return found
