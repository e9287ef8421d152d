"""A whole machine at one moment, in memory and as a file.

The file: a header, metadata as JSON, pieces of memory that are not zero (number of the first page
and of pages, then the pages), a piece of none at the end, and BLAKE2b of everything before it.
Nothing of a file is believed before it was read to its end.
"""

from __future__ import annotations

import json
import os
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from typing import BinaryIO

from hartwood.errors import Error
from hartwood.mem.hostmem import PAGE
from hartwood.mem.regiontable import REGIONS
from hartwood.mem.versions import CHUNK, Store, Version, VersionError

MAGIC, VERSION = b"\x89HARTWOOD SNAP\r\n", 2
_HEADER, _PIECE, _DIGEST = Struct("<16sIIQ"), Struct("<QQ"), 32
#: Bytes of metadata, pages of memory and harts at most.
_MOST_METADATA, _MOST_PAGES, _MOST_HARTS = 256 << 20, (64 << 30) // PAGE, 64
#: How bytes are written in JSON: an object with one of these as its only key.
_BYTES, _BYTEARRAY = "bytes", "bytearray"

#: State of a device or a hart, by name: numbers, texts, bytes, and lists and dictionaries of them.
State = dict[str, object]


class SnapshotError(Error):
    """A snapshot that cannot be written, is damaged, or is no snapshot of such a machine."""

    exit_status = 2


@dataclass(frozen=True)
class Snapshot:
    """Made by a machine's `snapshot`, or `load`; its memory is shared with the machine and with
    other snapshots as far as it is the same."""

    #: The kind of machine, what memory it has (address, size, offset, whether it is read-only),
    #: its contents.
    machine: str
    regions: tuple[tuple[int, int, int, bool], ...]
    memory: Version = field(repr=False)
    #: Registers of each hart, state of each device by name, and whatever else the machine keeps.
    harts: tuple[State, ...] = field(repr=False)
    devices: dict[str, State] = field(repr=False)
    more: State = field(repr=False)
    #: Read from a file, so that values may be none that a machine could have.
    foreign: bool = False

    def _metadata(self) -> bytes:
        content = {
            "machine": self.machine, "pages": self.memory.store.pages, "regions": self.regions,
            "harts": self.harts, "devices": self.devices, "more": self.more,
        }  # fmt: skip
        return json.dumps(_plain(content), separators=(",", ":"), allow_nan=False).encode()

    @property
    def size(self) -> int:
        """Bytes of the file that `save` would write."""
        pieces = sum(_PIECE.size + len(data) for _, data in self.memory.pieces())
        return _HEADER.size + len(self._metadata()) + pieces + _PIECE.size + _DIGEST

    def _parts(self) -> Iterator[bytes]:
        metadata = self._metadata()
        yield _HEADER.pack(MAGIC, VERSION, 0, len(metadata)) + metadata
        for number, data in self.memory.pieces():
            yield _PIECE.pack(number, len(data) // PAGE)
            yield data
        yield _PIECE.pack(self.memory.store.pages, 0)

    def save(self, path: str | Path) -> None:
        """Write a file that holds all of it. It takes the place of what was there at once and
        whole. Raises `SnapshotError`, with what was there unchanged."""
        target = Path(path)
        try:
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            try:
                with open(handle, "wb") as file:
                    digest = blake2b(digest_size=_DIGEST)
                    for part in self._parts():
                        digest.update(part)
                        file.write(part)
                    file.write(digest.digest())
                    file.flush()
                    os.fsync(handle)
                os.replace(name, target)
            except BaseException:
                os.unlink(name)
                raise
            folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as reason:
            raise SnapshotError(f"{path}: cannot write a snapshot: {reason.strerror}") from reason

    @classmethod
    def load(cls, path: str | Path) -> Snapshot:
        """Read what `save` wrote. Raises `SnapshotError` for what cannot be read, is damaged, of
        another version, or no snapshot at all."""
        try:
            with open(path, "rb") as file:
                return _Reader(file, os.fstat(file.fileno()).st_size).snapshot()
        except OSError as reason:
            raise SnapshotError(f"{path}: cannot read a snapshot: {reason.strerror}") from reason
        except (_Damage, VersionError) as reason:
            raise SnapshotError(f"{path}: {reason}") from None


class _Damage(Exception):
    """What is wrong with a file."""


class _Reader:
    """A file from its beginning to its end, in pieces of bounded size."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size
        self._digest = blake2b(digest_size=_DIGEST)

    def _take(self, size: int) -> bytes:
        data = self._file.read(size) if size <= self._left else b""
        if len(data) != size:
            raise _Damage("this snapshot is cut short; save it again")
        self._left -= size
        return data

    def _read(self, size: int) -> bytes:
        data = self._take(size)
        self._digest.update(data)
        return data

    def snapshot(self) -> Snapshot:
        """All of it. Raises `_Damage`."""
        if self._left < _HEADER.size:
            raise _Damage("this is no snapshot of a machine")
        magic, version, zero, length = _HEADER.unpack(self._read(_HEADER.size))
        if magic != MAGIC:
            raise _Damage("this is no snapshot of a machine")
        if version != VERSION or zero:
            raise _Damage(f"a snapshot of version {version}; this build reads version {VERSION}")
        if length > _MOST_METADATA:
            raise _Damage("this snapshot is damaged: its metadata is too long")
        metadata = self._read(length)
        pages, used = _pages_of(metadata)
        memory = Store.of(pages, self._pieces(pages, used))
        if self._take(_DIGEST) != self._digest.digest() or self._left:
            raise _Damage("this snapshot is damaged: its checksum is wrong")
        return _snapshot(_parsed(metadata), memory)

    def _pieces(self, pages: int, used: int) -> Iterator[tuple[int, bytes]]:
        last = 0
        while True:
            number, count = _PIECE.unpack(self._read(_PIECE.size))
            if not count and number == pages:
                return
            if not 0 < count <= CHUNK // PAGE or not last <= number <= used - count:
                raise _Damage("this snapshot is damaged: pages that are not there")
            yield number, self._read(count * PAGE)
            last = number + count


def _plain(value: object) -> object:
    """A value as JSON has it."""
    if isinstance(value, bytes | bytearray):
        key = _BYTEARRAY if isinstance(value, bytearray) else _BYTES
        return {key: b64encode(value).decode()}
    if isinstance(value, dict):
        if any(type(key) is not str for key in value) or value.keys() & {_BYTES, _BYTEARRAY}:
            raise SnapshotError(f"a state with these names cannot be kept: {list(value)}")
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    raise SnapshotError(f"a state of {type(value).__name__} cannot be kept")


def _bytes_of(pairs: list[tuple[str, object]]) -> object:
    """An object of JSON: bytes where it stands for them. Raises `ValueError`."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    if not found.keys() & {_BYTES, _BYTEARRAY}:
        return found
    (key, text), = pairs  # fmt: skip
    if type(text) is not str:
        raise ValueError("bytes that are no text")
    data = b64decode(text, validate=True)
    return bytearray(data) if key == _BYTEARRAY else data


def _refuse(text: str) -> object:
    raise ValueError(f"{text} is no state")


def _parsed(metadata: bytes) -> State:
    try:
        found = json.loads(
            metadata.decode(), object_pairs_hook=_bytes_of, parse_float=_refuse,
            parse_constant=_refuse,
        )  # fmt: skip
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _Damage("this snapshot is damaged: its metadata cannot be read")
    return found


def _whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _named(value: object) -> bool:
    return isinstance(value, dict)


def _is_region(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) == 4
        and all(_whole(number, 0, 1 << 56) and number % PAGE == 0 for number in value[:3])
        and value[1] > 0 and type(value[3]) is bool
    )  # fmt: skip


