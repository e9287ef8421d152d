"""A kernel's modules for an initramfs, in the order in which they can be loaded one by one."""

from __future__ import annotations

import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from hartwood.guests.catalog import GuestError

_OPENERS: dict[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
}


def load_order(folder: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """Modules `wanted` (by name, as lsmod has it) and what they depend on, by the same names.

    `folder` is /lib/modules/RELEASE of an unpacked kernel package, which depmod has not seen: what
    a module depends on is read from itself. The values are ELF files, no longer compressed. What is
    built into the kernel is left out. Raises `GuestError` when one is missing or damaged.
    """
    files = {_name(path): path for path in sorted(folder.rglob("*.ko*"))}
    builtin = {_name(Path(line)) for line in _lines(folder / "modules.builtin")}
    order: dict[str, bytes] = {}
    waiting: list[str] = []

    def take(name: str) -> None:
        if name in order or name in builtin:
            return
        if name in waiting:
            raise GuestError(f"{name}: depends on itself")
        if name not in files:
            raise GuestError(f"{folder}: no kernel module {name}")
        module = _open(files[name])
        waiting.append(name)
        for other in _depends(module):
            take(other)
        waiting.pop()
        order[name] = module

    for name in wanted:
        take(name)
    return order


def _name(path: Path) -> str:
    """virtio-rng.ko.xz is the module virtio_rng."""
    return path.name.partition(".ko")[0].replace("-", "_")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError as error:
        raise GuestError(f"{path}: {error.strerror or error}") from error


def _open(path: Path) -> bytes:
    opener = _OPENERS.get(path.suffix)
    if opener is None:
        raise GuestError(f"{path.name}: a kernel module compressed in an unknown way")
    try:
        module = opener(path.read_bytes())
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise GuestError(f"{path.name}: damaged kernel module: {error}") from error
    if not module.startswith(b"\x7fELF"):
        raise GuestError(f"{path.name}: damaged kernel module: no ELF file")
    return module


def _depends(module: bytes) -> list[str]:
    """The strings of section .modinfo are NUL-terminated; this one is there even when empty."""
    found = re.search(rb"\0depends=([\w,-]*)\0", module)
    return (
        [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []
    )
