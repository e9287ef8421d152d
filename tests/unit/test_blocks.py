"""Golden lifted text: what the translator makes of a dozen small regions, word for word.

A change of one of these files is a change of generated code: `make bless` writes them anew and the
difference is reviewed. Each begins with comments of LLVM's: why it is here, where the code lies,
the level it is lifted for, what is translated already, then the assembly, indented; what follows
is golden.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from hartwood.isa.insn import Decoded
from hartwood.isa.riscv import RISCV
from hartwood.jit.compile import compile_image
from hartwood.jit.flow import Explorer
from hartwood.jit.lift import region_text, transfer_target

FOLDER = Path(__file__).parent.parent / "blocks"
FILES = sorted(FOLDER.glob("*.blk"))
MOST = 150_000  # bytes of all files: a person can still look through the difference


@dataclass
class Case:
    """One file: its comments as they are, and what they say."""

    head: str
    at: int
    level: int
    known: set[int]
    code: bytes
    golden: str


def read(text: str) -> Case:
    head, _, golden = text.partition("\n\n")
    places = re.findall(r"^; at (0x[0-9a-f]+)$", head, re.MULTILINE)
    levels = re.findall(r"^; level (\d)$", head, re.MULTILINE)
    known = {int(at, 16) for at in re.findall(r"^; known (0x[0-9a-f]+)$", head, re.MULTILINE)}
    source = "\n".join(re.findall(r"^;     (.*)$", head, re.MULTILINE))
    at = int(places[0], 16)
    return Case(head, at, int(levels[0]), known, RISCV.assemble(source, at), golden)


def lift(case: Case) -> str:
    """The region at the beginning of the code."""

    def fetch(pc: int) -> int | None:
        part = case.code[pc - case.at : pc - case.at + 4] if pc >= case.at else b""
        return int.from_bytes(part, "little") if len(part) > 1 else None

    def target(decoded: Decoded, pc: int) -> int | None:
        return transfer_target(RISCV, decoded, pc)

    eager = case.level < 2
    explorer = Explorer(RISCV, fetch, target, 100)
    explorer.known |= case.known
    region = explorer.region(case.at, eager=eager)
    return region_text(RISCV, region, eager=eager) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_lifted_text_is_as_blessed(path: Path) -> None:
    case = read(path.read_text())
    text = lift(case)
    if os.environ.get("HARTWOOD_BLESS"):
        path.write_text(f"{case.head}\n\n{text}")
        return
    assert text == case.golden, f"{path.name}: `make bless` if this is what was meant"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_text_compiles_to_a_region_with_its_entry(path: Path) -> None:
    case = read(path.read_text())
    image = compile_image([case.golden], case.level)
    assert f"r_{case.at:x}" in image.entries
    # Every access that may fault has its way out. (LLVM may copy one, but never drop it.)
    assert len(image.fault_pairs) >= case.golden.count("callbr")


def test_lifting_twice_gives_the_same_text() -> None:
    for path in FILES:
        case = read(path.read_text())
        assert lift(case) == lift(case)


def test_the_corpus_is_small_and_complete() -> None:
    assert sum(path.stat().st_size for path in FILES) < MOST
    assert len(FILES) >= 12
    assert {read(path.read_text()).level for path in FILES} == {1, 2}


def golden(name: str) -> str:
    return read((FOLDER / f"{name}.blk").read_text()).golden


def stores_home(text: str, offset: int) -> int:
    """How many stores go to the slot at `offset` of the state."""
    pointers = re.findall(rf"(%[\w.]+) = getelementptr i8, ptr %s, i64 {offset}\n", text)
    return sum(len(re.findall(rf"store \w+ \S+, ptr {re.escape(p)}\n", text)) for p in pointers)


def test_levels_differ_in_where_registers_are_written_home() -> None:
    """x5 changes once in the loop: at the first level it is stored there and nowhere else, at the
    second at every way out."""
    eager, lazy = golden("loop_eager"), golden("loop_lazy")
    assert stores_home(eager, 5 * 8) == 1
    assert stores_home(lazy, 5 * 8) > 1


def test_a_quiet_window_changes_the_control_word_behind_a_nan_only() -> None:
    """A single vldmxcsr, and the only way to it is the branch that is marked as rare."""
    text = golden("quiet")
    assert text.count("vldmxcsr") == 1
    restore = re.search(r"br i1 %v\d+, label %(restore\d+), label %on\d+, !prof !1", text)
    assert restore is not None
    assert text.count(f"%{restore[1]}") == 1
    before, _, after = text.partition(f"{restore[1]}:")
    assert "vldmxcsr" in after
    assert "vldmxcsr" not in before


@pytest.mark.parametrize(("name", "count"), [("tail", 2), ("indirect", 1), ("call", 0)])
def test_what_goes_on_elsewhere_does_so_by_a_tail_call(name: str, count: int) -> None:
    text = golden(name)
    assert len(re.findall(r"musttail call .*\n  ret ", text)) == count
    assert text.count("musttail") == count


def test_a_back_edge_tests_the_budget() -> None:
    text = golden("spin")
    back = re.search(
        r"^(back\d+):\n(?: .*\n)+? +(%v\d+) = icmp sge i64 %v\d+, 0$", text, re.MULTILINE
    )
    assert back is not None
    assert re.search(rf"br i1 {back[2]}, label %b[0-9a-f]+, label %over", text)
    assert f"label %{back[1]}" in text
