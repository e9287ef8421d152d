"""The runner, against a worker that is none: warm-up, budgets, failures, processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hartwood.lab import LabError, Skip
from hartwood.lab.machine import IDENTITY, describe, revision
from hartwood.lab.results import Run, run_from, run_json
from hartwood.lab.runner import (
    FEWEST,
    MODES,
    Arm,
    Mode,
    Series,
    _measure,
    _Side,
    chosen,
    middle,
    run,
)
from hartwood.lab.worker import Entry, Sample, WorkerLost

QUICK = Mode("test", 30, 0.5, 1.0)


class Clock:
    """Time that passes when somebody measures."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made.monotonic)
    return made


def entry(name: str = "a", **changes: Any) -> Entry:
    given: dict[str, Any] = {
        "name": name, "unit": "calls", "per_call": 2, "family": "f", "group": "g",
        "component": "c", "bound": 0.0, "gate": True, "why": "", "clock": "cpu", "peer": "",
    }  # fmt: skip
    return Entry(**{**given, **changes})


@dataclass
class FakeWorker:
    """A worker whose calls take what `cost(number of the call)` says, in the fake clock's time."""

    clock: Clock
    entries: list[Entry] = field(default_factory=lambda: [entry()])
    cost: Callable[[int], float] = lambda call: 0.001
    prepare_error: Exception | None = None
    sample_error: Exception | None = None
    check_error: Exception | None = None
    broken: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    log: list[str] = field(default_factory=list)
    pinned: list[int] = field(default_factory=list)
    label: str = ""
    always: int = 0

    def pin(self, cpus: list[int]) -> None:
        self.pinned = cpus

    def list(self) -> list[Entry]:
        return self.entries

    def prepare(self, name: str, seed: int) -> float:
        self.log.append(f"prepare {name} {seed}")
        if self.prepare_error is not None:
            raise self.prepare_error
        return 0.25

    def calibrate(self, name: str, target: float) -> int:
        return max(1, round(target / self.cost(self.calls)))

    def sample(self, name: str, loops: int) -> Sample:
        if self.sample_error is not None:
            raise self.sample_error
        passed = 0.0
        for _ in range(loops):
            passed += self.cost(self.calls)
            self.calls += 1
        self.clock.now += passed
        return Sample(loops, passed, passed / 2, {"work": 7 * loops})

    def check(self, name: str) -> None:
        self.log.append(f"check {name}")
        if self.check_error is not None:
            raise self.check_error

    def release(self, name: str) -> None:
        self.log.append(f"release {name}")

    def quit(self) -> None:
        self.log.append("quit")


def run_one(*arguments: Any, **options: Any) -> Run:
    (made,) = run(*arguments, **options)
    return made


def measure(worker: Any, entry: Entry, mode: Mode, seed: int) -> Series:
    """One benchmark in one worker, as `run` does it."""
    side = _Side(Arm(), 1, lambda **options: worker)
    side.entries = {entry.name: entry}
    _measure([side], [entry.name], 0, mode, seed)
    assert not side.lost
    return side.series[entry.name][0]


def started(worker: FakeWorker) -> Callable[..., Any]:
    return lambda **options: worker


def test_a_steady_benchmark_ends_its_warm_up_early(clock: Clock) -> None:
    worker: Any = FakeWorker(clock)
    series = measure(worker, entry(), QUICK, 3)
    assert series.warmup.steady
    assert series.warmup.first == 0.25
    assert series.warmup.seconds < QUICK.warmup / 2
    assert len(series.samples) == QUICK.samples
    timed = QUICK.parts * sum(sample.wall for sample in series.samples)
    assert timed == pytest.approx(QUICK.measurement, rel=0.1)
    assert series.counters == {"work": 7}, "of one call"
    assert worker.log == ["prepare a 3", "check a", "release a"]


def test_a_timing_at_another_speed_is_taken_again(clock: Clock) -> None:
    """Until the processor has that speed for good."""

    class Slowed(FakeWorker):
        taken = 0

        def sample(self, name: str, loops: int) -> Sample:
            plain = super().sample(name, loops)
            self.taken += 1
            pace = 2.0 if self.taken % 10 == 0 or self.taken > 600 else 1.0
            return Sample(loops, plain.wall, plain.cpu, plain.counters, pace=pace)

    mode = Mode("quick", samples=100, warmup=0.1, measurement=10.0, parts=10)
    found = measure(Slowed(clock), entry(), mode, 1)
    slow = [sample.pace for sample in found.samples].index(2.0)
    assert 40 < slow < 70
    # A tenth of what came before the change, and then three each until the usual is the new speed.
    assert 60 < found.retaken < 60 + 3 * 64
    assert found.samples[-1].pace == 2.0


