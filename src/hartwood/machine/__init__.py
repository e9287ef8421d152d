"""Things in time: harts, the run loop, what stops them.

`Machine`, `Hart` and `Stop` are those of user mode, `Processor` on a `new_bus` those of whole
machines, `PageTables` what a bare one may start with.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.machine.bare import Processor as Processor
    from hartwood.machine.bare import new_bus as new_bus
    from hartwood.machine.hart import Hart as Hart
    from hartwood.machine.hart import Machine as Machine
    from hartwood.machine.hart import Stop as Stop
    from hartwood.machine.paging import PageTables as PageTables

__all__ = ["Hart", "Machine", "PageTables", "Processor", "Stop", "new_bus"]


def __getattr__(name: str) -> object:
    if name in ("Hart", "Machine", "Stop"):
        from hartwood.machine import hart

        return getattr(hart, name)
    if name in ("Processor", "new_bus"):
        from hartwood.machine import bare

        return getattr(bare, name)
    if name == "PageTables":
        from hartwood.machine.paging import PageTables

        return PageTables
    raise AttributeError(name)
