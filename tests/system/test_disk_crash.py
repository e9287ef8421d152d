"""Killed at any moment, or without power at any moment: what was flushed is there.

Two ways to crash. A child is killed with SIGKILL, for real: what it had given to the kernel is in
the file. And a loss of power is played from a log of all calls: of what came after the last sync
any part may be missing.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from hartwood.errors import DiskError
from hartwood.storage.hostfile import HostFile
from hartwood.storage.image import Image
from hartwood.storage.qcow2 import Qcow2
from hartwood.storage.qcow2_check import check
from system import disk_writer as writer
from system.disk_writer import KINDS, SECTOR, SECTORS, SIZE, Step

SOAK = bool(os.environ.get("HARTWOOD_SOAK"))
#: Runs that are killed, of each kind: together over fifty, or a thousand.
KILLED = 170 if SOAK else 9
#: Sequences and moments of lost power in each.
SEQUENCES, MOMENTS = (40, 40) if SOAK else (2, 10)


class Expected:
    """What each sector may hold: one value for what was flushed, more for what was not."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        first = b"\xba\x5e" * 256 if kind == "overlay" else bytes(SECTOR)
        self.may: list[set[bytes]] = [{first} for _ in range(SECTORS)]
        self.kept: dict[int, list[set[bytes]]] = {}  # snapshots in order of their making

    def step(self, step: Step, number: int, certain: bool) -> None:
        what, at, count, byte = step
        made = list(self.kept)
        if what in ("write", "zero", "discard"):
            fill = bytes([byte if what == "write" else 0]) * SECTOR
            for sector in range(at, at + count):
                old = self.may[sector] if what == "discard" or not certain else set()
                self.may[sector] = {*old, fill}
        elif what == "create" and len(made) < 4:
            self.kept[number] = [set(each) for each in self.may]
        elif what == "apply" and made:
            then = self.kept[made[byte % len(made)]]
            pairs = zip(self.may, then, strict=True)
            self.may = [set(new) if certain else old | new for old, new in pairs]
        elif what == "delete" and made and certain:
            del self.kept[made[byte % len(made)]]

    def after(self, seed: int, flushed: int, begun: int) -> Expected:
        """Up to step `flushed` certainly, up to `begun` perhaps."""
        for number, step in enumerate(writer.steps(self.kind, seed)):
            if number > begun:
                break
            self.step(step, number, number <= flushed)
        return self

    def verify(self, disk: Image) -> None:
        data = disk.read(0, SIZE)
        for sector, may in enumerate(self.may):
            found = data[sector * SECTOR : (sector + 1) * SECTOR]
            assert found in may, f"sector {sector}: {found[:4]!r}, not {[m[:4] for m in may]}"


def verify(kind: str, folder: Path, expected: Expected, qemu_img: str, what: str) -> None:
    """Sound by our check and QEMU's, and all that must be there is."""
    path = str(folder / "disk")
    if kind != "raw":
        clean = {0, 3}  # 3: leaked clusters, which lose nothing
        with Qcow2(path, readonly=True, checking=True) as image:
            dirty = image.header.incompatible & 1
            assert dirty or kind == "snapshots" or not check(image).corruptions, what
        if dirty:  # half-way through a snapshot: to open it for writing mends it
            assert kind == "snapshots"
            writer.open_disk(kind, folder).close()
        done = subprocess.run(
            [qemu_img, "check", path], capture_output=True, text=True, check=False
        )
        assert done.returncode in clean, what + done.stdout + done.stderr
    with writer.open_disk(kind, folder, readonly=True) as disk:
        expected.verify(disk)
    # And it goes on being a disk.
    with writer.open_disk(kind, folder) as disk:
        disk.write(0, b"x" * SECTOR)
        disk.flush()
        assert disk.read(0, SECTOR) == b"x" * SECTOR


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_killed(kind: str, part: int, tmp_path: Path, oracle) -> None:
    qemu_img = oracle("qemu-img")
    for seed in range(part, KILLED, 3):
        chance = random.Random(f"kill {kind} {seed}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        writer.make(kind, folder)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with subprocess.Popen(
            [sys.executable, writer.__file__, kind, str(folder), str(seed)],
            stdout=subprocess.PIPE,
            env=environment,
        ) as child:
            for _ in range(chance.randrange(1, 40)):
                line = child.stdout.readline()
                assert line, "it ended by itself"
            time.sleep(chance.random() * 0.01)
            child.kill()
            flushed = int((line + child.stdout.read()).split()[-1])
        expected = Expected(kind).after(seed, flushed, _next_flush(kind, seed, flushed))
        verify(kind, folder, expected, qemu_img, f"{kind}, seed {seed}: ")


