"""Instructions a call under valgrind: what more of them looks like, and what cannot be counted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hartwood.lab import LabError
from hartwood.lab.checkout import Tree
from hartwood.lab.gate import Settings, gate
from hartwood.lab.instructions import Count, count, prefix, suspicion, suspicions
from hartwood.lab.lockstep import Arm
from hartwood.lab.worker import Entry

BENCH = """
import time
from hartwood.lab import Skip, workload
import slow

clock = 0
time.process_time_ns = time.perf_counter_ns = lambda: clock

def call():
    global clock
    clock += 100_000
    total = 0
    for each in range(slow.COUNT):
        total += each
    return total >= 0

@workload("loop", unit="calls", instructions=True)
def loop(rng):
    return call, True

@workload("skipped", unit="calls", instructions=True)
def skipped(rng):
    raise Skip("not here")

@workload("uncounted", unit="calls")
def uncounted(rng):
    return call, True
"""


def entry(name: str, instructions: bool = True) -> Entry:
    return Entry(name, "calls", 1, "f", "g", "c", 0.0, True, "", "cpu", "", instructions)


def tree(folder: Path, calls: int) -> Tree:
    folder.mkdir()
    (folder / "bench_mine.py").write_text(BENCH)
    (folder / "slow.py").write_text(f"COUNT = {calls}\n")
    return Tree(folder, folder.name, Path(sys.executable), (folder,))


def arm(where: Tree) -> Arm:
    return Arm(where.revision, where, (where.path / "bench_mine.py",), own=False)


@pytest.mark.timeout(600)
def test_more_work_is_more_instructions_whatever_the_clock_says(oracle, tmp_path: Path) -> None:
    oracle("valgrind")
    oracle("callgrind_control")
    base, head = tree(tmp_path / "base", 5000), tree(tmp_path / "head", 5500)
    settings = Settings(files=("bench_mine.py",), seed=3, instructions=True, attribution=False)
    judged = {each.name: each for each in gate(base, head, settings).benchmarks}
    loop = judged["loop"]
    assert loop.verdict == "pass", "it suspects, and blocks nothing"
    assert loop.ratio == 1.0
    assert "more instructions a call" in loop.suspect
    share = float(loop.suspect.partition("%")[0])
    assert 7 < share < 11, "a tenth more rounds, and what is around them"
    assert judged["uncounted"].suspect == ""
    assert judged["skipped"].verdict == "skipped"


@pytest.mark.timeout(600)
def test_the_same_code_is_the_same_number(oracle, tmp_path: Path) -> None:
    oracle("valgrind")
    oracle("callgrind_control")
    one = arm(tree(tmp_path / "one", 5000))
    names: list[str] = []
    (first,) = count(one, [entry("loop")], 1, names.append).values()
    (again,) = count(one, [entry("loop")], 1, names.append).values()
    assert names == ["loop", "loop"]
    assert (first.reason, again.reason) == ("", "")
    assert first.each > 5000, "an interpreter needs more than an instruction a round"
    assert again.each == pytest.approx(first.each, rel=0.002)
    assert suspicion(first, again) == ""


def test_what_is_lost_under_valgrind_is_said_and_the_others_go_on(
    tmp_path: Path, monkeypatch
) -> None:
    # What made code does to valgrind; the program itself is a stand-in, as it takes so long.
    text = BENCH.replace("return call, True", "return lambda: os._exit(3), True", 1)
    where = tree(tmp_path / "one", 10)
    (where.path / "bench_mine.py").write_text(f"import os\n{text}")
    monkeypatch.setattr("hartwood.lab.instructions.prefix", lambda folder: ())
    takes = iter([1, 10_000_000, 1000, 2000, 1001, 2000])
    monkeypatch.setattr("hartwood.lab.instructions.Meter.take", lambda self: next(takes))
    wanted = [entry(name) for name in ("loop", "skipped", "uncounted")]
    found = count(arm(where), wanted, 1, lambda name: None)
    assert "loop: the one is lost (exit 3)" in found["loop"].reason
    assert found["skipped"].reason == "skipped: not here"
    assert found["uncounted"].each == pytest.approx(500, rel=0.01)
    takes = iter([1, 10_000_000, 2000, 1000, 2000, 1000])
    monkeypatch.setattr("hartwood.lab.instructions.Meter.take", lambda self: next(takes))
    found = count(arm(where), wanted[2:], 1, lambda name: None)
    assert "more calls did not take more" in found["uncounted"].reason


@pytest.mark.parametrize(
    ("base", "head", "part"),
    [
        (Count(1000), Count(1004), ""),
        (Count(1000), Count(1006), "0.6% more instructions a call: 1,000 -> 1,006"),
        (Count(1000), Count(900), "10.0% fewer instructions a call: 1,000 -> 900"),
        (Count(1000, 0.02), Count(1030, 0.02), ""),
        (Count(1000, 0.02), Count(1050, 0.02), "5.0% more"),
        (Count(reason="killed"), Count(1), "not counted in the base: killed"),
        (Count(1), Count(reason="killed"), "not counted in the head: killed"),
    ],
)
def test_what_is_said_of_two_counts(base: Count, head: Count, part: str) -> None:
    said = suspicion(base, head)
    assert part in said if part else said == ""


def test_without_valgrind_it_is_said_before_time_is_spent(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="valgrind is not installed"):
        prefix(tmp_path)
    base = tree(tmp_path / "base", 1)
    settings = Settings(files=("absent.py",), instructions=True)
    with pytest.raises(LabError, match="valgrind is not installed"):
        gate(base, base, settings)


def test_what_does_not_ask_for_it_starts_nothing(tmp_path: Path) -> None:
    # An arm that cannot be started at all.
    nothing = Arm("base", Tree(tmp_path, "r", tmp_path / "python", (tmp_path,)))
    assert suspicions(nothing, nothing, [entry("a", instructions=False)], 1) == {}
