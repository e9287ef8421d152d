"""Runs one command and tells its cost: wall seconds, CPU seconds and memory of its whole tree."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PR_SET_CHILD_SUBREAPER = 36
LINGER = 20.0  # seconds that what a program left behind may take to end by itself


class Sample(NamedTuple):
    """The cost of one run: `wall` until the program ended, `cpu` (user and system) of its tree."""

    wall: float
    cpu: float
    status: int
    out: bytes
    err: bytes
    peak: int = 0  # bytes, proportional set size of the tree; 0 where it was not sampled


def become_reaper(yes: bool = True) -> None:
    """Let orphans of what we start become our children, so that their CPU time is counted."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def measure(
    command: list[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float = 600,
    memory: bool = False,
) -> Sample:
    """Run `command` and wait for all it started. `become_reaper` must have been called.

    With `memory` the tree's memory is sampled every 20 ms, which costs some of the other core.
    Raises `TimeoutError`.
    """
    before = _children_seconds()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with tempfile.TemporaryFile() as given:
            given.write(stdin.encode())
            given.seek(0)
            begin = time.perf_counter()
            pid = os.posix_spawnp(
                command[0],
                command,
                {**os.environ, **(env or {})},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, given.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, out.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, err.fileno(), 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE],
            )
        status, peak = _await(pid, begin + timeout, memory)
        wall = time.perf_counter() - begin
        _reap_the_rest()
        cpu = _children_seconds() - before
        out.seek(0)
        err.seek(0)
        return Sample(wall, cpu, status, out.read(), err.read(), peak)


def _await(pid: int, deadline: float, memory: bool) -> tuple[int, int]:
    peak = 0
    if not memory:
        old = signal.signal(signal.SIGALRM, lambda *_: os.killpg(pid, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, deadline - time.perf_counter())
        try:
            _, code = os.waitpid(pid, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        if time.perf_counter() > deadline:
            raise TimeoutError
        return os.waitstatus_to_exitcode(code), 0
    while time.perf_counter() < deadline:
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(code), peak
        # All that is below us: what the program orphaned has become our own child.
        peak = max(peak, sum(_pss(each) for each in _below(os.getpid())))
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError


def _reap_the_rest() -> None:
    deadline = time.monotonic() + LINGER
    with suppress(ChildProcessError):
        while True:
            done, _ = os.waitpid(-1, os.WNOHANG)
            if not done:
                if time.monotonic() > deadline:
                    for child in _children(os.getpid()):
                        with suppress(ProcessLookupError):
                            os.kill(child, signal.SIGKILL)
                time.sleep(0.002)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _children(pid: int) -> Iterator[int]:
    """Direct children, by every process's parent: not all kernels list them by task."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid:
                    yield int(entry.name)


def _below(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _below(child)


def _pss(pid: int) -> int:
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
