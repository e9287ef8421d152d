"""What is known from one time round a loop to the next: pointers that walk off the edge of memory,
results that stay raw, rounding modes that change under way. The reference is the oracle."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

import pytest

from hartwood.isa.riscv import RISCV
from property.engines import Engines, difference, listing, machine_of
from property.programs import EXEC, LIMIT, PAGE, READ, WRITE, Area, Start

CODE = 0x4010_0000
AREA, FIXED, TOP = 0x2000_0000, 0x2000_2000, LIMIT - PAGE
U64 = (1 << 64) - 1
ONE, INFINITY, CANONICAL = 0x3FF0 << 48, 0x7FF0 << 48, 0x7FF8 << 48
PAYLOAD, NEGATIVE, SIGNALLING = CANONICAL + 5, CANONICAL | 1 << 63, INFINITY + 1
BOXED = 0xFFFF_FFFF_3F80_0000
WAYS = [("interp", 2), ("jit", 1), ("jit", 2)]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    yield from machine_of(tmp_path_factory)


def start_of(text: str, x: dict[int, int], f: dict[int, int], frm: int = 0) -> Start:
    """Some code, and memory whose words are doubles of all kinds, up to the last address."""
    code = RISCV.assemble(text, CODE)
    special = [ONE, PAYLOAD, ONE + 77, SIGNALLING, INFINITY, 0, NEGATIVE, CANONICAL]
    filled = b"".join(special[n % 8].to_bytes(8, "little") for n in range(PAGE // 8))
    # The pages after AREA's two and before it are not there.
    areas = [Area(at, filled, READ | WRITE) for at in (AREA, AREA + PAGE, TOP)]
    areas += [Area(FIXED, filled, READ), Area(CODE, code.ljust(PAGE, b"\0"), READ | EXEC)]
    return Start(
        pc=CODE,
        end=CODE + len(code) - 4,
        resume=CODE + len(code) - 4,
        x=[x.get(n, n * 0x0101_0101_0101_0101 & U64 if n else 0) for n in range(32)],
        f=[f.get(n, ONE + n) for n in range(32)],
        fcsr=frm << 5,
        areas=areas,
        # The second is what a loop of these calls, so that calls go from region to region.
        entries=[CODE, CODE + 4],
    )


def agree(engines: Engines, start: Start) -> None:
    """Every engine at every level does as the reference does, in one go and in slices, which
    enter the loop at its head."""
    whole = engines.run(start, "reference")
    for (engine, level), most in itertools.product(WAYS, (0, 3, 40)):
        random = Random(f"{engine} {level} {most}")
        budget = (lambda most=most, random=random: random.randint(1, most)) if most else None
        outcome = engines.run(start, engine, level=level, budget=budget)
        wrong = difference(outcome, whole)
        if wrong:
            at = outcome.moments[0].pc
            pytest.fail(f"{engine} {level}, slices of {most}: {wrong}\n{listing(start, at)}")


#: x10 walks until it is x11; what it meets is added up in x16.
WALKS = {
    "up": "loop: ld a5, 0(a0)\nadd a6, a6, a5\naddi a0, a0, 8\nbne a0, a1, loop\nebreak",
    "down": "loop: addi a0, a0, -8\nld a5, 8(a0)\nsd a5, 16(a0)\nbne a0, a1, loop\nebreak",
    "far": "loop: lw a5, 4(a0)\nadd a6, a6, a5\naddi a0, a0, 2032\nbne a0, a1, loop\nebreak",
    "store": "loop: sd a6, -8(a0)\naddi a6, a6, 3\naddi a0, a0, 8\nbltu a0, a1, loop\nebreak",
    "atomic": "loop: amoadd.d a5, a6, (a0)\naddi a0, a0, 8\nbne a0, a1, loop\nebreak",
    "sometimes": """loop: ld a5, 0(a0)
        addi a0, a0, 8
        beqz a5, loop
        andi a4, a5, 1
        bnez a4, odd
        bne a0, a1, loop
        ebreak
        odd: addi a0, a0, 16
        addi a6, a6, 1
        bne a0, a1, loop
        ebreak""",
    "replaced": """loop: ld a5, 0(a0)
        addi a0, a0, 8
        addi a7, a7, -1
        bnez a7, loop
        mv a0, a3
        li a7, 1000
        j loop
        ebreak""",
    "two": """outer: mv a2, a0
        li a7, 5
        inner: ld a5, 0(a2)
        ld a4, 0(a0)
        add a6, a6, a5
        addi a2, a2, 504
        addi a7, a7, -1
        bnez a7, inner
        addi a0, a0, 8
        bne a0, a1, outer
        ebreak""",
    "called": """j loop
        elsewhere: addi a0, a0, 1024
        slli a0, a0, 1
        srli a0, a0, 1
        ret
        loop: ld a5, 0(a0)
        add a6, a6, a5
        jal ra, elsewhere
        ld a5, 0(a0)
        bne a0, a1, loop
        ebreak""",
    "conditional": """loop: lr.d a5, (a0)
        sc.d a4, a6, (a0)
        addi a0, a0, 8
        sd a4, 0(a0)
        bne a0, a1, loop
        ebreak""",
}


@pytest.mark.parametrize("way", WALKS)
@pytest.mark.parametrize(
    "at",
    [
        AREA + PAGE,
        AREA + 2 * PAGE - 64,  # into memory that is only read
        FIXED + PAGE - 64,  # into nothing
        AREA + 64,
        TOP + PAGE - 64,  # over the limit
        LIMIT,
        LIMIT + (1 << 20) - 64,  # from the guard into what is not the guest's
        LIMIT + (1 << 21),
        64,
        -64 & U64,
        1 << 63,
        AREA | 1 << 62,
    ],
    ids=hex,
)
def test_a_pointer_walks_over_an_edge(engines: Engines, way: str, at: int) -> None:
    # x11 is met after some steps, or never.
    for steps in (3, 200):
        sign = -1 if way == "down" else 1
        x = {10: at, 11: at + sign * 8 * steps & U64, 13: LIMIT + 4096, 17: 11, 1: CODE + 2}
        agree(engines, start_of(WALKS[way], x, {}))


#: Loops over doubles: x10 walks, x7 counts.
FLOATS = {
    "sum": "loop: fld fa5, 0(a0)\nfadd.d fa4, fa4, fa5\naddi a0, a0, 8\n",
    "product": "loop: fld fa5, 0(a0)\nfld fa3, 64(a0)\nfmul.d fa5, fa5, fa3\n"
    "fadd.d fa4, fa4, fa5\naddi a0, a0, 8\n",
    "moved": "loop: fld fa5, 0(a0)\nfmul.d fa4, fa5, fa4\nfmv.d fa3, fa4\nfneg.d fa2, fa3\n"
    "fmv.x.d a5, fa2\nadd a6, a6, a5\naddi a0, a0, 8\n",
    "carried": "loop: fmv.d fa3, fa4\nfsub.d fa4, fa2, fa5\nfld fa5, 0(a0)\nfsd fa3, 1024(a0)\n"
    "fmv.d fa2, fa5\naddi a0, a0, 8\n",
    "either": "loop: fld fa5, 0(a0)\nandi a5, t2, 1\nbeqz a5, even\nfadd.d fa4, fa4, fa5\n"
    "j next\neven: fmv.d fa4, fa5\nnext: fsd fa4, 1024(a0)\naddi a0, a0, 8\n",
    "narrow": "loop: flw fa5, 0(a0)\nfadd.s fa4, fa4, fa5\nfcvt.d.s fa3, fa4\n"
    "fadd.d fa2, fa2, fa3\naddi a0, a0, 8\n",
    "clean": "loop: fcvt.d.l fa4, a0\nfmadd.d fa3, fa3, fa4, fa5\nfmax.d fa5, fa3, fa4\n"
    "fsub.d fa2, fa5, fa3\naddi a0, a0, 8\n",
}
LAST = "addi t2, t2, -1\nbnez t2, loop\nfsd fa4, 0(s1)\nebreak"


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize(
    "first", [ONE, CANONICAL, PAYLOAD, SIGNALLING, NEGATIVE, BOXED, INFINITY], ids=hex
)
def test_results_stay_what_they_are(engines: Engines, kind: str, first: int) -> None:
    for other in (ONE, PAYLOAD, SIGNALLING):
        f = {14: first, 15: other, 13: other, 12: first}
        x = {10: AREA, 7: 21, 9: AREA + 2048}
        agree(engines, start_of(FLOATS[kind] + LAST, x, f))


@pytest.mark.parametrize("kind", ["sum", "either"])
def test_a_loop_over_doubles_ends_in_a_fault(engines: Engines, kind: str) -> None:
    for first in (ONE, PAYLOAD, SIGNALLING):
        x = {10: FIXED + PAGE - 72, 7: 100, 9: AREA}
        agree(engines, start_of(FLOATS[kind] + LAST, x, {14: first, 15: first}))


#: Ways to change the rounding mode in a loop: to one that the host has not, or to none at all.
MODES = {
    "kept": "loop: fdiv.d fa4, fa4, fa5\n",
    "written": "loop: fdiv.d fa4, fa4, fa5\nandi a5, t2, 7\nfsrm a5\nfadd.d fa3, fa4, fa5\n",
    "after": "loop: fdiv.d fa4, fa4, fa5\nfadd.d fa3, fa4, fa5\nandi a5, t2, 7\nfsrm a5\n",
    "static": "loop: fdiv.d fa4, fa4, fa5, rtz\nandi a5, t2, 7\nfsrm a5\n"
    "fadd.d fa3, fa4, fa5, rup\nbeqz a5, next\nfadd.d fa3, fa4, fa5\nnext: nop\n",
    "flags": "loop: fdiv.d fa4, fa4, fa5\nfsflags x0\nfadd.d fa3, fa4, fa5\n",
    "called": "j loop\nother: andi a5, t2, 7\nfsrm a5\nret\n"
    "loop: fdiv.d fa4, fa4, fa5\njal ra, other\nfadd.d fa3, fa4, fa5\n",
    "branch": "loop: andi a5, t2, 1\nbnez a5, next\nfscsr t2\nnext: fdiv.d fa4, fa4, fa5\n",
}


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize("frm", range(8))
def test_the_rounding_mode_changes_under_way(engines: Engines, kind: str, frm: int) -> None:
    x = {7: 19, 9: AREA}
    f = {14: ONE + 12345, 15: ONE + 0x8_1234_5678_9ABC}
    agree(engines, start_of(MODES[kind] + LAST, x, f, frm))
