"""The extensions that a hart of a whole machine has, by their names, as a device tree lists them.

Derived from `SYSTEM`: what is defined there is listed, and nothing else.
"""

from __future__ import annotations

from hartwood.isa.riscv import csr_machine, csr_supervisor, sv
from hartwood.isa.riscv.system import ADUE, PBMTE, SYSTEM

#: Single letters in the order that the manual gives them (Unpriv. 33.4, table of naming).
_LETTERS = "iemafdqlcbkjtpvh"

# What has no group of its own in the instruction set shows by an instruction, a register, a bit.
_SHOWN = {
    "zicbom": "cbo.flush" in SYSTEM,
    "zicboz": "cbo.zero" in SYSTEM,
    "zicntr": {0xC00, 0xC01, 0xC02} <= SYSTEM.csrs.keys(),
    "zihpm": 0xC1F in SYSTEM.csrs,
    "sstc": csr_supervisor.stimecmp.number in SYSTEM.csrs,
    "svadu": bool(csr_machine.MENVCFG & ADUE),
    "svinval": "sinval.vma" in SYSTEM,
    "svnapot": bool(sv.N),
    "svpbmt": bool(csr_machine.MENVCFG & PBMTE),
}
BASE = "rv64i"


def _order(name: str) -> tuple[int, int, str]:
    """Letters first, then Z by the letter that follows it, then S (Unpriv. 33)."""
    if len(name) == 1:
        return 0, _LETTERS.index(name), name
    return (1, _LETTERS.index(name[1]), name) if name[0] == "z" else (2, 0, name)


def extensions() -> tuple[str, ...]:
    """Names in canonical order; one that a user registered is not among them."""
    known = {name for name in SYSTEM.extensions if name not in ("privileged", "custom")}
    return tuple(sorted(known | {name for name, shown in _SHOWN.items() if shown}, key=_order))


def isa_string() -> str:
    """The same as one word: "rv64imafdc_zicbom_..."."""
    names = extensions()
    letters = "".join(name for name in names if len(name) == 1)
    return "_".join((f"rv64{letters}", *(name for name in names if len(name) > 1)))
