"""Regions of one machine: which code is worth LLVM's time, and how its translation comes to be.

Wherever a hart's budget is used up it notes the record where it is: a sample each ten thousand
instructions. Samples tell what is worth it, and the machine's memory, page by page, is what is
translated; addresses of the guest's play no part, so that what was stored serves every process.
"""

from __future__ import annotations

import ctypes
import marshal
from _thread import allocate_lock
from array import array
from collections import Counter

from hartwood.errors import ImageError
from hartwood.jit import sysabi
from hartwood.jit.client import Client, WorkerError
from hartwood.jit.image import Image
from hartwood.jit.stitch import AREA
from hartwood.jit.store import page_key
from hartwood.jit.sysabi import RECORDS_PER_PAGE, SAMPLES
from hartwood.mem import hostmem
from hartwood.mem.hostmem import PAGE
from hartwood.mem.ram import stitched_pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hartwood.jit.client import Reply
    from hartwood.jit.store import Store
    from hartwood.jit.sysabi import SystemState
    from hartwood.mem.ram import Ram

    #: (state, page, halfwords, their number, places, their number, code) -> whether it was linked.
    Link = Callable[[int, int, int, int, int, int, int], bool]

#: Bytes of the area of stitched code that are for regions.
ROOM = 8 << 20
#: Samples within 512 bytes that make it worth it, of ten thousand instructions each.
WORTH, NEAR = 128, 12
#: Entries of one page in a request, and requests for one page: it may change all the time.
BATCH, TRIES = 8, 24
#: Requests at a time: the worker has the next one while an answer waits to be taken.
UNDER_WAY = 2


class Compiler:
    """The compile worker of the machines of this process: one request at a time each."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = allocate_lock()
        self._client = Client(store.path)
        self._owners: dict[int, SystemRegions] = {}
        self._number = 0

    @property
    def seconds(self) -> float:
        """CPU time that it took so far."""
        return self._client.compile_seconds

    def ask(self, owner: SystemRegions, page: bytes, entries: list[int], key: str) -> int:
        """Have what is at some offsets of a page translated; gives the request's number."""
        with self._lock:
            self._number += 1
            self._owners[self._number] = owner
            self._client.request_page(self._number, page, entries, key)
            return self._number

    def poll(self) -> None:
        """Hand out the answers that are there."""
        with self._lock:
            while self._owners and (answer := self._client.poll()) is not None:
                self._deliver(answer)

    def wait(self, number: int) -> None:
        """Until the answer to a request has been handed out. Raises `WorkerError`."""
        with self._lock:
            while number in self._owners:
                self._deliver(self._client.wait())

    def _deliver(self, answer: Reply) -> None:
        _, number, data, _ = answer
        owner = self._owners.pop(number, None)
        if owner is not None:
            owner.answers.append((number, data))


