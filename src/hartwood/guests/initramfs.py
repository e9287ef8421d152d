"""An initial file system in memory for a kernel: cpio archives in the "newc" format.

Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel; made without root,
since device nodes are only described.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

from hartwood.errors import Error

#: Bits of a file's kind in its mode.
DIRECTORY, FILE, LINK, CHARACTER = stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR
_END = "TRAILER!!!"


class InitramfsError(Error):
    """A file that a cpio archive cannot hold."""


class Initramfs:
    """An archive under construction; paths are relative, parents come before their children."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def directory(self, path: str, mode: int = 0o755) -> None:
        """An empty directory."""
        self._add(path, DIRECTORY | mode)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """A file with its content."""
        self._add(path, FILE | mode, data)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._add(path, LINK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """A character device."""
        self._add(path, CHARACTER | mode, device=(major, minor))

    def files(self, files: Mapping[str, bytes], mode: int = 0o644) -> None:
        """Several files, with the directories they lie in."""
        for path, data in sorted(files.items()):
            parts = path.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                parent = "/".join(parts[:depth])
                if parent not in self._names:
                    self.directory(parent)
            self.file(path, data, mode)

    def _add(
        self, path: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        name = path.strip("/")
        if not name or "\0" in name or ".." in name.split("/") or name == _END:
            raise InitramfsError(f"{path!r} is no path for an initramfs")
        if name in self._names:
            raise InitramfsError(f"{name}: is in the initramfs already")
        if len(data) >= 1 << 32:
            raise InitramfsError(f"{name}: {len(data)} bytes are too many for a cpio archive")
        self._names.add(name)
        self._parts.append(self._entry(name, mode, data, device))

    def _entry(self, name: str, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
        encoded = name.encode() + b"\0"
        links = 2 if mode & stat.S_IFMT(mode) == DIRECTORY else 1
        # ino mode uid gid nlink mtime filesize major minor rmajor rminor namesize check
        numbers = (
            len(self._parts) + 1, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(encoded), 0,
        )  # fmt: skip
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    def archive(self) -> bytes:
        """The finished archive; the kernel takes it as it is."""
        end = self._entry(_END, 0, b"", (0, 0))
        whole = b"".join([*self._parts, end])
        return whole + bytes(-len(whole) % 512)
