"""Runs, judgements and series to make reports from."""

from __future__ import annotations

import random

from hartwood.lab.judgement import Judged, Judgement
from hartwood.lab.results import Benchmark, Run

HOSTILE = "<script>alert(1)</script>|@me `x`\x01"


def a_run(scale: float = 1.0, revision: str = "a" * 40, machine: str = "m") -> Run:
    rng = random.Random(1)
    times = {
        name: [scale * base * rng.uniform(1, 1.1) for _ in range(20)]
        for name, base in (("read/8", 1e-6), ("tlb/hit", 3e-7), ("boot", 2.5e-2))
    }
    made = [
        Benchmark(name, component=name.split("/")[0], wall=each, cpu=list(each))
        for name, each in times.items()
    ]
    made.append(Benchmark("numa", status="skipped", reason=HOSTILE))
    return Run("2026-11-27T10:00:00+00:00", revision, {"identity": machine}, {}, made)


def a_judgement(verdict: str = "regressed") -> Judgement:
    trials = [[0.05, 0.06], [0.05]]
    made = [
        Judged("read/8", component="read", verdict="regressed", severity="warning", ratio=1.05,
               interval=[1.04, 1.06], trials=trials, mde=0.02, p=1e-6, culprit="execute"),
        Judged("tlb/hit", component="tlb", verdict="pass", ratio=1.001, interval=[0.99, 1.01],
               trials=trials, mde=0.02),
        Judged("boot", verdict="inconclusive", reason=HOSTILE),
    ]  # fmt: skip
    if verdict == "pass":
        made = made[1:2]
    blocked = ["read/8"] if verdict == "regressed" else []
    return Judgement(
        "2026-11-27T10:00:00+00:00", "b" * 40, "c" * 40, verdict, "", 3.0, {"identity": "m"}, {},
        blocked, made,
    )  # fmt: skip


def series(seed: int, count: int = 60, step: float = 0.0, at: int = 30) -> list[float]:
    """Noise of 0.5 %, spikes of 20 % in one of twenty, and a step."""
    rng = random.Random(seed)
    return [
        (1 + step * (index >= at)) * rng.gauss(1, 0.005) * (1.2 if rng.random() < 0.05 else 1)
        for index in range(count)
    ]
