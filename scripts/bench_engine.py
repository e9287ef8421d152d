"""`make bench`: the engine against QEMU's user mode and native code, A B A B in one run.

Arms: `native` (gcc -O2), `qemu` (qemu-riscv64), `cold` (hartwood with an empty cache) and `warm`
(with the cache that an earlier run filled). CPU seconds are the whole process tree's, the compile
worker's included; wall seconds stand beside them in brackets.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402 - the path is set just above
from rich.table import Table  # noqa: E402

from bench import report  # noqa: E402
from bench.measure import Sample, become_reaper, measure  # noqa: E402
from bench.programs import PROGRAMS, Program, Start, hello, prepare  # noqa: E402
from hartwood.guests import GuestError, fetch  # noqa: E402

HARTWOOD = [str(Path(sys.executable).parent / "hartwood"), "run"]
ARMS = ("native", "qemu", "cold", "warm")
PROCESSES = "i=0; while [ $i -lt {n} ]; do {run}{busybox} true; i=$((i+1)); done; echo $i"


class Bench:
    """One run of the benchmark: its options, its caches and what it has measured."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.rounds = options.rounds or (1 if options.quick else 2)
        self.samples: dict[str, dict[str, list[Sample]]] = {}
        self.stats: dict[str, dict[str, float]] = {}

    def cache(self, name: str) -> dict[str, str]:
        """The environment that gives hartwood a cache of its own."""
        return {"XDG_CACHE_HOME": str(self.folder / name)}

    def program(self, program: Program) -> report.Row:
        """Measure one program, all arms in turn, `rounds` times over."""
        start = prepare(program, self.options.quick)
        taken: dict[str, list[Sample]] = {arm: [] for arm in ARMS}
        for turn in range(self.rounds):
            for arm in self.options.arms:
                taken[arm].append(self._run(arm, program, start, turn))
        self.samples[program.name] = taken
        made = report.row(program.name, program.kinds, taken)
        return made._replace(fault=made.fault or self._implausible(program))

    def _run(self, arm: str, program: Program, start: Start, turn: int) -> Sample:
        root = start.root
        env = start.env.get("native" if arm == "native" else "guest", {})
        if arm == "native":
            command = start.native
        elif arm == "qemu":
            command = ["qemu-riscv64", *(["-L", root] if root else []), *start.guest]
        else:
            # The first cold run fills the cache that all warm runs use.
            cold = f"{program.name}-{turn}" if arm == "cold" else f"{program.name}-0"
            stats = self.folder / f"{program.name}-{arm}.json"
            command = guest_command(start, "--stats", str(stats))
            env = self.cache(cold)
            if arm == "warm" and not (self.folder / cold).exists():
                measure(command, env=env, stdin=start.stdin)
        sample = measure(command, env=env, stdin=start.stdin)
        if arm in ("cold", "warm") and stats.exists():
            self.stats[f"{program.name} {arm}"] = json.loads(stats.read_text())
        return sample

    def _implausible(self, program: Program) -> str:
        for arm in ("cold", "warm"):
            mips = self.stats.get(f"{program.name} {arm}", {}).get("mips", 0)
            if mips > report.PLAUSIBLE_MIPS:
                return f"{mips:.0f} MIPS cannot be: the work was not done"
        return ""

    def extras(self) -> dict[str, float | None]:
        """The figures that are not a program's: start, processes, interpreter, memory."""
        found: dict[str, float | None] = {}
        steps: list[Callable[[], dict[str, float | None]]] = [
            self.hello,
            self.processes,
            self.interpreter,
            self.memory,
        ]
        for step in steps:
            try:
                found |= step()
            except (RuntimeError, TimeoutError, GuestError) as error:
                print(f"bench: {step.__name__}: {str(error) or 'no end'}", file=sys.stderr)
        return found

    def hello(self) -> dict[str, float | None]:
        """Wall seconds of the least program: native, QEMU, empty cache, filled cache."""
        native, guest = hello()
        times = 3 if self.options.quick else 9
        found = {
            "hello native": [checked([str(native)]).wall for _ in range(times)],
            "hello qemu": [checked(["qemu-riscv64", str(guest)]).wall for _ in range(times)],
            "hello cold": [
                checked([*HARTWOOD, str(guest)], env=self.cache(f"hello-{i}")).wall
                for i in range(3)
            ],
            "hello warm": [
                checked([*HARTWOOD, str(guest)], env=self.cache("hello-0")).wall
                for _ in range(times)
            ],
        }
        return {name: statistics.median(walls) for name, walls in found.items()}

    def processes(self) -> dict[str, float | None]:
        """Wall seconds of a shell script that starts processes; QEMU's over ours."""
        busybox = str(fetch("riscv64-busybox"))
        count = 50 if self.options.quick else 500
        # Without the kernel's help QEMU must be named for each process it starts.
        words = PROCESSES.format(n=count, run="qemu-riscv64 ", busybox=busybox)
        ours = PROCESSES.format(n=count, run="", busybox=busybox)
        run = [*HARTWOOD, busybox, "sh", "-c", ours]
        checked(run, env=self.cache("processes"))
        mine = checked(run, env=self.cache("processes"))
        other = checked(["qemu-riscv64", busybox, "sh", "-c", words])
        expect(mine.out == other.out, f"processes: {mine.out!r} against {other.out!r}")
        scale = 500 / count
        return {
            "processes": other.wall / mine.wall,
            "500 processes qemu": other.wall * scale,
            "500 processes warm": mine.wall * scale,
            "500 processes cpu qemu": other.cpu * scale,
            "500 processes cpu warm": mine.cpu * scale,
        }

    def interpreter(self) -> dict[str, float | None]:
        """The native interpreter alone on integer code: million guest instructions a CPU second."""
        rates = {}
        for program in PROGRAMS:
            if program.name not in ("xorshift", "crc32", "sieve", "sha256"):
                continue
            start = prepare(program, quick=True)
            stats = self.folder / f"{program.name}-interp.json"
            words = ["--engine", "interp", "--stats", str(stats)]
            cache = self.cache("interpreter")
            sample = checked([*HARTWOOD, *words, *start.guest], env=cache)
            count = json.loads(stats.read_text())["instructions"]
            rates[f"interpreter {program.name}"] = count / sample.cpu / 1e6
        return {**rates, "interpreter": report.geometric_mean(rates.values())}

    def memory(self) -> dict[str, float | None]:
        """Peak memory of the process tree less the same program's native peak, in MB; the worst."""
        worst: dict[str, float] = {}
        for program in PROGRAMS:
            if program.name not in ("fib", "sha256", "python"):
                continue
            start = prepare(program, quick=True)
            native = checked(
                start.native, env=start.env.get("native"), stdin=start.stdin, memory=True
            )
            env = self.cache(f"memory-{program.name}")
            for _ in ("cold", "warm"):
                ours = checked(guest_command(start), env=env, stdin=start.stdin, memory=True)
                beyond = (ours.peak - native.peak) / 1e6
                worst[program.name] = max(worst.get(program.name, 0.0), beyond)
        return {
            **{f"memory {name}": value for name, value in worst.items()},
            "memory": max(worst.values()),
        }


