"""Guest memory: the flat address space of user-mode programs."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.mem.flat import FlatSpace as FlatSpace

__all__ = ["FlatSpace"]


def __getattr__(name: str) -> object:
    if name == "FlatSpace":
        from hartwood.mem.flat import FlatSpace

        return FlatSpace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
