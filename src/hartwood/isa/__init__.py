"""What instructions are: encoding rows, definitions over words, assembly syntax.

`hartwood.isa.riscv.RISCV` is the set of RISC-V instructions, an `InsnSet`.
"""

from __future__ import annotations

from hartwood.isa.insn import Csr, Decoded, Encoding, Insn
from hartwood.isa.insnset import InsnSet, nonzero, not_in
from hartwood.isa.rows import FieldSpec, Row, Slice

__all__ = [
    "Csr", "Decoded", "Encoding", "FieldSpec", "Insn", "InsnSet", "Row", "Slice",
    "nonzero", "not_in",
]  # fmt: skip
