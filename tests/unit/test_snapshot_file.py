"""Snapshots as files: what is written, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import struct
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hartwood.dev.device import Device, state
from hartwood.errors import Error
from hartwood.machine.bare import Machine
from hartwood.machine.snapshot import Snapshot, SnapshotError
from hartwood.mem.hostmem import PAGE
from hartwood.mem.versions import VersionError

RAM, SIZE, DEVICE = 0x8000_0000, 64 * PAGE, 0x1000_0000
HEAD = struct.Struct("<16sIIQ")


@dataclass
class Box(Device):
    """A device of state only."""

    compatible: ClassVar[str] = "test,box"
    size: ClassVar[int] = 0x1000
    node: ClassVar[str] = "box"
    number: int = state(5, most=255)
    queue: bytearray = field(default_factory=lambda: bytearray(b"\0\xff"), metadata={"most": 64})
    words: list[int] = field(default_factory=lambda: [1, 1 << 63], metadata={"most": (1 << 64) - 1})


def new(regions: bool = True) -> Machine:
    machine = Machine("riscv64", deterministic=True)
    if regions:
        machine.mem.map(RAM, SIZE)
        machine.mem.map(0x1000, PAGE)
    machine.mem.attach(DEVICE, Box())
    return machine


@pytest.fixture(scope="module")
def cpu() -> Iterator[Machine]:
    machine = new()
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def data(cpu: Machine, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A snapshot's file."""
    cpu.a0, cpu.pc, cpu.mepc = 77, RAM, 0x8000_0004
    cpu.mem[RAM : RAM + 4] = b"code"
    cpu.mem[RAM + 9 * PAGE : RAM + 11 * PAGE] = b"x" * 2 * PAGE
    cpu.mem[0x1000:0x1001] = b"y"
    path = tmp_path_factory.mktemp("snapshot") / "one"
    cpu.snapshot().save(path)
    return path.read_bytes()


def state_of(machine: Machine) -> object:
    memory = [bytes(machine.mem[each.at : each.at + each.size]) for each in machine.bus.ram.regions]
    devices = [device.save() for device in machine.mem.devices.values()]  # type: ignore[attr-defined]
    return machine.save_hart(), memory, devices, machine.status


def sealed(data: bytes) -> bytes:
    """The file with the checksum that it should have."""
    return data[:-32] + blake2b(data[:-32], digest_size=32).digest()