def _next_flush(kind: str, seed: int, flushed: int) -> int:
    changes = ("write", "zero", "discard")
    numbered = enumerate(writer.steps(kind, seed))
    return next(n for n, step in numbered if n > flushed and step[0] not in changes)


class Log:
    """Every call that changes a file, and after which of them each step of the writer was done."""

    def __init__(self, monkeypatch) -> None:
        self.calls: list[tuple[str, int, Any]] = []
        for name in ("writev", "punch", "zero", "resize", "sync"):
            monkeypatch.setattr(HostFile, name, self._wrapped(name, getattr(HostFile, name)))

    def _wrapped(self, name: str, real):
        def call(file: HostFile, *arguments):
            result = real(file, *arguments)
            if name == "writev":
                self.calls.append((name, arguments[0], b"".join(arguments[1])))
            elif name == "sync":
                self.calls.append((name, 0, 0))
            elif name == "resize":
                self.calls.append((name, arguments[0], 0))
            elif result is not False:
                self.calls.append((name, *arguments))
            return result

        return call

    def file_after(self, before: bytes, moment: int, chance: random.Random) -> bytes:
        """The file when power went at `moment`: all up to the last sync, any of what follows."""
        syncs = [n for n, call in enumerate(self.calls[:moment]) if call[0] == "sync"]
        certain = syncs[-1] if syncs else 0
        keep = chance.random()
        data = bytearray(before)
        for number, (name, at, what) in enumerate(self.calls[:moment]):
            if number > certain and chance.random() > keep:
                continue
            if name == "resize":
                data = data[:at].ljust(at, b"\0")
            elif name == "writev":
                data.extend(bytes(max(0, at + len(what) - len(data))))
                data[at : at + len(what)] = what
            elif name != "sync":
                end = min(at + what, len(data))
                data[at:end] = bytes(max(0, end - at))
        return bytes(data)


@pytest.mark.parametrize("seed", range(SEQUENCES))
@pytest.mark.parametrize("kind", KINDS)
def test_power_is_lost(kind: str, seed: int, tmp_path: Path, monkeypatch, oracle) -> None:
    qemu_img = oracle("qemu-img")
    monkeypatch.setattr(os, "fdatasync", lambda _: None)  # the log knows; the disk need not wait
    writer.make(kind, tmp_path)
    path = tmp_path / "disk"
    before = path.read_bytes()
    done_at = defaultdict[int, int](int)  # step -> calls made when it was done
    with monkeypatch.context() as patch:
        log = Log(patch)
        disk = writer.open_disk(kind, tmp_path)
        for number, step in enumerate(writer.steps(kind, seed)):
            writer.perform(disk, step, number)
            done_at[number] = len(log.calls)
            if number == 120:
                break
        disk.close()
    chance = random.Random(f"power {kind} {seed}")
    for moment in sorted(chance.sample(range(len(log.calls)), min(MOMENTS, len(log.calls)))):
        path.write_bytes(log.file_after(before, moment, chance))
        flushed = max(
            (n for n, s in _numbered(kind, seed) if s[0] == "flush" and done_at[n] <= moment),
            default=-1,
        )
        begun = next((n for n in range(121) if done_at[n] > moment), 120)
        expected = Expected(kind).after(seed, flushed, begun)
        verify(kind, tmp_path, expected, qemu_img, f"{kind}, seed {seed}, moment {moment}: ")


def _numbered(kind: str, seed: int) -> list[tuple[int, Step]]:
    return [pair for pair, _ in zip(enumerate(writer.steps(kind, seed)), range(121), strict=False)]


def test_a_flush_that_stores_in_one_go_would_be_found(tmp_path, monkeypatch, oracle) -> None:
    # The oracle itself: without the order of the stages some moment has to show a fault.
    def store(self: Qcow2, work) -> None:
        for at, data in work.first + work.then:
            self.file.write(at, data)
        self.file.sync()

    monkeypatch.setattr(Qcow2, "_store", store)
    faults = 0
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            test_power_is_lost("qcow2-512", seed, folder, monkeypatch, oracle)
        except (AssertionError, DiskError):
            faults += 1
            break
    assert faults
