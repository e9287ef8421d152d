"""`bench selftest`: the gate measured on itself, with identical code and with planted slowdowns.

A suite is what a gate would run: seven blocks of four trials of every benchmark, each block in
fresh processes. It may have more arms than a gate: all take turns on one processor, and each two of
them are a comparison. So ten arms give 45 comparisons for five times the time of one; arms that are
further apart in time than a gate's two are a little noisier, never quieter, and comparisons that
share an arm are not independent. `evidence` has what is recorded and what it says.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hartwood.lab import planting
from hartwood.lab.attribution import attribute
from hartwood.lab.checkout import Tree, import_of
from hartwood.lab.evidence import BLOCK, FIRST, SECOND, UNIT, Record, append, sides
from hartwood.lab.gate import Settings
from hartwood.lab.lockstep import Arm, Pair
from hartwood.lab.machine import revision
from hartwood.lab.results import now
from hartwood.lab.rivals import blockers
from hartwood.lab.verdict import estimate, trial
from hartwood.lab.worker import Entry
from hartwood.lab.workload import LabError, Skip, select

#: Benchmarks that one set of processes runs, before what it found is on disk.
PORTION = 8
Progress = Callable[[int, int, str, str], None]


@dataclass(frozen=True)
class Scope:
    """How much to measure: `suites` with `arms` of identical code and one more for each of the
    planted `shares`; `swaps` attributions a component; `noise` processes that disturb meanwhile."""

    suites: int = 1
    arms: int = 2
    shares: tuple[float, ...] = ()
    noise: int = 0
    swaps: int = 0

    def __post_init__(self) -> None:
        if min(self.suites, self.noise, self.swaps) < 0:
            raise LabError("--suites, --noise and --swaps are 0 or more")
        if not all(0 < share < 10 for share in self.shares):
            raise LabError("--plant takes per cent above 0 and below 1000")
        if (self.suites and not 2 <= self.arms + len(self.shares) <= 32) or self.arms < 1:
            raise LabError("a suite has 2 to 32 arms, and one of them at least is not planted")
        if self.swaps and not self.shares:
            raise LabError("--swaps wants something planted: --plant 5")


@contextlib.contextmanager
def disturbed(count: int, seed: int) -> Iterator[None]:
    """So many processes that compute in bursts and sleep in between."""
    code = (
        "import random, sys, time\nr = random.Random(int(sys.argv[1]))\n"
        "while True:\n    end = time.monotonic() + r.uniform(.01, .3)\n"
        "    while time.monotonic() < end: sum(range(1000))\n    time.sleep(r.uniform(.01, .3))\n"
    )
    started = []
    try:
        for at in range(count):
            words = [sys.executable, "-c", code, str(seed + at)]
            started.append(subprocess.Popen(words, stdin=subprocess.DEVNULL))
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


class Field:
    """A ground to plant on: folders of shares, and arms of one checkout that read them."""

    def __init__(self, folder: Path, tree: Tree, files: tuple[Path, ...], own: bool) -> None:
        self.folder, self.tree, self.files, self.own = folder, tree, files, own

    def arm(self, label: str, shares: dict[str, float], note: str = "") -> Arm:
        """An arm with these shares planted, by component; `note` makes its files differ."""
        place = self.folder / label
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        table = ["[tool.hartwood.components]"]
        for component, share in shares.items():
            module = planting.module_of(component)
            (place / f"{module}.py").write_text(f"SHARE = {share!r}{note}\n")
            table.append(f"{json.dumps(component)} = [{json.dumps(module + '.py')}]")
        (place / "pyproject.toml").write_text("\n".join(table) + "\n")
        plant = place / "planting.py"
        shutil.copyfile(planting.__file__, plant)
        tree = Tree(place, self.tree.revision, self.tree.python, (place, *self.tree.paths))
        return Arm(label, tree, (*self.files, plant), own=self.own)

    def entries(self, chosen: Sequence[str]) -> list[Entry]:
        """Benchmarks to test with: those that are named, else the first of each component."""
        arm = Arm("list", self.tree, self.files, own=self.own)
        with arm.start(0, 60.0) as worker:
            fits = [each for each in worker.list() if each.gate and not each.peer]
        if chosen:
            return select(fits, chosen)
        return list({each.component: each for each in reversed(fits)}.values())[::-1]


def measure(
    repository: Path,
    settings: Settings,
    paths: Sequence[str],
    scope: Scope,
    record: Path,
    progress: Progress,
) -> None:
    """Add suites and attributions (at the largest planted share) to the record. Raises
    `LabError`."""
    top = repository.resolve()
    tree = Tree(top, revision(top), Path(sys.executable), import_of(top, paths))
    files = tuple(top / name for name in settings.files)
    source = random.Random(settings.seed)
    with (
        tempfile.TemporaryDirectory(prefix="hartwood-lab-") as folder,
        disturbed(scope.noise, settings.seed),
    ):
        ground = Field(Path(folder), tree, files, own=not files)
        entries = ground.entries(settings.select)
        parts = list(dict.fromkeys(entry.component for entry in entries))
        shares = [0.0] * scope.arms + list(scope.shares)
        arms = [
            ground.arm(f"arm{at}", dict.fromkeys(parts, share)) for at, share in enumerate(shares)
        ]
        for at in range(scope.suites):
            suite = Suite(arms, shares, f"{now()}/{settings.seed}/{at}", scope.noise, settings)
            portions = -(-len(entries) // PORTION)
            for start in range(portions):
                progress(at * portions + start, scope.suites * portions, "", "suite")
                # A part of every family in each, so that one that was broken off has them all.
                append(record, suite.run(entries[start::portions], source))
        for at in range(scope.swaps):
            for each in {entry.component: entry for entry in entries}.values():
                progress(at, scope.swaps, each.component, "swap")
                wanted = {**dict.fromkeys(parts, 0.0), each.component: max(scope.shares)}
                head = ground.arm("head", wanted, "  # rewritten")
                named = _swap(arms[0], head, each, source, settings)
                line = Record(
                    "swap", f"{now()}/{settings.seed}/{at}", each.name, each.component,
                    max(scope.shares), scope.noise, named=named,
                )  # fmt: skip
                append(record, [line])


@dataclass(frozen=True)
class Suite:
    """Arms that take turns; `shares` is what is planted in each."""

    arms: Sequence[Arm]
    shares: Sequence[float]
    session: str
    noise: int
    settings: Settings

    def run(self, entries: Sequence[Entry], source: random.Random) -> list[Record]:
        """Seven blocks of every benchmark, whatever stage one would have said."""
        base, head, *more = self.arms
        # By benchmark: blocks of trials of rounds of a time for each arm.
        times: dict[str, list[list[list[tuple[float, ...]]]]] = defaultdict(list)
        for _ in range(FIRST + SECOND):
            seed = source.getrandbits(31)
            with Pair(base, head, seed, self.settings.patience, more) as pair:
                for entry in entries:
                    with contextlib.suppress(Skip), pair.prepared(entry) as lockstep:
                        times[entry.name].append(
                            [
                                lockstep.times(lockstep.rounds(self.settings.rounds))
                                for _ in range(BLOCK)
                            ]
                        )
        known = {entry.name: entry for entry in entries}
        return [line for name, found in times.items() for line in self._lines(known[name], found)]

    def _lines(self, entry: Entry, blocks: list[list[list[tuple[float, ...]]]]) -> Iterator[Record]:
        trials = [each for block in blocks for each in block]
        yield Record(
            "crowd", self.session, entry.name, entry.component, noise=self.noise,
            shares=list(self.shares),
            logs=[
                [round(trial([(row[a], row[b]) for row in each]) / UNIT) for each in trials]
                for a, b in sides(self.shares)
            ],
        )  # fmt: skip
        # Other tools' rules on pairs that share no arm, and on each planted one.
        same = self.shares.count(0)
        pairs = [(at, at + 1) for at in range(0, same - 1, 2)]
        for a, b in [*pairs, *((0, at) for at in range(same, len(self.shares)))]:
            # The same data twice: arms that take turns, and one after the other as tools take them.
            early = [row for block in blocks[:3] for each in block for row in each]
            late = [row for block in blocks[-3:] for each in block for row in each]
            yield Record(
                "suite", self.session, entry.name, entry.component, self.shares[b], self.noise,
                blocked=blockers([row[a] for row in early], [row[b] for row in early]),
                apart=blockers([row[a] for row in early], [row[b] for row in late]),
            )  # fmt: skip


def _swap(base: Arm, head: Arm, entry: Entry, source: random.Random, settings: Settings) -> str:
    """The component that the gate's attribution names for a planted benchmark."""
    trials: list[float] = []
    for _ in range(SECOND):
        pair = Pair(base, head, source.getrandbits(31), settings.patience)
        with pair, pair.prepared(entry) as lockstep:
            trials += [lockstep.trial(settings.rounds) for _ in range(BLOCK)]
    found = attribute(
        base, head, [entry], {entry.name: estimate(trials)[0]}, seed=source.getrandbits(31),
        rounds=settings.rounds, trials=settings.rules.first, patience=settings.patience,
    )  # fmt: skip
    return found[entry.name].name
