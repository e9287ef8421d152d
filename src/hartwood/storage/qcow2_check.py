"""Is a qcow2 file sound? Recounts who uses which cluster, and compares with what the file says."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hartwood.errors import DiskError
from hartwood.storage import qcow2_snapshots
from hartwood.storage.qcow2 import Qcow2
from hartwood.storage.qcow2_format import BITMAPS, COPIED, OFFSET

#: Clusters of the largest file that is checked (a 4-byte count each), and faults told in words.
MAX_CLUSTERS, MAX_MESSAGES = 1 << 26, 20
MAX_SNAPSHOT_TABLES = 256 << 20  # bytes of all snapshots' L1 tables


@dataclass
class Report:
    """`corruptions` endanger data; `leaks` are clusters counted as used that are not."""

    corruptions: int = 0
    leaks: int = 0
    used: int = 0
    messages: list[str] = field(default_factory=list)

    def corrupt(self, what: str) -> None:
        """Count a corruption and remember the first ones in words."""
        self.corruptions += 1
        if len(self.messages) < MAX_MESSAGES:
            self.messages.append(what)


class _Count:
    """Walks everything that an image points to."""

    def __init__(self, image: Qcow2) -> None:
        self.image, self.report = image, Report()
        self.bits = image.header.cluster_bits
        self.clusters = image.file.size + image.header.cluster - 1 >> self.bits
        if self.clusters > MAX_CLUSTERS:
            raise DiskError(image.path, f"{self.clusters} clusters are too many to check")
        self.counts = array("I", bytes(4 * self.clusters))
        self.single: set[int] = set()  # clusters that exactly one thing may use

    def use(self, what: str, clusters: Iterable[int], times: int = 1, single: bool = False) -> None:
        """Count `clusters` as used by `what`."""
        for cluster in clusters:
            if cluster >= self.clusters:
                self.report.corrupt(f"{what} is past the file's end, at cluster {cluster:#x}")
                continue
            if self.counts[cluster] and (single or cluster in self.single):
                self.report.corrupt(f"{what} overlaps metadata at cluster {cluster:#x}")
            self.counts[cluster] = min(self.counts[cluster] + times, 0xFFFFFFFF)
            if single:
                self.single.add(cluster)

    def table(self, what: str, at: int, size: int) -> None:
        """Count the clusters of a table."""
        if size:
            first = at >> self.bits
            self.use(what, range(first, (at + size - 1 >> self.bits) + 1), single=True)

    def walk(self) -> None:
        """Count all."""
        header = self.image.header
        self.table("the header", 0, 1)
        self.table(
            "the refcount table", header.reftable_offset, header.reftable_clusters << self.bits
        )
        for at in self.image.refcounts.table:
            if at % header.cluster:
                self.report.corrupt(f"a refcount block is at {at:#x}")
            elif at:
                self.use("a refcount block", [at >> self.bits], single=True)
        self.table("the L1 table", header.l1_offset, header.l1_size * 8)
        snapshots = qcow2_snapshots.load(self.image)
        self.table("the snapshot table", header.snapshots_offset, snapshots.size)
        l2: Counter[int] = Counter(entry & OFFSET for entry in self.image.l1)
        room = MAX_SNAPSHOT_TABLES
        for each in snapshots.all:
            room -= each.l1_size * 8
            if room < 0:
                raise DiskError(self.image.path, "its snapshots are too large to check")
            self.table(f"the L1 table of snapshot {each.ident}", each.l1_offset, each.l1_size * 8)
            l2.update(entry & OFFSET for entry in qcow2_snapshots.tree(self.image, each))
        del l2[0]
        self.image.reserved |= self.single
        self._walk_tables(l2)

    def _walk_tables(self, l2: Counter[int]) -> None:
        # Each table is read once, however often it is pointed to: time is bounded by the file.
        end = self.clusters << self.bits
        good = [host for host in l2 if host % self.image.header.cluster == 0 and host < end]
        for host in l2.keys() - set(good):
            self.report.corrupt(f"an L2 table is at {host:#x}")
        for host in good:
            self.use("an L2 table", [host >> self.bits], l2[host])
            self.single.add(host >> self.bits)
        for host in good:
            if not any(self.image.file.extents(host, host + self.image.header.cluster)):
                continue
            try:
                entries = self.image.load_table(host)
            except DiskError as error:
                self.report.corrupt(error.reason)
                continue
            for entry in entries:
                if entry:
                    try:
                        self.use("data", self.image.clusters_of(entry), l2[host])
                    except DiskError as error:
                        self.report.corrupt(error.reason)

    def compare(self) -> list[tuple[int, int]]:
        """Compare with what is stored; the (cluster, count) that differ."""
        refcounts, wrong = self.image.refcounts, []
        beyond = self.image.header.autoclear & BITMAPS  # uses clusters that we do not follow
        seen = set[int]()
        for index in range(max(len(refcounts.table), -(-self.clusters // refcounts.per_block))):
            first = index * refcounts.per_block
            counted = self.counts[first : first + refcounts.per_block]
            try:
                at = refcounts.table[index] if index < len(refcounts.table) else 0
                stored = refcounts.load(index) if at not in seen else None
            except DiskError as error:
                self.report.corrupt(error.reason)
                continue
            seen.add(at or -1)
            if stored is None and not any(counted):
                continue
            stored = stored or array("Q", bytes(8 * len(counted)))
            counted.extend([0] * (len(stored) - len(counted)))
            if stored.tolist() == counted.tolist():
                continue
            for n, (has, should) in enumerate(zip(stored, counted, strict=True)):
                if has < should:
                    self.report.corrupt(
                        f"cluster {first + n:#x} is used {should} times, counted {has}"
                    )
                elif has > should and not beyond:
                    self.report.leaks += 1
                if has != should:
                    wrong.append((first + n, should))
        self.report.used = len(self.counts) - self.counts.count(0)
        return wrong


def check(image: Qcow2) -> Report:
    """Recount and compare; changes nothing. Raises `DiskError` for what cannot be walked."""
    count = _Count(image)
    count.walk()
    count.compare()
    for what, entry, cluster in _flags(image):
        try:
            single = image.refcounts.get(cluster) == 1
        except DiskError:  # told already
            break
        if single != bool(entry & COPIED):
            count.report.corrupt(f"{what} at {entry & OFFSET:#x}: the flag COPIED is wrong")
    return count.report


def _flags(image: Qcow2) -> Iterable[tuple[str, int, int]]:
    """Every active entry that has a COPIED flag: a name, the entry, its cluster."""
    bits, seen = image.header.cluster_bits, set[int]()
    for entry in image.l1:
        host = entry & OFFSET
        if not host or host in seen:
            continue
        seen.add(host)
        yield "an L2 table", entry, host >> bits
        try:
            entries = image.load_table(host)
        except DiskError:
            continue
        for each in entries:
            if each & OFFSET and not each >> 62 & 1:
                yield "a cluster", each, (each & OFFSET) >> bits


def repair(image: Qcow2) -> Report:
    """Store the refcounts that are true; what is returned is how things were.

    Raises `DiskError` where refcounts are not all that is wrong.
    """
    count = _Count(image)
    count.walk()
    if count.report.corruptions:
        raise DiskError(image.path, f"cannot be repaired: {count.report.messages[0]}")
    with image.changing():
        for cluster, should in count.compare():
            image.refcounts.set(cluster, should)
        image.settle()
        qcow2_snapshots.flag(image)
    image.unmark()
    return count.report
