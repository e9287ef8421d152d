"""Two live workers in lockstep: one benchmark, one set of inputs, one processor, turn by turn.

What a noisy machine does to one arm it does to the other a few milliseconds later; `verdict.trial`
makes an estimate of that. Processes differ by themselves, too (where their memory happens to lie),
so trials come from several pairs of them.
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
    """A base and a head worker with the same seed. Use it as a context manager."""

    def __init__(self, base: Arm, head: Arm, seed: int, patience: float = 60.0) -> None:
        self.seed = seed
        self.arms = base, head
        self._random = random.Random(seed)
        self._cpus = sorted(os.sched_getaffinity(0))
        with contextlib.ExitStack() as stack:
            # Whoever starts first gets the better memory now and then.
            order = [base, head]
            self._random.shuffle(order)
            started = {arm.label: stack.enter_context(arm.start(seed, patience)) for arm in order}
            self.base, self.head = started[base.label], started[head.label]
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

    @property
    def workers(self) -> tuple[Worker, Worker]:
        """Both, base first."""
        return self.base, self.head

    @contextlib.contextmanager
    def prepared(self, entry: Entry, sample: float = SAMPLE) -> Iterator[Lockstep]:
        """The benchmark set up in both workers, answers checked, ready for trials.

        Raises `Skip` where neither can run it, else `LabError`: one that head skips and base does
        not is a benchmark that got lost.
        """
        skips = []
        for worker in self.workers:
            try:
                worker.prepare(entry.name, self.seed)
            except Skip as reason:
                skips.append(f"{worker.label}: {reason}")
        try:
            if len(skips) == 2:
                raise Skip(skips[1].partition(": ")[2])
            if skips:
                raise LabError(f"{entry.name}: only one revision can run it; skipped in {skips[0]}")
            self.pin(self._cpus if entry.clock == "wall" else [self._random.choice(self._cpus)])
            # The same number of calls in both arms, or the loop around them would not cancel.
            loops = min(worker.calibrate(entry.name, sample) for worker in self.workers)
            yield Lockstep(self, entry, loops)
        finally:
            for worker in self.workers:
                with contextlib.suppress(LabError):
                    worker.release(entry.name)

    def pin(self, cpus: Sequence[int]) -> None:
        """Keep both workers on these processors."""
        for worker in self.workers:
            worker.pin(cpus)

    def shuffled(self) -> list[int]:
        """0 and 1 in random order."""
        return self._random.sample((0, 1), 2)

    def processor(self) -> int:
        """One of those that are ours, at random."""
        return self._random.choice(self._cpus)


@dataclass
class Lockstep:
    """A benchmark that is prepared in both workers of a pair."""

    pair: Pair
    entry: Entry
    loops: int

    def rounds(self, count: int = ROUNDS) -> list[tuple[Sample, Sample]]:
        """So many adjacent samples (base, head), each round in random order, answers checked."""
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
            done.append((samples[0], samples[1]))
        for worker in workers:
            worker.check(name)
        return done

    def times(self, rounds: Sequence[tuple[Sample, Sample]]) -> list[tuple[float, float]]:
        """Seconds a call, by the clock that judges this benchmark.

        Raises `LabError` for what cannot be: faster than plausible, or far too long for lockstep.
        """
        cpu = self.entry.clock == "cpu"
        pairs = [
            (_time(base, cpu) / self.loops, _time(head, cpu) / self.loops) for base, head in rounds
        ]
        fastest = min(min(pair) for pair in pairs)
        if why := self.entry.implausible(fastest):
            raise LabError(f"{self.entry.name}: {why}")
        if fastest * self.loops > TOO_LONG:
            raise LabError(
                f"{self.entry.name}: a call takes {fastest:.2g} s, too long for the gate: mark it "
                "gate=False, why=..."
            )
        return pairs

    def trial(self, count: int = ROUNDS) -> float:
        """One trial: the log ratio of head's time to base's."""
        return trial(self.times(self.rounds(count)))


def _time(sample: Sample, cpu: bool) -> float:
    return sample.cpu if cpu else sample.wall
