"""A board is a table: addresses, wires, slots and the device tree follow from it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hartwood.board import BoardError, RiscvVirt
from hartwood.board.fdt import Node, flatten
from hartwood.board.table import Place, Placed, placed
from hartwood.dev.device import Device, host, reg, state
from hartwood.errors import MappingError
from hartwood.isa.riscv import profile
from hartwood.machine.sysreference import SYSTEM
from unit.small_guests import FOREVER, POWEROFF, kernel

Board = Callable[..., RiscvVirt]


@dataclass
class Gadget(Device):
    """A device of somebody else's: a byte that raises its wire, and memory to look at."""

    compatible: ClassVar[str] = "test,gadget"
    size: ClassVar[int] = 0x1000
    node: ClassVar[str] = "gadget"
    ram: Any = field(default=None, metadata={"host": True}, repr=False)
    ended: Any = host()
    value: int = state(most=0xFF)
    closed: ClassVar[list[str]] = []

    @reg(0)
    def set(self, value: int) -> None:
        self.value = value & 0xFF
        self.settle()

    @reg(0)
    def get(self) -> int:
        return self.value

    @reg(8)
    def look(self) -> int:
        return int.from_bytes(self.ram.read(0x8020_0000, 4), "little")

    def settle(self) -> None:
        self.irq(bool(self.value))

    def close(self) -> None:
        self.closed.append(self.compatible)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    def build(code: str = FOREVER, kind: type[RiscvVirt] = RiscvVirt, **more: Any) -> RiscvVirt:
        return kind(kernel=kernel(tmp_path, code), memory=16 << 20, **more)

    return build


# Trees.
def nodes(blob: bytes, dtc: str) -> dict[str, dict[str, str]]:
    """Properties of nodes by path, as dtc writes them, without those of QEMU's own numbering."""
    command = [dtc, "-I", "dtb", "-O", "dts", "-q"]
    text = subprocess.run(command, input=blob, capture_output=True, check=True).stdout.decode()
    found: dict[str, dict[str, str]] = {}
    path: list[str] = []
    for line in text.splitlines():
        line = line.strip()
        if line.endswith("{"):
            path.append(line[:-1].strip())
            found["/".join(path)] = {}
        elif line == "};":
            path.pop()
        elif path and line:
            name, _, value = line.rstrip(";").partition(" = ")
            found["/".join(path)][name] = value
    return found


