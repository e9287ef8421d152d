"""`hartwood bench report | history | budget | export | import`: what was found, kept and agreed.

Exit status: 0 fine, 1 a budget breached or expired, 2 something is missing or cannot be read.
"""

from __future__ import annotations

import json as json_
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hartwood.lab.budget import Spent
    from hartwood.lab.history import History
    from hartwood.lab.report import Report

Results = Annotated[
    list[Path] | None, typer.Argument(help="files of runs, and of one judgement of the gate")
]
Folder = Annotated[Path | None, typer.Option("--history", help="the folder of the history")]
Budgets = Annotated[Path | None, typer.Option("--budgets", help="a budgets.toml")]
Out = Annotated[Path | None, typer.Option(help="write it there", show_default=False)]

#: Stored results of this project's own, in the folder the command is given in.
EVIDENCE = Path("bench/evidence")
SELFTEST = EVIDENCE / "selftest.json"
GOALS = Path("bench/goals.toml")
CHECKLIST = Path("docs/PERFORMANCE_OPTIMIZATION_CHECKLIST.md")


def register(app: typer.Typer) -> None:
    """Add these commands to `hartwood bench`."""
    app.command("report")(report_)
    app.command("history")(history_)
    app.command("budget")(budget_)
    app.command("export")(export_)
    app.command("import")(import_)


def report_(
    files: Results = None,
    history: Folder = None,
    budgets: Budgets = None,
    html: Out = None,
    md: Out = None,
    json: Out = None,
    junit: Out = None,
    sarif: Out = None,
    selftest: Annotated[
        Path | None, typer.Option("--selftest", help="figures of `bench selftest --json`")
    ] = None,
    checklist: Annotated[
        bool, typer.Option("--checklist", help=f"write {CHECKLIST} on stored results instead")
    ] = False,
    goals: Annotated[Path, typer.Option("--goals", help="goals for it")] = GOALS,
    summary: Out = None,
) -> int:
    """Write reports on stored results; Markdown on standard output if no file is named."""
    if checklist or summary is not None:
        _checklist(files, goals, checklist, summary)
        return 0
    found = gather(files, history, budgets, selftest)
    if any((html, md, json, junit, sarif)):
        write(found, html, md, json, junit, sarif)
    else:
        from hartwood.lab.report import markdown

        typer.echo(markdown(found), nl=False)
    return 0


def _checklist(files: list[Path] | None, goals: Path, whole: bool, summary: Path | None) -> None:
    """The checklist and its summary from the files that are named, or all of `EVIDENCE`."""
    from hartwood.lab import goals as lists

    wanted = lists.load_goals(goals)
    results = lists.stored(files or sorted(EVIDENCE.glob("*.json")))
    if whole:
        _write(CHECKLIST, lists.checklist(wanted, results))
    if summary is not None:
        _write(summary, lists.summary(wanted, results))


def write(
    found: Report,
    html: Path | None = None,
    md: Path | None = None,
    json: Path | None = None,
    junit: Path | None = None,
    sarif: Path | None = None,
) -> None:
    """Write the forms that have a path. Raises `LabError`."""
    from hartwood.lab import report as forms
    from hartwood.lab.page import html as page
    from hartwood.lab.results import write_json

    for path, form in ((html, page), (md, forms.markdown), (junit, forms.junit)):
        if path is not None:
            _write(path, form(found))
    for path, tree in ((json, forms.as_json), (sarif, forms.sarif)):
        if path is not None:
            write_json(path, tree(found))


def gather(
    files: list[Path] | None,
    history: Path | None = None,
    budgets: Path | None = None,
    selftest: Path | None = None,
) -> Report:
    """Everything a report is on; the self-test's figures are those of `SELFTEST` where none are
    named. Raises `LabError`."""
    from hartwood.lab.evidence import figures_from
    from hartwood.lab.history import History
    from hartwood.lab.report import load
    from hartwood.lab.results import read_json
    from hartwood.lab.workload import LabError

    found = load(files or [])
    if not files and history is None:
        raise LabError("nothing to report on: name files of results, or --history")
    if selftest is not None or SELFTEST.is_file():
        path = selftest or SELFTEST
        found.selftest = figures_from(read_json(path), str(path))
    if history is not None:
        past = History(history)
        found.trends = past.trends()
        found.damaged = past.damaged
    if budgets is not None:
        found.spent = _spend(found, budgets, History(history) if history else None)
    return found


def _spend(found: Report, budgets: Path, past: History | None) -> list[Spent]:
    from hartwood.lab.budget import load_budgets, spend

    having = [record for record in past.records() if record.ratios] if past else []
    run = found.runs[-1] if found.runs else None
    last = having[-1] if having else None
    today = datetime.now(UTC).date()
    return spend(load_budgets(budgets), today, run, found.judgement, last)


def _write(path: Path, text: str) -> None:
    from hartwood.lab.workload import LabError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise LabError(f"{path}: cannot be written: {error.strerror}") from None


def history_(
    folder: Annotated[Path, typer.Argument(help="the folder of the history")],
    add: Annotated[
        list[Path] | None, typer.Option("--add", help="a run, or a judgement against a reference")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="a run of the pinned reference")
    ] = None,
    release: Annotated[bool, typer.Option("--release", help="what is added is one")] = False,
) -> int:
    """Add to a history, then say what changed in it; 2 if lines of it are damaged."""
    from hartwood.lab.history import History, record_of, record_of_gate
    from hartwood.lab.report import load, trend_lines
    from hartwood.lab.results import load_run

    past = History(folder)
    base = load_run(reference) if reference else None
    for path in add or []:
        found = load([path])
        if found.judgement is not None:
            past.append(record_of_gate(found.judgement, release))
        for run in found.runs:
            past.append(record_of(run, base, release))
    past.index()
    trends = past.trends()
    for line in trend_lines(trends):
        print(line)
    typer.echo(f"{len(trends)} benchmarks, {len(past.records())} records", err=True)
    for line in past.damaged:
        typer.echo(line, err=True)
    return 2 if past.damaged else 0


def budget_(
    files: Results = None,
    budgets: Annotated[Path, typer.Option("--budgets", help="a budgets.toml")] = Path(
        "budgets.toml"
    ),
    history: Folder = None,
) -> int:
    """Hold results against budgets: 1 for a breach or an expired one, 2 for one not measured."""
    from hartwood.lab.budget import exit_status
    from hartwood.lab.history import History
    from hartwood.lab.report import load

    past = History(history) if history else None
    spent = _spend(load(files or []), budgets, past)
    for each in spent:
        print(each.line())
    for line in past.damaged if past else []:
        typer.echo(line, err=True)
    return exit_status(spent) or (2 if past and past.damaged else 0)


def export_(
    file: Annotated[Path, typer.Argument(help="a run")],
    to: Annotated[str, typer.Option("--to", help="the tool's name")],
    json: Out = None,
) -> None:
    """Write a run as another tool's JSON."""
    from hartwood.lab.exchange import export
    from hartwood.lab.results import load_run, write_json

    made = export(load_run(file), to)
    if json is None:
        typer.echo(json_.dumps(made, indent=1, allow_nan=False))
    else:
        write_json(json, made)


def import_(
    file: Annotated[Path, typer.Argument(help="another tool's results")],
    source: Annotated[str, typer.Option("--from", help="the tool's name")],
    json: Annotated[Path, typer.Option("--json", help="keep the run")],
) -> None:
    """Read another tool's results as a run."""
    from hartwood.lab.exchange import read
    from hartwood.lab.results import save_run

    save_run(read(file, source), json)
