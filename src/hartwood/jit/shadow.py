"""The two shadows of guest code: records for the interpreter, entry slots for translated code.

See `abi.SHADOW`. A guest page that may be executed is *active* when its shadows are backed;
touching the shadow of any other page is a host fault that generated code turns into a fetch exit.
"""

from __future__ import annotations

from hartwood.errors import Error, MappingError
from hartwood.jit.abi import ENTRIES, ENTRIES_PER_PAGE, LIMIT, RECORD, SHADOW, SHADOW_PER_PAGE
from hartwood.mem import hostmem

PAGE = 4096
_FLAGS = (
    hostmem.MAP_PRIVATE
    | hostmem.MAP_ANONYMOUS
    | hostmem.MAP_NORESERVE
    | hostmem.MAP_FIXED_NOREPLACE
)
_READ_WRITE = hostmem.PROT_READ | hostmem.PROT_WRITE
_DONTNEED = 4


class ShadowError(Error):
    """The host has no address space for the shadows of guest code."""


def _reserve(at: int, size: int) -> None:
    try:
        got = hostmem.mmap(at, size, hostmem.PROT_NONE, _FLAGS)
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

    def __init__(self, decode: int, no_region: int, enter_region: int) -> None:
        _reserve(SHADOW, LIMIT * 8)
        _reserve(ENTRIES, LIMIT * 4)
        self._enter_region = enter_region
        self._decode = decode
        record = decode.to_bytes(8, "little") + bytes(RECORD - 8)
        self._records = record * (PAGE // 2)
        self._slots = no_region.to_bytes(8, "little") * (PAGE // 2)
        #: Active pages, by guest address; the value is the set of region entries there.
        self.active: dict[int, set[int]] = {}

    def close(self) -> None:
        """Give the address space back. No generated code may run any more."""
        hostmem.munmap(SHADOW, LIMIT * 8)
        hostmem.munmap(ENTRIES, LIMIT * 4)
        self.active.clear()

    def activate(self, page: int) -> None:
        """Back the shadows of the guest page at `page`, with nothing decoded yet."""
        records, slots = SHADOW + page * 8, ENTRIES + page * 4
        hostmem.mprotect(records, SHADOW_PER_PAGE, _READ_WRITE)
        hostmem.mprotect(slots, ENTRIES_PER_PAGE, _READ_WRITE)
        self.active[page] = set()
        self._blank(page)

    def _blank(self, page: int) -> None:
        # Slots first: a record that still says "translated" then finds "no region" there.
        hostmem.view(ENTRIES + page * 4, ENTRIES_PER_PAGE)[:] = self._slots
        hostmem.view(SHADOW + page * 8, SHADOW_PER_PAGE)[:] = self._records

    def forget(self, page: int) -> None:
        """Discard what was decoded and translated on an active page; it stays active."""
        if page in self.active:
            self.active[page] = set()
            self._blank(page)

    def deactivate(self, page: int) -> None:
        """The page may not be executed any more: give its shadows back."""
        if self.active.pop(page, None) is None:
            return
        for at, size in ((ENTRIES + page * 4, ENTRIES_PER_PAGE), (SHADOW + page * 8, SHADOW_PER_PAGE)):
            hostmem.mprotect(at, size, hostmem.PROT_NONE)
            hostmem.madvise(at, size, _DONTNEED)

    def executed(self, page: int) -> bytearray:
        """A byte for each halfword of an active page: 1 where an instruction was decoded."""
        handlers = hostmem.view(SHADOW + page * 8, SHADOW_PER_PAGE).cast("Q")[::2].tolist()
        decode = self._decode
        return bytearray([handler != decode for handler in handlers])

    def pages(self, start: int, end: int) -> list[int]:
        """Active pages that overlap [start, end)."""
        first = start & -PAGE
        if (end - first) // PAGE > len(self.active):
            return [page for page in self.active if first <= page < end]
        return [page for page in range(first, end, PAGE) if page in self.active]

    def link(self, entry: int, code: int) -> None:
        """Let control that reaches guest address `entry` run translated code at host `code`.

        Both stores are single aligned words, so other threads may be running."""
        self.active[entry & -PAGE].add(entry)
        hostmem.view(ENTRIES + entry * 4, 8).cast("Q")[0] = code
        hostmem.view(SHADOW + entry * 8, 8).cast("Q")[0] = self._enter_region
