"""The queue of a disk: what is merged, what waits for what, what each request is told."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.storage.hostfile import IOV_MAX
from hartwood.storage.queue import MERGE_BYTES, Queue, Request

SECTOR = 512


class Memory:
    """A disk in memory that writes down its calls and fails where it is told to."""

    def __init__(self, size: int = 1 << 16, bad: Sequence[int] = ()) -> None:
        self.data = bytearray(size)
        self.bad = set(bad)
        self.log: list[tuple[str, int, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()

    def _enter(self, kind: str, at: int, size: int) -> None:
        with self.lock:
            self.log.append((kind, at, size))
        if any(at <= bad < at + size for bad in self.bad):
            raise OSError(errno.EIO, "a bad sector")

    def readv(self, at: int, buffers: Sequence[memoryview]) -> None:
        self._enter("read", at, sum(map(len, buffers)))
        for buffer in buffers:
            buffer[:] = self.data[at : at + len(buffer)]
            at += len(buffer)

    def writev(self, at: int, buffers: Sequence[memoryview]) -> None:
        assert self.gate.wait(60)
        self._enter("write", at, sum(map(len, buffers)))
        for buffer in buffers:
            self.data[at : at + len(buffer)] = buffer
            at += len(buffer)

    def flush(self) -> None:
        self._enter("flush", 0, 0)

    def discard(self, at: int, size: int) -> None:
        self._enter("discard", at, size)

    def zero(self, at: int, size: int, may_unmap: bool = False) -> None:
        self._enter("unmap" if may_unmap else "zero", at, size)
        self.data[at : at + size] = bytes(size)


class Answers:
    """What the requests were told, by name."""

    def __init__(self) -> None:
        self.all: dict[object, list[int]] = {}
        self.order: list[object] = []

    def of(self, name: object):
        def done(number: int) -> None:
            self.all.setdefault(name, []).append(number)
            self.order.append(name)

        return done


def write(at: int, data: bytes, done=lambda _: None) -> Request:
    return Request("write", at, [memoryview(data)], len(data), done)


def read(at: int, into: bytearray, done=lambda _: None) -> Request:
    return Request("read", at, [memoryview(into)], len(into), done)


def test_neighbours_of_one_batch_are_one_call() -> None:
    disk, told = Memory(), Answers()
    queue = Queue(disk, workers=0)
    data = [bytes([n]) * SECTOR for n in range(8)]
    queue.submit(write(n * SECTOR, data[n], told.of(n)) for n in (3, 1, 0, 2, 7, 5, 6))
    assert disk.log == [("write", 0, 4 * SECTOR), ("write", 5 * SECTOR, 3 * SECTOR)]
    assert disk.data[: 4 * SECTOR] == b"".join(data[:4])
    assert told.all == {n: [0] for n in (0, 1, 2, 3, 5, 6, 7)}
    assert queue.requests["write"] == 7
    assert queue.calls["write"] == 2


def test_without_batching_each_is_a_call_in_order() -> None:
    disk = Memory()
    queue = Queue(disk, workers=0, batching=False)
    queue.submit(write(at, b"x" * SECTOR) for at in (512, 0, 1024))
    assert [at for _, at, _ in disk.log] == [512, 0, 1024]
    assert queue.calls["write"] == 3


def test_kinds_and_holes_are_not_merged() -> None:
    disk, into = Memory(), bytearray(SECTOR)
    queue = Queue(disk, workers=0)
    queue.submit(
        [
            write(0, bytes(SECTOR)),
            read(SECTOR, into),
            write(2 * SECTOR, bytes(SECTOR)),
            Request("discard", 4 * SECTOR, [], SECTOR, lambda _: None),
            Request("discard", 5 * SECTOR, [], SECTOR, lambda _: None),
            Request("zero", 6 * SECTOR, [], SECTOR, lambda _: None),
            Request("zero", 7 * SECTOR, [], SECTOR, lambda _: None, may_unmap=True),
        ]
    )
    assert sorted(disk.log) == [
        ("discard", 4 * SECTOR, SECTOR),
        ("discard", 5 * SECTOR, SECTOR),
        ("read", SECTOR, SECTOR),
        ("unmap", 7 * SECTOR, SECTOR),
        ("write", 0, SECTOR),
        ("write", 2 * SECTOR, SECTOR),
        ("zero", 6 * SECTOR, SECTOR),
    ]


def test_a_merged_call_keeps_to_the_kernels_limits() -> None:
    disk = Memory(4 * MERGE_BYTES)
    queue = Queue(disk, workers=0)
    half = bytes(MERGE_BYTES // 2)
    queue.submit(write(n * len(half), half) for n in range(5))
    assert [size for _, _, size in disk.log] == [MERGE_BYTES, MERGE_BYTES, MERGE_BYTES // 2]
    disk.log.clear()
    queue.submit(write(n, b"x") for n in range(2 * IOV_MAX + 1))
    assert [size for _, _, size in disk.log] == [IOV_MAX, IOV_MAX, 1]


def test_a_size_that_is_not_its_buffers_puts_no_byte_elsewhere() -> None:
    disk = Memory()
    queue = Queue(disk, workers=0)
    queue.submit(
        [
            Request("write", 0, [memoryview(b"a" * 100)], 512, lambda _: None),
            Request("write", 512, [memoryview(b"b" * 512)], 512, lambda _: None),
        ]
    )
    assert disk.data[512:1024] == b"b" * 512


def test_only_the_request_on_the_bad_sector_fails() -> None:
    disk, told = Memory(bad=[2 * SECTOR + 5]), Answers()
    queue = Queue(disk, workers=0)
    queue.submit(write(n * SECTOR, bytes([n + 1]) * SECTOR, told.of(n)) for n in range(4))
    assert told.all == {0: [0], 1: [0], 2: [errno.EIO], 3: [0]}
    assert [disk.data[n * SECTOR] for n in range(4)] == [1, 2, 0, 4]
    assert queue.calls["write"] == 5


def test_a_flush_waits_for_what_was_submitted_before_and_for_nothing_else() -> None:
    disk, told = Memory(), Answers()
    queue = Queue(disk, workers=3)
    disk.gate.clear()
    queue.submit([write(0, b"a" * SECTOR, told.of("before"))])
    flushed, read_too = threading.Event(), threading.Event()

    def flush_done(number: int) -> None:
        told.of("flush")(number)
        flushed.set()

    queue.submit(
        [
            Request("flush", 0, [], 0, flush_done),
            read(SECTOR, bytearray(SECTOR), lambda _: read_too.set()),
        ]
    )
    assert read_too.wait(60)
    assert not flushed.is_set()
    disk.gate.set()
    assert flushed.wait(60)
    queue.close()
    assert [kind for kind, _, _ in disk.log if kind != "read"] == ["write", "flush"]
    assert told.order == ["before", "flush"]


def test_a_flush_of_the_same_batch_comes_after_its_writes() -> None:
    for workers in (0, 1, 4):
        disk = Memory()
        queue = Queue(disk, workers=workers)
        flush = Request("flush", 0, [], 0, lambda _: None)
        for _ in range(20):
            disk.log.clear()
            queue.submit([write(0, b"a"), write(4096, b"b"), flush, write(8192, b"c")])
            queue.drain()
            kinds = [(kind, at) for kind, at, _ in disk.log]
            flushed = kinds.index(("flush", 0))
            assert {("write", 0), ("write", 4096)} <= set(kinds[:flushed])
        queue.close()


def test_a_flush_that_fails_says_so() -> None:
    class Broken(Memory):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "full")

    told = Answers()
    queue = Queue(Broken(), workers=1)
    queue.submit([Request("flush", 0, [], 0, told.of("flush"))])
    queue.close()
    assert told.all == {"flush": [errno.ENOSPC]}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_or_a_format_with_a_bug_stops_nobody(monkeypatch) -> None:
    reports = []
    monkeypatch.setattr(threading, "excepthook", reports.append)

    class Buggy(Memory):
        def discard(self, at: int, size: int) -> None:
            raise ZeroDivisionError

    told = Answers()
    queue = Queue(Buggy(), workers=1)

    def wrong(_: int) -> None:
        raise RuntimeError("mine")

    queue.submit([write(0, b"x", wrong), write(1, b"y", told.of("y"))])
    queue.submit([Request("discard", 0, [], 1, told.of("discard"))])
    queue.close()
    assert told.all == {"y": [0], "discard": [errno.EIO]}
    assert {report.exc_type for report in reports} == {RuntimeError, ZeroDivisionError}


def test_a_closed_queue_takes_nothing() -> None:
    queue = Queue(Memory(), workers=1)
    queue.close()
    queue.close()
    with pytest.raises(ValueError, match="closed"):
        queue.submit([write(0, b"x")])


OPERATIONS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["write", "zero", "flush", "read"]), st.integers(0, 31)),
        max_size=12,
        unique_by=lambda each: each[1],  # what overlaps within a batch is in no order
    ),
    max_size=6,
)


@given(OPERATIONS, st.sampled_from([0, 1, 3]), st.booleans())
def test_it_is_the_disk_that_a_plain_loop_makes(batches, workers: int, batching: bool) -> None:
    disk = Memory(32 * SECTOR)
    queue = Queue(disk, workers=workers, batching=batching)
    model = bytearray(32 * SECTOR)
    told = Answers()
    asked = 0
    for number, batch in enumerate(batches):
        requests, expected = [], []
        for kind, index in batch:
            at, asked = index * SECTOR, asked + 1
            fill = bytes([number + 1, index]) * (SECTOR // 2)
            if kind == "write":
                requests.append(write(at, fill, told.of(asked)))
                model[at : at + SECTOR] = fill
            elif kind == "read":
                into = bytearray(SECTOR)
                expected.append((into, bytes(model[at : at + SECTOR])))
                requests.append(read(at, into, told.of(asked)))
            else:
                size = SECTOR if kind == "zero" else 0
                requests.append(Request(kind, at if size else 0, [], size, told.of(asked)))
                model[at : at + size] = bytes(size)
        queue.submit(requests)
        queue.drain()
        assert all(into == wanted for into, wanted in expected)
    queue.close()
    assert disk.data == model
    assert told.all == {n: [0] for n in range(1, asked + 1)}
    assert sum(queue.requests.values()) == asked
    assert sum(queue.calls.values()) <= asked
