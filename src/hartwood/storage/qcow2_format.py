"""The header of a qcow2 file: read with every field checked, before anything is believed.

The format is QEMU's docs/interop/qcow2.txt; the limits are those of its block/qcow2.h.
"""

from __future__ import annotations

import errno
import struct
import sys
from array import array
from dataclasses import dataclass, field

from hartwood.errors import DiskError
from hartwood.storage.hostfile import HostFile

MAGIC = 0x514649FB
DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = 1, 2, 4, 8, 16  # incompatible features
LAZY_REFCOUNTS = 1  # a compatible feature
BITMAPS = 1  # an autoclear feature
_KNOWN = DIRTY | CORRUPT | COMPRESSION
_NAMES = {2: "an external data file", 4: "extended L2 entries"}
ZLIB, ZSTD = 0, 1
# Entries of L1 and L2 tables.
COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1
OFFSET = 0x00FF_FFFF_FFFF_FE00
MAX_L1, MAX_REFTABLE, MAX_SNAPSHOTS = 32 << 20, 8 << 20, 65536
_BASE = struct.Struct(">IIQIIQIIQQIIQ")
_MORE = struct.Struct(">QQQII")
# Where a change of the header is written; each lies within one sector.
AT_SIZE, AT_REFTABLE, AT_SNAPSHOTS, AT_INCOMPATIBLE, AT_AUTOCLEAR = 24, 48, 60, 72, 88
_EXT_BACKING_FORMAT = 0xE2792ACA


