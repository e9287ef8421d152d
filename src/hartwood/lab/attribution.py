"""Which change is to blame: put each component back as it was, and run the lockstep again.

Causal, so a name is given only where putting it back takes most of the slowdown away. Components
are patterns of files in the head's pyproject.toml; a changed file that none of them means is a
component by itself.
"""

from __future__ import annotations

import math
import random
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from hartwood.lab.checkout import changed, reverted
from hartwood.lab.lockstep import Arm, Pair
from hartwood.lab.verdict import estimate
from hartwood.lab.worker import Entry
from hartwood.lab.workload import LabError, Skip

#: Share of the slowdown that has to go for a component to be named.
MOST = 0.5
#: More components than this are not tried: the search would take longer than the gate.
LIMIT = 12
#: Files that can change how fast Python code is.
CODE = (".py", ".pyi", ".so", ".c", ".pyx", ".json", ".toml")


@dataclass(frozen=True)
class Culprit:
    """`name` is a component or "", `reason` says what was found; `shares` what went by each."""

    name: str
    reason: str
    shares: dict[str, float]


def components(tree: Path) -> dict[str, list[str]]:
    """[tool.hartwood.components] of a checkout: component to patterns. Raises `LabError`."""
    path = tree / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise LabError(f"{path.name}: {' '.join(str(error).split())}") from None
    found = table.get("tool", {}).get("hartwood", {}).get("components", {})
    good = isinstance(found, dict) and all(
        isinstance(globs, list) and all(isinstance(glob, str) for glob in globs)
        for globs in found.values()
    )
    if not good:
        raise LabError(f"{path.name}: [tool.hartwood.components] wants name = [patterns]")
    return dict(found)


def grouped(files: Sequence[str], known: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Changed files by component; the first component with a pattern that means a file has it."""
    groups: dict[str, list[str]] = {}
    for file in files:
        owner = next(
            (
                name
                for name, patterns in known.items()
                if any(fnmatchcase(file, pattern) for pattern in patterns)
            ),
            file,
        )
        groups.setdefault(owner, []).append(file)
    return groups


def blame(shares: Mapping[str, float]) -> Culprit:
    """Name the component whose change takes most of the slowdown away, if there is one."""
    if not shares:
        return Culprit("", "no component could be put back by itself", {})
    name = max(shares, key=lambda each: shares[each])
    if shares[name] >= MOST:
        return Culprit(name, f"{shares[name]:.0%} of it goes without {name}", dict(shares))
    return Culprit("", f"no single component: {name} has {shares[name]:.0%}", dict(shares))


def _moved(file: Path, old: Path, new: Path) -> Path:
    return new / file.relative_to(old) if file.is_relative_to(old) else file


def attribute(
    base: Arm,
    head: Arm,
    entries: Sequence[Entry],
    slowdown: Mapping[str, float],
    *,
    seed: int,
    rounds: int,
    trials: int,
    patience: float = 60.0,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> dict[str, Culprit]:
    """The culprit for each of these benchmarks, given how much slower (a log ratio) each is.

    A component that cannot be put back alone (its interface changed) is left out, not guessed at.
    """
    files = [name for name in changed(base.tree.path, head.tree.path) if Path(name).suffix in CODE]
    groups = grouped(files, components(head.tree.path))
    if not groups:
        return {e.name: Culprit("", "no file of code has changed", {}) for e in entries}
    if len(groups) == 1:
        (only,) = groups
        return {e.name: Culprit(only, "nothing else has changed", {only: 1.0}) for e in entries}
    if len(groups) > LIMIT:
        reason = f"{len(groups)} components changed, too many to put back one by one"
        return {e.name: Culprit("", reason, {}) for e in entries}
    shares: dict[str, dict[str, float]] = {entry.name: {} for entry in entries}
    source = random.Random(seed)
    for at, (name, changes) in enumerate(groups.items()):
        progress(at + 1, len(groups), name)
        found: dict[str, list[float]] = {entry.name: [] for entry in entries}
        try:
            with reverted(base.tree, head.tree, changes) as tree:
                files_of = tuple(_moved(file, head.tree.path, tree.path) for file in head.files)
                arm = Arm("head", tree, files_of, head.own, head.serve)
                for _ in range(2):
                    with Pair(base, arm, source.getrandbits(31), patience) as pair:
                        for entry in entries:
                            with pair.prepared(entry) as lockstep:
                                for _ in range(max(1, trials // 2)):
                                    found[entry.name].append(lockstep.trial(rounds))
        except (LabError, Skip):
            continue
        for entry in entries:
            left = estimate(found[entry.name])[0]
            share = 1 - left / slowdown[entry.name]
            if math.isfinite(share):
                shares[entry.name][name] = share
    return {name: blame(each) for name, each in shares.items()}
