"""`bench gate`: two checkouts, exact counters, lockstep in two stages, one judgement.

It fails closed: what could not be measured, was lost or was left out is "inconclusive" with its
reason, and a gate that judged nothing is no pass. The statistics are in `verdict`.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from shutil import copyfile

from hartwood.lab.attribution import attribute
from hartwood.lab.checkout import Tree
from hartwood.lab.instructions import prefix, suspicions
from hartwood.lab.judgement import Judged, Judgement
from hartwood.lab.lockstep import ROUNDS, Arm, Lockstep, Pair
from hartwood.lab.machine import describe
from hartwood.lab.results import Scalar, now
from hartwood.lab.verdict import Rules, judge, severity, wants_second
from hartwood.lab.worker import SERVE, Entry, WorkerLost
from hartwood.lab.workload import LabError, Skip, select

BLOCKS = ("any", "warn", "alert")
#: Severities that block, by --block.
_BLOCKING = {
    "any": ("slight", "warning", "alert"),
    "warn": ("warning", "alert"),
    "alert": ("alert",),
}
#: Counters of which more is better; of all others less is.
GAINS = ("translated", "tlb_hits", "cache_hits")
Progress = Callable[[int, int, str, str], None]


@dataclass(frozen=True)
class Settings:
    """How to gate. `files` are relative to a checkout; `removed` are benchmarks whose absence is
    meant; `budget` is the growth of an exact counter that is still no regression (0.01 is 1 %);
    `pairs` is how many fresh pairs of processes each stage's trials are spread over: in stage two
    one for each trial, or trials would share their processes' luck and not be independent;
    `instructions` counts them, too, where benchmarks can be counted."""

    rules: Rules = field(default_factory=Rules)
    select: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    block: str = "any"
    budget: float = 0.0
    seed: int = 0
    rounds: int = ROUNDS
    pairs: tuple[int, int] = (2, 20)
    attribution: bool = True
    instructions: bool = False
    patience: float = 60.0

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise LabError(f"--block is one of {', '.join(BLOCKS)}, not {self.block!r}")
        if not self.budget >= 0:
            raise LabError(f"the budget of counters is {self.budget}: it is 0 or more")

    def shown(self) -> dict[str, Scalar]:
        """As a judgement keeps them."""
        rules = {each.name: getattr(self.rules, each.name) for each in fields(self.rules)}
        return {
            **rules, "block": self.block, "select": " ".join(self.select), "seed": self.seed,
            "files": " ".join(self.files), "rounds": self.rounds, "budget": self.budget,
            "removed": " ".join(self.removed), "test": "Wilcoxon signed-rank, exact, Holm",
        }  # fmt: skip


def _silent(done: int, total: int, name: str, phase: str) -> None:
    """Progress for whoever wants none."""


def arms(base: Tree, head: Tree, files: Sequence[str]) -> tuple[Arm, Arm]:
    """Both sides. A user's files are each checkout's own, and the head's where the base has none;
    our own benchmarks are the head's in both, so that a changed benchmark is not a changed speed.

    Raises `LabError` for a file that the head has not.
    """
    for name in files:
        if Path(name).is_absolute() or not (head.path / name).is_file():
            raise LabError(f"{name}: no such file of benchmarks in the head's checkout")
        if not (base.path / name).exists():
            (base.path / name).parent.mkdir(parents=True, exist_ok=True)
            copyfile(head.path / name, base.path / name)
    made = []
    for label, tree in (("base", base), ("head", head)):
        paths = tuple(tree.path / name for name in files)
        made.append(Arm(label, tree, paths, own=not files, serve=_serve(head)))
    return made[0], made[1]


def _serve(tree: Tree) -> Path:
    """The worker's end that a checkout brings along, else ours."""
    own = tree.path / "src" / "hartwood" / "lab" / "serve.py"
    return own if own.is_file() else SERVE


@dataclass
class Plan:
    """What there is to do: benchmarks to compare, those that are settled already, and the arm that
    can run the base's side of them."""

    base: Arm
    entries: list[Entry] = field(default_factory=list)
    settled: dict[str, Judged] = field(default_factory=dict)


