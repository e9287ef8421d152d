"""Opening an image by name; the format is guessed only where a guess cannot be turned against us.

A guest that writes a qcow2 header into its raw disk would choose, at the next start, which of the
host's bytes it is given. So a file that begins like another format is never taken for raw.
"""

from __future__ import annotations

import errno
import os
from builtins import open as open_file

from hartwood.errors import DiskError
from hartwood.storage.image import Image
from hartwood.storage.layered import Overlay
from hartwood.storage.raw import Raw

FORMATS = ("raw", "qcow2")
#: Where and how formats begin that a raw disk must not be taken for (libmagic; qemu's probes).
MAGICS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0, b"QED\0", "qed"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
)


def magic_of(path: str) -> str:
    """The format that the file at `path` begins like, or "raw" for none that is known."""
    try:
        with open_file(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DiskError(path, os.strerror(error.errno or errno.EIO), error.errno or 0) from None
    for at, magic, name in MAGICS:
        if head[at : at + len(magic)] == magic:
            return name
    return "raw"


def open(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    sector: int = 512,
    readonly: bool = False,
    serial: str = "",
    backing: Image | None = None,
) -> Image:
    """The image at `path` as a disk. Raises `DiskError`.

    `backing` is what a qcow2 image stands on; it stays the caller's to close. Without `format` only
    a file that begins like no format at all is opened, as raw.
    """
    path = os.fspath(path)
    if format is None:
        format = magic_of(path)
        if format != "raw":
            raise DiskError(
                path,
                f"begins like a {format} image; say format={format}, "
                "or format=raw if a guest wrote that",
                errno.EINVAL,
            )
    if format == "raw" and backing is None:
        return Raw(path, sector=sector, readonly=readonly, serial=serial)
    if format == "qcow2":
        from hartwood.storage.qcow2 import Qcow2

        return Qcow2(path, sector=sector, readonly=readonly, serial=serial, backing=backing)
    raise DiskError(path, f"format={format}; it is one of {', '.join(FORMATS)}", errno.EINVAL)


def create(
    path: str | os.PathLike[str], size: int, format: str = "raw", *, backing: str = ""
) -> None:
    """Make a new disk of `size` bytes, all zeros or what `backing` holds. Raises `DiskError`.

    Never overwrites a file. `backing` is written into a qcow2 header for people to read.
    """
    path = os.fspath(path)
    if format == "raw" and not backing:
        Raw.create(path, size)
    elif format == "qcow2":
        from hartwood.storage.qcow2 import Qcow2

        kind = "qcow2" if backing and magic_of(backing) == "qcow2" else "raw"
        Qcow2.create(path, size, backing=backing, backing_format=kind)
    else:
        what = "backing needs format=qcow2" if format == "raw" else f"format={format} is unknown"
        raise DiskError(path, f"{what}; formats are {', '.join(FORMATS)}", errno.EINVAL)


def overlay(base: Image, path: str | os.PathLike[str] | None = None) -> Image:
    """A disk over `base`, which is never written: changes are in memory (`Overlay.save` keeps
    them), or in a new qcow2 file at `path`, to be opened again with `backing=`."""
    if path is None:
        return Overlay(base)
    from hartwood.storage.qcow2 import Qcow2

    create(path, base.size, "qcow2", backing=os.path.abspath(base.path))
    return Qcow2(os.fspath(path), sector=base.sector, serial=base.serial, backing=base)
