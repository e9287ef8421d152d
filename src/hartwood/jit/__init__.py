"""From definitions to callable machine code: lifting, compiling, linking, invalidation.

What is named here is for those who measure or show the engine's parts; `machine` runs them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.jit.compile import compile_object as compile_object
    from hartwood.jit.compile import module_text as module_text
    from hartwood.jit.flow import Explorer as Explorer
    from hartwood.jit.image import Image as Image
    from hartwood.jit.image import flatten as flatten
    from hartwood.jit.lift import region_text as region_text
    from hartwood.jit.lift import transfer_target as transfer_target
    from hartwood.jit.worker import region_image as region_image

_HOMES = {
    "Explorer": "flow",
    "Image": "image",
    "compile_object": "compile",
    "flatten": "image",
    "module_text": "compile",
    "region_image": "worker",
    "region_text": "lift",
    "transfer_target": "lift",
}
__all__ = [
    "Explorer", "Image", "compile_object", "flatten", "module_text", "region_image", "region_text",
    "transfer_target",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
