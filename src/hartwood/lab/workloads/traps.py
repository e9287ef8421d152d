"""The ways out of generated code and back: entering, slices, traps, faults, host system calls.

Selector: `trap_bench`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from hartwood.lab import LabError, workload
from hartwood.lab.workloads._guest import counters, guest

FAMILY = "trap_bench"
#: Times that one call leaves the guest.
COUNT = 50
#: A switch of contexts of this kind takes a few hundred instructions of Python's.
FASTEST = 5e-8
_GETPID = 172  # of riscv64 and every other architecture with the generic table
PROGRAMS = {
    # Each is left in one way; t0 counts.
    "ecall": "loop: addi t0, t0, 1; ecall; j loop",
    "ebreak": "loop: addi t0, t0, 1; ebreak; j loop",
    "load-fault": "loop: addi t0, t0, 1; ld t1, 0(zero); j loop",
    "store-fault": "loop: addi t0, t0, 1; sd t1, 0(zero); j loop",
}
_CAUSES = {"load-fault": "load", "store-fault": "store"}
_T0 = 5


@workload(
    "trap/{kind}", unit="traps", per_call=COUNT, component="execute", family=FAMILY, group="traps",
    bound=FASTEST, params=[{"kind": kind} for kind in PROGRAMS],
    gate=lambda kind: kind in ("ecall", "load-fault"),
    why="trap/ecall and trap/load-fault stand for it in the gate",
)  # fmt: skip
def trap(rng: random.Random, kind: str) -> tuple[Callable[[], int], int]:
    """A translated guest that traps; Python looks at the cause and steps over it."""
    here = guest()
    pc, hart = here.program(PROGRAMS[kind], 2), here.hart
    cause = _CAUSES.get(kind, kind)

    def call() -> int:
        hart.pc, hart.x[_T0] = pc, 0
        for _ in range(COUNT):
            stop = hart.run()
            if stop.cause != cause:
                raise LabError(f"{stop} instead of {cause}")
            hart.pc += 4
        return hart.x[_T0]

    return call, COUNT


trap.counters(counters)


@workload(
    "trap/slice", unit="slices", per_call=COUNT, component="execute", family=FAMILY,
    group="traps", bound=FASTEST,
)  # fmt: skip
def time_slice(rng: random.Random) -> tuple[Callable[[], int], object]:
    """A loop that is interrupted every thousand instructions: the budget, the exit, the way in."""
    here = guest()
    pc, hart = here.program("li t0, 0; loop: addi t0, t0, 1; j loop", 2), here.hart

    def call() -> int:
        hart.pc, before = pc, hart.instructions
        for _ in range(COUNT):
            hart.run(1000)
        return hart.instructions - before

    def verify(instructions: object) -> None:
        assert isinstance(instructions, int)
        # A slice ends at the next check of the budget, which a loop makes once a round.
        assert COUNT * 1000 <= instructions + 1 <= COUNT * 1010, instructions

    return call, verify


time_slice.counters(counters)


@workload(
    "syscall/getpid", unit="calls", per_call=COUNT, component="system call", family=FAMILY,
    group="system_calls", bound=FASTEST,
)  # fmt: skip
def getpid(rng: random.Random) -> tuple[Callable[[], int], int]:
    """The host's cheapest system call by the interruptible way that guests' calls take."""
    hart = guest().hart
    hart.pc = guest().program("ebreak", 0)
    hart.run(1)  # the calling thread has to have entered the engine once
    number = {"x86_64": 39}.get(os.uname().machine, _GETPID)

    def call() -> int:
        return sum(hart.syscall(number) for _ in range(COUNT))

    return call, COUNT * os.getpid()
