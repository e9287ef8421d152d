"""Whole disks copied: to another format, or to larger sectors, whole or not at all.

The result gets its name when it is complete and on the disk; the source is opened readonly.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator

from hartwood.errors import DiskError
from hartwood.storage import partitions
from hartwood.storage.image import Image
from hartwood.storage.opening import create
from hartwood.storage.opening import open as open_image

CHUNK, GRAIN = 1 << 20, 4096
#: A migration that is interrupted repeats at most this many bytes.
STRIDE = 64 << 20
#: Hears how many bytes of how many are done.
Progress = Callable[[int, int], None]


def _ranges(source: Image, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The pieces of a range, at most CHUNK each, that may hold more than zeros."""
    for first, last in source.extents():
        first, last = max(first, start), min(last, end)
        while first < last:
            stop = min(last, first - first % CHUNK + CHUNK)
            yield first, stop
            first = stop


def _copy_piece(source: Image, target: Image, start: int, end: int) -> None:
    """Copy a piece; what is zeros is left out, so that it takes no room."""
    data = memoryview(bytearray(end - start))
    source.readv(start, [data])
    zeros, run = bytes(GRAIN), 0
    for at in range(0, len(data) + GRAIN, GRAIN):
        grain = data[at : at + GRAIN]
        if at >= len(data) or grain == zeros[: len(grain)]:
            if run < min(at, len(data)):
                target.writev(start + run, [data[run:at]])
            run = at + GRAIN


def convert(
    source: Image, out: str, format: str, *, force: bool = False, say: Progress = lambda *_: None
) -> None:
    """Copy `source` to a new image `out`, which is there whole or not at all.

    Raises `DiskError` when it exists, unless `force`.
    """
    if not force and os.path.lexists(out):
        raise DiskError(out, "exists; --force overwrites it", errno.EEXIST)
    partial = f"{out}.{os.getpid()}.partial"
    try:
        create(partial, source.size, format)
        with open_image(partial, format=format) as target:
            for start, end in _ranges(source, 0, source.size):
                _copy_piece(source, target, start, end)
                say(end, source.size)
            target.flush()
        _publish(partial, out, force)
    except OSError as error:
        if not isinstance(error, DiskError):
            raise DiskError(out, error.strerror or str(error), error.errno or errno.EIO) from None
        raise
    finally:
        if os.path.lexists(partial):
            os.unlink(partial)


def _publish(partial: str, out: str, force: bool) -> None:
    """Give a complete file its name; without `force` never another file's."""
    if force:
        os.replace(partial, out)
    else:
        os.link(partial, out)  # fails where it exists, rename would not
        os.unlink(partial)
    _sync_folder(out)


def _sync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def migrate(
    source: Image, out: str, format: str = "raw", *, say: Progress = lambda *_: None
) -> list[str]:
    """Make `out` the same disk in sectors of 4096 bytes; what each partition holds, in words.

    Raises `DiskError` with the reason where that is not possible, before anything is written. When
    interrupted, the same call goes on from `out`.journal.
    """
    if os.path.lexists(out):
        raise DiskError(out, "exists; remove it first", errno.EEXIST)
    tables = partitions.read_tables(source)
    found = partitions.check(source, tables)
    partial, journal = f"{out}.partial", f"{out}.journal"
    plan = _plan(source, tables, format)
    done = _resume(journal, partial, plan)
    if not done:
        _note(journal, plan, 0)
        create(partial, partitions.size_needed(source, tables), format)
    with open_image(partial, format=format, sector=partitions.NEW) as target:
        noted = done
        for each in sorted(tables.partitions, key=lambda each: each.start):
            for start, end in _ranges(source, max(each.start, done), each.end):
                _copy_piece(source, target, start, end)
                say(end, source.size)
                if end - noted >= STRIDE:
                    target.flush()
                    noted = end
                    _note(journal, plan, noted)
        target.flush()
        for at, data in partitions.new_tables(tables, target.size):
            target.write(at, data)
        target.flush()
    _publish(partial, out, False)
    os.unlink(journal)
    return found


def _plan(source: Image, tables: partitions.Tables, format: str) -> str:
    """What has to be the same for a migration to go on: the tables, and the file as it was."""
    found = os.stat(source.path)
    of_file = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return hashlib.sha256(repr((of_file, source.size, tables, format)).encode()).hexdigest()


def _resume(journal: str, partial: str, plan: str) -> int:
    """How far an interrupted migration came; 0, and no partial file, where it has to begin."""
    if not os.path.lexists(journal):
        return 0
    try:
        with open(journal, encoding="utf-8") as file:
            noted = json.loads(file.read(4096))
        same, done = noted["plan"] == plan, int(noted["done"])
    except (ValueError, KeyError, TypeError):
        same, done = False, 0
    if not same:
        again = f"is of another migration; to start anew: rm {journal} {partial}"
        raise DiskError(journal, again, errno.EEXIST)
    if not done and os.path.lexists(partial):
        os.unlink(partial)
    return done


def _note(journal: str, plan: str, done: int) -> None:
    """Replace the journal; it is on the disk when this returns."""
    with open(f"{journal}.new", "w", encoding="utf-8") as file:
        json.dump({"plan": plan, "done": done}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{journal}.new", journal)
    _sync_folder(journal)