def guest_command(start: Start, *options: str) -> list[str]:
    """The words that run a guest under hartwood."""
    # The guest's own variables (PYTHONHOME, say) are not for the Python that hartwood runs on.
    pairs = [f"--env={key}={value}" for key, value in start.env.get("guest", {}).items()]
    root = ["--root", start.root] if start.root else []
    return [*HARTWOOD, *options, *pairs, *root, *start.guest]


def checked(command: list[str], **options: object) -> Sample:
    """Measure `command`; raises `RuntimeError` when it does not end well."""
    sample = measure(command, **options)  # type: ignore[arg-type]
    expect(sample.status == 0, f"{' '.join(command)[:200]}: status {sample.status}: {sample.err!r}")
    return sample


def expect(truth: bool, complaint: str) -> None:
    """Raise `RuntimeError` with `complaint` unless `truth`."""
    if not truth:
        raise RuntimeError(complaint)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The options of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("programs", nargs="*", help="names or parts of names; none for all")
    parser.add_argument("--quick", action="store_true", help="a twelfth of the work, one round")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of all arms (2; quick 1)")
    parser.add_argument("--arms", default=",".join(ARMS), type=lambda text: text.split(","))
    parser.add_argument("--no-extras", action="store_true", help="only the programs")
    parser.add_argument("--json", type=Path, help="where the results go as JSON")
    options = parser.parse_args(words)
    unknown = [arm for arm in options.arms if arm not in ARMS]
    if unknown:
        parser.error(f"no arm called {', '.join(unknown)}; there are {', '.join(ARMS)}")
    return options


def chosen(names: list[str]) -> list[Program]:
    """The programs whose names contain one of `names`; all for none."""
    found = [each for each in PROGRAMS if not names or any(name in each.name for name in names)]
    if not found:
        sys.exit(f"bench: no such program; there are {', '.join(p.name for p in PROGRAMS)}")
    return found


def show(columns: list[str], rows: list[list[str]], console: Console) -> None:
    """A table on a terminal, markdown in a pipe."""
    if not console.is_terminal:
        print(report.markdown(columns, rows), end="\n\n", flush=True)
        return
    table = Table(*columns)
    for cells in rows:
        table.add_row(*cells)
    console.print(table)


def main() -> int:
    """Measure, print the tables, write the JSON; 1 when an arm failed or gave a wrong answer."""
    options = parse()
    become_reaper()
    console = Console()
    begin = time.time()
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory(prefix="hartwood-bench-") as folder:
        bench = Bench(options, Path(folder))
        wanted = chosen(options.programs)
        for program in wanted:
            print(f"bench: {program.name}", file=sys.stderr, flush=True)
            try:
                rows.append(bench.program(program))
            except TimeoutError:
                rows.append(report.Row(program.name, program.kinds, {}, {}, "no end"))
        extra = {} if options.no_extras else bench.extras()
    show(report.PROGRAM_COLUMNS, [report.program_cells(each) for each in rows], console)
    left_out = [each.kinds for each in PROGRAMS if each not in wanted]
    goals = report.figures(rows, extra, left_out)
    show(report.FIGURE_COLUMNS, [report.figure_cells(each) for each in goals], console)
    for name, value in extra.items():
        print(f"{name}: {'-' if value is None else f'{value:.4g}'}")
    path = options.json or ROOT / "bench" / "results" / f"{int(begin)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin)),
                "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "os": platform.platform()},
                "quick": options.quick,
                "programs": [each._asdict() for each in rows],
                "samples": {
                    name: {
                        arm: [{"cpu": s.cpu, "wall": s.wall} for s in taken]
                        for arm, taken in arms.items()
                    }
                    for name, arms in bench.samples.items()
                },
                "extra": extra,
                "figures": [{**each._asdict(), "verdict": each.verdict} for each in goals],
                "stats": bench.stats,
            },
            indent=1,
        )
    )
    print(f"results: {path}")
    return 1 if any(each.fault for each in rows) else 0


def cpu_name() -> str:
    """The host CPU as the kernel names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
