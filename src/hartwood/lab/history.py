"""What was measured over time: a folder of append-only JSON lines, and an index made from it.

The lines are the truth and can live in git; the SQLite index can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import sqlite3
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median

from hartwood.lab.changes import Change, changes, creep
from hartwood.lab.judgement import Judgement
from hartwood.lab.results import Run, _want, decode, parse_json
from hartwood.lab.workload import LabError

SCHEMA = "hartwood-lab-history/1"
LINES, INDEX = "history.jsonl", "index.sqlite3"


@dataclass
class Record:
    """One line. `values` are median seconds per call, `ratios` times over those of `reference`,
    a revision: only ratios survive a change of machine. `release` marks one."""

    created: str
    revision: str = ""
    machine: str = ""
    reference: str = ""
    release: bool = False
    values: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    components: dict[str, str] = field(default_factory=dict)
    schema: str = SCHEMA

    def _validate(self) -> None:
        _want(self.schema == SCHEMA, f"its schema is {self.schema[:40]!r}, not {SCHEMA}")
        try:
            zone = datetime.fromisoformat(self.created).tzinfo
        except ValueError:
            zone = None
        _want(zone is not None, "created is no time with a zone")
        figures = [*self.values.values(), *self.ratios.values()]
        _want(bool(figures), "nothing was measured")
        _want(all(figure > 0 for figure in figures), "a figure is zero or negative")
        _want(not self.ratios or bool(self.reference), "ratios without a reference")


@dataclass(frozen=True)
class Point:
    """One record's figure for one benchmark."""

    created: str
    revision: str
    value: float
    release: bool


@dataclass(frozen=True)
class Trend:
    """A benchmark's series; `ratio` says whether it is ratios to `against` or seconds on it."""

    name: str
    ratio: bool
    against: str
    points: list[Point]
    changes: list[Change]
    creep: float | None


def record_of(run: Run, reference: Run | None = None, release: bool = False) -> Record:
    """A run as a record, with ratios to a reference run of the same machine. Raises `LabError`."""
    values = {each.name: median(each.times) for each in run.benchmarks if each.status == "ok"}
    ratios = {}
    if reference is not None:
        if not reference.revision:
            raise LabError("the reference run has no revision to call it by")
        if _machine(run.machine) != _machine(reference.machine):
            raise LabError("the reference is of another machine: run it again on this one")
        for each in reference.benchmarks:
            if each.status == "ok" and each.name in values:
                ratios[each.name] = values[each.name] / median(each.times)
    components = {each.name: each.component for each in run.benchmarks if each.component}
    return _checked(
        Record(
            run.created, run.revision, _machine(run.machine),
            reference.revision if reference else "", release, values, ratios, components,
        )
    )  # fmt: skip


def record_of_gate(judgement: Judgement, release: bool = False) -> Record:
    """A lockstep comparison with a pinned reference, its base, as a record. Raises `LabError`."""
    measured = [each for each in judgement.benchmarks if each.trials]
    return _checked(
        Record(
            judgement.created, judgement.head, _machine(judgement.machine), judgement.base, release,
            {}, {each.name: each.ratio for each in measured},
            {each.name: each.component for each in measured if each.component},
        )
    )  # fmt: skip


def _machine(facts: dict[str, str | int | float | bool]) -> str:
    """What tells a machine from another: `machine.describe`'s hash, or "" if it has none."""
    return str(facts.get("identity", ""))


def _checked(record: Record) -> Record:
    return decode(Record, dataclasses.asdict(record), "the record")


class History:
    """A folder of history. `damaged` says which lines cannot be read; they stay where they are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / LINES
        self.damaged: list[str] = []

    def append(self, record: Record) -> bool:
        """Add a record, on disk when this returns; False if that very one was there already.

        Raises `LabError`; the file then is as it was.
        """
        line = json.dumps(dataclasses.asdict(record), sort_keys=True, allow_nan=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                old = file.readall()
                if line.encode() in old.splitlines():
                    return False
                # A writer that was killed left half a line: it stays, and ours begins after it.
                start = b"\n" if old and not old.endswith(b"\n") else b""
                self._write(file.fileno(), start + line.encode() + b"\n", len(old))
        except OSError as error:
            raise LabError(f"{self.path}: cannot be written: {error.strerror}") from None
        return True

    @staticmethod
    def _write(file: int, data: bytes, size: int) -> None:
        try:
            while data:
                data = data[os.write(file, data) :]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise

    def records(self) -> list[Record]:
        """Every readable record, oldest first. Raises `LabError` if there is no history."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            raise LabError(f"{self.path}: there is no history yet") from None
        except OSError as error:
            raise LabError(f"{self.path}: {error.strerror}") from None
        found, self.damaged = [], []
        for number, line in enumerate(lines, 1):
            where = f"{self.path}:{number}"
            try:
                found.append(decode(Record, parse_json(line.decode("utf-8"), where), where))
            except UnicodeDecodeError:
                self.damaged.append(f"{where}: damaged: not UTF-8")
            except LabError as error:
                self.damaged.append(str(error))
        # Not as text: two zones may spell one moment.
        return sorted(found, key=lambda record: datetime.fromisoformat(record.created))

    def index(self) -> Path:
        """The SQLite index (table `point`), made anew if the lines have changed since."""
        path = self.folder / INDEX
        records = self.records()
        state = self.path.stat()
        stamp = f"{state.st_size} {state.st_mtime_ns}"
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as index:
            if index.execute("SELECT stamp FROM made").fetchone() == (stamp,):
                return path
        partial = path.with_name(f"{INDEX}.{os.getpid()}.partial")
        partial.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(partial)) as index, index:
            index.execute("CREATE TABLE made (stamp TEXT)")
            index.execute("INSERT INTO made VALUES (?)", (stamp,))
            index.execute(
                "CREATE TABLE point (name TEXT, component TEXT, created TEXT, revision TEXT, "
                "machine TEXT, reference TEXT, is_release INTEGER, seconds REAL, ratio REAL)"
            )
            index.executemany(
                "INSERT INTO point VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (name, one.components.get(name, ""), one.created, one.revision, one.machine,
                     one.reference, one.release, one.values.get(name), one.ratios.get(name))
                    for one in records for name in sorted({*one.values, *one.ratios})
                ),
            )  # fmt: skip
            index.execute("CREATE INDEX by_name ON point (name, created)")
        partial.replace(path)
        return path

    def trends(self) -> list[Trend]:
        """Every benchmark's newest series: ratios to the last reference, or seconds on the last
        machine where there never was one."""
        records = self.records()
        names = sorted({name for record in records for name in {**record.values, **record.ratios}})
        return [_trend(name, records) for name in names]


def _trend(name: str, records: list[Record]) -> Trend:
    having = [record for record in records if name in record.ratios]
    ratio = bool(having)
    key = "reference" if ratio else "machine"
    having = having or [record for record in records if name in record.values]
    against = getattr(having[-1], key)
    having = [record for record in having if getattr(record, key) == against]
    points = [
        Point(one.created, one.revision, (one.ratios if ratio else one.values)[name], one.release)
        for one in having
    ]
    values = [point.value for point in points]
    releases = [at for at, point in enumerate(points) if point.release]
    crept = creep(values, releases[-1]) if releases else None
    return Trend(name, ratio, against, points, changes(values), crept)
