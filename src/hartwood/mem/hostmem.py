"""The host's memory calls through libc: mapping, protection, copies that cannot crash.

The one module of this room that knows ctypes. Calls keep the GIL (`PyDLL`): they are short, and
a check followed by an access is then not interleaved with another Python thread's unmapping.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from errno import EINVAL
from os import getpid, uname

from hartwood.errors import MappingError

PAGE, PAGE_BITS = 4096, 12

PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE = 0x01, 0x02, 0x03
MAP_TYPE, MAP_FIXED, MAP_ANONYMOUS = 0x0F, 0x10, 0x20
MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x4000, 0x100000
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
MS_ASYNC = 1

#: Bytes that one prebuilt copy buffer holds; longer copies get a buffer of their own.
COPY_BUFFER = 65536

_libc = ctypes.PyDLL(None, use_errno=True)
_word = ctypes.c_ulong


def _bind(name: str, arguments: int) -> ctypes._NamedFuncPointer:
    call = getattr(_libc, name)
    call.restype = ctypes.c_long
    call.argtypes = (_word,) * arguments
    return call  # type: ignore[no-any-return]


_mmap = _bind("mmap", 6)
_munmap = _bind("munmap", 2)
_mprotect = _bind("mprotect", 3)
_mremap = _bind("mremap", 5)
_madvise = _bind("madvise", 3)
_msync = _bind("msync", 3)
_readv = _bind("process_vm_readv", 6)
_writev = _bind("process_vm_writev", 6)

_errno = ctypes.get_errno


def mmap(at: int, size: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    """Map host memory and return its host address; raises `MappingError` with the host's errno."""
    result: int = _mmap(at, size, prot, flags, fd, offset)
    if result == -1:
        raise MappingError(_errno(), "mmap", at, size)
    return result & 0xFFFFFFFFFFFFFFFF


def munmap(at: int, size: int) -> None:
    """Unmap host memory; raises `MappingError`."""
    if _munmap(at, size):
        raise MappingError(_errno(), "munmap", at, size)


def mprotect(at: int, size: int, prot: int) -> None:
    """Change host protection; raises `MappingError`."""
    if _mprotect(at, size, prot):
        raise MappingError(_errno(), "mprotect", at, size)


def mremap(at: int, old: int, new: int, flags: int, target: int = 0) -> int:
    """Resize or move a host mapping and return its host address; raises `MappingError`."""
    result: int = _mremap(at, old, new, flags, target)
    if result == -1:
        raise MappingError(_errno(), "mremap", at, old)
    return result


#: Bytes of a huge page of the host (where it has them).
HUGE = 2 << 20
_HUGEPAGE = 14


def map_huge(size: int, prot: int, flags: int) -> int:
    """Map private memory of whole huge pages, which the host is asked to use: fewer of its own TLB
    misses. Raises `MappingError`."""
    at = mmap(0, size + HUGE, prot, flags)
    start = at + HUGE - 1 & -HUGE
    for end, rest in ((at, start - at), (start + size, at + HUGE - start)):
        if rest:
            munmap(end, rest)
    _madvise(start, size, _HUGEPAGE)  # where the host has none, ordinary pages do
    return start


def madvise(at: int, size: int, advice: int) -> None:
    """Give the host advice about memory; raises `MappingError`."""
    if _madvise(at, size, advice):
        raise MappingError(_errno(), "madvise", at, size)


def fill(at: int, size: int, byte: int) -> None:
    """Set host memory, which the caller knows to be there, to one byte."""
    ctypes.memset(at, byte, size)


def is_wholly_mapped(at: int, size: int) -> bool:
    """Whether every page of a host range belongs to some mapping, whatever its protection."""
    return not _msync(at, size, MS_ASYNC)


