"""What a benchmark is: the `@workload` decorator, the registry, files of benchmarks, selectors.

Imported by every worker of every arm, so it needs nothing but the standard library.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import random
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hartwood.errors import Error

_T = TypeVar("_T")
Call = Callable[[], Any]

#: Our own benchmarks; every module in it is one family.
WORKLOADS = "hartwood.lab.workloads"
CLOCKS = ("cpu", "wall")
#: The parts of a virtual machine that a change of speed can be put down to; users name their own.
COMPONENTS = (
    "decode", "translate", "compile", "execute", "TLB", "page walk", "memory", "device", "disk",
    "system call", "pool", "link",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][\w.+:/-]*")
_MODULE = re.compile(r"\W")


class LabError(Error):
    """The laboratory cannot do what it was asked; one line says what is wrong and what mends it."""

    # The gate says 1 for "regressed": whatever went wrong must not look like a verdict.
    exit_status = 2


class Skip(Exception):
    """Raised by a set-up function: this machine lacks what the benchmark needs. Says what."""


_seen: object = None


def black_box(value: _T) -> _T:
    """Give `value` back after storing it where nothing can prove that nobody looks at it."""
    global _seen
    _seen = value
    return value


@dataclass
class Definition:
    """What one `@workload` says: a set-up function, and what the names made of it share."""

    setup: Callable[..., Any]
    checker: Callable[..., Any] | None = None
    counter: Callable[[], Mapping[str, int]] | None = None

    def check(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: `function(answer, **parameters)` raises where the last answer is wrong."""
        self.checker = function
        return function

    def counters(
        self, function: Callable[[], Mapping[str, int]]
    ) -> Callable[[], Mapping[str, int]]:
        """Decorator: `function()` gives counts of work so far; a sample has their differences."""
        self.counter = function
        return function


@dataclass(frozen=True)
class Workload:
    """One benchmark under one name.

    `per_call` counts how many of `unit` one call does; `bound` is the smallest plausible number of
    seconds for one of them. `gate` is False where it does not fit the gate, and `why` says why.
    `peer` names the program that does the work where that is not the project that is measured.
    `instructions` says that callgrind can count it: it runs no code that is made at run time.
    """

    name: str
    unit: str
    per_call: int
    family: str
    group: str
    component: str
    bound: float
    gate: bool
    why: str
    clock: str
    peer: str
    parameters: Mapping[str, Any] = field(repr=False)
    definition: Definition = field(repr=False, compare=False)
    instructions: bool = False

    def prepare(self, seed: int) -> Prepared:
        """Run the set-up with a generator of this benchmark's own. Raises `Skip`, `LabError`."""
        # The name goes into the seed, so that benchmarks do not share inputs by accident.
        rng = random.Random(zlib.crc32(self.name.encode()) ^ seed << 32)
        made = self.definition.setup(rng, **self.parameters)
        call, expected = made if isinstance(made, tuple) and len(made) == 2 else (made, _NOTHING)
        if not callable(call):
            raise LabError(f"{self.name}: its set-up returns no callable")
        return Prepared(self, call, expected)


_NOTHING = object()


@dataclass
class Prepared:
    """A workload that is set up: `call` is what is timed."""

    workload: Workload
    call: Call
    expected: Any

    def check(self, answer: Any) -> None:
        """Raise `LabError` where the answer is wrong, or where there is no way to tell."""
        name, definition = self.workload.name, self.workload.definition
        if self.expected is _NOTHING and definition.checker is None:
            raise LabError(f"{name}: nothing checks its answer; give it a @check")
        try:
            if callable(self.expected):
                self.expected(answer)
            elif self.expected is not _NOTHING and answer != self.expected:
                raise AssertionError(f"it should be {_short(self.expected)}")
            if definition.checker is not None:
                definition.checker(answer, **self.workload.parameters)
        except Exception as error:
            what = _line(str(error)) or type(error).__name__
            raise LabError(f"{name}: wrong answer {_short(answer)}: {what}") from error

    def counters(self) -> dict[str, int]:
        """Counts of work so far; empty where the workload has none."""
        counter = self.workload.definition.counter
        return dict(counter()) if counter is not None else {}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line(text: str) -> str:
    return " ".join(text.split())


