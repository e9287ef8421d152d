"""The two shadows of guest code: records for the interpreter, entry slots for translated code.

See `abi.SHADOW`. A guest page that may be executed is *active* when its shadows are backed;
touching the shadow of any other page is a host fault that generated code turns into a fetch exit.
Where other threads may be in the middle of an instruction, a shadow cannot just disappear: it is
*retired*, which means that it stays, with handlers that are fetch exits themselves.
"""

from __future__ import annotations

from array import array

from hartwood.errors import Error, MappingError
from hartwood.jit.abi import ENTRIES, ENTRIES_PER_PAGE, LIMIT, RECORD, SHADOW, SHADOW_PER_PAGE
from hartwood.mem import hostmem

PAGE = 4096
#: Pages whose shadows are kept over an execve at most: 48 KiB each.
_SUSPENDED = 2048
_PRIVATE = hostmem.MAP_PRIVATE | hostmem.MAP_ANONYMOUS
_FLAGS = _PRIVATE | hostmem.MAP_NORESERVE
_READ_WRITE = hostmem.PROT_READ | hostmem.PROT_WRITE
_DONTNEED = 4


class ShadowError(Error):
    """The host has no address space for the shadows of guest code."""


def _reserve(at: int, size: int) -> None:
    try:
        flags = _FLAGS | hostmem.MAP_FIXED_NOREPLACE
        got = hostmem.mmap(at, size, hostmem.PROT_NONE, flags)
    except MappingError as reason:
        raise ShadowError(
            f"cannot reserve {size >> 30} GiB of address space at {at:#x} ({reason}); "
            "raise `ulimit -v` or free the range"
        ) from None
    if got != at:
        hostmem.munmap(got, size)
        raise ShadowError(f"the host has no free address space at {at:#x}")


