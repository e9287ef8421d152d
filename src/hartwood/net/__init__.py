"""What is behind a network card: a network of the guest's own, on the host's sockets."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.net.nat import Forward as Forward
    from hartwood.net.nat import NetError as NetError
    from hartwood.net.nat import UserNet as UserNet

__all__ = ["Forward", "NetError", "UserNet"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hartwood.net import nat

    return getattr(nat, name)
