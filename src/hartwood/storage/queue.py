"""Asynchronous requests to a disk: what comes together goes to the kernel together.

A device hands over a batch, the queue merges neighbours into vectored calls, threads make the
calls, and each request's `done` hears how it went.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from queue import SimpleQueue
from typing import Literal, Protocol

from hartwood.storage.hostfile import IOV_MAX

#: Bytes that one merged call moves at most.
MERGE_BYTES = 1 << 20
Kind = Literal["read", "write", "flush", "discard", "zero"]


class Disk(Protocol):
    """What a queue needs of a disk; every `Image` is one."""

    def readv(self, at: int, buffers: Sequence[memoryview]) -> None: ...  # noqa: D102
    def writev(self, at: int, buffers: Sequence[memoryview]) -> None: ...  # noqa: D102
    def flush(self) -> None: ...  # noqa: D102
    def discard(self, at: int, size: int) -> None: ...  # noqa: D102
    def zero(self, at: int, size: int, may_unmap: bool = False) -> None: ...  # noqa: D102


@dataclass(slots=True)
class Request:
    """One thing to do with `size` bytes from byte `at`; reads and writes use `buffers`.

    `done` is called once with an errno, 0 for success, on any thread.
    """

    kind: Kind
    at: int
    buffers: list[memoryview]
    size: int
    done: Callable[[int], None]
    #: For "zero": the room may be given back.
    may_unmap: bool = False


@dataclass(slots=True, eq=False)
class _Job:
    """Requests that are one call, and the flushes that wait for it."""

    requests: list[Request]
    buffers: int
    end: int
    awaited: int = 0
    waiting: list[_Job] = field(default_factory=list)

    @classmethod
    def of(cls, request: Request) -> _Job:
        """A call for one request; it ends where its buffers do, whatever its size says."""
        size = sum(buffer.nbytes for buffer in request.buffers)
        return cls([request], len(request.buffers), request.at + size)

    @property
    def first(self) -> Request:
        return self.requests[0]

    def takes(self, other: _Job) -> bool:
        """Make `other` part of this call, if it begins where this one ends; whether it did."""
        if (
            other.first.kind != self.first.kind
            or self.first.kind not in ("read", "write")
            or other.first.at != self.end
            or self.buffers + other.buffers > IOV_MAX
            or other.end - self.first.at > MERGE_BYTES
        ):
            return False
        self.requests += other.requests
        self.buffers += other.buffers
        self.end = other.end
        return True


class Queue:
    """Requests to `disk`, done by `workers` threads; with `workers=0`, before `submit` returns.

    `batching=False` makes one call of each request. `requests` and `calls` count, by kind, what was
    asked for and the calls that were made for it. Requests that are under way at once may happen in
    any order, except that a flush comes after every write, discard and zero submitted before it.
    """

    def __init__(self, disk: Disk, workers: int = 2, batching: bool = True) -> None:
        self.disk, self.batching = disk, batching
        self.requests: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._pending = 0
        self._changing: set[_Job] = set()
        self._ready: SimpleQueue[_Job | None] = SimpleQueue()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"disk-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, requests: Iterable[Request]) -> None:
        """Take a batch; its `done` callbacks may run before this returns."""
        batch = list(requests)
        jobs = list(_merged(batch)) if self.batching else [_Job.of(each) for each in batch]
        ready = []
        with self._lock:
            if self._closed:
                raise ValueError("the queue is closed")
            self.requests.update(each.kind for each in batch)
            self._pending += len(jobs)
            for job in jobs:
                kind = job.first.kind
                if kind == "flush":
                    job.awaited = len(self._changing)
                    for change in self._changing:
                        change.waiting.append(job)
                elif kind != "read":
                    self._changing.add(job)
                if not job.awaited:
                    ready.append(job)
        for job in ready:
            if self._threads:
                self._ready.put(job)
            else:
                self._run(job)

    def drain(self) -> None:
        """Wait until every request submitted so far is done."""
        with self._lock:
            self._idle.wait_for(lambda: not self._pending)

    def close(self) -> None:
        """Drain, and end the threads; the disk stays open. Not from a `done` callback."""
        self.drain()
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _work(self) -> None:
        while job := self._ready.get():
            self._run(job)

    def _run(self, job: _Job) -> None:
        number = self._call(job.first.kind, job.requests)
        answers = [number] * len(job.requests)
        if number and len(answers) > 1:  # the others must not suffer for one bad sector
            answers = [self._call(each.kind, [each]) for each in job.requests]
        with self._lock:
            self._changing.discard(job)
            released = []
            for flush in job.waiting:
                flush.awaited -= 1
                if not flush.awaited:
                    released.append(flush)
        for request, answer in zip(job.requests, answers, strict=True):
            try:
                request.done(answer)
            except Exception as error:  # the caller's fault; the other requests go on
                _report(error)
        for flush in released:
            if self._threads:
                self._ready.put(flush)
            else:
                self._run(flush)
        with self._lock:
            self._pending -= 1
            if not self._pending:
                self._idle.notify_all()

    def _call(self, kind: Kind, requests: list[Request]) -> int:
        """One call to the disk for all of `requests`; the errno."""
        with self._lock:
            self.calls[kind] += 1
        first = requests[0]
        buffers = [buffer for each in requests for buffer in each.buffers]
        try:
            if kind == "read":
                self.disk.readv(first.at, buffers)
            elif kind == "write":
                self.disk.writev(first.at, buffers)
            elif kind == "flush":
                self.disk.flush()
            elif kind == "discard":
                self.disk.discard(first.at, first.size)
            else:
                self.disk.zero(first.at, first.size, first.may_unmap)
        except OSError as error:
            return error.errno or errno.EIO
        except Exception as error:  # a bug in a format must not leave the guest waiting for ever
            _report(error)
            return errno.EIO
        return 0


def _report(error: Exception) -> None:
    """Say what is a bug, as threads do, and go on."""
    threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))


def _merged(batch: list[Request]) -> Iterator[_Job]:
    """The jobs of a batch: between flushes, each kind in the order of addresses."""
    for _, group in groupby(batch, key=lambda each: each.kind == "flush"):
        # The sort is stable: writes to the same place keep their order.
        ordered = sorted(group, key=lambda each: (each.kind, each.at))
        job: _Job | None = None
        for each in map(_Job.of, ordered):
            if job is None or not job.takes(each):
                if job is not None:
                    yield job
                job = each
        if job is not None:
            yield job