def plan(base: Arm, head: Arm, settings: Settings) -> Plan:
    """List both sides. Raises `LabError` for an empty selection and for modules that do not load.

    A benchmark of the base's that the head has no more, or no more in its gate, is inconclusive
    unless it is in `settings.removed`.
    """
    with head.start(0, settings.patience) as worker:
        ours = worker.list()
        if worker.broken:
            name, why = next(iter(worker.broken.items()))
            raise LabError(f"the head's benchmarks {name} cannot be loaded: {why}")
    with base.start(0, settings.patience) as worker:
        runnable = {entry.name for entry in worker.list()}
    theirs = ours if base.own else []
    lister = base if base.files else _listing(base)
    if lister is not None:
        with lister.start(0, settings.patience) as worker:
            theirs = worker.list()
    fits = [entry for entry in ours if entry.gate and not entry.peer]
    names = {entry.name for entry in fits}
    gone = [
        entry for entry in theirs
        if entry.gate and not entry.peer and entry.name not in names
    ]  # fmt: skip
    unknown = set(settings.removed) - {entry.name for entry in gone}
    if unknown:
        raise LabError(f"--removed {sorted(unknown)[0]}: the head still has it, or no one ever had")
    chosen = select([*fits, *gone], settings.select)
    if lister is not None and (names & {entry.name for entry in theirs}) - runnable:
        # The head's benchmarks want what the base does not have: each side runs its own.
        base, runnable = replace(base, serve=lister.serve), {entry.name for entry in theirs}
    made = Plan(base)
    still = {entry.name for entry in ours}
    for entry in chosen:
        if entry.name in settings.removed:
            continue
        if entry.name not in names:
            how = "has left the gate" if entry.name in still else "was deleted"
            reason = f"it {how}; --removed {entry.name} where that is meant"
            made.settled[entry.name] = blank(entry, "inconclusive", reason)
        elif entry.name not in runnable:
            made.settled[entry.name] = blank(entry, "new", "the base does not have it")
        else:
            made.entries.append(entry)
    if not made.entries and not made.settled:
        raise LabError("nothing is left to judge")
    return made


def _listing(base: Arm) -> Arm | None:
    """The base with the benchmarks it brought along, if any."""
    serve = _serve(base.tree)
    if serve == SERVE:
        return None
    return Arm("base's own", base.tree, own=True, serve=serve)


def blank(entry: Entry, verdict: str, reason: str) -> Judged:
    """A benchmark without measurements."""
    return Judged(
        entry.name, entry.family, entry.component, entry.clock, verdict=verdict, reason=reason
    )


