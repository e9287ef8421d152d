"""Flat guest memory: the guest's whole address space is one host reservation.

Host address = `base` + guest address. Guest page protection is host page protection (never
host-executable), so that an access of translated code needs no check: the host's MMU does it.
"""

from __future__ import annotations

from _thread import RLock, _local
from errno import EFAULT, EINVAL, ENOMEM

from hartwood.errors import MappingError, MemoryFault
from hartwood.mem import hostmem
from hartwood.mem.regions import EXEC, PAGE, READ, WRITE, Region, RegionMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    _Method = TypeVar("_Method", bound=Callable[..., object])

#: Addresses below this belong to user space under Sv39 (RISC-V kernel, TASK_SIZE).
LIMIT = 1 << 38
#: Inaccessible bytes on either side: small displacements and sequential kernel copies end there.
GUARD = 1 << 20
#: Where the reservation goes when that is free: a fixed place keeps images in the code cache valid.
PREFERRED_BASE = 0x2000_0000_0000
#: Linux refuses mappings below this (vm.mmap_min_addr).
LOWEST = 0x10000

_PAGE_MASK = PAGE - 1
_RESERVED = hostmem.MAP_PRIVATE | hostmem.MAP_ANONYMOUS | hostmem.MAP_NORESERVE


def host_protection(prot: int) -> int:
    """Host protection for a guest one: never executable; write and exec imply read as on Linux."""
    if prot & WRITE:
        return READ | WRITE
    return READ if prot & (READ | EXEC) else 0


def _locked(method: _Method) -> _Method:
    """Hold the space's lock for the length of a call."""

    def call(self: FlatSpace, *arguments: object, **options: object) -> object:
        with self.lock:
            return method(self, *arguments, **options)

    call.__doc__ = method.__doc__
    return call  # type: ignore[return-value]


class _ThreadCopier(_local):
    """Copy buffers of a thread's own: Python may change threads between two of its lines."""

    def __init__(self) -> None:
        copier = hostmem.Copier()
        self.read = copier.read
        self.write = copier.write