def rewritten(data: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    """The file with other metadata, sealed."""
    magic, version, zero, length = HEAD.unpack_from(data)
    metadata = json.loads(data[HEAD.size : HEAD.size + length])
    changed = change(metadata)
    text = changed if isinstance(changed, bytes) else json.dumps(metadata).encode()
    rest = data[HEAD.size + length :]
    return sealed(HEAD.pack(magic, version, zero, len(text)) + text + rest)


def refused(machine: Machine, path: Path, data: bytes, match: str = ".") -> None:
    path.write_bytes(data)
    before = state_of(machine)
    with pytest.raises(Error, match=match) as caught:
        machine.restore(path)
    assert "\n" not in str(caught.value)
    assert state_of(machine) == before


def test_there_and_back_by_a_file(cpu: Machine, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(data)
    wanted = state_of(cpu)
    other = new()
    box = other.mem.devices[DEVICE]
    assert isinstance(box, Box)
    box.number, box.queue = 9, bytearray()
    other.restore(str(path))
    found = state_of(other)
    assert isinstance(found, tuple)
    assert isinstance(wanted, tuple)
    assert found[:3] == wanted[:3]
    assert other.status == "paused"
    assert (other.a0, other.mepc, other.pc) == (77, 0x8000_0004, RAM)
    other.snapshot().save(path)
    assert path.read_bytes() == data
    other.close()


def test_a_machine_without_memory_takes_the_snapshots(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(data)
    other = new(regions=False)
    other.restore(path)
    assert bytes(other.mem[RAM : RAM + 4]) == b"code"
    assert bytes(other.mem[0x1000:0x1001]) == b"y"
    other.close()


def test_what_a_file_weighs(cpu: Machine, data: bytes) -> None:
    """Four pages that are not zero, in three pieces, and less than a page of everything else."""
    assert cpu.snapshot().size == len(data)
    assert 4 * PAGE < len(data) < 5 * PAGE
    assert data.count(b"x" * PAGE) == 1 or b"x" * 2 * PAGE in data


def test_pieces_are_bounded(tmp_path: Path) -> None:
    machine = Machine("riscv64")
    machine.mem.map(RAM, 8 << 20)
    machine.mem[RAM : RAM + (8 << 20)] = b"abcdefgh" * (1 << 20)
    machine.snapshot().save(tmp_path / "large")
    assert (tmp_path / "large").stat().st_size > 8 << 20
    machine.mem[RAM : RAM + (8 << 20)] = bytes(8 << 20)
    machine.restore(tmp_path / "large")
    assert bytes(machine.mem[RAM + (8 << 20) - 8 : RAM + (8 << 20)]) == b"abcdefgh"
    machine.close()


# Each byte of a file counts.
@given(st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_refused(
    data: bytes, cpu: Machine, tmp_path: Path, draw: st.DataObject
) -> None:
    kind = draw.draw(st.sampled_from(["flip", "cut", "more", "zero", "swap"]))
    at = draw.draw(st.integers(0, len(data) - 1) | st.integers(0, 300))
    bad = bytearray(data)
    if kind == "flip":
        bad[at] ^= draw.draw(st.integers(1, 255))
    elif kind == "cut":
        del bad[at:]
    elif kind == "more":
        bad[at:at] = draw.draw(st.binary(min_size=1, max_size=40))
    elif kind == "zero":
        bad[at : at + 8] = bytes(len(bad[at : at + 8]))
    else:
        bad[at : at + 64], bad[100:164] = bad[100:164], bad[at : at + 64]
    if bytes(bad) != data:
        refused(cpu, tmp_path / "bad", bytes(bad))


# The same with a checksum that is right: what is left is either a snapshot, or refused.
@given(st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_forged_file_is_refused_or_believed_whole(
    data: bytes, tmp_path: Path, draw: st.DataObject
) -> None:
    machine = new()
    bad = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(data) - 33) | st.integers(0, 4000))
        at = min(at, len(bad) - 1)
        new_byte = draw.draw(
            st.sampled_from(list(b'0123456789,:"[]{}\0\xff')) | st.integers(0, 255)
        )
        bad[at] = new_byte
    path, before = tmp_path / "forged", state_of(machine)
    path.write_bytes(sealed(bytes(bad)))
    try:
        machine.restore(path)
    except Error:
        assert state_of(machine) == before
    else:
        machine.run(instructions=200)
    machine.close()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=5)
    | st.sampled_from([0.5, 1 << 64, {"bytes": "AA=="}, {"bytearray": "AA=="}, {"bytes": "?"}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)  # fmt: skip


@given(st.data(), VALUES)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_in_the_metadata(
    data: bytes, tmp_path: Path, draw: st.DataObject, value: object
) -> None:
    def change(metadata: dict[str, object]) -> None:
        place: object = metadata
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))  # type: ignore[arg-type]
            key = draw.draw(st.sampled_from(keys))
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or draw.draw(st.booleans()):
                place[key] = value
                return
            place = inner

    machine = new()
    before = state_of(machine)
    path = tmp_path / "value"
    path.write_bytes(rewritten(data, change))
    try:
        machine.restore(path)
    except Error:
        assert state_of(machine) == before
    else:
        machine.run(instructions=200)
        machine.snapshot()
    machine.close()


def _set(*keys: object, value: object) -> Callable[[dict[str, object]], None]:
    def change(metadata: dict[str, object]) -> None:
        place: object = metadata
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("keys", "value", "match"),
    [
        (("machine",), "vax", "another machine"),
        (("machine",), "", "machine cannot be"),
        (("machine",), 7, "machine cannot be"),
        (("pages",), 0, "pages cannot be"),
        (("pages",), 1 << 60, "pages cannot be"),
        (("pages",), True, "pages cannot be"),
        (("pages",), 65, "cannot be|not there|amount of memory"),
        (("regions",), [[RAM, SIZE + 1, 0, False]], "regions cannot be"),
        (("regions",), [[RAM, 0, 0, False]], "regions cannot be"),
        (("regions",), [[-PAGE, PAGE, 0, False]], "regions cannot be"),
        (("regions",), [[RAM, SIZE]], "regions cannot be"),
        (("regions",), [[RAM, SIZE, 8, False]], "regions cannot be"),
        (("regions",), [[RAM, SIZE, -PAGE, False]], "regions cannot be"),
        (("regions",), [[RAM, SIZE, 0, 1]], "regions cannot be"),
        (("regions",), [[RAM, 1 << 50, 0, False]], "larger than its memory"),
        (("regions",), [[RAM, SIZE + PAGE, 0, False]] * 9, "another memory"),
        (("regions",), [[RAM, SIZE, 0, False]], "pages that are not there"),
        (("regions",), [[RAM, SIZE, 0, False], [0x3000, PAGE, SIZE, False]], "another memory"),
        (("harts",), [], "harts cannot be"),
        (("harts",), [5], "harts cannot be"),
        (("devices",), {"10000000": 5}, "devices cannot be"),
        (("devices",), {}, "another set of devices"),
        (("devices", "10000000", "number"), "5", "number cannot be"),
        (("devices", "10000000", "bogus"), 5, "bogus"),
        (("devices", "10000000", "queue"), [], "queue cannot be"),
        (("devices", "10000000", "words"), [1], "words cannot be"),
        (("more",), {"bogus": 1}, "bogus"),
        (("more",), [], "more cannot be"),
        (("bogus",), 1, "other fields"),
        (("harts", 0, "mhartid"), 1, "another number"),
        (("harts", 0, "pc"), RAM + 1, "odd pc"),
        (("harts", 0, "pc"), 1 << 64, "bad pc"),
        (("harts", 0, "mode"), 2, "mode"),
        (("harts", 0, "mepc"), 1, "bad mepc"),
        (("harts", 0, "mstatus"), (1 << 64) - 1, "bad mstatus"),
        (("harts", 0, "satp"), 5 << 60, "bad satp"),
        (("harts", 0, "lines"), 1, "lines"),
        (("harts", 0, "medeleg"), 1 << 11, "bad medeleg"),
        (("harts", 0, "mtvec"), 3, "bad mtvec"),
        (("harts", 0, "fcsr"), 256, "fcsr"),
        (("harts", 0, "x"), [1] * 32, "x0"),
        (("harts", 0, "x"), [0] * 31, "bad x"),
    ],
)
def test_values_that_cannot_be(
    keys: tuple[object, ...], value: object, match: str, cpu: Machine, data: bytes, tmp_path: Path
) -> None:
    refused(cpu, tmp_path / "bad", rewritten(data, _set(*keys, value=value)), match)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"7", b"{", b"\xff", b"NaN", b'{"a":1,"a":1}', b"[" * 100_000,
        b'{"a":' + b"9" * 5000 + b"}", b'{"bytes":"AA==","b":1}', b'{"bytes":1}', b"{}",
    ],
    ids=range(12),
)  # fmt: skip
def test_metadata_that_is_none(text: bytes, cpu: Machine, data: bytes, tmp_path: Path) -> None:
    refused(cpu, tmp_path / "bad", rewritten(data, lambda _: text), "damaged")