@pytest.fixture(scope="session")
def qemus(oracle: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tree of QEMU's board with two harts."""
    path = tmp_path_factory.mktemp("virt") / "virt.dtb"
    machine = f"virt,dumpdtb={path}"
    command = [oracle("qemu-system-riscv64"), "-M", machine, "-smp", "2", "-m", "16"]
    subprocess.run(command, capture_output=True, check=True, timeout=60)
    return nodes(path.read_bytes(), oracle("dtc"))


def resolved(found: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The same with phandles replaced by the paths of what they stand for."""
    names = {
        each["phandle"].strip("<>"): f"&{path}" for path, each in found.items() if "phandle" in each
    }

    def named(name: str, value: str) -> str:
        cells = value.strip("<>").split()
        if name == "interrupt-parent":
            return names[cells[0]]
        return " ".join(names[cell] if not at % 2 else cell for at, cell in enumerate(cells))

    refers = ("interrupt-parent", "interrupts-extended")
    return {
        path: {
            name: named(name, value) if name in refers else value
            for name, value in each.items()
            if name not in ("phandle", "status")
        }
        for path, each in found.items()
    }


def test_nodes_are_those_of_qemus_board(
    board: Board, qemus: dict[str, Any], oracle: Callable[[str], str]
) -> None:
    """Every node of ours is one of QEMU's, with the same properties; what differs is listed."""
    gadgets: list[Device] = [Slot() for _ in range(8)]
    with board(harts=2, devices=gadgets) as ours:
        tree = nodes(flatten(ours.tree(2, Node("chosen", {}))), oracle("dtc"))
    mine, theirs = resolved(tree), resolved(qemus)
    differ = {
        (path, name)
        for path, each in mine.items()
        for name, value in each.items()
        if value != theirs.get(path, {}).get(name)
        and not (name == "clock-frequency" and theirs[path][name] == r'"\08@"')  # the same, as text
    }
    own = {"riscv,isa", "riscv,isa-base", "riscv,isa-extensions", "mmu-type"}
    own |= {"riscv,cbom-block-size", "riscv,cboz-block-size"}
    assert differ == {
        ("/", "model"),
        # The sources but for number 0, of which QEMU 7.2 says one more than there are.
        ("//soc/plic@c000000", "riscv,ndev"),
        *((f"//cpus/cpu@{number}", name) for number in (0, 1) for name in own),
    }
    for path in mine:
        assert theirs[path].keys() <= mine[path].keys() | {"rng-seed"}, path


@dataclass
class Slot(Device):
    """What virtio's transport is in a tree."""

    compatible: ClassVar[str] = "virtio,mmio"
    size: ClassVar[int] = 0x1000
    node: ClassVar[str] = "virtio_mmio"


# The instruction set's names.
def test_what_is_listed_is_what_there_is() -> None:
    """Each name of one letter or of Z with instructions of its own, once; and nothing else."""
    names = profile.extensions()
    assert len(set(names)) == len(names)
    groups = {name for name in SYSTEM.extensions if name not in ("privileged", "custom")}
    assert groups < set(names)
    assert {"zicond", "zcb", "zba", "zbb", "zbs", "svadu", "sstc", "zicbom"} <= set(names)
    assert "h" not in names
    assert "v" not in names


def test_the_two_ways_to_say_it_agree() -> None:
    first, *rest = profile.isa_string().split("_")
    assert first == "rv64imafdc"
    assert (*first[4:], *rest) == profile.extensions()
    assert profile.BASE == "rv64i"


def test_names_are_in_canonical_order() -> None:
    """Z before S; Z by the category letter (Unpriv., naming conventions)."""
    rest = [name for name in profile.extensions() if len(name) > 1]
    order = "iemafdqlcbkjtpvh"
    z = [name for name in rest if name[0] == "z"]
    assert rest == z + sorted(set(rest) - set(z))
    assert z == sorted(z, key=lambda name: (order.index(name[1]), name))


def test_assemblers_know_the_names(oracle: Callable[[str], str], tmp_path: Path) -> None:
    """binutils takes the user-level ones that it is old enough for."""
    new = re.compile("zicond|zcb|zicntr|zihpm|sv.*|sstc")
    march = "_".join(part for part in profile.isa_string().split("_") if not new.fullmatch(part))
    source = tmp_path / "empty.s"
    source.write_text("")
    command = [oracle("riscv64-linux-gnu-as"), f"-march={march}", str(source), "-o", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Slots.
def test_devices_take_slots_in_turn(board: Board) -> None:
    first, second = Gadget(), Gadget()
    with board(devices=[first, second]) as made:
        where = [(each.at, each.irq) for each in made.devices if each.device in (first, second)]
        assert where == [(0x1000_1000, 1), (0x1000_2000, 2)]
        made.bus.store(0x1000_2000, 4, 5)
        assert (first.value, second.value) == (0, 5)
        assert made.plic.levels == 1 << 2
        start = made.bus[0x8020_0000:0x8020_0004]
        assert made.bus.load(0x1000_1008, 4) == int.from_bytes(start, "little")
    assert Gadget.closed[-2:] == ["test,gadget"] * 2


def test_a_device_ends_the_machine(board: Board) -> None:
    gadget = Gadget()
    with board(devices=[gadget]) as made:
        gadget.ended("fail 9")
        with pytest.raises(BoardError, match="fail 9"):
            made.run()


def test_more_devices_than_slots(board: Board) -> None:
    with pytest.raises(BoardError, match="more devices than slots"):
        board(devices=[Gadget() for _ in range(9)])


def test_a_reset_resets_every_device(board: Board) -> None:
    gadget = Gadget()
    code = "li t0, 0x10001000\nlbu t1, 0(t0)\nli t2, 9\nsb t2, 0(t0)\nbne t1, zero, off\n"
    with board(code + "li t0, 0x100000\nli t1, 0x7777\nsw t1, 0(t0)\noff: " + POWEROFF,
               devices=[gadget]) as made:  # fmt: skip
        assert made.run(seconds=60).reason == "reset loop"


# Boards of one's own.
class Larger(RiscvVirt):
    """One more device than QEMU's, at a place of its own."""

    model: ClassVar[str] = "test,larger"
    gadget = Place(Gadget, at=0x1800_0000, irq=33)


def test_a_board_of_ones_own_is_a_table(board: Board, oracle: Callable[[str], str]) -> None:
    with board(kind=Larger) as made:
        assert isinstance(made, Larger)
        made.bus.store(0x1800_0000, 1, 1)
        assert made.gadget.value == 1
        assert made.plic.levels == 1 << 33
        found = nodes(flatten(made.tree(1, Node("chosen", {}))), oracle("dtc"))
    assert found["//soc/gadget@18000000"]["interrupts"] == "<0x21>"
    assert found["/"]["model"] == '"test,larger"'


def test_two_boards_have_devices_of_their_own(board: Board) -> None:
    with board(kind=Larger) as one, board(kind=Larger) as other:
        assert isinstance(one, Larger)
        assert isinstance(other, Larger)
        assert one.gadget is one.gadget
        assert one.gadget is not other.gadget
        assert one.uart is not other.uart
    assert isinstance(Larger.gadget, Place)


class Overlapping(RiscvVirt):
    """Two devices at one address."""

    gadget = Place(Gadget, at=0x1000_0000)


def test_places_that_overlap_are_refused(board: Board) -> None:
    with pytest.raises(MappingError):
        board(kind=Overlapping)


def test_a_table_can_be_read_without_a_kernel() -> None:
    made = object.__new__(Larger)
    addresses = {each.at: each for each in placed(made, [])}
    assert {0x10_0000, 0x0C00_0000, 0x1000_0000, 0x1800_0000} <= addresses.keys()
    assert isinstance(addresses[0x1800_0000], Placed)
