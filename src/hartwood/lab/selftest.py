"""`bench selftest`: the gate measured on itself, with identical code and with planted slowdowns.

Trials are recorded, and what is recorded adds up over runs. Rates come from whole suites drawn from
the record: for each benchmark two blocks of trials for stage one and five for stage two, with
replacement (a block is what one pair of processes gave, so that what differs between processes is
kept), judged by the same code as a gate. Drawn suites are not independent of each other, so beside
their rate stands what the suites as they were recorded said.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hartwood.lab import planting
from hartwood.lab.attribution import attribute
from hartwood.lab.checkout import Tree, import_of
from hartwood.lab.gate import Settings
from hartwood.lab.lockstep import Arm, Pair
from hartwood.lab.machine import revision
from hartwood.lab.results import _want, decode, now, parse_json
from hartwood.lab.rivals import RULES, blockers
from hartwood.lab.verdict import Rules, detectable, estimate, judge, trial, wants_second
from hartwood.lab.worker import Entry
from hartwood.lab.workload import LabError, select

BLOCK = 4  # trials of one pair of processes
FIRST, SECOND = 2, 5  # blocks of either stage
#: Suites of identical code that may be blocked, of those that were drawn.
TOLERATED = 0.01
KINDS = ("block", "suite", "swap")
Progress = Callable[[int, int, str, str], None]


@dataclass
class Record:
    """One line of what is recorded. `planted` is the share of slowdown in the head (0: identical).

    A `block` has the `trials` of one benchmark in one pair of processes; a `suite` line closes one
    benchmark of one suite: who would have `blocked` on adjacent samples, and who on samples taken
    one arm after the other (`apart`); a `swap` says which component was `named`.
    """

    kind: str
    session: str
    name: str
    component: str = ""
    planted: float = 0.0
    noise: int = 0
    trials: list[float] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)
    named: str = ""

    def _validate(self) -> None:
        _want(self.kind in KINDS, f"kind {self.kind[:20]!r} is none of {', '.join(KINDS)}")
        _want(0 <= self.planted < 10 and self.noise >= 0, "planted or noise is out of range")
        _want(self.kind != "block" or len(self.trials) == BLOCK, f"a block is {BLOCK} trials")


def load(path: Path) -> list[Record]:
    """What was recorded so far. Raises `LabError` for a line that is damaged."""
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise LabError(f"{path}: cannot be read: {error}") from None
    return [
        decode(Record, parse_json(line, f"{path}:{at}"), f"{path}:{at}")
        for at, line in enumerate(lines, 1)
        if line.strip()
    ]


def append(path: Path, records: Sequence[Record]) -> None:
    """Add lines, all or none that can be seen later. Raises `LabError`."""
    text = "".join(
        json.dumps({key: value for key, value in asdict(record).items() if value}) + "\n"
        for record in records
    )
    try:
        with path.open("ab") as file:
            size = file.tell()
            try:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, size)
                raise
    except OSError as error:
        raise LabError(f"{path}: cannot be written: {error.strerror}") from None


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
    suites: int,
    shares: Sequence[float],
    noise: int,
    swaps: int,
    record: Path,
    progress: Progress,
) -> None:
    """Add suites of identical code, one suite for each planted share, and `swaps` attributions for
    each component (at the largest share) to the record. Raises `LabError`."""
    if suites < 0 or noise < 0 or swaps < 0 or not all(0 < share < 10 for share in shares):
        raise LabError("--aa, --noise and --swaps are 0 or more, --plant per cent above 0")
    if swaps and not shares:
        raise LabError("--swaps wants something planted: --plant 5")
    top = repository.resolve()
    tree = Tree(top, revision(top), Path(sys.executable), import_of(top, paths))
    files = tuple(top / name for name in settings.files)
    source = random.Random(settings.seed)
    with (
        tempfile.TemporaryDirectory(prefix="hartwood-lab-") as folder,
        disturbed(noise, settings.seed),
    ):
        ground = Field(Path(folder), tree, files, own=not files)
        entries = ground.entries(settings.select)
        parts = list(dict.fromkeys(entry.component for entry in entries))
        base = ground.arm("base", dict.fromkeys(parts, 0.0))
        plans = [0.0] * suites + list(shares)
        for at, share in enumerate(plans):
            head = ground.arm("head", dict.fromkeys(parts, share))
            session = f"{now()}/{settings.seed}/{at}"
            progress(at, len(plans), f"{share:.0%}", "suite")
            found = _suite(base, head, entries, source, settings, session, share, noise)
            append(record, found)
        for at in range(swaps):
            for each in {entry.component: entry for entry in entries}.values():
                progress(at, swaps, each.component, "swap")
                wanted = {**dict.fromkeys(parts, 0.0), each.component: max(shares)}
                head = ground.arm("head", wanted, "  # rewritten")
                named = _swap(base, head, each, source, settings)
                line = Record(
                    "swap", f"{now()}/{settings.seed}/{at}", each.name, each.component,
                    max(shares), noise, named=named,
                )  # fmt: skip
                append(record, [line])


def _suite(
    base: Arm,
    head: Arm,
    entries: Sequence[Entry],
    source: random.Random,
    settings: Settings,
    session: str,
    share: float,
    noise: int,
) -> list[Record]:
    """One suite: seven blocks of every benchmark, whatever stage one would have said."""
    made: list[Record] = []
    samples: dict[str, list[list[tuple[float, float]]]] = defaultdict(list)
    for _ in range(FIRST + SECOND):
        with Pair(base, head, source.getrandbits(31), settings.patience) as pair:
            for entry in entries:
                with pair.prepared(entry) as lockstep:
                    rounds = [
                        lockstep.times(lockstep.rounds(settings.rounds)) for _ in range(BLOCK)
                    ]
                samples[entry.name].append([both for each in rounds for both in each])
                trials = [round(trial(each), 6) for each in rounds]
                made.append(
                    Record("block", session, entry.name, entry.component, share, noise, trials)
                )
    for entry in entries:
        blocks = samples[entry.name]
        # The same data twice: arms next to each other, and one after the other as tools take them.
        adjacent = [both for block in blocks[:3] for both in block]
        early = [base for block in blocks[:3] for base, _ in block]
        late = [head for block in blocks[-3:] for _, head in block]
        blocked = blockers([a for a, _ in adjacent], [b for _, b in adjacent])
        made.append(
            Record(
                "suite", session, entry.name, entry.component, share, noise,
                blocked=blocked, apart=blockers(early, late),
            )
        )  # fmt: skip
    return made


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


@dataclass
class Rate:
    """So many of so many; `worst` is the lowest rate of a single benchmark."""

    hits: int = 0
    of: int = 0
    worst: float = 0.0

    def __str__(self) -> str:
        return f"{self.hits} of {self.of}" + (f" ({self.hits / self.of:.1%})" if self.of else "")


@dataclass
class Figures:
    """What the record says. `false_drawn` and `false_seen` are suites of identical code that were
    blocked, of those drawn and of those recorded; `power` is by planted share, in benchmarks."""

    benchmarks: int
    comparisons: int
    trials: int
    false_drawn: Rate
    false_seen: Rate
    power: dict[str, Rate]
    power_seen: dict[str, Rate]
    named: Rate
    mde: dict[str, float]
    rivals: dict[str, dict[str, list[float]]]
    armed: bool
    why: str

    def as_json(self) -> dict[str, object]:
        """As JSON takes it."""
        return {"schema": "hartwood-lab-selftest/1", **asdict(self)}

    def lines(self) -> Iterator[str]:
        """As a person reads it."""
        yield (
            f"recorded\t{self.trials} trials, {self.comparisons} comparisons of "
            f"{self.benchmarks} benchmarks"
        )
        yield f"A/A suites blocked, drawn\t{self.false_drawn}"
        yield f"A/A suites blocked, as recorded\t{self.false_seen}"
        for share, rate in self.power.items():
            seen = self.power_seen.get(share, Rate())
            yield f"planted +{share} blocked, drawn\t{rate}, worst benchmark {rate.worst:.1%}"
            yield f"planted +{share} blocked, as recorded\t{seen}"
        yield f"named component right\t{self.named}"
        if self.mde:
            low, high = min(self.mde.values()), max(self.mde.values())
            yield f"minimum detectable effect\t{low:.1%} to {high:.1%}"
        for tool, rates in self.rivals.items():
            cells = [f"+{share}: {a:.0%} / {b:.0%}" for share, (a, b) in rates.items()]
            yield f"{tool}, adjacent / one after the other\t{', '.join(cells)}"


def figures(records: Sequence[Record], rules: Rules, resamples: int, seed: int) -> Figures:
    """Rates from what was recorded; see the module's text for how suites are drawn."""
    blocks: dict[float, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    suites: dict[tuple[float, str], dict[str, list[float]]] = defaultdict(dict)
    for record in records:
        if record.kind == "block":
            blocks[record.planted][record.name].append(record.trials)
            suites[record.planted, record.session].setdefault(record.name, []).extend(record.trials)
    source = random.Random(seed)
    drawn: dict[float, dict[str, Rate]] = {}
    false_drawn, false_seen = Rate(), Rate()
    for share, pool in blocks.items():
        drawn[share] = {name: Rate() for name in pool}
        for _ in range(resamples):
            slow = _blocked(
                {name: _draw(each, source, rules) for name, each in pool.items()}, rules
            )
            for name in pool:
                drawn[share][name].of += 1
                drawn[share][name].hits += name in slow
            if not share:
                false_drawn.of += 1
                false_drawn.hits += bool(slow)
    seen: dict[float, Rate] = defaultdict(Rate)
    for (share, _), found in suites.items():
        stages = {}
        for name, trials in found.items():
            first, rest = trials[: FIRST * BLOCK], trials[FIRST * BLOCK :]
            stages[name] = (first, rest if wants_second(first, rules) else [])
        slow = _blocked(stages, rules)
        if share:
            seen[share].of += len(found)
            seen[share].hits += len(slow)
        else:
            false_seen.of += 1
            false_seen.hits += bool(slow)
    power = {}
    for share in sorted(each for each in drawn if each):
        rates = list(drawn[share].values())
        total = Rate(sum(r.hits for r in rates), sum(r.of for r in rates))
        total.worst = min(r.hits / r.of for r in rates if r.of) if total.of else 0.0
        power[f"{share:.0%}"] = total
    swaps = [record for record in records if record.kind == "swap"]
    same = {name: [t for block in each for t in block] for name, each in blocks[0.0].items()}
    why = ""
    if not false_seen.of:
        why = "no suite of identical code is recorded (--aa)"
    elif false_seen.hits or false_drawn.hits > TOLERATED * false_drawn.of:
        why = f"identical code was blocked: {false_seen} recorded, {false_drawn} drawn suites"
    return Figures(
        benchmarks=len({record.name for record in records}),
        comparisons=sum(len(found) for found in suites.values()),
        trials=sum(len(record.trials) for record in records),
        false_drawn=false_drawn, false_seen=false_seen, power=power,
        power_seen={f"{share:.0%}": rate for share, rate in sorted(seen.items())},
        named=Rate(sum(r.named == r.component for r in swaps), len(swaps)),
        mde={name: detectable(trials, rules) for name, trials in same.items()},
        rivals=_rivals(records), armed=not why, why=why,
    )  # fmt: skip


def _draw(
    blocks: Sequence[list[float]], source: random.Random, rules: Rules
) -> tuple[list[float], list[float]]:
    first = [value for block in source.choices(blocks, k=FIRST) for value in block]
    if not wants_second(first, rules):
        return first, []
    return first, [value for block in source.choices(blocks, k=SECOND) for value in block]


def _blocked(stages: dict[str, tuple[list[float], list[float]]], rules: Rules) -> set[str]:
    return {name for name, each in judge(stages, rules).items() if each.verdict == "regressed"}


def _rivals(records: Sequence[Record]) -> dict[str, dict[str, list[float]]]:
    """By tool and planted share: how often it blocks, on adjacent samples and on those apart."""
    lines: dict[float, list[Record]] = defaultdict(list)
    for record in records:
        if record.kind == "suite":
            lines[record.planted].append(record)
    return {
        tool: {
            f"{share:.0%}": [
                sum(tool in record.blocked for record in each) / len(each),
                sum(tool in record.apart for record in each) / len(each),
            ]
            for share, each in sorted(lines.items())
        }
        for tool in RULES
    }
