"""Images on disk: a private, bounded folder that a second run starts warm from.

A file is named after what it was made from, so it can only be found by a guest with the same code
at the same place under the same definitions and processor; a damaged one fails its checksum and
is removed. Writers make a file complete under another name before it gets its own.
"""

from __future__ import annotations

import os

from hartwood.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

try:  # hashlib pulls in OpenSSL: 4 ms of start-up that a checksum does not need.
    from _blake2 import blake2b
except ImportError:  # pragma: no cover - an interpreter that was built without it
    from hashlib import blake2b

#: Bytes that the folder may hold; above it the files that were not used for longest go.
LIMIT = 256 << 20
_SOURCES = ("bits", "isa", "isa/riscv", "jit", "mem")


class StoreError(Error):
    """The cache folder cannot be used; the text says why and how to choose another."""


def folder() -> str:
    """Where images are kept: `$HARTWOOD_CACHE`, else below the user's cache folder."""
    chosen = os.environ.get("HARTWOOD_CACHE")
    if chosen:
        return chosen
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "hartwood", "code")


def configuration(outside: Iterable[str] = ()) -> str:
    """A name for everything but the guest that generated code depends on: the definitions and
    the translator (by the state of their source files), the processor, and the content of the
    files `outside` the package that define instructions."""
    digest = blake2b(digest_size=12)
    for path in outside:
        with open(path, "rb") as file:
            digest.update(file.read())
    package = os.path.dirname(os.path.dirname(__file__))
    for room in _SOURCES:
        with os.scandir(os.path.join(package, room)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.endswith(".py"):
                    info = entry.stat()
                    digest.update(f"{entry.name} {info.st_size} {info.st_mtime_ns}\n".encode())
    with open("/proc/cpuinfo", "rb") as file:
        for line in file.read(8192).split(b"\n\n", 1)[0].split(b"\n"):
            if line.startswith((b"vendor_id", b"cpu family", b"model", b"stepping", b"flags")):
                digest.update(line)
    return digest.hexdigest()


def page_key(page: int, code: bytes) -> str:
    """The name of a page of guest code at a guest address."""
    return blake2b(page.to_bytes(8, "little") + code, digest_size=12).hexdigest()


def code_digest(code: bytes) -> bytes:
    """What a translation remembers of the guest code that it was made from."""
    return blake2b(code, digest_size=16).digest()


class Store:
    """The files of one configuration. Without a usable folder everything is a miss."""

    def __init__(self, path: str | None = None, outside: Iterable[str] = ()) -> None:
        """`path` is the folder of this configuration, by default what `configuration(outside)`
        names; it is made, private, if it is not there.

        Raises `StoreError` where it belongs to somebody else or others may write to it.
        """
        self.hits = self.misses = 0
        self._files: dict[str, list[str]] = {}
        self.path = os.path.join(folder(), configuration(outside)) if path is None else path
        top = os.path.dirname(self.path)
        try:
            # One after the other: makedirs gives its mode to the last folder only, and under a
            # umask of 002 the one above would be a folder that is refused here.
            os.makedirs(top, mode=0o700, exist_ok=True)
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            info = os.stat(top)
            if info.st_uid != os.geteuid() or info.st_mode & 0o022:
                raise StoreError(
                    f"{top}: others can write to the code cache; `chmod 700` it or set "
                    "HARTWOOD_CACHE to a folder of your own"
                )
            for name in sorted(os.listdir(self.path)):
                key, dot, _ = name.partition(".")
                if dot and not name.endswith(".new"):
                    self._files.setdefault(key, []).append(name)
        except OSError:
            self.path = ""

    def get(self, key: str) -> list[bytes]:
        """Contents of the files that were stored under `key`."""
        found = []
        for name in self._files.get(key, ()):
            try:
                with open(os.path.join(self.path, name), "rb", buffering=0) as file:
                    found.append(file.read())
            except OSError:
                continue
        if found:
            self.hits += 1
        else:
            self.misses += 1
        return found

    def discard(self, key: str) -> None:
        """Remove what is stored under `key`: it is damaged."""
        for name in self._files.pop(key, ()):
            try:
                os.unlink(os.path.join(self.path, name))
            except OSError:
                continue

    def put(self, key: str, part: str, data: bytes) -> None:
        """Keep `data` under `key`; `part` tells several files of one key apart. A full disk or a
        vanished folder means only that the next run is not warm."""
        if not self.path:
            return
        name = os.path.join(self.path, f"{key}.{part}")
        temporary = f"{name}.{os.getpid()}.new"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, name)
        except OSError:
            try:
                os.unlink(temporary)
            except OSError:
                return

    def trim(self, limit: int = LIMIT) -> None:
        """Remove old files, of any configuration, until the folder holds at most `limit` bytes."""
        files = []
        for where, _, names in os.walk(os.path.dirname(self.path) if self.path else ""):
            for name in names:
                path = os.path.join(where, name)
                try:
                    info = os.stat(path)
                except OSError:
                    continue
                # Hosts note at least once a day that a file was read (mount(8), relatime).
                files.append((max(info.st_atime, info.st_mtime), info.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= limit:
                break
            try:
                os.unlink(path)
            except OSError:
                continue
            total -= size