class Registry:
    """Workloads by name, in the order they were defined."""

    def __init__(self) -> None:
        self.workloads: dict[str, Workload] = {}
        #: Modules of our own that could not be imported, and why.
        self.broken: dict[str, str] = {}

    def add(self, workload: Workload) -> None:
        """Register it. Raises `LabError` for a name that is taken or a value out of range."""
        name = workload.name
        if not _NAME.fullmatch(name):
            raise LabError(f"{name!r} is no name for a benchmark: letters, digits and _.+:/- only")
        if name in self.workloads:
            raise LabError(f"two benchmarks are called {name}")
        if workload.clock not in CLOCKS:
            raise LabError(f"{name}: clock {workload.clock!r} is none of {', '.join(CLOCKS)}")
        if workload.per_call < 1:
            raise LabError(f"{name}: per_call is {workload.per_call}; a call does at least one")
        if not workload.bound >= 0:
            raise LabError(f"{name}: bound is {workload.bound}; it is in seconds per unit")
        if not workload.gate and not workload.why:
            raise LabError(f"{name}: gate=False wants a reason (why=...)")
        self.workloads[name] = workload

    def load_own(self, package: str = WORKLOADS) -> None:
        """Import every module of a package; those that cannot be are in `broken` afterwards."""
        for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if info.name.startswith("_"):
                continue
            before = set(self.workloads)
            try:
                importlib.import_module(f"{package}.{info.name}")
            except Exception as error:
                for name in set(self.workloads) - before:
                    del self.workloads[name]
                self.broken[info.name] = _line(f"{type(error).__name__}: {error}")

    def load_file(self, path: Path) -> None:
        """Run a user's file of benchmarks. Raises `LabError` where that fails or gives none."""
        if not path.is_file():
            raise LabError(f"{path}: no such file of benchmarks")
        name = "bench_" + _MODULE.sub("_", str(path.resolve()))
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise LabError(f"{path}: not a Python file")
        before = len(self.workloads)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(path.resolve().parent))
        try:
            spec.loader.exec_module(module)
        except LabError:
            raise
        except Exception as error:
            raise LabError(f"{path}: {_line(f'{type(error).__name__}: {error}')}") from error
        finally:
            sys.path.remove(str(path.resolve().parent))
        if len(self.workloads) == before:
            raise LabError(f"{path}: defines no benchmark; decorate a function with @workload")


#: Where the decorator registers.
REGISTRY = Registry()


def workload(
    name: str,
    *,
    unit: str,
    per_call: int | Callable[..., int] = 1,
    component: str = "",
    family: str = "",
    group: str = "",
    bound: float = 0.0,
    gate: bool | Callable[..., bool] = True,
    why: str = "",
    clock: str = "cpu",
    peer: str = "",
    instructions: bool = False,
    params: Iterable[Mapping[str, Any]] | None = None,
) -> Callable[[Callable[..., Any]], Definition]:
    """Make a benchmark of a set-up function.

    The function is given a seeded `random.Random` (and, with `params`, the parameters as keywords).
    It returns the callable to time, or a pair of it and the answer to expect, or a pair of it and
    a function that is given the answer and raises where it is wrong.

    `name` and `group` are format strings over the parameters; `per_call` and `gate` may be
    functions of them. `family` defaults to the defining file's name, `group` to the first part of
    the benchmark's. See `Workload` for the rest. Raises `LabError` for a name that is taken.
    """

    def define(setup: Callable[..., Any]) -> Definition:
        place = Path(setup.__code__.co_filename).stem
        definition = Definition(setup)
        for values in [{}] if params is None else params:
            full = name.format(**values)
            gated = gate(**values) if callable(gate) else gate
            REGISTRY.add(
                Workload(
                    name=full,
                    unit=unit,
                    per_call=per_call(**values) if callable(per_call) else per_call,
                    family=family or place,
                    group=group.format(**values) or full.partition("/")[0],
                    component=component,
                    bound=bound,
                    gate=gated,
                    why="" if gated else why,
                    clock=clock,
                    peer=peer.format(**values),
                    parameters=dict(values),
                    definition=definition,
                    instructions=instructions,
                )
            )
        return definition

    return define


class Named(Protocol):
    """What selectors look at: a workload, or a benchmark of a stored run."""

    @property
    def name(self) -> str:
        """Its full name."""

    @property
    def family(self) -> str:
        """Its family."""

    @property
    def group(self) -> str:
        """Its group."""


_Entry = TypeVar("_Entry", bound=Named)


def select(found: Iterable[_Entry], selectors: Sequence[str]) -> list[_Entry]:
    """Those that any selector means: a name, a family, a group, the beginning of a name up to a
    slash, or a glob over names; all without selectors. Raises `LabError` for one that means none.
    """
    entries = list(found)
    chosen: set[str] = set()
    for selector in selectors:
        names = [entry.name for entry in entries if _means(selector, entry)]
        if not names:
            raise LabError(f"nothing is called {selector!r}; `hartwood bench list` shows what is")
        chosen.update(names)
    if not entries:
        raise LabError("there are no benchmarks to choose from")
    return [entry for entry in entries if not selectors or entry.name in chosen]


def _means(selector: str, entry: Named) -> bool:
    if selector in (entry.name, entry.family, entry.group):
        return True
    return entry.name.startswith(f"{selector}/") or fnmatchcase(entry.name, selector)
