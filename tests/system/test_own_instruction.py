"""A user's instruction, registered from outside the package, works in every engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "own_instruction.py"

RUN = """
import runpy, sys
names = runpy.run_path({example!r}, run_name="own")
sys.modules["own"] = type(sys)("own")
from hartwood.isa.riscv import RISCV
from hartwood.machine import Machine
from hartwood.mem import FlatSpace
space = FlatSpace()
machine = Machine(space, {engine!r})
hart = machine.new_hart()
space.map(0x10000, 0x1000, 7)
space.write(0x10000, RISCV.assemble(names["PROGRAM"].replace("100000000", "{count}"), pc=0x10000))
hart.pc = 0x10000
while (stop := hart.run()).cause == "slice":
    pass
print(stop.cause, hart.x[10], hart.instructions, machine.stats()["translated"])
"""


def run(engine: str, count: int, cache: Path) -> list[str]:
    """Run the example's loop `count` times: why it stopped, the sum, instructions by tier."""
    program = RUN.format(example=str(EXAMPLE), engine=engine, count=count)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HARTWOOD_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("engine", ["reference", "interp", "auto"])
def test_the_example_computes_the_sum_of_squares(engine: str, tmp_path: Path) -> None:
    count = {"reference": 300, "interp": 100_000, "auto": 60_000_000}[engine]
    cause, total, instructions, translated = run(engine, count, tmp_path)
    assert cause == "ecall"
    assert int(total) == count * (count + 1) * (2 * count + 1) // 6 % 2**64
    assert int(instructions) >= 3 * count
    assert (int(translated) > count) == (engine == "auto")


def test_it_has_syntax_both_ways_and_derived_properties() -> None:
    program = (
        f"import runpy; runpy.run_path({str(EXAMPLE)!r}, run_name='own')\n"
        "from hartwood.isa.riscv import RISCV\n"
        "code = RISCV.assemble('madd a0, a1, a2')\n"
        "print(code.hex(), RISCV.disassemble(code))\n"
        "print(sorted(RISCV.properties(RISCV['madd']).x_reads))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["0b85c500 madd a0, a1, a2", "['rd', 'rs1', 'rs2']"]


def test_without_a_source_file_there_is_a_clear_error() -> None:
    program = (
        "from hartwood.isa.riscv import RISCV\n"
        "@RISCV.insn('0000000 rs2 rs1 000 rd 0001011', asm='madd {rd}, {rs1}, {rs2}')\n"
        "def madd(h, rd, rs1, rs2):\n    h.x[rd] = h.x[rs1]\n"
        "from hartwood.machine import Machine\nfrom hartwood.mem import FlatSpace\n"
        "Machine(FlatSpace())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "LawError: madd was not defined in a file; put it in a module" in done.stderr


def test_the_example_says_what_it_promises() -> None:
    text = EXAMPLE.read_text()
    body = text[text.index("@RISCV.insn") : text.index("PROGRAM =")].strip().splitlines()
    assert len(body) <= 5
