"""The layers test: the build fails when the table of who may know whom is untrue."""

from __future__ import annotations

import pytest

from quality.layers import LLVM_MODULES, MAY_IMPORT, SOURCE, forbidden, imports, room_of


def test_rooms_keep_to_the_graph() -> None:
    wrong = sorted(
        {
            f"{importer}:{line} imports {imported}"
            for importer, imported, line in imports()
            if forbidden(importer, imported)
        }
    )
    assert not wrong, "\n".join(wrong)


def test_every_room_is_in_the_graph() -> None:
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py"}
    rooms |= {path.name for path in SOURCE.iterdir() if any(path.glob("*.py"))}
    assert rooms <= set(MAY_IMPORT), rooms - set(MAY_IMPORT)


def test_llvm_is_known_to_two_modules_of_jit() -> None:
    users = {who for who, what, _ in imports() if what.partition(".")[0] == "llvmlite"}
    assert len(users) <= LLVM_MODULES, users
    assert {room_of(who) for who in users} <= {"jit"}, users


def test_numpy_is_for_the_laboratory_only() -> None:
    users = {who for who, what, _ in imports() if what.partition(".")[0] in ("numpy", "scipy")}
    users -= {"hartwood.mem.physical"}  # which gives arrays to those who ask, and imports it then
    assert {room_of(who) for who in users} <= {"lab"}, users


@pytest.mark.parametrize(
    ("importer", "imported", "expected"),
    [
        ("hartwood.bits.ints", "hartwood.isa.insn", True),
        ("hartwood.jit.lift", "hartwood.isa.insn", False),
        ("hartwood.jit.lift", "hartwood.dev.uart", True),
        ("hartwood.storage.raw", "hartwood.mem.pools", False),
        ("hartwood.storage.raw", "hartwood.mem.ram", True),
        ("hartwood.lab.runner", "hartwood.mem", True),
        ("hartwood.lab.workloads.memory", "hartwood.mem", False),
        ("hartwood.mem.ram", "hartwood.errors", False),
        ("hartwood.mem.ram", "struct", False),
        ("hartwood.unheard.of", "hartwood.bits", True),
    ],
)
def test_the_table_is_read_right(importer: str, imported: str, expected: bool) -> None:
    assert forbidden(importer, imported) is expected