def test_a_sample_is_the_median_of_its_parts() -> None:
    parts = [
        Sample(3, 5.0, 1.0, {"work": 3}, switches=1, pace=3e-5),
        Sample(3, 1.0, 4.0, {"work": 3}, steal=2, pace=1e-5),
        Sample(3, 2.0, 2.0, {"work": 3}, collections=1, pace=2e-5),
    ]
    assert middle(parts) == Sample(3, 2.0, 2.0, {"work": 3}, 1, 2, 1, 2e-5)
    assert middle(parts[:1]) is parts[0]


def test_a_preemption_spoils_a_part_and_not_the_sample(clock: Clock) -> None:
    worker: Any = FakeWorker(clock, cost=lambda call: 0.05 if call % 97 == 0 else 0.001)
    series = measure(worker, entry(), QUICK, 1)
    typical = [sample.wall / sample.loops for sample in series.samples]
    assert sorted(typical)[len(typical) * 9 // 10] == pytest.approx(0.001)


@pytest.mark.parametrize(("clock_name", "again"), [("cpu", 3), ("wall", 0)])
@pytest.mark.parametrize("always", [0, 1])
def test_a_timing_without_its_processor_is_taken_again(
    always: int, clock_name: str, again: int, clock: Clock
) -> None:
    class Disturbed(FakeWorker):
        def sample(self, name: str, loops: int) -> Sample:
            plain = super().sample(name, loops)
            return Sample(loops, plain.wall, plain.cpu, plain.counters, switches=self.always)

    worker: Any = Disturbed(clock, always=always)
    mode = Mode("disturbed", 20, 0.2, 10.0, parts=1)
    series = measure(worker, entry(clock=clock_name), mode, 1)
    assert len(series.samples) >= 10, "in the end they have to do"
    assert series.retaken == again * always * len(series.samples)


def test_classic_warms_up_as_long_as_it_says(clock: Clock) -> None:
    series = measure(FakeWorker(clock), entry(), MODES["classic"], 1)
    assert series.warmup.steady
    assert series.warmup.seconds == pytest.approx(5.0, rel=0.02)
    assert len(series.samples) == 200


def test_code_that_gets_faster_is_waited_for(clock: Clock) -> None:
    worker: Any = FakeWorker(clock, cost=lambda call: 0.010 if call < 30 else 0.001)
    series = measure(worker, entry(), Mode("long", 30, 5.0, 1.0), 1)
    assert series.warmup.steady
    assert series.warmup.seconds > 0.3
    assert {round(sample.wall / sample.loops, 6) for sample in series.samples} == {0.001}


def test_code_that_never_settles_is_said_to(clock: Clock) -> None:
    worker: Any = FakeWorker(clock, cost=lambda call: 0.001 * 1.01**call)
    found = run_one(mode=Mode("short", 30, 0.2, 0.5), starter=started(worker)).benchmarks[0]
    assert not found.warmup.steady
    assert found.warmup.seconds == pytest.approx(0.2, rel=0.5)


def test_code_that_changes_while_it_is_sampled_is_not_steady(clock: Clock) -> None:
    worker: Any = FakeWorker(clock, cost=lambda call: 0.001 if call < 600 else 0.0007)
    found = run_one(mode=QUICK, starter=started(worker)).benchmarks[0]
    assert not found.warmup.steady


@pytest.mark.parametrize(("cost", "parts"), [(0.001, 5), (0.0101, 3), (0.02, 1), (0.5, 1)])
def test_a_sample_has_as_many_timings_as_it_has_room_for(
    cost: float, parts: int, clock: Clock
) -> None:
    worker: Any = FakeWorker(clock, cost=lambda call: cost)
    mode = Mode("room", 10, 0.01, 10 * 0.031)
    series = measure(worker, entry(), mode, 1)
    before = series.warmup.samples * max(1, round(0.005 / cost))
    sampled = worker.calls - before - 1  # the last one is for the counters
    assert sampled == len(series.samples) * parts * series.loops


def test_long_calls_get_few_samples_and_not_none(clock: Clock) -> None:
    worker: Any = FakeWorker(clock, cost=lambda call: 3.0)
    series = measure(worker, entry(), QUICK, 1)
    assert len(series.samples) == FEWEST
    assert all(sample.loops == 1 for sample in series.samples)


def test_a_run_is_sound_and_complete(clock: Clock) -> None:
    worker = FakeWorker(clock, entries=[entry("a"), entry("b", clock="wall")])
    seen: list[tuple[int, int, str]] = []
    made = run_one(
        mode=QUICK,
        seed=9,
        progress=lambda done, total, name, phase: seen.append((done, total, name)),
        starter=started(worker),
    )
    assert run_from(run_json(made), "x") == made
    assert [b.name for b in made.benchmarks] == ["a", "b"]
    assert made.settings["seed"] == 9
    assert made.benchmarks[0].cpu[0] == pytest.approx(0.0005)
    assert made.benchmarks[0].wall[0] == pytest.approx(0.001)
    assert seen == [(0, 2, "a"), (1, 2, "b"), (2, 2, "")]
    assert worker.log[-1] == "quit"


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"prepare_error": Skip("one node only")}, "skipped", "one node only"),
        ({"prepare_error": Skip()}, "skipped", "no reason"),
        ({"prepare_error": LabError("a: wrong answer")}, "failed", "a: wrong answer"),
        ({"check_error": LabError("a: wrong answer 3")}, "failed", "a: wrong answer 3"),
        ({"sample_error": WorkerLost("a: lost", "a")}, "failed", "a: lost"),
        ({"entries": [entry(bound=1.0)]}, "failed", "implausible: 0.0005 s for one of its calls"),
    ],
)
def test_what_goes_wrong_is_in_the_result(
    changes: dict[str, Any], status: str, reason: str, clock: Clock
) -> None:
    found = run_one(mode=QUICK, starter=started(FakeWorker(clock, **changes))).benchmarks[0]
    assert (found.status, found.wall) == (status, [])
    assert found.reason.startswith(reason)


