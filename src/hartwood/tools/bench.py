"""`hartwood bench`: the performance laboratory's commands `list`, `run` and `compare`.

The gate's and the report's are in modules of their own, which add themselves to the same group.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hartwood.lab.results import Run
    from hartwood.lab.runner import Mode, Progress
    from hartwood.lab.worker import Worker

app = typer.Typer(help="The performance laboratory: run, compare and judge benchmarks.")

#: Modules that add commands of theirs with `register(app)`, as far as they are there.
MORE = ("hartwood.tools.bench_gate", "hartwood.tools.bench_report")

Select = Annotated[
    list[str] | None,
    typer.Argument(help="names, families, groups or globs; all without", show_default=False),
]
Files = Annotated[
    list[Path] | None,
    typer.Option("--file", help="benchmarks of your own, instead of Hartwood's"),
]
Quick = Annotated[bool, typer.Option("--quick", help="about a second a benchmark (the default)")]
Full = Annotated[bool, typer.Option("--full", help="100 samples, 3 s of warm-up, 5 s")]
Classic = Annotated[bool, typer.Option("--classic", help="200 samples, 5 s of warm-up, 10 s")]
Seed = Annotated[int, typer.Option("--seed", help="of every benchmark's inputs")]
Repo = Annotated[Path, typer.Option("--repo", help="the repository that revisions are of")]
AnyMachine = Annotated[
    bool, typer.Option("--any-machine", help="compare runs of different machines all the same")
]


@app.command("list")
def list_(
    select: Select = None,
    file: Files = None,
    check: Annotated[
        bool, typer.Option("--check", help="run each once and check its answer")
    ] = False,
) -> None:
    """List the benchmarks."""
    from hartwood.lab.table import print_table
    from hartwood.lab.worker import Worker
    from hartwood.lab.workload import LabError
    from hartwood.lab.workload import select as choose

    bad, rows = [], []
    with Worker(files=file or [], own=not file) as worker, _progress() as progress:
        entries = choose(worker.list(), select or [])
        broken = {} if select else worker.broken
        bad += [f"{name}: cannot be loaded: {why}" for name, why in broken.items()]
        for index, entry in enumerate(entries):
            state = "gate" if entry.gate else f"not in the gate: {entry.why}"
            if check:
                progress(index, len(entries), entry.name, "check")
                state = _checked(worker, entry.name, bad)
            rows.append([entry.name, entry.family, entry.component, entry.unit, state])
    print_table(["benchmark", "family", "component", "unit", ""], rows)
    if bad:
        raise LabError(f"{len(bad)} of {len(entries) + len(broken)} are bad: {'; '.join(bad)}")


def _checked(worker: Worker, name: str, bad: list[str]) -> str:
    """What came of one call; what is wrong with it is added to `bad`."""
    from hartwood.lab.workload import LabError, Skip

    try:
        worker.prepare(name, 1)
        worker.release(name)
    except Skip as reason:
        return f"skipped: {reason}"
    except LabError as error:
        bad.append(str(error))
        return "failed"
    return "ok"


@app.command("run")
def run_(
    select: Select = None,
    quick: Quick = False,
    full: Full = False,
    classic: Classic = False,
    peers: Annotated[
        bool, typer.Option("--peers", help="run other programs that do the same, too")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", help="keep the results in a file")] = None,
    save: Annotated[
        str | None, typer.Option("--save-baseline", help="keep the results under a name")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="compare with what was kept under a name")
    ] = None,
    file: Files = None,
    seed: Seed = 1,
    any_machine: AnyMachine = False,
) -> int:
    """Run benchmarks on the tree as it is."""
    from hartwood.lab.results import baseline_path, load_run, save_run
    from hartwood.lab.runner import Arm, run
    from hartwood.lab.table import print_comparison, print_run

    # What cannot be used is said before the time is spent.
    base = load_run(baseline_path(baseline)) if baseline else None
    targets = [path for path in (json, baseline_path(save) if save else None) if path]
    mode = _mode(quick, full, classic)
    with _progress() as progress:
        (found,) = run(
            select or [], mode=mode, seed=seed, arms=[Arm(file or [])], peers=peers,
            progress=progress,
        )  # fmt: skip
    # Before the table: whoever closes the pipe wants the results all the same.
    for target in targets:
        save_run(found, target)
    print_run(found)
    if base is not None and baseline:
        _compare([base, found], [baseline, "now"], select or [], any_machine, print_comparison)
    return int(any(benchmark.status == "failed" for benchmark in found.benchmarks))


@app.command("compare")
def compare_(
    what: Annotated[
        list[str], typer.Argument(help="files of results, baselines, or git revisions")
    ],
    select: Annotated[
        list[str] | None, typer.Option("--select", help="names, families, groups or globs")
    ] = None,
    quick: Quick = False,
    full: Full = False,
    classic: Classic = False,
    repo: Repo = Path(),
    file: Files = None,
    seed: Seed = 1,
    any_machine: AnyMachine = False,
) -> None:
    """Compare runs: a table with ratios to the first and their 95 % intervals."""
    from hartwood.lab.compare import checkout, import_paths, resolve
    from hartwood.lab.runner import Arm, run
    from hartwood.lab.table import print_comparison
    from hartwood.lab.workload import LabError

    if len(what) < 2:
        raise LabError("compare wants at least two runs, baselines or revisions")
    mode = _mode(quick, full, classic)
    # All of them before any is measured: a slip of the pen costs no minutes.
    meant = [resolve(name, repo) for name in what]
    revisions = list(dict.fromkeys(each for each in meant if isinstance(each, str)))
    measured: dict[str, Run] = {}
    if revisions:
        with ExitStack() as stack:
            trees = [stack.enter_context(checkout(repo, each)) for each in revisions]
            arms = [Arm([tree / f for f in file or []], import_paths(tree), tree) for tree in trees]
            progress = stack.enter_context(_progress())
            found = run(select or [], mode=mode, seed=seed, arms=arms, progress=progress)
        measured = dict(zip(revisions, found, strict=True))
    runs = [measured[each] if isinstance(each, str) else each for each in meant]
    _compare(runs, what, select or [], any_machine, print_comparison)


def _compare(
    runs: list[Run], labels: list[str], select: list[str], any_machine: bool, show: object
) -> None:
    from hartwood.lab.compare import compare, same_machine

    if not any_machine:
        same_machine(runs, labels)
    assert callable(show)
    show(compare(runs, select), labels)


def _mode(quick: bool, full: bool, classic: bool) -> Mode:
    from hartwood.lab.runner import MODES

    names = [name for name, on in (("quick", quick), ("full", full), ("classic", classic)) if on]
    if len(names) > 1:
        raise typer.BadParameter(f"--{' and --'.join(names)} exclude each other")
    return MODES[names[0] if names else "quick"]


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar with the time left, on a terminal; nothing where standard error is none."""
    if not sys.stderr.isatty():
        yield lambda done, total, name, phase: None
        return
    from rich import progress as parts
    from rich.console import Console

    columns = (
        parts.TextColumn("{task.description}"),
        parts.BarColumn(),
        parts.MofNCompleteColumn(),
        parts.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with parts.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(done: int, total: int, name: str, phase: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{phase} {name:<32.32}")

        yield show


for _name in MORE:
    if importlib.util.find_spec(_name) is not None:
        importlib.import_module(_name).register(app)
