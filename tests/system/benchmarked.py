"""A tiny project with benchmarks whose clock goes on by what a call costs: verdicts are exact."""

from __future__ import annotations

import subprocess
from pathlib import Path

BENCH = """
import time
from hartwood.lab import workload
import slow, fast

clock = 0
time.process_time_ns = time.perf_counter_ns = lambda: clock
time.thread_time_ns = lambda: spend(100) and clock  # what plants a slowdown waits for it to go on

def spend(nanoseconds):
    global clock
    clock += nanoseconds
    return nanoseconds > 0

@workload("work", unit="calls", component="engine")
def working(rng):
    return lambda: spend(slow.COST + fast.COST), True

done = {"steps": 0}

@workload("counted", unit="calls", component="counter")
def counted(rng):
    def call():
        done["steps"] += fast.STEPS
        return spend(100_000)
    return call, True

counted.counters(lambda: done)
"""
FAST = "COST = 1\nSTEPS = 10\n"


class Project:
    """A git repository in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.email", "a@example.org")
        self.git("config", "user.name", "A")

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.folder, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, message: str, **files: str) -> str:
        for name, text in files.items():
            (self.folder / f"{name}.py").write_text(text)
        self.git("add", ".")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")
