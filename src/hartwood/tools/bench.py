"""`hartwood bench`: the performance laboratory's commands.

The gate's and the report's are in modules of their own, which add themselves to the same group.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

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


@app.command("list")
def list_(select: Select = None, file: Files = None) -> None:
    """List the benchmarks."""
    from hartwood.lab.worker import Worker
    from hartwood.lab.workload import select as chosen

    with Worker(files=file or [], own=not file) as worker:
        for entry in chosen(worker.list(), select or []):
            print(f"{entry.name}\t{entry.family}\t{entry.component}\t{entry.unit}")


for _name in MORE:
    if importlib.util.find_spec(_name) is not None:
        importlib.import_module(_name).register(app)
