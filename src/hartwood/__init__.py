"""Hartwood, a virtual machine in Python. The public door: names are looked up when first used.

    status = hartwood.Process("a.out", ["a.out", "-v"], root="/sysroot").run()

`Process` is user-mode Linux, `Machine` a bare machine, `board` the room of whole ones, `Error` the
base of everything raised on purpose.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood import board as board
    from hartwood.errors import Error as Error
    from hartwood.errors import PoolExhausted as PoolExhausted
    from hartwood.errors import PoolMisuse as PoolMisuse
    from hartwood.linux import Process as Process
    from hartwood.machine.bare import Machine as Machine

__all__ = ["Error", "Machine", "PoolExhausted", "PoolMisuse", "Process", "board"]
_HOMES = {
    "Error": "hartwood.errors",
    "Machine": "hartwood.machine.bare",
    "PoolExhausted": "hartwood.errors",
    "PoolMisuse": "hartwood.errors",
    "Process": "hartwood.linux",
}


def __getattr__(name: str) -> object:
    # PEP 562: importing the package, or one room of it, imports no other room.
    if name == "__version__":
        from importlib.metadata import version

        return version("hartwood")
    from importlib import import_module

    if name == "board":
        return import_module("hartwood.board")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
