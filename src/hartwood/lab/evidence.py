"""What the gate's self-test recorded (JSON lines, they add up over runs), and what that says.

Every comparison of the record is judged as it was taken, by the same code as a gate. More are
drawn: for each benchmark two blocks of trials for stage one, and a trial from each of twenty for
stage two, with replacement (a block is what one set of processes gave, so that what differs between
processes is kept). Drawn suites are not independent of each other, so the suites as they were
recorded stand beside them; those have four trials of stage two from each set of processes, which is
cheaper to record and harder than a gate: what processes differ by weighs four times as much.
"""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, combinations
from pathlib import Path

from hartwood.lab.results import _want, decode, parse_json
from hartwood.lab.rivals import RULES
from hartwood.lab.verdict import Rules, detectable, judge, wants_second
from hartwood.lab.workload import LabError

SCHEMA = "hartwood-lab-selftest/1"
BLOCK = 4  # trials of one set of processes
FIRST, SECOND = 2, 5  # blocks of either stage
#: Log ratios of a crowd are integers of this size.
UNIT = 1e-4
#: Suites of identical code that may be blocked, of those that were drawn.
TOLERATED = 0.01
KINDS = ("block", "crowd", "suite", "swap")


@dataclass
class Record:
    """One line of what is recorded. `planted` is the share of slowdown in the head (0: identical).

    A `crowd` is one benchmark of one suite whose arms took turns: the planted `shares` of the arms,
    and `logs`, for each two arms of `sides` the log ratios of all trials in units of `UNIT`. A
    `block` has the `trials` of one benchmark in one set of two processes. A `suite` line says of
    two arms which tools would have `blocked` on adjacent samples, and which on samples taken one
    arm after the other (`apart`); a `swap` says which component was `named`.
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
    shares: list[float] = field(default_factory=list)
    logs: list[list[int]] = field(default_factory=list)

    def _validate(self) -> None:
        _want(self.kind in KINDS, f"kind {self.kind[:20]!r} is none of {', '.join(KINDS)}")
        _want(0 <= self.planted < 10 and self.noise >= 0, "planted or noise is out of range")
        _want(self.kind != "block" or len(self.trials) == BLOCK, f"a block is {BLOCK} trials")
        if self.kind == "crowd":
            _want(all(0 <= share < 10 for share in self.shares), "a share is out of range")
            _want(bool(self.logs) and len(self.logs) == len(sides(self.shares)), "arms are missing")
            whole = BLOCK * (FIRST + SECOND)
            _want(all(len(each) == whole for each in self.logs), f"an arm has not {whole} trials")


def sides(shares: Sequence[float]) -> list[tuple[int, int]]:
    """The comparisons of a crowd, as places (base, head): the base has nothing planted."""
    return [(a, b) for a, b in combinations(range(len(shares)), 2) if not shares[a]]


@dataclass(frozen=True)
class Comparison:
    """One benchmark of two arms: all `trials` of both stages. `suite` is that of two arms."""

    suite: str
    name: str
    planted: float
    trials: list[float]

    @property
    def blocks(self) -> list[list[float]]:
        """The trials by the processes they came from."""
        return [self.trials[at : at + BLOCK] for at in range(0, len(self.trials), BLOCK)]

    def stages(self, rules: Rules) -> tuple[list[float], list[float]]:
        """What a gate would have measured of it."""
        first, rest = self.trials[: FIRST * BLOCK], self.trials[FIRST * BLOCK :]
        return first, rest if wants_second(first, rules) else []


def comparisons(records: Sequence[Record]) -> list[Comparison]:
    """Every comparison that was recorded."""
    blocks: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    found = []
    for one in records:
        if one.kind == "block":
            blocks[one.session, one.name, one.planted].extend(one.trials)
        elif one.kind == "crowd":
            for (a, b), logs in zip(sides(one.shares), one.logs, strict=True):
                suite, trials = f"{one.session} {a}-{b}", [log * UNIT for log in logs]
                found.append(Comparison(suite, one.name, one.shares[b], trials))
    found += [Comparison(*key, trials) for key, trials in blocks.items()]
    # A suite that was broken off has benchmarks with too few blocks to judge.
    return [each for each in found if len(each.trials) >= BLOCK * (FIRST + SECOND)]


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


@dataclass
class Rate:
    """So many of so many; `worst` is the lowest rate of a single benchmark."""

    hits: int = 0
    of: int = 0
    worst: float = 0.0

    @property
    def share(self) -> float:
        """The rate; 0 of nothing."""
        return self.hits / self.of if self.of else 0.0

    def __str__(self) -> str:
        return f"{self.hits} of {self.of}" + (f" ({self.hits / self.of:.1%})" if self.of else "")


@dataclass
class Figures:
    """What the record says. `false_drawn` and `false_seen` are suites of identical code that were
    blocked, of those drawn and of those recorded, `called_faster` those with a speed-up that was
    none; `same` is in benchmarks, and so is `power`, by planted share. `created` is when the last
    of it was recorded, or "" where nothing was."""

    benchmarks: int
    comparisons: int
    trials: int
    same: Rate
    false_drawn: Rate
    false_seen: Rate
    called_faster: Rate
    power: dict[str, Rate]
    power_seen: dict[str, Rate]
    named: Rate
    mde: dict[str, float]
    rivals: dict[str, dict[str, list[float]]]
    armed: bool
    why: str
    created: str = ""
    schema: str = SCHEMA

    def as_json(self) -> dict[str, object]:
        """As JSON takes it."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """As a person reads it."""
        yield (
            f"recorded\t{self.trials} trials, {self.comparisons} comparisons of "
            f"{self.benchmarks} benchmarks"
        )
        yield f"A/A comparisons blocked, as recorded\t{self.same}"
        yield f"A/A suites called faster, as recorded\t{self.called_faster}"
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


def figures_from(value: object, source: str) -> Figures:
    """Figures from parsed JSON; `source` is what to call it. Raises `LabError`."""
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise LabError(f"{source}: its schema is {str(schema)[:40]!r}, this version reads {SCHEMA}")
    return decode(Figures, value, source)


def figures(records: Sequence[Record], rules: Rules, resamples: int, seed: int) -> Figures:
    """Rates from what was recorded; see the module's text for how suites are drawn."""
    all_of_it = comparisons(records)
    blocks: dict[float, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    suites: dict[tuple[float, str], dict[str, Comparison]] = defaultdict(dict)
    for each in all_of_it:
        blocks[each.planted][each.name] += each.blocks
        suites[each.planted, each.suite][each.name] = each
    drawn, false_drawn = _drawn(blocks, rules, resamples, random.Random(seed))
    seen: dict[float, Rate] = defaultdict(Rate)
    false_seen, called_faster = Rate(), Rate()
    for (share, _), found in suites.items():
        stages = {name: each.stages(rules) for name, each in found.items()}
        slow = _called(stages, rules, "regressed")
        seen[share].of += len(found)
        seen[share].hits += len(slow)
        if not share:
            for rate, names in ((false_seen, slow), (called_faster, _called(stages, rules))):
                rate.of += 1
                rate.hits += bool(names)
    same = {name: list(chain.from_iterable(each)) for name, each in blocks[0.0].items()}
    why = ""
    if not false_seen.of:
        why = "no suite of identical code is recorded (--suites)"
    elif max(false_seen.share, false_drawn.share) > TOLERATED:
        why = f"identical code was blocked: {false_seen} recorded, {false_drawn} drawn suites"
    swaps = [record for record in records if record.kind == "swap"]
    return Figures(
        benchmarks=len({record.name for record in records}),
        comparisons=len(all_of_it), trials=sum(len(each.trials) for each in all_of_it),
        same=seen.pop(0.0, Rate()), false_drawn=false_drawn, false_seen=false_seen,
        called_faster=called_faster, power=drawn,
        power_seen={f"{share:.0%}": rate for share, rate in sorted(seen.items())},
        named=Rate(sum(r.named == r.component for r in swaps), len(swaps)),
        mde={name: detectable(trials, rules) for name, trials in same.items()},
        rivals=_rivals(records), armed=not why, why=why,
        created=max((record.session.partition("/")[0] for record in records), default=""),
    )  # fmt: skip


def _drawn(
    blocks: dict[float, dict[str, list[list[float]]]],
    rules: Rules,
    resamples: int,
    source: random.Random,
) -> tuple[dict[str, Rate], Rate]:
    """Power by planted share, and how many suites of identical code were blocked."""
    power, false = {}, Rate()
    for share, pool in sorted(blocks.items()):
        rates = {name: Rate() for name in pool}
        for _ in range(resamples):
            stages = {name: _draw(each, source, rules) for name, each in pool.items()}
            slow = _called(stages, rules, "regressed")
            for name, rate in rates.items():
                rate.of += 1
                rate.hits += name in slow
            if not share:
                false.of += 1
                false.hits += bool(slow)
        if share:
            total = Rate(sum(r.hits for r in rates.values()), sum(r.of for r in rates.values()))
            total.worst = min(rate.share for rate in rates.values())
            power[f"{share:.0%}"] = total
    return power, false


def _draw(
    blocks: Sequence[list[float]], source: random.Random, rules: Rules
) -> tuple[list[float], list[float]]:
    first = [value for block in source.choices(blocks, k=FIRST) for value in block]
    if not wants_second(first, rules):
        return first, []
    # As in a gate: every trial of stage two is of processes of its own.
    return first, [source.choice(block) for block in source.choices(blocks, k=rules.second)]


def _called(
    stages: dict[str, tuple[list[float], list[float]]], rules: Rules, verdict: str = "improved"
) -> set[str]:
    return {name for name, each in judge(stages, rules).items() if each.verdict == verdict}


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