class Copier:
    """Copies between Python and any host address, faults reported instead of taken.

    process_vm_readv and process_vm_writev on the own process check the target's mapping and
    protection in the kernel, so that an address from a guest can never crash the host.
    The two iovecs are built once; a copy stores three words and makes one call.
    """

    __slots__ = ("_address", "_buffer", "_iov", "_keep", "_local", "_remote")

    def __init__(self) -> None:
        storage = ctypes.create_string_buffer(COPY_BUFFER)
        vectors = (ctypes.c_uint64 * 4)()
        self._keep = (storage, vectors)
        self._address = ctypes.addressof(storage)
        self._buffer = memoryview(storage).cast("B")
        self._iov = memoryview(vectors).cast("B").cast("Q")
        self._iov[0] = self._address
        self._local = ctypes.addressof(vectors)
        self._remote = self._local + 16

    def read(self, host: int, size: int) -> bytes:
        """Up to `size` bytes at host address `host`; fewer where a page cannot be read."""
        iov = self._iov
        if size <= COPY_BUFFER:
            iov[1] = iov[3] = size
            iov[2] = host
            done = _readv(getpid(), self._local, 1, self._remote, 1, 0)
            return bytes(self._buffer[:done]) if done > 0 else b""
        parts = []
        while size > 0:
            part = self.read(host, min(size, COPY_BUFFER))
            parts.append(part)
            if len(part) < min(size, COPY_BUFFER):
                break
            host += len(part)
            size -= len(part)
        return b"".join(parts)

    def write(self, host: int, data: bytes | bytearray | memoryview) -> int:
        """Copy `data` to host address `host`; the number of bytes written before any fault."""
        iov = self._iov
        size = len(data)
        if size <= COPY_BUFFER:
            self._buffer[:size] = data
            iov[1] = iov[3] = size
            iov[2] = host
            done: int = _writev(getpid(), self._local, 1, self._remote, 1, 0)
            return max(done, 0)
        total = 0
        source = memoryview(data)
        while total < size:
            part = source[total : total + COPY_BUFFER]
            count = self.write(host + total, part)
            total += count
            if count < len(part):
                break
        return total


def view(host: int, size: int) -> memoryview:
    """Host memory as a writable `memoryview` of bytes, zero-copy; the caller vouches for it."""
    return memoryview((ctypes.c_ubyte * size).from_address(host)).cast("B")


#: More than any guest address.
_Reach = ctypes.c_ubyte * (1 << 57)


def view_at(host: int, at: int, size: int) -> memoryview:
    """Host memory as a `memoryview` whose index is a guest address: it is what is at `at`. An
    index below `at` is somebody else's memory; the caller vouches that there is none."""
    return memoryview(_Reach.from_address(host - at)).cast("B")[: at + size]


class Buffer:
    """Host memory of ours at a fixed address, for structures that the host kernel reads."""

    __slots__ = ("_keep", "address", "view")

    def __init__(self, size: int) -> None:
        self._keep = ctypes.create_string_buffer(size)
        self.address = ctypes.addressof(self._keep)
        self.view = memoryview(self._keep).cast("B")


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (_word,) * 7


def syscall(number: int, *arguments: int) -> int:
    """One raw host system call without the GIL; the result or a negative errno."""
    result: int = _syscall(number, *arguments, *(0,) * (6 - len(arguments)))
    return -_errno() if result == -1 else result


#: mbind(2): its number on x86-64 and in the table of all later architectures; policies.
_MBIND = {"x86_64": 237}.get(uname().machine, 235)
_BIND, _INTERLEAVE, _MOST_NODES = 2, 3, 1024


def place(at: int, size: int, nodes: Iterable[int]) -> None:
    """Have host memory come from one NUMA node, or from several by turns; raises `MappingError`."""
    mask, wanted = Buffer(_MOST_NODES // 8), sorted(set(nodes))
    if not wanted or not 0 <= wanted[0] <= wanted[-1] < _MOST_NODES:
        raise MappingError(EINVAL, f"NUMA nodes {wanted}", at, size)
    for node in wanted:
        mask.view[node // 8] |= 1 << node % 8
    policy = _BIND if len(wanted) == 1 else _INTERLEAVE
    if failed := syscall(_MBIND, at, size, policy, mask.address, _MOST_NODES + 1):
        raise MappingError(-failed, f"NUMA nodes {wanted}", at, size)
