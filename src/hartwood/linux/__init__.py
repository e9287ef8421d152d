"""User-mode Linux for riscv64 guests: processes, system calls, signals, threads."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.process import Process as Process

__all__ = ["Process"]


def __getattr__(name: str) -> object:
    if name == "Process":
        from hartwood.linux.process import Process

        return Process
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
