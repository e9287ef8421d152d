"""Live workers in lockstep: one benchmark, one set of inputs, one processor, turn by turn.

What a noisy machine does to one arm it does to the other a few milliseconds later; `verdict.trial`
makes an estimate of that. Processes differ by themselves, too (where their memory happens to lie),
so trials come from several pairs of them. The self-test has more than two take turns.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from hartwood.lab.checkout import Tree
from hartwood.lab.verdict import trial
from hartwood.lab.worker import SERVE, Entry, Sample, Worker
from hartwood.lab.workload import LabError, Skip

ROUNDS = 40
#: Seconds that one sample should take: long against a clock's tick, short against a time slice.
SAMPLE = 2e-3
#: A sample above this is no lockstep: the machine changes its mind in between.
TOO_LONG = 0.1


@dataclass(frozen=True)
class Arm:
    """How to start a worker for one side: a checkout and the benchmarks to load in it."""

    label: str
    tree: Tree
    files: tuple[Path, ...] = ()
    own: bool = True
    serve: Path = SERVE
    #: Words before the command, variables of its environment.
    prefix: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, seed: int, patience: float) -> Worker:
        """A live worker. Raises `LabError`."""
        return Worker(
            self.tree.python, paths=self.tree.paths, files=self.files, own=self.own,
            cwd=self.tree.path, serve=self.serve, collect=False, prefix=self.prefix,
            environment=self.environment, patience=patience, label=self.label,
            # The same order of sets and dictionaries in both arms, another in the next pair.
            hash_seed=seed % (1 << 32),
        )  # fmt: skip


class Pair:
    """A base and a head worker with the same seed, and one for each of `more` arms. Use it as a
    context manager."""

    def __init__(
        self, base: Arm, head: Arm, seed: int, patience: float = 60.0, more: Sequence[Arm] = ()
    ) -> None:
        self.seed = seed
        self.arms = base, head, *more
        self._random = random.Random(seed)
        self._cpus = sorted(os.sched_getaffinity(0))
        with contextlib.ExitStack() as stack:
            # Whoever starts first gets the better memory now and then.
            started = {
                at: stack.enter_context(self.arms[at].start(seed, patience))
                for at in self.shuffled()
            }
            #: All workers, the base's and the head's first.
            self.workers = tuple(started[at] for at in range(len(self.arms)))
            self._stack = stack.pop_all()

    def __enter__(self) -> Pair:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def prepared(self, entry: Entry, sample: float = SAMPLE) -> Iterator[Lockstep]:
        """The benchmark set up in all workers, answers checked, ready for trials.

        Raises `Skip` where none can run it, else `LabError`: one that head skips and base does
        not is a benchmark that got lost.
        """
        skips = []
        for worker in self.workers:
            try:
                worker.prepare(entry.name, self.seed)
            except Skip as reason:
                skips.append(f"{worker.label}: {reason}")
        try:
            if len(skips) == len(self.workers):
                raise Skip(skips[1].partition(": ")[2])
            if skips:
                raise LabError(f"{entry.name}: only one revision can run it; skipped in {skips[0]}")
            self.pin(self._cpus if entry.clock == "wall" else [self._random.choice(self._cpus)])
            # The same number of calls in all arms, or the loop around them would not cancel.
            loops = min(worker.calibrate(entry.name, sample) for worker in self.workers)
            yield Lockstep(self, entry, loops)
        finally:
            for worker in self.workers:
                with contextlib.suppress(LabError):
                    worker.release(entry.name)

    def pin(self, cpus: Sequence[int]) -> None:
        """Keep all workers on these processors."""
        for worker in self.workers:
            worker.pin(cpus)

    def shuffled(self) -> list[int]:
        """The places of the arms in random order."""
        return self._random.sample(range(len(self.arms)), len(self.arms))

    def processor(self) -> int:
        """One of those that are ours, at random."""
        return self._random.choice(self._cpus)


@dataclass
class Lockstep:
    """A benchmark that is prepared in the workers of a pair."""

    pair: Pair
    entry: Entry
    loops: int

    def rounds(self, count: int = ROUNDS) -> list[tuple[Sample, ...]]:
        """So many rounds of adjacent samples (base, head and so on), each in random order, answers
        checked."""
        if self.entry.clock == "cpu":
            self.pair.pin([self.pair.processor()])
        workers, name = self.pair.workers, self.entry.name
        for worker in workers:  # the move to another processor has emptied the caches
            worker.sample(name, self.loops)
        done = []
        for _ in range(count):
            samples: dict[int, Sample] = {}
            for arm in self.pair.shuffled():
                samples[arm] = workers[arm].sample(name, self.loops)
            done.append(tuple(samples[at] for at in range(len(workers))))
        for worker in workers:
            worker.check(name)
        return done

    def times(self, rounds: Sequence[tuple[Sample, ...]]) -> list[tuple[float, ...]]:
        """Seconds a call, by the clock that judges this benchmark.

        Raises `LabError` for what cannot be: faster than plausible, or far too long for lockstep.
        """
        cpu = self.entry.clock == "cpu"
        times = [tuple(_time(each, cpu) / self.loops for each in samples) for samples in rounds]
        fastest = min(map(min, times))
        if why := self.entry.implausible(fastest):
            raise LabError(f"{self.entry.name}: {why}")
        if fastest * self.loops > TOO_LONG:
            raise LabError(
                f"{self.entry.name}: a call takes {fastest:.2g} s, too long for the gate: mark it "
                "gate=False, why=..."
            )
        return times

    def trial(self, count: int = ROUNDS) -> float:
        """One trial: the log ratio of head's time to base's."""
        return trial([(times[0], times[1]) for times in self.times(self.rounds(count))])


def _time(sample: Sample, cpu: bool) -> float:
    return sample.cpu if cpu else sample.wall
