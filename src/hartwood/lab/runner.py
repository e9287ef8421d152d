"""`bench run`: warm up until steady, sample, classify; one worker process after the other.

The numbers describe one tree on one machine at one time. Whether a change made something slower is
the gate's question, because no threshold on these numbers answers it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from hartwood.lab.machine import describe, revision
from hartwood.lab.results import Benchmark, Run, Warmup, now
from hartwood.lab.steady import drifted, is_steady, outliers
from hartwood.lab.worker import Entry, Sample, Worker, WorkerLost
from hartwood.lab.workload import LabError, Skip, select


@dataclass(frozen=True)
class Mode:
    """How long to look: `warmup` and `measurement` are seconds a benchmark and at most that;
    `settle` ends the warm-up when it is steady. `processes` share the samples: what differs from
    process to process (layout, hash seed) is then part of the spread. A sample is the median of
    `parts` timings one after the other, since a preemption spoils one of them and not all."""

    name: str
    samples: int
    warmup: float
    measurement: float
    processes: int = 1
    settle: bool = True
    parts: int = 5


MODES = {
    mode.name: mode
    for mode in (
        Mode("quick", 40, 0.25, 0.5),
        Mode("full", 100, 3.0, 5.0, processes=2),
        Mode("classic", 200, 5.0, 10.0, settle=False),
    )
}
#: Samples that even a benchmark gets whose single call takes longer than it should.
FEWEST = 5
#: Seconds of one measurement while warming up.
_STEP = 0.005
#: Times the seconds of a phase that it may take where calls are long.
_PATIENCE = 2.0

#: Called with what goes on: (benchmarks done, of how many, name, phase).
Progress = Callable[[int, int, str, str], None]


def _silent(done: int, total: int, name: str, phase: str) -> None:
    """Nobody watches."""


@dataclass
class Series:
    """What one process measured of one benchmark."""

    warmup: Warmup
    samples: list[Sample]
    counters: dict[str, int]


def measure(worker: Worker, entry: Entry, mode: Mode, seed: int) -> Series:
    """Warm up and sample one benchmark in a worker. Raises `Skip`, `LabError`."""
    first = worker.prepare(entry.name, seed)
    begin = time.monotonic()
    loops = worker.calibrate(entry.name, _STEP)
    times: list[float] = []
    steady = False
    while (passed := time.monotonic() - begin) < mode.warmup or not times:
        sample = worker.sample(entry.name, loops)
        times.append((sample.cpu if entry.clock == "cpu" else sample.wall) / loops)
        steady = is_steady(times)
        if steady and mode.settle and passed >= mode.warmup / 5:
            break
    warmup = Warmup(time.monotonic() - begin, len(times), first, steady)
    share = max(FEWEST, mode.samples // mode.processes)
    budget = mode.measurement / mode.processes
    loops = worker.calibrate(entry.name, budget / share / mode.parts)
    # Where one call is longer than a part should be, it is all there is of a sample.
    parts = mode.parts if loops > 1 else 1
    samples: list[Sample] = []
    give_up = time.monotonic() + _PATIENCE * budget
    while len(samples) < share and (len(samples) < FEWEST or time.monotonic() < give_up):
        samples.append(middle([worker.sample(entry.name, loops) for _ in range(parts)]))
    worker.check(entry.name)
    counters = worker.sample(entry.name, 1).counters
    worker.release(entry.name)
    return Series(warmup, samples, counters)


def middle(parts: Sequence[Sample]) -> Sample:
    """The median of some timings of as many loops on each clock; what disturbed them adds up."""
    if len(parts) == 1:
        return parts[0]
    return Sample(
        parts[0].loops,
        median(part.wall for part in parts),
        median(part.cpu for part in parts),
        parts[0].counters,
        sum(part.switches for part in parts),
        sum(part.steal for part in parts),
        sum(part.collections for part in parts),
    )


def summarise(entry: Entry, series: Sequence[Series]) -> Benchmark:
    """The benchmark of a run from what its processes measured."""
    samples = [sample for part in series for sample in part.samples]
    # A sample below the clock's resolution has taken one tick of it, not nothing.
    wall = [max(sample.wall, 1e-9) / sample.loops for sample in samples]
    cpu = [max(sample.cpu, 1e-9) / sample.loops for sample in samples]
    warmup = replace(
        series[0].warmup,
        seconds=sum(part.warmup.seconds for part in series),
        samples=sum(part.warmup.samples for part in series),
        steady=all(part.warmup.steady and not _drifted(entry, part) for part in series),
    )
    found = Benchmark(
        name=entry.name, family=entry.family, group=entry.group, component=entry.component,
        unit=entry.unit, per_call=entry.per_call, clock=entry.clock, loops=samples[0].loops,
        wall=wall, cpu=cpu, counters=series[0].counters, warmup=warmup, outliers=outliers(samples),
    )  # fmt: skip
    if implausible := entry.implausible(min(wall)):
        return failed(entry, implausible)
    return found


def _drifted(entry: Entry, part: Series) -> bool:
    clock = entry.clock
    return drifted([(s.cpu if clock == "cpu" else s.wall) / s.loops for s in part.samples])


def failed(entry: Entry, reason: str, status: str = "failed") -> Benchmark:
    """The benchmark of a run that has no samples, and why."""
    return Benchmark(
        name=entry.name, family=entry.family, group=entry.group, component=entry.component,
        unit=entry.unit, per_call=entry.per_call, clock=entry.clock, status=status, reason=reason,
    )  # fmt: skip


class _Workers:
    """One worker at a time, replaced when it is lost."""

    def __init__(self, start: Callable[[int], Worker]) -> None:
        self._start = start
        self._worker: Worker | None = None
        self._number = -1

    def get(self, number: int) -> Worker:
        """The worker of process `number`: the same as before where it lives and is that one."""
        if self._worker is None or number != self._number:
            self.drop()
            self._worker, self._number = self._start(number), number
        return self._worker

    def drop(self) -> None:
        """End it."""
        if self._worker is not None:
            self._worker.quit()
            self._worker = None


def run(
    selectors: Sequence[str] = (),
    *,
    mode: Mode = MODES["quick"],
    seed: int = 1,
    files: Sequence[Path] = (),
    paths: Sequence[Path] = (),
    cwd: Path | None = None,
    peers: bool = False,
    progress: Progress = _silent,
    starter: Callable[..., Worker] = Worker,
) -> Run:
    """Run what the selectors mean, ours or those in `files`, and give everything that was found.

    A benchmark that fails, or whose worker dies, is "failed" with its reason and the next one goes
    on. Raises `LabError` where nothing can be run at all.
    """

    def start(number: int) -> Worker:
        # The hash seed decides how sets and dictionaries are laid out.
        return starter(
            files=files, own=not files, paths=paths, cwd=cwd, hash_seed=seed * 100 + number
        )

    workers = _Workers(start)
    series: dict[str, list[Series]] = {}
    lost: dict[str, Benchmark] = {}
    try:
        worker = workers.get(0)
        entries = chosen(worker.list(), selectors, peers)
        broken = worker.broken
        steps = mode.processes * len(entries)
        for number in range(mode.processes):
            for index, entry in enumerate(entries):
                progress(number * len(entries) + index, steps, entry.name, mode.name)
                if entry.name in lost:
                    continue
                try:
                    part = measure(workers.get(number), entry, mode, seed)
                    series.setdefault(entry.name, []).append(part)
                except Skip as reason:
                    lost[entry.name] = failed(entry, str(reason) or "no reason", "skipped")
                except LabError as error:
                    lost[entry.name] = failed(entry, str(error))
                    if isinstance(error, WorkerLost):
                        workers.drop()
        progress(steps, steps, "", mode.name)
    finally:
        workers.drop()
    found = [lost.get(e.name) or summarise(e, series[e.name]) for e in entries]
    if not selectors:
        found += [
            Benchmark(name=name, family=name, status="failed", reason=f"cannot be loaded: {why}")
            for name, why in sorted(broken.items())
        ]
    return Run(
        created=now(),
        revision=revision(cwd or _home(files)),
        machine=describe(),
        settings={
            "mode": mode.name, "samples": mode.samples, "warmup": mode.warmup,
            "measurement": mode.measurement, "processes": mode.processes, "parts": mode.parts,
            "seed": seed,
            "select": " ".join(selectors), "peers": peers,
        },
        benchmarks=found,
    )  # fmt: skip


def chosen(entries: Sequence[Entry], selectors: Sequence[str], peers: bool) -> list[Entry]:
    """What to run: peers only with `peers`, or where one is called by its name."""
    found = select(entries, selectors)
    return [e for e in found if peers or not e.peer or e.name in selectors] or found


def _home(files: Sequence[Path]) -> Path:
    return files[0].resolve().parent if files else Path(__file__).parent
