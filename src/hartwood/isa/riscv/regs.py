"""Names and numbers of RISC-V: registers, exception causes, and the set itself."""

from __future__ import annotations

from hartwood.bits.words import ILLEGAL_INSTRUCTION
from hartwood.isa.insnset import InsnSet
from hartwood.isa.riscv.pseudo import PSEUDO
from hartwood.isa.syntax import Names

# Exception codes (Priv. table 14).
CAUSE_ILLEGAL_INSTRUCTION = ILLEGAL_INSTRUCTION
CAUSE_BREAKPOINT = 3
CAUSE_LOAD_MISALIGNED = 4
CAUSE_LOAD_ACCESS = 5
CAUSE_STORE_MISALIGNED = 6
CAUSE_STORE_ACCESS = 7
CAUSE_USER_ECALL = 8

INT_MIN = -(1 << 63)

# ABI names in order of the register numbers (Unpriv. table 43).
_X = """
zero ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7
s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6
"""
_F = """
ft0 ft1 ft2 ft3 ft4 ft5 ft6 ft7 fs0 fs1 fa0 fa1 fa2 fa3 fa4 fa5 fa6 fa7
fs2 fs3 fs4 fs5 fs6 fs7 fs8 fs9 fs10 fs11 ft8 ft9 ft10 ft11
"""
X_NAMES = tuple(_X.split())
F_NAMES = tuple(_F.split())

#: The RISC-V instructions that Hartwood knows.
RISCV = InsnSet("riscv64", Names({"x": X_NAMES, "f": F_NAMES}, {"x": {"fp": 8}}), PSEUDO)
