"""What is known, for a person or a machine: Markdown, JSON, JUnit and SARIF. HTML is in `page`.

Without a judgement a report says so: it is never green by default.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from hartwood.lab.budget import Spent
from hartwood.lab.evidence import Figures
from hartwood.lab.goals import Peers, engine_from, is_engine, peers_of_engine, peers_of_run
from hartwood.lab.history import Trend
from hartwood.lab.judgement import Judged, Judgement, judgement_from, judgement_json
from hartwood.lab.results import Run, read_json, run_from, run_json
from hartwood.lab.workload import LabError

#: By this a comment on a pull request finds itself again.
MARK = "<!-- hartwood-lab -->"
ORDER = ("regressed", "inconclusive", "improved", "new", "skipped", "pass")


@dataclass
class Report:
    """Everything a report is made from; any part may be absent. `faults` says what should be there
    and is not."""

    judgement: Judgement | None = None
    runs: list[Run] = field(default_factory=list)
    trends: list[Trend] = field(default_factory=list)
    spent: list[Spent] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    peers: list[Peers] = field(default_factory=list)
    selftest: Figures | None = None
    faults: list[str] = field(default_factory=list)

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        if self.judgement is None:
            return f"not judged: {(self.faults or ['there is no judgement of a gate'])[0]}"
        reason = f": {self.judgement.reason}" if self.judgement.reason else ""
        return f"{self.judgement.verdict}{reason}"

    def judged(self) -> list[Judged]:
        """The judged benchmarks, the worst first."""
        found = self.judgement.benchmarks if self.judgement else []
        return sorted(found, key=lambda each: (ORDER.index(each.verdict), -each.ratio))


def load(paths: Sequence[Path]) -> Report:
    """A report on files of runs, of `make bench`, and at most one judgement. Raises `LabError`."""
    report = Report()
    for path in paths:
        value = read_json(path)
        schema = value.get("schema") if isinstance(value, dict) else None
        if str(schema).startswith("hartwood-lab-gate/"):
            if report.judgement is not None:
                raise LabError(f"{path}: a report is on one judgement, and there was one already")
            report.judgement = judgement_from(value, str(path))
        elif is_engine(value):
            report.peers += peers_of_engine(engine_from(value, str(path)))
        else:
            report.runs.append(run_from(value, str(path)))
            report.peers += peers_of_run(report.runs[-1])
    return report


def _cell(text: str) -> str:
    """Text of somebody else's in a table: nothing in it is markup, a mention or a link."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>|#~!&@])", lambda found: f"&#{ord(found[1])};", flat)


def effect(each: Judged) -> str:
    """A judged ratio with its interval, "" without trials."""
    if not each.trials:
        return ""
    low, high = ((bound - 1) * 100 for bound in each.interval)
    return f"{(each.ratio - 1) * 100:+.1f} % [{low:+.1f}, {high:+.1f}]"


def markdown(report: Report) -> str:
    """A comment for a pull request: what needs a look in the open, the rest folded away."""
    lines = [MARK, f"### Performance: {_cell(report.headline)}", ""]
    if report.judgement:
        about = report.judgement
        lines += [f"base {_cell(about.base[:12])}, head {_cell(about.head[:13])}", ""]
    head = ["| benchmark | verdict | time | sees | why |", "|---|---|---:|---:|---|"]

    def row(each: Judged) -> str:
        label = each.verdict + (f" ({each.severity})" if each.severity else "")
        why = "; ".join(filter(None, (each.culprit, each.suspect, each.reason)))
        sees = f"{each.mde:.1%}" if each.trials else ""
        return f"| {_cell(each.name)} | {label} | {effect(each)} | {sees} | {_cell(why)} |"

    rows = report.judged()
    loud = [row(each) for each in rows if each.verdict not in ("pass", "skipped")]
    calm = [row(each) for each in rows if each.verdict in ("pass", "skipped")]
    if loud:
        lines += [*head, *loud, ""]
    if calm:
        summary = f"<details><summary>{len(calm)} without a finding</summary>"
        lines += [summary, "", *head, *calm, "", "</details>", ""]
    lines += [f"- budget {_cell(each.line())}" for each in report.spent if each.state != "ok"]
    lines += [f"- {_cell(line)}" for line in trend_lines(report.trends)]
    lines += [f"- history: {_cell(line)}" for line in report.damaged]
    lines += [f"- {_cell(line)}" for line in report.faults]
    if report.peers:
        heads, *cells = peer_rows(report.peers)
        lines += [
            "",
            "<details><summary>Peers</summary>",
            "",
            f"| {' | '.join(map(_cell, heads))} |",
        ]
        lines += ["|---" * len(heads) + "|"]
        lines += [f"| {' | '.join(map(_cell, each))} |" for each in cells]
        lines += ["", "</details>"]
    lines += ["", "<details><summary>The gate, measured on itself</summary>", ""]
    lines += [f"- {_cell(line)}" for line in selftest_lines(report)]
    lines += ["", "</details>"]
    return "\n".join(lines).rstrip() + "\n"


