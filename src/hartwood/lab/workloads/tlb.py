"""Translation of addresses on a whole machine: hits, misses, walks by level, fences, contexts.

Selector: `tlb_bench`. A guest in S-mode loads through page tables; its set-up fails where what
should hit misses, or the other way round.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import hartwood
from hartwood.isa.riscv.system import SYSTEM
from hartwood.lab import LabError, workload
from hartwood.machine import PageTables

FAMILY = "tlb_bench"
RAM, PAGE, END = 0x8000_0000, 4096, 0x1000
DATA, TABLES, ROOM = RAM + PAGE, RAM + (1 << 20), 160
LEVELS = {"sv39": 3, "sv48": 4, "sv57": 5}
#: Pages of a lap where each is in the slot of the one before, and laps of a call.
MISSES, LOADS = 64, 8192
#: One load in four cycles of 6 GHz, which is what a hit in the first cache takes.
FASTEST = 5e-11
_END = f"lui t6, {END >> 12}; sw zero, 0(t6); stay: j stay"
#: a2 times a3 loads, a4 bytes apart, from a1 on, that are added up in a0.
_LOADS = f"""mret; lap: mv t1, a1; mv t0, a3; loop: ld t2, 0(t1); add a0, a0, t2; add t1, t1, a4
    addi t0, t0, -1; bnez t0, loop; addi a2, a2, -1; bnez a2, lap; {_END}"""
#: What comes before each load.
_BEFORE = {
    "flush/all": "sfence.vma zero, zero",
    "flush/address": "sfence.vma a1, zero",
    "asid/same": "csrw satp, a5",
    "asid/switch": "csrw satp, a5; xor a5, a5, a6",
}

#: Machines of this process, by benchmark: each is made once.
_machines: dict[str, Any] = {}


def counters() -> dict[str, int]:
    """Instructions, misses and flushes of all of them so far."""
    names = ("instructions", "tlb_misses", "tlb_flushes")
    stats = [machine.stats() for machine in _machines.values()]
    return {name: sum(each[name] for each in stats) for name in names}


def _machine(name: str, text: str) -> Any:
    """A machine in S-mode behind the MRET that `text` begins with."""
    machine = _machines.get(name)
    if machine is None:
        machine = hartwood.Machine("riscv64", mode="stitch", deterministic=True)
        machine.mem.map(RAM, 2 << 20)
        machine.mem.map_io(END, PAGE, lambda *_: 0, lambda *_: machine.request_stop())
        machine.mem.write(RAM, SYSTEM.assemble(text, RAM))
        machine.pmpaddr0, machine.pmpcfg0 = (1 << 54) - 1, 0x1F  # all of memory
        machine.mstatus, machine.mepc, machine.pc = 1 << 11, RAM + 4, RAM  # MPP is S
        machine.run(instructions=1)
        _machines[name] = machine
    return machine


def _tables(memory: Any, scheme: str, at: int = TABLES) -> PageTables:
    tables = PageTables(memory, at, ROOM, scheme)
    tables.map(RAM, RAM, PAGE, "rx")
    tables.map(END, END, PAGE, "rw")
    return tables


def _runner(machine: Any, name: str, registers: dict[str, int], misses: int, slack: int) -> Any:
    """A call that runs the guest and gives a0. Raises `LabError` unless a second one has `misses`
    to `misses` + `slack` misses."""

    def call() -> int:
        for register, value in registers.items():
            setattr(machine, register, value)
        machine.a0, machine.pc = 0, RAM + 4
        if machine.run().reason != "stopped" or machine.mcause:
            raise LabError(f"{name}: the guest trapped, cause {machine.mcause}")
        answer: int = machine.a0
        return answer

    call()
    before = machine.stats()["tlb_misses"]
    call()
    seen = machine.stats()["tlb_misses"] - before
    if not misses <= seen <= misses + slack:
        raise LabError(f"{name}: {seen} misses, and there should be {misses}")
    return call


def _loads(
    rng: random.Random, name: str, tables: tuple[str, int], stride: int, pages: int
) -> tuple[Callable[[], int], int]:
    """`LOADS` loads from `pages` pages of a level, `stride` bytes apart, that are all one page of
    the machine's memory."""
    scheme, level = tables
    machine = _machine(name, _LOADS)
    made = _tables(machine.mem, scheme)
    step = PAGE << 9 * level
    va, inside = max(4 * step, 1 << 32), DATA % step
    for page in range(pages):
        made.map(va + page * stride, DATA - inside, step, "rw", level)
    words = [rng.getrandbits(40) for _ in range(pages)]
    for n, word in enumerate(words):
        machine.mem.write_u64(DATA + 8 * n, word)
    laps = LOADS // pages
    registers = {"satp": made.satp(), "a1": va + inside, "a2": laps, "a3": pages, "a4": stride + 8}
    hits = stride == PAGE
    call = _runner(machine, name, registers, 0 if hits else LOADS, pages + 8)
    return call, laps * sum(words)