@dataclass
class Header:
    """The fields, by the names of the specification where those are not too long."""

    version: int = 3
    cluster_bits: int = 16
    size: int = 0
    l1_size: int = 0
    l1_offset: int = 0
    reftable_offset: int = 0
    reftable_clusters: int = 0
    snapshots: int = 0
    snapshots_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    compression: int = ZLIB
    backing: str = ""
    extensions: dict[int, bytes] = field(default_factory=dict)

    @property
    def cluster(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def l1_needed(self) -> int:
        """Entries that an L1 table for the whole disk has."""
        return -(-self.size // (self.cluster * self.cluster // 8))

    def pack(self) -> bytes:
        """The first cluster of a new file."""
        extensions = b"".join(
            struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
            for kind, data in self.extensions.items()
        )
        name, length = self.backing.encode(), 112 if self.version > 2 else 72
        if len(name) > 1023 or length + len(extensions) + 8 + len(name) > self.cluster:
            raise DiskError(name[:32].decode(), "is too long a backing name", errno.EINVAL)
        name_at = length + len(extensions) + 8 if name else 0
        disk = name_at, len(name), self.cluster_bits, self.size, 0, self.l1_size, self.l1_offset
        tables = self.reftable_offset, self.reftable_clusters, self.snapshots, self.snapshots_offset
        base = _BASE.pack(MAGIC, self.version, *disk, *tables)
        if self.version > 2:
            base += _MORE.pack(
                self.incompatible, self.compatible, self.autoclear, self.refcount_order, length
            ) + bytes([self.compression, *[0] * 7])
        return (base + extensions + bytes(8) + name).ljust(self.cluster, b"\0")


def words(data: bytes) -> array[int]:
    """Big-endian 8-byte words of a table."""
    table = array("Q", data)
    if sys.byteorder == "little":
        table.byteswap()
    return table


def big_endian(table: array[int]) -> bytes:
    """A table, of any width, as it is in the file."""
    if sys.byteorder == "little":
        table = table[:]
        table.byteswap()
    return table.tobytes()


def parse(file: HostFile) -> Header:
    """The header of `file`. Raises `DiskError` in one line for whatever is not right with it."""

    def require(right: bool, fault: str) -> None:
        if not right:
            raise DiskError(file.path, f"not a usable qcow2 image: {fault}", errno.EINVAL)

    end = file.size
    require(end >= 72, f"{end} bytes are too short for a header")
    head = file.read(0, min(end, 4096))
    magic, version, backing_at, backing_size, bits, size, crypt, *rest = _BASE.unpack_from(head)
    require(magic == MAGIC, "it does not begin with QFI\\xfb")
    require(version in (2, 3), f"version {version}; 2 and 3 are known")
    require(9 <= bits <= 21, f"clusters of 2^{bits} bytes; 2^9 to 2^21 are allowed")
    require(crypt == 0, f"encrypted (method {crypt}), which is not supported")
    it = Header(version, bits, size, *rest)
    length = 72
    if version > 2:
        require(len(head) >= 104, "a header cut short")
        it.incompatible, it.compatible, it.autoclear, it.refcount_order, length = _MORE.unpack_from(
            head, 72
        )
        require(length % 8 == 0 and 104 <= length <= min(it.cluster, len(head)), "header_length")
        for bit in range(64):
            known = _KNOWN >> bit & 1 or not it.incompatible >> bit & 1
            require(bool(known), f"it needs {_NAMES.get(bit, f'unknown feature {bit}')}")
        it.compression = head[104] if length > 104 else ZLIB
        require(it.compression in (ZLIB, ZSTD), f"unknown compression {it.compression}")
        require((it.compression != ZLIB) == bool(it.incompatible & COMPRESSION), "compression bit")
        require(it.refcount_order <= 6, f"refcounts of 2^{it.refcount_order} bits; 2^6 at most")
    require(size < 1 << 60, f"a disk of {size} bytes")
    require(it.l1_needed <= it.l1_size, "an L1 table too small for the disk")
    require(it.l1_size * 8 <= MAX_L1, f"an L1 table of {it.l1_size} entries")
    require(1 <= it.reftable_clusters <= MAX_REFTABLE >> bits, "the refcount table's size")
    require(it.snapshots <= MAX_SNAPSHOTS, f"{it.snapshots} snapshots")
    regions = [(0, it.cluster, "the header")]
    for name, at, count in (
        ("the L1 table", it.l1_offset, it.l1_size * 8),
        ("the refcount table", it.reftable_offset, it.reftable_clusters << bits),
        ("the snapshot table", it.snapshots_offset, it.snapshots * 40),
    ):
        if count:
            require(at % it.cluster == 0 and at + count <= end, f"{name} at {at:#x}")
            for start, stop, other in regions:
                require(at + count <= start or at >= stop, f"{name} overlaps {other}")
            regions.append((at, at + count, name))
    if backing_at:
        require(backing_size <= 1023 and backing_at + backing_size <= it.cluster, "backing name")
        raw_name = file.read(backing_at, backing_size) if backing_at + backing_size <= end else b""
        it.backing = raw_name.decode("utf-8", "backslashreplace")
    _extensions(it, head[length : backing_at or it.cluster])
    return it


def _extensions(header: Header, data: bytes) -> None:
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(">II", data, at)
        if kind == 0 or at + 8 + size > len(data):
            return
        header.extensions[kind] = data[at + 8 : at + 8 + size]
        at += 8 + size + -size % 8


def new_header(
    *, version: int, cluster: int, backing: str, backing_format: str, refcount_bits: int = 16
) -> bytes:
    """The first three clusters of an image of no bytes: header, refcount table, refcount block."""
    header = Header(version, cluster.bit_length() - 1, backing=backing)
    header.reftable_offset, header.reftable_clusters = cluster, 1
    header.refcount_order = refcount_bits.bit_length() - 1
    if backing:
        header.extensions[_EXT_BACKING_FORMAT] = backing_format.encode()
    # Three entries of 1, packed from the low bits of a byte or as big-endian words.
    if refcount_bits < 8:
        ones = sum(1 << refcount_bits * n for n in range(3)).to_bytes(2, "little")
    else:
        ones = (1).to_bytes(refcount_bits // 8, "big") * 3
    table = (2 * cluster).to_bytes(8, "big")
    return header.pack() + table.ljust(cluster, b"\0") + ones.ljust(cluster, b"\0")