def test_foreign_files(cpu: Machine, data: bytes, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    refused(cpu, bad, b"", "no snapshot")
    refused(cpu, bad, b"\x7fELF" + bytes(4000), "no snapshot")
    refused(cpu, bad, sealed(data[:16] + b"\x01" + data[17:]), "version 1; this build reads")
    refused(cpu, bad, sealed(data[:20] + b"\x01" + data[21:]), "version")
    refused(cpu, bad, sealed(data[:24] + bytes(7) + b"\x01" + data[32:]), "too long")
    refused(cpu, bad, data + b"x", "checksum")
    refused(cpu, bad, data[:-1], "cut short")
    before = state_of(cpu)
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(SnapshotError, match=str(path)):
            cpu.restore(path)
    assert state_of(cpu) == before


@pytest.mark.parametrize(
    ("number", "count"),
    [(64, 1), (60, 6), (1 << 63, 1), (0, 0), (0, 1 << 60), (3, 257), (65, 0)],
)
def test_pieces_that_cannot_be(
    number: int, count: int, cpu: Machine, data: bytes, tmp_path: Path
) -> None:
    length = HEAD.unpack_from(data)[3]
    at = HEAD.size + length
    bad = data[:at] + struct.pack("<QQ", number, count) + data[at + 16 :]
    refused(cpu, tmp_path / "bad", sealed(bad), "pages that are not there|cut short|checksum")


def test_pieces_come_in_order(cpu: Machine, data: bytes, tmp_path: Path) -> None:
    length = HEAD.unpack_from(data)[3]
    at = HEAD.size + length
    one = data[at : at + 16 + PAGE]
    refused(cpu, tmp_path / "bad", sealed(data[:at] + one + data[at:]), "not there")


def test_a_failing_disk_leaves_the_old_file(
    cpu: Machine, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SnapshotError, match=r"kept: .*No space left"):
        cpu.snapshot().save(path)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    monkeypatch.undo()
    cpu.snapshot().save(path)
    assert path.read_bytes() == data
    with pytest.raises(SnapshotError, match="cannot write"):
        cpu.snapshot().save(tmp_path / "no" / "where")


def test_a_host_without_room_refuses_to_load(
    cpu: Machine, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one"
    path.write_bytes(data)
    before = state_of(cpu)

    def full(fd: int, parts: object, at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(SnapshotError, match="no room"):
        cpu.restore(path)
    assert state_of(cpu) == before


def test_a_refusal_by_memory_takes_back_what_was_restored(
    cpu: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = cpu.snapshot()
    cpu.a1, cpu.mem[RAM + 100 : RAM + 101] = 55, b"z"
    box = cpu.mem.devices[DEVICE]
    assert isinstance(box, Box)
    box.number = 6
    before = state_of(cpu)

    def refuse(version: object) -> None:
        raise VersionError("no")

    monkeypatch.setattr(cpu.bus.ram, "restore", refuse)
    with pytest.raises(VersionError):
        cpu.restore(early)
    assert state_of(cpu) == before
    monkeypatch.undo()
    cpu.restore(early)
    assert (cpu.a1, box.number) == (0, 5)


@pytest.mark.parametrize("value", [{"bytes": 1}, {1: 2}, 0.5, object()])
def test_states_that_no_file_holds(cpu: Machine, value: object, tmp_path: Path) -> None:
    odd = dataclasses.replace(cpu.snapshot(), more={"it": value})
    with pytest.raises(SnapshotError, match="cannot be kept"):
        odd.save(tmp_path / "odd")
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_says_little_of_itself(cpu: Machine) -> None:
    assert len(repr(cpu.snapshot())) < 200


def test_bytes_are_what_they_were(cpu: Machine, tmp_path: Path) -> None:
    state: dict[str, object] = {
        "a": b"\0\xff",
        "b": bytearray(b"x"),
        "c": [{"d": None, "e": True}],
        "f": "\u2028",
    }
    kept = dataclasses.replace(cpu.snapshot(), more=state)
    kept.save(tmp_path / "one")
    more = Snapshot.load(tmp_path / "one").more
    assert more == state
    assert type(more["b"]) is bytearray
    assert b64encode(b"\0\xff").decode() == "AP8="


class Overlay:
    """What lies behind a device: bytes, of which some are refused."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def save(self) -> bytes:
        return self.data

    def load(self, data: bytes) -> None:
        if data.startswith(b"bad"):
            raise SnapshotError("refused")
        self.data = data


def test_what_lies_behind_a_device_goes_back_too(tmp_path: Path) -> None:
    machine, disk = new(), Overlay(b"one")
    machine.kept["disk"] = disk
    one = machine.snapshot()
    one.save(tmp_path / "one")
    for source in (one, tmp_path / "one"):
        disk.data = b"two"
        machine.restore(source)
        assert disk.data == b"one"
    for data in (b"bad", 5):
        odd: dict[str, dict[str, object]] = {**one.devices, "kept disk": {"data": data}}
        disk.data, machine.a0 = b"two", 9
        with pytest.raises(SnapshotError, match=r"refused|disk cannot be"):
            machine.restore(dataclasses.replace(one, devices=odd))
        assert (disk.data, machine.a0) == (b"two", 9)
    other = new()
    with pytest.raises(SnapshotError, match="another set of devices"):
        other.restore(one)
    for each in (machine, other):
        each.close()


@dataclass
class Busy(Box):
    """A device with something under way, and one that looks at memory."""

    ram: object = field(default=None, kw_only=True, metadata={"host": True}, compare=False)
    seen: list[bytes] = field(
        default_factory=list, kw_only=True, metadata={"host": True}, compare=False
    )

    def quiesce(self) -> None:
        self.seen.append(b"quiet")

    def settle(self) -> None:
        if self.ram is not None:
            self.seen.append(self.ram.read(RAM, 3))  # type: ignore[attr-defined]


def test_devices_are_quiet_first_and_see_the_memory_that_was() -> None:
    machine = Machine("riscv64")
    machine.mem.map(RAM, SIZE)
    busy = Busy(ram=machine.bus.ram)
    machine.mem.attach(DEVICE, busy)
    machine.mem[RAM : RAM + 3] = b"old"
    old = machine.snapshot()
    assert busy.seen == [b"quiet"]
    machine.mem[RAM : RAM + 3] = b"new"
    machine.restore(old)
    assert busy.seen[1] == b"quiet"
    assert busy.seen[-1] == b"old"
    machine.close()
