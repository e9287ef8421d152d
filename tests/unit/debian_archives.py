"""Debian archives (deb(5)) with whatever members a test wants, sound in all else."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def member(
    name: str,
    kind: bytes = tarfile.REGTYPE,
    target: str = "",
    mode: int = 0o644,
    **other: int | str,
) -> tarfile.TarInfo:
    """One entry; `other` are uid, gid, mtime, devmajor, devminor (words go to a pax header)."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    for attribute, value in other.items():
        if isinstance(value, str):
            info.pax_headers = {attribute: value}
        else:
            setattr(info, attribute, value)
    return info


def make_package(
    folder: Path,
    members: Sequence[tarfile.TarInfo],
    content: bytes = b"text",
    *,
    control: Mapping[str, bytes] | None = None,
    name: str = "made",
    cut: int | None = None,
) -> Path:
    """An archive in `folder` whose files all have `content`, and its control files.

    With `cut` the tar of its files ends after so many bytes.
    """
    infos = [tarfile.TarInfo(f"./{part}") for part in control or {}]
    parts = (
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", _tar(infos, list((control or {}).values()))),
        ("data.tar.gz", _tar(members, [content] * len(members), cut)),
    )
    made = b"!<arch>\n"
    for part, data in parts:
        made += f"{part:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(data):<10}`\n".encode()
        made += data + b"\n" * (len(data) % 2)
    path = folder / f"{name}_1_all.deb"
    path.write_bytes(made)
    return path


def control_of(name: str, *lines: str, architecture: str = "riscv64") -> bytes:
    """A control file that dpkg takes."""
    fields = [
        f"Package: {name}", "Version: 1", f"Architecture: {architecture}",
        "Maintainer: x <x@x>", *lines, "Description: x",
    ]  # fmt: skip
    return "".join(f"{line}\n" for line in fields).encode()


def _tar(
    infos: Sequence[tarfile.TarInfo], contents: Sequence[bytes], cut: int | None = None
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in zip(infos, contents, strict=True):
            if info.isfile():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if info.isfile() else None)
    return gzip.compress(buffer.getvalue()[:cut])
