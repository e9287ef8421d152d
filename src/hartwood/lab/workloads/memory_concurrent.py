"""Harts in threads on one memory: how reads scale, what contention costs, what a batch costs.

Selector: `memory_concurrent_bench`. What runs in several threads is judged by the wall clock.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from hartwood.lab import workload
from hartwood.lab.workloads import _access as access
from hartwood.lab.workloads._guest import A0, U64, counters, guest, run_to_end

FAMILY = "memory_concurrent_bench"
THREADS = (1, 2, 4, 8, 16, 32)
#: 8-byte reads, and additions, that all threads of a call make together.
READS, ADDITIONS = 1 << 21, 1 << 14
NOISY = "threads beyond one depend on what else the machine runs: for the nightly"
#: As for one load, on 64 processors.
FASTEST = 5e-11 / 64
_ADD = "li a0, 0; loop: amoadd.d a0, a4, (a1); addi a2, a2, -1; bnez a2, loop; ebreak"

Registers = dict[int, int]


class Crew:
    """Threads with a hart each, that wait for work: what is timed is no start of a thread."""

    def __init__(self, size: int) -> None:
        self._work: list[SimpleQueue[tuple[int, Registers]]] = [SimpleQueue() for _ in range(size)]
        self._done: SimpleQueue[int | BaseException] = SimpleQueue()
        for queue in self._work:
            threading.Thread(target=self._serve, args=(queue,), daemon=True).start()

    def _serve(self, queue: SimpleQueue[tuple[int, Registers]]) -> None:
        hart = guest().machine.new_hart()
        while True:
            pc, registers = queue.get()
            try:
                for register, value in registers.items():
                    hart.x[register] = value
                hart.pc = pc
                run_to_end(hart)
                self._done.put(hart.x[A0])
            except BaseException as error:
                self._done.put(error)

    def run(self, pc: int, jobs: Sequence[Registers]) -> int:
        """Run the program once with each set of registers, one a thread; the sum of their a0."""
        for queue, registers in zip(self._work, jobs, strict=True):
            queue.put((pc, registers))
        total = 0
        for _ in jobs:
            result = self._done.get()
            if isinstance(result, BaseException):
                raise result
            total += result
        return total & U64


#: Crews by size: a thread lives as long as its worker process.
_crews: dict[int, Crew] = {}


def _crew(size: int) -> Crew:
    if size not in _crews:
        _crews[size] = Crew(size)
    return _crews[size]


@workload(
    "concurrent/read/{threads}", unit="reads", per_call=READS, component="execute", family=FAMILY,
    group="concurrent_reads", bound=FASTEST, clock="wall",
    params=[{"threads": threads} for threads in THREADS],
    gate=lambda threads: threads == 1, why=NOISY,
)  # fmt: skip
def concurrent_reads(rng: random.Random, threads: int) -> tuple[Callable[[], int], int]:
    """The same number of reads, by one thread and by many."""
    size, laps = 4096, READS // threads // 512
    data = rng.randbytes(size * threads)
    area = guest().area(f"concurrent/read/{threads}", data)
    pc, crew = guest().program(access.WALK, 2), _crew(threads)
    jobs = [{11: area + size * i, 12: size // 64, 13: laps} for i in range(threads)]
    total = laps * sum(memoryview(data).cast("Q").tolist()) & U64
    return lambda: crew.run(pc, jobs), total


concurrent_reads.counters(counters)


@workload(
    "concurrent/add/{place}/{threads}", unit="additions", per_call=ADDITIONS, component="execute",
    family=FAMILY, group="contention", bound=FASTEST, clock="wall", gate=False, why=NOISY,
    params=[{"place": place, "threads": n} for place in ("shared", "apart") for n in (2, 4, 8)],
)  # fmt: skip
def contention(rng: random.Random, place: str, threads: int) -> tuple[Callable[[], int], object]:
    """Atomic additions of many threads to one word, and to a word each, a page apart."""
    stride = 0 if place == "shared" else 4096
    area = guest().area(f"concurrent/add/{place}/{threads}", bytes(4096 * threads))
    pc, crew, each = guest().program(_ADD, 2), _crew(threads), ADDITIONS // threads
    jobs = [{11: area + stride * i, 12: each, 14: 1} for i in range(threads)]
    words = [area + stride * i for i in range(threads if stride else 1)]

    def call() -> int:
        for at in words:
            guest().space.write_u64(at, 0)
        return crew.run(pc, jobs)

    def verify(answer: object) -> None:
        assert isinstance(answer, int)
        assert sum(guest().space.read_u64(at) for at in words) == each * threads

    return call, verify


contention.counters(counters)


@workload(
    "concurrent/batch/{count}", unit="reads", per_call=lambda count: count, component="memory",
    family=FAMILY, group="batches", bound=1e-8, instructions=True,
    params=[{"count": count} for count in (10, 50, 100, 500, 1000)],
    gate=lambda count: count == 100, why="concurrent/batch/100 stands for it in the gate",
)  # fmt: skip
def batch(rng: random.Random, count: int) -> tuple[Callable[[], int], int]:
    """A list of addresses and sizes that Python reads one after the other."""
    data = rng.randbytes(access.SPAN)
    area = guest().area(f"concurrent/batch/{count}", data)
    space, pieces = guest().space, [(rng.randrange(access.SPAN - 64), rng.randrange(1, 64))
                                    for _ in range(count)]  # fmt: skip
    wanted = [(area + at, size) for at, size in pieces]
    expected = sum(sum(data[at : at + size]) for at, size in pieces)
    return lambda: sum(sum(space.read(at, size)) for at, size in wanted), expected
