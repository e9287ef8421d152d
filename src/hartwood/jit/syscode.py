"""The generated code of system mode: one copy a process, for all machines and harts."""

from __future__ import annotations

import ctypes
import time
import warnings
from _thread import allocate_lock
from contextlib import suppress
from threading import Event, Thread
from weakref import WeakKeyDictionary

from hartwood.errors import Error, ImageError
from hartwood.jit import abi, sysabi
from hartwood.jit.arena import CodeArena
from hartwood.jit.client import Client, WorkerError
from hartwood.jit.image import Image
from hartwood.jit.stitch import BANK as STENCILS
from hartwood.jit.store import Store
from hartwood.jit.sysregions import Compiler
from hartwood.jit.sysstitch import SystemStitches
from hartwood.mem import hostmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.mem.ram import Ram

BANKS = ("base", "float", "rounded", "extra")
_TABLE_SIZE = 1 << 16


class SystemCode:
    """Banks of handlers and the ways in. Methods may be called from any thread."""

    def __init__(self, learn: bool = False) -> None:
        """With `learn` the stencils are made at the same time as the rest."""
        self._store = Store()
        self.compiler = Compiler(self._store)
        self._arena = CodeArena(16 << 20)
        self._lock = allocate_lock()
        self.cache_hits, self.cache_misses, self.compile_seconds = 0, 0, 0.0
        #: What code is stitched with, once it was learnt.
        self.stencils: Image | None = None
        self._learner: Thread | None = None
        #: Set when `_extra` was asked for: the bank that every kernel needs soon.
        self._asked = Event()
        self._extra: Image | None = None
        self._stitches: WeakKeyDictionary[Ram, SystemStitches] = WeakKeyDictionary()
        self._table_at = hostmem.mmap(0, _TABLE_SIZE, 3, 0x22)
        self._table = hostmem.view(self._table_at, _TABLE_SIZE).cast("Q")
        if learn:
            self.learn()
        image = self._image("base")
        self._bank_of = image.meta
        base = self._install(image)
        self.entries = {name: base + at for name, at in image.entries.items()}
        take_state = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self.run = take_state(self.entries["run"])
        self.step = take_state(self.entries["step"])
        #: Take the exception that `cause` and `tval` of a state describe.
        self.throw = take_state(self.entries["throw"])
        flush = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_bool)
        #: Forget translations: (state, address, whether all).
        self.flush = flush(self.entries["flush"])
        #: Take note of privileged state that Python wrote.
        self.settle = take_state(self.entries["settle"])
        discard = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)
        #: Forget decoded code: (state, offset into memory, size), within a page.
        self.discard = discard(self.entries["discard"])
        now = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int64)
        #: Guest time: (state, budget).
        self.now = now(self.entries["now"])

    def _image(self, bank: str, client: Client | None = None) -> Image:
        """From the store, or made by a worker: that of `client`, or one for this alone."""
        key = f"bank-system-{bank}"
        for data in self._store.get(key):
            try:
                image = Image.load(data)
            except ImageError:
                self._store.discard(key)
            else:
                self.cache_hits += 1
                return image
        own, begin = client or Client(self._store.path, {}), time.perf_counter()
        self.cache_misses += 1
        try:
            return Image.load(own.bank(f"system-{bank}"))
        finally:
            if client is None:
                own.close()
            self.compile_seconds += time.perf_counter() - begin

    def stats(self) -> dict[str, object]:
        """What was found in the cache and what had to be made, with how long that took."""
        return {
            "cache_hits": self.cache_hits, "cache_misses": self.cache_misses,
            "compile_seconds": self.compile_seconds + self.compiler.seconds,
        }  # fmt: skip

    def learn(self) -> Thread:
        """Have the stencils made, by a thread that this gives."""
        with self._lock:
            if self._learner is None:
                self._learner = Thread(target=self._learn, daemon=True)
                self._learner.start()
            return self._learner

    def _learn(self) -> None:
        client = Client(self._store.path, {})
        try:
            self._extra = self._image("extra", client)
            self._asked.set()
            self.stencils = self._image(STENCILS, client)
        except WorkerError as reason:
            warnings.warn(f"whole machines stay slow: {reason}", RuntimeWarning, stacklevel=1)
        finally:
            self._asked.set()
            client.close()

    def stitches(self, ram: Ram) -> SystemStitches:
        """The stitched code of the machine with this memory; the stencils have been learnt."""
        assert self.stencils is not None
        with self._lock:
            if ram not in self._stitches:
                self._stitches[ram] = SystemStitches(
                    self.stencils, self.entries, ram, self.compiler
                )
            return self._stitches[ram]

    def _install(self, image: Image) -> int:
        base = self._arena.install(image)
        for name, at in image.entries.items():
            if name.startswith("h_"):
                self._table[int(name[2:])] = base + at
        return base

    def load_bank(self, number: int) -> None:
        """Make handler `number` available."""
        with self._lock:
            if not self._table[number]:
                bank = BANKS[self._bank_of[number]]
                if bank == "extra" and self._learner is not None:
                    self._asked.wait()
                known = self._extra if bank == "extra" else None
                self._install(known or self._image(bank))

    def load_banks(self) -> None:
        """Make all handlers available."""
        for number in range(1, len(self._bank_of)):
            if not self._table[number]:
                self.load_bank(number)

    def new_state(self) -> sysabi.SystemState:
        """The state of a hart at reset, without memory."""
        state = sysabi.SystemState()
        state.handlers = self._table_at
        state.reserved_address = (1 << 64) - 1
        state.mxcsr = 0x1F80
        state.until = sysabi.NOWHERE
        for tlb in range(3 * sysabi.CONTEXTS):  # zeros are no empty entries
            state.used[tlb] = 1
        for place, name in enumerate(sysabi.LINKS):
            state.links[place] = self.entries[name]
        return state


_making = allocate_lock()
_made: list[SystemCode] = []


def system_code(learn: bool = False) -> SystemCode:
    """The code of this process, with stencils if it has to `learn`. Raises `WorkerError` where it
    cannot be made."""
    with _making:
        if not _made:
            _made.append(SystemCode(learn))
        return _made[0]


def prepare(learn: bool) -> None:
    """Begin to make the code of this process while it does something else."""

    def make() -> None:
        with suppress(Error):  # whoever needs it tries again, and says so
            system_code(learn)

    Thread(target=make, daemon=True).start()


assert sysabi.LOCKUP > abi.ILLEGAL
