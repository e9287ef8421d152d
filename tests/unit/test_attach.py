"""The words of --disk, --net, --forward and --share: what they become, and how they are refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood import storage
from hartwood.board import BoardError
from hartwood.dev.device import Device
from hartwood.dev.virtio.blk import VirtioBlk
from hartwood.dev.virtio.fs9p import VirtioFs9p
from hartwood.dev.virtio.net import VirtioNet
from hartwood.dev.virtio.rng import VirtioRng
from hartwood.errors import DiskError, Error
from hartwood.machine.life import Kept
from hartwood.net import NetError
from hartwood.storage.queue import Kind
from hartwood.tools import cli
from hartwood.tools.attach import Attached
from hartwood.tools.boot import Options
from unit.disk_images import run

SIZE = 1 << 20


@pytest.fixture
def raw(tmp_path: Path) -> str:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"raw disk" + bytes(SIZE - 8))
    return str(path)


@pytest.fixture
def qcow2(tmp_path: Path) -> str:
    path = str(tmp_path / "disk.qcow2")
    storage.create(path, SIZE, "qcow2")
    return path


class Slots:
    """Devices that are attached until `close`."""

    def __init__(self, attached: Attached) -> None:
        self.kept: dict[str, Kept] = {}
        self._cleanup = ExitStack()
        with self._cleanup as cleanup:
            self.devices = list(attached.devices(cleanup, self.kept))
            self._cleanup = cleanup.pop_all()

    def close(self) -> None:
        self._cleanup.close()

    @property
    def disks(self) -> list[VirtioBlk]:
        return [each for each in self.devices if isinstance(each, VirtioBlk)]

    def disk(self, number: int = 0) -> storage.Image:
        disk = self.disks[number].disk
        assert isinstance(disk, storage.Image)
        return disk

    def queue(self) -> storage.Queue:
        return cast(storage.Queue, self.disks[0].requests)

    def ask(self, kind: Kind, at: int, data: bytearray) -> int:
        """One request of the first disk's device to what is behind it: its errno."""
        answers: list[int] = []
        queue = self.queue()
        views = [] if kind == "flush" else [memoryview(data)]
        queue.submit([storage.Request(kind, at, views, len(data), answers.append)])
        queue.drain()
        return answers[0]


@pytest.fixture
def slots() -> Iterator[list[Slots]]:
    """What a test attaches goes in here and is closed after it."""
    made: list[Slots] = []
    yield made
    for each in made:
        each.close()


def kinds(devices: list[Device]) -> list[type[Device]]:
    return [type(each) for each in devices]


def test_nothing_asked_for_is_nothing_attached() -> None:
    assert Slots(Attached()).devices == []


def test_devices_stand_in_the_order_of_their_kinds(
    raw: str, qcow2: str, tmp_path: Path, slots: list[Slots]
) -> None:
    """Entropy is last, so that the first slot is the first disk's, /dev/vda."""
    disks = (f"{raw},sector=4096", f"{qcow2},format=qcow2,readonly")
    slots.append(Slots(Attached(disks, "user", (), (str(tmp_path), str(tmp_path)))))
    (made,) = slots
    assert kinds(made.devices) == [
        VirtioBlk, VirtioBlk, VirtioNet, VirtioFs9p, VirtioFs9p, VirtioRng
    ]  # fmt: skip
    assert [each.tag for each in made.devices if isinstance(each, VirtioFs9p)] == [
        "share", "share1"
    ]  # fmt: skip
    assert made.kept == {}


def test_a_folder_alone_needs_no_entropy(tmp_path: Path) -> None:
    assert kinds(Slots(Attached(shares=(str(tmp_path),))).devices) == [VirtioFs9p]


@pytest.mark.parametrize(
    ("words", "sector", "readonly", "serial"),
    [
        ("", 512, False, "disk.raw"),
        (",format=raw", 512, False, "disk.raw"),
        (",sector=4096,readonly", 4096, True, "disk.raw"),
        (",readonly,sector=512,serial=DISK0,format=raw", 512, True, "DISK0"),
        (",serial=a=b", 512, False, "a=b"),
        (",sector=4096,sector=512", 512, False, "disk.raw"),
    ],
)
def test_the_words_of_a_disk(
    raw: str, slots: list[Slots], words: str, sector: int, readonly: bool, serial: str
) -> None:
    slots.append(Slots(Attached((raw + words,))))
    disk = slots[0].disk()
    assert (disk.sector, disk.readonly, disk.serial) == (sector, readonly, serial)
    assert (disk.size, disk.read(0, 8)) == (SIZE, b"raw disk")
    assert isinstance(disk, storage.Raw)


