"""Stitched code: what stencils are cut from objects, and how units behave at their edges."""

from __future__ import annotations

import marshal
import os
from collections.abc import Iterator

import pytest

from hartwood.isa.riscv import RISCV
from hartwood.jit import stitch
from hartwood.jit.host_x86 import falling_through
from hartwood.jit.image import Image
from hartwood.jit.interp import numbering
from hartwood.jit.stencil import stencil_image
from hartwood.jit.stitch import BRANCH, INDIRECT, JOINTS, JUMP, LIMIT, PLAIN, SHARED
from hartwood.machine.hart import Machine
from hartwood.mem.flat import FlatSpace

CODE, DATA, PAGE = 0x1_0000, 0x8_0000, 4096
READ_WRITE, READ_EXEC, ALL = 3, 5, 7
T0, S0, A0, A1, A2 = 5, 8, 10, 11, 12


@pytest.fixture(scope="module")
def bank() -> Image:
    return stencil_image(RISCV)


# Cutting.
def test_a_last_jump_to_what_comes_next_is_left_out() -> None:
    code = b"\x90\x90\xe9\0\0\0\0"
    assert falling_through(code, [(3, -4, "next", -4)]) == (b"\x90\x90", [])


def test_a_last_jump_elsewhere_stays() -> None:
    code, holes = b"\x90\xe9\0\0\0\0", [(2, -4, "taken", -4)]
    assert falling_through(code, holes) == (code, holes)


def test_a_conditional_jump_over_another_is_turned_round() -> None:
    """je next; jmp taken is jne taken."""
    code = b"\x90\x0f\x84\0\0\0\0\xe9\0\0\0\0"
    turned, holes = falling_through(code, [(3, -4, "next", -4), (8, -4, "taken", -4)])
    assert turned == b"\x90\x0f\x85\0\0\0\0"
    assert holes == [(3, -4, "taken", -4)]


def test_what_only_looks_like_a_conditional_jump_stays() -> None:
    code = b"\x90\x48\x84\0\0\0\0\xe9\0\0\0\0"
    holes = [(3, -4, "next", -4), (8, -4, "taken", -4)]
    assert falling_through(code, holes) == (code, holes)


def test_every_hole_of_every_stencil_is_one_that_the_stitcher_fills(bank: Image) -> None:
    stencils, numbers, first, _ = marshal.loads(bank.meta)
    known = set(stitch._PLACES) | set(stitch.HANDLERS) | {"next", "area"}
    for name, (code, holes, faults) in stencils.items():
        for offset, size, hole, _ in holes:
            assert hole in known or hole.split("_")[-2] == "byte" or "field" in hole, (name, hole)
            assert 0 <= offset <= len(code) - abs(size)
        assert all(0 <= fault < len(code) for fault in faults)
    assert set(JOINTS) | set(SHARED) <= set(stencils)
    assert max(numbers) < first


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("add", PLAIN), ("lw", PLAIN), ("sd", PLAIN), ("fadd.d", PLAIN), ("bne", BRANCH),
        ("jal", JUMP), ("jalr", INDIRECT), ("ecall", None), ("fence.i", None), ("csrrw", None),
        ("amoadd.w", None), ("lr.d", None),
    ],
)  # fmt: skip
def test_kinds_are_derived(bank: Image, name: str, kind: int | None) -> None:
    numbers = marshal.loads(bank.meta)[1]
    mine = {numbers[n][1] if n in numbers else None for (i, _), n in numbering(RISCV).items()
            if i == name}  # fmt: skip
    assert kind in mine
    assert mine <= {kind, None}  # rare rounding modes have no stencil


def test_the_byte_that_names_a_link_register_is_known(bank: Image) -> None:
    numbers = marshal.loads(bank.meta)[1]
    links = {i: numbers[n][2] for (i, _), n in numbering(RISCV).items() if n in numbers}
    assert links["jal"] in (12, 13, 14)
    assert links["jalr"] in (12, 13, 14)
    assert links["bne"] == links["add"] == 0


# Running.
class Bench:
    """A machine that stitches what control enters twice."""

    def __init__(self) -> None:
        self.space = FlatSpace()
        self.machine = Machine(self.space, "auto")
        self.hart = self.machine.new_hart()
        self.hart.run(0)
        self.machine.engine.stitch(self.hart.state, 2)
        self.stitches = self.machine.engine.stitches

    def load(self, text: str, at: int = CODE, prot: int = READ_EXEC) -> None:
        code = RISCV.assemble(text, at)
        first = at & -PAGE
        self.space.map(first, 4 * PAGE, READ_WRITE)
        self.space.write(at, code)
        self.space.protect(first, 4 * PAGE, prot)
        self.space.map(DATA, 2 * PAGE, READ_WRITE)
        self.hart.pc = at

    def run(self) -> str:
        while (stop := self.hart.run()).cause == "slice":
            pass
        return stop.cause

    @property
    def stitched(self) -> int:
        return int(self.hart.state.translated)


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    os.environ["HARTWOOD_CACHE"] = str(tmp_path_factory.getbasetemp() / "code")
    made = Bench()
    yield made
    made.machine.close()
    made.space.close()


