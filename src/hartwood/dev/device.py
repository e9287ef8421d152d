"""What every device is: registers at offsets, state that can be saved, a reset.

A register is a method marked `@reg(offset)`: with a parameter it is what a store does, without one
what a load gives. Fields of the dataclass are the device's state, except those made by `host()`:
wiring, which no snapshot holds.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from hartwood.errors import Error

#: A wire that is raised or lowered.
Line = Callable[[bool], None]
#: Takes what a device puts out.
Sink = Callable[[bytes], None]
_Method = TypeVar("_Method", bound=Callable[..., Any])


class DeviceError(Error):
    """A saved state that is none of this device's."""


def unwired(_: object) -> None:
    """What a wire does that leads nowhere."""


def host(default: Callable[[Any], None] = unwired) -> Any:
    """A field that is wiring."""
    return field(default=default, metadata={"host": True}, repr=False, compare=False)


def reg(offset: int) -> Callable[[_Method], _Method]:
    """Mark a method as the register at `offset`."""

    def mark(method: _Method) -> _Method:
        method.__dict__["offset"] = offset
        return method

    return mark


@dataclass
class Device:
    """The base of all devices. Accesses of any width reach the register at the first byte; where
    there is none a load gives 0 and a store does nothing."""

    compatible: ClassVar[str]
    size: ClassVar[int]
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
        return 0 if name is None else int(getattr(self, name)()) & (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        """A store of `width` bytes at `offset`."""
        name = self._stores.get(offset)
        if name is not None:
            getattr(self, name)(value & (1 << 8 * width) - 1)

    def _state(self) -> list[str]:
        return [each.name for each in fields(self) if not each.metadata.get("host")]

    def save(self) -> dict[str, Any]:
        """The state by field, as plain values of its own."""
        return {name: deepcopy(getattr(self, name)) for name in self._state()}

    def load(self, state: dict[str, Any]) -> None:
        """Become what `save` gave. Raises `DeviceError`, with nothing changed, for fields that are
        missing, unknown, or of another kind or length."""
        if state.keys() != set(self._state()):
            raise DeviceError(f"{self.compatible}: a state with fields {sorted(state)}")
        for name, value in state.items():
            now = getattr(self, name)
            same = type(value) is type(now) and (
                not isinstance(value, list) or self._fits(value, now)
            )
            if not same:
                raise DeviceError(f"{self.compatible}: {name} cannot be {value!r}")
        for name, value in state.items():
            setattr(self, name, deepcopy(value))
        self.settle()

    @staticmethod
    def _fits(value: list[Any], now: list[Any]) -> bool:
        return len(value) == len(now) and all(type(each) is int for each in value)

    def reset(self) -> None:
        """The state after power-on; the wiring stays."""
        fresh = type(self)()
        for name in self._state():
            setattr(self, name, getattr(fresh, name))
        self.settle()

    def settle(self) -> None:
        """Bring the wires to what the state says."""
