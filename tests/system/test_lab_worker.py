"""A real worker process: what it answers, what it shields, and how its end is told."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hartwood.lab import LabError, Skip
from hartwood.lab.worker import Worker, WorkerLost

BENCHMARKS = '''
"""Benchmarks that behave, and some that do not."""
import ctypes, gc, os, random, sys, time
from hartwood.lab import Skip, black_box, workload

@workload("sum", unit="elements", per_call=1000, component="list", bound=1e-11)
def total(rng):
    data = [rng.randrange(100) for _ in range(1000)]
    return lambda: sum(data), sum(data)

work = {"done": 0}

@workload("counted", unit="calls")
def counted(rng):
    def call():
        work["done"] += 2
        return work["done"]
    return call

@counted.check
def _(answer):
    assert answer % 2 == 0

counted.counters(lambda: work)

stalls = iter([0])  # the set-up takes the first

@workload("stalls", unit="calls")
def stalling(rng):
    return lambda: time.sleep(stall) if (stall := next(stalls, 0)) else None, None

@workload("loud", unit="calls")
def loud(rng):
    def call():
        print("this is no answer")
        os.write(1, b'{"ok": 5}\\n')
        return 1
    return call, 1

@workload("listens", unit="calls")
def listens(rng):
    return lambda: sys.stdin.read(), ""

@workload("wrong-later", unit="calls")
def wrong_later(rng):
    answers = iter([1, 1, 1])
    return lambda: next(answers, 2), 1

@workload("raises", unit="calls")
def raises(rng):
    def call():
        raise ValueError("two\\nlines")
    return call, 1

@workload("no-set-up", unit="calls")
def no_set_up(rng):
    return {}["missing"]

@workload("skipped", unit="calls")
def skipped(rng):
    raise Skip("one node only")

@workload("dies", unit="calls")
def dies(rng):
    return lambda: ctypes.string_at(0), b""

@workload("leaves", unit="calls")
def leaves(rng):
    return lambda: os._exit(3), 0

@workload("hangs", unit="calls")
def hangs(rng):
    return lambda: time.sleep(60), None

@workload("seeded", unit="calls")
def seeded(rng):
    value = rng.getrandbits(32)
    black_box(value)
    return lambda: (value, hash("x")) and len({"a", "b"}), 2

@workload("garbage", unit="calls")
def garbage(rng):
    def call():
        for _ in range(3000):
            cycle = []
            cycle.append(cycle)
        return gc.isenabled()
    return call

@garbage.check
def _(enabled):
    assert enabled in (True, False)

@workload("temporary", unit="calls")
def temporary(rng):
    import tempfile
    folder = tempfile.mkdtemp()
    return lambda: print(folder, file=sys.stderr) or folder.count("hartwood-lab-"), 1

@workload("children", unit="calls")
def children(rng):
    import subprocess
    holder = subprocess.Popen(["sleep", "120"])
    return lambda: holder.pid, holder.pid
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bench_mine.py"
    path.write_text(BENCHMARKS)
    return path


@pytest.fixture
def worker(file: Path):
    with Worker(files=[file], own=False) as made:
        yield made


def test_list_prepare_calibrate_sample_check(worker: Worker) -> None:
    entries = {entry.name: entry for entry in worker.list()}
    found = entries["sum"]
    assert (found.unit, found.per_call, found.component, found.family) == (
        "elements", 1000, "list", "bench_mine",
    )  # fmt: skip
    assert worker.broken == {}
    assert worker.prepare("sum", 1) > 0
    loops = worker.calibrate("sum", 0.002)
    assert loops > 10
    sample = worker.sample("sum", loops)
    assert sample.loops == loops
    assert sample.cpu > 0
    assert sample.pace > 0
    assert not found.implausible(sample.cpu / loops)
    assert "implausible: 1e-15 s for one of its elements" in found.implausible(1e-12)
    worker.check("sum")
    worker.release("sum")
    with pytest.raises(LabError, match="sum: not prepared"):
        worker.sample("sum", 1)


def test_one_stall_does_not_spoil_a_calibration(file: Path) -> None:
    text = file.read_text().replace("iter([0])", "iter([0, 0.05])")
    file.write_text(text)
    with Worker(files=[file], own=False) as worker:
        worker.prepare("stalls", 1)
        assert worker.calibrate("stalls", 0.02) > 100


def test_counters_are_those_of_the_sample(worker: Worker) -> None:
    worker.prepare("counted", 1)
    assert [worker.sample("counted", n).counters for n in (1, 10, 7)] == [
        {"done": 2},
        {"done": 20},
        {"done": 14},
    ]


def test_what_benchmarks_print_and_read_does_not_get_in_between(worker: Worker) -> None:
    worker.prepare("loud", 1)
    assert worker.sample("loud", 100).wall > 0
    worker.check("loud")
    worker.prepare("listens", 1)
    worker.check("listens")


def test_a_flood_on_standard_error_does_not_stop_it(tmp_path: Path) -> None:
    file = tmp_path / "flood.py"
    file.write_text(
        "import sys\nfrom hartwood.lab import workload\n"
        "@workload('flood', unit='calls')\n"
        "def flood(rng):\n    return lambda: sys.stderr.write('x' * 1000000), 1000000\n"
    )
    with Worker(files=[file], own=False) as worker:
        worker.prepare("flood", 1)
        assert worker.sample("flood", 3).wall > 0


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("raises", "raises: ValueError: two lines"),
        ("no-set-up", "no-set-up: KeyError: 'missing'"),
        ("unheard-of", "unheard-of: no such benchmark here"),
    ],
)
def test_errors_of_benchmarks_are_one_line_and_the_worker_goes_on(
    name: str, part: str, worker: Worker
) -> None:
    with pytest.raises(LabError, match=part) as caught:
        worker.prepare(name, 1)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, WorkerLost)
    assert worker.prepare("sum", 1) > 0


def test_an_answer_that_becomes_wrong_is_found(worker: Worker) -> None:
    worker.prepare("wrong-later", 1)
    worker.sample("wrong-later", 2)
    worker.check("wrong-later")
    worker.sample("wrong-later", 1)
    with pytest.raises(LabError, match="wrong-later: wrong answer 2: it should be 1"):
        worker.check("wrong-later")


def test_a_skip_has_its_reason(worker: Worker) -> None:
    with pytest.raises(Skip, match="one node only"):
        worker.prepare("skipped", 1)


@pytest.mark.parametrize(("name", "how"), [("dies", "killed by SIGSEGV"), ("leaves", "exit 3")])
def test_a_crash_names_the_benchmark(name: str, how: str, worker: Worker) -> None:
    with pytest.raises(WorkerLost, match=f"^{name}: the worker is lost \\({how}\\)") as caught:
        worker.prepare(name, 1)
    assert caught.value.workload == name
    with pytest.raises(WorkerLost, match=f"^sum: the worker is lost \\({how}\\)"):
        worker.prepare("sum", 1)


def test_a_killed_worker_is_told_by_the_next_request(worker: Worker) -> None:
    worker.prepare("sum", 1)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match=r"^sum: the worker is lost \(killed by SIGKILL\)"):
        worker.sample("sum", 10)
    worker.quit()


def test_a_hung_benchmark_is_given_up(file: Path) -> None:
    with Worker(files=[file], own=False, patience=1.5, label="base") as worker:
        with pytest.raises(WorkerLost, match=r"^hangs: the base is lost \(no answer for 1.5 s\)"):
            worker.prepare("hangs", 1)
        assert not Path(f"/proc/{worker.pid}").exists()


def test_what_a_benchmark_started_ends_with_the_worker(file: Path) -> None:
    with Worker(files=[file], own=False) as worker:
        worker.prepare("children", 1)
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        assert children
        worker.quit()
        worker.quit()  # twice is once
    give_up = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        states = [_state(child) for child in children]
        if set(states) <= {"", "Z"}:  # nobody may be there to wait for it
            break
        assert time.monotonic() < give_up, states
        time.sleep(0.01)


def _state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("end", ["quit", "kill"])
def test_temporary_files_go_with_the_worker(end: str, file: Path) -> None:
    with Worker(files=[file], own=False) as worker:
        worker.prepare("temporary", 1)
        folder = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"TMPDIR=")[1]
        left = Path(folder.split(b"\0")[0].decode())
        assert len(list(left.iterdir())) == 1
        if end == "kill":
            os.kill(worker.pid, signal.SIGKILL)
    assert not left.exists()


def test_the_collector_is_on_or_off_as_one_likes(file: Path) -> None:
    for collect in (True, False):
        with Worker(files=[file], own=False, collect=collect) as worker:
            worker.prepare("garbage", 1)
            assert (worker.sample("garbage", 3).collections > 0) is collect


def test_a_worker_can_be_pinned(worker: Worker) -> None:
    allowed = os.sched_getaffinity(0)
    worker.pin([min(allowed)])
    assert os.sched_getaffinity(worker.pid) == {min(allowed)}
    with pytest.raises(LabError, match="OSError"):
        worker.pin([4095])


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"python": "/nonexistent/python"}, "/nonexistent/python cannot be started: No such file"),
        ({"files": [Path("/nonexistent/bench.py")]}, "no such file of benchmarks"),
        ({"python": "/bin/false"}, "the base is lost \\(exit 1\\)"),
    ],
)
def test_a_worker_that_cannot_start(options: dict[str, object], part: str) -> None:
    with pytest.raises(LabError, match=part) as caught:
        Worker(own=False, label="base", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_words_may_come_before_the_command(file: Path) -> None:
    with Worker(files=[file], own=False, prefix=["env", "MARK=1"]) as worker:
        environment = Path(f"/proc/{worker.pid}/environ").read_bytes()
        assert b"\0MARK=1\0" in environment
        assert b"\0PYTHONHASHSEED=0\0" in environment


PROJECT = """
from hartwood.lab import workload
import hartwood, hartwood.errors, hartwood.lab, sys

