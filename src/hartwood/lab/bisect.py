"""`bench bisect`: the commit that made a benchmark slower, with the gate as judge.

Every candidate is compared with the good end and not with its neighbour, so the slowdown that is
looked for is whole at every step and the gate's power is what it was at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hartwood.lab.checkout import resolved, trees
from hartwood.lab.compare import git
from hartwood.lab.gate import Settings, gate
from hartwood.lab.judgement import Judged
from hartwood.lab.workload import LabError


@dataclass(frozen=True)
class Found:
    """The first slow commit, what it says of itself, and how much slower than the good end."""

    commit: str
    subject: str
    ratio: float
    steps: int


def commits(repository: Path, good: str, bad: str) -> list[str]:
    """Those after `good` up to `bad`, oldest first. Raises `LabError` where there are none.

    First parents only: a merge counts as one change, since that is what can be taken back.
    """
    start, end = resolved(repository, good), resolved(repository, bad)
    listed = git(repository, "rev-list", "--first-parent", "--reverse", f"{start}..{end}").split()
    if not listed:
        raise LabError(f"{bad} is not after {good}: there is nothing between them")
    return listed


def search(
    count: int, slow: Callable[[int], bool | None], say: Callable[[str], None] = lambda text: None
) -> tuple[int, int]:
    """The first of `count` commits for which `slow` is true, given that the last is, and how many
    were tried. One that cannot be judged (None) is passed over for a neighbour of its.

    Raises `LabError` where only commits that cannot be judged stand between fast and slow.
    """
    fast, found, tried = -1, count - 1, 0
    unknown: set[int] = set()
    while found - fast > 1:
        middle = (fast + found) // 2
        open_ = [at for at in range(fast + 1, found) if at not in unknown]
        if not open_:
            raise LabError(
                f"one of {found - fast} commits is to blame, and those between cannot be judged"
            )
        at = min(open_, key=lambda each: abs(each - middle))
        tried += 1
        answer = slow(at)
        say(f"{at + 1} of {count}: {'no answer' if answer is None else 'slow' if answer else 'ok'}")
        if answer is None:
            unknown.add(at)
        elif answer:
            found = at
        else:
            fast = at
    return found, tried


def bisect(
    repository: Path,
    good: str,
    bad: str,
    settings: Settings,
    paths: Sequence[str] = (),
    build: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> Found:
    """Find the commit. `settings.select` names one benchmark.

    Raises `LabError` where the gate does not find the bad end slower than the good one.
    """
    start, listed = resolved(repository, good), commits(repository, good, bad)
    ratios: dict[int, float] = {}
    settings = replace(settings, attribution=False)

    def judged(at: int) -> Judged:
        with trees(repository, start, listed[at], paths, build) as (old, new):
            (only, *more) = gate(old, new, settings).benchmarks
        if more:
            raise LabError(f"bisect takes one benchmark, and {len(more) + 1} answer to that name")
        ratios[at] = only.ratio
        return only

    def slow(at: int) -> bool | None:
        try:
            verdict = judged(at).verdict
        except LabError as error:
            say(f"{listed[at][:12]} cannot be judged: {error}")
            return None
        return {"regressed": True, "pass": False, "improved": False}.get(verdict)

    last = judged(len(listed) - 1)
    if last.verdict != "regressed":
        raise LabError(f"{bad} is not slower than {good}: {last.verdict} (x{last.ratio:.3f})")
    at, tried = search(len(listed), slow, say)
    subject = git(repository, "show", "--no-patch", "--format=%s", listed[at])
    return Found(listed[at], subject, ratios[at], tried + 1)
