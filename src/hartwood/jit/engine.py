"""The engine of one process: generated code, the shadows of guest code, and what joins them.

`run` lets a hart go until something needs the rest of the machine; what concerns only
translation (a page seen for the first time, hot code, a missing bank, a store to code) is dealt
with here.
"""

from __future__ import annotations

import ctypes
import marshal
import resource
from _thread import RLock

from hartwood.errors import Error, ImageError
from hartwood.jit import abi
from hartwood.jit.arena import CodeArena
from hartwood.jit.client import Client
from hartwood.jit.host_x86 import use_guest_memory
from hartwood.jit.image import Image
from hartwood.jit.shadow import PAGE, Shadow
from hartwood.jit.signals import HostSignals
from hartwood.jit.store import Store, code_digest, page_key
from hartwood.mem import hostmem
from hartwood.mem.regions import EXEC, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hartwood.jit.client import Reply
    from hartwood.mem.flat import FlatSpace

BANKS = ("base", "float", "rounded", "extra")
#: Instructions between two looks at the rest of the world: some milliseconds.
SLICE = 4_000_000
#: Transfers to an address that make it hot. A region costs some milliseconds to translate, which
#: is as long as interpreting it this often takes.
HOT = 16_000
#: Times an address inside a known region has to be hot before it gets a region of its own.
PATIENCE = 3
#: Slices that ended in a region, after which it is translated again with everything LLVM has.
SAMPLES = 40
#: Guest code that a request carries: pages before and after the entry's.
_BEFORE, _AFTER = 2, 6
#: Entries that one request may carry, and requests that the worker may have before it.
_BATCH, _DEPTH = 6, 2
#: How a region is compiled at first, and when it has proved hot (see `worker.region_image`).
_FIRST, _BEST = 1, 2
#: Host stack that guest calls may take five eighths of, where there is no limit.
_LARGE = 8 << 20
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
        self.store = Store()
        self.client = Client(self.store.path)
        self.arena = CodeArena()
        self.signals = HostSignals(self.arena)
        self.lock = RLock()
        self.regions = 0
        self._banks: set[str] = set()
        #: Addresses that were asked for; how often others inside known regions were hot.
        self._requested: set[int] = set()
        self._heat: dict[int, int] = {}
        self._linked: set[int] = set()
        self._best: set[int] = set()
        self._samples: dict[int, int] = {}
        self._queue: list[int] = []
        self._covered: list[tuple[int, int]] = []
        #: Requests on the way: number and page.
        self._asked: dict[int, int] = {}
        self._number = 0
        self._table_at = hostmem.mmap(0, _TABLE_SIZE, 3, 0x22)
        self._table = hostmem.view(self._table_at, _TABLE_SIZE).cast("Q")
        image = self._bank_image("base")
        self.bank_of = image.meta
        base = self._install_bank("base", image)
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
        use_guest_memory(self.space.base)
        at = ctypes.addressof(state)
        self.signals.register_thread(at + abi.offset("fault_signo"), at + abi.offset("stop"))
        stack = min(resource.getrlimit(resource.RLIMIT_STACK)[0] % _LARGE, _LARGE)
        state.stack_limit = _stack_pointer() - stack // 8 * 5

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
                with self.lock:
                    if reason == abi.SLICE:
                        self._sample(state)
                    if self._asked or self._queue:
                        self._pump()
                return reason

    def _load_bank(self, number: int) -> None:
        bank = BANKS[self.bank_of[number]]
        with self.lock:
            if self._table[number]:
                return  # another thread was faster
            if bank in self._banks:
                raise EngineError(f"bank {bank} has no handler {number}")
            self._install_bank(bank, self._bank_image(bank))

    # Guest code comes and goes.
    def _activate(self, address: int) -> bool:
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
            self.shadow.activate(page)
            if self.mode != "interp":
                self._recall(page)
        return True

    def code_changed(self, start: int, end: int) -> None:
        """Discard everything made from guest code in [start, end)."""
        with self.lock:
            for page in self.shadow.pages(start, end):
                self.shadow.deactivate(page)
            for known in (self._requested, self._linked, self._best):
                known -= {pc for pc in known if start <= pc < end}
            self._covered = [c for c in self._covered if c[1] <= start or end <= c[0]]

    # Translation.
    def _hot(self, state: abi.State) -> None:
        """`state.tval` is entered often: have it translated."""
        pc = state.tval
        state.hot[(pc >> 1) & (abi.HOT_SLOTS - 1)] = state.hot_threshold
        with self.lock:
            heat = self._heat[pc] = self._heat.get(pc, 0) + 1
            if pc not in self._linked and pc not in self._requested:
                # Inside a region that has an entry elsewhere, an address waits: control will
                # mostly come through that entry, unless it stays inside for long.
                inside = any(start <= pc < end for start, end in self._covered)
                if not inside or heat > PATIENCE:
                    self._requested.add(pc)
                    self._queue.append(pc)
            self._pump()

    def _sample(self, state: abi.State) -> None:
        """A slice ended at the pc: where that is often so, most time is spent."""
        pc = state.pc
        if pc in self._linked and pc not in self._best:
            count = self._samples[pc] = self._samples.get(pc, 0) + 1
            if count == SAMPLES and self.mode != "interp":
                self._ask([pc], _BEST)

    def _pump(self) -> None:
        """Take what the worker has done and give it what is hottest: one request a page at a
        time, because a region often covers what else was asked for there."""
        if self._asked:
            self._collect()
        if not self._queue or len(self._asked) >= _DEPTH:
            return
        self._queue.sort(key=self._heat.__getitem__, reverse=True)
        for pc in self._queue[:]:
            page = pc & -PAGE
            if len(self._asked) >= _DEPTH:
                break
            if page in self._asked.values() or pc not in self._queue:
                continue
            batch = [other for other in self._queue if other & -PAGE == page][:_BATCH]
            self._queue = [other for other in self._queue if other not in batch]
            self._ask(batch, _FIRST)

    def _ask(self, entries: list[int], level: int) -> None:
        """Have regions on one page translated."""
        page = entries[0] & -PAGE
        parts = self._code_around(page)
        if parts:
            self._number += 1
            self._asked[self._number] = page
            self.client.request(self._number, entries, parts, level, self._page_key(page))

    def translate(self, entries: list[int], level: int = _BEST) -> None:
        """Translate the code at `entries`, all near the first, whether or not it has run, and
        wait for it. Raises `WorkerError` where there is no worker to do it."""
        page = entries[0] & -PAGE
        everything = b"\1" * (PAGE // 2)
        with self.lock:
            parts = [
                (at, self.space.read_some(at, PAGE), everything)
                for at in range(page - _BEFORE * PAGE, page + (_AFTER + 1) * PAGE, PAGE)
                if self._activate(at)
            ]
            self._number += 1
            self._asked[self._number] = page
            self.client.request(self._number, entries, parts, level, self._page_key(page))
            while self._number in self._asked:
                self._take(self.client.wait())

    def _page_key(self, page: int) -> str:
        return page_key(page, self.space.read_some(page, PAGE))

    def _code_around(self, page: int) -> list[tuple[int, bytes, bytes]]:
        """The pages near `page` that have been executed from, and which of their instructions."""
        return [
            (at, self.space.read_some(at, PAGE), self._executed(at))
            for at in range(page - _BEFORE * PAGE, page + (_AFTER + 1) * PAGE, PAGE)
            if at in self.shadow.active
        ]

    def _executed(self, page: int) -> bytes:
        """A byte for each halfword of a page: 1 where an instruction was interpreted, or belongs
        to a region that is translated already."""
        executed = self.shadow.executed(page)
        for start, end in self._covered:
            first, last = max(start - page, 0) // 2, min(end - page, PAGE) // 2
            if first < last:
                executed[first:last] = b"\1" * (last - first)
        return bytes(executed)

    def _collect(self) -> None:
        """Install the translations that are ready."""
        while (answer := self.client.poll()) is not None:
            self._take(answer)

    def _take(self, answer: Reply) -> None:
        if answer[0] == "bank":
            self._install_bank(answer[1], Image.load(answer[2]))
            return
        self._asked.pop(answer[1], None)
        if answer[2]:
            self._install_regions(Image.load(answer[2]))

    def _recall(self, page: int) -> None:
        """Install what the store has for a page."""
        key = self._page_key(page)
        for data in self.store.get(key):
            try:
                self._install_regions(Image.load(data))
            except ImageError:
                self.store.discard(key)

    def _install_regions(self, image: Image) -> None:
        """Link the regions of an image whose guest code is there, unchanged."""
        base = 0
        level, regions = marshal.loads(image.meta)
        for entries, _size, ranges in regions:
            if not self._is_current(ranges):
                continue
            base = base or self.arena.install(image)
            code = base + image.entries[f"r_{entries[0]:x}"]
            for entry in entries:
                # An entry of an earlier region stays with it, unless this one is better.
                known = entry in (self._linked if level < _BEST else self._best)
                if entry & -PAGE in self.shadow.active and not known:
                    self.shadow.link(entry, code)
                    if level == _BEST:
                        self._best.add(entry)
                    self._linked.add(entry)
            covered = [(start, end) for start, end, _ in ranges]
            self._covered.extend(covered)
            # What was asked for in there meanwhile may not be needed any more.
            for pc in self._queue[:]:
                if any(start <= pc < end for start, end in covered):
                    self._queue.remove(pc)
                    self._requested.discard(pc)
            self.regions += 1

    def _is_current(self, ranges: list[tuple[int, int, bytes]]) -> bool:
        """Whether the guest code that a translation was made from is there."""
        for start, end, digest in ranges:
            region = self.space.regions.at(start)
            if region is None or not region.prot & EXEC:
                return False
            if code_digest(self.space.read_some(start, end - start)) != digest:
                return False
        return True

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
        self.lock.release()
        self.client.drop()
        self._requested.clear()
        self._queue.clear()
        self._asked.clear()

    def stats(self) -> dict[str, object]:
        """Counters under the names of `--stats`."""
        return {
            "regions": self.regions,
            "compile_seconds": self.client.compile_seconds,
            "cache_hits": self.store.hits,
            "cache_misses": self.store.misses,
        }

    def close(self) -> None:
        """End the worker and give address space back."""
        self.client.close()
        self.shadow.close()


def _stack_pointer() -> int:
    """About where the calling thread's stack is."""
    with open("/proc/thread-self/syscall") as file:
        return int(file.read().split()[-2], 16)

