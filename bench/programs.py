"""The programs that are measured, their sizes, and how each arm starts them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from hartwood.guests import fetch

ROOT = Path(__file__).resolve().parents[1]
GUESTS = ROOT / "bench" / "guests"
sys.path.insert(0, str(ROOT / "tests"))

from guests.build import build  # noqa: E402 - the path is set just above

# No contraction: x86-64's baseline has no fused multiply-add, and every arm must agree bit for bit.
FLAGS = ("-O2", "-ffp-contract=off")
QUICK = 12  # a quick run does this fraction of the work


@dataclass(frozen=True)
class Program:
    """One line of the table.

    `rounds` takes some six seconds under QEMU on two cores of 2023. `kinds` are the groups of
    the summary it counts in: "integer", "calls", "reads", "float", "real".
    """

    name: str
    source: str
    rounds: int
    kinds: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    stdin: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def count(self, quick: bool) -> int:
        """The number of rounds to ask for."""
        if self.name == "fib":  # the work grows by the golden ratio with each step
            return self.rounds - 5 if quick else self.rounds
        return max(1, self.rounds // QUICK) if quick else self.rounds


def _memory(way: str, order: str, width: int) -> Program:
    rounds = 80_000 if order == "seq" else 65_000
    kinds = ("reads",) if way == "read" else ()
    words = (way, order, str(width))
    return Program(f"{way}-{order}-{width}", "memory.c", rounds, kinds, words)


PROGRAMS = (
    Program("xorshift", "xorshift.c", 4_000_000_000, ("integer",)),
    Program("crc32", "crc32.c", 150_000_000, ("integer",)),
    Program("sieve", "sieve.c", 1600, ("integer",)),
    Program("fib", "fib.c", 43, ("calls",)),
    Program("sort", "sort.c", 170, ("calls",)),
    Program("indirect", "indirect.c", 450_000_000, ("calls",)),
    Program("dispatch", "dispatch.c", 90_000_000),
    *(_memory("read", order, width) for order in ("seq", "random") for width in (1, 2, 4, 8)),
    *(_memory("write", order, width) for order in ("seq", "random") for width in (1, 8)),
    Program("chase-2M", "chase.c", 550, (), ("2",)),
    Program("chase-64M", "chase.c", 40, (), ("64",)),
    Program("sha256", "sha256.c", 10_500, ("integer",)),
    Program("words", "words.c", 3_500),
    Program("matmul", "matmul.c", 450, ("float",)),
    Program("nbody", "nbody.c", 5_000_000, ("float",)),
    Program("mandelbrot", "mandelbrot.c", 10_000, ("float",)),
    Program("lua", "work.lua", 190, ("real",)),
    Program("sqlite", "work.sql", 200_000, ("real",)),
    Program("python", "work.py", 270, ("real",)),
)
REAL = {".lua": "lua5.4", ".sql": "sqlite3", ".py": "python3"}


@dataclass(frozen=True)
class Start:
    """How one arm starts a program: the words before the program and the program's own."""

    native: list[str]
    guest: list[str]
    root: str | None
    stdin: str
    env: dict[str, dict[str, str]]


def prepare(program: Program, quick: bool) -> Start:
    """Build or fetch what `program` needs; return how to start it natively and as a guest."""
    rounds = str(program.count(quick))
    source = GUESTS / program.source
    if source.suffix == ".c":
        words = [rounds, *program.words]
        native = build(source, FLAGS, prefix="")
        guest = build(source, FLAGS)
        return Start([str(native), *words], [str(guest), *words], None, "", {})
    name = REAL[source.suffix]
    stdin = ""
    words = [str(source), rounds]
    if source.suffix == ".sql":
        stdin = source.read_text().replace(":rounds", rounds)
        words = [":memory:"]
    baseline, sysroot = fetch("amd64-baseline"), fetch("riscv64-sysroot")
    libraries = baseline / "usr/lib/x86_64-linux-gnu"
    loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
    env = {
        arm: {"PYTHONHOME": f"{tree}/usr", "PYTHONHASHSEED": "0", "LC_ALL": "C"}
        for arm, tree in (("native", baseline), ("guest", sysroot))
    }
    return Start(
        [*loader, str(baseline / "usr/bin" / name), *words],
        [str(sysroot / "usr/bin" / name), *words],
        str(sysroot),
        stdin,
        env,
    )


def hello() -> tuple[Path, Path]:
    """The least program, native and as a guest."""
    source = GUESTS / "hello.c"
    return build(source, FLAGS, prefix=""), build(source, FLAGS)