@workload("where", unit="calls")
def where(rng):
    return lambda: (hartwood.VERSION, hartwood.lab.__file__), ({version!r}, {lab!r})
"""


def test_each_arm_has_its_own_package_and_this_laboratory(tmp_path: Path) -> None:
    """A checkout from before the laboratory existed, or with another, is timed by this one."""
    import hartwood.lab

    for version in ("old", "new"):
        package = tmp_path / version / "hartwood"
        (package / "lab").mkdir(parents=True)
        (package / "__init__.py").write_text(f"VERSION = {version!r}")
        (package / "errors.py").write_text("class Error(Exception): pass")
        (package / "lab" / "__init__.py").write_text("raise SystemExit('another laboratory')")
        file = tmp_path / f"bench_{version}.py"
        file.write_text(PROJECT.format(version=version, lab=hartwood.lab.__file__))
        with Worker(files=[file], own=False, paths=[tmp_path / version]) as worker:
            worker.prepare("where", 1)


def test_a_project_without_hartwood_can_be_measured(tmp_path: Path) -> None:
    """By a Python that has nothing of ours installed: standard library only."""
    (tmp_path / "mine.py").write_text("def double(x): return 2 * x")
    file = tmp_path / "bench_double.py"
    file.write_text(
        "from hartwood.lab import workload\nfrom mine import double\n"
        "@workload('double', unit='calls')\n"
        "def made(rng):\n    return lambda: double(21), 42\n"
    )
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info[1]}"
    python = str(base) if base.exists() else sys.executable
    with Worker(python, files=[file], own=False, prefix=[], cwd=tmp_path) as worker:
        worker.prepare("double", 1)
        assert worker.sample("double", 10).wall > 0


def started_by(file: Path) -> Callable[[], Worker]:
    return lambda: Worker(files=[file], own=False)


def test_two_workers_live_side_by_side(file: Path) -> None:
    start = started_by(file)
    with start() as one, start() as other:
        assert one.pid != other.pid
        for worker in (one, other, one):
            worker.prepare("seeded", 1)
            worker.check("seeded")
