"""A directory of the host's, and no way out of it.

Every name is opened from its parent's descriptor and never followed as a link, whoever changes the
tree meanwhile (openat(2), O_PATH and O_NOFOLLOW in open(2)); only plain files and directories are
opened for more than to look at them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL, ENAMETOOLONG, EPERM, EROFS
from pathlib import Path

#: From the root of the tree; () is the root itself.
Names = tuple[bytes, ...]
#: What a guest may say when it opens a file; the numbers are those of asm-generic/fcntl.h.
FLAGS = os.O_ACCMODE | os.O_TRUNC | os.O_APPEND | os.O_DSYNC | os.O_SYNC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_NAME, _LONGEST = 255, 4096


def refuse(number: int) -> OSError:
    """The error with this number."""
    return OSError(number, os.strerror(number))


def checked(names: Names) -> Names:
    """Names of files and nothing else. Raises `OSError`."""
    for name in names:
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise refuse(EINVAL)
        if len(name) > _LONGEST_NAME:
            raise refuse(ENAMETOOLONG)
    if sum(len(name) + 1 for name in names) > _LONGEST:
        raise refuse(ENAMETOOLONG)
    return names


class Tree:
    """Files below `root`. Every method raises `OSError` as the system calls do; EROFS with
    `readonly` for all that changes something."""

    def __init__(self, root: str | Path, readonly: bool = False) -> None:
        self.readonly = readonly
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Give the root back; the tree cannot be used any more."""
        os.close(self._root)

    @contextmanager
    def _look(self, names: Names) -> Iterator[int]:
        """A descriptor that stands for a file, whatever it is."""
        file = os.open(".", _LOOK, dir_fd=self._root)
        try:
            for name in checked(names):
                above, file = file, os.open(name, _LOOK, dir_fd=file)
                os.close(above)
            yield file
        finally:
            os.close(file)

    @contextmanager
    def _parent(self, names: Names) -> Iterator[tuple[int, bytes]]:
        """The directory that something is to be changed in, and its name there."""
        self._changes()
        if not names:
            raise refuse(EPERM)
        checked(names)
        with self._look(names[:-1]) as directory:
            yield directory, names[-1]

    def _changes(self) -> None:
        if self.readonly:
            raise refuse(EROFS)

    # Looking.
    def stat(self, names: Names) -> os.stat_result:
        """lstat(2)."""
        with self._look(names) as file:
            return os.fstat(file)

    def statfs(self, names: Names) -> os.statvfs_result:
        """statvfs(3)."""
        with self._look(names) as file:
            return os.fstatvfs(file)

    def readlink(self, names: Names) -> bytes:
        """readlink(2)."""
        with self._look(names) as file:
            return os.readlink(b"", dir_fd=file)

    def open(self, names: Names, flags: int) -> int:
        """Open a plain file or a directory; EPERM for anything else."""
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self._changes()
        with self._look(names) as file:
            mode = os.fstat(file).st_mode
            if stat.S_ISDIR(mode):
                flags |= os.O_DIRECTORY
            elif not stat.S_ISREG(mode):
                raise refuse(EPERM)
            return os.open(f"/proc/self/fd/{file}", flags | os.O_CLOEXEC)

    # Changing.
    def create(self, names: Names, flags: int, mode: int, exclusive: bool) -> int:
        """Make a plain file and open it, or open what is there unless it has to be new."""
        with self._parent(names) as (directory, name):
            new = flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                file = os.open(name, new, mode, dir_fd=directory)
            except FileExistsError:
                if exclusive:
                    raise
                return self.open(names, flags)
        os.fchmod(file, mode)  # the guest has applied its own umask
        return file

    def mkdir(self, names: Names, mode: int) -> None:
        """mkdir(2)."""
        with self._parent(names) as (directory, name):
            os.mkdir(name, mode, dir_fd=directory)
        self.chmod(names, mode)

    def symlink(self, names: Names, target: bytes) -> None:
        """symlink(2); nothing here follows it."""
        with self._parent(names) as (directory, name):
            os.symlink(target, name, dir_fd=directory)

    def link(self, old: Names, new: Names) -> None:
        """link(2)."""
        with self._parent(old) as (source, name), self._parent(new) as (directory, other):
            os.link(name, other, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)

    def rename(self, old: Names, new: Names) -> None:
        """rename(2)."""
        with self._parent(old) as (source, name), self._parent(new) as (directory, other):
            os.rename(name, other, src_dir_fd=source, dst_dir_fd=directory)

    def remove(self, names: Names, directory: bool) -> None:
        """unlink(2) or rmdir(2)."""
        with self._parent(names) as (parent, name):
            (os.rmdir if directory else os.unlink)(name, dir_fd=parent)

    @contextmanager
    def _plain(self, names: Names) -> Iterator[str]:
        """A path to a plain file or a directory, for calls that take no descriptor."""
        self._changes()
        with self._look(names) as file:
            mode = os.fstat(file).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise refuse(EPERM)
            yield f"/proc/self/fd/{file}"

    def chmod(self, names: Names, mode: int) -> None:
        """chmod(2), without set-user-ID and set-group-ID."""
        with self._plain(names) as path:
            os.chmod(path, mode & 0o1777)

    def utime(self, names: Names, times: tuple[int, int]) -> None:
        """utimensat(2), in nanoseconds."""
        with self._plain(names) as path:
            os.utime(path, ns=times)

    def truncate(self, names: Names, size: int) -> None:
        """truncate(2)."""
        file = self.open(names, os.O_WRONLY)
        try:
            os.ftruncate(file, size)
        finally:
            os.close(file)
