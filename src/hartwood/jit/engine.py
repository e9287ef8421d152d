"""The engine of one process: generated code, the shadows of guest code, and what joins them.

`run` lets a hart go until something needs the rest of the machine; what concerns only
translation (a page seen for the first time, hot code, a missing bank, a store to code) is dealt
with here.
"""

from __future__ import annotations

import ctypes

from hartwood.errors import Error
from hartwood.jit import abi
from hartwood.jit.arena import CodeArena
from hartwood.jit.client import Client
from hartwood.jit.image import Image
from hartwood.jit.shadow import PAGE, Shadow
from hartwood.jit.signals import HostSignals
from hartwood.mem import hostmem
from hartwood.mem.regions import EXEC, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hartwood.mem.flat import FlatSpace

BANKS = ("base", "float", "extra")
#: Instructions between two looks at the rest of the world: some milliseconds.
SLICE = 4_000_000
#: Transfers to an address before its region is translated.
HOT = 2000
#: Guest code that a request carries: pages before and after the entry's.
_BEFORE, _AFTER = 2, 6
_SYS_ARCH_PRCTL, _ARCH_SET_GS = 158, 0x1001


class EngineError(Error):
    """Generated code came back with something that makes no sense."""


class Engine:
    """Runs harts of one address space. There is one in a process.

    `mode` is "auto", "jit" (translate at the first transfer) or "interp" (never translate).
    """

    def __init__(self, space: FlatSpace, mode: str = "auto") -> None:
        self.space = space
        self.mode = mode
        self.client = Client()
        self.arena = CodeArena()
        self.signals = HostSignals(self.arena)
        self.bank_of: bytes = b""
        self._loaded: set[str] = set()
        self._requested: set[int] = set()
        self._pending: dict[int, list[tuple[int, bytes]]] = {}
        self._number = 0
        self.regions = 0
        image = Image.load(self.client.bank("base"))
        self.bank_of = image.meta
        self._table = hostmem.view(hostmem.mmap(0, 65536, 3, 0x22), 65536).cast("Q")
        self._table_at = ctypes.addressof(ctypes.c_char.from_buffer(self._table))
        base = self._install_bank("base", image, self.signals.slots)
        self.signals.attach(image, base)
        self.signals.take_faults()
        entries = image.entries
        self.shadow = Shadow(
            base + entries["decode"], base + entries["no_region"], base + entries["enter_region"]
        )
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_uint64)
        self._run: Callable[[int], None] = prototype(base + entries["run"])
        self._step: Callable[[int], None] = prototype(base + entries["step"])
        space.on_code_change = self.code_changed

    def _install_bank(self, bank: str, image: Image, slots: dict[str, int] | None = None) -> int:
        base = self.arena.install(image, slots)
        for name, at in image.entries.items():
            if name.startswith("h_"):
                self._table[int(name[2:])] = base + at
        self._loaded.add(bank)
        self.arena.keep()
        return base

    def new_state(self) -> abi.State:
        """The state of one more hart."""
        state = abi.State()
        state.handlers = self._table_at
        state.reserved_address = (1 << 64) - 1
        state.mxcsr = 0x1F80
        threshold = {"auto": HOT, "jit": 1, "interp": 0}[self.mode]
        state.hot_threshold = threshold
        for index in range(abi.HOT_SLOTS):
            state.hot[index] = threshold
        return state

    def enter_thread(self, state: abi.State) -> None:
        """Prepare the calling thread for running `state`."""
        libc = ctypes.CDLL(None)
        libc.syscall(_SYS_ARCH_PRCTL, _ARCH_SET_GS, ctypes.c_uint64(self.space.base))
        at = ctypes.addressof(state)
        self.signals.register_thread(at + abi.offset("fault_signo"), at + abi.offset("stop"))
        state.stack_limit = _stack_pointer() - (5 << 20)

    def run(self, state: abi.State, budget: int = SLICE) -> int:
        """Run until something concerns the rest of the machine; gives the reason (see `abi`)."""
        address = ctypes.addressof(state)
        state.budget = budget
        while True:
            self._run(address)
            reason: int = state.reason
            if reason == abi.FETCH:
                if not self._activate(state.tval):
                    return reason
            elif reason == abi.HOT:
                self._hot(state)
            elif reason == abi.BANK:
                self._load_bank(state.tval)
            elif reason == abi.FAULT:
                if not (
                    state.tval < abi.LIMIT
                    and self.space.unprotect_code(
                        state.fault_address - self.space.base,
                        state.fault_address - self.space.base + 1,
                    )
                ):
                    return reason
            else:
                if self.client.outstanding:
                    self._collect()
                return reason

    def _load_bank(self, number: int) -> None:
        bank = BANKS[self.bank_of[number]]
        if bank in self._loaded:
            raise EngineError(f"bank {bank} has no handler {number}")
        self._install_bank(bank, Image.load(self.client.bank(bank)))

    # Guest code comes and goes.
    def _activate(self, address: int) -> bool:
        """Make a page's instructions available; False where the guest may not execute it."""
        page = address & -PAGE
        region = self.space.regions.at(page) if address < abi.LIMIT else None
        if region is None or not region.prot & EXEC or page in self.shadow.active:
            return False
        self.shadow.activate(page)
        if region.prot & WRITE:
            self.space.write_protect(page)
        return True

    def code_changed(self, start: int, end: int) -> None:
        """Discard everything made from guest code in [start, end)."""
        for page in self.shadow.pages(start, end):
            self.shadow.deactivate(page)
        self._requested -= {pc for pc in self._requested if start <= pc < end}

    # Translation.
    def _hot(self, state: abi.State) -> None:
        """`state.tval` is entered often: have it translated."""
        pc = state.tval
        state.hot[(pc >> 1) & (abi.HOT_SLOTS - 1)] = state.hot_threshold
        if self.client.outstanding:
            self._collect()
        if pc in self._requested:
            return
        self._requested.add(pc)
        parts = self._code_around(pc)
        self._number += 1
        self._pending[self._number] = parts
        self.client.request(self._number, [pc], parts, 2)

    def _code_around(self, pc: int) -> list[tuple[int, bytes]]:
        page = pc & -PAGE
        region = self.space.regions.at(page)
        if region is None:
            return []
        start = max(region.start, page - _BEFORE * PAGE)
        end = min(region.end, page + (_AFTER + 1) * PAGE)
        return [(start, self.space.read_some(start, end - start))]

    def _collect(self) -> None:
        """Install the translations that are ready."""
        while (answer := self.client.poll()) is not None:
            number, data, made = answer
            parts = self._pending.pop(number)
            if not data:
                continue
            image = Image.load(data)
            base = self.arena.install(image)
            for entry, ranges, _size in made:
                if entry & -PAGE in self.shadow.active and self._unchanged(ranges, parts):
                    self.shadow.link(entry, base + image.entries[f"r_{entry:x}"])
                    self.regions += 1

    def _unchanged(self, ranges: list[tuple[int, int]], parts: list[tuple[int, bytes]]) -> bool:
        """Whether the guest code that a translation was made from is still there."""
        for start, end in ranges:
            for at, data in parts:
                if at <= start and end <= at + len(data):
                    if self.space.read_some(start, end - start) != data[start - at : end - at]:
                        return False
        return True

    def before_fork(self) -> None:
        """Bring everything to a state that a child can take over."""
        self.signals.before_fork()
        self.arena.lock.acquire()

    def after_fork_parent(self) -> None:
        """Go on as before."""
        self.arena.lock.release()
        self.signals.after_fork_in_parent()

    def after_fork_child(self) -> None:
        """The worker is the parent's; the code and the shadows are this process's own copies."""
        self.arena.lock.release()
        self.signals.after_fork_in_child()
        self.client.drop()
        self._requested.clear()
        self._pending.clear()

    def stats(self) -> dict[str, object]:
        """Counters under the names of `--stats`."""
        return {"regions": self.regions, "compile_seconds": self.client.compile_seconds}

    def close(self) -> None:
        """End the worker and give address space back."""
        self.client.close()
        self.shadow.close()


def _stack_pointer() -> int:
    """About where the calling thread's stack is."""
    with open("/proc/thread-self/syscall") as file:
        return int(file.read().split()[-2], 16)

