"""The report as one HTML page that opens offline: small inline SVG, one script that sorts tables.

Names and reasons are somebody else's text: all of it goes through `_row` or `escape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median

from hartwood.lab.history import Trend
from hartwood.lab.report import Report, effect, peer_rows, selftest_lines, trend_lines

WIDTH, HEIGHT = 320, 64

_STYLE = """
:root { color-scheme: light dark; --fg: #1b1f24; --bg: #fff; --line: #c9d1d9; --mark: #0a5dc2;
  --bad: #b3261e; --good: #1a7f37; --dim: #5a6470 }
@media (prefers-color-scheme: dark) { :root { --fg: #e6edf3; --bg: #0f1319; --line: #3d444d;
  --mark: #6cb0ff; --bad: #ff8a80; --good: #56d364; --dim: #9aa4af } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--fg); background: var(--bg);
  margin: 0 auto; padding: 1rem; max-width: 70rem; overflow-wrap: anywhere }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line) }
td { overflow-wrap: anywhere; min-width: 5rem } th button { all: unset; cursor: pointer }
th button:focus-visible { outline: 2px solid var(--mark) }
.regressed, .inconclusive, .breach, .expired, .unknown, .failed { color: var(--bad) }
.improved { color: var(--good) } .dim { color: var(--dim) }
svg { width: 100%; min-width: 10rem; max-width: 20rem; height: auto; display: block }
svg .data { fill: none; stroke: var(--mark); stroke-width: 1.5 } svg circle { fill: var(--mark) }
svg .axis { stroke: var(--line) } svg .change { stroke: var(--bad); stroke-dasharray: 3 2 }
@media (max-width: 40rem) { thead tr { display: flex; flex-wrap: wrap }
  tbody tr { display: block; border-bottom: 1px solid var(--line); padding: .3rem 0 }
  td { display: block; border: 0; padding: 0 .6rem } td:empty { display: none } }
