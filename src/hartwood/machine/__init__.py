"""Things in time: harts, the run loop, what stops them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.machine.hart import Hart as Hart
    from hartwood.machine.hart import Machine as Machine
    from hartwood.machine.hart import Stop as Stop

__all__ = ["Hart", "Machine", "Stop"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from hartwood.machine import hart

        return getattr(hart, name)
    if name in ("Processor", "new_bus"):
        from hartwood.machine import bare

        return getattr(bare, name)
    raise AttributeError(name)