def trend_lines(trends: Sequence[Trend]) -> list[str]:
    """A line for each change point and each creep."""
    found = []
    for trend in trends:
        for change in trend.changes:
            point = trend.points[change.at]
            found.append(
                f"{trend.name}: {(change.ratio - 1) * 100:+.1f} % at {point.revision[:12] or '?'} "
                f"({point.created}, p {change.p:.1g})"
            )
        if trend.creep is not None:
            found.append(f"{trend.name}: crept by {trend.creep:+.1%} since the last release")
    return found


def peer_rows(peers: Sequence[Peers]) -> list[list[str]]:
    """A table, its heads first: seconds by program, and how many times Hartwood's they are."""
    arms = sorted({arm for each in peers for arm in each.seconds})
    rows = [["work", "measured by", *arms]]
    for each in peers:
        ours = each.seconds.get("hartwood", each.seconds.get("warm"))
        cells = []
        for arm in arms:
            found = each.seconds.get(arm)
            times = f" ({found / ours:.2f}x)" if found is not None and ours else ""
            cells.append("" if found is None else f"{found:.3g} s{times}")
        rows.append([each.name, each.source, *cells])
    return rows


def selftest_lines(report: Report) -> list[str]:
    """What the gate's self-test found, or that there is none."""
    found = report.selftest
    if found is None:
        return ["not measured: there are no figures of `hartwood bench selftest --json`"]
    state = "armed" if found.armed else f"not to be trusted: {found.why}"
    return [
        f"recorded until {found.created[:10]}: {state}",
        *(line.replace("\t", ": ") for line in found.lines()),
    ]


def as_json(report: Report) -> dict[str, Any]:
    """The whole report as what `json.dumps` takes."""
    return {
        "schema": "hartwood-lab-report/1",
        "headline": report.headline,
        "judgement": judgement_json(report.judgement) if report.judgement else None,
        "runs": [run_json(run) for run in report.runs],
        "trends": [asdict(trend) for trend in report.trends],
        "budgets": [
            {**asdict(each.budget), "expires": str(each.budget.expires), "state": each.state,
             "value": each.value} for each in report.spent
        ],
        "damaged": report.damaged,
        "peers": [asdict(each) for each in report.peers],
        "selftest": report.selftest.as_json() if report.selftest else None,
        "faults": report.faults,
    }  # fmt: skip


def junit(report: Report) -> str:
    """JUnit's XML: regressed and over budget fail, inconclusive and no judgement are errors."""
    suite = ET.Element("testsuite", name="hartwood bench")
    kinds = {"regressed": "failure", "inconclusive": "error", "skipped": "skipped"}
    states = {"breach": "failure", "expired": "failure", "unknown": "error"}
    cases = [
        (each.family or "benchmark", each.name, kinds.get(each.verdict),
         f"{effect(each)} {each.reason}".strip()) for each in report.judged()
    ]  # fmt: skip
    if report.judgement is None or report.judgement.verdict == "inconclusive":
        cases.append(("gate", "verdict", "error", report.headline))
    cases += [
        ("budget", f"{one.budget.subject} {one.budget.kind}", states.get(one.state), one.line())
        for one in report.spent
    ]
    for family, name, kind, text in cases:
        case = ET.SubElement(suite, "testcase", classname=_xml(family), name=_xml(name))
        if kind:
            ET.SubElement(case, kind, message=_xml(text))
    suite.set("tests", str(len(cases)))
    for kind, key in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(key, str(sum(case[2] == kind for case in cases)))
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    """Text without what XML 1.0, section 2.2, has no way to say."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def sarif(report: Report) -> dict[str, Any]:
    """SARIF 2.1.0: one result for each benchmark that is not fine, and for a missing verdict."""
    levels = {"regressed": "error", "inconclusive": "warning"}
    found = [
        (each.verdict, levels[each.verdict], f"{each.name}: {effect(each)} {each.reason}".strip())
        for each in report.judged() if each.verdict in levels
    ]  # fmt: skip
    if report.judgement is None or report.judgement.verdict == "inconclusive":
        found.append(("inconclusive", "warning", report.headline))
    found += [("budget", "error", one.line()) for one in report.spent if one.state != "ok"]
    rules = sorted({rule for rule, _, _ in found})
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "hartwood bench", "rules": [{"id": r} for r in rules]}},
                "results": [
                    {"ruleId": rule, "level": level, "message": {"text": text}}
                    for rule, level, text in found
                ],
            }
        ],
    }