"""

_SCRIPT = """
document.querySelectorAll("th button").forEach(button => button.onclick = () => {
  const head = button.parentNode, body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const each of head.parentNode.cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
  const key = row => row.cells[head.cellIndex].dataset.key ?? "";
  const rows = [...body.rows].sort((a, b) =>
    down * key(a).localeCompare(key(b), "en", { numeric: true }) );
  if ([...body.rows].every(row => key(row) !== "" && !isNaN(key(row))))
    rows.sort((a, b) => down * (key(a) - key(b)));
  body.append(...rows);
});
"""

#: What a cell shows, what it sorts by, whether it is markup already.
Cell = tuple[str, str, bool]


def _text(text: str, key: object = None) -> Cell:
    return text, text if key is None else str(key), False


def _table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    top = "".join(f"<th><button>{escape(head)}</button></th>" for head in heads)
    body = "".join(_row(kind, cells) for kind, cells in rows)
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _row(kind: str, cells: Sequence[Cell]) -> str:
    inner = "".join(
        f'<td data-key="{escape(key)}">{shown if markup else escape(shown)}</td>'
        for shown, key, markup in cells
    )
    return f'<tr class="{escape(kind)}">{inner}</tr>'


def _svg(label: str, inner: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT - 4}" y2="{HEIGHT - 4}"/>{inner}</svg>'
    )


def _scale(values: Sequence[float], size: float) -> list[float]:
    low, high = min(values), max(values)
    return [4 + (value - low) / ((high - low) or 1) * (size - 12) for value in values]


def distribution(label: str, times: Sequence[float]) -> str:
    """Samples as bars of a histogram, from the fastest to the slowest."""
    low, high, count = min(times), max(times), 32
    bins = [0] * count
    for time in times:
        bins[min(count - 1, int((time - low) / ((high - low) or 1) * count))] += 1
    step, top = WIDTH / count, max(bins)
    bars = "".join(
        f"M{at * step + step / 2:.1f} {HEIGHT - 4}v{-each / top * (HEIGHT - 10):.1f}"
        for at, each in enumerate(bins) if each
    )  # fmt: skip
    return _svg(label, f'<path class="data" style="stroke-width:{step - 1:.1f}" d="{bars}"/>')


def line(trend: Trend) -> str:
    """A history, with a dashed line at each change point."""
    values = [point.value for point in trend.points]
    across = _scale(list(range(len(values))), WIDTH)
    down = [HEIGHT - 4 - y for y in _scale(values, HEIGHT)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
    dots = "".join(
        f'<circle r="2" cx="{x:.1f}" cy="{y:.1f}"/>' for x, y in zip(across, down, strict=True)
    )
    marks = "".join(
        f'<line class="change" x1="{across[c.at]:.1f}" x2="{across[c.at]:.1f}" y1="0" '
        f'y2="{HEIGHT}"/>' for c in trend.changes
    )  # fmt: skip
    return _svg(trend.name, f'<polyline class="data" points="{points}"/>{dots}{marks}')


def html(report: Report) -> str:
    """The page."""
    parts = [f'<h1>Performance</h1><p class="{_class(report)}">{escape(report.headline)}</p>']
    if report.judgement:
        parts.append(
            f'<p class="dim">base {escape(report.judgement.base)}, '
            f"head {escape(report.judgement.head)}, {escape(report.judgement.created)}</p>"
        )
        rows = [
            (each.verdict, [
                _text(each.name), _text(each.component), _text(each.verdict), _text(each.severity),
                _text(effect(each), each.ratio if each.trials else ""),
                _text(f"{each.mde:.1%}" if each.trials else "", each.mde),
                _text("; ".join(filter(None, (each.culprit, each.suspect, each.reason)))),
            ]) for each in report.judged()
        ]  # fmt: skip
        heads = ["benchmark", "component", "verdict", "severity", "time", "sees", "why"]
        parts.append(_section("Verdicts", _table(heads, rows)))
    for run in report.runs:
        title = f"Distributions {run.revision[:12]} {run.created}"
        rows = [
            (each.status, [
                _text(each.name), _text(each.component),
                _text(f"{median(each.times):.4g} s", median(each.times)) if each.times
                else _text(each.status, ""),
                (distribution(each.name, each.times), str(len(each.times)), True) if each.times
                else _text(each.reason),
            ]) for each in run.benchmarks
        ]  # fmt: skip
        heads = ["benchmark", "component", "median per call", "samples"]
        parts.append(_section(title, _table(heads, rows)))
    if report.trends:
        rows = [
            ("", [
                _text(each.name), _text("ratio" if each.ratio else "seconds"),
                _text(f"{each.points[-1].value:.4g}", each.points[-1].value),
                (line(each), str(len(each.points)), True),
                _text("; ".join(trend_lines([each]))),
            ]) for each in report.trends
        ]  # fmt: skip
        heads = ["benchmark", "in", "last", "history", "changes"]
        parts.append(_section("Histories", _table(heads, rows)))
    if report.spent:
        rows = [(each.state, [_text(cell) for cell in each.line().split("\t")])
                for each in report.spent]  # fmt: skip
        parts.append(_section("Budgets", _table(["subject", "kind", "state", "figures"], rows)))
    if report.damaged:
        lines = "".join(f"<li>{escape(each)}</li>" for each in report.damaged)
        parts.append(_section("Damaged history", f'<ul class="failed">{lines}</ul>'))
    if report.faults:
        lines = "".join(f"<li>{escape(each)}</li>" for each in report.faults)
        parts.append(_section("Missing", f'<ul class="failed">{lines}</ul>'))
    if report.peers:
        peers = peer_rows(report.peers)
        table = _table(peers[0], [("", list(map(_text, cells))) for cells in peers[1:]])
        parts.append(_section("Peers", table))
    lines = "".join(f"<li>{escape(each)}</li>" for each in selftest_lines(report))
    parts.append(_section("The gate, measured on itself", f"<ul>{lines}</ul>"))
    machine = next((r.machine for r in [report.judgement, *report.runs] if r and r.machine), {})
    if machine:
        rows = [("", [_text(key), _text(str(value))]) for key, value in machine.items()]
        parts.append(_section("Machine", _table(["fact", "value"], rows)))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Performance</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}<script>{_SCRIPT}</script>"
        "</body></html>\n"
    )


def _class(report: Report) -> str:
    return report.judgement.verdict if report.judgement else "inconclusive"


def _section(title: str, inner: str) -> str:
    return f"<h2>{escape(title)}</h2>{inner}"
