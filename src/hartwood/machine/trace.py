"""`--trace`: what each instruction is and what it changed, one line each."""

from __future__ import annotations

import sys

from hartwood.isa.riscv import RISCV
from hartwood.jit import abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.machine.hart import Hart


#: Instructions between two looks at signals: Python prints perhaps that many in a second.
_BATCH = 5_000


class Tracer:
    """Steps one hart and prints to standard error: pc, instruction, registers that changed."""

    def __init__(self, hart: Hart) -> None:
        self._hart = hart

    def run(self, budget: int) -> int:
        """Execute at most `budget` instructions; gives the reason to stop (see `abi`)."""
        hart, engine = self._hart, self._hart.machine.engine
        state = hart.state
        state.budget = budget
        left = min(budget, _BATCH)
        skipped = budget - left
        while left > 0:
            pc = hart.pc
            before = hart.x.tolist(), hart.f.tolist()
            text = self._text(pc)
            state.budget = 1
            reference = hart.machine.mode == "reference"
            reason = hart.reference().step() if reference else engine.step(state)
            if reason == abi.REFERENCE:
                reason = hart.reference().step()
            if reason not in (abi.SLICE, abi.NONE):
                print(f"{pc:10x}  {text}  ({abi.REASONS[reason]})", file=sys.stderr)
                state.budget = left + skipped
                return reason
            left -= 1
            print(f"{pc:10x}  {text}{self._changes(*before)}", file=sys.stderr)
        state.budget = skipped
        return abi.SLICE

    def _text(self, pc: int) -> str:
        code = self._hart.machine.space.read_some(pc, 4) if pc < abi.LIMIT else b""
        word = int.from_bytes(code, "little")
        size = 4 if word & 3 == 3 else 2
        return RISCV.disassemble(code[:size], pc) if len(code) >= size else "(unmapped)"

    def _changes(self, x: list[int], f: list[int]) -> str:
        now_x, now_f = self._hart.x, self._hart.f
        changed = [f"x{i}={now_x[i]:#x}" for i in range(1, 32) if now_x[i] != x[i]]
        changed += [f"f{i}={now_f[i]:#x}" for i in range(32) if now_f[i] != f[i]]
        return "  # " + " ".join(changed) if changed else ""
