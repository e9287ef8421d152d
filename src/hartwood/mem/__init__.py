"""Guest memory: the flat address space of user-mode programs, and pools."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.mem.flat import FlatSpace as FlatSpace
    from hartwood.mem.pools import AsyncBufferPool as AsyncBufferPool
    from hartwood.mem.pools import MemoryPool as MemoryPool
    from hartwood.mem.pools import PageTableEntryPool as PageTableEntryPool
    from hartwood.mem.pools import StackPool as StackPool
    from hartwood.mem.pools import TlbEntryPool as TlbEntryPool

_HOMES = {
    "AsyncBufferPool": "pools",
    "FlatSpace": "flat",
    "MemoryPool": "pools",
    "PageTableEntryPool": "pools",
    "StackPool": "pools",
    "TlbEntryPool": "pools",
}
__all__ = [
    "AsyncBufferPool",
    "FlatSpace",
    "MemoryPool",
    "PageTableEntryPool",
    "StackPool",
    "TlbEntryPool",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hartwood.mem.{_HOMES[name]}"), name)
