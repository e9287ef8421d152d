"""How fast guest instructions are, interpreted and translated, by what they do; and calls.

Selector: `jit_bench`. Every answer is held against the other engine's, and a short run against the
reference in Python.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from hartwood.lab import LabError, workload
from hartwood.lab.workloads._access import FACTOR, STEP
from hartwood.lab.workloads._guest import Guest, counters, guest

FAMILY = "jit_bench"
#: Eight instructions a cycle at 6 GHz; more than that, and the compiler has solved the loop.
FASTEST = 1 / (8 * 6e9)
UNROLLED = 4
#: Rounds of a call, translated and interpreted, and of the run that the reference repeats.
ROUNDS = {2: 2048, 0: 128}
SHORT = 4
#: What each kind repeats: integers in a0 and a3 to a7, floats in fa0 to fa3, memory at a1. `{n}`
#: is different in each copy.
BODIES = {
    "alu": """add a0, a0, a3; xor a3, a3, a0; sub a4, a4, a3; or a5, a4, a0; and a6, a5, a3
        slli a7, a6, 3; srli t1, a7, 5; add a3, a3, t1""",
    "multiply": "mul a0, a0, a3; mulhu a4, a0, a3; mulw a5, a4, a0; add a3, a3, a5",
    "divide": "divu a4, a0, a3; remu a5, a0, a3; add a0, a0, a4; xor a3, a3, a5; ori a3, a3, 1",
    "bits": """rol a0, a0, a3; clz a4, a0; cpop a5, a3; rev8 a3, a3; andn a6, a0, a5
        max a7, a6, a4; add a0, a0, a7; xor a3, a3, a5""",
    "branch": """srli t1, a0, 13; xor a0, a0, t1; andi t1, a0, 1; beqz t1, even{n}
        addi a3, a3, 7; even{n}: slli t1, a0, 7; add a0, a0, t1; blt a3, a0, less{n}
        xori a3, a3, 85; less{n}: add a0, a0, a3""",
    "float": """fadd.d fa0, fa0, fa1; fmul.d fa2, fa0, fa1; fsub.d fa3, fa2, fa0
        fmadd.d fa0, fa3, fa1, fa1; fmv.x.d t1, fa0; add a0, a0, t1""",
    "float-divide": "fdiv.d fa0, fa1, fa0; fsqrt.d fa2, fa0; fadd.d fa0, fa2, fa1",
    "convert": """fcvt.d.l fa0, a3; fcvt.l.d a4, fa0; feq.d a5, fa0, fa1; add a0, a0, a4
        add a0, a0, a5; addi a3, a3, 3""",
    "atomic": """amoadd.d a4, a3, (a1); amoxor.w a5, a0, (a1); lr.d a6, (a1); add a6, a6, a3
        sc.d a7, a6, (a1); add a0, a0, a6""",
}


def _size(kind: str) -> int:
    """Instructions of one round without the loop around it."""
    return UNROLLED * sum(
        part.partition(":")[2].strip() != "" if ":" in part else bool(part.strip())
        for line in BODIES[kind].splitlines()
        for part in line.split(";")
    )


def text_of(kind: str) -> str:
    """The program: a2 rounds of the body; what it computed is folded into a0."""
    copies = "\n".join(BODIES[kind].format(n=n) for n in range(UNROLLED))
    fold = "fmv.x.d t1, fa0; add a0, a0, t1; add a0, a0, a3"
    return f"loop:\n{copies}\naddi a2, a2, -1; bnez a2, loop; {fold}; ebreak"


def _reference(here: Guest, call: Callable[[], int]) -> int:
    here.machine.mode = "reference"
    try:
        return call()
    finally:
        here.machine.mode = "interp"


def checked(
    name: str,
    text: str,
    registers: dict[int, int],
    level: int,
    before: Callable[[], object] = lambda: None,
    entries: Sequence[int] = (0,),
    floats: Sequence[int] = (),
) -> tuple[Callable[[], int], int]:
    """A call at `level`, and the answer that the other engine gives; raises `LabError` where the
    reference gives another one for a few rounds. `before` makes memory what the program expects."""
    here = guest()

    def runner(values: dict[int, int], engine: int) -> Callable[[], int]:
        inner = here.runner(text, values, engine, entries)
        f = here.hart.f

        def call() -> int:
            for index, bits in enumerate(floats):
                f[10 + index] = bits
            before()
            return inner()

        return call

    short = {**registers, 12: SHORT}
    if runner(short, level)() != _reference(here, runner(short, level)):
        raise LabError(f"{name}: the reference gives another answer")
    return runner(registers, level), runner(registers, 0 if level else 2)()


KINDS = [
    {"kind": kind, "level": level, "tier": tier}
    for level, tier in ((2, "translated"), (0, "interpreted"))
    for kind in BODIES
]


@workload(
    "execute/{kind}/{tier}", unit="instructions",
    per_call=lambda kind, level, tier: _size(kind) * ROUNDS[level],
    component="execute", family=FAMILY, group="execute_{tier}", bound=FASTEST, params=KINDS,
    gate=lambda kind, level, tier: level == 2 or kind in ("alu", "branch", "float"),
    why="all handlers of the interpreter are made the same way; three kinds stand for them",
)  # fmt: skip
def execute(rng: random.Random, kind: str, level: int, tier: str) -> tuple[Callable[[], int], int]:
    """Instructions of one kind."""
    here = guest()
    area = here.area(f"execute/{kind}/{tier}", bytes(64))
    registers = {10: rng.getrandbits(64), 11: area, 12: ROUNDS[level], 13: rng.getrandbits(40) | 1}
    for index in range(14, 18):
        registers[index] = rng.getrandbits(64)
    # Doubles between 1 and 2: the exponent of 1.0 before 52 random bits.
    floats = [0x3FF << 52 | rng.getrandbits(52) for _ in range(4)]
    start = rng.randbytes(64)

    def before() -> None:
        if kind == "atomic":
            here.space.write(area, start)

    return checked(f"execute/{kind}/{tier}", text_of(kind), registers, level, before, (0,), floats)


execute.counters(counters)

#: Functions first, so that their offsets are known: 8 of 8 bytes behind the jump over them.
_FUNCTIONS = "j start; " + "; ".join(f"f{i}: addi a0, a0, {3 * i + 1}; ret" for i in range(8))
_EIGHT = (0, *range(4, 68, 8))
CALLS = {
    "direct": f"""{_FUNCTIONS}; start: nop; loop: jal ra, f0; jal ra, f1
        addi a2, a2, -1; bnez a2, loop; ebreak""",
    "indirect": f"""{_FUNCTIONS}; start: auipc s2, 0; addi s2, s2, -64
        loop: mul a3, a3, a6; add a3, a3, a7; srli t0, a3, 61; sh3add t0, t0, s2
        jalr ra, 0(t0); addi a2, a2, -1; bnez a2, loop; ebreak""",
    "recursive": """j start
        fib: li t0, 2; bgeu a0, t0, more; ret
        more: addi sp, sp, -16; sd ra, 0(sp); sd a0, 8(sp); addi a0, a0, -1; jal ra, fib
        ld t1, 8(sp); sd a0, 8(sp); addi a0, t1, -2; jal ra, fib
        ld t1, 8(sp); add a0, a0, t1; ld ra, 0(sp); addi sp, sp, 16; ret
        start: li a5, 0; loop: mv a0, a4; jal ra, fib; add a5, a5, a0
        addi a2, a2, -1; bnez a2, loop; mv a0, a5; ebreak""",
}
#: Where regions begin, calls of a round, rounds of a call when translated. fib(10) makes 177.
_SHAPES = {
    "direct": (_EIGHT, 2, 4096),
    "indirect": (_EIGHT, 1, 8192),
    "recursive": ((0, 4), 177, 64),
}
_STACK = 4096


def _rounds(kind: str, level: int) -> int:
    return _SHAPES[kind][2] // (1 if level else 8)


@workload(
    "call/{kind}/{tier}", unit="calls",
    per_call=lambda kind, level, tier: _SHAPES[kind][1] * _rounds(kind, level),
    component="execute", family=FAMILY, group="calls_{tier}", bound=2 * FASTEST,
    params=[
        {"kind": kind, "level": level, "tier": tier}
        for level, tier in ((2, "translated"), (0, "interpreted"))
        for kind in CALLS
    ],
    gate=lambda kind, level, tier: level == 2 or kind == "direct",
    why="call/direct/interpreted stands for it in the gate",
)  # fmt: skip
def call(rng: random.Random, kind: str, level: int, tier: str) -> tuple[Callable[[], int], int]:
    """Function calls and their returns."""
    stack = guest().area(f"call/{kind}/{tier}", bytes(_STACK)) + _STACK
    registers = {2: stack, 10: rng.getrandbits(32), 12: _rounds(kind, level), 14: 10}
    registers |= {13: rng.getrandbits(64), 16: FACTOR, 17: STEP}
    return checked(f"call/{kind}/{tier}", CALLS[kind], registers, level, entries=_SHAPES[kind][0])


call.counters(counters)
