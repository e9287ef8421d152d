"""What is behind a disk: raw and qcow2 images, overlays, asynchronous vectored requests."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.storage.image import Image as Image
    from hartwood.storage.layered import Overlay as Overlay
    from hartwood.storage.opening import create as create
    from hartwood.storage.opening import open as open
    from hartwood.storage.opening import overlay as overlay
    from hartwood.storage.qcow2 import Qcow2 as Qcow2
    from hartwood.storage.queue import Queue as Queue
    from hartwood.storage.queue import Request as Request
    from hartwood.storage.raw import Raw as Raw

_HOMES = {
    "Image": "image",
    "Overlay": "layered",
    "Qcow2": "qcow2",
    "Queue": "queue",
    "Raw": "raw",
    "Request": "queue",
    "create": "opening",
    "open": "opening",
    "overlay": "opening",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hartwood.storage.{_HOMES[name]}"), name)
