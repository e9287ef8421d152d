"""Guest path names: the system root, and the files of /proc that must show the guest."""

from __future__ import annotations

import os
from errno import EMFILE, ENAMETOOLONG

from hartwood.linux import procfs
from hartwood.mem import descriptors, hostmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.process import Process
    from hartwood.linux.task import Task

#: openat2(2): the directory is the root for everything, symbolic links included.
RESOLVE_IN_ROOT = 0x10
SYS_OPENAT2 = 437
PATH_MAX = 4096


class Paths:
    """Where a guest's absolute paths lead: below `root` if such a file is there, else as named.

    The rule is that of QEMU's -L, except that absolute symbolic links below the root stay there.
    """

    def __init__(self, process: Process, root: str | None) -> None:
        self._process = process
        self.root = os.fsencode(os.path.abspath(root)) if root is not None else None
        self._root_fd: int | None = None

    def host_path(self, task: Task, va: int, follow: bool, slot: int = 0) -> int:
        """Host address of the path that a guest pointer means, for a host call.

        The guest's own memory where nothing has to be changed. Raises `MemoryFault`, `OSError`.
        """
        if not va:
            return 0
        path = task.path(va)
        if path[:1] != b"/" or (self.root is None and path[:6] != b"/proc/"):
            return task.base + va
        file = self.translate(path, follow=follow)
        if file is path:
            return task.base + va
        return task.place((0, 8192)[slot], file + b"\0")

    def translate(self, path: bytes, *, follow: bool) -> bytes:
        """The host's path for a guest's; the very same object where nothing changes."""
        if path[:1] != b"/":
            return path
        if path[:6] == b"/proc/":
            process = self._process
            if follow and process.exe and procfs.entry(process, path) == b"exe":
                return process.exe
            return path
        if self.root is None:
            return path
        return self._below_root(path, follow) or path

    def _below_root(self, path: bytes, follow: bool) -> bytes | None:
        """The real path of `path` taken below the root, if it exists there."""
        if len(path) >= PATH_MAX:
            raise OSError(ENAMETOOLONG, "File name too long")
        if self._root_fd is None:
            assert self.root is not None
            with descriptors.Room():
                fd = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                self._root_fd = descriptors.hide(fd)
        flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        # A buffer of the call's own: other threads look up names at the same time.
        buffer = hostmem.Buffer(24 + len(path) + 1)
        view = buffer.view
        view[:24] = b"".join(word.to_bytes(8, "little") for word in (flags, 0, RESOLVE_IN_ROOT))
        view[24 : 24 + len(path)] = path
        at = buffer.address
        fd = hostmem.syscall(SYS_OPENAT2, self._root_fd, at + 24, at, 24)
        if fd == -EMFILE:
            with descriptors.Room():
                fd = hostmem.syscall(SYS_OPENAT2, self._root_fd, at + 24, at, 24)
        if fd < 0:
            return None
        try:
            return os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)