class SystemRegions:
    """The regions of the machine with this memory, in `ROOM` bytes at `base`. `link` and
    `page_in` are native. Methods may be called by the threads of harts."""

    def __init__(
        self,
        ram: Ram,
        base: int,
        link: Link,
        page_in: Callable[[int, int], object],
        compiler: Compiler,
    ) -> None:
        self._memory, self._records, self._flags = ram.memory, ram.records, ram.flags
        #: The words of all records, the first of each its handler.
        self._handlers = hostmem.view(ram.records, ram.pages * RECORDS_PER_PAGE).cast("Q")
        self._base, self._next = base, 0
        self._room = hostmem.view(base, ROOM)
        self._link, self._page_in = link, page_in
        self._compiler = compiler
        self._lock = allocate_lock()
        #: What came back: request number and image.
        self.answers: list[tuple[int, bytes]] = []
        #: Samples by neighbourhood and record.
        self._near: dict[int, Counter[int]] = {}
        #: Each hart's ring of samples, and how many of them were seen.
        self._rings: dict[int, tuple[memoryview, int]] = {}
        #: By page, the name of the content that was looked for in the store.
        self._known: dict[int, str] = {}
        self._tries: Counter[int] = Counter()
        #: Offsets by page that are wanted; requests that are under way by number: the page, its
        #: content and the offsets.
        self._wanted: dict[int, Counter[int]] = {}
        self._asked: dict[int, tuple[int, bytes, list[int]]] = {}
        #: Records that nothing can be compiled for.
        self._refused: set[int] = set()
        #: Regions linked so far.
        self.installed = 0
        #: There is no worker: what is stored has to do.
        self._alone = False
        #: There is no room: nothing more is installed until `reset`.
        self.full = False

    def pump(self, state: SystemState) -> None:
        """Take a hart's samples and what the worker has done; give it what is hottest."""
        if not self._lock.acquire(blocking=False):
            return  # another hart is at it
        try:
            self._sample(state)
            if self._asked:
                self._compiler.poll()
                self._take(ctypes.addressof(state))
            if self._wanted and len(self._asked) < UNDER_WAY and not self._alone:
                self._ask()
        except WorkerError:
            self._alone = True
        finally:
            self._lock.release()

    def translate(self, state: SystemState, page: int, entries: list[int]) -> None:
        """Translate what is at some offsets of a page of memory, now, whether it ran or not. Raises
        `WorkerError`."""
        with self._lock:
            self._request(page, entries)
            for number in list(self._asked):
                self._compiler.wait(number)
            self._take(ctypes.addressof(state))

    def translate_stitched(self, state: SystemState) -> None:
        """Translate all that is stitched, now. Raises `WorkerError`."""
        units = self._base + ROOM - AREA
        for page in stitched_pages(self._flags):
            first = page * RECORDS_PER_PAGE >> 3
            handlers = self._handlers[first : first + PAGE : 2].tolist()
            entries = [2 * n for n, at in enumerate(handlers) if units <= at < self._base]
            while entries:
                self.translate(state, page, entries[:BATCH])
                del entries[:BATCH]

    # What is worth it.
    def _sample(self, state: SystemState) -> None:
        where, count = ctypes.addressof(state), int(state.sampled)
        ring, before = self._rings.get(where) or (_ring(where), 0)
        self._rings[where] = ring, count
        fresh, end = min(count - before, SAMPLES), count % SAMPLES
        last = ring[max(end - fresh, 0) : end].tolist()
        if fresh > end:
            last += ring[end - fresh :].tolist()
        for record, times in Counter(last).items():
            if not self._is_linked(record):
                self._note(where, record, times)

    def _is_linked(self, record: int) -> bool:
        """Whether what comes to a record goes to a region."""
        return 0 <= self._handlers[record - self._records >> 3] - self._base < ROOM

    def _record(self, page: int, at: int) -> int:
        """The record of what begins at an offset of a page."""
        return self._records + page * RECORDS_PER_PAGE + 8 * at

    def _note(self, state: int, record: int, times: int) -> None:
        page = (record - self._records) // RECORDS_PER_PAGE
        if page not in self._known:
            self._recall(state, page)
        if self._tries[page] >= TRIES or record in self._refused:
            return  # it changes all the time, or is no beginning
        near = self._near.setdefault(record >> NEAR, Counter())
        near[record] += times
        if near.total() >= WORTH:
            # Kernels patch their code when they come up: the store may have what it is now.
            self._recall(state, page)
            hottest = max(near, key=near.__getitem__)
            if self._is_linked(hottest):
                near.clear()
                return
            at = (hottest - self._records) % RECORDS_PER_PAGE >> 3
            wanted = self._wanted.setdefault(page, Counter())
            wanted[at] += near.total()
            near.clear()

    # Asking and receiving.
    def _content(self, page: int) -> bytes:
        return bytes(self._memory[page * PAGE : (page + 1) * PAGE])

    def _ask(self) -> None:
        """Ask for what is wanted most and not linked meanwhile, on a page that is not under way."""
        busy = {page for page, _, _ in self._asked.values()}
        pages = [page for page in self._wanted if page not in busy]
        if not pages:
            return
        page = max(pages, key=lambda page: self._wanted[page].total())
        offsets = [at for at, _ in self._wanted.pop(page).most_common()]
        entries = [at for at in offsets if not self._is_linked(self._record(page, at))]
        if entries:
            self._request(page, entries[:BATCH])

    def _request(self, page: int, entries: list[int]) -> None:
        self._tries[page] += 1
        content = self._content(page)
        number = self._compiler.ask(self, content, entries, page_key(0, content))
        self._asked[number] = page, content, entries

    def _take(self, state: int) -> None:
        while self.answers:
            number, data = self.answers.pop(0)
            page, content, entries = self._asked.pop(number)
            if not data or self._install(state, Image.load(data), page, content):
                records = [self._record(page, at) for at in entries]
                self._refused.update(each for each in records if not self._is_linked(each))

    def _recall(self, state: int, page: int) -> None:
        """Install what the store has for a page, unless it was looked for already."""
        content = self._content(page)
        store, key = self._compiler.store, page_key(0, content)
        if self._known.get(page) == key:
            return
        self._known[page] = key
        self._refused.difference_update(self._record(page, at) for at in range(0, PAGE, 2))
        for data in store.get(key):
            try:
                self._install(state, Image.load(data), page, content)
            except (ImageError, ValueError, TypeError, KeyError, EOFError):
                store.discard(key)

    def _install(self, state: int, image: Image, page: int, content: bytes) -> bool:
        """Link the region of an image if the page holds now what it was made from, and tell."""
        size = len(image.code)
        if self._next + size > ROOM:
            self.full = True
            return False
        at, self._next = self._next, self._next + size + 63 & -64
        self._room[at : at + size] = image.code
        if not self._flags[page]:
            self._page_in(state, page)
        places, ranges = marshal.loads(image.meta)
        halves, entries = array("I", _halves(content, ranges)), array("I", places)
        code = self._base + at + image.entries["region"]
        linked = self._link(state, page, *_pointer(halves), *_pointer(entries), code)
        self.installed += linked
        return linked

    def reset(self, forget: Callable[[], object]) -> None:
        """Forget every region, after `forget`, which sees to it that nothing leads to one. In
        between no other thread links any."""
        with self._lock:
            forget()
            self._next, self.full = 0, False
            self._known.clear()
            self._near.clear()


def _ring(state: int) -> memoryview:
    """The samples of the hart whose state is at a host address."""
    return hostmem.view(state + sysabi.offset("samples"), 8 * SAMPLES).cast("Q")


def _halves(content: bytes, ranges: Iterable[tuple[int, int]]) -> Iterable[int]:
    """Offset and value, in one word, of each halfword in some ranges."""
    for start, end in ranges:
        for at in range(start, end, 2):
            yield at << 16 | content[at] | content[at + 1] << 8


def _pointer(words: array[int]) -> tuple[int, int]:
    return words.buffer_info()
