"""Page tables from outside: what a program for a bare machine wants before its first instruction.

Sv39, Sv48 and Sv57 (Priv. 12.3 to 12.5): three, four and five levels of 512 entries of 8 bytes.
"""

from __future__ import annotations

from errno import EINVAL, ENOMEM

from hartwood.errors import MappingError
from hartwood.isa.riscv.sv import A, D, R, U, V, W, X
from hartwood.mem.bus import Bus
from hartwood.mem.hostmem import PAGE, PAGE_BITS

#: Levels of tables by scheme; `satp` has 5 more in its upper bits (Priv. 12.1.11).
LEVELS = {"sv39": 3, "sv48": 4, "sv57": 5}
_RIGHTS = {"r": R, "w": W, "x": X, "u": U}


class PageTables:
    """Tables of `scheme` in the `pages` pages of `mem` from `at` on, which have to be memory.

    Raises `MappingError`: EINVAL for what the scheme does not have, ENOMEM without a page more.
    """

    def __init__(self, mem: Bus, at: int, pages: int, scheme: str = "sv39") -> None:
        if scheme not in LEVELS or at % PAGE or pages < 1:
            raise MappingError(EINVAL, f"{scheme} tables", at, pages * PAGE)
        self.levels = LEVELS[scheme]
        self._mem = mem
        self._free = iter(range(at, at + pages * PAGE, PAGE))
        self.root = self._table()

    def _table(self) -> int:
        """A table of no entries."""
        at = next(self._free, None)
        if at is None:
            raise MappingError(ENOMEM, "page tables", self.root, PAGE)
        self._mem.fill(at, PAGE, 0)
        return at

    def satp(self, asid: int = 0) -> int:
        """What the register has to hold for these tables."""
        return self.levels + 5 << 60 | asid << 44 | self.root >> PAGE_BITS

    def map(self, va: int, at: int, size: int, rights: str = "rwx", level: int = 0) -> None:
        """Make `size` bytes at `va` those at `at`, in pages of 4 KiB, or of 512 to the power of
        `level` times that. `rights` are letters of r, w, x and u; the entries are marked as
        accessed and dirty. What has been walked before needs an SFENCE.VMA, as on any hart."""
        step, top = PAGE << 9 * max(level, 0), PAGE_BITS + 9 * self.levels - 1
        bits = sum(_RIGHTS.get(letter, 1 << 63) for letter in set(rights))
        last = va + size - 1
        if (
            not 0 <= level < self.levels or (va | at | size) % step or size <= 0 or bits >= 1 << 8
            or bits & (R | W | X) in (0, W, W | X) or not 0 <= at <= (1 << 56) - size
            or {va >> top, last >> top} not in ({0}, {(1 << 64 - top) - 1})
        ):  # fmt: skip
            raise MappingError(EINVAL, "page tables", va, size)
        for offset in range(0, size, step):
            leaf = at + offset >> PAGE_BITS << 10 | bits | V | A | D
            self._mem.write_u64(self._entry(va + offset, level), leaf)

    def unmap(self, va: int, size: int, level: int = 0) -> None:
        """Make entries that `map` made with this `level` invalid."""
        for place in range(va, va + size, PAGE << 9 * level):
            self._mem.write_u64(self._entry(place, level), 0)

    def _entry(self, va: int, level: int) -> int:
        """Where the entry for `va` is, in a table that is made where there is none."""
        table = self.root
        for height in range(self.levels - 1, -1, -1):
            place = table + 8 * (va >> PAGE_BITS + 9 * height & 511)
            if height == level:
                return place
            entry = self._mem.read_u64(place)
            if entry & (R | X):
                raise MappingError(EINVAL, "page tables: a larger page is at", va, PAGE)
            table = entry >> 10 << PAGE_BITS
            if not entry & V:
                table = self._table()
                self._mem.write_u64(place, table >> PAGE_BITS << 10 | V)
        raise AssertionError("unreachable: a level is one of the heights")