def _are(value: object, each: Callable[[object], bool], least: int, most: int) -> bool:
    return isinstance(value, list) and least <= len(value) <= most and all(map(each, value))


#: What metadata holds, and what each of it may be.
_SCHEMA: dict[str, Callable[[object], bool]] = {
    "machine": lambda value: isinstance(value, str) and 0 < len(value) <= 64,
    "pages": lambda value: _whole(value, 1, _MOST_PAGES),
    "regions": lambda value: _are(value, _is_region, 0, REGIONS),
    "harts": lambda value: _are(value, _named, 1, _MOST_HARTS),
    "devices": lambda value: isinstance(value, dict) and all(map(_named, value.values())),
    "more": _named,
}


def _pages_of(metadata: bytes) -> tuple[int, int]:
    """Pages of memory, and of its regions, once all the metadata is what it may be."""
    found = _parsed(metadata)
    if found.keys() != _SCHEMA.keys():
        raise _Damage("this snapshot is damaged: its metadata has other fields")
    for name, allowed in _SCHEMA.items():
        if not allowed(found[name]):
            raise _Damage(f"this snapshot is damaged: its {name} cannot be")
    pages, regions = found["pages"], found["regions"]
    assert isinstance(pages, int)
    assert isinstance(regions, list)
    used = max((offset + size for _, size, offset, _ in regions), default=0) // PAGE
    if used > pages:
        raise _Damage("this snapshot is damaged: its regions are larger than its memory")
    return pages, used


def _snapshot(found: State, memory: Version) -> Snapshot:
    """Metadata that was looked at, as a snapshot."""
    regions, harts = found["regions"], found["harts"]
    machine, devices, more = found["machine"], found["devices"], found["more"]
    assert isinstance(regions, list)
    assert isinstance(harts, list)
    assert isinstance(machine, str)
    assert isinstance(devices, dict)
    assert isinstance(more, dict)
    places = tuple((at, size, offset, readonly) for at, size, offset, readonly in regions)
    return Snapshot(machine, places, memory, tuple(harts), devices, more, foreign=True)
