"""Which guest code is stitched or translated, wanted, or on its way, and how that comes and goes.

Everything here happens in Python between two runs of generated code, under the engine's lock.
"""

from __future__ import annotations

import marshal

from hartwood.errors import ArenaFull, ImageError
from hartwood.jit.image import Image
from hartwood.jit.shadow import PAGE
from hartwood.jit.stitch import BANK
from hartwood.jit.store import code_digest, page_key
from hartwood.mem.regions import EXEC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hartwood.jit.arena import CodeArena
    from hartwood.jit.client import Client, Reply
    from hartwood.jit.shadow import Shadow
    from hartwood.jit.store import Store
    from hartwood.mem.flat import FlatSpace

#: Times an address has to be hot before a compiler is worth it where nothing can be stitched; and
#: as a multiple, inside a known region, before it gets a region of its own.
WORTH, PATIENCE = 40, 3
#: Samples in stitched code count together where addresses agree but for so many low bits.
NEAR = 9
#: A program with so many hot addresses is large enough to make stencils for.
LARGE = 40
#: Slices that ended in a unit or region of each level, some milliseconds each, after which it is
#: translated again at the next: as much time as that takes. There is nothing beyond the last.
SAMPLES = {0: 8, 1: 40}
#: Guest code that a request carries: pages before and after each entry's.
_BEFORE, _AFTER = 1, 3
#: Entries that one request may carry.
_BATCH = 12
#: How a region is compiled at first, and at best (see `worker.region_image`).
FIRST, BEST = 1, 2


class Translation:
    """One translated region: where control may enter, and the guest bytes it was made from."""

    __slots__ = ("entries", "level", "ranges")

    def __init__(
        self, entries: list[int], ranges: list[tuple[int, int, bytes]], level: int
    ) -> None:
        self.entries = entries
        self.ranges = ranges
        self.level = level

    @property
    def pages(self) -> set[int]:
        """Every guest page it depends on."""
        return {page for start, end, _ in self.ranges for page in range(start & -PAGE, end, PAGE)}


