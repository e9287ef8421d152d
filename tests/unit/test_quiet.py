"""Comparisons between frflags and fsflags that raise nothing: which are known for what they are."""

from __future__ import annotations

import pytest

from hartwood.isa.riscv import RISCV
from hartwood.jit.flow import Explorer
from hartwood.jit.quiet import quiet_windows

T0, T1 = 5, 6


def windows(text: str) -> dict[int, int]:
    code = RISCV.assemble(text + "\nret")

    def fetch(pc: int) -> int | None:
        part = code[pc : pc + 4]
        return int.from_bytes(part, "little") if len(part) > 1 else None

    steps = Explorer(RISCV, fetch, lambda decoded, pc: None, 100).region(0).blocks[0].steps
    return quiet_windows(RISCV, steps)


@pytest.mark.parametrize("name", ["flt.d", "fle.d", "feq.d", "flt.s", "fle.s", "feq.s"])
def test_a_comparison_between_read_and_write_of_the_flags_is_quiet(name: str) -> None:
    assert windows(f"frflags t0\n{name} a0, fa0, fa1\nfsflags t0") == {1: T0, 2: T0}


def test_any_number_of_comparisons_and_harmless_instructions() -> None:
    text = """
        addi a2, a2, 1
        frflags t1
        flt.d a0, fa0, fa1
        and a0, a0, a1
        fmv.d fa2, fa3
        fle.d a1, fa1, fa2
        fsflags t1
        addi a2, a2, 1
    """
    assert windows(text) == {2: T1, 5: T1, 6: T1}


def test_an_empty_window_writes_back_what_it_read() -> None:
    assert windows("frflags t0\nfsflags t0") == {1: T0}


def test_two_windows_one_after_the_other() -> None:
    text = "\n".join(
        f"frflags {flags}\nflt.d a0, fa0, fa1\nfsflags {flags}" for flags in ("t0", "t1")
    )
    assert windows(text) == {1: T0, 2: T0, 4: T1, 5: T1}


def test_a_second_read_begins_the_window_anew() -> None:
    text = "frflags t0\nflt.d a0, fa0, fa1\nfrflags t1\nflt.d a0, fa0, fa1\nfsflags t1"
    assert windows(text) == {3: T1, 4: T1}


@pytest.mark.parametrize(
    "inside",
    [
        "fadd.d fa0, fa0, fa1",  # raises flags of its own
        "fdiv.s fa0, fa0, fa1",
        "fcvt.w.d a0, fa0",
        "ld a0, 0(a1)",  # may leave for the interpreter with the flags as they are
        "sd a0, 0(a1)",
        "amoadd.d a0, a1, (a2)",
        "rdcycle a0",
        "frcsr a0",
        "csrrwi a0, frm, 1",
        "li t0, 3",  # the flags to be put back are no longer the ones that were read
    ],
)
def test_what_disturbs_a_window_ends_it(inside: str) -> None:
    assert windows(f"frflags t0\nflt.d a0, fa0, fa1\n{inside}\nfsflags t0") == {}


@pytest.mark.parametrize(
    "text",
    [
        "flt.d a0, fa0, fa1\nfsflags t0",  # never read
        "frflags t0\nflt.d a0, fa0, fa1",  # never written back
        "frflags t0\nflt.d a0, fa0, fa1\nfsflags t1",  # another register
        "frflags t0\nflt.d a0, fa0, fa1\ncsrrw a0, fflags, t0",  # somebody wants the new flags
        "frflags t0\nflt.d a0, fa0, fa1\nfscsr t0",  # the rounding mode too
        "frcsr t0\nflt.d a0, fa0, fa1\nfsflags t0",  # flags and rounding mode were read
        "csrrw t0, fflags, t1\nflt.d a0, fa0, fa1\nfsflags t0",  # flags were changed first
        "frflags zero\nflt.d a0, fa0, fa1\nfsflags zero",  # kept nowhere
    ],
)
def test_what_is_no_window(text: str) -> None:
    assert windows(text) == {}


def test_flags_put_back_once_are_not_put_back_twice() -> None:
    text = "frflags t0\nflt.d a0, fa0, fa1\nfsflags t0\nflt.d a1, fa0, fa1\nfsflags t0"
    assert windows(text) == {1: T0, 2: T0}


def test_a_comparison_may_not_overwrite_the_flags() -> None:
    """`flt t0` inside a window on t0: what is written back is the comparison's result."""
    assert windows("frflags t0\nflt.d t0, fa0, fa1\nfsflags t0") == {}


def test_minimum_and_maximum_are_no_comparisons_here() -> None:
    """They are quiet but for signalling NaNs, whose flag the window takes back as well: not done,
    so they end it."""
    assert windows("frflags t0\nfmin.d fa0, fa0, fa1\nfsflags t0") == {}
