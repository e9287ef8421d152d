"""Every exception Hartwood raises on purpose; all are subclasses of `Error`.

The one file every room may import.
"""

from __future__ import annotations

from errno import EIO, ENOEXEC
from os import strerror


class Error(Exception):
    """Base of every error that Hartwood raises. Its text is one line for a person to read."""

    #: What a command that ends with this error exits with.
    exit_status = 1


class EncodingError(Error):
    """An encoding row that is not well formed, or a field value that does not fit its row."""


class LawError(Error):
    """An instruction definition that breaks one of the laws of the house."""


class AssemblyError(Error):
    """A line of assembly that names no instruction or an operand that does not fit."""


class ImageError(Error):
    """An object file or a cached image that cannot become runnable code: damaged or refused."""


class ArenaError(Error):
    """The code arena cannot be reserved, or an image does not fit the use made of it."""


class ArenaFull(ArenaError):
    """No room for another image. `CodeArena.reset` makes room."""


class HostError(Error):
    """Something that this host has no instruction or no system call for."""


class SignalError(Error):
    """The host refuses a signal handler, or too many threads are registered with the runtime."""


class MemoryFault(Error):
    """A guest address that cannot be accessed.

    `address` is the guest address, `size` the bytes wanted, `access` "read" or "write"; `done`
    bytes before that address were read or written by the same call.
    """

    def __init__(self, address: int, size: int, access: str, done: int = 0) -> None:
        super().__init__(f"cannot {access} {size} bytes of guest memory at {address:#x}")
        self.address = address
        self.size = size
        self.access = access
        self.done = done


class AccessError(Error, ValueError):
    """A value, format or size that a call that accesses memory does not take."""


class MappingError(Error):
    """A mapping call that the host or the address space refused; `errno` says why."""

    def __init__(self, errno: int, call: str, at: int, size: int) -> None:
        super().__init__(f"{call} of {size:#x} bytes at {at:#x} failed: {strerror(errno)}")
        self.errno = errno
        self.call = call
        self.at = at
        self.size = size


class LoadError(Error):
    """A program file that cannot be run; names the file and what is wrong with it.

    `errno` is what execve(2) gives a guest for the same file.
    """

    def __init__(self, path: str, reason: str, errno: int = ENOEXEC) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.errno = errno


class DiskError(Error, OSError):
    """A disk image that cannot be used, or a request to it that fails; names the file and why.

    It is an OSError as well: `errno` is what the guest's driver is told.
    """

    exit_status = 2

    def __init__(self, path: str, reason: str, errno: int = EIO) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.errno = errno


class PoolExhausted(Error):
    """A pool's `capacity` items are all in use; release one, or make the pool larger."""


class PoolMisuse(Error):
    """An item released twice, or to a pool that never handed it out."""
