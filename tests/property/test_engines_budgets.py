"""A run in many short slices is the same run: counts are exact wherever a slice ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from random import Random

import pytest

from hartwood.isa.riscv import RISCV
from property.engines import ENGINES, Engines, difference, listing, machine_of
from property.programs import EXEC, PAGE, READ, Area, Start, draw_pieces, start_of

SOAK = 20 if os.environ.get("HARTWOOD_SOAK") else 1
CODE = 0x4010_0000


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    yield from machine_of(tmp_path_factory)


@pytest.mark.parametrize("most", [1, 7, 60, 500])
def test_slices_add_up(engines: Engines, most: int) -> None:
    for number in range(12 * SOAK):
        random = Random(f"budget {most} {number}")
        start = start_of(draw_pieces(random, random.randint(5, 80)), number)
        entries = [start.pc, *random.sample(start.entries, min(12, len(start.entries)))]
        whole = engines.run(start, "reference")

        def budget(random: Random = random) -> int:
            return random.randint(1, most)

        for engine in ENGINES:
            parts = engines.run(start, engine, entries=entries, budget=budget)
            if parts != whole:
                wrong = difference(parts, whole)
                around = next(
                    (a.pc for a, b in zip(parts.moments, whole.moments, strict=False) if a != b),
                    start.pc,
                )
                pytest.fail(f"{engine}, budget {most}: {wrong}\n{listing(start, around)}")


def bare(engines: Engines, text: str, engine: str) -> Callable[[int], int]:
    """Start some code; gives a function that runs one slice and tells how much it executed."""
    code = RISCV.assemble(text, CODE)
    area = Area(CODE, code.ljust(PAGE, b"\0"), READ | EXEC)
    start = Start(CODE, 0, CODE, [0] * 32, [0] * 32, 0, [area], [CODE])
    engines.load(start)
    engines.use(engine)
    if engine == "jit":
        engines.machine.engine.translate([CODE])

    def run(budget: int) -> int:
        before = engines.hart.instructions
        stop = engines.hart.run(budget)
        assert stop.cause == "slice"
        return engines.hart.instructions - before

    return run


@pytest.mark.parametrize("engine", ENGINES)
def test_a_slice_ends_soon(engines: Engines, engine: str) -> None:
    """An endless loop gives control back within a loop's length of the budget."""
    run = bare(engines, "loop: addi a0, a0, 1; addi a1, a1, 2; j loop", engine)
    for budget in (1, 2, 3, 10, 1000, 9_999):
        assert budget <= run(budget) <= budget + 3
    assert engines.hart.x[10] * 2 in (engines.hart.x[11], engines.hart.x[11] + 2)
    assert abs(engines.hart.x[10] * 3 - engines.hart.instructions) <= 2


@pytest.mark.parametrize("engine", ENGINES)
def test_endless_calls_give_control_back(engines: Engines, engine: str) -> None:
    """Recursion without end: the guest's stack pointer moves, the host's must not run away."""
    text = "f: addi sp, sp, -16; addi a0, a0, 1; jal ra, f; ret"
    run = bare(engines, text, engine)
    total = 0
    for budget in (100, 9_000, 9_999):
        ran = run(budget)
        assert budget <= ran <= budget + 4
        total += ran
    if engine != "reference":
        total += sum(run(3_000_000) for _ in range(2))
    assert total // 3 in range(engines.hart.x[10] - 1, engines.hart.x[10] + 2)
    assert (-engines.hart.x[2] & (1 << 64) - 1) // 16 - engines.hart.x[10] in (0, 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_endless_returns_give_control_back(engines: Engines, engine: str) -> None:
    run = bare(engines, "jal ra, pc+4; addi a0, a0, 1; ret", engine)
    for budget in (1, 50, 5_000):
        assert budget <= run(budget) <= budget + 3


@pytest.mark.parametrize("engine", ENGINES)
def test_endless_jumps_through_a_register_give_control_back(engines: Engines, engine: str) -> None:
    run = bare(engines, "auipc t1, 0; addi t1, t1, 8; addi a0, a0, 1; jr t1", engine)
    for budget in (5, 50, 5_000):
        assert budget <= run(budget) <= budget + 4


@pytest.mark.parametrize("engine", ENGINES)
def test_the_count_of_retired_instructions_is_what_the_guest_reads(
    engines: Engines, engine: str
) -> None:
    """rdinstret in a loop sees each instruction counted once, whatever the slices."""
    text = """
        li s1, 300
    loop:
        rdinstret a0
        nop
        nop
        rdinstret a1
        sub a2, a1, a0
        or a3, a3, a2
        addi s1, s1, -1
        bnez s1, loop
    end:
        j end
    """
    run = bare(engines, text, engine)
    random = Random(engine)
    while engines.hart.x[9] or engines.hart.pc < CODE + 4 * 8:
        run(random.randint(1, 20))
    assert engines.hart.x[13] == 3
