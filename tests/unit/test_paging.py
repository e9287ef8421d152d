"""Page tables made from outside: a hart that walks them finds what was mapped, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EINVAL, ENOMEM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.errors import MappingError
from hartwood.isa.riscv.system import SYSTEM
from hartwood.machine import PageTables
from hartwood.machine.bare import Machine, new_bus
from hartwood.mem.bus import Bus

RAM, PAGE, END = 0x8000_0000, 4096, 0x1000
DATA, TABLES = RAM + PAGE, RAM + (1 << 20)
LEVELS = {"sv39": 3, "sv48": 4, "sv57": 5}
PAIRS = [(scheme, level) for scheme, levels in LEVELS.items() for level in range(levels)]
#: Does what is asked at a1, then stops; so does the handler of a trap, a page further on.
STOP = "lui t6, 1\nsw zero, 0(t6)\nstay: j stay"
SOURCE = f"mret\nld a0, 0(a1)\nj done\nsd a0, 0(a1)\nj done\njr a1\ndone: {STOP}"
LOAD, STORE, JUMP = 4, 12, 20


class Hart:
    """A machine in S-mode whose code is mapped at its own address."""

    def __init__(self, scheme: str) -> None:
        self.cpu = cpu = Machine("riscv64", mode="interp", deterministic=True)
        cpu.mem.map(RAM, 2 << 20)
        cpu.mem.map_io(END, PAGE, lambda *_: 0, lambda *_: cpu.request_stop())
        cpu.mem.write(RAM, SYSTEM.assemble(SOURCE, RAM))
        cpu.mem.write(DATA + 0x800, SYSTEM.assemble(STOP))
        cpu.mem.write(RAM + 0x100, SYSTEM.assemble(STOP))
        cpu.mtvec = RAM + 0x100
        cpu.pmpaddr0, cpu.pmpcfg0 = (1 << 54) - 1, 0x1F
        self.tables = PageTables(cpu.mem, TABLES, 64, scheme)
        self.tables.map(RAM, RAM, PAGE, "rx")
        self.tables.map(END, END, PAGE, "rw")

    def does(self, offset: int, va: int, a0: int = 0) -> tuple[int, int]:
        """The cause of the exception, or 0, and a0."""
        cpu = self.cpu
        cpu.state.mode, cpu.mcause = 3, 0
        cpu.satp = 0  # and so nothing that was walked before is left
        cpu.satp = self.tables.satp(7)
        cpu.mstatus, cpu.mepc, cpu.pc = 1 << 11, RAM + offset, RAM
        cpu.a0, cpu.a1 = a0, va
        assert cpu.run(seconds=60).reason == "stopped"
        return cpu.mcause, cpu.a0


@pytest.fixture(params=PAIRS, ids=[f"{scheme}-{level}" for scheme, level in PAIRS])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Hart, int, int]]:
    scheme, level = request.param
    hart = Hart(scheme)
    yield hart, level, LEVELS[scheme]
    hart.cpu.close()


def test_a_hart_finds_what_was_mapped(pair: tuple[Hart, int, int]) -> None:
    hart, level, levels = pair
    step = PAGE << 9 * level
    inside, top = DATA % step, 1 << 12 + 9 * levels - 1
    hart.cpu.mem.write_u64(DATA + 8, 0x1122334455667788)
    # In the middle of the lower half, and at the very end of the upper.
    for va in (top // 2, (1 << 64) - 2 * step):
        hart.tables.map(va, DATA - inside, step, "rw", level)
        assert hart.does(LOAD, va + inside + 8) == (0, 0x1122334455667788)
        assert hart.does(STORE, va + inside + 16, va & 0xFFFF) == (0, va & 0xFFFF)
        assert hart.cpu.mem.read_u64(DATA + 16) == va & 0xFFFF
        assert hart.does(JUMP, va + inside + 0x800)[0] == 12
        for beside in (va - 8, (va + step) % (1 << 64)):
            assert hart.does(LOAD, beside)[0] == 13
        hart.tables.unmap(va, step, level)
        assert hart.does(LOAD, va + inside + 8)[0] == 13
    assert hart.cpu.satp == levels + 5 << 60 | 7 << 44 | TABLES >> 12


@pytest.mark.parametrize(
    ("rights", "causes"),
    [
        ("r", (0, 15, 12)), ("rw", (0, 0, 12)), ("x", (13, 15, 0)), ("rx", (0, 15, 0)),
        ("rwx", (0, 0, 0)), ("rwxu", (13, 15, 12)), ("xr", (0, 15, 0)),
    ],
)  # fmt: skip
def test_rights_are_what_they_say(rights: str, causes: tuple[int, int, int]) -> None:
    hart = Hart("sv39")
    hart.tables.map(1 << 32, DATA, PAGE, rights)
    found = [hart.does(LOAD, 1 << 32), hart.does(STORE, 1 << 32), hart.does(JUMP, (1 << 32) + 2048)]
    assert tuple(cause for cause, _ in found) == causes
    hart.cpu.close()


def test_what_a_scheme_does_not_have() -> None:
    bus = new_bus()
    bus.map(RAM, 1 << 20)
    for scheme, at, pages in (("sv32", RAM, 4), ("sv39", RAM + 8, 4), ("sv39", RAM, 0)):
        with pytest.raises(MappingError) as caught:
            PageTables(bus, at, pages, scheme)
        assert caught.value.errno == EINVAL
    tables = PageTables(bus, RAM, 64)
    for va, at, size, rights, level in (
        (0, 0, 0, "r", 0), (8, 0, PAGE, "r", 0), (0, 8, PAGE, "r", 0), (0, 0, 100, "r", 0),
        (0, 0, PAGE, "", 0), (0, 0, PAGE, "w", 0), (0, 0, PAGE, "wx", 0), (0, 0, PAGE, "u", 0),
        (0, 0, PAGE, "q", 0), (0, 0, PAGE, "r", 1), (0, 0, 1 << 30, "r", 3),
        (0, 0, PAGE, "r", -1), (1 << 38, 0, PAGE, "r", 0), ((1 << 38) - PAGE, 0, 2 * PAGE, "r", 0),
        (-PAGE, 0, PAGE, "r", 0), ((1 << 64) - PAGE, 0, 2 * PAGE, "r", 0),
        (0, 1 << 56, PAGE, "r", 0), (0, -PAGE, PAGE, "r", 0),
    ):  # fmt: skip
        with pytest.raises(MappingError) as caught:
            tables.map(va, at, size, rights, level)
        assert caught.value.errno == EINVAL, (va, at, size, rights, level)
    assert bytes(bus[RAM : RAM + PAGE]) == bytes(PAGE)  # and nothing was written


def test_a_page_within_a_larger_one_and_no_room() -> None:
    bus = new_bus()
    bus.map(RAM, 1 << 20)
    tables = PageTables(bus, RAM, 4)
    tables.map(0, 0, 1 << 21, "r", 1)
    with pytest.raises(MappingError, match="larger page"):
        tables.map(PAGE, 0, PAGE)
    tables.map(1 << 21, 0, PAGE)
    tables.map(1 << 30, 0, 1 << 21, "rwx", 1)
    with pytest.raises(MappingError) as caught:
        tables.map(2 << 30, 0, PAGE)
    assert caught.value.errno == ENOMEM
    tables.map(0, 0, PAGE << 9, "rw", 1)  # an entry may be replaced


def model(bus: Bus, root: int, levels: int, va: int) -> int | None:
    """The walk of Priv. 12.3.2, as far as valid entries go."""
    table = root
    for level in range(levels - 1, -1, -1):
        entry = bus.read_u64(table + 8 * (va >> 12 + 9 * level & 511))
        if not entry & 1:
            return None
        at = entry >> 10 << 12
        if entry & 10:
            return at + va % (PAGE << 9 * level)
        table = at
    return None


@given(
    st.sampled_from(sorted(LEVELS)),
    st.dictionaries(st.integers(0, (1 << 26) - 1), st.integers(0, (1 << 40) - 1), max_size=12),
)
def test_scattered_pages(scheme: str, pages: dict[int, int]) -> None:
    bus = new_bus()
    bus.map(RAM, 1 << 20)
    tables = PageTables(bus, RAM, 64, scheme)
    for page, place in pages.items():
        tables.map(page * PAGE, place * PAGE, PAGE)
    for page, place in pages.items():
        assert model(bus, tables.root, tables.levels, page * PAGE + 5) == place * PAGE + 5
        for other in (page - 1, page + 1, page ^ 512):
            if other not in pages:
                assert model(bus, tables.root, tables.levels, other * PAGE) is None
    bus.ram.close()
