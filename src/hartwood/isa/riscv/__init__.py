"""RISC-V: one module for each chapter of the manual; importing this room registers them all."""

from __future__ import annotations

from hartwood.isa.riscv import (
    a,
    c,
    d,
    f,
    i,
    m,
    zba,
    zbb,
    zbs,
    zcb,
    zicond,
    zicsr,
    zifencei,
)
from hartwood.isa.riscv.regs import RISCV

__all__ = ["RISCV", "a", "c", "d", "f", "i", "m"]
__all__ += ["zba", "zbb", "zbs", "zcb", "zicond", "zicsr", "zifencei"]
