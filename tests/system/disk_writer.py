"""What the crash tests kill: writes a known sequence to a disk and says what has been flushed.

The sequence follows from the seed, so whoever killed it knows what must be there.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from hartwood import storage
from hartwood.storage import qcow2_snapshots as snapshots
from hartwood.storage.image import Image
from hartwood.storage.qcow2 import Qcow2
from hartwood.storage.raw import Raw

SECTOR, SECTORS = 512, 8192
SIZE = SECTOR * SECTORS
KINDS = ("raw", "qcow2", "qcow2-v2", "qcow2-512", "overlay", "snapshots")

#: One step: its kind, the first sector, how many, the byte that fills them.
Step = tuple[str, int, int, int]


def steps(kind: str, seed: int) -> Iterator[Step]:
    """The endless sequence of one seed."""
    generator = random.Random(f"{kind} {seed}")
    weights = "write " * 9 + "zero discard flush flush flush"
    if kind == "snapshots":
        weights += " create create apply delete"
    while True:
        what = generator.choice(weights.split())
        count = generator.choice([1, 1, 8, 8, 16, 128, generator.randrange(1, 300)])
        at = generator.randrange(SECTORS - count)
        yield what, at, count, generator.randrange(1, 256)


def make(kind: str, folder: Path) -> None:
    """The disk before the first step."""
    path = str(folder / "disk")
    if kind == "raw":
        Raw.create(path, SIZE)
    elif kind == "overlay":
        Path(folder / "base").write_bytes(b"\xba\x5e" * (SIZE // 2))
        with storage.open(folder / "base", readonly=True) as base:
            storage.overlay(base, path).close()
    else:
        version, cluster = {"qcow2-v2": (2, 4096), "qcow2-512": (3, 512)}.get(kind, (3, 65536))
        Qcow2.create(path, SIZE, version=version, cluster=cluster)


def open_disk(kind: str, folder: Path, *, readonly: bool = False) -> Image:
    """The disk, as the writer has it and as it is looked at afterwards."""
    path = folder / "disk"
    if kind == "overlay":
        base = storage.open(folder / "base", readonly=True)
        return storage.open(path, format="qcow2", backing=base, readonly=readonly)
    return storage.open(path, format="raw" if kind == "raw" else "qcow2", readonly=readonly)


def perform(disk: Image, step: Step, number: int) -> None:
    """Do one step; snapshots are named by the step that made them."""
    what, at, count, byte = step
    begin, size = at * SECTOR, count * SECTOR
    if what == "write":
        disk.write(begin, bytes([byte]) * size)
    elif what == "zero":
        disk.zero(begin, size, may_unmap=byte % 2 == 0)
    elif what == "discard":
        disk.discard(begin, size)
    elif what == "flush":
        disk.flush()
    else:
        assert isinstance(disk, Qcow2)
        made = snapshots.load(disk).all
        if what == "create" and len(made) < 4:
            snapshots.create(disk, str(number))
        elif what == "apply" and made:
            snapshots.apply(disk, made[byte % len(made)].ident)
        elif what == "delete" and made:
            snapshots.delete(disk, made[byte % len(made)].ident)


def main(kind: str, folder: Path, seed: int) -> None:
    """Write until killed; each line on standard output is the number of a flush that returned."""
    disk = open_disk(kind, folder)
    for number, step in enumerate(steps(kind, seed)):
        perform(disk, step, number)
        if step[0] not in ("write", "zero", "discard"):
            disk.flush()
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
