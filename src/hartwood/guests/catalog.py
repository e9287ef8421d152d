"""The guests that can be had by name, and the cache they live in."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hartwood.errors import Error

SUITE = "trixie"  # the first Debian release with a riscv64 port
KERNEL, INITRD, DISK = "Image", "initrd", "disk.img"  # what a bootable guest consists of
LAYOUT = 5  # raise it when unpacking changes, so that old caches are made again
STAMP = ".hartwood-guest.json"


class GuestError(Error):
    """A guest cannot be had; the text says what is missing and how to mend it."""


class Guest:
    """A named set of Debian packages unpacked into one directory.

    `packages` are asked for by name; with `dependencies` apt adds what they depend on. `path` is
    the file, relative to the directory, that a person wants ("." for the directory itself). With
    `bootable` the directory gets a kernel and an initramfs instead (see `bootable`), with `disk`
    also an image that has the packages (see `disk`).
    """

    def __init__(
        self,
        name: str,
        summary: str,
        packages: str,
        *,
        path: str = ".",
        dependencies: bool = True,
        bootable: bool = False,
        disk: bool = False,
    ) -> None:
        self.name = name
        self.summary = summary
        self.packages = tuple(packages.split())
        self.path = path
        self.dependencies = dependencies
        self.bootable = bootable or disk
        self.disk = disk
        self.architecture = next(part for part in name.split("-") if part in _ARCHITECTURES)

    def paths(self, path: Path) -> list[Path]:
        """What to tell a person who fetched it to `path`: itself, or kernel, initramfs and disk."""
        names = [KERNEL, INITRD, DISK] if self.disk else [KERNEL, INITRD] if self.bootable else [""]
        return [path / name for name in names]

    def command(self, path: Path) -> str:
        """The words that boot it from `path` when they are not obvious: those for a disk."""
        if not self.disk:
            return ""
        kernel, initrd, disk = (shlex.quote(str(each)) for each in self.paths(path))
        return (
            f"hartwood boot --kernel {kernel} --initrd {initrd} --disk {disk},format=raw "
            '--append "root=/dev/vda rw console=ttyS0"'
        )


_ARCHITECTURES = ("riscv64", "amd64")

GUESTS = {
    guest.name: guest
    for guest in (
        Guest(
            "riscv64-busybox",
            "one static program with sh, find, sort, awk, vi and some 270 more",
            "busybox-static",
            path="usr/bin/busybox",
            dependencies=False,
        ),
        Guest(
            "riscv64-sysroot",
            "a directory for --root: bash, coreutils, lua5.4, sqlite3, perl, python3",
            "busybox-static bash coreutils diffutils findutils gawk grep gzip libc6 libgcc-s1 "
            "libstdc++6 lua5.4 perl python3 sed sqlite3",
        ),
        Guest(
            "debian-riscv64",
            "a directory to boot from: Debian's kernel (Image), busybox and drivers in an initrd",
            "linux-image-riscv64 busybox-static",
            bootable=True,
        ),
        Guest(
            "debian-riscv64-disk",
            "Debian on a disk: sysvinit, login (root, no password), apt, python3, gcc",
            "?essential apt gcc libc6-dev login passwd python3 sysvinit-core util-linux",
            disk=True,
        ),
        Guest(
            "amd64-baseline",
            "lua5.4, python3 and sqlite3 for x86-64: what benchmarks call native",
            "lua5.4 python3 sqlite3",
        ),
    )
}


def location(name: str, folder: Path | None = None) -> Path:
    """The directory of guest `name`: under `folder`, else in the user's cache.

    Raises `GuestError` for a name that is not in `GUESTS`.
    """
    if name not in GUESTS:
        raise GuestError(f"no guest called {name!r}; there are {', '.join(GUESTS)}")
    if folder is None:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = Path(cache).expanduser() / "hartwood" / "guests"
    return folder / name


def fetch(
    name: str,
    folder: Path | None = None,
    *,
    refresh: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Return the path of guest `name`, fetching it first when it is not there (or `refresh`).

    `say` hears, in a few words, each step that takes time. A fetch that fails half-way leaves
    nothing behind, and two at once do not collide. Raises `GuestError`.
    """
    directory = location(name, folder)
    guest = GUESTS[name]
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _lock(directory.parent / f".{name}.lock"):
            if refresh or not _is_current(directory, guest):
                _make(directory, guest, say)
    except OSError as error:
        raise GuestError(f"{error.filename or directory}: {error.strerror or error}") from error
    return directory / guest.path


def _make(directory: Path, guest: Guest, say: Callable[[str], None]) -> None:
    from hartwood.guests.packages import Apt, unpack

    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetch-") as work:
        apt = Apt.of_machine(Path(work) / "apt", suite=SUITE, architecture=guest.architecture)
        say(f"reading Debian's {SUITE} package index")
        apt.update()
        tree = Path(work) / "tree"
        if guest.bootable:
            from hartwood.guests import bootable, disk

            tree.mkdir()
            if guest.disk:
                disk.make(apt, guest.packages, tree, say)
            else:
                bootable.make(apt, tree, say)
        else:
            say(f"fetching the packages of {guest.name}")
            archives = apt.download(guest.packages, dependencies=guest.dependencies)
            say(f"unpacking {len(archives)} packages")
            unpack(archives, tree)
        archives = sorted((Path(work) / "apt" / "cache" / "archives").glob("*.deb"))
        stamp = {**_recipe(guest), "archives": [archive.name for archive in archives]}
        (tree / STAMP).write_text(json.dumps(stamp, indent=1))
        tree.chmod(0o755)
        if directory.exists():
            directory.rename(Path(work) / "old")
        tree.rename(directory)
        shutil.rmtree(Path(work) / "old", ignore_errors=True)


def _recipe(guest: Guest) -> dict[str, object]:
    return {"layout": LAYOUT, "suite": SUITE, "packages": list(guest.packages)}


def _is_current(directory: Path, guest: Guest) -> bool:
    try:
        stamp = json.loads((directory / STAMP).read_text())
    except (OSError, ValueError):
        return False
    wanted = _recipe(guest)
    return isinstance(stamp, dict) and {key: stamp.get(key) for key in wanted} == wanted


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