def test_a_lost_worker_is_replaced_for_the_others(clock: Clock) -> None:
    both = [entry("a"), entry("b")]
    bad = FakeWorker(clock, entries=both, sample_error=WorkerLost("a: lost", "a"))
    made = [bad, FakeWorker(clock, entries=both)]
    workers: Any = iter(made)
    found = run_one(mode=QUICK, starter=lambda **options: next(workers)).benchmarks
    assert [b.status for b in found] == ["failed", "ok"]
    assert "quit" in bad.log


def test_processes_share_the_samples_and_differ_in_their_hash_seed(clock: Clock) -> None:
    seeds: list[int] = []
    costs = iter((0.001, 0.003))

    def start(**options: Any) -> Any:
        seeds.append(options["hash_seed"])
        cost = next(costs)
        return FakeWorker(clock, cost=lambda call: cost)

    found = run_one(mode=Mode("two", 40, 0.5, 1.0, processes=2), seed=2, starter=start).benchmarks[
        0
    ]
    assert seeds == [200, 201]
    assert len(found.wall) == 40
    assert {round(wall, 6) for wall in found.wall} == {0.001, 0.003}


def test_arms_take_turns_on_one_processor(clock: Clock) -> None:
    log: list[str] = []
    made: dict[str, FakeWorker] = {}

    class Logged(FakeWorker):
        def sample(self, name: str, loops: int) -> Sample:
            log.append(self.label)
            return super().sample(name, loops)

    def start(**options: Any) -> Any:
        label = options["paths"][0].name
        cost = {"old": 0.001, "new": 0.002}[label]
        made[label] = Logged(clock, cost=lambda call: cost, label=label)
        return made[label]

    mode = Mode("turns", 40, 0.2, 1.0, parts=2)
    old, new = run(
        mode=mode, arms=[Arm(paths=[Path("old")]), Arm(paths=[Path("new")])], starter=start
    )
    assert (old.benchmarks[0].wall[0], new.benchmarks[0].wall[0]) == pytest.approx((0.001, 0.002))
    assert len(old.benchmarks[0].wall) == len(new.benchmarks[0].wall) == 40
    assert old.settings["arms"] == 2
    pairs = {tuple(log[at : at + 2]) for at in range(len(log) - 2 - 160, len(log) - 2, 2)}
    assert pairs == {("old", "new"), ("new", "old")}, "in turns, in random order"
    assert made["old"].pinned == made["new"].pinned
    assert len(made["old"].pinned) == 1


def test_what_one_arm_lacks_or_fails_is_measured_in_the_other(clock: Clock) -> None:
    def start(**options: Any) -> Any:
        if options["paths"]:
            return FakeWorker(clock, entries=[entry("a")], check_error=LabError("a: wrong"))
        return FakeWorker(clock, entries=[entry("a"), entry("b")])

    here, there = run(mode=QUICK, arms=[Arm(), Arm(paths=[Path("x")])], starter=start)
    assert [(b.name, b.status) for b in here.benchmarks] == [("a", "ok"), ("b", "ok")]
    assert [(b.name, b.status) for b in there.benchmarks] == [("a", "failed")]


