"""What a memory held at several moments, each page that differs kept once.

A store is a file in memory that holds one version; every other version knows a newer or older one
and the pages in which it differs from that. To make a version the one in the file, the way to it
is turned around (rerooting: Baker, "Shallow binding makes functional arrays fast", 1991). A machine
maps the file privately, so what it writes stays its own until the next snapshot, and dropping that
brings the version back.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator
from errno import ENXIO
from itertools import groupby
from threading import RLock

from hartwood.errors import Error
from hartwood.mem.hostmem import PAGE

#: Bytes that are read at a time, and pages that one call writes (the host takes 1024 vectors).
CHUNK, _VECTORS = 1 << 20, 1024
_ZERO = bytes(PAGE)
#: Bits of a pagemap entry's top byte (Documentation/admin-guide/mm/pagemap.rst): present, swapped,
#: and page of a file. What a private mapping has written is there and no page of its file.
_WRITTEN = bytes(int(bits & 0xC0 != 0 and not bits & 0x20) for bits in range(256))
_ANY = b"\0" + b"\1" * 255
_PAGEMAP = "/proc/self/pagemap"
#: Pages by number.
Pages = dict[int, bytes]


class VersionError(Error):
    """A version of a memory that the host has no room for, or that does not fit."""


class Version:
    """What a memory held at one moment. Kept for as long as somebody refers to it."""

    __slots__ = ("__weakref__", "_pages", "_toward", "store")

    def __init__(self, store: Store) -> None:
        self.store = store
        #: The version next to this one on the way to that in the file, and how this one differs.
        self._toward: Version | None = None
        self._pages: Pages = {}

    def path(self) -> list[Version]:
        """The way from here to the version in the file, which comes last."""
        way = [self]
        while way[-1]._toward is not None:
            way.append(way[-1]._toward)
        return way

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """All that is not zero, in order: page number and whole pages, at most `CHUNK` bytes."""
        store, seen, number = self.store, -1, 0
        over: Pages = {}
        while True:
            with store.lock:  # between two pieces the file may become another version
                if seen != store.changes:
                    seen, over = store.changes, {}
                    for version in reversed(self.path()):
                        over |= version._pages
                    later = sorted(over, reverse=True)
                while later and later[-1] < number:
                    later.pop()
                number = min([store.data_from(number), *later[-1:]])
                if number >= store.pages:
                    return
                found = store.read(number, min(CHUNK // PAGE, store.pages - number))
            for place in range(len(found) // PAGE):
                if number + place in over:
                    found[place * PAGE : (place + 1) * PAGE] = over[number + place]
            for first, last in _filled(found):
                yield number + first, bytes(found[first * PAGE : last * PAGE])
            number += len(found) // PAGE


def _filled(data: bytes | bytearray | memoryview) -> Iterator[tuple[int, int]]:
    """Runs of pages that are not zero."""
    if data == bytes(len(data)):
        return
    marks = bytes(data[at : at + PAGE] != _ZERO for at in range(0, len(data), PAGE))
    yield from marked(marks)


def marked(marks: bytes) -> Iterator[tuple[int, int]]:
    """Runs of bytes that are not zero: first, and one behind the last."""
    if marks == bytes(len(marks)):
        return
    ones = marks.translate(_ANY)
    first = ones.find(1)
    while first >= 0:
        last = ones.find(0, first)
        last = len(ones) if last < 0 else last
        yield first, last
        first = ones.find(1, last)


class Store:
    """A file in memory of `pages` pages, and the version that it holds."""

    def __init__(self, pages: int) -> None:
        """Raises `VersionError` where the host gives none."""
        self.pages = pages
        self.lock = RLock()
        #: Changes of the file so far.
        self.changes = 0
        #: The memory that has the file mapped, which sees every change of it.
        self.user: object = None
        self._root: weakref.ref[Version] | None = None
        try:
            self.fd = os.memfd_create("hartwood-memory", os.MFD_CLOEXEC)
            weakref.finalize(self, os.close, self.fd)
            os.ftruncate(self.fd, pages * PAGE)
        except OSError as reason:
            raise VersionError(f"no file in memory for a snapshot: {reason}") from reason

    def claim(self, user: object) -> bool:
        """Become `user`'s, unless it is somebody else's already."""
        with self.lock:
            if self.user is None:
                self.user = user
            return self.user is user

    @classmethod
    def of(cls, pages: int, pieces: Iterable[tuple[int, bytes]]) -> Version:
        """A store of its own with one version: these pages. Raises `VersionError`."""
        store = cls(pages)
        return store.commit((number, memoryview(data)) for number, data in pieces)

    def data_from(self, number: int) -> int:
        """The next page from `number` on that was ever written; `pages` where there is none."""
        try:
            return os.lseek(self.fd, number * PAGE, os.SEEK_DATA) // PAGE
        except OSError as reason:
            if reason.errno == ENXIO:
                return self.pages
            raise

    def read(self, number: int, count: int) -> bytearray:
        """Pages of the file."""
        data = bytearray(count * PAGE)
        view, at = memoryview(data), number * PAGE
        while view:
            done = os.preadv(self.fd, [view], at)
            view, at = view[done:], at + done
        return data

    def _write(self, number: int, parts: list[bytes] | list[memoryview]) -> None:
        """Whole pages, at most `_VECTORS` parts."""
        done, size = os.pwritev(self.fd, parts, number * PAGE), sum(map(len, parts))
        if done < size:  # the rest, which most likely gives the reason
            self._write_all(number * PAGE + done, b"".join(parts)[done:])

    def _write_all(self, at: int, data: bytes) -> None:
        while data:
            done = os.pwrite(self.fd, data, at)
            data, at = data[done:], at + done

    def _replace(self, pages: Pages) -> Pages:
        """Write pages; what was there before. Raises `VersionError` with nothing changed."""
        before: Pages = {}
        self.changes += 1
        try:
            for first, count in _runs(sorted(pages)):
                old = self.read(first, count)
                for place in range(count):
                    was = bytes(old[place * PAGE : (place + 1) * PAGE])
                    before[first + place] = _ZERO if was == _ZERO else was
                self._write(first, [pages[first + place] for place in range(count)])
        except OSError as reason:
            for first, count in _runs(sorted(before)):
                self._write(first, [before[first + place] for place in range(count)])
            raise VersionError(f"the host has no room for a snapshot: {reason}") from reason
        return before

    def commit(self, runs: Iterable[tuple[int, memoryview]]) -> Version:
        """A version with these pages new, which the file holds from now on; the one it held, if
        somebody has it, keeps what it was. Raises `VersionError` with nothing changed."""
        with self.lock:
            new, old = Version(self), self._root() if self._root else None
            if self.user is None and old is None:
                self._fill(runs)
            else:
                before = self._replace(dict(_pages(runs)))
                if old is not None:
                    old._toward, old._pages = new, before
            self._root = weakref.ref(new)
            return new

    def _fill(self, runs: Iterable[tuple[int, memoryview]]) -> None:
        """Write what nobody looks at yet; zeros stay holes."""
        self.changes += 1
        try:
            for number, data in runs:
                for at in range(0, len(data), CHUNK):
                    part = data[at : at + CHUNK]
                    for first, last in _filled(bytes(part)):
                        self._write(number + at // PAGE + first, [part[first * PAGE : last * PAGE]])
        except OSError as reason:
            raise VersionError(f"the host has no room for a snapshot: {reason}") from reason

    def reroot(self, version: Version) -> set[int]:
        """Make the file hold `version`; the numbers of pages that may have changed. Raises
        `VersionError` with every version what it was."""
        changed: set[int] = set()
        with self.lock:
            way = version.path()
            for near, far in zip(way[-1:0:-1], way[-2::-1], strict=True):
                near._pages = self._replace(far._pages)
                near._toward, far._toward, far._pages = far, None, {}
                changed |= near._pages.keys()
                self._root = weakref.ref(far)
        return changed


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Sorted numbers as (first, count), at most `_VECTORS` each."""
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        for at in range(0, len(run), _VECTORS):
            yield run[at], min(_VECTORS, len(run) - at)


def _pages(runs: Iterable[tuple[int, memoryview]]) -> Iterator[tuple[int, bytes]]:
    for number, data in runs:
        for place in range(len(data) // PAGE):
            yield number + place, bytes(data[place * PAGE : (place + 1) * PAGE])


def written(host: int, first: int, last: int) -> bytes | None:
    """For pages of a private mapping at `host`, a byte each: whether it was written to. None where
    the host does not tell."""
    try:
        with open(_PAGEMAP, "rb", buffering=0) as file:
            marks = bytearray()
            for number in range(first, last, 1 << 17):
                count = min(1 << 17, last - number)
                entries = os.pread(file.fileno(), 8 * count, 8 * (host // PAGE + number))
                if len(entries) != 8 * count:
                    return None
                marks += entries[7::8].translate(_WRITTEN)
    except OSError:
        return None
    return bytes(marks)
