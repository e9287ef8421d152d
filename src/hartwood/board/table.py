"""A board is a table: what sits where, from which addresses, wires and the device tree follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

from hartwood.board.fdt import Node, wide
from hartwood.dev.device import Device
from hartwood.dev.plic import CONTEXTS, Plic

_Kind = TypeVar("_Kind", bound=Device)
#: Harts at most, and the phandle of the interrupt controller; those of the harts are 1 and up.
MOST_HARTS = CONTEXTS // len(Plic.hart_interrupts)
_CONTROLLER = MOST_HARTS + 1


class Place(Generic[_Kind]):
    """A line of the table: a device of this kind at guest-physical `at`, its wire at source `irq`
    of the interrupt controller. As an attribute of a board it is that board's device."""

    def __init__(self, kind: type[_Kind], *, at: int, irq: int = 0) -> None:
        self.kind, self.at, self.irq = kind, at, irq

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, board: None, owner: type) -> Place[_Kind]: ...
    @overload
    def __get__(self, board: object, owner: type) -> _Kind: ...
    def __get__(self, board: object, owner: type) -> Place[_Kind] | _Kind:
        if board is None:
            return self
        made: _Kind = board.__dict__.setdefault(self._name, self.kind())
        return made


@dataclass(frozen=True)
class Row:
    """Slots for devices that are not always there: `count` from `at` on, with sources from `irq`
    on."""

    at: int
    step: int
    count: int
    irq: int


@dataclass(frozen=True)
class Placed:
    """A device of one board."""

    device: Device
    at: int
    irq: int

    def node(self, harts: int) -> Node:
        """Its node: what the device says of itself, and what only the board knows."""
        device = self.device
        made = Node(f"{device.node}@{self.at:x}", {"compatible": device.compatible})
        made.properties |= {"reg": wide(self.at, device.size), **device.properties}
        if self.irq:
            made.properties |= {"interrupts": self.irq, "interrupt-parent": _CONTROLLER}
        if device.hart_interrupts:
            made.properties["interrupts-extended"] = tuple(
                cell
                for number in range(harts)
                for bit in device.hart_interrupts
                for cell in (phandle(number), bit)
            )
        if isinstance(device, Plic):
            made.properties["phandle"] = _CONTROLLER
        return made


def phandle(hart: int) -> int:
    """By what the tree refers to the interrupts of a hart."""
    return hart + 1


def placed(board: object, more: Iterable[Device]) -> Iterator[Placed]:
    """The devices of a board, those of its class's table first, then `more` in its slots. Raises
    `IndexError` where they are too many."""
    table: dict[str, Place[Device] | Row] = {}
    for owner in reversed(type(board).__mro__):
        table |= {n: each for n, each in vars(owner).items() if isinstance(each, Place | Row)}
    slots = []
    for name, line in table.items():
        if isinstance(line, Row):
            slots += [(line.at + line.step * n, line.irq + n) for n in range(line.count)]
        else:
            yield Placed(getattr(board, name), line.at, line.irq)
    for number, device in enumerate(more):
        yield Placed(device, *slots[number])
