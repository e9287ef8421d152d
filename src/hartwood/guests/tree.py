"""A guest's file system before it lies on a disk: names, owners, modes and contents.

Nothing of it touches the host's file system, so no root is needed for owners and device nodes, and
no name or link in a hostile package leads out of it.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from hartwood.guests.catalog import GuestError

LINKS = 40  # symbolic links that one path may lead through: path_resolution(7)
PATH = 4096  # characters of a path: Linux's PATH_MAX
NAME = 255  # bytes of one name: ext4, and Linux's NAME_MAX


@dataclass(eq=False)
class Node:
    """One inode. `mode` has the kind and the permissions, as in inode(7).

    `span` is where a file's content lies in its tree's store (offset, bytes), `target` what a
    symbolic link says, `device` a device node's numbers (major, minor). A node under two names is
    a hard link. An `implied` directory is one that only its children told of.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    span: tuple[int, int] = (0, 0)
    target: str = ""
    device: tuple[int, int] = (0, 0)
    children: dict[str, Node] = field(default_factory=dict)
    implied: bool = False

    @property
    def is_directory(self) -> bool:
        """Whether it has children to speak of."""
        return stat.S_ISDIR(self.mode)


class Tree:
    """Nodes by path, and `store`, the file that their contents are kept in (at most `limit` bytes).

    Paths are relative to the tree's root with or without a leading slash. Every method raises
    `GuestError` for a path that a tree cannot have.
    """

    def __init__(self, store: IO[bytes], *, limit: int) -> None:
        self.store = store
        self.limit = limit
        self.root = Node(stat.S_IFDIR | 0o755, implied=True)
        self._end = 0

    def add(self, path: str, node: Node) -> None:
        """Put `node` at `path` as dpkg does: through links to directories, over an older file.

        A directory, or a link to one, that is there already stays.
        """
        parts = _parts(path)
        if not parts:
            if not node.is_directory:
                raise GuestError(f"{path!r}: the root of a file system is a directory")
            _take_over(self.root, node)
            return
        parent = self._walk(parts[:-1], make=True)
        older = parent.children.get(parts[-1])
        if node.is_directory and older is not None:
            if stat.S_ISLNK(older.mode):
                older = self._walk(parts, make=True)
            if not older.is_directory:
                raise GuestError(f"{path}: is a file, and a package has a directory there")
            _take_over(older, node)
            return
        if older is not None and older.is_directory:
            raise GuestError(f"{path}: is a directory, and a package has a file there")
        parent.children[parts[-1]] = node

    def __contains__(self, path: str) -> bool:
        """Whether there is something at `path`, through symbolic links."""
        try:
            return bool(self.find(path))
        except GuestError:
            return False

    def file(self, path: str, content: bytes, mode: int = 0o644, group: int = 0) -> None:
        """A file of root's with `content`."""
        span = self.keep(io.BytesIO(content), len(content), path)
        self.add(path, Node(stat.S_IFREG | mode, gid=group, span=span))

    def directory(self, path: str, mode: int = 0o755) -> None:
        """A directory of root's."""
        self.add(path, Node(stat.S_IFDIR | mode))

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self.add(path, Node(stat.S_IFLNK | 0o777, target=target))

    def keep(self, source: IO[bytes], size: int, path: str) -> tuple[int, int]:
        """Copy `size` bytes to the store and say where they are; `path` is for the complaint."""
        start, self._end = self._end, self._end + size
        if size < 0 or self._end > self.limit:
            raise GuestError(f"{path}: more than {self.limit >> 20} MiB of files")
        self.store.seek(start)
        while size:
            piece = source.read(min(size, 1 << 20))
            if not piece:
                raise GuestError(f"{path}: ends {size} bytes early")
            self.store.write(piece)
            size -= len(piece)
        return start, self._end - start

    def find(self, path: str, *, follow: bool = True) -> Node:
        """The node at `path`, through symbolic links; the last one only with `follow`."""
        parts = _parts(path)
        if not follow and parts:
            found = self._walk(parts[:-1]).children.get(parts[-1])
            if found is None:
                raise GuestError(f"{path}: no such file in the guest")
            return found
        return self._walk(parts)

    def read(self, path: str) -> bytes:
        """The content of the file at `path`."""
        offset, size = self.find(path).span
        self.store.seek(offset)
        return self.store.read(size)

    def paths(self) -> Iterator[tuple[str, Node]]:
        """Every path below the root with its node, parents first."""
        todo = [("", self.root)]
        while todo:
            path, node = todo.pop()
            for name, child in sorted(node.children.items(), reverse=True):
                todo.append((f"{path}/{name}", child))
            if path:
                yield path, node

    def _walk(self, parts: list[str], *, make: bool = False) -> Node:
        """Follow `parts`, symbolic links within the tree included; `make` directories that miss."""
        todo, trail, links = parts[::-1], [self.root], 0
        while todo:
            name = todo.pop()
            if name == "..":  # of a link: no higher than the root
                del trail[max(1, len(trail) - 1) :]
                continue
            node = trail[-1].children.get(name)
            if node is None:
                if not make or not trail[-1].is_directory:
                    raise GuestError(f"{'/'.join(parts)}: no such file in the guest")
                node = trail[-1].children[name] = Node(stat.S_IFDIR | 0o755, implied=True)
            if stat.S_ISLNK(node.mode):
                links += 1
                if links > LINKS:
                    raise GuestError(f"{'/'.join(parts)}: too many symbolic links")
                if node.target.startswith("/"):
                    del trail[1:]
                todo += [part for part in node.target.split("/") if part not in ("", ".")][::-1]
                continue
            if (make or todo) and not node.is_directory:
                raise GuestError(f"{'/'.join(parts)}: {name} is not a directory")
            trail.append(node)
        return trail[-1]


def _take_over(older: Node, newer: Node) -> None:
    if older.implied:
        older.mode, older.uid, older.gid = newer.mode, newer.uid, newer.gid
        older.mtime, older.implied = newer.mtime, newer.implied


def _parts(path: str) -> list[str]:
    if len(path) > PATH:
        raise GuestError(f"{path[:80]!r}...: no path that a package may have")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for part in parts:
        if part == ".." or "\0" in part or len(part.encode(errors="surrogateescape")) > NAME:
            raise GuestError(f"{path!r}: no path that a package may have")
    return parts