class FlatSpace:
    """A guest address space of 2**38 bytes inside one host reservation.

    Addresses and sizes are in bytes; mapping calls want them page-aligned. Every mapping call
    raises `MappingError` with a Linux errno, every access `MemoryFault`. Calls that change the map
    take `lock`; so must whoever wants two of them to be one.
    `commit_limit` bounds the private writable memory (bytes); beyond it mapping gives ENOMEM.
    """

    def __init__(self, *, commit_limit: int | None = None, top: int = LIMIT - PAGE) -> None:
        self.limit = LIMIT
        self.base = self._reserve()
        self.commit_limit = commit_limit
        #: Free space is searched downwards from here; the loader lowers it below the stack.
        self.mmap_top = top
        self.regions = RegionMap()
        #: Pages whose host mapping lost write permission because they hold translated code.
        self.protected_pages: set[int] = set()
        #: Called with (start, end) when executable memory was mapped, unmapped or re-protected.
        self.on_code_change: Callable[[int, int], None] | None = None
        self._copier = _ThreadCopier()
        #: Held by whatever changes the map, by the engine while it looks at code, and by a fork.
        self.lock = RLock()

    def _reserve(self) -> int:
        size = LIMIT + 2 * GUARD
        flags = _RESERVED | hostmem.MAP_FIXED_NOREPLACE
        try:
            return hostmem.mmap(PREFERRED_BASE - GUARD, size, 0, flags) + GUARD
        except MappingError:
            return hostmem.mmap(0, size, 0, _RESERVED) + GUARD

    def close(self) -> None:
        """Give the whole reservation back to the host; the space is unusable afterwards."""
        self.regions.clear()
        hostmem.munmap(self.base - GUARD, LIMIT + 2 * GUARD)

    @_locked
    def reset(self) -> None:
        """Unmap everything (execve): the space is as new."""
        hostmem.mmap(self.base, LIMIT, 0, _RESERVED | hostmem.MAP_FIXED)
        self.regions.clear()
        self.protected_pages.clear()
        self.code_changed(0, LIMIT)

    # Mapping.
    @_locked
    def map(
        self,
        at: int,
        size: int,
        prot: int,
        *,
        flags: int = hostmem.MAP_PRIVATE | hostmem.MAP_ANONYMOUS,
        fd: int = -1,
        offset: int = 0,
        path: str = "",
        device: int = 0,
        inode: int = 0,
    ) -> None:
        """Map [at, at+size), replacing what is there; `flags` are Linux's MAP_ flags."""
        size = self._checked(at, size, "mmap")
        end = at + size
        shared = bool(flags & hostmem.MAP_SHARED)
        region = Region(
            at,
            end,
            prot & 7,
            shared=shared,
            noreserve=bool(flags & hostmem.MAP_NORESERVE),
            path=path,
            offset=offset,
            device=device,
            inode=inode,
        )
        self._check_commit(region.committed, at, end, "mmap")
        flags = flags & ~hostmem.MAP_FIXED_NOREPLACE | hostmem.MAP_FIXED
        try:
            hostmem.mmap(self.base + at, size, host_protection(prot), flags, fd, offset)
        except MappingError as error:
            self._mend(at, end)
            raise MappingError(error.errno, "mmap", at, size) from None
        self._forget_protection(at, end)
        had_code = self.regions.put(region)
        if had_code or prot & EXEC:
            self.code_changed(at, end)

    @_locked
    def adopt(self, at: int, size: int, prot: int, *, shared: bool, path: str) -> None:
        """Note a mapping that the host made inside the reservation by itself (shmat)."""
        self._forget_protection(at, at + size)
        had_code = self.regions.put(Region(at, at + size, prot, shared=shared, path=path))
        if had_code or prot & EXEC:
            self.code_changed(at, at + size)

    @_locked
    def unmap(self, at: int, size: int) -> None:
        """Unmap [at, at+size); unmapped parts of it do not matter."""
        size = self._checked(at, size, "munmap")
        end = at + size
        if self.regions.is_free(at, end):
            return
        hostmem.mmap(self.base + at, size, 0, _RESERVED | hostmem.MAP_FIXED)
        self._forget_protection(at, end)
        if self.regions.carve(at, end):
            self.code_changed(at, end)

    @_locked
    def protect(self, at: int, size: int, prot: int) -> None:
        """Change the protection of [at, at+size); ENOMEM at the first unmapped page."""
        size = self._checked(at, size, "mprotect", allow_empty=True)
        end = at + size
        position = at
        for region in self.regions.over(at, end):
            if region.start > position:
                break
            stop = min(region.end, end)
            part = region.part(position, stop)
            part.prot = prot & 7
            if part.committed and not region.committed:
                self._check_commit(part.committed, 0, 0, "mprotect")
            if part.prot != region.prot or self.protected_pages:
                hostmem.mprotect(self.base + position, stop - position, host_protection(prot))
                self._forget_protection(position, stop)
                self.regions.put(part)
                if (part.prot | region.prot) & EXEC:
                    self.code_changed(position, stop)
            position = stop
        if position < end:
            raise MappingError(ENOMEM, "mprotect", at, size)

    @_locked
    def remap(self, at: int, old: int, new: int, *, may_move: bool, target: int | None) -> int:
        """Resize or move a mapping as mremap(2) does; the new guest address.

        Raises `MappingError`: EFAULT where the old range is not one mapping, ENOMEM without room.
        """
        old = self._checked(at, old, "mremap")
        new = self._checked(0, new, "mremap")
        region = self.regions.at(at)
        if region is None or region.end < at + old:
            raise MappingError(EFAULT, "mremap", at, old)
        self.unprotect_code(at, at + old)
        if new > old and region.committed:
            self._check_commit(new - old, 0, 0, "mremap")
        if target is None:
            if new <= old:
                if new < old:
                    self.unmap(at + new, old - new)
                return at
            room_end = at + new
            if room_end <= LIMIT and self.regions.is_free(at + old, room_end):
                self._grow(region, at + old, room_end)
                return at
            if not may_move:
                raise MappingError(ENOMEM, "mremap", at, old)
            target = self.find_free(new)
        else:
            self._checked(target, new, "mremap")
            if target < at + old and at < target + new:
                raise MappingError(EINVAL, "mremap", at, old)
            self.unmap(target, new)
            if new < old:
                self.unmap(at + new, old - new)
                old = new
        self._move(region.part(at, at + old), target, new)
        return target

    def _grow(self, region: Region, start: int, end: int) -> None:
        """Extend the region that ends at `start` up to `end`; what lies between is free."""
        tail = region.part(region.start, start)
        if not region.shared and not region.inode:
            # An equal private anonymous mapping beside it is one mapping for the kernel too.
            tail = region.part(start, start)
            tail.end = end
            flags = _RESERVED if region.noreserve else _RESERVED & ~hostmem.MAP_NORESERVE
            hostmem.mmap(
                self.base + start,
                end - start,
                host_protection(region.prot),
                flags | hostmem.MAP_FIXED,
            )
        else:
            # A file mapping can only grow by mremap, and that wants the place really free.
            size = start - region.start
            hostmem.munmap(self.base + start, end - start)
            try:
                hostmem.mremap(self.base + region.start, size, end - region.start, 0)
            except MappingError:
                hostmem.mmap(
                    self.base + start, end - start, 0, _RESERVED | hostmem.MAP_FIXED_NOREPLACE
                )
                raise
            tail.end = end
        self.regions.put(tail)
        if region.prot & EXEC:
            self.code_changed(start, end)

    def _move(self, source: Region, target: int, size: int) -> None:
        old = source.end - source.start
        flags = hostmem.MREMAP_MAYMOVE | hostmem.MREMAP_FIXED
        try:
            hostmem.mremap(self.base + source.start, old, size, flags, self.base + target)
        except MappingError as error:
            self._mend(target, target + size)
            if error.errno != EFAULT or source.shared or source.inode:
                raise
            # After a fork the kernel may hold one mapping in several pieces and move none.
            self._copy_pages(source, target, size)
        hostmem.mmap(self.base + source.start, old, 0, _RESERVED | hostmem.MAP_FIXED)
        had_code = self.regions.carve(source.start, source.end)
        moved = source.part(source.start, source.end)
        moved.start, moved.end = target, target + size
        self.regions.put(moved)
        if had_code:
            self.code_changed(source.start, source.end)
            self.code_changed(target, target + size)

    def _copy_pages(self, source: Region, target: int, size: int) -> None:
        flags = _RESERVED if source.noreserve else _RESERVED & ~hostmem.MAP_NORESERVE
        hostmem.mmap(self.base + target, size, READ | WRITE, flags | hostmem.MAP_FIXED)
        step = hostmem.COPY_BUFFER
        length = min(size, source.end - source.start)
        for at in range(0, length, step):
            data = self._copier.read(self.base + source.start + at, min(step, length - at))
            self._copier.write(self.base + target + at, data)
        hostmem.mprotect(self.base + target, size, host_protection(source.prot))

    @_locked
    def find_free(self, size: int, hint: int = 0) -> int:
        """Where a mapping of `size` bytes goes: at `hint` if free, else the highest gap.

        Top-down and without randomisation, so that every run has the same layout.
        """
        size = size + _PAGE_MASK & ~_PAGE_MASK
        hint &= ~_PAGE_MASK
        if LOWEST <= hint <= LIMIT - size and self.regions.is_free(hint, hint + size):
            return hint
        gap = self.regions.highest_gap(size, LOWEST, self.mmap_top)
        if gap is None:
            raise MappingError(ENOMEM, "mmap", hint, size)
        return gap

    def _checked(self, at: int, size: int, call: str, *, allow_empty: bool = False) -> int:
        """The size in whole pages, if [at, at+size) is a page-aligned range of guest addresses."""
        if at & _PAGE_MASK or (size <= 0 and not (allow_empty and size == 0)):
            raise MappingError(EINVAL, call, at, size)
        whole = size + _PAGE_MASK & ~_PAGE_MASK
        if at < 0 or whole > LIMIT or at + whole > LIMIT:
            raise MappingError(EINVAL if call == "munmap" else ENOMEM, call, at, size)
        return whole

    def _check_commit(self, more: int, start: int, end: int, call: str) -> None:
        if self.commit_limit is None or not more:
            return
        replaced = sum(region.committed for region in self.regions.over(start, end))
        if self.regions.committed + more - replaced > self.commit_limit:
            raise MappingError(ENOMEM, call, start, more)

    def _mend(self, start: int, end: int) -> None:
        """After a refused MAP_FIXED: no hole may be left where the host could map its own."""
        if not hostmem.is_wholly_mapped(self.base + start, end - start):
            hostmem.mmap(self.base + start, end - start, 0, _RESERVED | hostmem.MAP_FIXED)
            if self.regions.carve(start, end):
                self.code_changed(start, end)

    def code_changed(self, start: int, end: int) -> None:
        """Announce that executable memory in [start, end) is not what it was."""
        if self.on_code_change is not None:
            self.on_code_change(start, end)

    # Pages that hold translated code.
    @_locked
    def write_protect(self, va: int) -> None:
        """Make stores to the page of `va` fault on the host while the guest may still write it."""
        page = va & ~_PAGE_MASK
        region = self.regions.at(page)
        if region is not None and region.prot & WRITE and page not in self.protected_pages:
            hostmem.mprotect(self.base + page, PAGE, READ)
            self.protected_pages.add(page)

    def is_write_protected(self, va: int) -> bool:
        """Whether the page of `va` lost its host write permission to `write_protect`."""
        return va & ~_PAGE_MASK in self.protected_pages

    @_locked
    def unprotect_code(self, start: int, end: int) -> bool:
        """Give write permission back in [start, end) and report the code changed; True if any."""
        if not self.protected_pages:
            return False
        first = start & ~_PAGE_MASK
        pages = [page for page in tuple(self.protected_pages) if first <= page < end]
        for page in pages:
            hostmem.mprotect(self.base + page, PAGE, READ | WRITE)
            self.protected_pages.discard(page)
            self.code_changed(page, page + PAGE)
        return bool(pages)

    def release_write_protection(self) -> bool:
        """Give write permission back everywhere; True where there was any to give."""
        return self.unprotect_code(0, LIMIT)

    def _forget_protection(self, start: int, end: int) -> None:
        for page in tuple(self.protected_pages):
            if start <= page < end:
                self.protected_pages.discard(page)

    # Access from Python.
    def read(self, va: int, size: int) -> bytes:
        """`size` bytes at guest address `va`; raises `MemoryFault` at the first missing one."""
        if 0 <= va <= LIMIT - size:
            data = self._copier.read(self.base + va, size)
            if len(data) == size:
                return data
            va += len(data)
        raise MemoryFault(va, size, "read")

    def read_some(self, va: int, size: int) -> bytes:
        """Up to `size` bytes at `va`: what can be read before the first inaccessible page."""
        if not 0 <= va < LIMIT:
            return b""
        return self._copier.read(self.base + va, min(size, LIMIT - va))

    def write(self, va: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at guest address `va`; raises `MemoryFault` where a page is not writable."""
        size = len(data)
        done = 0
        if 0 <= va <= LIMIT - size:
            done = self._copier.write(self.base + va, data)
            if done == size:
                return
            if self.unprotect_code(va, va + size):
                self.write(va, data)
                return
        raise MemoryFault(va + done, size, "write")

    def read_u32(self, va: int) -> int:
        """The little-endian 32-bit word at `va`."""
        return int.from_bytes(self.read(va, 4), "little")

    def read_u64(self, va: int) -> int:
        """The little-endian 64-bit word at `va`."""
        return int.from_bytes(self.read(va, 8), "little")

    def write_u32(self, va: int, value: int) -> None:
        """Store a little-endian 32-bit word."""
        self.write(va, (value & 0xFFFFFFFF).to_bytes(4, "little"))

    def write_u64(self, va: int, value: int) -> None:
        """Store a little-endian 64-bit word."""
        self.write(va, (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little"))

    def read_cstring(self, va: int, limit: int = 4096) -> bytes | None:
        """The bytes before the NUL at `va`; None where none comes within `limit` bytes."""
        parts = b""
        while len(parts) < limit:
            # Strings are mostly short and at the end of a page: never read past it at once.
            step = min(256 - (va + len(parts) & 255), limit - len(parts))
            part = self.read_some(va + len(parts), step)
            end = part.find(0)
            if end >= 0:
                return parts + part[:end] if parts else part[:end]
            parts += part
            if len(part) < step:
                raise MemoryFault(va + len(parts), 1, "read")
        return None

    def view(self, va: int, size: int, *, write: bool = False) -> memoryview:
        """Guest memory as a zero-copy `memoryview` of bytes.

        Raises `MemoryFault` unless all of it is mapped readable (and writable with `write`). Valid
        until the guest unmaps it; a file mapping cut short by truncation still faults on the host.
        """
        access = READ | WRITE if write else READ
        if not (0 <= va <= LIMIT - size and self.regions.allows(va, va + size, access)):
            raise MemoryFault(va, size, "write" if write else "read")
        if write:
            self.unprotect_code(va, va + size)
        return hostmem.view(self.base + va, size)
