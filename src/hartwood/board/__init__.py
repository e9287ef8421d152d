"""Boards: what sits where, and how a kernel is started on it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.board.loader import LoaderError as LoaderError
    from hartwood.board.riscv import BoardError as BoardError
    from hartwood.board.riscv import RiscvBoard as RiscvBoard
    from hartwood.board.riscv_virt import RiscvVirt as RiscvVirt
    from hartwood.board.table import Place as Place
    from hartwood.board.table import Row as Row

__all__ = ["BoardError", "LoaderError", "Place", "RiscvBoard", "RiscvVirt", "Row"]
_HOMES = {
    "BoardError": "riscv",
    "LoaderError": "loader",
    "Place": "table",
    "RiscvBoard": "riscv",
    "RiscvVirt": "riscv_virt",
    "Row": "table",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