COUNTED = "li a0, 0; li a1, 1000; loop: addi a0, a0, 3; addi a1, a1, -1; bnez a1, loop; ebreak"


def test_a_loop_is_one_unit_and_counts_what_it_runs(bench: Bench) -> None:
    bench.load(COUNTED)
    assert bench.run() == "ebreak"
    assert bench.hart.x[A0] == 3000
    assert bench.hart.instructions == 2 + 3 * 1000
    assert bench.hart.instructions - 20 < bench.stitched <= bench.hart.instructions
    assert bench.stitches.units in (1, 2)  # the loop, perhaps what follows it


def test_a_fault_in_the_middle_of_a_unit_is_at_its_instruction(bench: Bench) -> None:
    """The pointer walks out of its mapping; what was computed before the store is there."""
    bench.load("li a0, 0; loop: addi a0, a0, 1; addi s0, s0, 8; sd a0, 0(s0); j loop")
    bench.hart.x[S0] = DATA
    stop = "slice"
    while stop == "slice":
        result = bench.hart.run()
        stop = result.cause
    assert (stop, result.address) == ("store", DATA + 2 * PAGE)
    store = RISCV.assemble("sd a0, 0(s0)", CODE)
    assert bench.space.read(bench.hart.pc, len(store)) == store
    assert bench.hart.x[S0] == DATA + 2 * PAGE
    assert bench.hart.x[A0] == 2 * PAGE // 8
    assert bench.space.read_u64(DATA + 2 * PAGE - 8) == 2 * PAGE // 8 - 1
    assert bench.stitched > 3000


def test_an_address_beyond_the_guests_space_faults_as_well(bench: Bench) -> None:
    bench.load("loop: ld a1, 0(s0); add s0, s0, a2; addi t0, t0, -1; bnez t0, loop; ebreak")
    bench.hart.x[S0], bench.hart.x[T0] = DATA, 40
    assert bench.run() == "ebreak"
    bench.hart.pc, bench.hart.x[T0] = CODE, 40
    bench.hart.x[A2] = 1 << 60
    stop = bench.hart.run()
    assert (stop.cause, stop.address) == ("load", DATA + (1 << 60))
    assert bench.hart.pc == CODE
    assert bench.hart.x[T0] == 39


def test_a_unit_ends_at_the_end_of_its_page_and_goes_on_in_the_next(bench: Bench) -> None:
    """Straight over the border, with an instruction that lies across it."""
    at = CODE + PAGE - 10
    text = "loop: addi a0, a0, 1; addi a0, a0, 2; addi a0, a0, 4; addi a1, a1, -1; bnez a1, loop"
    bench.load(f"{text}; ebreak", at)
    bench.hart.x[A1] = 500
    assert bench.run() == "ebreak"
    assert bench.hart.x[A0] == 3500
    assert bench.hart.instructions == 2500
    # The one across the border, and what follows it, is interpreted.
    assert bench.stitched >= 2 * 490


def test_more_straight_code_than_a_unit_takes(bench: Bench) -> None:
    body = "; ".join(["addi a0, a0, 1"] * (3 * LIMIT + 5))
    bench.load(f"loop: {body}; addi a1, a1, -1; bnez a1, loop; ebreak")
    bench.hart.x[A1] = 50
    assert bench.run() == "ebreak"
    assert bench.hart.x[A0] == 50 * (3 * LIMIT + 5)
    # It begins again at each limit, by way of the interpreter's count.
    assert bench.stitched > bench.hart.instructions // 2


def test_code_that_is_rewritten_is_stitched_anew(bench: Bench) -> None:
    bench.load(COUNTED, prot=ALL)
    assert bench.run() == "ebreak"
    new = RISCV.assemble("addi a0, a0, 5", CODE)
    bench.space.write(CODE + bench_offset(COUNTED, "addi a0"), new)
    bench.hart.pc = CODE
    assert bench.run() == "ebreak"
    assert bench.hart.x[A0] == 5000


def bench_offset(text: str, begins: str) -> int:
    """Where an instruction of `text` stands."""
    listing = RISCV.listing(RISCV.assemble(text, CODE), CODE)
    return next(at - CODE for at, _, line in listing if line.startswith(begins) and "a0, 3" in line)


