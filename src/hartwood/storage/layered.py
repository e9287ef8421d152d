"""A disk over another that is never written: what changes is kept in memory, and can be saved.

For changes in a file, a qcow2 image with `backing=` is the overlay.
"""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Iterator, Sequence

from hartwood.errors import DiskError
from hartwood.storage.image import Image
from hartwood.storage.sharing import Cursor, SharedLock, fill

BLOCK = 65536
_MAGIC = b"HWOVRLY1"
_HEAD = struct.Struct("<8sQII")  # magic, the disk's size, BLOCK, how many blocks
_PART = struct.Struct("<QIB")  # block, bytes that follow, how: zeros, stored, deflated
_ZEROS, _STORED, _DEFLATED = range(3)
_CRC = struct.Struct("<I")  # of all before it


class Overlay(Image):
    """What the guest changes of `base` is in memory and gone with the process unless saved.

    `base` may be readonly and shared by many overlays; it stays the caller's to close.
    """

    def __init__(self, base: Image, *, serial: str | None = None) -> None:
        serial = base.serial if serial is None else serial
        super().__init__(base.path, base.size, base.sector, False, serial)
        self.backing = base
        self._blocks: dict[int, bytearray | None] = {}  # None: zeros
        self._lock = SharedLock()

    def save(self) -> bytes:
        """All that differs from the base, for `load` on an overlay of the same base."""
        parts = [b""]
        with self._lock.shared():
            for index, block in sorted(self._blocks.items()):
                packed = zlib.compress(block, 1) if block else b""
                how = _DEFLATED if block else _ZEROS
                if block and len(packed) >= len(block):
                    packed, how = bytes(block), _STORED
                parts += [_PART.pack(index, len(packed), how), packed]
            parts[0] = _HEAD.pack(_MAGIC, self.size, BLOCK, len(self._blocks))
        data = b"".join(parts)
        return data + _CRC.pack(zlib.crc32(data))

    def load(self, data: bytes) -> None:
        """Make the disk what it was at `save`. Raises `DiskError`, and then nothing has changed."""
        try:
            blocks = dict(_blocks(memoryview(data), self.size))
        except (struct.error, zlib.error, ValueError) as error:
            raise DiskError(
                self.path, f"the saved overlay does not fit or is damaged: {error}", errno.EINVAL
            ) from None
        with self._lock.alone():
            self._blocks = blocks

    def flush(self) -> None:
        """Promises nothing: memory does not survive the process, which is what it is for."""

    def close(self) -> None:
        """Forget what has changed."""
        with self._lock.alone():
            self._blocks = {}

    def extents(self) -> Iterator[tuple[int, int]]:
        """See `Image.extents`."""
        with self._lock.shared():
            ranges = [(n * BLOCK, min((n + 1) * BLOCK, self.size)) for n in self._blocks]
        start = end = 0
        for first, last in sorted([*ranges, *self.backing.extents()]):
            if first > end:
                if end:
                    yield start, end
                start = first
            end = max(end, last)
        if end:
            yield start, end

    def _spans(self, at: int, size: int) -> Iterator[tuple[int, int, int]]:
        while size:
            index, inside = divmod(at, BLOCK)
            part = min(size, BLOCK - inside)
            yield index, inside, part
            at, size = at + part, size - part

    def _readv(self, at: int, buffers: Sequence[memoryview]) -> None:
        cursor = Cursor(buffers)
        with self._lock.shared():
            for index, inside, part in self._spans(at, sum(b.nbytes for b in buffers)):
                pieces = cursor.take(part)
                if index not in self._blocks:
                    self.backing.readv(index * BLOCK + inside, pieces)
                else:
                    block = self._blocks[index]
                    fill(pieces, None if block is None else bytes(block[inside : inside + part]))

    def _writev(self, at: int, buffers: Sequence[memoryview]) -> None:
        cursor = Cursor(buffers)
        with self._lock.alone():
            for index, inside, part in self._spans(at, sum(b.nbytes for b in buffers)):
                pieces = cursor.take(part)
                self._own(index, part)[inside : inside + part] = b"".join(pieces)

    def _own(self, index: int, part: int) -> bytearray:
        """Block `index`, to be changed; its content is only wanted when `part` is not all."""
        block = self._blocks.get(index)
        if block is None:
            size = min(BLOCK, self.size - index * BLOCK)
            block = bytearray(size)
            if index not in self._blocks and part < size:
                self.backing.readv(index * BLOCK, [memoryview(block)])
            self._blocks[index] = block
        return block

    def _discard(self, at: int, size: int) -> None:
        self._zero(at, size, True)

    def _zero(self, at: int, size: int, may_unmap: bool) -> None:
        with self._lock.alone():
            for index, inside, part in self._spans(at, size):
                if part == min(BLOCK, self.size - index * BLOCK):
                    self._blocks[index] = None
                elif self._blocks.get(index, b"") is not None:
                    self._own(index, part)[inside : inside + part] = bytes(part)


def _blocks(data: memoryview, size: int) -> Iterator[tuple[int, bytearray | None]]:
    """The blocks of a saved overlay. Raises ValueError, struct.error or zlib.error."""
    body = data[: -_CRC.size]
    if len(data) < _HEAD.size + _CRC.size or _CRC.unpack(data[-_CRC.size :])[0] != zlib.crc32(body):
        raise ValueError("its checksum is wrong")
    magic, saved_size, block_size, count = _HEAD.unpack_from(body)
    if (magic, saved_size, block_size) != (_MAGIC, size, BLOCK):
        raise ValueError(f"it is of a disk of {saved_size} bytes")
    at, last = _HEAD.size, -1
    for _ in range(count):
        index, length, how = _PART.unpack_from(body, at)
        at += _PART.size
        packed = bytes(body[at : at + length])
        at += length
        wanted = min(BLOCK, size - index * BLOCK)
        if index <= last or wanted <= 0 or len(packed) != length or how > _DEFLATED:
            raise ValueError(f"block {index}")
        last = index
        if how == _ZEROS:
            yield index, None
            continue
        block = zlib.decompressobj().decompress(packed, wanted + 1) if how == _DEFLATED else packed
        if len(block) != wanted:
            raise ValueError(f"block {index}")
        yield index, bytearray(block)
    if at != len(body):
        raise ValueError("there is more than it says")
