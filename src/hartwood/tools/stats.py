"""The counters of `--stats FILE`."""

from __future__ import annotations

import json
import resource
import time

from hartwood.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.process import Process


class StatsError(Error):
    """The counters cannot be written; the text names the file and why."""


def collect(process: Process, started: float) -> dict[str, object]:
    """Counters of a finished process that `time.perf_counter()` saw begin at `started`.

    Times are in seconds and include the compile worker's only in `compile_seconds`; user-mode
    memory has no TLB and no devices, so those counters are zero.
    """
    used = resources(process.machine.stats(), started)
    own = resource.getrusage(resource.RUSAGE_SELF)
    assert isinstance(used["seconds"], float)
    return {
        **used,
        "tlb_hits": 0,
        "tlb_misses": 0,
        "device_seconds": 0.0,
        "idle_seconds": max(0.0, used["seconds"] - own.ru_utime - own.ru_stime),
        "unknown_calls": process.calls.unknown,
    }


def resources(counters: dict[str, object], started: float) -> dict[str, object]:
    """`counters` and what this process and its children took since `time.perf_counter()` was
    `started`."""
    seconds = time.perf_counter() - started
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    instructions = counters["instructions"]
    assert isinstance(instructions, int | float)
    return {
        **counters,
        "seconds": seconds,
        "cpu_seconds": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "mips": instructions / seconds / 1e6,
        "peak_rss_bytes": 1024 * max(own.ru_maxrss, children.ru_maxrss),
    }


def write(path: str, process: Process, started: float) -> None:
    """Write the counters to `path` as one JSON object. Raises `StatsError`."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(collect(process, started), file, indent=2)
            file.write("\n")
    except OSError as reason:
        raise StatsError(f"cannot write --stats {path}: {reason.strerror}") from None
