"""qcow2 images: read, written, and whole after any crash.

A flush stores in this order, with a sync between: data, refcounts and new tables; then what points
to them, changed tables and L1 entries; only then is given back what nothing points to any more. So
whenever the host stops, every pointer in the file leads to what was meant, and the worst that is
left is a cluster counted as used that is not: a leak, which `check` can mend.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from hartwood.errors import DiskError
from hartwood.storage import qcow2_format as form
from hartwood.storage.hostfile import HostFile
from hartwood.storage.image import Image
from hartwood.storage.qcow2_format import COMPRESSED, COPIED, OFFSET, ZERO, big_endian, words
from hartwood.storage.qcow2_refcounts import Refcounts
from hartwood.storage.sharing import Cursor, SharedLock, fill

#: Bytes of L2 tables kept in memory, and tables that may wait for a flush.
CACHE_BYTES, DIRTY_TABLES = 16 << 20, 64
HOLE, DATA, ZEROS, PACKED = range(4)


class Place(NamedTuple):
    """Where a guest cluster is: a kind, an offset in the file, bytes when packed, and whether only
    this mapping uses it."""

    kind: int
    host: int = 0
    size: int = 0
    own: bool = False


@dataclass
class _Work:
    """What one flush stores."""

    refcounts: set[int]
    changed: set[int]
    fresh: set[int]
    l1: set[int]
    gone: list[int]
    first: list[tuple[int, bytes]]
    then: list[tuple[int, bytes]]


class Qcow2(Image):
    """A qcow2 file, version 2 or 3, as a disk.

    What it does not hold is read from `backing`, which the caller names: the header's own word for
    it is a path that somebody else chose, and is never followed.
    """

    def __init__(
        self,
        path: str,
        *,
        sector: int = 512,
        readonly: bool = False,
        serial: str = "",
        backing: Image | None = None,
        checking: bool = False,
    ) -> None:
        self.file = HostFile(path, readonly=readonly)
        try:
            self.header = header = form.parse(self.file)
            super().__init__(path, header.size, sector, readonly, serial)
            self.backing = backing
            self._check_backing(checking)
            self.reserved = {0}  # clusters of metadata: no data may be there
            self.refcounts = Refcounts(self.file, header, self.reserved)
            self.l1 = words(self.file.read(header.l1_offset, header.l1_size * 8))
            self._reserve_l1()
            self._tables: OrderedDict[int, array[int]] = OrderedDict()
            self._tables_lock = Lock()
            # L2 tables by offset: all that are newer than the file, of these what a flush has not
            # begun to store, and of these what no L1 entry in the file points to yet.
            self.dirty: dict[int, array[int]] = {}
            self._changed: set[int] = set()
            self._fresh: set[int] = set()
            self._dirty_l1: set[int] = set()
            self.gone: list[int] = []  # clusters to be given back by the next flush
            self._end = self.file.size
            self.lock, self._flushing = SharedLock(), Lock()
            self._broken = self._closed = False
            if not readonly:
                self._prepare(checking)
        except BaseException:
            self.file.close()
            raise

    def _check_backing(self, checking: bool) -> None:
        name = self.header.backing
        if name and self.backing is None and not checking:
            raise DiskError(
                self.path,
                f"stands on the backing file {name!r}, which is never opened unasked; "
                "name it with backing=",
                errno.EINVAL,
            )
        below = self.backing
        while below is not None:
            file = getattr(below, "file", None)
            if file is not None and file.identity == self.file.identity:
                raise DiskError(self.path, "is its own backing file", errno.ELOOP)
            below = getattr(below, "backing", None)

    def _reserve_l1(self) -> None:
        bits, size = self.header.cluster_bits, len(self.l1) * 8
        first = self.header.l1_offset >> bits
        self.reserved.update(range(first, first + (size + self.header.cluster - 1 >> bits)))

    def _prepare(self, checking: bool) -> None:
        """Get ready to be written: what an unclean end or another program's features left."""
        header = self.header
        if header.incompatible & form.CORRUPT and not checking:
            raise DiskError(
                self.path,
                "is marked corrupt; open it readonly, or try: hartwood disk check --repair",
                errno.EROFS,
            )
        if self._end % header.cluster:
            self._end += -self._end % header.cluster
            self.file.resize(self._end)
        if header.autoclear:  # what other programs keep beside the data is stale from now on
            header.autoclear = 0
            self.file.write(form.AT_AUTOCLEAR, bytes(8))
        if header.incompatible & form.DIRTY and not checking:
            from hartwood.storage.qcow2_check import repair

            repair(self)

    @staticmethod
    def create(
        path: str,
        size: int,
        *,
        version: int = 3,
        cluster: int = 65536,
        refcount_bits: int = 16,
        backing: str = "",
        backing_format: str = "raw",
    ) -> None:
        """Make a new image of `size` bytes. Raises `DiskError`, also when `path` exists."""
        if cluster not in {1 << bits for bits in range(9, 22)} or version not in (2, 3):
            raise DiskError(path, "cluster= is 2^9 to 2^21, version= 2 or 3", errno.EINVAL)
        if refcount_bits not in ({16} if version == 2 else {1, 2, 4, 8, 16, 32, 64}):
            raise DiskError(path, "refcount_bits= is a power of 2 up to 64; 16 in version 2")
        file = HostFile(path, readonly=False, create=True)
        try:
            file.write(
                0,
                form.new_header(
                    version=version,
                    cluster=cluster,
                    backing=backing,
                    backing_format=backing_format,
                    refcount_bits=refcount_bits,
                ),
            )
            file.close()
            with Qcow2(path, checking=True) as image:
                image.resize(size)
                image.flush()
        except BaseException:
            file.close()
            os.unlink(path)
            raise

    # Reading

    def place(self, index: int) -> Place:
        """Where guest cluster `index` is. Raises `DiskError` when that cannot be true."""
        at_l1, at_l2 = divmod(index, self.header.cluster // 8)
        table = self.table(at_l1)
        return self.decode(table[at_l2]) if table is not None and table[at_l2] else Place(HOLE)

    def decode(self, entry: int) -> Place:
        """What an L2 entry says."""
        header = self.header
        if entry & COMPRESSED:
            width = 62 - (header.cluster_bits - 8)
            host = entry & (1 << width) - 1
            sectors = (entry >> width & (1 << header.cluster_bits - 8) - 1) + 1
            size = min(sectors * 512 - host % 512, self._end - host)
            if size <= 0:
                raise self.corrupt(f"compressed data at {host:#x}, past the end")
            return Place(PACKED, host, size)
        host = entry & OFFSET
        if host % header.cluster or host >= self._end:
            raise self.corrupt(f"a cluster at {host:#x}")
        if host and host >> header.cluster_bits in self.reserved:
            raise self.corrupt(f"data at {host:#x}, where there is metadata")
        own = bool(entry & COPIED and host)
        if entry & ZERO and header.version > 2:
            return Place(ZEROS, host, 0, own)
        return Place(DATA, host, 0, own) if host else Place(HOLE)

    def corrupt(self, what: str) -> DiskError:
        """The error for an image that cannot be right."""
        return DiskError(self.path, f"corrupt: {what}; see: hartwood disk check")

    def table(self, at_l1: int) -> array[int] | None:
        """The L2 table of an L1 entry, None where there is none."""
        host = self.l1[at_l1] & OFFSET
        if not host:
            return None
        with self._tables_lock:
            found = self.dirty.get(host) or self._tables.get(host)
            if found is not None:
                if host in self._tables:
                    self._tables.move_to_end(host)
                return found
        found = self.load_table(host)
        with self._tables_lock:
            self._cache(host, found)
            self.reserved.add(host >> self.header.cluster_bits)
        return found

    def _cache(self, host: int, table: array[int]) -> None:
        self._tables[host] = table
        while len(self._tables) * self.header.cluster > CACHE_BYTES + 4 * self.header.cluster:
            self._tables.popitem(last=False)

    def load_table(self, host: int) -> array[int]:
        """The L2 table at `host` as it is in the file."""
        if host % self.header.cluster or host >= self._end:
            raise self.corrupt(f"an L2 table at {host:#x}")
        return words(self.file.read(host, self.header.cluster))

    def _spans(self, at: int, size: int) -> Iterator[tuple[int, int, int]]:
        """The clusters of a range: (guest cluster, offset in it, bytes of it)."""
        while size:
            index, inside = divmod(at, self.header.cluster)
            part = min(size, self.header.cluster - inside)
            yield index, inside, part
            at, size = at + part, size - part

    def _readv(self, at: int, buffers: Sequence[memoryview]) -> None:
        with self.lock.shared():
            self._fill(at, buffers)

    def _fill(self, at: int, buffers: Sequence[memoryview]) -> None:
        cursor, run, start = Cursor(buffers), list[memoryview](), -1
        length = 0
        for index, inside, part in self._spans(at, sum(buffer.nbytes for buffer in buffers)):
            place, pieces = self.place(index), cursor.take(part)
            if run and not (place.kind == DATA and place.host + inside == start + length):
                self._read_data(start, run, length)
                run, length = [], 0
            if place.kind == DATA:
                if not run:
                    start = place.host + inside
                run, length = run + pieces if run else pieces, length + part
            elif place.kind == PACKED:
                fill(pieces, self._unpack(place)[inside : inside + part])
            elif place.kind == HOLE and self.backing is not None:
                self._read_backing(index * self.header.cluster + inside, pieces, part)
            else:
                fill(pieces)
        if run:
            self._read_data(start, run, length)

    def _read_data(self, host: int, pieces: list[memoryview], size: int) -> None:
        got = self.file.readv(host, pieces)
        if got < size:
            # A file that another program left so may end within its last cluster.
            if not self.readonly or self.file.size < self._end:
                raise DiskError(self.path, f"ends before {host + size:#x}: it was truncated")
            cursor = Cursor(pieces)
            cursor.take(got)
            fill(cursor.take(size - got))

    def _read_backing(self, at: int, pieces: list[memoryview], size: int) -> None:
        assert self.backing is not None
        cursor, there = Cursor(pieces), max(0, min(size, self.backing.size - at))
        if there:
            self.backing.readv(at, cursor.take(there))
        fill(cursor.take(size - there))

    def _unpack(self, place: Place) -> bytes:
        packed, size = self.file.read(place.host, place.size), self.header.cluster
        try:
            if self.header.compression == form.ZLIB:
                data = zlib.decompressobj(-15).decompress(packed, size)
            else:
                data = _zstd(packed, size)
        except ImportError:
            raise DiskError(
                self.path, "is compressed with zstd: pip install zstandard", errno.EOPNOTSUPP
            ) from None
        except Exception:
            raise self.corrupt(f"compressed data at {place.host:#x}") from None
        if len(data) != size:
            raise self.corrupt(f"compressed data at {place.host:#x}")
        return data

    # Writing

    def _writev(self, at: int, buffers: Sequence[memoryview]) -> None:
        self._make_room()
        size = sum(buffer.nbytes for buffer in buffers)
        with self.lock.shared():
            places = [self.place(index) for index, _, _ in self._spans(at, size)]
            if all(place.kind == DATA and place.own for place in places):
                self._write_runs(self._in_place(at, buffers, places))
                return
        with self.lock.alone():
            self._write_new(at, buffers)

    def _make_room(self) -> None:
        """Refuse when an earlier error left the image in doubt; flush when much is waiting."""
        if self._broken:
            raise DiskError(self.path, "an earlier change failed half-way; open it anew")
        if len(self.dirty) > DIRTY_TABLES or len(self.gone) > 1 << 16:
            self.flush()

    def _in_place(
        self, at: int, buffers: Sequence[memoryview], places: list[Place]
    ) -> Iterator[tuple[int, list[memoryview]]]:
        cursor = Cursor(buffers)
        spans = self._spans(at, sum(buffer.nbytes for buffer in buffers))
        for (_, inside, part), place in zip(spans, places, strict=True):
            yield place.host + inside, cursor.take(part)

    def _write_runs(self, parts: Iterator[tuple[int, list[memoryview]]]) -> None:
        """Write pieces, neighbours in the file in one call."""
        start, run, end = 0, list[memoryview](), 0
        for host, pieces in parts:
            if run and host != end:
                self.file.writev(start, run)
                run = []
            if not run:
                start = end = host
            run += pieces
            end += sum(piece.nbytes for piece in pieces)
        if run:
            self.file.writev(start, run)

    def _write_new(self, at: int, buffers: Sequence[memoryview]) -> None:
        """Write with new clusters where needed; the tables follow when the data is in the file."""
        cursor, bits = Cursor(buffers), self.header.cluster_bits
        parts, entries, made, end = [], [], list[int](), self._end
        try:
            for index, inside, part in self._spans(at, sum(buffer.nbytes for buffer in buffers)):
                place, pieces = self.place(index), cursor.take(part)
                if place.own and place.kind == DATA:
                    parts.append((place.host + inside, pieces))
                    continue
                host = place.host
                if not place.own:
                    made.append(self.refcounts.allocate())
                    host = made[-1] << bits
                fresh = host >= self._end and (place.kind == ZEROS or self._bare(index, place))
                self._end = max(self._end, host + self.header.cluster)
                if fresh:  # past the file's old end there are zeros already
                    parts.append((host + inside, pieces))
                else:
                    parts.append((host, self._whole(index, inside, part, pieces)))
                entries.append((index, host))
            if self._end > end and self._end > self.file.size:
                self.file.resize(self._end)
            self._write_runs(iter(parts))
            for index, host in entries:
                self.point(index, host | COPIED)
                if made and made[0] == host >> bits:
                    del made[0]
        except BaseException:
            for cluster in made:
                self.refcounts.set(cluster, 0)
            raise

    def _bare(self, index: int, place: Place) -> bool:
        """Whether a cluster reads as zeros with nothing in the backing file."""
        backing = self.backing
        return place.kind == HOLE and (
            backing is None or index * self.header.cluster >= backing.size
        )

    def _whole(
        self, index: int, inside: int, part: int, pieces: list[memoryview]
    ) -> list[memoryview]:
        """A cluster: `pieces` and around them what it held."""
        start, after = index * self.header.cluster, inside + part
        before, behind = bytearray(inside), bytearray(self.header.cluster - after)
        if inside:
            self._fill(start, [memoryview(before)])
        if behind:
            self._fill(start + after, [memoryview(behind)])
        return [each for each in (memoryview(before), *pieces, memoryview(behind)) if each.nbytes]

    def point(self, index: int, entry: int) -> None:
        """Change the L2 entry of a guest cluster; what it pointed to is given back by a flush."""
        at_l1, at_l2 = divmod(index, self.header.cluster // 8)
        if not entry and self.table(at_l1) is None:
            return
        table = self._own_table(at_l1)
        old, table[at_l2] = table[at_l2], entry
        if (old ^ entry) & OFFSET or (old ^ entry) & COMPRESSED:
            self.gone += self.clusters_of(old)

    def clusters_of(self, entry: int) -> range:
        """The clusters of the file that an L2 entry uses."""
        place = self.decode(entry)
        bits = self.header.cluster_bits
        if not place.host:
            return range(0)
        return range(place.host >> bits, (place.host + max(place.size, 1) - 1 >> bits) + 1)

    def _own_table(self, at_l1: int) -> array[int]:
        """The L2 table of an L1 entry, to be changed: made, or copied from a snapshot's."""
        table, entry = self.table(at_l1), self.l1[at_l1]
        host = entry & OFFSET
        if table is None or not entry & COPIED:
            new = table[:] if table is not None else words(bytes(self.header.cluster))
            cluster = self.refcounts.allocate()
            try:  # a full disk has to be found now, not when the guest flushes
                self.file.write(cluster << self.header.cluster_bits, big_endian(new))
            except BaseException:
                self.refcounts.set(cluster, 0)
                raise
            if host:
                self.gone.append(host >> self.header.cluster_bits)
            host, table = cluster << self.header.cluster_bits, new
            self._fresh.add(host)
            self._end = max(self._end, host + self.header.cluster)
            self.reserved.add(cluster)
            self.l1[at_l1] = host | COPIED
            self._dirty_l1.add(at_l1)
        with self._tables_lock:
            self._tables.pop(host, None)
            self.dirty[host] = table
        self._changed.add(host)
        return table

    def _discard(self, at: int, size: int) -> None:
        if self.header.version > 2 or self.backing is None:
            self._clear(*self._inner(at, size), may_unmap=True)

    def _inner(self, at: int, size: int) -> tuple[int, int]:
        """The guest clusters (first, end) that lie within a range; the disk's last may be short."""
        cluster, end = self.header.cluster, at + size
        last = -(-end // cluster) if end == self.size else end // cluster
        return -(-at // cluster), last

    def _zero(self, at: int, size: int, may_unmap: bool) -> None:
        cluster, end = self.header.cluster, at + size
        first, last = self._inner(at, size)
        # Version 2 has no entry that says "zeros": only what is not there reads so.
        if first >= last or (
            self.header.version == 2 and (self.backing is not None or not may_unmap)
        ):
            self._write_zeros(at, end)
            return
        self._write_zeros(at, first * cluster)
        self._write_zeros(last * cluster, end)
        self._clear(first, last, may_unmap)

    def _write_zeros(self, at: int, end: int) -> None:
        zeros = memoryview(bytes(self.header.cluster))
        for index, inside, part in self._spans(at, max(0, end - at)):
            with self.lock.shared():
                place = self.place(index)
            if place.kind != ZEROS and not self._bare(index, place):
                self._writev(index * self.header.cluster + inside, [zeros[:part]])

    def _clear(self, first: int, last: int, may_unmap: bool) -> None:
        """Make guest clusters read as zeros by their entries; one L2 table at a time."""
        per = self.header.cluster // 8
        while first < last:
            stop = min(last, first - first % per + per)
            self._make_room()
            with self.lock.alone():
                skip = self.backing is None and self.table(first // per) is None
                for index in () if skip else range(first, stop):
                    place = self.place(index)
                    if place.own and place.kind in (DATA, ZEROS) and not may_unmap:
                        self.point(index, place.host | COPIED | ZERO)
                    elif not self._bare(index, place):
                        bare = self._bare(index, Place(HOLE))
                        self.point(index, 0 if bare else ZERO)
            first = stop

    def extents(self) -> Iterator[tuple[int, int]]:
        """See `Image.extents`."""
        below = list(self.backing.extents()) if self.backing is not None else []
        ends = [end for _, end in below]
        cluster, per = self.header.cluster, self.header.cluster // 8
        start = end = 0
        for index in range(-(-self.size // cluster)):
            at = index * cluster
            with self.lock.shared():
                if not below and index % per == 0 and self.table(index // per) is None:
                    continue
                kind = self.place(index).kind
            if kind == HOLE:
                near = bisect_right(ends, at)
                if near == len(below) or below[near][0] >= at + cluster:
                    continue
            elif kind == ZEROS:
                continue
            if at != end:
                if end:
                    yield start, end
                start = at
            end = min(at + cluster, self.size)
        if end:
            yield start, end

    # Flushing

    def flush(self) -> None:
        """See `Image.flush`."""
        if self.readonly:
            return
        with self._flushing:
            with self.lock.alone():
                work = self._collect()
            try:
                self._store(work)
            except BaseException:
                with self.lock.alone():
                    self._put_back(work)
                raise
            with self.lock.alone():
                self._release(work)

    def _unsaved(self) -> bool:
        return bool(self._changed or self.refcounts.dirty or self._dirty_l1 or self.gone)

    def _collect(self) -> _Work:
        """What is to be stored now, as bytes: others may go on changing it."""
        refcounts = self.refcounts
        first = [refcounts.stored(index) for index in refcounts.dirty]
        first += [(host, big_endian(self.dirty[host])) for host in self._fresh]
        then = [(host, big_endian(self.dirty[host])) for host in self._changed - self._fresh]
        base = self.header.l1_offset
        then += [(base + 8 * n, struct.pack(">Q", self.l1[n])) for n in self._dirty_l1]
        work = _Work(
            refcounts.dirty, self._changed, self._fresh, self._dirty_l1, self.gone, first, then
        )
        refcounts.dirty, self._changed, self._fresh = set(), set(), set()
        self._dirty_l1, self.gone = set(), []
        return work

    def _store(self, work: _Work) -> None:
        for at, data in work.first:
            self.file.write(at, data)
        self.file.sync()
        for at, data in work.then:
            self.file.write(at, data)
        if work.then:
            self.file.sync()

    def _put_back(self, work: _Work) -> None:
        self.refcounts.dirty |= work.refcounts
        self._changed |= work.changed
        self._fresh |= work.fresh
        self._dirty_l1 |= work.l1
        self.gone += work.gone

    def _release(self, work: _Work) -> None:
        """What was stored is clean, and what nothing points to any more is free."""
        with self._tables_lock:
            for host in work.changed - self._changed:
                self._cache(host, self.dirty.pop(host))
        free = sorted(c for c in work.gone if self.refcounts.change(c, -1) == 0)
        bits = self.header.cluster_bits
        self.reserved.difference_update(free)
        start = 0
        for n, cluster in enumerate(free):
            self._tables.pop(cluster << bits, None)
            if n + 1 == len(free) or free[n + 1] != cluster + 1:
                self.file.punch(free[start] << bits, cluster + 1 - free[start] << bits)
                start = n + 1

    def close(self) -> None:
        """See `Image.close`."""
        if self._closed:
            return
        self._closed = True
        try:
            while not self.readonly and not self._broken and self._unsaved():
                self.flush()
        finally:
            self.file.close()

    # What changes more than entries: sizes, snapshots, repairs

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Have the image alone, all stored, for a change that a crash may leave half done.

        Version 3 is marked dirty meanwhile: who opens it next recounts. After an error within, the
        image takes no more writes until it is opened anew.
        """
        self._writable(0, 0)
        self._make_room()
        with self._flushing, self.lock.alone():
            self.settle()
            self._mark(form.DIRTY, True)
            self._broken = True
            yield
            self.settle()
            self._mark(form.DIRTY, False)
            self._broken = False

    def settle(self) -> None:
        """Store all there is to store; within `changing`."""
        while self._unsaved():
            work = self._collect()
            self._store(work)
            self._release(work)

    def _mark(self, bit: int, on: bool) -> None:
        if self.header.version > 2:
            self.header.incompatible = self.header.incompatible & ~bit | (bit if on else 0)
            self.file.write(form.AT_INCOMPATIBLE, struct.pack(">Q", self.header.incompatible))
            self.file.sync()

    def unmark(self) -> None:
        """The image is sound again: neither dirty nor corrupt."""
        self._mark(form.DIRTY | form.CORRUPT, False)

    def put(self, data: bytes) -> int:
        """Write `data` to new clusters; their offset. Within `changing`."""
        bits = self.header.cluster_bits
        count = -(-len(data) // self.header.cluster)
        if not count:
            return 0
        host = self.refcounts.allocate(count) << bits
        self.file.write(host, data.ljust(count << bits, b"\0"))
        self._end = max(self._end, host + (count << bits))
        return host

    def forget_tables(self) -> None:
        """Read L2 tables anew; within `changing`, when nothing waits to be stored."""
        with self._tables_lock:
            self._tables.clear()

    def take_back(self, host: int, size: int) -> None:
        """Give back the clusters of `size` bytes at `host` with the next flush."""
        bits = self.header.cluster_bits
        self.gone += range(host >> bits, host + size + self.header.cluster - 1 >> bits)

    def replace_l1(self, l1: array[int], size: int) -> None:
        """Let another L1 table hold the disk, of `size` bytes from now. Within `changing`."""
        old_offset, old_size = self.header.l1_offset, len(self.l1) * 8
        self.header.l1_offset = self.put(big_endian(l1))
        self.settle()
        words_of_it = struct.pack(">QIIQ", size, 0, len(l1), self.header.l1_offset)
        self.file.write(form.AT_SIZE, words_of_it)
        self.file.sync()
        self.l1, self.size = l1, size
        self.header.size, self.header.l1_size = size, len(l1)
        self._reserve_l1()
        self.take_back(old_offset, old_size)

    def resize(self, size: int) -> None:
        """Make the disk `size` bytes long, a multiple of the sector. What is new reads as zeros."""
        if size % self.sector or not 0 <= size < 1 << 60:
            raise DiskError(self.path, f"cannot be {size} bytes long", errno.EINVAL)
        if size < self.size:
            self.zero(size, self.size - size, may_unmap=True)
        needed = -(-size // (self.header.cluster * self.header.cluster // 8))
        if needed * 8 > form.MAX_L1:
            raise DiskError(
                self.path,
                f"clusters of {self.header.cluster} are too small for {size} bytes",
                errno.EFBIG,
            )
        with self.changing():
            l1 = self.l1[:]
            l1.extend([0] * (needed - len(l1)))
            self.replace_l1(l1, size)


def _zstd(packed: bytes, size: int) -> bytes:
    from zstandard import ZstdDecompressor

    with ZstdDecompressor().stream_reader(packed) as reader:
        return bytes(reader.read(size))
