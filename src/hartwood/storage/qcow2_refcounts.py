"""Who uses a cluster of a qcow2 file, and which one is free: refcount table and blocks.

Blocks are changed in memory and stored by the image's flush. What the format's crash safety needs
at once, a new block or table, is written and synced here, before anything points to it.
"""

from __future__ import annotations

import errno
import struct
from array import array

from hartwood.errors import DiskError
from hartwood.storage.hostfile import HostFile
from hartwood.storage.qcow2_format import (
    AT_REFTABLE,
    MAX_REFTABLE,
    Header,
    big_endian,
    words,
)


class Refcounts:
    """The refcounts of `file`. The image's lock guards all of it."""

    def __init__(self, file: HostFile, header: Header, reserved: set[int]) -> None:
        self._file, self._header, self._reserved = file, header, reserved
        self.per_block = header.cluster * 8 >> header.refcount_order
        self._limit = (1 << (1 << header.refcount_order)) - 1
        self.table = words(
            file.read(header.reftable_offset, header.reftable_clusters * header.cluster)
        )
        self._blocks: dict[int, array[int]] = {}
        self.dirty: set[int] = set()
        self._hint = 1
        reserved.update(self._clusters(header.reftable_offset, header.reftable_clusters))
        reserved.update(at >> header.cluster_bits for at in self.table if at)

    def _clusters(self, at: int, count: int) -> range:
        first = at >> self._header.cluster_bits
        return range(first, first + count)

    def load(self, index: int) -> array[int] | None:
        """The entries of block `index`, None where there is none."""
        if index in self._blocks:
            return self._blocks[index]
        at = self.table[index] if index < len(self.table) else 0
        if not at:
            return None
        if at % self._header.cluster:
            raise DiskError(self._file.path, f"corrupt: refcount block {index} at {at:#x}")
        return _unpack(self._file.read(at, self._header.cluster), self._header.refcount_order)

    def _block(self, index: int) -> array[int] | None:
        block = self.load(index)
        if block is not None:
            self._blocks[index] = block
        return block

    def get(self, cluster: int) -> int:
        """How often `cluster` is used."""
        block = self._block(cluster // self.per_block)
        return block[cluster % self.per_block] if block is not None else 0

    def set(self, cluster: int, value: int) -> None:
        """Note that `cluster` is used `value` times."""
        if not 0 <= value <= self._limit:
            raise DiskError(self._file.path, f"cluster {cluster:#x} cannot be used {value} times")
        index = cluster // self.per_block
        block = self._block(index)
        if block is None:
            raise DiskError(self._file.path, f"corrupt: cluster {cluster:#x} has no refcount")
        block[cluster % self.per_block] = value
        self.dirty.add(index)
        if not value:
            self._hint = min(self._hint, cluster)

    def change(self, cluster: int, by: int) -> int:
        """Add to a refcount; the new one. Raises `DiskError` below 0 and above what fits."""
        value = self.get(cluster) + by
        self.set(cluster, value)
        return value

    def allocate(self, count: int = 1) -> int:
        """The first of `count` free clusters in a row, now used once each."""
        room, missing = count, list[int]()
        while True:  # the row, and behind it the blocks that are missing to count all of it
            first = self._find(room)
            blocks = range(first // self.per_block, (first + room - 1) // self.per_block + 1)
            if blocks[-1] >= len(self.table):
                self._grow(blocks[-1])
                return self.allocate(count)
            missing = [index for index in blocks if not self.table[index]]
            if room >= count + len(missing):
                break
            room = count + len(missing)
        taken = self._reserved.intersection(range(first, first + room))
        if taken:
            raise DiskError(
                self._file.path, f"corrupt: cluster {min(taken):#x} is in use, not free"
            )
        for index, at in zip(missing, range(first + count, first + room), strict=False):
            self._blocks[index] = _unpack(bytes(self._header.cluster), self._header.refcount_order)
            self.table[index] = at << self._header.cluster_bits
            self._reserved.add(at)
        for each in range(first, first + count + len(missing)):
            self.set(each, 1)
        if missing:
            self._store_new(missing)
        if count == 1:
            self._hint = first + 1
        return first

    def _find(self, count: int) -> int:
        """The first of `count` clusters in a row that are not used."""
        first = cluster = self._hint
        while cluster < first + count:
            block = self._block(cluster // self.per_block)
            if block is None:
                cluster += self.per_block - cluster % self.per_block
            elif block[cluster % self.per_block]:
                try:
                    free = block.index(0, cluster % self.per_block)
                except ValueError:
                    free = self.per_block
                first = cluster = cluster - cluster % self.per_block + free
            else:
                cluster += 1
        if first + count > 1 << 56 - self._header.cluster_bits:
            raise DiskError(self._file.path, "no offset is left for a cluster", errno.ENOSPC)
        return first

    def _store_new(self, indexes: list[int]) -> None:
        """Store new blocks, then what points to them; a table that is being moved comes later."""
        for index in indexes:
            self._file.write(*self.stored(index))
        self._file.sync()
        for index in indexes:
            if index * 8 < self._header.reftable_clusters * self._header.cluster:
                at = self._header.reftable_offset + 8 * index
                self._file.write(at, struct.pack(">Q", self.table[index]))
        self._file.sync()

    def _grow(self, index: int) -> None:
        """Move to a table with room for block `index` and half as many again."""
        header = self._header
        size = -(-(index + 1 + index // 2) * 8 // header.cluster)  # clusters of the new table
        if size * header.cluster > MAX_REFTABLE:
            raise DiskError(self._file.path, "its refcount table is full", errno.ENOSPC)
        self.table.extend([0] * (size * header.cluster // 8 - len(self.table)))
        first = self.allocate(size)
        for each in self.dirty:
            self._file.write(*self.stored(each))
        self._file.write(first << header.cluster_bits, big_endian(self.table))
        self._file.sync()
        self._file.write(AT_REFTABLE, struct.pack(">QI", first << header.cluster_bits, size))
        self._file.sync()
        gone = self._clusters(header.reftable_offset, header.reftable_clusters)
        header.reftable_offset, header.reftable_clusters = first << header.cluster_bits, size
        self._reserved.update(range(first, first + size))
        self._reserved.difference_update(gone)
        for cluster in gone:
            self.change(cluster, -1)

    def stored(self, index: int) -> tuple[int, bytes]:
        """Where block `index` belongs in the file, and its bytes."""
        return self.table[index], _pack(self._blocks[index], self._header.refcount_order)


def _unpack(data: bytes, order: int) -> array[int]:
    """Refcounts of 2^order bits; below a byte the first is in the low bits."""
    if order >= 3:
        block = array("BHIQ"[order - 3], data)
        return array(block.typecode, big_endian(block))
    width, per_byte = 1 << order, 8 >> order
    block = array("B", bytes(len(data) * per_byte))
    for at in range(per_byte):
        values = bytes(byte >> width * at & (1 << width) - 1 for byte in range(256))
        block[at::per_byte] = array("B", data.translate(values))
    return block


def _pack(block: array[int], order: int) -> bytes:
    if order >= 3:
        return big_endian(block)
    per_byte = 8 >> order
    parts = (
        int.from_bytes(block[at::per_byte], "little") << (at << order) for at in range(per_byte)
    )
    return sum(parts).to_bytes(len(block) // per_byte, "little")
