"""Four pieces of work at once, on one hart and on four, in turns: `python -m bench.harts [TURNS]`.
Seconds from the first piece's beginning to the last one's end, with a warm cache.
"""

from __future__ import annotations

import statistics
import sys
import tempfile

from bench.machine import commands, run

PIECES = 4
#: What each piece does: a loop of the shell's own, and a program of `make bench`.
WORK = {
    "shell loops": "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done",
    "kernel sha256": "/bench/sha256 3500",
}
HARTS = (1, 4)


def main(turns: int) -> int:
    """Print a table of medians and ratios."""
    print("| | one hart | four | ratio |\n| --- | --- | --- | --- |")
    for name, step in WORK.items():
        times: dict[int, list[float]] = {harts: [] for harts in HARTS}
        with tempfile.TemporaryDirectory() as folder:
            pieces = "".join(f"({step}) & " for _ in range(PIECES))
            plain = commands({name: f"{pieces} wait"}, folder)["hartwood"]
            # The first turn is for what has to be compiled.
            for _ in range(turns + 1):
                for harts in HARTS:
                    found = run([name], [*plain, "--harts", str(harts)], f"{folder}/cache")
                    times[harts].append(found[name])
        one, four = (statistics.median(times[harts][1:]) for harts in HARTS)
        print(f"| {name} | {one:.2f} | {four:.2f} | {one / four:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(int([*sys.argv, "2"][1])))
