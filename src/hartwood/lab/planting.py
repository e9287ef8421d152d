"""Slowdowns for the gate's self-test: a worker that loads this file has every benchmark wrapped.

After a call its processor is kept busy for a share of the time the call took; what a clock's tick
makes too much of is owed to the next call. The share is `SHARE` of the module `plant_<component>`,
so that it belongs to a file like any change does. Both arms have the wrapper; one has 0 in it.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable
from typing import Any

from hartwood.lab.workload import REGISTRY, Call, workload


def module_of(component: str) -> str:
    """The module that holds a component's share."""
    return "plant_" + re.sub(r"\W", "_", component)


def slowed(call: Call, share: float, clock: Callable[[], int]) -> Call:
    """The call, and `share` of its time on top; `clock` counts nanoseconds."""
    owed = 0.0

    def planted() -> Any:
        nonlocal owed
        begin = clock()
        answer = call()
        at = clock()
        owed += (at - begin) * share
        if owed > 0:
            end = at + owed
            while (at := clock()) < end:
                pass
            owed = end - at
        return answer

    return planted


def plant(setup: Callable[..., Any], component: str, wall: bool) -> Callable[..., Any]:
    """A set-up function that does what `setup` does, and wraps the call it makes."""

    def planted(*arguments: Any, **parameters: Any) -> Any:
        share = float(importlib.import_module(module_of(component)).SHARE)
        clock = time.perf_counter_ns if wall else time.thread_time_ns
        made = setup(*arguments, **parameters)
        if isinstance(made, tuple):
            return slowed(made[0], share, clock), *made[1:]
        return slowed(made, share, clock)

    return planted


def plant_all() -> None:
    """Wrap what is registered."""
    for each in {id(one.definition): one for one in REGISTRY.workloads.values()}.values():
        each.definition.setup = plant(each.definition.setup, each.component, each.clock == "wall")


if __name__.startswith("bench_"):  # loaded by a worker, as a file of benchmarks
    plant_all()

    @workload("planted/nothing", unit="calls", gate=False, why="a file has to have a benchmark")
    def nothing(rng: object) -> tuple[Callable[[], None], None]:
        """What makes this a file of benchmarks."""
        return lambda: None, None