def test_a_qcow2_is_one_when_it_is_called_so(qcow2: str, slots: list[Slots]) -> None:
    slots.append(Slots(Attached((f"{qcow2},format=qcow2,sector=4096",))))
    assert isinstance(slots[0].disk(), storage.Qcow2)
    assert slots[0].disk().sector == 4096


@pytest.mark.parametrize(
    ("name", "serial"),
    [
        (b"a-name-that-is-longer-than-a-serial", "a-name-that-is-longe"),
        (("é" * 15).encode(), "é" * 10),
        (b"x" + ("é" * 15).encode(), "x" + "é" * 9),
        (b"not\xffutf-8", "notutf-8"),
    ],
)
def test_a_file_of_any_name_is_a_disk(
    tmp_path: Path, slots: list[Slots], name: bytes, serial: str
) -> None:
    """Its serial number is what of the name is text and fits into 20 bytes."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    storage.create(path, SIZE)
    slots.append(Slots(Attached((path,))))
    assert slots[0].disk().serial == serial


@pytest.mark.parametrize(
    "words",
    [
        ",sector=1024", ",sector=", ",sector", ",format=vmdk", ",format=", ",format", ",readonly=",
        ",readonly=yes", ",serial=", ",serial", ",", ",,readonly", ",ro", ",cache=none",
        ",backing=", ",backing", ",format=qcow2,backing=b,backing-format=vmdk",
    ],
)  # fmt: skip
def test_words_that_make_no_disk(raw: str, words: str) -> None:
    with pytest.raises(BoardError) as caught:
        Slots(Attached((raw + words,)))
    assert str(caught.value).endswith("[,sector=512|4096][,serial=S][,readonly]")
    assert "[,backing=FILE[" in str(caught.value)
    assert str(caught.value).startswith("--disk ")


def test_disks_that_cannot_be(raw: str, qcow2: str, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(bytes(1000))
    for words, says in (
        ("/nowhere/disk", "No such file"),
        ("", "No such file"),
        (str(tmp_path), "irectory"),
        (f"{odd}", "no whole sectors of 512"),
        (qcow2, "format=qcow2"),  # never guessed
        (f"{raw},format=qcow2", "disk.raw"),
        (f"{raw},serial={'s' * 21}", "over 20 bytes"),
    ):
        with pytest.raises(DiskError, match=says) as caught:
            Slots(Attached((words,)))
        assert "\n" not in str(caught.value)


@pytest.fixture
def overlays(tmp_path: Path, raw: str) -> list[str]:
    """Two qcow2 images on one raw disk, and one on the first of them."""
    paths = [str(tmp_path / name) for name in ("one", "two", "three")]
    for path, base in zip(paths, (raw, raw, paths[0]), strict=True):
        storage.create(path, SIZE, "qcow2", backing=base)
    return paths


def test_overlays_share_what_they_stand_on(
    raw: str, overlays: list[str], slots: list[Slots]
) -> None:
    words = (f"{each},format=qcow2,backing={raw},sector=4096" for each in overlays[:2])
    slots.append(Slots(Attached(tuple(words))))
    assert [slots[0].disk(n).read(0, 8) for n in (0, 1)] == [b"raw disk"] * 2
    assert slots[0].ask("write", 0, bytearray(b"w" * 4096)) == 0
    assert slots[0].ask("flush", 0, bytearray()) == 0
    assert [slots[0].disk(n).read(0, 8) for n in (0, 1)] == [b"wwwwwwww", b"raw disk"]
    slots.pop().close()
    assert Path(raw).read_bytes() == b"raw disk" + bytes(SIZE - 8)
    run("qemu-img", "check", "-f", "qcow2", overlays[0])
    copy = f"{raw}.copy"
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", overlays[0], copy)
    assert Path(copy).read_bytes() == b"w" * 4096 + bytes(SIZE - 4096)
    with storage.open(raw) as disk:  # closed with the rest: it can be written again
        disk.write(0, b"W" * 512)


def test_a_backing_file_may_be_a_qcow2_that_is_called_so(
    qcow2: str, tmp_path: Path, slots: list[Slots]
) -> None:
    with storage.open(qcow2, format="qcow2") as disk:
        disk.write(512, b"b" * 512)
    path = str(tmp_path / "above")
    storage.create(path, SIZE, "qcow2", backing=qcow2)
    slots.append(Slots(Attached((f"{path},format=qcow2,backing={qcow2},backing-format=qcow2",))))
    assert slots[0].disk().read(511, 3) == b"\0bb"


def test_backing_files_that_cannot_be(
    raw: str, qcow2: str, overlays: list[str], slots: list[Slots]
) -> None:
    one, _, three = (f"{each},format=qcow2" for each in overlays)
    for words, says in (
        (one, "never opened unasked; name it with backing="),
        (f"{three},backing={overlays[0]}", "say format=qcow2"),  # never guessed
        (f"{three},backing={overlays[0]},backing-format=qcow2", "never opened unasked"),
        (f"{one},backing=/nowhere/base", "/nowhere/base: No such file"),
        (f"{one},backing={overlays[0]},backing-format=raw", "its own backing file|in use"),
        (f"{raw},backing={qcow2}", "backing=FILE goes with format=qcow2"),
        (f"{raw},format=raw,backing={qcow2}", "backing=FILE goes with format=qcow2"),
        (f"{qcow2},format=qcow2,backing-format=raw", "backing=FILE goes with format=qcow2"),
    ):
        with pytest.raises(Error, match=says) as caught:
            Slots(Attached((words,)))
        assert "\n" not in str(caught.value), words
        assert caught.value.exit_status == 2
    slots.append(Slots(Attached((f"{one},backing={raw}",))))  # none of them is held any more


def test_one_file_is_not_two_disks(raw: str, slots: list[Slots]) -> None:
    """The first, which was opened, is let go of again."""
    with pytest.raises(DiskError, match=r"disk\.raw"):
        Slots(Attached((raw, raw)))
    slots.append(Slots(Attached((raw,))))


@pytest.mark.parametrize(
    ("attached", "says"),
    [
        (Attached(net="bridge"), "--net bridge: user or none"),
        (Attached(net=""), "--net : user or none"),
        (Attached(forwards=("tcp:1:2",)), "--forward tcp:1:2: there is no network without --net"),
        (Attached(shares=("/nowhere",)), "--share /nowhere: no such folder"),
        (Attached(shares=("/dev/null",)), "--share /dev/null: no such folder"),
    ],
    ids=["bridge", "empty", "forward", "missing", "file"],
)
def test_what_else_cannot_be(attached: Attached, says: str) -> None:
    with pytest.raises(BoardError, match=says):
        Slots(attached)


def test_a_forward_is_the_networks(slots: list[Slots]) -> None:
    with pytest.raises(NetError, match="such as tcp:8080:80"):
        Slots(Attached(net="user", forwards=("tcp:80",)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        with pytest.raises(NetError, match="in use"):
            Slots(Attached(net="user", forwards=(f"tcp:{port}:80",)))
    slots.append(Slots(Attached(net="user", forwards=(f"tcp:{port}:80",))))
    with socket.create_connection(("127.0.0.1", port), 10):
        pass
    slots.pop().close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 10)


@given(st.lists(st.text("abroqw=,/.-12459cfesmtnkig\xe9\udcff", max_size=20), max_size=3))
def test_any_words_are_a_disk_or_one_line(words: list[str]) -> None:
    try:
        Slots(Attached(tuple(f"/nowhere{each}" for each in words))).close()
    except Error as error:
        assert "\n" not in str(error)
        assert error.exit_status == 2
    else:
        assert words == []


def test_what_is_written_is_the_files(raw: str, slots: list[Slots]) -> None:
    slots.append(Slots(Attached((raw,))))
    assert slots[0].ask("write", 0, bytearray(b"w" * 512)) == 0
    assert slots[0].ask("flush", 0, bytearray()) == 0
    assert Path(raw).read_bytes()[:513] == b"w" * 512 + b"\0"


def test_a_disk_that_is_read_only_is_not_written(raw: str, slots: list[Slots]) -> None:
    slots.append(Slots(Attached((f"{raw},readonly",))))
    assert slots[0].ask("write", 0, bytearray(512)) != 0
    assert Path(raw).read_bytes()[:8] == b"raw disk"


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_apart_the_file_stays_and_a_snapshot_has_what_was_written(
    tmp_path: Path, slots: list[Slots], form: str
) -> None:
    path = tmp_path / "disk"
    storage.create(path, SIZE, form)
    before = path.read_bytes()
    attached = Attached((f"{path},format={form},sector=4096,serial=S",), apart=True)
    slots.append(Slots(attached))
    disk = slots[0].disk()
    assert (disk.sector, disk.serial, disk.readonly) == (4096, "S", False)
    assert slots[0].ask("write", 8192, bytearray(b"w" * 4096)) == 0
    assert slots[0].ask("flush", 0, bytearray()) == 0
    saved = slots[0].kept["disk0"].save()
    slots.pop().close()
    assert path.read_bytes() == before
    slots.append(Slots(attached))
    assert slots[0].disk().read(8192, 2) == b"\0\0"
    slots[0].kept["disk0"].load(saved)
    assert slots[0].disk().read(8191, 4098) == b"\0" + b"w" * 4096 + b"\0"


def test_of_a_disk_that_is_read_only_nothing_is_kept(
    raw: str, qcow2: str, slots: list[Slots]
) -> None:
    """Disks are kept by their number among all, so that they find theirs again."""
    words = (f"{raw},readonly", f"{qcow2},format=qcow2")
    slots.append(Slots(Attached(words, apart=True)))
    assert list(slots[0].kept) == ["disk1"]
    assert slots[0].disk(0).readonly


def test_without_workers_a_request_is_done_when_it_is_made(raw: str, slots: list[Slots]) -> None:
    slots.append(Slots(Attached((raw,), workers=0)))
    queue, answers = slots[0].queue(), list[int]()
    queue.submit([storage.Request("read", 0, [memoryview(bytearray(8))], 8, answers.append)])
    assert answers == [0]


def test_what_is_closed(raw: str) -> None:
    made = Slots(Attached((raw,), "user"))
    queue = made.queue()
    made.close()
    with pytest.raises(ValueError, match="closed"):
        queue.submit([])
    Slots(Attached((raw,))).close()  # nobody has it any more


# The command's own words.
@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """Machines that the command would have run."""
    found: list[Options] = []

    def run(options: Options) -> int:
        found.append(options)
        return 0

    monkeypatch.setattr("hartwood.tools.boot.boot", run)
    return found


def test_the_command_hands_the_words_over(asked: list[Options]) -> None:
    words = ["--disk", "a,readonly", "--disk", "b", "--net", "user", "--forward", "tcp:1:2"]
    assert cli.main(["boot", *words, "--share", "/tmp", "--engine", "jit"]) == 0
    assert asked[0].attached == Attached(("a,readonly", "b"), "user", ("tcp:1:2",), ("/tmp",))
    assert asked[0].engine == "jit"


@pytest.mark.parametrize(
    ("words", "apart", "workers"),
    [
        ([], False, 4),
        (["--deterministic"], False, 0),
        (["--save-snapshot", "f"], True, 4),
        (["--load-snapshot", "f", "--deterministic"], True, 0),
    ],
    ids=["plain", "deterministic", "save", "both"],
)
def test_snapshots_and_determinism_want_more(
    asked: list[Options], words: list[str], apart: bool, workers: int
) -> None:
    assert cli.main(["boot", *words]) == 0
    assert (asked[0].attached.apart, asked[0].attached.workers) == (apart, workers)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--disk", "/nowhere/disk"], "/nowhere/disk"),
        (["--disk", "/dev/null,sector=7"], "--disk /dev/null,sector=7: FILE[,format="),
        (["--net", "tap"], "--net tap"),
        (["--share", "/nowhere"], "--share /nowhere"),
        (["--engine", "fast"], "there is no engine fast"),
        (["--deterministic", "--net", "user"], "--deterministic --net user: packets come when"),
        (
            [word for _ in range(9) for word in ("--share", "/")],
            "there are more devices than slots",
        ),
    ],
    ids=["disk", "words", "net", "share", "engine", "deterministic", "slots"],
)
def test_errors_are_a_line_and_status_2(
    capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert cli.main(["boot", "--kernel", "/dev/null", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"hartwood: {says}")
    assert shown.err.count("\n") == 1
