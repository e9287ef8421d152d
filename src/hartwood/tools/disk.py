"""`hartwood disk`: make, look at, check, convert and migrate disk images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hartwood.errors import Error

if TYPE_CHECKING:
    from hartwood.storage import Image

app = typer.Typer(help="Disk images: raw and qcow2.")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_Format = Annotated[str | None, typer.Option("--format", help="raw or qcow2")]
_From = Annotated[str | None, typer.Option("--from", help="the format of IN: raw or qcow2")]
_Backing = Annotated[Path | None, typer.Option(help="what a qcow2 image stands on")]


class DiskProblem(Error):
    """What `disk` cannot do as asked; status 2."""

    exit_status = 2


def parse_size(text: str) -> int:
    """Bytes of "1G", "512M", "4096". Raises `DiskProblem`."""
    found = re.fullmatch(r"(\d{1,18})([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if not found:
        raise DiskProblem(f"--size {text}: say a number with K, M, G or T, such as 10G")
    return int(found[1]) * _UNITS[found[2].upper()]


@contextmanager
def _image(
    path: Path,
    format: str | None,
    backing: Path | None = None,
    *,
    readonly: bool = True,
    checking: bool = False,
) -> Iterator[Image]:
    """An image of the command line's, open. Its own header may say that it is qcow2.

    Nobody who could have written that header is running here, and what is read is only shown,
    checked or copied; a guest's raw disk is another matter, for which --from or --format is.
    """
    from hartwood import storage
    from hartwood.storage.opening import magic_of

    with ExitStack() as stack:
        below = None
        if backing is not None:
            kind = magic_of(str(backing))
            below = stack.enter_context(storage.open(backing, readonly=True, format=kind))
        if format is None:
            format = magic_of(str(path))
        if format == "qcow2" and checking:
            image: Image = storage.Qcow2(str(path), readonly=readonly, backing=below, checking=True)
        else:
            image = storage.open(path, format=format, readonly=readonly, backing=below)
        yield stack.enter_context(image)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing in a pipe."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@app.command()
def create(
    file: Annotated[Path, typer.Argument(help="the new image; never overwritten")],
    size: Annotated[str | None, typer.Option(help="such as 10G; default: the backing's")] = None,
    format: _Format = "raw",
    backing: _Backing = None,
) -> None:
    """Make an empty disk, or one over --backing, which stays as it is."""
    from hartwood import storage

    if backing is None and size is None:
        raise DiskProblem("say how large the disk is, such as --size 10G")
    below = 0
    if backing is not None:
        with _image(backing, None, checking=True) as image:
            below = image.size
        format = "qcow2"
    count = parse_size(size) if size else below
    if count % 512:
        raise DiskProblem(f"--size {size}: is no multiple of 512 bytes")
    name = os.path.abspath(backing) if backing else ""
    storage.create(file, count, format or "raw", backing=name)


@app.command()
def info(file: Annotated[Path, typer.Argument()], format: _Format = None) -> None:
    """Say what a disk image is: format, size, snapshots, backing file, partitions."""
    from hartwood import storage
    from hartwood.errors import DiskError
    from hartwood.storage import partitions, qcow2_snapshots

    with _image(file, format, checking=True) as image:
        rows = [("file", str(file)), ("format", type(image).__name__.lower())]
        rows += [("size", str(image.size)), ("on disk", str(os.stat(file).st_blocks * 512))]
        plain = True
        if isinstance(image, storage.Qcow2):
            header = image.header
            rows += [("version", str(header.version)), ("cluster", str(header.cluster))]
            plain = not header.backing
            if header.backing:
                rows.append(("backing", f"{_printable(header.backing)} (never opened unasked)"))
            if header.incompatible & 3:
                rows.append(("state", "corrupt" if header.incompatible & 2 else "not closed"))
            for each in qcow2_snapshots.load(image).all:
                rows.append(("snapshot", f"{_printable(each.ident)} {_printable(each.name)}"))
        if plain:
            try:
                for part in partitions.read_tables(image).partitions:
                    what, _ = partitions.contents(image, part.start, part.end)
                    rows.append((_printable(part.name), f"{part.start} to {part.end}, {what}"))
            except DiskError as error:
                rows.append(("partitions", error.reason))
    for name, value in rows:
        print(f"{name}\t{value}")


def _printable(text: str) -> str:
    """A name out of an image, harmless to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


@app.command()
def check(
    file: Annotated[Path, typer.Argument()],
    format: _Format = None,
    repair: Annotated[bool, typer.Option(help="free leaked clusters, recount others")] = False,
) -> int:
    """Check a qcow2 image; status 1 when it is corrupt, 0 when it is sound or only leaks."""
    from hartwood import storage
    from hartwood.storage import qcow2_check

    with _image(file, format, readonly=not repair, checking=True) as image:
        if not isinstance(image, storage.Qcow2):
            print(f"{file}: raw, nothing to check")
            return 0
        report = qcow2_check.repair(image) if repair else qcow2_check.check(image)
    for message in report.messages:
        print(f"{file}: corrupt: {message}")
    did = "repaired" if repair else "found"
    print(f"{file}: {report.corruptions} corruptions, {report.leaks} leaked clusters {did}")
    return 1 if report.corruptions and not repair else 0


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN")],
    out: Annotated[Path, typer.Argument(metavar="OUT")],
    format: Annotated[str, typer.Option("--format", help="of OUT: raw or qcow2")],
    from_: _From = None,
    backing: _Backing = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite OUT")] = False,
) -> None:
    """Copy a disk into another format; holes stay holes."""
    from hartwood.storage import copying

    with _image(source, from_, backing) as image, _progress("converting") as say:
        copying.convert(image, str(out), format, force=force, say=say)


@app.command()
def migrate(
    source: Annotated[Path, typer.Argument(metavar="IN")],
    out: Annotated[Path, typer.Argument(metavar="OUT")],
    sector: Annotated[int, typer.Option(help="bytes of a sector of OUT: 4096")],
    format: Annotated[str, typer.Option("--format", help="of OUT: raw or qcow2")] = "raw",
    from_: _From = None,
    backing: _Backing = None,
) -> None:
    """Copy a disk of 512-byte sectors to one of 4096; IN stays as it is.

    Interrupted, the same command goes on where it was.
    """
    from hartwood.storage import copying

    if sector != 4096:
        raise DiskProblem(f"--sector {sector}: disks can be migrated to 4096 only")
    with _image(source, from_, backing) as image, _progress("migrating") as say:
        found = copying.migrate(image, str(out), format, say=say)
    for line in found:
        print(_printable(line))
