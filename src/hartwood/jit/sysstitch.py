"""Stitched code of one machine: its area, and when that is emptied.

Units hold addresses of the machine's memory, so each machine has its own.
"""

from __future__ import annotations

import ctypes
import threading
import weakref

from hartwood.jit.arena import reserve
from hartwood.jit.stitch import AREA, FAULTS, Stitches
from hartwood.jit.sysregions import ROOM, SystemRegions
from hartwood.mem import hostmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from hartwood.jit.image import Image
    from hartwood.jit.sysabi import SystemState
    from hartwood.jit.sysregions import Compiler
    from hartwood.mem.ram import Ram

_HANDLERS = {
    "at_over": "over", "at_fetch": "fetch_miss", "at_once": "unit_once", "at_exit": "unit_exit"
}  # fmt: skip
_PRIVATE = hostmem.MAP_PRIVATE | hostmem.MAP_ANONYMOUS | hostmem.MAP_NORESERVE
_EXECUTABLE = hostmem.PROT_READ | hostmem.PROT_WRITE | hostmem.PROT_EXEC


class SystemStitches:
    """The stitched code of the harts on `ram`, which each enter native code through `begin` and
    `end`. Methods may be called from any thread."""

    def __init__(
        self, image: Image, entries: Mapping[str, int], ram: Ram, compiler: Compiler
    ) -> None:
        self._base = hostmem.map_huge(AREA, _EXECUTABLE, _PRIVATE)
        self._faults = reserve(FAULTS + hostmem.PAGE)
        area = self._base, self._faults + FAULTS
        self.code = Stitches(image, area, self._faults, entries, _HANDLERS, ROOM)
        link = ctypes.CFUNCTYPE(ctypes.c_bool, *[ctypes.c_uint64] * 7)(entries["link_region"])
        page_in = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint64)(entries["page_in"])
        self.regions = SystemRegions(ram, self._base + AREA - ROOM, link, page_in, compiler)
        self._ram = weakref.ref(ram)
        self._inside = 0
        self._turn = threading.Condition()
        ram.at_close.append(self._close)

    def enable(self, state: SystemState, threshold: int) -> None:
        """Let a hart stitch what control enters `threshold` times, from now on."""
        self.code.enable(state, threshold)
        state.area = self._base

    @property
    def full(self) -> bool:
        """The area has to be emptied."""
        return self.code.full or self.regions.full

    def begin(self) -> None:
        """A hart goes into native code; while the area is emptied it waits."""
        with self._turn:
            self._inside += 1

    def end(self) -> None:
        """It has come back. Harts come back every few milliseconds, so whoever finds the area
        full waits here until none is inside, and empties it."""
        with self._turn:
            self._inside -= 1
            self._turn.notify_all()
            if self.full:
                self._turn.wait_for(lambda: not self._inside)
                self._empty()

    def _empty(self) -> None:
        ram = self._ram()
        if self.full and ram is not None:
            self.regions.reset(ram.forget_stitched)
            self.code.reset()

    def _close(self) -> None:
        hostmem.munmap(self._base, AREA)
        hostmem.munmap(self._faults, FAULTS + hostmem.PAGE)
