"""The engine of one process: generated code, the shadows of guest code, and what joins them.

`run` lets a hart go until something needs the rest of the machine; what concerns only
translation (a page seen for the first time, hot code, a missing bank, a store to code) is dealt
with here.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from _thread import get_ident, get_native_id

from hartwood.errors import Error, ImageError
from hartwood.jit import abi
from hartwood.jit.arena import CodeArena, reserve
from hartwood.jit.client import Client, WorkerError
from hartwood.jit.host_x86 import use_guest_memory
from hartwood.jit.image import Image
from hartwood.jit.shadow import PAGE, Shadow
from hartwood.jit.signals import HostSignals
from hartwood.jit.stitch import AREA, BANK, FAULTS, Stitches
from hartwood.jit.store import Store, page_key
from hartwood.jit.translations import Translations
from hartwood.mem import hostmem
from hartwood.mem.regions import EXEC, READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hartwood.mem.flat import FlatSpace

BANKS = ("base", "float", "rounded", "extra")
#: Instructions between two looks at the rest of the world: some milliseconds.
SLICE = 4_000_000
#: Transfers to an address that make it hot; `translations.WORTH` times that is worth a compiler.
HOT = 1_500
#: Transfers that make an address worth stitching, once there are stencils.
STITCH = 50
#: Host stack that guest calls may take five eighths of, where there is no limit.
_LARGE = 8 << 20
_SIGSEGV, _STORE_FAULT = 11, 15
_TABLE_SIZE = 1 << 16


class EngineError(Error):
    """Generated code came back with something that makes no sense."""


class Engine:
    """Runs harts of one address space. There is one in a process.

    `mode` is "auto", "jit" (translate at the first transfer) or "interp" (never translate).
    """

    def __init__(self, space: FlatSpace, mode: str = "auto") -> None:
        self.space = space
        self.mode = mode
        # Whoever registered an instruction has imported the definitions; others need not.
        riscv = sys.modules.get("hartwood.isa.riscv")
        outside: dict[str, str] = {} if riscv is None else riscv.RISCV.outside()
        self.store = Store(outside=outside.values())
        self.client = Client(self.store.path, outside)
        self.arena = CodeArena()
        self.signals = HostSignals(self.arena)
        self.lock = space.lock
        #: Threads that may be inside generated code.
        self._threads: set[int] = set()
        self._banks: set[str] = set()
        self._table_at = hostmem.mmap(0, _TABLE_SIZE, 3, 0x22)
        self._table = hostmem.view(self._table_at, _TABLE_SIZE).cast("Q")
        image = self._bank_image("base")
        self.bank_of = image.meta
        base = self._install_bank("base", image)
        self.signals.attach(image, base)
        self.signals.take_faults()
        entries = image.entries
        self._entries = {name: base + at for name, at in entries.items()}
        names = ("decode", "no_region", "enter_region", "refetch", "no_region_stitched")
        self.shadow = Shadow(*(self._entries[name] for name in names))
        #: Stitched code: where it will be, and what makes it once there are stencils.
        self.stitches: Stitches | None = None
        self._faults = reserve(FAULTS)
        self._area = self.arena.claim(AREA, self._faults)
        self.arena.keep()
        self.translations = Translations(
            space,
            self.arena,
            self.shadow,
            self.store,
            self.client,
            self.activate,
            self.is_alone,
            self._learn if mode == "auto" else None,
        )
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_uint64)
        self._run: Callable[[int], None] = prototype(base + entries["run"])
        self._step: Callable[[int], None] = prototype(base + entries["step"])
        self._again: Callable[[int], None] = prototype(base + entries["again"])
        threshold = {"auto": HOT, "jit": 1, "interp": 0}[mode]
        self._cool = (ctypes.c_uint32 * abi.HOT_SLOTS)(*[threshold] * abi.HOT_SLOTS)
        space.on_code_change = self.code_changed

    # The interpreter's banks.
    def _bank_image(self, bank: str) -> Image:
        """A bank from the store, or else from the worker."""
        key = f"bank-{bank}"
        for data in self.store.get(key):
            try:
                return Image.load(data)
            except ImageError:
                self.store.discard(key)
        return Image.load(self.client.bank(bank))

    def _install_bank(self, bank: str, image: Image) -> int:
        base = self.arena.install(image, self.signals.slots if image.slots else None)
        for name, at in image.entries.items():
            if name.startswith("h_"):
                self._table[int(name[2:])] = base + at
        self._banks.add(bank)
        self.arena.keep()
        return base

    def _load_bank(self, number: int) -> None:
        bank = BANKS[self.bank_of[number]]
        with self.lock:
            if self._table[number]:
                return  # another thread was faster
            if bank in self._banks:
                raise EngineError(f"bank {bank} has no handler {number}")
            self._install_bank(bank, self._bank_image(bank))

    # Harts.
    def new_state(self) -> abi.State:
        """The state of one more hart."""
        state = abi.State()
        state.handlers = self._table_at
        state.reserved_address = (1 << 64) - 1
        state.mxcsr = 0x1F80
        state.limit = abi.LIMIT
        state.once = self._entries["once"]
        state.hot_threshold = self._cool[0]
        state.hot = self._cool
        return state

    def _learn(self, image: Image) -> None:
        """Stencils have come. Once: others may be running what is in their area."""
        if self.stitches is None:
            self.stitches = Stitches(image, self._area, self._faults, self._entries)

    def stitch(self, state: abi.State, threshold: int = STITCH) -> None:
        """Let a hart stitch what control enters `threshold` times, from now on; waits for the
        stencils where they are not there yet. Raises `WorkerError`."""
        with self.lock:
            if self.stitches is None:
                self._learn(self._bank_image(BANK))
        assert self.stitches is not None
        self.stitches.enable(state, threshold)

    def enter_thread(self, state: abi.State) -> None:
        """Prepare the calling thread for running `state`."""
        use_guest_memory(self.space.base)
        at = ctypes.addressof(state)
        self.signals.register_thread(at + abi.offset("fault_signo"), at + abi.offset("stop"))
        here = _stack_pointer()
        state.stack_limit = here - (here - _stack_bottom(here)) // 8 * 5
        with self.lock:
            self._threads.add(get_ident())

    def is_alone(self) -> bool:
        """Whether no thread but the caller can be inside generated code."""
        return not self._threads - {get_ident()}

    def leave_thread(self) -> None:
        """The calling thread runs no guest code any more."""
        self.signals.unregister_thread()
        with self.lock:
            self._threads.discard(get_ident())

    def run(self, state: abi.State, budget: int = SLICE) -> int:
        """Run until something concerns the rest of the machine; gives the reason (see `abi`)."""
        address = ctypes.addressof(state)
        if self.stitches is not None and not state.stitch and self.mode == "auto":
            self.stitch(state)
        state.budget = budget
        go_on = self._run
        while True:
            go_on(address)
            reason: int = state.reason
            stepped = go_on is self._again and reason == abi.SLICE
            go_on = self._run
            if stepped:
                continue
            if reason == abi.FETCH:
                if not self.activate(state.tval):
                    return reason
            elif reason == abi.HOT:
                self._hot(state)
            elif reason == abi.BANK:
                self._load_bank(state.tval)
            elif reason == abi.FAULT and self._stored_to_code(state):
                # The page may be the instruction's own, which fetching it would protect again.
                go_on = self._again
            else:
                self._look_around(state, reason)
                return reason

    def step(self, state: abi.State) -> int:
        """Execute one instruction, interpreted; gives `abi.SLICE` where nothing else happened."""
        address = ctypes.addressof(state)
        go_on = self._step
        while True:
            go_on(address)
            reason: int = state.reason
            go_on = self._step
            if reason == abi.BANK:
                self._load_bank(state.tval)
            elif reason == abi.FAULT and self._stored_to_code(state):
                go_on = self._again
            elif reason != abi.FETCH or not self.activate(state.tval):
                return reason

    def _stored_to_code(self, state: abi.State) -> bool:
        """Whether a fault was a store to a page that we protect; then it may go ahead now."""
        if state.tval >= abi.LIMIT:
            return False
        at = state.fault_address - self.space.base
        with self.lock:
            if self.space.unprotect_code(at, at + 1):
                return True
            # Another thread may have lifted the protection, or mapped memory there, meanwhile.
            region = self.space.regions.at(at) if 0 <= at < abi.LIMIT else None
            access = WRITE if state.cause == _STORE_FAULT else READ | WRITE | EXEC
            known = region is not None and bool(region.prot & access)
            return known and state.fault_signo == _SIGSEGV and not self.is_alone()

    def _hot(self, state: abi.State) -> None:
        pc = state.tval
        with self.lock:
            self._translate(self.translations.hot, pc)
        state.hot[(pc >> 1) & (abi.HOT_SLOTS - 1)] = state.hot_threshold
        if self.stitches is not None:
            self.stitch(state)

    def _look_around(self, state: abi.State, reason: int) -> None:
        """Between slices and at system calls: what has the worker done, where is time spent?"""
        with self.lock:
            if reason == abi.SLICE and self.mode != "interp":
                self._translate(self.translations.sample, state.pc)
            if self.translations.busy:
                self._translate(self.translations.pump)
            full = self.stitches is not None and self.stitches.full
            if (self.translations.full or full) and self.is_alone():
                # Nobody is inside generated code: a guest that keeps making code starts over.
                self.translations.reset()
                self.arena.reset()
                self._forget_stitches()

    def _forget_stitches(self) -> None:
        """Discard every record, and with them what leads to stitched code."""
        if self.stitches is not None:
            self._forget_records(list(self.shadow.active))
            self.stitches.reset()

    def _forget_records(self, pages: list[int]) -> None:
        """Discard what was decoded or stitched on pages that stay active."""
        self._discard(pages, self.shadow.forget)

    def _discard(self, pages: list[int], how: Callable[[int], None]) -> None:
        """Discard records of pages, page by page; nothing is stitched meanwhile."""
        if self.stitches is not None:
            self.stitches.begin_change()
        for page in pages:
            how(page)
        if self.stitches is not None:
            self.stitches.end_change()

    def _translate(self, what: Callable[..., None], *arguments: int) -> None:
        """Do something that may need the worker. Without one the interpreter goes on alone."""
        try:
            what(*arguments)
        except WorkerError:
            self.client.close()
            self.translations.drop_requests()

    def translate(self, entries: list[int], level: int = 2) -> None:
        """Translate the code at `entries` and wait for it."""
        with self.lock:
            self.translations.translate(entries, level)

    # Guest code comes and goes.
    def activate(self, address: int) -> bool:
        """Make a page's instructions available; False where the guest may not execute it."""
        page = address & -PAGE
        with self.lock:
            if page in self.shadow.active:
                return True  # another thread was faster
            region = self.space.regions.at(page) if address < abi.LIMIT else None
            if region is None or not region.prot & EXEC:
                return False
            if region.prot & WRITE:
                self.space.write_protect(page)
            key = page_key(page, self.space.read_some(page, PAGE))
            if self.shadow.resume(page, key):
                if self.translations.is_intact(page):
                    return True
                self.translations.forget(page)
                self._forget_records([page])
            else:
                self.translations.forget(page)
                self.shadow.activate(page, key, alone=self.is_alone())
            if self.mode != "interp":
                self.translations.recall(page, key)
        return True

    def code_changed(self, start: int, end: int) -> None:
        """Discard everything made from guest code in [start, end)."""
        with self.lock:
            if start == 0 and end >= abi.LIMIT and self.is_alone():
                self.shadow.suspend()  # most likely the next program has much the same code
                return
            self._discard(self.shadow.pages(start, end), self._deactivate)

    def _deactivate(self, page: int) -> None:
        self.shadow.deactivate(page, alone=self.is_alone())
        self.translations.forget(page)

    def fence_code(self) -> None:
        """Look for code that was written through another mapping of the same memory: `fence.i`.
        Every other change of code is known when it happens."""
        with self.lock:
            for region in list(self.space.regions):
                if region.shared and region.prot & EXEC:
                    for page in self.shadow.pages(region.start, region.end):
                        key = page_key(page, self.space.read_some(page, PAGE))
                        if key != self.shadow.active[page]:
                            self.code_changed(page, page + PAGE)

    # Life.
    def before_fork(self) -> None:
        """Bring everything to a state that a child can take over."""
        self.lock.acquire()
        self.signals.before_fork()
        self.arena.lock.acquire()

    def after_fork_parent(self) -> None:
        """Go on as before."""
        self.arena.lock.release()
        self.signals.after_fork_in_parent()
        self.lock.release()

    def after_fork_child(self) -> None:
        """The worker is the parent's; the code and the shadows are this process's own copies."""
        self.arena.lock.release()
        self.signals.after_fork_in_child()
        if self.stitches is not None:
            self.stitches.after_fork_in_child()
        self.client.drop()
        self.translations.drop_requests()
        self._threads &= {get_ident()}
        self.lock.release()

    def stats(self) -> dict[str, object]:
        """Counters under the names of `--stats`."""
        return {
            "regions": self.translations.installed,
            "units": self.stitches.units if self.stitches else 0,
            "compile_seconds": self.client.compile_seconds,
            "cache_hits": self.store.hits,
            "cache_misses": self.store.misses,
        }

    def close(self) -> None:
        """End the worker and give address space back."""
        self.client.close()
        self.shadow.close()


def _stack_bottom(here: int) -> int:
    """The lowest address of the calling thread's stack, whose pointer is about `here`."""
    if get_native_id() == os.getpid():
        # The first thread's grows until the limit.
        soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
        return here - (soft if 0 < soft < _LARGE else _LARGE)
    libc = ctypes.PyDLL(None)
    attributes = ctypes.create_string_buffer(64)  # a pthread_attr_t takes 56 bytes
    bottom, size = ctypes.c_size_t(), ctypes.c_size_t()
    thread = ctypes.c_size_t(get_ident())
    if libc.pthread_getattr_np(thread, attributes):
        raise EngineError("the C library does not tell where a thread's stack is")
    libc.pthread_attr_getstack(attributes, ctypes.byref(bottom), ctypes.byref(size))
    libc.pthread_attr_destroy(attributes)
    return bottom.value


def _stack_pointer() -> int:
    """About where the calling thread's stack is."""
    with open("/proc/thread-self/syscall") as file:
        return int(file.read().split()[-2], 16)
