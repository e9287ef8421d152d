"""`hartwood cache`: how large the translated code on disk is, and how to be rid of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from hartwood.errors import Error
from hartwood.jit import store

NAME_LENGTH = 24  # hexadecimal digits: store.configuration()


class CacheError(Error):
    """The cache cannot be read or cleared; the text says which file and why."""


class Usage(NamedTuple):
    """What is in the cache: `configurations` are builds and processors, `size` is in bytes."""

    folder: Path
    configurations: int
    files: int
    size: int
    limit: int


def usage() -> Usage:
    """Count what is in the cache. Raises `CacheError` when it cannot be read."""
    files = size = 0
    configurations = _configurations()
    for configuration in configurations:
        try:
            for entry in os.scandir(configuration):
                files += 1
                size += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:  # another run tidied up meanwhile
            continue
    return Usage(Path(store.folder()), len(configurations), files, size, store.LIMIT)


def clear() -> int:
    """Remove all of it; return the bytes it held. Raises `CacheError`."""
    size = usage().size
    for configuration in _configurations():
        try:
            shutil.rmtree(configuration)
        except OSError as error:
            raise CacheError(f"{error.filename}: {error.strerror}") from error
    return size


def _configurations() -> list[Path]:
    # Only what the store names itself: the folder may be one that a person chose for more.
    def ours(path: Path) -> bool:
        return len(path.name) == NAME_LENGTH and set(path.name) <= set("0123456789abcdef")

    try:
        return sorted(path for path in Path(store.folder()).iterdir() if ours(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CacheError(f"{error.filename}: {error.strerror}") from error
