"""What every device is: registers at offsets, state that can be saved, a reset.

A register is a method marked `@reg(offset)`: with a parameter it is what a store does, without one
what a load gives. Fields of the dataclass are the device's state, with what each may be (`state`),
except those made by `host()`: wiring, which no snapshot holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from hartwood.errors import Error

#: A wire that is raised or lowered.
Line = Callable[[bool], None]
#: Takes what a device puts out.
Sink = Callable[[bytes], None]
#: A property in a device tree: nothing, text, several texts, or cells of 32 bits.
Property = None | str | list[str] | int | tuple[int, ...]
_Method = TypeVar("_Method", bound=Callable[..., Any])


class DeviceError(Error):
    """A saved state that is none of this device's."""


def unwired(_: object) -> None:
    """What a wire does that leads nowhere."""


def host(default: Callable[[Any], None] = unwired) -> Any:
    """A field that is wiring."""
    return field(default=default, metadata={"host": True}, repr=False, compare=False)


def state(default: int = 0, *, most: int, count: int | None = None) -> Any:
    """A field of the state: a number from 0 to `most`, or a list of `count` of them."""
    limits = {"most": most}
    if count is None:
        return field(default=default, metadata=limits)
    return field(default_factory=lambda: [default] * count, metadata=limits)


def waiting(most: int) -> Any:
    """A field of the state: a queue of at most so many bytes."""
    return field(default_factory=bytearray, metadata={"most": most})


def reg(offset: int) -> Callable[[_Method], _Method]:
    """Mark a method as the register at `offset`."""

    def mark(method: _Method) -> _Method:
        method.__dict__["offset"] = offset
        return method

    return mark


@dataclass
class Device:
    """The base of all devices. Accesses of any width reach the register at the first byte; where
    there is none a load gives 0 and a store does nothing. Registers are accessed by one thread at
    a time (`lock`), and so is what else touches the state, or calls `irq` or `outputs`."""

    compatible: ClassVar[str]
    size: ClassVar[int]
    #: What a device tree calls it (Devicetree Specification 2.2.2), and further properties there.
    node: ClassVar[str]
    properties: ClassVar[Mapping[str, Property]] = {}
    #: Interrupts of every hart that it raises itself (Priv. 3.1.9): its `outputs`, in this order.
    hart_interrupts: ClassVar[tuple[int, ...]] = ()
    irq: Line = host()
    outputs: dict[int, Line] = field(
        default_factory=dict, metadata={"host": True}, repr=False, compare=False, kw_only=True
    )
    lock: threading.RLock = field(
        default_factory=threading.RLock, metadata={"host": True}, repr=False, compare=False,
        kw_only=True,
    )  # fmt: skip
    _loads: ClassVar[dict[int, str]] = {}
    _stores: ClassVar[dict[int, str]] = {}

    def __init_subclass__(cls) -> None:
        cls._loads, cls._stores = dict(cls._loads), dict(cls._stores)
        for name, member in vars(cls).items():
            offset = getattr(member, "__dict__", {}).get("offset")
            if offset is not None:
                stores = member.__code__.co_argcount > 1
                (cls._stores if stores else cls._loads)[offset] = name

    def read(self, offset: int, width: int) -> int:
        """A load of `width` bytes at `offset`."""
        name = self._loads.get(offset)
        if name is None:
            return 0
        with self.lock:
            return int(getattr(self, name)()) & (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        """A store of `width` bytes at `offset`."""
        name = self._stores.get(offset)
        if name is not None:
            with self.lock:
                getattr(self, name)(value & (1 << 8 * width) - 1)

    def _state(self) -> dict[str, int]:
        """Fields of the state, with the most that their numbers may be."""
        kept = [each for each in fields(self) if not each.metadata.get("host")]
        return {each.name: each.metadata.get("most", 0) for each in kept}

    def save(self) -> dict[str, Any]:
        """The state by field, as plain values of its own."""
        with self.lock:
            return {name: deepcopy(getattr(self, name)) for name in self._state()}

    def load(self, state: dict[str, Any]) -> None:
        """Become what `save` gave. Raises `DeviceError`, with nothing changed, for fields that are
        missing, unknown, of another kind or length, or out of range."""
        limits = self._state()
        if state.keys() != limits.keys():
            raise DeviceError(f"{self.compatible}: a state with fields {sorted(state)}")
        with self.lock:
            for name, value in state.items():
                if not _fits(value, getattr(self, name), limits[name]):
                    raise DeviceError(f"{self.compatible}: {name} cannot be {value!s:.60}")
            for name, value in state.items():
                setattr(self, name, deepcopy(value))
            self.settle()

    def reset(self) -> None:
        """The state after power-on; the wiring stays."""
        fresh = type(self)()
        with self.lock:
            for name in self._state():
                setattr(self, name, getattr(fresh, name))
            self.settle()

    def settle(self) -> None:
        """Bring the wires to what the state says."""

    def close(self) -> None:
        """Give back what it holds of the host's; nobody uses it any more."""


def _fits(value: object, now: object, most: int) -> bool:
    """Whether a saved value can take the place of `now`."""
    if type(value) is not type(now):
        return False
    if isinstance(value, list):
        assert isinstance(now, list)
        return len(value) == len(now) and all(_fits(each, now[0], most) for each in value)
    if isinstance(value, bytearray):
        return len(value) <= most
    return isinstance(value, bool) or (isinstance(value, int) and 0 <= value <= most)
