"""The process of a worker: loads benchmarks from one checkout and times them as it is told.

Run as a file, by any Python: `lab` comes from beside this file, so that every arm of a comparison
is timed by the same loop, and everything else from the paths it is given.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import itertools
import json
import os
import resource
import sys
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hartwood.lab.workload import Call, Prepared

HERE = Path(__file__).resolve().parent
LONGEST_CALIBRATION = 1.0  # seconds of a timing that is not repeated to be sure of it


def _graft() -> None:
    """Make `hartwood.lab` the one beside this file, whatever version of the rest there is."""
    sys.path.append(str(HERE.parents[1]))  # last: for projects that have no hartwood at all
    spec = importlib.util.spec_from_file_location(
        "hartwood.lab", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hartwood.lab"] = module
    spec.loader.exec_module(module)
    package = importlib.import_module("hartwood")
    package.lab = module  # type: ignore[attr-defined]


def time_calls(call: Call, loops: int) -> tuple[float, float, Any]:
    """Seconds of wall and of CPU time (all threads of this process) for `loops` calls, and the
    last one's answer."""
    answer: Any = None
    repeat = itertools.repeat(None, loops)
    cpu = time.process_time_ns()
    wall = time.perf_counter_ns()
    for _ in repeat:
        answer = call()
    wall = time.perf_counter_ns() - wall
    cpu = time.process_time_ns() - cpu
    return wall / 1e9, cpu / 1e9, answer


def _pace() -> float:
    """CPU seconds of a little work that is always the same: how fast the processor is just now."""
    begin = time.process_time_ns()
    sum(itertools.repeat(1, 2000))  # touches no memory that the benchmark's could be driven out by
    return (time.process_time_ns() - begin) / 1e9


def _steal() -> int:
    """Ticks of all processors that the hypervisor kept (proc(5), /proc/stat), -1 unknown."""
    try:
        with open("/proc/stat", "rb") as file:
            return int(file.readline().split()[8])
    except (OSError, IndexError, ValueError):
        return -1


class Server:
    """Answers one request at a time; what is prepared stays until something else is."""

    def __init__(self) -> None:
        self._prepared: dict[str, Prepared] = {}
        self._answers: dict[str, Any] = {}
        self._collections = 0

    def _note(self, phase: str, info: dict[str, int]) -> None:
        self._collections += phase == "stop"

    def load(self, own: bool, files: list[str], collect: bool) -> None:
        """Load benchmarks; without `collect` Python's cyclic collector stays off."""
        from hartwood.lab.workload import REGISTRY

        if own:
            REGISTRY.load_own()
        for file in files:
            REGISTRY.load_file(Path(file))
        gc.callbacks.append(self._note)
        if not collect:
            gc.disable()

    def entries(self) -> dict[str, Any]:
        """All there is, and what could not be loaded."""
        from hartwood.lab.workload import REGISTRY

        names = (
            "name unit per_call family group component bound gate why clock peer instructions"
        ).split()
        found = [
            {name: getattr(workload, name) for name in names}
            for workload in REGISTRY.workloads.values()
        ]
        return {"workloads": found, "broken": REGISTRY.broken}

    def prepare(self, name: str, seed: int) -> dict[str, Any]:
        """Set up, call once and check the answer; gives the first call's seconds."""
        from hartwood.lab.workload import REGISTRY, LabError

        if name not in REGISTRY.workloads:
            raise LabError(f"{name}: no such benchmark here")
        self._prepared.pop(name, None)
        prepared = REGISTRY.workloads[name].prepare(seed)
        wall, cpu, answer = time_calls(prepared.call, 1)
        prepared.check(answer)
        self._prepared[name], self._answers[name] = prepared, answer
        gc.collect()
        gc.freeze()
        return {"wall": wall, "cpu": cpu}

    def calibrate(self, name: str, target: float) -> int:
        """How many calls take about `target` seconds of wall time, at least one."""
        call, loops = self._known(name).call, 1
        while True:
            wall, _, self._answers[name] = time_calls(call, loops)
            if target / 2 <= wall < LONGEST_CALIBRATION:
                # Once more: the first time may have been a preemption's.
                again, _, self._answers[name] = time_calls(call, loops)
                wall = min(wall, again)
            if wall >= target / 2:
                return max(1, round(loops * target / wall))
            loops *= min(10, max(2, int(target / wall))) if wall > 0 else 10

    def sample(self, name: str, loops: int) -> dict[str, Any]:
        """Time `loops` calls, and say what happened meanwhile."""
        prepared = self._known(name)
        before, steal, collections = prepared.counters(), _steal(), self._collections
        switches, pace = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw, _pace()
        wall, cpu, self._answers[name] = time_calls(prepared.call, loops)
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
        collections = self._collections - collections
        counters = {key: value - before[key] for key, value in prepared.counters().items()}
        return {
            "wall": wall,
            "cpu": cpu,
            "counters": counters,
            "switches": switches,
            "steal": max(0, _steal() - steal),
            "collections": collections,
            "pace": (pace + _pace()) / 2,
        }

    def check(self, name: str) -> None:
        """Check the answer of the last call that was timed."""
        self._known(name).check(self._answers[name])

    def release(self, name: str) -> None:
        """Forget what was prepared."""
        self._prepared.pop(name, None)
        self._answers.pop(name, None)
        gc.unfreeze()

    def pin(self, cpus: list[int]) -> None:
        """Run on these processors only."""
        os.sched_setaffinity(0, cpus)

    def imported(self) -> dict[str, str]:
        """Top-level modules that are not of Python's own, and the files they came from."""
        return {
            name: str(Path(file).resolve())
            for name, module in list(sys.modules.items())
            if "." not in name
            and name not in sys.stdlib_module_names
            and (file := getattr(module, "__file__", None))
        }

    def _known(self, name: str) -> Prepared:
        from hartwood.lab.workload import LabError

        if name not in self._prepared:
            raise LabError(f"{name}: not prepared")
        return self._prepared[name]


def main() -> int:
    """Serve requests, one JSON list a line, until "quit" or the end of standard input."""
    # What benchmarks print must not get between the answers.
    source, sink = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    for descriptor in (source.fileno(), sink.fileno()):
        os.set_inheritable(descriptor, False)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _graft()
    from hartwood.lab.workload import LabError, Skip

    server = Server()
    methods = {
        name: getattr(server, name)
        for name in (
            "load",
            "entries",
            "prepare",
            "calibrate",
            "sample",
            "check",
            "release",
            "pin",
            "imported",
        )
    }
    for line in iter(source.readline, b""):
        method, *arguments = json.loads(line)
        if method == "quit":
            break
        try:
            reply = {"ok": methods[method](*arguments)}
        except Skip as reason:
            reply = {"skip": str(reason)}
        except LabError as error:
            reply = {"error": str(error)}
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            reply = {"error": f"{arguments[0]}: {text}" if arguments else text}
        sink.write(json.dumps(reply).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
