"""Things in time: harts, the run loop, what stops them."""

from __future__ import annotations


def __getattr__(name: str) -> object:
    if name in ("Hart", "Machine", "Stop"):
        from hartwood.machine import hart

        return getattr(hart, name)
    if name in ("Processor", "new_bus"):
        from hartwood.machine import bare

        return getattr(bare, name)
    raise AttributeError(name)