def test_families_that_cannot_be_loaded_are_failures_of_a_whole_run(clock: Clock) -> None:
    worker = FakeWorker(clock, broken={"tlb": "ImportError: no tlb"})
    assert [b.status for b in run_one(mode=QUICK, starter=started(worker)).benchmarks] == [
        "ok",
        "failed",
    ]
    assert len(run_one(["a"], mode=QUICK, starter=started(worker)).benchmarks) == 1


def test_a_family_that_is_asked_for_and_cannot_be_loaded_is_said(clock: Clock) -> None:
    worker = FakeWorker(clock, broken={"tlb": "ImportError: no tlb"})
    with pytest.raises(LabError, match=r"'tlb'.*tlb cannot be loaded: ImportError: no tlb"):
        run_one(["tlb"], starter=started(worker))


def test_an_empty_selection_is_an_error_and_ends_the_worker(clock: Clock) -> None:
    worker = FakeWorker(clock)
    with pytest.raises(LabError, match="nothing is called 'z'"):
        run_one(["z"], starter=started(worker))
    assert worker.log == ["quit"]


def test_programs_that_do_the_same_take_turns(clock: Clock) -> None:
    """The ratio of two of them is then one of pairs, whatever the machine does meanwhile."""
    order: list[str] = []

    class Watched(FakeWorker):
        def sample(self, name: str, loops: int) -> Sample:
            order.append(name)
            return super().sample(name, loops)

    group = [entry(f"peer/x/{arm}", peer=arm, group="peers_x") for arm in ("us", "qemu", "unicorn")]
    alone = [entry("a"), entry("b", peer="qemu", group="peers_b")]
    found = run_one(
        mode=QUICK, peers=True, starter=started(Watched(clock, [alone[0], *group, alone[1]]))
    )
    assert [each.status for each in found.benchmarks] == ["ok"] * 5
    assert len({len(each.times) for each in found.benchmarks}) == 1
    # Behind the warm-ups, each round of three has every one once.
    first = max(n for n, name in enumerate(order) if name == "a") + 1
    middle = [name for name in order[first:] if name != "b"]
    rounds = QUICK.samples * QUICK.parts
    turns = middle[-3 - 3 * rounds : -3]
    for at in range(0, len(turns), 3):
        assert set(turns[at : at + 3]) == {each.name for each in group}
    assert len({tuple(turns[at : at + 3]) for at in range(0, len(turns), 3)}) > 1, "in any order"


def test_one_that_fails_leaves_the_others_their_turns(clock: Clock) -> None:
    class Failing(FakeWorker):
        def sample(self, name: str, loops: int) -> Sample:
            if name.endswith("qemu") and len(self.log) > 1:
                raise LabError("gone")
            return super().sample(name, loops)

    group = [entry(f"peer/x/{arm}", peer=arm, group="peers_x") for arm in ("us", "qemu")]
    ours, theirs = run_one(
        mode=QUICK, peers=True, starter=started(Failing(clock, group))
    ).benchmarks
    assert (ours.status, theirs.status, theirs.reason) == ("ok", "failed", "gone")
    assert len(ours.times) == QUICK.samples


def test_peers_run_when_they_are_asked_for() -> None:
    entries = [entry("a"), entry("a/qemu", peer="qemu")]
    assert [e.name for e in chosen(entries, [], False, {})] == ["a"]
    assert [e.name for e in chosen(entries, [], True, {})] == ["a", "a/qemu"]
    assert [e.name for e in chosen(entries, ["a/qemu"], False, {})] == ["a/qemu"]
    assert [e.name for e in chosen(entries, ["a"], False, {})] == ["a"]


def test_modes_are_the_contract_s() -> None:
    assert (MODES["classic"].samples, MODES["classic"].warmup) == (200, 5.0)
    assert MODES["classic"].measurement == 10.0
    assert not MODES["classic"].settle


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    found = describe()
    assert set(IDENTITY) | {"identity", "python", "kernel", "load"} <= set(found)
    assert found["identity"] == describe()["identity"]
    assert time.monotonic() > 0
    monkeypatch.setattr("os.cpu_count", lambda: 4096)
    assert describe()["identity"] != found["identity"]
    secret = Path("/etc/machine-id")
    if secret.exists() and secret.read_text().strip():
        assert secret.read_text().strip() not in str(found)


def test_a_tree_without_git_has_no_revision(tmp_path: Path) -> None:
    assert revision(tmp_path) == ""
