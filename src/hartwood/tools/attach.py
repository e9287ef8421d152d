"""What `hartwood boot` puts into a board's slots: --disk, --net and --share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from hartwood.board import BoardError
from hartwood.dev.device import Device
from hartwood.dev.virtio.blk import VirtioBlk
from hartwood.dev.virtio.fs9p import VirtioFs9p
from hartwood.dev.virtio.net import VirtioNet
from hartwood.dev.virtio.rng import VirtioRng
from hartwood.dev.virtio.tree import Tree
from hartwood.machine.life import Kept
from hartwood.net import Forward, UserNet
from hartwood.storage import Image, Overlay, Queue
from hartwood.storage import open as open_disk
from hartwood.storage.image import SERIAL_BYTES

#: What a disk may be said to be, behind commas.
_DISK = (
    "--disk {}: FILE[,format=raw|qcow2][,backing=FILE[,backing-format=raw|qcow2]]"
    "[,sector=512|4096][,serial=S][,readonly]"
)
_FORMATS = ("", "raw", "qcow2")


@dataclass(frozen=True)
class Attached:
    """The words of the options, as they were given. With `apart` what is written to disks stays in
    memory, where a snapshot finds it; `workers` is how many threads serve a disk, or 0 where
    requests are done at once, as a deterministic machine needs it."""

    disks: tuple[str, ...] = ()
    net: str = "none"
    forwards: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    apart: bool = False
    workers: int = 4

    def devices(self, cleanup: ExitStack, kept: dict[str, Kept]) -> Iterator[Device]:
        """The devices in the order of their slots; what is behind them is closed by `cleanup`, and
        what a snapshot has to hold of it goes to `kept`. Raises `BoardError`, `DiskError` or
        `NetError` for words that make none."""
        for number, words in enumerate(self.disks):
            disk = _image(words, cleanup)
            if self.apart and not disk.readonly:
                disk = kept[f"disk{number}"] = Overlay(disk)
            yield self._disk(disk, cleanup)
        if self.net not in ("user", "none"):
            raise BoardError(f"--net {self.net:.30}: user or none")
        if self.net == "none" and self.forwards:
            wanted = f"--forward {self.forwards[0]:.30}"
            raise BoardError(f"{wanted}: there is no network without --net user")
        if self.net == "user":
            card, net = VirtioNet(), UserNet([Forward.parse(each) for each in self.forwards])
            cleanup.callback(net.close)
            card.connect(net)
            yield card
        for number, folder in enumerate(self.shares):
            if not Path(folder).is_dir():
                raise BoardError(f"--share {folder}: no such folder")
            yield VirtioFs9p(tree=Tree(folder), tag=f"share{number}" if number else "share")
        if self.disks or self.net == "user":
            yield VirtioRng()  # or what wants keys waits for entropy

    def _disk(self, disk: Image, cleanup: ExitStack) -> Device:
        queue = Queue(disk, workers=self.workers)
        cleanup.callback(queue.close)
        device = VirtioBlk()
        device.disk, device.requests = disk, queue  # type: ignore[assignment]
        return device


def _image(words: str, cleanup: ExitStack) -> Image:
    """The image that --disk names, and below it the one that it stands on, never written."""
    file, *more = words.split(",")
    options = dict.fromkeys(("format", "backing", "backing-format", "readonly"), "")
    options |= {"sector": "512", "serial": _serial(file)}
    for word in more:
        name, _, value = word.partition("=")
        if word != "readonly" and not (value and name in options and name != "readonly"):
            raise BoardError(_DISK.format(f"{words:.60}"))
        options[name] = value or "yes"
    formats, backing = (options["format"], options["backing-format"]), options["backing"]
    if options["sector"] not in ("512", "4096") or not {*formats} <= {*_FORMATS}:
        raise BoardError(_DISK.format(f"{words:.60}"))
    if (backing and formats[0] != "qcow2") or (formats[1] and not backing):
        raise BoardError(f"--disk {words:.60}: backing=FILE goes with format=qcow2")
    base = None
    if backing:
        below = open_disk(backing, format=formats[1] or None, readonly=True)
        base = cleanup.enter_context(closing(below))
    disk = open_disk(
        file, format=formats[0] or None, sector=int(options["sector"]), backing=base,
        readonly=bool(options["readonly"]), serial=options["serial"],
    )  # fmt: skip
    return cleanup.enter_context(closing(disk))


def _serial(file: str) -> str:
    """What a disk is called in the guest unless told: as much of its file's name as fits."""
    return os.fsencode(Path(file).name)[:SERIAL_BYTES].decode(errors="ignore")
