"""Our own benchmarks: each runs, refuses a wrong answer, and is in the gate or says why not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hartwood.lab.worker import Entry, Worker
from hartwood.lab.workload import COMPONENTS, select
from system.running import run

#: Families that a person selects by these names (the contract).
FAMILIES = {
    "memory_read_bench", "memory_concurrent_bench", "memory_pool_bench", "tlb_bench", "jit_bench",
    "block_io_bench",
}  # fmt: skip
GROUPS = {"memory_read_sizes", "sequential_u64_reads", "read_throughput"}
#: The gate takes some two seconds for each of them.
FEWEST, MOST = 50, 90


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARTWOOD_CACHE", str(tmp_path_factory.getbasetemp() / "code"))
        yield


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    with Worker() as worker:
        found = worker.list()
        assert worker.broken == {}
    return found


def test_every_benchmark_runs_once_and_is_right(hartwood_command: list[str]) -> None:
    done = run([*hartwood_command, "bench", "list", "--check"], timeout=150)
    assert done.status == 0, done.err
    states = {line.split("\t")[0]: line.split("\t")[-1] for line in done.out.decode().splitlines()}
    assert set(states.values()) <= {"ok"} | {
        s for s in states.values() if s.startswith("skipped: ")
    }
    assert list(states.values()).count("ok") > 100


def test_no_benchmark_escapes_the_gate_without_a_reason(entries: list[Entry]) -> None:
    outside = [entry for entry in entries if not entry.gate]
    assert [entry.name for entry in outside if len(entry.why) < 20] == []
    assert FEWEST <= len(entries) - len(outside) <= MOST
    stands = {entry.group for entry in entries if entry.gate}
    alone = {entry.group for entry in outside if not entry.peer} - stands
    # Nothing of these fits a sample of two milliseconds, or stays the same from run to run.
    assert alone <= {"start", "contention"}, alone


def test_every_benchmark_says_what_it_is(entries: list[Entry]) -> None:
    for entry in entries:
        assert entry.component in COMPONENTS, entry
        assert entry.unit.endswith("s"), entry
        assert entry.bound > 0 or "view" in entry.name, entry
        assert entry.clock == "cpu" or entry.family == "memory_concurrent_bench" or not entry.gate


def test_names_of_families_and_groups_select(entries: list[Entry]) -> None:
    for selector in FAMILIES | GROUPS:
        assert select(entries, [selector]), selector


def test_orders_and_widths_are_all_there(entries: list[Entry]) -> None:
    names = {entry.name for entry in entries}
    for kind in ("read", "write"):
        for bits in (8, 16, 32, 64):
            for order in ("sequential", "random", "unaligned", "crossing"):
                there = f"{kind}/u{bits}/{order}" in names
                assert there is (bits > 8 or order in ("sequential", "random"))


def test_disks_are_read_in_every_way(entries: list[Entry]) -> None:
    names = {entry.name for entry in entries if entry.family == "block_io_bench"}
    for depth in (1, 2, 4, 8, 16, 32, 64):
        for sector in (512, 4096):
            for order in ("sequential", "random"):
                assert f"block/read/merged/{order}/{sector}/{depth}" in names
    assert {"block/read/naive/random/512/32", "block/flush/naive/32"} <= names


def test_pools_and_translations_are_measured_in_every_way(entries: list[Entry]) -> None:
    names = {entry.name for entry in entries}
    for way in ("pool", "plain", "mapped"):
        for case in ("single/4", "reuse/1", "reuse/4", "reuse/64"):
            assert f"pool/{case}KiB/{way}" in names
        for held in (10, 50, 100):
            assert f"pool/batch-{held}/4KiB/{way}" in names
    for scheme, levels in (("sv39", 3), ("sv48", 4), ("sv57", 5)):
        assert {f"tlb/walk/{scheme}/{steps + 1}" for steps in range(levels)} <= names
    assert {f"tlb/hit/{pages}" for pages in (1, 4, 16, 64, 256)} <= names
    assert {"tlb/flush/all", "tlb/flush/address", "tlb/asid/same", "tlb/asid/switch"} <= names


def test_machines_are_measured_beside_the_naive_way_and_peers(entries: list[Entry]) -> None:
    names = {entry.name for entry in entries}
    for kind in ("read", "write"):
        assert {f"machine/{kind}/u{bits}/aligned" for bits in (8, 16, 32, 64)} <= names
        assert {f"machine/{kind}/u64/{way}" for way in ("unaligned", "naive")} <= names
        assert {f"peer/memory-{kind}/{arm}" for arm in ("hartwood", "unicorn")} <= names
    for what in ("compare", "fill"):
        assert {f"machine/{what}/{way}" for way in ("block", "naive")} <= names
    assert {f"machine/numa/{place}" for place in ("local", "remote", "interleaved")} <= names
    assert {f"life/{what}" for what in ("boot", "snapshot", "reset")} <= names


def test_pools_save_allocations_and_translations_miss_as_often_as_they_should(
    worker: Worker,
) -> None:
    for name, counter, least, most in (
        ("pool/reuse/64KiB/pool", "allocations", 0, 0),
        ("pool/reuse/64KiB/plain", "allocations", 1, 1),
        ("pool/single/4KiB/pool", "allocations", 1, 1),
        ("pool/batch-50/4KiB/pool", "allocations", 0, 0),
        ("pool/batch-50/4KiB/pool", "pages", 50, 50),
        ("pool/batch-50/4KiB/pool", "gaps", 0, 0),
        ("pool/batch-50/4KiB/mapped", "allocations", 50, 50),
        ("pool/tlb/plain", "allocations", 1, 1),
        ("tlb/hit/256", "tlb_misses", 0, 300),
        ("tlb/walk/sv57/5", "tlb_misses", 8192, 8300),
        ("tlb/walk/sv39/1", "tlb_misses", 8192, 8300),
        ("tlb/flush/address", "tlb_flushes", 0, 16),
        ("tlb/flush/all", "tlb_flushes", 1024, 1040),
    ):
        worker.prepare(name, 1)
        assert least <= worker.sample(name, 1).counters[counter] <= most, (name, counter)
        worker.check(name)
        worker.release(name)


# Prepared.check has to refuse what is no answer; one machine a process, so not in this one.
REFUSE = """
import json, sys
from hartwood.lab import LabError
from hartwood.lab.workload import REGISTRY
REGISTRY.load_own()
silent = []
for workload in REGISTRY.workloads.values():
    if workload.gate:
        prepared = workload.prepare(3)
        prepared.check(prepared.call())
        try:
            prepared.check(object())
        except LabError:
            continue
        silent.append(workload.name)
