"""Instructions a call, counted by valgrind's callgrind: the tier that suspects and never blocks.

Clocks have noise, instructions hardly any: with one hash seed, no address space randomisation and
no cyclic collector, the slope between some calls and twice as many is the same in every process to
about one in a thousand. It is not time, though: what waits for memory executes no more of them.

Code that is made while it runs (stencils, LLVM's) does not survive valgrind, so a benchmark has to
say `instructions=True` to be counted.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hartwood.lab.lockstep import Arm
from hartwood.lab.worker import Entry, Worker
from hartwood.lab.workload import LabError, Skip

#: Instructions that one measurement should have, so that what is around the calls is lost in it.
ENOUGH = 20_000_000
#: Valgrind starts a Python with all that it imports in half a minute, in minutes on a busy machine.
PATIENCE = 600.0
#: A change below this share is none; nor is one that repeated measurements differ by.
LEAST = 0.005
_TOTALS = re.compile(r"^totals: (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Count:
    """Instructions a call in one arm; `spread` is the share that two measurements differ by, and
    `reason` says why there is no count."""

    each: float = 0.0
    spread: float = 0.0
    reason: str = ""


def prefix(folder: Path) -> tuple[str, ...]:
    """The words before a worker's command. Raises `LabError` where valgrind is missing."""
    if not (shutil.which("valgrind") and shutil.which("callgrind_control")):
        raise LabError("valgrind is not installed, which --instructions needs (apt: valgrind)")
    still = ("setarch", "-R")
    try:
        allowed = not subprocess.run([*still, "true"], capture_output=True, check=False).returncode
    except OSError:
        allowed = False
    return (
        *(still if allowed else ()), "valgrind", "--tool=callgrind", "--quiet",
        f"--callgrind-out-file={folder}/out", f"--vgdb-prefix={folder}/vgdb",
    )  # fmt: skip


class Meter:
    """A worker under callgrind; `take` gives the instructions since it was last asked."""

    def __init__(self, worker: Worker, folder: Path) -> None:
        self.worker, self.folder, self._dumps = worker, folder, 0

    def take(self) -> int:
        """Raises `LabError` where valgrind does not answer."""
        command = ["callgrind_control", f"--vgdb-prefix={self.folder}/vgdb", "-d"]
        try:
            done = subprocess.run(
                [*command, str(self.worker.pid)], capture_output=True, text=True, timeout=PATIENCE,
                check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            raise LabError("callgrind_control cannot be run, or does not end") from None
        self._dumps += 1
        path = self.folder / f"out.{self._dumps}"
        found = _TOTALS.search(path.read_text()) if path.is_file() else None
        if found is None:
            said = (done.stdout + done.stderr).strip().splitlines()
            raise LabError(f"callgrind left no count: {said[0] if said else done.returncode}")
        return int(found[1])

    def slope(self, name: str) -> Count:
        """Instructions of one call of what is prepared, measured twice."""
        self.worker.sample(name, 1)
        self.take()
        self.worker.sample(name, 1)
        calls = max(2, math.ceil(ENOUGH / max(self.take(), 1)))
        found = []
        for _ in range(2):
            totals = []
            for times in (1, 2):
                self.worker.sample(name, times * calls)
                totals.append(self.take())
            found.append((totals[1] - totals[0]) / calls)
        self.worker.check(name)
        low, high = sorted(found)
        if low <= 0:
            raise LabError("more calls did not take more instructions")
        return Count((low + high) / 2, high / low - 1)


@contextmanager
def metered(arm: Arm, seed: int) -> Iterator[Meter]:
    """An arm's worker under callgrind. Raises `LabError`."""
    with tempfile.TemporaryDirectory(prefix="hartwood-lab-") as name:
        folder = Path(name)
        slow = replace(arm, prefix=(*prefix(folder), *arm.prefix))
        with slow.start(seed, PATIENCE) as worker:
            yield Meter(worker, folder)


def count(
    arm: Arm, entries: Sequence[Entry], seed: int, progress: Callable[[str], None]
) -> dict[str, Count]:
    """Every one of these benchmarks in one arm; what cannot be counted has a reason."""
    found: dict[str, Count] = {}
    while left := [entry for entry in entries if entry.name not in found]:
        with metered(arm, seed) as meter:
            for entry in left:
                progress(entry.name)
                try:
                    meter.worker.prepare(entry.name, seed)
                    found[entry.name] = meter.slope(entry.name)
                    meter.worker.release(entry.name)
                except Skip as reason:
                    found[entry.name] = Count(reason=f"skipped: {reason}")
                except LabError as error:
                    # The process may be gone; the others are counted in another one.
                    found[entry.name] = Count(reason=str(error))
                    break
    return found


def suspicion(base: Count, head: Count) -> str:
    """What a judgement says of two counts, "" where there is nothing to say."""
    for side, each in (("base", base), ("head", head)):
        if each.reason:
            return f"instructions not counted in the {side}: {each.reason}"
    change = head.each / base.each - 1
    if abs(change) <= max(LEAST, base.spread + head.spread):
        return ""
    more = "more" if change > 0 else "fewer"
    return f"{abs(change):.1%} {more} instructions a call: {base.each:,.0f} -> {head.each:,.0f}"


def suspicions(
    base: Arm,
    head: Arm,
    entries: Sequence[Entry],
    seed: int,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> dict[str, str]:
    """What there is to say of each benchmark that can be counted. Raises `LabError`."""
    chosen = [entry for entry in entries if entry.instructions]
    if not chosen:
        return {}
    ours, theirs = (
        count(arm, chosen, seed, lambda name, at=at: progress(at, 2, name))  # type: ignore[misc]
        for at, arm in enumerate((base, head))
    )
    said = {entry.name: suspicion(ours[entry.name], theirs[entry.name]) for entry in chosen}
    return {name: what for name, what in said.items() if what}