class Shadow:
    """Records and entry slots of every active page of one address space.

    `decode` and `no_region` are the host addresses that a fresh record and a fresh slot hold.
    There is one in a process, because generated code knows its addresses.
    """

    def __init__(
        self, decode: int, no_region: int, enter_region: int, refetch: int, stitched: int = 0
    ) -> None:
        _reserve(SHADOW, LIMIT * 8)
        _reserve(ENTRIES, LIMIT * 4)
        self._enter_region = enter_region
        self._decode = decode
        self._no_region = no_region
        self._stitched = stitched
        record = decode.to_bytes(8, "little") + bytes(RECORD - 8)
        self._records = record * (PAGE // 2)
        self._slots = no_region.to_bytes(8, "little") * (PAGE // 2)
        self._fresh = memoryview(array("Q", [decode] * (PAGE // 2)))
        self._gone = memoryview(array("Q", [refetch] * (PAGE // 2)))
        #: Active pages by guest address, with the key of what they held when they became so.
        self.active: dict[int, str] = {}
        #: Pages whose shadows are complete but not accessible, from before an execve.
        self._suspended: dict[int, str] = {}
        self._retired: set[int] = set()

    def close(self) -> None:
        """Give the address space back. No generated code may run any more."""
        hostmem.munmap(SHADOW, LIMIT * 8)
        hostmem.munmap(ENTRIES, LIMIT * 4)
        self.active.clear()
        self._suspended.clear()

    def activate(self, page: int, key: str, *, alone: bool) -> None:
        """Back the shadows of the guest page at `page`, with nothing decoded yet. Unless this
        thread is `alone`, others must never see a shadow that is not complete."""
        slots, records = ENTRIES + page * 4, SHADOW + page * 8
        if page in self._retired:
            self._retired.discard(page)
            self._set_handlers(page, self._fresh)
        elif alone:
            hostmem.mprotect(slots, ENTRIES_PER_PAGE, _READ_WRITE)
            hostmem.mprotect(records, SHADOW_PER_PAGE, _READ_WRITE)
            self._fill(slots, records)
        else:
            size = ENTRIES_PER_PAGE + SHADOW_PER_PAGE
            made = hostmem.mmap(0, size, _READ_WRITE, _PRIVATE)
            self._fill(made, made + ENTRIES_PER_PAGE)
            move = hostmem.MREMAP_MAYMOVE | hostmem.MREMAP_FIXED
            size = ENTRIES_PER_PAGE
            hostmem.mremap(made, size, size, move, slots)
            made, size = made + size, SHADOW_PER_PAGE
            hostmem.mremap(made, size, size, move, records)
        self._suspended.pop(page, None)
        self.active[page] = key

    def _fill(self, slots: int, records: int) -> None:
        # Slots first: a record that still says "translated" then finds "no region" there.
        hostmem.view(slots, ENTRIES_PER_PAGE)[:] = self._slots
        hostmem.view(records, SHADOW_PER_PAGE)[:] = self._records

    def _set_handlers(self, page: int, handlers: memoryview) -> None:
        """Handlers alone, each in one store: another thread may be about to read the operands of
        an instruction that it has begun."""
        hostmem.view(ENTRIES + page * 4, ENTRIES_PER_PAGE)[:] = self._slots
        hostmem.view(SHADOW + page * 8, SHADOW_PER_PAGE).cast("Q")[::2] = handlers

    def forget(self, page: int) -> None:
        """Discard what was decoded and translated on an active page; it stays active."""
        self._set_handlers(page, self._fresh)
        self._forget_straddler(page)

    def _forget_straddler(self, page: int) -> None:
        """An instruction that began on the page before may have ended on this one."""
        if page - PAGE in self.active:
            self.unlink(page - 2)

    def deactivate(self, page: int, *, alone: bool) -> None:
        """The page may not be executed any more: give its shadows back, or retire them."""
        if self.active.pop(page, None) is None:
            return
        if alone:
            self._give_back(page)
            for other in self._retired:
                self._give_back(other)
            self._retired.clear()
        else:
            self._set_handlers(page, self._gone)
            self._retired.add(page)
        self._forget_straddler(page)

    def _give_back(self, page: int) -> None:
        for at, size in (
            (ENTRIES + page * 4, ENTRIES_PER_PAGE),
            (SHADOW + page * 8, SHADOW_PER_PAGE),
        ):
            hostmem.mprotect(at, size, hostmem.PROT_NONE)
            hostmem.madvise(at, size, _DONTNEED)

    def suspend(self) -> None:
        """All guest memory goes (execve): no page is active, but what was made stays for pages
        that turn out to hold the same code again. Only one thread may be running."""
        self._suspended |= self.active
        self.active.clear()
        self._retired.clear()
        if len(self._suspended) > _SUSPENDED:
            self._suspended.clear()
            hostmem.mmap(SHADOW, LIMIT * 8, hostmem.PROT_NONE, _FLAGS | hostmem.MAP_FIXED)
            hostmem.mmap(ENTRIES, LIMIT * 4, hostmem.PROT_NONE, _FLAGS | hostmem.MAP_FIXED)
            return
        hostmem.mprotect(SHADOW, LIMIT * 8, hostmem.PROT_NONE)
        hostmem.mprotect(ENTRIES, LIMIT * 4, hostmem.PROT_NONE)

    def resume(self, page: int, key: str) -> bool:
        """Make a suspended page active again if it holds what it held."""
        if self._suspended.get(page) != key:
            return False
        del self._suspended[page]
        hostmem.mprotect(ENTRIES + page * 4, ENTRIES_PER_PAGE, _READ_WRITE)
        hostmem.mprotect(SHADOW + page * 8, SHADOW_PER_PAGE, _READ_WRITE)
        self.active[page] = key
        # Its last instruction may have ended on another page than the one that follows now.
        self.unlink(page + PAGE - 2)
        return True

    def executed(self, page: int) -> bytearray:
        """A byte for each halfword of an active page: 1 where an instruction was decoded, be it to
        interpret it or to stitch it."""
        handlers = hostmem.view(SHADOW + page * 8, SHADOW_PER_PAGE).cast("Q")[::2].tolist()
        slots = hostmem.view(ENTRIES + page * 4, ENTRIES_PER_PAGE).cast("Q").tolist()
        decode, stitched = self._decode, self._stitched
        return bytearray(
            [
                handler != decode or slot == stitched
                for handler, slot in zip(handlers, slots, strict=True)
            ]
        )

    def pages(self, start: int, end: int) -> list[int]:
        """Active pages that overlap [start, end)."""
        first = start & -PAGE
        if (end - first) // PAGE > len(self.active):
            return [page for page in self.active if first <= page < end]
        return [page for page in range(first, end, PAGE) if page in self.active]

    def link(self, entry: int, code: int) -> None:
        """Let control that reaches guest address `entry` run translated code at host `code`.

        Both stores are single aligned words, so other threads may be running."""
        hostmem.view(ENTRIES + entry * 4, 8).cast("Q")[0] = code
        hostmem.view(SHADOW + entry * 8, 8).cast("Q")[0] = self._enter_region

    def unlink(self, entry: int) -> None:
        """Let the instruction at `entry` be decoded and interpreted afresh."""
        if entry & -PAGE in self.active:
            hostmem.view(ENTRIES + entry * 4, 8).cast("Q")[0] = self._no_region
            hostmem.view(SHADOW + entry * 8, 8).cast("Q")[0] = self._decode
        else:
            self._suspended.pop(entry & -PAGE, None)  # it would come back with the old link
