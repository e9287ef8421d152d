"""Runs and comparisons as text: tables on a terminal, lines with tabs in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import mean, median, stdev

from hartwood.lab.compare import Cell, Row
from hartwood.lab.results import Benchmark, Run
from hartwood.lab.steady import WINDOW, median_interval

_SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"), (1e-12, "ps"))
#: What two processes of the same code differ by, whatever the samples of either say: layout of
#: memory and hash tables. Measured, see docs/BENCHMARKING.md; only many processes average it out.
OFFSET = 0.03
#: Share of samples that may be outliers before the suite counts as disturbed.
MANY_OUTLIERS = 0.02


def seconds(value: float) -> str:
    """Seconds in the unit that leaves one to three digits before the point."""
    for scale, unit in _SCALES:
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g} s"


def variation(times: Sequence[float]) -> float:
    """The coefficient of variation, 0 for a single sample."""
    return stdev(times) / mean(times) if len(times) > 1 else 0.0


def _outlying(benchmark: Benchmark) -> tuple[int, int]:
    """Outliers, mild and severe together, on wall and on CPU time."""
    wall, cpu = benchmark.outliers.wall, benchmark.outliers.cpu
    return wall.mild + wall.severe, cpu.mild + cpu.severe


def outlier_rates(run: Run) -> tuple[float, float]:
    """The share of all samples of a run that are outliers, on wall and on CPU time."""
    samples = sum(len(benchmark.wall) for benchmark in run.benchmarks) or 1
    pairs = [_outlying(benchmark) for benchmark in run.benchmarks]
    return sum(wall for wall, _ in pairs) / samples, sum(cpu for _, cpu in pairs) / samples


def run_rows(run: Run) -> list[list[str]]:
    """A line of columns for each benchmark: name, time per unit, its interval, variation, outliers,
    what is to be said about it."""
    rows = []
    for benchmark in run.benchmarks:
        if benchmark.status != "ok":
            note = f"{benchmark.status}: {benchmark.reason}"
            rows.append([benchmark.name, "", "", "", "", note])
            continue
        low, high = median_interval(benchmark.times)
        middle = median(benchmark.times)
        wall, cpu = _outlying(benchmark)
        causes = benchmark.outliers.causes
        notes = [f"{count} {cause}" for cause, count in sorted(causes.items())]
        if benchmark.retaken:
            notes.append(f"{benchmark.retaken} retaken")
        if benchmark.warmup.samples < 2 * WINDOW:
            notes.insert(0, "calls too long to tell whether steady")
        elif not benchmark.warmup.steady:
            notes.insert(0, "not steady")
        rows.append([
            benchmark.name,
            f"{seconds(middle / benchmark.per_call)}/{benchmark.unit.removesuffix('s')}",
            f"{(low / middle - 1) * 100:+.1f} {(high / middle - 1) * 100:+.1f} %",
            f"{variation(benchmark.times) * 100:.1f} %",
            f"{wall} {cpu} of {len(benchmark.wall)}",
            ", ".join(notes),
        ])  # fmt: skip
    return rows


def print_run(run: Run) -> None:
    """Print a run, and what its samples say about the machine on standard error."""
    columns = ["benchmark", "median", "95 %", "CV", "outliers wall cpu", ""]
    print_table(columns, run_rows(run))
    states = [benchmark.status for benchmark in run.benchmarks]
    wall, cpu = outlier_rates(run)
    line = f"{states.count('ok')} ok, {states.count('failed')} failed, "
    line += f"{states.count('skipped')} skipped; outliers {wall:.1%} on wall, {cpu:.1%} on CPU time"
    if max(wall, cpu) > MANY_OUTLIERS:
        line += f" (more than {MANY_OUTLIERS:.0%}: something else was running)"
    print(line, file=sys.stderr)


def _shown(cell: Cell | None, first: bool) -> str:
    if cell is None:
        return "-"
    if first:
        return seconds(cell.seconds)
    return f"{cell.ratio:.3f} [{cell.low:.3f} {cell.high:.3f}] {seconds(cell.seconds)}"


def _differs(cell: Cell | None) -> bool:
    return cell is not None and abs(cell.ratio - 1) > OFFSET and not cell.low <= 1 <= cell.high


def print_comparison(rows: Sequence[Row], labels: Sequence[str]) -> None:
    """Print a comparison; a "!" marks ratios that neither their interval nor `OFFSET` explains."""
    lines = []
    for row in rows:
        cells = [_shown(cell, index == 0) for index, cell in enumerate(row.cells)]
        lines.append([row.name, *cells, "!" if any(map(_differs, row.cells)) else ""])
    print_table(["benchmark", *labels, ""], lines)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal, lines with tabs in a pipe."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row).rstrip("\t"))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Nothing in a name or an error is markup.
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    Console().print(table)