class Translations:
    """The regions of one address space.

    `activate(page)` makes a page's shadows available where the guest may execute it, and says
    whether it may; `is_alone()` tells whether no other thread can be in generated code.
    """

    def __init__(
        self,
        space: FlatSpace,
        arena: CodeArena,
        shadow: Shadow,
        store: Store,
        client: Client,
        activate: Callable[[int], bool],
        is_alone: Callable[[], bool],
        learn: Callable[[Image], None] | None = None,
    ) -> None:
        """`learn` takes the bank of stencils; without it everything hot is compiled."""
        self._space, self._arena, self._shadow = space, arena, shadow
        self._store, self._client = store, client
        self._activate, self._is_alone = activate, is_alone
        #: What is linked at each entry, and what depends on each page.
        self.at: dict[int, Translation] = {}
        self._on: dict[int, list[Translation]] = {}
        #: How often an address was hot, how often a slice ended there.
        self._heat: dict[int, int] = {}
        self._samples: dict[int, int] = {}
        self._samples_near: dict[int, list[int]] = {}
        #: Whether stencils are there, were looked for in the store, were asked for.
        self._learn = learn
        self.can_stitch = self._looked = self._awaited = False
        self._worth = WORTH if learn else 1
        #: Wanted, and asked for: request number -> (page, entries).
        self._queue: list[int] = []
        self._asked: dict[int, tuple[int, list[int]]] = {}
        self._number = 0
        #: Number of the request on its way that is to make something better: one at a time, since
        #: what comes is often better at the other places that control is found at, too.
        self._improving = 0
        #: Entries that could not be translated; (entry, level) that was asked to be better.
        self._refused: set[int] = set()
        self._improved: set[tuple[int, int]] = set()
        self.installed = 0
        #: The arena had no room: nothing more is installed until `reset`.
        self.full = False

    @property
    def busy(self) -> bool:
        """Whether `pump` has something to do."""
        return bool(self._asked or self._queue or self._awaited)

    # Finding out what is worth it.
    def hot(self, pc: int) -> None:
        """Control arrives at `pc` often."""
        self._look_for_stencils()
        heat = self._heat[pc] = self._heat.get(pc, 0) + 1
        # Inside a region that has an entry elsewhere, an address waits: control will mostly come
        # through that entry, unless it stays inside for long.
        if heat >= self._worth and (heat > PATIENCE * self._worth or not self._covering(pc)):
            self._want(pc)
        self.pump()

    def sample(self, pc: int) -> None:
        """A slice ended at `pc`: where that is often so, most time is spent."""
        known = self.at.get(pc)
        if known is None:
            self._sample_unit(pc)
            return
        if known.level == BEST or (pc, known.level) in self._improved:
            return
        count = self._samples[pc] = self._samples.get(pc, 0) + 1
        if count >= SAMPLES[known.level] and self._improving not in self._asked:
            self._improved.add((pc, known.level))
            self._ask([pc], known.level + 1)
            self._improving = self._number

    def _sample_unit(self, pc: int) -> None:
        """The same for code that is stitched: units are small, so neighbours count together."""
        near = self._samples_near.setdefault(pc >> NEAR, [])
        near.append(pc)
        if len(near) >= SAMPLES[0]:
            self._heat[pc] = self._heat.get(pc, 0) + self._worth
            self._want(max(near, key=near.count))
            near.clear()

    def _want(self, pc: int) -> None:
        """Have it translated when the worker has time."""
        if not self._is_wanted(pc):
            self._queue.append(pc)

    # Stitching is native; here is only when it begins.
    def _look_for_stencils(self) -> None:
        """Learn to stitch, from the store or else from the worker when that seems worth it."""
        if self._learn is None or self.can_stitch:
            return
        if not self._looked:
            self._looked = True
            for data in self._store.get(f"bank-{BANK}"):
                self._take_stencils(data)
        elif len(self._heat) > LARGE and not self._awaited:
            self._awaited = True
            self._client.ask_bank(BANK)

    def _take_stencils(self, data: bytes) -> None:
        assert self._learn is not None
        try:
            self._learn(Image.load(data))
            self.can_stitch = True
        except ImageError:
            self._store.discard(f"bank-{BANK}")

    def _is_wanted(self, pc: int) -> bool:
        if pc in self.at or pc in self._refused or pc in self._queue:
            return True
        return any(pc in entries for _, entries in self._asked.values())

    def _covering(self, pc: int) -> Translation | None:
        """A region that `pc` is inside of."""
        for known in self._on.get(pc & -PAGE, ()):
            if any(start <= pc < end for start, end, _ in known.ranges):
                return known
        return None

    # Asking and receiving.
    def pump(self) -> None:
        """Take what the worker has done and give it what is hottest. One request at a time: what
        it brings may cover what else was asked for, and a large one costs less a region."""
        while (self._asked or self._awaited) and (answer := self._client.poll()) is not None:
            self.take(answer)
        if self._queue and not self._asked and not self.full:
            self._queue.sort(key=lambda pc: self._heat.get(pc, 0), reverse=True)
            batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
            self._ask(batch, FIRST)

    def _ask(self, entries: list[int], level: int) -> None:
        """Have regions translated, those parts of them that have run."""
        parts = [
            (page, self._space.read_some(page, PAGE), self._executed(page))
            for page in _pages_around(entries)
            if page in self._shadow.active
        ]
        self._request(entries, parts, level)

    def translate(self, entries: list[int], level: int = BEST) -> None:
        """Translate the code at `entries`, whether or not it has run, and wait for it. Raises
        `WorkerError` where there is no worker to do it."""
        everything = b"\1" * (PAGE // 2)
        parts = [
            (page, self._space.read_some(page, PAGE), everything)
            for page in _pages_around(entries)
            if self._activate(page)
        ]
        self._request(entries, parts, level)
        number = self._number
        while number in self._asked:
            self.take(self._client.wait())

    def _request(
        self, entries: list[int], parts: list[tuple[int, bytes, bytes]], level: int
    ) -> None:
        page = entries[0] & -PAGE
        if not any(at == page for at, _, _ in parts):
            return  # the guest unmapped it meanwhile
        self._number += 1
        self._asked[self._number] = page, entries
        pages = {at for at, _, _ in parts}
        known = [entry for entry in self.at if entry & -PAGE in pages]
        self._client.request(self._number, entries, parts, level, self._key(page), known)

    def _key(self, page: int) -> str:
        return page_key(page, self._space.read_some(page, PAGE))

    def _executed(self, page: int) -> bytes:
        """A byte for each halfword of a page: 1 where an instruction was interpreted, or belongs
        to a region that is translated already."""
        executed = self._shadow.executed(page)
        for known in self._on.get(page, ()):
            for start, end, _ in known.ranges:
                first, last = max(start - page, 0) // 2, min(end - page, PAGE) // 2
                if first < last:
                    executed[first:last] = b"\1" * (last - first)
        return bytes(executed)

    def take(self, answer: Reply) -> None:
        """Install what a reply to a request brings."""
        if answer[0] == "bank":
            self._awaited = False
            self._take_stencils(answer[2])
            return
        _, number, data, _ = answer
        _, entries = self._asked.pop(number, (0, []))
        if data and not self._install(Image.load(data)):
            return  # code that changed meanwhile, or no room: it may be asked for again
        self._refused.update(pc for pc in entries if pc not in self.at and not self._covering(pc))

    def recall(self, page: int, key: str) -> None:
        """Install what the store has for a page that became active; `key` is its `page_key`."""
        for data in self._store.get(key):
            try:
                self._install(Image.load(data))
            except ImageError:
                self._store.discard(key)

    # Installing and forgetting.
    def _install(self, image: Image) -> bool:
        """Link the regions of an image whose guest code is there, unchanged; gives whether that
        was so for all of them."""
        base, complete = 0, True
        level, regions = marshal.loads(image.meta)
        for entries, _size, ranges in regions:
            made = Translation(entries, ranges, level)
            if not self._is_current(made):
                complete = False
                continue
            if not base:
                try:
                    base = self._arena.install(image, alone=self._is_alone())
                except ArenaFull:
                    self.full = True
                    return False
            self._link(made, base + image.entries[f"r_{entries[0]:x}"])
        return complete

    def _is_current(self, made: Translation) -> bool:
        """Whether the guest code that a translation was made from is there, to be executed. Its
        pages are watched before they are looked at: another thread may be writing."""
        if not all(self._activate(page) for page in made.pages):
            return False
        for start, end, digest in made.ranges:
            region = self._space.regions.at(start)
            if region is None or end > region.end or not region.prot & EXEC:
                return False
            if code_digest(self._space.read_some(start, end - start)) != digest:
                return False
        return True

    def _link(self, made: Translation, code: int) -> None:
        for entry in made.entries:
            # An entry of an earlier region stays with it, unless this one is better.
            known = self.at.get(entry)
            if known is None or known.level < made.level:
                self._shadow.link(entry, code)
                self.at[entry] = made
        for page in made.pages:
            self._on.setdefault(page, []).append(made)
        # What was asked for in there meanwhile may not be needed any more.
        self._queue = [
            pc for pc in self._queue if not any(start <= pc < end for start, end, _ in made.ranges)
        ]
        self.installed += 1

    def forget(self, page: int) -> None:
        """The code on a page changes: unlink every region that depends on it."""
        for known in self._on.pop(page, ()):
            for entry in known.entries:
                if self.at.get(entry) is known:
                    del self.at[entry]
                    self._shadow.unlink(entry)
            for other in known.pages:
                if other != page and other in self._on:
                    self._on[other] = [t for t in self._on[other] if t is not known]
        self._refused -= {pc for pc in self._refused if pc & -PAGE == page}
        self._improved -= {fact for fact in self._improved if fact[0] & -PAGE == page}

    def is_intact(self, page: int) -> bool:
        """Whether every region that depends on a page still matches guest memory."""
        return all(self._is_current(known) for known in list(self._on.get(page, ())))

    def reset(self) -> None:
        """Forget every region; the arena's memory is somebody else's from here."""
        for page in list(self._on):
            self.forget(page)
        self._queue.clear()
        self._heat.clear()
        self._samples.clear()
        self._samples_near.clear()
        self.full = False

    def drop_requests(self) -> None:
        """The worker is gone (fork): nothing is on its way."""
        self._asked.clear()
        self._queue.clear()
        self._awaited = False


def _pages_around(entries: list[int]) -> list[int]:
    """The pages that regions at `entries` may reach into."""
    near = range(-_BEFORE * PAGE, (_AFTER + 1) * PAGE, PAGE)
    pages = {(entry & -PAGE) + distance for entry in entries for distance in near}
    return sorted(page for page in pages if page >= 0)
