"""Snapshots within a qcow2 file: a name for an L1 table, and a count on all that it leads to."""

from __future__ import annotations

import errno
import struct
import time
from array import array
from dataclasses import dataclass

from hartwood.errors import DiskError
from hartwood.storage.qcow2 import Qcow2
from hartwood.storage.qcow2_format import (
    AT_SNAPSHOTS,
    COMPRESSED,
    COPIED,
    MAX_L1,
    MAX_SNAPSHOTS,
    OFFSET,
    big_endian,
    words,
)

_ENTRY = struct.Struct(">QIHHIIQII")  # docs/interop/qcow2.txt, "Snapshots"
_MAX_EXTRA, _MAX_TABLE = 1024, 64 << 20


@dataclass
class Snapshot:
    """One snapshot; `size` is the disk's in bytes, `seconds` since 1970."""

    l1_offset: int
    l1_size: int
    ident: str
    name: str
    seconds: int
    nanoseconds: int
    clock: int
    state: int
    extra: bytes

    @property
    def size(self) -> int | None:
        """The disk's size when it was made, where the file says so."""
        return struct.unpack_from(">Q", self.extra, 8)[0] if len(self.extra) >= 16 else None

    def pack(self) -> bytes:
        """The entry in the file."""
        ident, name = (each.encode("utf-8", "surrogateescape") for each in (self.ident, self.name))
        lengths, when = (len(ident), len(name)), (self.seconds, self.nanoseconds, self.clock)
        entry = _ENTRY.pack(
            self.l1_offset, self.l1_size, *lengths, *when, self.state, len(self.extra)
        )
        entry += self.extra + ident + name
        return entry + bytes(-len(entry) % 8)


@dataclass
class Table:
    """All snapshots, and the bytes that their table takes."""

    all: list[Snapshot]
    size: int


def load(image: Qcow2) -> Table:
    """Read the table. Raises `DiskError` where it cannot be one."""
    at = start = image.header.snapshots_offset
    found = list[Snapshot]()
    for _ in range(image.header.snapshots):
        l1_offset, l1_size, ident, name, sec, ns, clock, state, extra = _ENTRY.unpack(
            image.file.read(at, _ENTRY.size)
        )
        at += _ENTRY.size
        if extra > _MAX_EXTRA or l1_size * 8 > MAX_L1 or l1_offset % image.header.cluster:
            raise image.corrupt(f"snapshot {len(found) + 1}")
        data = image.file.read(at, extra + ident + name)
        at += len(data) + -(at + len(data) - start) % 8
        texts = data[extra : extra + ident], data[extra + ident :]
        ident_text, name_text = (each.decode("utf-8", "surrogateescape") for each in texts)
        found.append(
            Snapshot(l1_offset, l1_size, ident_text, name_text, sec, ns, clock, state, data[:extra])
        )
        if at - start > _MAX_TABLE:
            raise image.corrupt("the snapshot table is too large")
    return Table(found, at - start)


def tree(image: Qcow2, snapshot: Snapshot) -> array[int]:
    """The L1 table of a snapshot."""
    return words(image.file.read(snapshot.l1_offset, snapshot.l1_size * 8))


def find(image: Qcow2, wanted: str) -> Snapshot:
    """The snapshot with that id or else, as QEMU has it where one's id is another's name, with that
    name. Raises `DiskError` where there is none."""
    every = load(image).all
    for found in ([e for e in every if e.ident == wanted], [e for e in every if e.name == wanted]):
        if found:
            return found[0]
    names = ", ".join(each.name for each in every) or "none"
    raise DiskError(image.path, f"has no snapshot {wanted!r}; there are: {names}", errno.ENOENT)


def _count(image: Qcow2, l1: array[int], by: int) -> None:
    """Add to the refcounts of all that an L1 table leads to; less of it goes with the flush."""
    bits = image.header.cluster_bits
    for entry in l1:
        host = entry & OFFSET
        if not host:
            continue
        clusters = [c for each in image.load_table(host) if each for c in image.clusters_of(each)]
        clusters.append(host >> bits)
        if by < 0:
            image.gone += clusters
        else:
            for cluster in clusters:
                image.refcounts.change(cluster, by)


def flag(image: Qcow2) -> None:
    """Set and clear COPIED in the active tables by the refcounts. Within `changing`."""
    bits, refcounts = image.header.cluster_bits, image.refcounts
    for at_l1, entry in enumerate(image.l1):
        host = entry & OFFSET
        if not host:
            continue
        table = image.load_table(host)
        new = array("Q", table)
        for n, each in enumerate(table):
            if each & OFFSET and not each & COMPRESSED:
                single = refcounts.get((each & OFFSET) >> bits) == 1
                new[n] = each | COPIED if single else each & ~COPIED
        if new != table:
            image.file.write(host, big_endian(new))
        single = refcounts.get(host >> bits) == 1
        image.l1[at_l1] = host | (COPIED if single else 0)
    image.forget_tables()
    image.file.write(image.header.l1_offset, big_endian(image.l1))
    image.file.sync()


def _store(image: Qcow2, snapshots: list[Snapshot]) -> None:
    """Let another snapshot table hold; the old one is given back."""
    old, size = image.header.snapshots_offset, load(image).size
    data = b"".join(each.pack() for each in snapshots)
    at = image.put(data)
    image.settle()
    image.file.write(AT_SNAPSHOTS, struct.pack(">IQ", len(snapshots), at))
    image.file.sync()
    image.header.snapshots, image.header.snapshots_offset = len(snapshots), at
    image.take_back(old, size)


def create(image: Qcow2, name: str) -> Snapshot:
    """Keep the disk as it is now under `name`. Raises `DiskError`, also when the name is taken."""
    every = load(image).all
    if any(each.name == name for each in every) or len(every) == MAX_SNAPSHOTS:
        raise DiskError(image.path, f"cannot hold another snapshot {name!r}", errno.EEXIST)
    if not name or len(name.encode("utf-8", "surrogateescape")) > 255:
        raise DiskError(image.path, "a snapshot's name has 1 to 255 bytes", errno.EINVAL)
    with image.changing():
        now = time.time_ns()
        numbers = [int(each.ident) for each in every if each.ident.isdecimal()]
        extra = struct.pack(">QQ", 0, image.size)
        _count(image, image.l1, 1)
        image.settle()
        new = Snapshot(
            image.put(big_endian(image.l1)),
            len(image.l1),
            str(max(numbers, default=0) + 1),
            name,
            *divmod(now, 10**9),
            clock=0,
            state=0,
            extra=extra,
        )
        flag(image)
        _store(image, [*every, new])
    return new


def apply(image: Qcow2, wanted: str) -> None:
    """Make the disk what it was; what it is now is lost. `wanted` is an id or a name."""
    snapshot = find(image, wanted)
    with image.changing():
        l1 = tree(image, snapshot)
        size = image.size if snapshot.size is None else snapshot.size
        l1.extend([0] * (len(image.l1) - len(l1)))
        _count(image, l1, 1)
        image.settle()
        old = image.l1
        image.replace_l1(l1, size)
        _count(image, old, -1)
        image.settle()
        flag(image)


def delete(image: Qcow2, wanted: str) -> None:
    """Forget a snapshot and free what only it used. `wanted` is an id or a name."""
    snapshot = find(image, wanted)
    with image.changing():
        _store(image, [each for each in load(image).all if each.ident != snapshot.ident])
        image.settle()
        _count(image, tree(image, snapshot), -1)
        image.take_back(snapshot.l1_offset, snapshot.l1_size * 8)
        image.settle()
        flag(image)
