#!/usr/bin/env python3
"""Has anything become slower? Says so of a stored judgement, or of two revisions by judging them.

Exit status: 0 nothing regressed, 1 regressed, 2 could not judge (nothing measured, a file that is
missing or damaged, no Hartwood): what is not known is never 0, and never 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLES = """examples:
  detect_regression.py bench/results/gate.json       what scripts/run_benchmarks.sh --base left
  detect_regression.py --base origin/main            judge the tree as it is; takes some minutes
  detect_regression.py --base v1.0 --head v1.1 --json gate.json --select "memory/*"

exit status: 0 nothing regressed, 1 regressed, 2 could not judge
"""
#: Options that go to `hartwood bench gate` as they are.
PASSED = ("base", "head", "alert", "warn", "block", "json", "repo")


def arguments(words: list[str]) -> argparse.Namespace:
    """What the command line says; argparse itself ends with 2 for what makes no sense."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("judgement", nargs="?", type=Path, help="a file of `hartwood bench gate`")
    for name in PASSED:
        parser.add_argument(f"--{name}", help=f"as of `hartwood bench gate --{name}`")
    parser.add_argument("--file", action="append", default=[], help="benchmarks of your own")
    parser.add_argument("--select", action="append", default=[], help="benchmarks to judge")
    parsed = parser.parse_args(words)
    if (parsed.judgement is None) == (parsed.base is None):
        parser.error("name either a stored judgement or --base")
    return parsed


def main(words: list[str]) -> int:
    """Judge; give the exit status."""
    parsed = arguments(words)
    if parsed.judgement is None:
        from hartwood.tools.cli import main as hartwood

        options = [
            word
            for name in PASSED
            if (value := getattr(parsed, name)) is not None
            for word in (f"--{name}", value)
        ]
        files = [word for file in parsed.file for word in ("--file", file)]
        return hartwood(["bench", "gate", *options, *files, *parsed.select])
    from hartwood.lab.judgement import load_judgement
    from hartwood.tools.bench_gate import print_judgement

    judgement = load_judgement(parsed.judgement)
    print_judgement(judgement)
    return judgement.exit_status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ImportError as error:
        print(f"detect_regression: {error}; run it with .venv/bin/python", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        # Python's own status for an error is 1, which here means "regressed".
        print(f"detect_regression: {error}", file=sys.stderr)
        sys.exit(2)
