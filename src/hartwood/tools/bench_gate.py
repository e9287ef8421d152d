"""`hartwood bench gate | bisect | selftest`: has this change made anything slower?

Exit status: 0 nothing regressed, 1 regressed, 2 could not judge.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hartwood.lab.gate import Settings
    from hartwood.lab.judgement import Judgement

Select = Annotated[
    list[str] | None,
    typer.Argument(help="names, families, groups or globs; the whole gate set without"),
]
Repo = Annotated[Path, typer.Option("--repo", help="the repository to judge")]
Files = Annotated[
    list[str] | None,
    typer.Option("--file", help="benchmarks of your own, relative to the repository"),
]
Paths = Annotated[
    list[str] | None,
    typer.Option("--path", help="what of a checkout goes on the import path (src, or all of it)"),
]
Build = Annotated[str, typer.Option("--build", help="a shell command to run in each checkout")]
Seed = Annotated[
    int | None, typer.Option("--seed", help="of inputs, orders and processors; random without")
]


def register(app: typer.Typer) -> None:
    """Add the gate's commands to `hartwood bench`."""
    app.command("gate")(gate_)
    app.command("bisect")(bisect_)
    app.command("selftest")(selftest_)


def gate_(
    select: Select = None,
    repo: Repo = Path(),
    file: Files = None,
    base: Annotated[
        str | None, typer.Option("--base", help="a revision: its merge-base with the head counts")
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", help="a revision; the tree as it is without")
    ] = None,
    alert: Annotated[float, typer.Option("--alert", help="per cent from which on it is one")] = 10,
    warn: Annotated[float, typer.Option("--warn", help="per cent from which on it is one")] = 5,
    block: Annotated[
        str, typer.Option("--block", help="any | warn | alert: what severity blocks")
    ] = "any",
    budget: Annotated[
        float, typer.Option("--budget", help="per cent that an exact counter may grow by")
    ] = 0,
    removed: Annotated[
        list[str] | None, typer.Option("--removed", help="a benchmark that is meant to be gone")
    ] = None,
    swap: Annotated[
        bool, typer.Option(help="find out which component is to blame by swapping it")
    ] = True,
    instructions: Annotated[
        bool, typer.Option("--instructions", help="count them with valgrind, too; takes minutes")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", help="keep the judgement")] = None,
    path: Paths = None,
    build: Build = "",
    seed: Seed = None,
) -> int:
    """Judge a change: 0 nothing regressed, 1 regressed, 2 could not judge."""
    from hartwood.lab import checkout
    from hartwood.lab.gate import gate
    from hartwood.lab.judgement import save_judgement
    from hartwood.tools.bench import _progress

    settings = replace(
        _settings(select, file, removed, alert, warn, block, budget, seed, swap),
        instructions=instructions,
    )
    with checkout.only_one():
        start = checkout.merge_base(repo, base, head)
        with (
            checkout.trees(repo, start, head, path or (), build) as (old, new),
            _progress() as show,
        ):
            judgement = gate(old, new, settings, show)
    # A judgement that cannot be kept was not made: the report would miss it.
    if json is not None:
        save_judgement(judgement, json)
    print_judgement(judgement)
    return judgement.exit_status


def _settings(
    select: Sequence[str] | None,
    files: Sequence[str] | None,
    removed: Sequence[str] | None,
    alert: float,
    warn: float,
    block: str,
    budget: float,
    seed: int | None,
    swap: bool,
) -> Settings:
    from hartwood.lab.gate import Settings
    from hartwood.lab.verdict import Rules

    return Settings(
        Rules(warn=warn / 100, alert=alert / 100), select=tuple(select or ()),
        files=tuple(files or ()), removed=tuple(removed or ()), block=block, budget=budget / 100,
        seed=random.SystemRandom().getrandbits(31) if seed is None else seed, attribution=swap,
    )  # fmt: skip


def print_judgement(judgement: Judgement) -> None:
    """A line for each benchmark, the worst first, and the verdict."""
    order = ("regressed", "inconclusive", "improved", "new", "skipped", "pass")
    for each in sorted(judgement.benchmarks, key=lambda one: order.index(one.verdict)):
        label = f" ({each.severity})" if each.severity else ""
        columns = [each.name, each.verdict + label]
        if each.trials:
            low, high = each.interval
            columns += [f"x{each.ratio:.3f} [{low:.3f}, {high:.3f}]", f"sees {each.mde:.1%}"]
        else:
            columns += ["", ""]
        blame = f"culprit {each.culprit}; " if each.culprit else ""
        suspect = f"; {each.suspect}" if each.suspect else ""
        print("\t".join([*columns, (blame + each.reason + suspect).removeprefix("; ")]))
    counts = {name: sum(b.verdict == name for b in judgement.benchmarks) for name in order}
    shown = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    reason = f": {judgement.reason}" if judgement.reason else ""
    typer.echo(
        f"{judgement.verdict}{reason} ({shown}; {judgement.seconds:.0f} s; "
        f"base {judgement.base[:12]}, head {judgement.head[:13]})",
        err=True,
    )


def bisect_(
    good: Annotated[str, typer.Argument(help="a revision that is fast")],
    bad: Annotated[str, typer.Argument(help="a later one that is slow")],
    benchmark: Annotated[str, typer.Argument(help="the benchmark that says so")],
    repo: Repo = Path(),
    file: Files = None,
    path: Paths = None,
    build: Build = "",
    seed: Seed = None,
) -> int:
    """Find the commit that made a benchmark slower, with the gate as judge."""
    from hartwood.lab import checkout
    from hartwood.lab.bisect import bisect
    from hartwood.lab.verdict import Rules

    rules = Rules()
    settings = _settings(
        [benchmark], file, (), rules.alert * 100, rules.warn * 100, "any", 0, seed, False
    )
    with checkout.only_one():
        found = bisect(repo, good, bad, settings, path or (), build, print)
    print(f"{found.commit}\tx{found.ratio:.3f}\t{found.subject}")
    return 0


def selftest_(
    select: Select = None,
    suites: Annotated[int, typer.Option("--suites", help="suites to run")] = 1,
    arms: Annotated[
        int, typer.Option("--arms", help="of identical code in a suite, each two of them compared")
    ] = 2,
    plant: Annotated[
        str, typer.Option("--plant", help="an arm for each per cent of slowdown, as in 2,3,5,10")
    ] = "",
    noise: Annotated[int, typer.Option("--noise", help="processes that disturb meanwhile")] = 0,
    swaps: Annotated[
        int, typer.Option("--swaps", help="attributions to try for each planted component")
    ] = 0,
    record: Annotated[
        Path, typer.Option("--record", help="JSON lines that trials are added to")
    ] = Path("selftest.jsonl"),
    resamples: Annotated[
        int, typer.Option("--resamples", help="suites to draw from what is recorded")
    ] = 2000,
    json: Annotated[Path | None, typer.Option("--json", help="keep the figures")] = None,
    repo: Repo = Path(),
    file: Files = None,
    path: Paths = None,
    seed: Seed = None,
) -> int:
    """Measure the gate itself; 1 where it is not what it has to be, so that it can be disarmed."""
    from hartwood.lab import checkout, evidence, selftest
    from hartwood.lab.results import write_json
    from hartwood.tools.bench import _progress

    try:
        shares = [float(word) / 100 for word in plant.split(",") if word]
    except ValueError:
        raise typer.BadParameter(f"--plant {plant!r}: numbers with commas between") from None
    scope = selftest.Scope(suites, arms, tuple(shares), noise, swaps)
    settings = _settings(select, file, (), 10, 5, "any", 0, seed, True)
    # Before the time is spent: a damaged record is said so, and stays as it is.
    evidence.load(record)
    with checkout.only_one(), _progress() as show:
        selftest.measure(repo, settings, path or (), scope, record, show)
    figures = evidence.figures(evidence.load(record), settings.rules, resamples, settings.seed)
    if json is not None:
        write_json(json, figures.as_json())
    for line in figures.lines():
        print(line)
    if not figures.armed:
        typer.echo(f"the gate is not to be trusted here: {figures.why}", err=True)
    return 0 if figures.armed else 1
