"""`bench run`: warm up until steady, sample, classify; one worker process after the other.

The numbers describe one tree on one machine at one time. Whether a change made something slower is
the gate's question, because no threshold on these numbers answers it.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from hartwood.lab.machine import describe, revision
from hartwood.lab.results import Benchmark, Run, Scalar, Warmup, now
from hartwood.lab.steady import drifted, is_steady, off_pace, outliers
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
        Mode("quick", 40, 0.25, 0.5, parts=10),
        # Timings of 2.5 ms in each: longer ones are hardly ever undisturbed on a busy machine.
        Mode("full", 100, 3.0, 5.0, processes=2, parts=20),
        Mode("classic", 200, 5.0, 10.0, settle=False, parts=20),
    )
}
#: Samples that even a benchmark gets whose single call takes longer than it should.
FEWEST = 5
#: Seconds of one measurement while warming up.
_STEP = 0.005
#: Times that a disturbed timing is taken again.
_AGAIN = 3
#: Timings that the usual pace of the processor is known by.
_PACES = 64
#: Times the seconds of a phase that it may take where calls are long.
_PATIENCE = 3.0

_SETTINGS = ("samples", "warmup", "measurement", "processes", "parts")
_T = TypeVar("_T")

#: Called with what goes on: (benchmarks done, of how many, name, phase).
Progress = Callable[[int, int, str, str], None]


def _silent(done: int, total: int, name: str, phase: str) -> None:
    """Nobody watches."""


@dataclass
class Series:
    """What one process measured of one benchmark; a timing is of `loops` calls, and one call takes
    about `call` seconds of wall time; `retaken` counts timings that were disturbed."""

    warmup: Warmup
    call: float
    loops: int
    retaken: int = 0
    samples: list[Sample] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    #: Of the last timings: the usual pace is the median of these, so that a processor which has
    #: changed its speed for good is believed.
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=_PACES))


def warm_up(worker: Worker, entry: Entry, mode: Mode, seed: int) -> Series:
    """Prepare a benchmark and run it until it is steady. Raises `Skip`, `LabError`."""
    first = worker.prepare(entry.name, seed)
    begin = time.monotonic()
    loops = worker.calibrate(entry.name, _STEP)
    times: list[float] = []
    steady, call = False, 0.0
    while (passed := time.monotonic() - begin) < mode.warmup or not times:
        sample = worker.sample(entry.name, loops)
        times.append((sample.cpu if entry.clock == "cpu" else sample.wall) / loops)
        call = sample.wall / loops
        steady = is_steady(times)
        if steady and mode.settle and passed >= mode.warmup / 5:
            break
    warmup = Warmup(time.monotonic() - begin, len(times), first, steady)
    loops = worker.calibrate(entry.name, mode.measurement / mode.samples / mode.parts)
    return Series(warmup, call, loops)


def finish(worker: Worker, entry: Entry, series: Series) -> None:
    """Check the last answer, count one call's work, and let go. Raises `LabError`."""
    worker.check(entry.name)
    series.counters = worker.sample(entry.name, 1).counters
    worker.release(entry.name)


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
        median(part.pace for part in parts),
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
        retaken=sum(part.retaken for part in series),
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


@dataclass(frozen=True)
class Arm:
    """One tree to measure: its benchmarks (`files`, or ours), import `paths`, working folder."""

    files: Sequence[Path] = ()
    paths: Sequence[Path] = ()
    cwd: Path | None = None