print(json.dumps(silent))
"""


def test_every_benchmark_of_the_gate_refuses_a_wrong_answer() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSE], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


WRITES = """
from hartwood.lab import LabError
from hartwood.lab.workload import REGISTRY
from hartwood.lab.workloads._guest import guest
REGISTRY.load_own()
for name in ("write/u8/random", "write/u64/crossing", "write/throughput/1MiB", "bulk/write/4KiB"):
    prepared = REGISTRY.workloads[name].prepare(1)
    answer = prepared.call()
    prepared.check(answer)
    for area, size in guest()._areas.values():
        data = guest().space.read(area, size)
        guest().space.write(area, bytes(byte ^ 1 for byte in data))
    try:
        prepared.check(answer)
    except LabError as error:
        assert name in str(error)
    else:
        raise SystemExit(f"{name} did not look at memory")
"""


def test_writes_are_read_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITES], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def worker():
    with Worker() as made:
        yield made


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("read/u64/sequential", 1.0),
        ("write/u8/random", 1.0),
        ("execute/float/translated", 1.0),
        ("execute/alu/interpreted", 0.0),
        ("call/recursive/translated", 1.0),
        ("call/indirect/interpreted", 0.0),
    ],
)
def test_counters_prove_the_tier_and_are_exact(name: str, share: float, worker: Worker) -> None:
    worker.prepare(name, 1)
    one, other, many = (worker.sample(name, loops).counters for loops in (1, 1, 5))
    assert one == other
    assert many == {key: 5 * value for key, value in one.items()}
    assert one["instructions"] > 1000
    assert one["translated"] == share * one["instructions"]
    worker.release(name)


def test_seeds_give_the_same_work_in_every_process() -> None:
    names = ("execute/branch/translated", "trap/slice", "link/page", "read/u32/random")
    seen = []
    for _ in range(2):
        with Worker() as worker:
            counters = []
            for name in names:
                worker.prepare(name, 5)
                counters.append(worker.sample(name, 3).counters)
            seen.append(counters)
    assert seen[0] == seen[1]


def test_translations_that_were_dropped_are_made_again(worker: Worker) -> None:
    """A page that changes often fills the code arena, and the engine starts over."""
    worker.prepare("link/page", 1)
    worker.sample("link/page", 3000)
    worker.check("link/page")
    worker.prepare("read/u64/sequential", 1)
    counters = worker.sample("read/u64/sequential", 1).counters
    assert counters["translated"] == counters["instructions"]