class Measuring:
    """Runs stages over pairs of processes; what goes wrong with a benchmark settles it."""

    def __init__(self, base: Arm, head: Arm, settings: Settings, progress: Progress) -> None:
        self.base, self.head, self.settings, self.progress = base, head, settings, progress
        self.random = random.Random(settings.seed)
        self.settled: dict[str, Judged] = {}
        self.counted: dict[str, str] = {}
        self.grown: dict[str, float] = {}

    def stage(
        self, entries: Sequence[Entry], trials: int, pairs: int, phase: str
    ) -> dict[str, list[float]]:
        """Trials by name: `trials` each, spread over fresh pairs of processes."""
        found: dict[str, list[float]] = {entry.name: [] for entry in entries}
        shares = [trials // pairs + (at < trials % pairs) for at in range(pairs)]
        for at, share in enumerate(shares):
            left = [entry for entry in entries if entry.name not in self.settled]
            while left and share:
                lost = False
                with self._pair() as pair:
                    strays(pair)
                    while left:
                        entry = left.pop(0)
                        done = at * len(entries) + len(entries) - len(left)
                        self.progress(done, pairs * len(entries), entry.name, phase)
                        try:
                            with pair.prepared(entry) as lockstep:
                                if phase == "first" and not at:
                                    self._count(lockstep)
                                for _ in range(share):
                                    found[entry.name].append(lockstep.trial(self.settings.rounds))
                        except Skip as reason:
                            self.settled[entry.name] = blank(entry, "skipped", f"{reason}")
                        except LabError as error:
                            self.settled[entry.name] = blank(entry, "inconclusive", f"{error}")
                            lost = isinstance(error, WorkerLost)
                            if lost:
                                break  # the others go on with fresh processes
                    if not lost:
                        strays(pair)  # benchmarks import things when they are set up, too
        return {name: each for name, each in found.items() if name not in self.settled}

    def _pair(self) -> Pair:
        seed = self.random.getrandbits(31)
        return Pair(self.base, self.head, seed, self.settings.patience)

    def _count(self, lockstep: Lockstep) -> None:
        """Compare the exact counters of one call: those that two calls of one arm agree on."""
        name = lockstep.entry.name
        sides = []
        for worker in lockstep.pair.workers:
            once, again = (worker.sample(name, 1).counters for _ in range(2))
            sides.append({key: value for key, value in once.items() if again.get(key) == value})
        base, head = sides
        for key in base:
            if key not in head:
                continue
            worse, better = (base, head) if key in GAINS else (head, base)
            if worse[key] > better[key] * (1 + self.settings.budget):
                grown = worse[key] / better[key] if better[key] else math.inf
                if grown > self.grown.get(name, 0):
                    self.grown[name] = grown
                    self.counted[name] = f"{key} a call: {base[key]} -> {head[key]}"


def strays(pair: Pair) -> None:
    """Raise `LabError` where a worker has a module of the project's from outside its checkout:
    both arms would run the same code, and nothing would ever be slower."""
    for worker, arm in zip(pair.workers, pair.arms, strict=True):
        tree = arm.tree.path.resolve()
        for name, file in worker.imported().items():
            if file.is_relative_to(tree) or file.is_relative_to(SERVE.parent):
                continue
            if any(_holds(folder, name) for folder in (tree, *_folders(tree))):
                raise LabError(
                    f"the {arm.label} has {name} from {file.parent}, not from its checkout: say "
                    "with --path which folder of the checkout goes on the import path"
                )


def _folders(tree: Path) -> Iterable[Path]:
    return (path for path in tree.iterdir() if path.is_dir() and not path.name.startswith("."))


def _holds(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


def gate(base: Tree, head: Tree, settings: Settings, progress: Progress = _silent) -> Judgement:
    """Judge head against base. Raises `LabError` where nothing can be judged at all."""
    begin, rules = time.monotonic(), settings.rules
    if settings.instructions:
        prefix(Path())  # before the time is spent
    base_arm, head_arm = arms(base, head, settings.files)
    todo = plan(base_arm, head_arm, settings)
    base_arm = todo.base
    measuring = Measuring(base_arm, head_arm, settings, progress)
    first = measuring.stage(todo.entries, rules.first, settings.pairs[0], "first")
    suspects = [e for e in todo.entries if e.name in first and wants_second(first[e.name], rules)]
    second = measuring.stage(suspects, rules.second, settings.pairs[1], "second")
    settled = {**todo.settled, **measuring.settled}
    stages = {
        name: (trials, second.get(name, [])) for name, trials in first.items()
        if name not in settled
    }  # fmt: skip
    judged = decide(todo.entries, stages, rules)
    for name, each in judged.items():
        _counters(each, measuring.counted.get(name, ""), measuring.grown.get(name, 1.0), rules)
    slower = {e.name: e for e in todo.entries if name_regressed(judged, e.name)}
    if settings.attribution and slower:
        found = attribute(
            base_arm, head_arm, list(slower.values()),
            {name: math.log(judged[name].ratio) for name in slower},
            seed=measuring.random.getrandbits(31), rounds=settings.rounds,
            trials=rules.first, patience=settings.patience,
            progress=lambda done, total, what: progress(done, total, what, "swap"),
        )  # fmt: skip
        for name, culprit in found.items():
            judged[name].culprit = culprit.name
            judged[name].reason += f"; {culprit.reason}"
    if settings.instructions:
        counted = [entry for entry in todo.entries if entry.name in judged]
        said = suspicions(
            base_arm, head_arm, counted, measuring.random.getrandbits(31),
            lambda done, total, what: progress(done, total, what, "instructions"),
        )  # fmt: skip
        for name, what in said.items():
            judged[name].suspect = what
    whole = Judgement(
        created=now(), base=base.revision, head=head.revision, machine=describe(),
        settings=settings.shown(), benchmarks=[*judged.values(), *settled.values()],
    )  # fmt: skip
    conclude(whole, settings.block)
    whole.seconds = round(time.monotonic() - begin, 3)
    return whole


def name_regressed(judged: Mapping[str, Judged], name: str) -> bool:
    """Whether lockstep (not only a counter) has proven it slower."""
    return name in judged and judged[name].verdict == "regressed" and judged[name].ratio > 1


def decide(
    entries: Iterable[Entry], stages: Mapping[str, tuple[list[float], list[float]]], rules: Rules
) -> dict[str, Judged]:
    """The statistics' decisions as a judgement has them."""
    known = {entry.name: entry for entry in entries}
    made = {}
    for name, decision in judge(stages, rules).items():
        entry = known[name]
        made[name] = Judged(
            name, entry.family, entry.component, entry.clock, verdict=decision.verdict,
            severity=decision.severity, ratio=decision.ratio, interval=list(decision.interval),
            trials=[list(stage) for stage in stages[name] if stage], mde=decision.mde,
            p=decision.p, reason=decision.reason,
        )  # fmt: skip
    return made


def _counters(judged: Judged, counted: str, grown: float, rules: Rules) -> None:
    """Exact counters have no noise: one that grew is a regression whatever the clock says."""
    if not counted:
        return
    judged.reason = "; ".join(filter(None, [counted, judged.reason]))
    label = "alert" if math.isinf(grown) else severity(grown, rules)
    order = ("", "slight", "warning", "alert")
    if judged.verdict != "regressed" or order.index(label) > order.index(judged.severity):
        judged.verdict, judged.severity = "regressed", label


def conclude(whole: Judgement, block: str) -> None:
    """The verdict on the whole from those on the benchmarks: regressed before inconclusive before
    improved before pass; nothing judged is inconclusive."""
    benchmarks = whole.benchmarks
    whole.blocked = [
        each.name for each in benchmarks
        if each.verdict == "regressed" and each.severity in _BLOCKING[block]
    ]  # fmt: skip
    unsure = [each for each in benchmarks if each.verdict == "inconclusive"]
    judged = [each for each in benchmarks if each.verdict in ("pass", "improved", "regressed")]
    if whole.blocked:
        whole.verdict, whole.reason = "regressed", f"{len(whole.blocked)} regressed"
    elif unsure:
        whole.verdict = "inconclusive"
        whole.reason = f"{unsure[0].name}: {unsure[0].reason}"
        if len(unsure) > 1:
            whole.reason += f" (and {len(unsure) - 1} more)"
    elif not judged:
        whole.verdict, whole.reason = "inconclusive", "no benchmark ran in both revisions"
    elif any(each.verdict == "improved" for each in judged):
        whole.verdict, whole.reason = "improved", ""
    else:
        whole.verdict, whole.reason = "pass", ""
