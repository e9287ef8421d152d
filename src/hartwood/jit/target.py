"""Where a direct jump or branch goes, found by running its definition."""

from __future__ import annotations

from hartwood.bits.ssa import Text, Val, constant
from hartwood.isa.insn import Decoded
from hartwood.isa.insnset import InsnSet
from hartwood.jit.words import NativeHart


class _Probe(NativeHart):
    """Finds where a direct transfer goes, by running it with everything else unknown."""

    def __init__(self, insns: InsnSet, step_pc: int, length: int) -> None:
        super().__init__(Text(), insns)
        self._at, self._length = step_pc, length
        self.target: int | None = None

    def read_x(self, index: Val | int) -> Val:
        return Val(self.text, 64, "undef")

    def write_x(self, index: Val | int, value: Val) -> None:
        """Nothing is remembered."""

    @property
    def pc(self) -> Val:
        """Address of the transfer."""
        return constant(self.text, self._at, 64)

    @property
    def next_pc(self) -> Val:
        """Address after it."""
        return constant(self.text, self._at + self._length, 64)

    def jump(self, target: Val | int) -> None:
        """Note the target."""
        self.target = target if isinstance(target, int) else target.const

    def branch(self, condition: Val, target: Val | int) -> None:
        """Note the target."""
        self.jump(target)


def transfer_target(insns: InsnSet, decoded: Decoded, pc: int) -> int | None:
    """Where a direct jump or branch at `pc` goes, or None."""
    probe = _Probe(insns, pc, decoded.length)
    decoded.insn.body(probe, **decoded.fields)
    return probe.target
