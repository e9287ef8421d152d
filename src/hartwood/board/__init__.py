"""Boards: what sits where, and how a kernel is started on it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.board.loader import LoaderError as LoaderError
    from hartwood.board.riscv_virt import BoardError as BoardError
    from hartwood.board.riscv_virt import RiscvVirt as RiscvVirt

__all__ = ["BoardError", "LoaderError", "RiscvVirt"]


def __getattr__(name: str) -> object:
    if name in ("BoardError", "RiscvVirt"):
        from hartwood.board import riscv_virt

        return getattr(riscv_virt, name)
    if name == "LoaderError":
        from hartwood.board.loader import LoaderError

        return LoaderError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