class _Side:
    """An arm while it is measured: one worker at a time, replaced when it is lost."""

    def __init__(self, arm: Arm, seed: int, starter: Callable[..., Worker]) -> None:
        self.arm, self._seed, self._starter = arm, seed, starter
        self._worker: Worker | None = None
        self._number = -1
        self.series: dict[str, list[Series]] = {}
        self.lost: dict[str, Benchmark] = {}
        worker = self.worker(0)
        self.entries = {entry.name: entry for entry in worker.list()}
        self.broken = worker.broken

    def worker(self, number: int) -> Worker:
        """The worker of process `number`: the same as before where it lives and is that one."""
        if self._worker is None or number != self._number:
            self.drop()
            arm = self.arm
            # The hash seed decides how sets and dictionaries are laid out.
            self._worker = self._starter(
                files=arm.files, own=not arm.files, paths=arm.paths, cwd=arm.cwd,
                hash_seed=(self._seed * 100 + number) % (1 << 32),
            )  # fmt: skip
            self._number = number
        return self._worker

    def attempt(self, entry: Entry, act: Callable[..., _T], *arguments: Any) -> _T | None:
        """What `act` gives; None where it fails, and then the benchmark is over here."""
        try:
            return act(*arguments)
        except Skip as reason:
            self.lost[entry.name] = failed(entry, str(reason) or "no reason", "skipped")
        except LabError as error:
            self.lost[entry.name] = failed(entry, str(error))
            if isinstance(error, WorkerLost):
                self.drop()
        return None

    def drop(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.quit()
            self._worker = None

    def benchmarks(self, entries: Sequence[Entry]) -> list[Benchmark]:
        """Everything found out about `entries`, as far as they are here."""
        return [
            self.lost.get(e.name) or summarise(self.entries[e.name], self.series[e.name])
            for e in entries
            if e.name in self.entries
        ]


def _timing(worker: Worker, entry: Entry, series: Series) -> Sample:
    """One timing. Where the processor was taken away meanwhile, or was not as fast as it usually
    is, it says nothing about CPU time, and is taken again, a few times: on a machine where that is
    always so it has to do."""
    sample = worker.sample(entry.name, series.loops)
    for _ in range(_AGAIN if entry.clock == "cpu" else 0):
        usual = median(series.paces) if series.paces else sample.pace
        series.paces.append(sample.pace)
        if not (sample.switches or sample.steal or off_pace(sample.pace, usual)):
            break
        series.retaken += 1
        sample = worker.sample(entry.name, series.loops)
    return sample


def _measure(
    sides: Sequence[_Side], names: Sequence[str], number: int, mode: Mode, seed: int
) -> None:
    """One benchmark, or several that are compared with each other, in one process of each side that
    has it, sample by sample in turn."""
    going: dict[tuple[_Side, str], tuple[Worker, Entry, Series]] = {}
    cpus = sorted(os.sched_getaffinity(0))
    cpu = random.choice(cpus)
    for side, name in product(sides, names):
        entry = side.entries.get(name)
        if entry is None or name in side.lost:
            continue
        worker = side.attempt(entry, side.worker, number)
        if worker and len(sides) > 1:
            # What waits or has threads may go anywhere; else all arms share one processor.
            side.attempt(entry, worker.pin, cpus if entry.clock == "wall" else [cpu])
        series = side.attempt(entry, warm_up, worker, entry, mode, seed) if worker else None
        if worker and series:
            going[side, name] = worker, entry, series
    # As many calls in each: what it costs to find the caches cold is then the same share of them.
    for _, entry, series in going.values():
        same = (other for _, one, other in going.values() if one.name == entry.name)
        series.loops = max(other.loops for other in same)
    loops = min((series.loops for _, _, series in going.values()), default=1)
    # Where one call is longer than a part should be, a sample has as many as it has room for.
    longest = max((series.call for _, _, series in going.values()), default=1.0)
    room = int(mode.measurement / mode.samples / max(longest, 1e-9))
    turns = mode.parts if loops > 1 else min(mode.parts, max(1, room))
    share = max(FEWEST, mode.samples // mode.processes)
    give_up = time.monotonic() + _PATIENCE * mode.measurement / mode.processes * len(going)
    for taken in range(share):
        if taken >= FEWEST and time.monotonic() >= give_up:
            break
        parts: dict[tuple[_Side, str], list[Sample]] = {key: [] for key in going}
        for _ in range(turns):
            # In random order: whoever comes first has the other's leavings in the caches.
            for side, name in random.sample(list(going), len(going)):
                worker, entry, series = going[side, name]
                sample = side.attempt(entry, _timing, worker, entry, series)
                if sample is None:
                    del going[side, name]
                else:
                    parts[side, name].append(sample)
        for key, (_, _, series) in going.items():
            series.samples.append(middle(parts[key]))
    for (side, name), (worker, entry, series) in going.items():
        side.attempt(entry, finish, worker, entry, series)
        side.series.setdefault(name, []).append(series)


def run(
    selectors: Sequence[str] = (),
    *,
    mode: Mode = MODES["quick"],
    seed: int = 1,
    arms: Sequence[Arm] = (Arm(),),
    peers: bool = False,
    progress: Progress = _silent,
    starter: Callable[..., Worker] = Worker,
) -> list[Run]:
    """Run what the selectors mean in each arm, and give what was found, one run an arm. Arms take
    turns timing by timing, so that what the machine does meanwhile is done to all of them.

    A benchmark that fails, or whose worker dies, is "failed" with its reason and the next one goes
    on. Raises `LabError` where nothing can be run at all.
    """
    sides: list[_Side] = []
    try:
        for arm in arms:
            sides.append(_Side(arm, seed, starter))
        everything = {name: entry for side in sides for name, entry in side.entries.items()}
        broken = {name: why for side in sides for name, why in side.broken.items()}
        entries = chosen(list(everything.values()), selectors, peers, broken)
        steps, done = mode.processes * len(entries), 0
        for number in range(mode.processes):
            # Programs that do the same are measured by turns as well.
            for _, some in groupby(entries, key=lambda e: e.group if e.peer else e.name):
                names = [entry.name for entry in some]
                progress(done, steps, names[0], mode.name)
                _measure(sides, names, number, mode, seed)
                done += len(names)
        progress(steps, steps, "", mode.name)
    finally:
        for side in sides:
            side.drop()
    settings: dict[str, Scalar] = {
        **{name: getattr(mode, name) for name in _SETTINGS}, "mode": mode.name, "seed": seed,
        "select": " ".join(selectors), "peers": peers, "arms": len(sides),
    }  # fmt: skip
    made, machine = now(), describe()
    runs = []
    for side in sides:
        found = side.benchmarks(entries)
        if not selectors:
            found += [
                Benchmark(name=name, family=name, status="failed", reason=f"cannot be loaded: {w}")
                for name, w in sorted(side.broken.items())
            ]
        where = revision(side.arm.cwd or _home(side.arm.files))
        runs.append(Run(made, where, machine, settings, found))
    return runs


def chosen(
    entries: Sequence[Entry], selectors: Sequence[str], peers: bool, broken: Mapping[str, str]
) -> list[Entry]:
    """What to run: peers only with `peers`, or where one is called by its name. Raises `LabError`
    where a selector means nothing, and says which families could not be loaded."""
    try:
        found = select(entries, selectors)
    except LabError as error:
        lost = "; ".join(f"{name} cannot be loaded: {why}" for name, why in broken.items())
        raise LabError(f"{error} ({lost})" if lost else str(error)) from None
    return [e for e in found if peers or not e.peer or e.name in selectors] or found


def _home(files: Sequence[Path]) -> Path:
    return files[0].resolve().parent if files else Path(__file__).parent
