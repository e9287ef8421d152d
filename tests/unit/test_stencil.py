"""Stencils: golden text of some, word for word, and what every one of them has to be.

`make bless` writes the golden text anew; the difference is reviewed. Compiled, a stencil must be
straight: it leaves through its holes and nowhere else.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

import pytest

from hartwood.isa.riscv import RISCV
from hartwood.jit.compile import compile_object, module_text
from hartwood.jit.interp import numbering
from hartwood.jit.stencil import cut, stencil_text
from hartwood.jit.stitch import INDIRECT, JOINTS, PLAIN, SHARED, Stencil

FOLDER = Path(__file__).parent.parent / "stencils"
#: Why each is here.
GOLDEN = {
    "add": "two registers to a third",
    "addi": "an immediate",
    "lui": "nothing but an immediate",
    "auipc": "the address of the instruction",
    "lb": "a load, sign-extended by the host's own instruction",
    "sd": "a store",
    "fld": "a load straight into a register for floating point",
    "beq": "a branch charges, compares, and goes on or away",
    "jal": "a jump that links",
    "jalr": "a jump to an address that is known only when running",
    "divu": "a division that must not trap",
    "fadd.d": "floating point under the dynamic rounding mode",
    "feq.d": "a comparison",
    "fence": "an order of accesses",
}


@lru_cache
def texts() -> dict[str, str]:
    """The text of every stencil, by the name of its instruction (the first variant) or its own."""
    functions, found = stencil_text(RISCV)
    symbols: dict[str, str] = {}
    for (name, _), number in numbering(RISCV).items():
        if number in found:
            symbols.setdefault(found[number][0], name)
    named: dict[str, str] = {}
    for function in functions:
        match = re.search(r"^define .* @(\w+)\(", function)
        if match:
            named.setdefault(symbols.get(match[1], match[1]), function)
    return named


@lru_cache
def compiled() -> tuple[dict[str, Stencil], bytes]:
    """What the worker cuts them to."""
    return cut(compile_object(module_text(stencil_text(RISCV)[0]), 1, "static"))


@pytest.mark.parametrize("name", [*GOLDEN, *JOINTS, *SHARED])
def test_stencils_are_as_blessed(name: str) -> None:
    # The handler number in the symbol says nothing, and changes with every new instruction.
    text = re.sub(r"@i_\d+\(", "@i(", texts()[name])
    head = f"; {name}: {GOLDEN.get(name, 'joins units')}\n\n"
    path = FOLDER / f"{name}.blk"
    if os.environ.get("HARTWOOD_BLESS"):
        path.write_text(f"{head}{text}\n")
        return
    assert path.read_text() == f"{head}{text}\n", f"{path.name}: `make bless` if this was meant"


def test_golden_folder_holds_nothing_else() -> None:
    names = {path.stem for path in FOLDER.iterdir()}
    assert names == {*GOLDEN, *JOINTS, *SHARED}


def test_text_is_the_same_each_time() -> None:
    assert stencil_text(RISCV) == stencil_text(RISCV)


def test_no_stencil_is_large() -> None:
    """They are copied for every instruction that is stitched. The largest are conversions and
    fused multiply-adds, which look after NaNs and flags."""
    stencils, _ = compiled()
    sizes = sorted(len(code) for code, _, _ in stencils.values())
    assert sizes[len(sizes) // 2] <= 80
    assert sizes[-1] < 1024


def test_what_goes_on_has_no_jump_at_its_end() -> None:
    stencils, _ = compiled()
    _, found = stencil_text(RISCV)
    integer = [
        found[number][0]
        for (name, _), number in numbering(RISCV).items()
        if number in found and found[number][1] == PLAIN and name in ("add", "ld", "sw", "mul")
    ]
    assert len(integer) == 4
    for symbol in integer:
        assert "next" not in [hole[2] for hole in stencils[symbol][1]]


def test_constants_are_shared() -> None:
    """The canonical NaNs and the masks of signs: once each."""
    _, pool = compiled()
    assert len(pool) % 16 == 0
    slots = [pool[at : at + 16] for at in range(0, len(pool), 16)]
    assert len(set(slots)) == len(slots)
    assert len(pool) < 1024


def test_memory_stencils_fault_in_one_place_and_leave_for_others() -> None:
    stencils, _ = compiled()
    _, found = stencil_text(RISCV)
    for (name, _), number in numbering(RISCV).items():
        if number not in found:
            continue
        symbol, kind, _ = found[number]
        _, holes, faults = stencils[symbol]
        p = RISCV.properties(RISCV[name], next(iter(RISCV[name].cases())))
        leaves = "leave" in [hole[2] for hole in holes]
        if p.loads or p.stores:
            assert len(faults) == 1, name
            assert leaves, name
        else:
            # A jump looks its target's record up, which may not be there.
            assert len(faults) == (1 if kind == INDIRECT else 0), name


def test_every_instruction_without_a_stencil_has_a_reason() -> None:
    """What the interpreter keeps: traps, control registers, atomics, rare rounding modes."""
    _, found = stencil_text(RISCV)
    for (name, variant), number in numbering(RISCV).items():
        if number in found:
            continue
        insn = RISCV[name]
        case = dict(zip(insn.variants, variant, strict=True))
        p = RISCV.properties(insn, case)
        kept = p.csr or p.counters or p.atomics or p.fence_i or p.control == "trap"
        assert kept or (p.rounding and case.get("rm") is not None), (name, variant)
