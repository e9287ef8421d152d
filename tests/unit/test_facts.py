"""What a region's text leaves out, because it is known where a block begins."""

from __future__ import annotations

import re

import pytest

from hartwood.isa.insn import Decoded
from hartwood.isa.riscv import RISCV
from hartwood.jit.facts import Facts, Outline
from hartwood.jit.flow import Explorer, Region
from hartwood.jit.lift import region_text, transfer_target

AT = 0x10000


def region(text: str) -> Region:
    code = RISCV.assemble(text, AT)

    def fetch(pc: int) -> int | None:
        part = code[pc - AT : pc - AT + 4] if pc >= AT else b""
        return int.from_bytes(part, "little") if len(part) > 1 else None

    def target(decoded: Decoded, pc: int) -> int | None:
        return transfer_target(RISCV, decoded, pc)

    return Explorer(RISCV, fetch, target, 100).region(AT)


def block(text: str, at: int, level: int = 2) -> str:
    """The lifted text of the block at `at`: to the next block of the guest's."""
    lifted = region_text(RISCV, region(text), eager=level < 2)
    found = re.search(
        rf"^b{at:x}:\n(.*?)(?=^(?:b|e)[0-9a-f]{{5,}}:|^back|^way|^exit|^leave)", lifted, re.M | re.S
    )
    assert found is not None, lifted
    return found[1]


def compares(text: str, at: int = AT, level: int = 2) -> int:
    return block(text, at, level).count(", %limit")


WALK = "loop: ld a5, 0(a0)\naddi a0, a0, {}\nbne a0, a1, loop\nret"


@pytest.mark.parametrize("step", [8, -8, 504, 2032, -2048])
def test_a_pointer_that_walks_is_compared_on_the_way_into_the_loop(step: int) -> None:
    text = WALK.format(step)
    assert compares(text) == 0
    assert compares(text, level=1) == 1
    assert re.search(rf"^e{AT:x}:\n(?: .*\n)* .*icmp ult i64 %v\d+, %limit", lifted(text), re.M)


def lifted(text: str) -> str:
    return region_text(RISCV, region(text))


@pytest.mark.parametrize(
    "change",
    [
        "add a0, a0, a2",
        "lui a2, 8\nadd a0, a0, a2",  # further than is followed
        "mv a0, a5",
        "slli a0, a0, 1",
        "jal ra, 0x20000",
    ],
)
def test_a_pointer_that_goes_anywhere_is_compared_each_time(change: str) -> None:
    assert compares(f"loop: ld a5, 0(a0)\n{change}\nbne a0, a1, loop\nret") == 1


def test_a_pointer_that_walks_off_without_being_used_is_compared() -> None:
    text = "ld a5, 0(a0)\nloop: addi a0, a0, 8\nbne a0, a1, loop\nld a5, 0(a0)\nret"
    assert compares(text, AT + 12) == 1


def test_what_one_branch_does_not_know_is_compared_after_both() -> None:
    text = "ld a5, 0(a0)\nbeqz a5, next\n{}\nnext: ld a5, 8(a0)\nret"
    assert compares(text.format("addi a1, a1, 8"), AT + 12) == 0
    assert compares(text.format("mv a0, a1"), AT + 12) == 1


def test_an_address_that_is_a_number_is_not_compared() -> None:
    assert compares("lui a0, 0x20\nld a5, 8(a0)\nret") == 0
    assert compares("li a0, -8\nld a5, 0(a0)\nret") == 1


SUM = "loop: fld fa5, 0(a0)\n{}\naddi a0, a0, 8\nbne a0, a1, loop\nret"


def test_a_sum_stays_raw_round_the_loop() -> None:
    assert "uno" not in block(SUM.format("fadd.d fa4, fa4, fa5"), AT)
    assert "uno" in block(SUM.format("fadd.d fa4, fa4, fa5"), AT, level=1)


@pytest.mark.parametrize("use", ["fsd fa4, 0(a1)", "fmv.x.d a5, fa4", "fmv.d fa3, fa4"])
def test_a_result_whose_bits_are_seen_is_made_canonical(use: str) -> None:
    assert "uno" in block(SUM.format(f"fadd.d fa4, fa4, fa5\n{use}"), AT)


def test_what_may_be_loaded_is_never_taken_for_a_result() -> None:
    text = SUM.format("beqz a5, next\nfadd.d fa4, fa4, fa5\nnext: fadd.d fa3, fa4, fa5")
    facts = Facts(RISCV, region(text), outlines(region(text)))
    assert not any(14 in facts.raw(start) for start in region(text).blocks if start != AT)


def outlines(found: Region) -> dict[int, Outline]:
    """The second block of three may write f14, and nothing else does anything."""
    return {
        start: Outline(floats={14: 1} if n == 1 else {}) for n, start in enumerate(found.blocks)
    }


MODE = "loop: fadd.d fa4, fa4, fa5\n{}\naddi a0, a0, 8\nbne a0, a1, loop\nret"


@pytest.mark.parametrize(
    ("change", "looked_at"),
    [("nop", 0), ("fsflags x0", 0), ("fsrm a2", 1), ("fscsr a2", 1)],
)
def test_the_rounding_mode_is_looked_at_where_it_may_have_changed(
    change: str, looked_at: int
) -> None:
    assert block(MODE.format(change), AT).count("label %fine") == looked_at


def test_the_rounding_mode_is_looked_at_after_a_call() -> None:
    text = "loop: fadd.d fa4, fa4, fa5\njal ra, 0x20000\nfadd.d fa4, fa4, fa5\nbnez a0, loop\nret"
    assert "label %fine" not in block(text, AT)
    assert "label %fine" in block(text, AT + 8)
