"""Plugging the engine into a process."""

from __future__ import annotations

from hartwood.linux.delivery import Dispositions, NativeDelivery

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hartwood.linux.engine import Delivery, Machine
    from hartwood.mem.flat import FlatSpace


def make_machine(engine: str, *, trace: bool) -> Callable[[FlatSpace], tuple[Machine, Delivery]]:
    """How a process of ours gets its engine ("auto", "jit", "interp" or "reference")."""

    def make(space: FlatSpace) -> tuple[Machine, Delivery]:
        from hartwood.machine.hart import Machine as Engine

        before = Dispositions()  # ere the engine takes the signals it needs
        machine = Engine(space, engine, trace=trace)
        return machine, NativeDelivery(machine.engine.signals, before)

    return make