def test_a_unit_that_rewrites_itself_goes_on_with_the_new_code(bench: Bench) -> None:
    """In its hundredth round the loop stores another instruction over its own first one."""
    text = """
        li a1, 200
    loop:
        addi a0, a0, 1
        addi a1, a1, -1
        li t0, 100
        bne a1, t0, on
        sw a2, 0(s0)
        fence.i
    on:
        bnez a1, loop
        ebreak
    """
    bench.load(text, prot=ALL)
    code = RISCV.assemble(text, CODE)
    at = next(at for at, _, line in RISCV.listing(code, CODE) if line == "addi a0, a0, 1")
    bench.hart.x[S0] = at
    bench.hart.x[A2] = int.from_bytes(RISCV.assemble("addi a0, a0, 16", at), "little")
    assert bench.run() == "ebreak"
    assert bench.hart.x[A0] == 100 + 100 * 16


def test_an_indirect_jump_to_a_page_that_is_gone_faults_there(bench: Bench) -> None:
    """After many that went well; the jump itself has happened, its link is written."""
    away = CODE + 2 * PAGE
    bench.load("loop: jalr t0, 0(a2); addi a1, a1, -1; bnez a1, loop; add a2, a2, a0; j loop")
    bench.space.protect(CODE, 4 * PAGE, READ_WRITE)
    bench.space.write(away, RISCV.assemble("jr t0", away))
    bench.space.protect(CODE, 4 * PAGE, READ_EXEC)
    bench.hart.x[A0], bench.hart.x[A1], bench.hart.x[A2] = 1 << 20, 300, away
    stop = bench.hart.run()
    assert (stop.cause, stop.address, bench.hart.pc) == (
        "fetch",
        away + (1 << 20),
        away + (1 << 20),
    )
    size = len(RISCV.assemble("jalr t0, 0(a2)", CODE))
    assert bench.hart.x[T0] == CODE + size
    assert bench.hart.instructions == 300 * 4 + 2 + 1
    assert bench.stitched > 1000


@pytest.mark.parametrize("target", [1 << 38, (1 << 64) - 2])
def test_an_indirect_jump_out_of_the_guests_space_faults_there(bench: Bench, target: int) -> None:
    bench.load(
        "loop: jalr zero, 0(a2); ebreak; on: addi a1, a1, -1; bnez a1, loop; mv a2, a0; j loop"
    )
    listing = RISCV.listing(RISCV.assemble("loop: jalr zero, 0(a2); ebreak", CODE), CODE)
    after = max(at for at, _, _ in listing)
    bench.hart.x[A2] = after + len(RISCV.assemble("ebreak", CODE))
    bench.hart.x[A0], bench.hart.x[A1] = target, 100
    stop = bench.hart.run()
    assert (stop.cause, stop.address, bench.hart.pc) == ("fetch", target, target)


def test_unmapping_a_page_takes_its_units_along(bench: Bench) -> None:
    bench.load(COUNTED)
    assert bench.run() == "ebreak"
    bench.space.unmap(CODE, 4 * PAGE)
    bench.hart.pc = CODE
    assert bench.run() == "fetch"


def test_a_full_area_starts_over(bench: Bench) -> None:
    words = bench.stitches._words
    end = stitch.CONTEXT.index("end")
    bench.load(COUNTED)
    assert bench.run() == "ebreak"
    words[end] = words[1]  # as if the last unit had filled it
    assert bench.stitches.full
    bench.hart.pc = CODE
    bench.machine.engine._look_around(bench.hart.state, 0)
    assert words[1] == bench.stitches._first
    words[end] = words[1] + (1 << 20)
    made = bench.stitches.units
    bench.hart.pc = CODE
    assert bench.run() == "ebreak"
    assert bench.hart.x[A0] == 3000
    assert bench.stitches.units > made


def test_nothing_is_stitched_while_records_are_discarded(bench: Bench) -> None:
    bench.load(COUNTED)
    bench.stitches.begin_change()
    assert bench.run() == "ebreak"
    assert bench.stitches.units == 0
    bench.stitches.end_change()
    bench.hart.pc = CODE
    assert bench.run() == "ebreak"
    assert bench.stitches.units > 0


def test_a_child_is_not_locked_out_by_a_thread_of_its_parent(bench: Bench) -> None:
    bench.load(COUNTED)
    bench.stitches._words[0] = 1  # another thread is stitching
    assert bench.run() == "ebreak"
    assert bench.stitches.units == 0
    bench.stitches.after_fork_in_child()
    bench.hart.pc = CODE
    assert bench.run() == "ebreak"
    assert bench.stitches.units > 0


def test_code_that_was_only_stitched_counts_as_executed(bench: Bench) -> None:
    """The compiler later sees what ran, not only what was interpreted."""
    bench.load(COUNTED)
    assert bench.run() == "ebreak"
    executed = bench.machine.engine.shadow.executed(CODE)
    size = len(RISCV.assemble(COUNTED, CODE))
    starts = [(at - CODE) // 2 for at, _, _ in RISCV.listing(RISCV.assemble(COUNTED, CODE), CODE)]
    assert all(executed[at] for at in starts)
    assert not any(executed[size // 2 :])
