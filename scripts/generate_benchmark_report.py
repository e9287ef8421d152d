#!/usr/bin/env python3
"""Writes every form of the report on a folder of results: a page, Markdown, JSON, JUnit, SARIF.

A result that should be there and is not is said in every form: a report that is not on anything is
written all the same, says "not judged", and the exit status is 2.

Exit status: 0 written, 2 something is missing, damaged, or cannot be written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLES = """examples:
  generate_benchmark_report.py bench/results
  generate_benchmark_report.py results --history performance --budgets bench/budgets.toml --out page
  generate_benchmark_report.py results --wants gate.json     2 unless there is a judgement

exit status: 0 written, 2 something is missing, damaged, or cannot be written
"""
#: What is looked for in the folder; `--wants` makes the lack of one an error.
RESULTS = ("gate.json", "run.json")


def main(words: list[str]) -> int:
    """Write the reports; give the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="a folder with gate.json, run.json or both")
    parser.add_argument("--wants", action="append", default=[], choices=RESULTS)
    parser.add_argument("--history", type=Path, help="the folder of a history")
    parser.add_argument("--budgets", type=Path, help="a budgets.toml")
    parser.add_argument("--selftest", type=Path, help="figures of `hartwood bench selftest --json`")
    parser.add_argument("--out", type=Path, help="where to write (the folder of results)")
    parsed = parser.parse_args(words)
    from hartwood.lab.report import Report
    from hartwood.lab.workload import LabError
    from hartwood.tools import bench_report

    out, faults = parsed.out or parsed.results, []
    wanted = parsed.wants or [name for name in RESULTS if (parsed.results / name).is_file()]
    files = []
    for name in wanted or ["gate.json"]:
        path = parsed.results / name
        if path.is_file():
            files.append(path)
        else:
            faults.append(f"{path} is missing: nothing was judged or measured")
    # As much as is sound: a damaged history must not hide a verdict.
    for tries in (
        (files, parsed.history, parsed.budgets, parsed.selftest),
        (files, None, None, None),
    ):
        try:
            found = bench_report.gather(*tries)
            break
        except LabError as error:
            faults.append(str(error))
    else:
        found = Report()
    faults = list(dict.fromkeys(faults))
    found.faults += faults
    bench_report.write(
        found, html=out / "report.html", md=out / "report.md", json=out / "report.json",
        junit=out / "junit.xml", sarif=out / "report.sarif",
    )  # fmt: skip
    for fault in faults:
        print(f"generate_benchmark_report: {fault}", file=sys.stderr)
    return 2 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ImportError as error:
        print(f"generate_benchmark_report: {error}; run it with .venv/bin/python", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        print(f"generate_benchmark_report: {error}", file=sys.stderr)
        sys.exit(2)