@workload(
    "tlb/hit/{pages}", unit="loads", per_call=LOADS, component="TLB", family=FAMILY,
    group="tlb_hits", bound=FASTEST, params=[{"pages": 4**n} for n in range(5)],
    gate=lambda pages: pages == 16, why="tlb/hit/16 stands for it in the gate",
)  # fmt: skip
def hit(rng: random.Random, pages: int) -> tuple[Callable[[], int], int]:
    """Loads from pages side by side, each in a slot of its own."""
    return _loads(rng, f"tlb/hit/{pages}", ("sv39", 0), PAGE, pages)


@workload(
    "tlb/walk/{scheme}/{steps}", unit="loads", per_call=LOADS, component="page walk",
    family=FAMILY, group="tlb_walks", bound=FASTEST,
    gate=lambda scheme, steps: (scheme, steps) == ("sv39", 3),
    why="tlb/walk/sv39/3 stands for it in the gate",
    params=[
        {"scheme": scheme, "steps": steps}
        for scheme, levels in LEVELS.items()
        for steps in range(levels, 0, -1)
    ],
)  # fmt: skip
def walk(rng: random.Random, scheme: str, steps: int) -> tuple[Callable[[], int], int]:
    """Loads that all miss: a walk reads `steps` entries, less of them for larger pages."""
    level = LEVELS[scheme] - steps
    stride = max(1 << 20, PAGE << 9 * level)
    return _loads(rng, f"tlb/walk/{scheme}/{steps}", (scheme, level), stride, MISSES)


@workload(
    "tlb/{what}", unit="loads", per_call=LOADS // 8, component="TLB", family=FAMILY,
    group="tlb_contexts", bound=FASTEST, params=[{"what": what} for what in _BEFORE],
    gate=lambda what: what == "asid/switch", why="tlb/asid/switch stands for it in the gate",
)  # fmt: skip
def context(rng: random.Random, what: str) -> tuple[Callable[[], int], int]:
    """A fence, or another address space, before each load."""
    name, rounds = f"tlb/{what}", LOADS // 8
    text = f"""mret; loop: {_BEFORE[what]}; ld t2, 0(a1); add a0, a0, t2; addi a2, a2, -1
        bnez a2, loop; {_END}"""
    machine = _machine(name, text)
    words = rng.getrandbits(40), rng.getrandbits(40)
    satps = []
    for asid, word in enumerate(words):
        tables = _tables(machine.mem, "sv39", TABLES + asid * (ROOM * PAGE) // 2)
        tables.map(1 << 32, DATA + asid * PAGE, PAGE, "rw")
        machine.mem.write_u64(DATA + asid * PAGE, word)
        satps.append(tables.satp(asid + 1))
    registers = {"satp": satps[0], "a1": 1 << 32, "a2": rounds, "a5": satps[0]}
    registers["a6"] = satps[0] ^ satps[1]
    # Another address space empties the TLBs of data and of fetches, as a fence does; stitched code
    # looks into the latter only where it leaves its unit.
    misses = 0 if what == "asid/same" else rounds
    call = _runner(machine, name, registers, misses, misses + 8)
    switched = rounds // 2 if what == "asid/switch" else 0
    return call, (rounds - switched) * words[0] + switched * words[1]


for _made in (hit, walk, context):
    _made.counters(counters)
