"""Exceptions are precise: the pc, every register, the address and the kind are those of the
instruction that raised them, in the middle of whatever the host was doing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from hartwood.isa.riscv import RISCV
from property.engines import ENGINES, Engines, Moment, Outcome, difference, listing, machine_of
from property.programs import EXEC, LIMIT, PAGE, READ, WRITE, Area, Start

CODE = 0x4010_0000
#: Pages in this order: writable, nothing, writable, read-only, writable, executable.
AREA = 0x2000_0000
NOTHING, SECOND, FIXED, THIRD, RUNNABLE = (AREA + n * PAGE for n in range(1, 6))
MAPERR, ACCERR = (11, 1), (11, 2)
ADRALN = (7, 1)
U64 = (1 << 64) - 1

LOADS = {"lb": 1, "lbu": 1, "lh": 2, "lhu": 2, "lw": 4, "lwu": 4, "ld": 8, "flw": 4, "fld": 8}
STORES = {"sb": 1, "sh": 2, "sw": 4, "sd": 8, "fsw": 4, "fsd": 8}
ATOMICS = {
    f"amo{name}.{kind}": size
    for name in ("swap", "add", "xor", "and", "or", "min", "max", "minu", "maxu")
    for kind, size in (("w", 4), ("d", 8))
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    yield from machine_of(tmp_path_factory)


def start_of(text: str, *, pc: int = CODE, areas: Sequence[Area] = ()) -> Start:
    """Some code in the middle of memory of all kinds."""
    code = RISCV.assemble(text, pc)
    first = pc & -PAGE
    data = bytes(pc - first) + code
    data += bytes(-len(data) % PAGE)
    filled = bytes(range(256)) * (PAGE // 256)
    return Start(
        pc=pc,
        end=0,
        resume=pc,
        x=[0, *(0x1111_1111_1111_1111 * n & U64 for n in range(1, 32))],
        f=[0x3FF0_0000_0000_0000 + n for n in range(32)],
        fcsr=0,
        areas=[
            Area(first, data, READ | EXEC),
            Area(AREA, filled, READ | WRITE),
            Area(SECOND, filled, READ | WRITE),
            Area(FIXED, filled, READ),
            Area(THIRD, filled, READ | WRITE),
            Area(RUNNABLE, filled, READ | EXEC),
            *areas,
        ],
        entries=[pc],
    )


def first_stop(engines: Engines, start: Start, engine: str, level: int = 2) -> Outcome:
    """The first exception, and memory at that time."""
    engines.load(start)
    engines.use(engine)
    if engine == "jit":
        engines.machine.engine.translate(start.entries, level)
    stop = engines.hart.run()
    while stop.cause == "slice":
        stop = engines.hart.run()
    memory = tuple((a.start, engines.space.read(a.start, len(a.data))) for a in start.areas)
    return Outcome((engines.moment(stop),), memory)


def agreed(engines: Engines, start: Start) -> Moment:
    """What every engine, at every level, makes of a program."""
    reference = first_stop(engines, start, "reference")
    for engine, level in (("interp", 2), ("jit", 1), ("jit", 2)):
        outcome = first_stop(engines, start, engine, level)
        wrong = difference(outcome, reference)
        if wrong:
            pytest.fail(f"{engine} {level}: {wrong}\n{listing(start, outcome.moments[0].pc)}")
    return reference.moments[0]


#: Code that changes every register, so that all of them are dirty when the access comes.
DIRTY = "\n".join(
    [f"addi x{n}, x{n}, {n}" for n in range(1, 32) if n not in (5, 6)]
    + [f"fadd.d f{n}, f{n}, f{(n + 1) % 32}" for n in range(32)]
)


def access(name: str, at: int, offset: int = 0) -> str:
    """Dirty registers, the access to `at`, and more that must not happen."""
    register = "f6" if name.startswith("f") else "x6"
    if "." in name:
        operand = f"{name} x6, x7, (x5)"
    else:
        operand = f"{name} {register}, {offset}(x5)"
    return f"li x5, {at - offset & U64}\n{DIRTY}\n{operand}\naddi x8, x8, 1\nebreak"


def fault_of(name: str) -> str:
    return "load" if name in LOADS or name.startswith("lr") else "store"


ACCESSES = {**LOADS, **STORES, "amoadd.w": 4, "amomin.d": 8, "amoswap.w": 4}


@pytest.mark.parametrize("name", ACCESSES)
@pytest.mark.parametrize(
    ("at", "signal"),
    [
        (NOTHING + 64, MAPERR),
        (0, MAPERR),
        (LIMIT, MAPERR),
        (LIMIT + 8, MAPERR),
        (1 << 63, MAPERR),
        (-8 & U64, MAPERR),
        (AREA | 1 << 38, MAPERR),
        (AREA | 1 << 63, MAPERR),
    ],
)
def test_nothing_is_there(engines: Engines, name: str, at: int, signal: tuple[int, int]) -> None:
    start = start_of(access(name, at, 0 if "." in name else -16))
    moment = agreed(engines, start)
    assert (moment.cause, moment.address, moment.signal) == (fault_of(name), at, signal)
    assert moment.x[8] == start.x[8] + 8
    assert moment.x[6] == start.x[6]


@pytest.mark.parametrize("name", [*STORES, *ATOMICS])
@pytest.mark.parametrize("at", [FIXED + 128, RUNNABLE + 128])
def test_memory_that_may_not_be_written(engines: Engines, name: str, at: int) -> None:
    moment = agreed(engines, start_of(access(name, at)))
    assert (moment.cause, moment.address, moment.signal) == ("store", at, ACCERR)


@pytest.mark.parametrize("kind", ["w", "d"])
def test_conditional_stores_to_memory_that_may_not_be_written(engines: Engines, kind: str) -> None:
    """A reservation on read-only memory may be had; the store must fault, and again."""
    text = f"li x5, {FIXED + 64}\n{DIRTY}\nlr.{kind} x7, (x5)\nsc.{kind} x6, x7, (x5)\nebreak"
    moment = agreed(engines, start_of(text))
    assert (moment.cause, moment.address, moment.signal) == ("store", FIXED + 64, ACCERR)
    assert RISCV.decode(engines.space.read_u32(moment.pc)).insn.name == f"sc.{kind}"


@pytest.mark.parametrize("name", [*ATOMICS, "lr.w", "lr.d"])
def test_misaligned_atomics(engines: Engines, name: str) -> None:
    text = access(name, AREA + 65)
    if name.startswith("lr"):
        text = text.replace(", x7, (x5)", ", (x5)")
    moment = agreed(engines, start_of(text))
    assert (moment.cause, moment.address, moment.signal) == (fault_of(name), AREA + 65, ADRALN)


CROSSINGS = {
    # boundary: what the pages before and after it may be used for
    NOTHING: ("rw", ""),
    SECOND: ("", "rw"),
    FIXED: ("rw", "r"),
    THIRD: ("r", "rw"),
    RUNNABLE: ("rw", "r"),
}


@pytest.mark.parametrize("boundary", CROSSINGS)
@pytest.mark.parametrize("name", [n for n, size in {**LOADS, **STORES}.items() if size > 1])
def test_accesses_that_cross_a_page(engines: Engines, name: str, boundary: int) -> None:
    """The address is the first one that is wrong; the first page is left as it was."""
    size = {**LOADS, **STORES}[name]
    wanted = "r" if name in LOADS else "w"
    before, after = CROSSINGS[boundary]
    for at in {boundary - 1, boundary - size + 1, boundary - size // 2}:
        moment = agreed(engines, start_of(access(name, at)))
        if wanted not in before:
            expected = (fault_of(name), at)
        elif wanted not in after:
            expected = (fault_of(name), boundary)
        else:
            expected = ("ebreak", 0)
        assert (moment.cause, moment.address) == expected


def test_an_access_across_the_end_of_the_address_space(engines: Engines) -> None:
    top = Area(LIMIT - PAGE, bytes(PAGE), READ | WRITE)
    for name in ("ld", "sd", "lw", "sw", "fld", "fsd"):
        size = {**LOADS, **STORES}[name]
        start = start_of(access(name, LIMIT - size + 1), areas=[top])
        moment = agreed(engines, start)
        assert (moment.cause, moment.address) == (fault_of(name), LIMIT)
        moment = agreed(engines, start_of(access(name, LIMIT - size), areas=[top]))
        assert moment.cause == "ebreak"
        moment = agreed(engines, start_of(access(name, -1 & U64), areas=[top]))
        assert (moment.cause, moment.address) == (fault_of(name), U64)


@pytest.mark.parametrize("offset", [2047, -2048, -1, 1, 16])
def test_offsets_that_leave_the_address_space(engines: Engines, offset: int) -> None:
    """Several accesses from one base: only some of them are inside."""
    low = Area(0, bytes(PAGE), READ | WRITE)
    top = Area(LIMIT - PAGE, bytes(PAGE), READ | WRITE)
    for base in (0, 8, LIMIT - 8, LIMIT, LIMIT - PAGE):
        text = f"""
            li x5, {base}
            ld x6, 0(x5)
            addi x7, x7, 1
            ld x6, {offset}(x5)
            addi x7, x7, 1
            sd x6, 8(x5)
            addi x7, x7, 1
            ebreak
        """
        agreed(engines, start_of(text, areas=[low, top]))


@pytest.mark.parametrize("goal", [NOTHING, AREA, FIXED + 6, LIMIT, LIMIT - 2, 1 << 63, U64, 0, 2])
@pytest.mark.parametrize("jump", ["jalr ra, 0(x5)", "jr x5", "jalr x5, 0(x5)", "jalr x0, 1(x5)"])
def test_jumps_to_where_no_code_is(engines: Engines, goal: int, jump: str) -> None:
    moment = agreed(engines, start_of(f"li x5, {goal}\n{DIRTY}\n{jump}\nebreak"))
    where = goal + (1 if "1(" in jump else 0) & U64
    where = where & ~1 & U64
    known = where in range(AREA, AREA + PAGE) or where in range(FIXED, FIXED + PAGE)
    assert (moment.cause, moment.address, moment.pc) == ("fetch", where, where)
    assert moment.signal == (ACCERR if known else MAPERR)
    if "ra" in jump:
        assert moment.x[1] == CODE + len(RISCV.assemble(f"li x5, {goal}\n{DIRTY}\n{jump}", CODE))


@pytest.mark.parametrize("jump", ["jal ra, pc-0x2000", "j pc-0x2000", "beq x0, x0, pc-0xffe"])
@pytest.mark.parametrize("place", [0, LIMIT - PAGE])
def test_direct_jumps_out_of_the_address_space(engines: Engines, jump: str, place: int) -> None:
    jump = jump.replace("pc-", "pc+") if place else jump
    text = f"addi x9, x9, 1\n{jump}\naddi x9, x9, 1\nebreak"
    moment = agreed(engines, start_of(text, pc=place))
    assert moment.cause == "fetch"
    assert moment.pc == moment.address
    assert moment.address >= LIMIT
    assert moment.x[9] == 0x9999_9999_9999_9999 + 1


def test_code_that_runs_off_its_page(engines: Engines) -> None:
    """Straight into memory that may not be executed, and off the end of the address space."""
    for page, signal in ((RUNNABLE, MAPERR), (LIMIT - PAGE, MAPERR)):
        text = "addi x9, x9, 1\naddi x10, x10, 2\nc.addi x11, 3"
        pc = page + PAGE - 10
        start = start_of(text, pc=pc)
        start.areas = [a for a in start.areas if a.start != page or a is start.areas[0]]
        moment = agreed(engines, start)
        assert (moment.cause, moment.address, moment.signal) == ("fetch", page + PAGE, signal)
        assert moment.pc == page + PAGE
        assert moment.x[11] == start.x[11] + 3


@pytest.mark.parametrize("prot", [0, READ, READ | WRITE])
def test_an_instruction_whose_second_half_may_not_be_executed(engines: Engines, prot: int) -> None:
    """Four bytes across pages: pc is the instruction's, the address the second page's."""
    text = "addi x9, x9, 1\naddi x10, x10, 2\naddi x11, x11, 3"
    start = start_of(text, pc=CODE + PAGE - 10)
    whole = start.areas.pop(0)
    start.areas.insert(0, Area(CODE, whole.data[:PAGE], READ | EXEC))
    if prot:
        start.areas.append(Area(CODE + PAGE, whole.data[PAGE:], prot))
    moment = agreed(engines, start)
    assert (moment.cause, moment.pc, moment.address) == ("fetch", CODE + PAGE - 2, CODE + PAGE)
    assert moment.signal == (ACCERR if prot else MAPERR)
    assert (moment.x[9], moment.x[10], moment.x[11]) == (
        start.x[9] + 1, start.x[10] + 2, start.x[11],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("ecall", "ecall"),
        ("ebreak", "ebreak"),
        ("c.ebreak", "ebreak"),
        (".4byte 0xffffffff", "illegal"),
        (".2byte 0", "illegal"),
        ("csrrw x6, cycle, x7", "illegal"),
        ("csrrs x6, 0x300, x0", "illegal"),
        (".4byte 0x6000d053", "illegal"),
    ],
)
def test_exceptions_in_the_middle_of_a_loop(engines: Engines, text: str, cause: str) -> None:
    body = f"""
        li x5, 40
    loop:
        addi x6, x6, 3
        fadd.d f1, f1, f2
        addi x5, x5, -1
        bnez x5, next
        {text}
        addi x7, x7, 1
    next:
        addi x31, x31, 1
        bnez x5, loop
        ebreak
    """
    moment = agreed(engines, start_of(body))
    assert moment.cause == cause
    assert moment.x[5] == 0
    assert moment.x[6] == 0x6666_6666_6666_6666 + 120
    assert moment.x[31] == 0x1111_1111_1111_1111 * 31 % (1 << 64) + 39


@pytest.mark.parametrize("step", [1, 2, 4, 8, -1, -8, 24])
def test_a_loop_that_walks_out_of_its_memory(engines: Engines, step: int) -> None:
    """Every store before the fault is done, none after it, and the count is exact."""
    begin = AREA + PAGE - 800 if step > 0 else SECOND + 800
    text = f"""
        li x5, {begin}
    loop:
        sb x6, 0(x5)
        lb x8, 0(x5)
        addi x6, x6, 1
        addi x5, x5, {step}
        addi x7, x7, 1
        j loop
    """
    start = start_of(text)
    moment = agreed(engines, start)
    rounds = -(-800 // step) if step > 0 else 800 // -step + 1
    assert moment.cause == "store"
    assert moment.address == moment.x[5] == begin + step * rounds
    assert moment.x[7] == start.x[7] + rounds
    prologue = len(RISCV.assemble(f"li x5, {begin}", CODE)) // 4
    assert moment.instructions == prologue + 6 * rounds


@pytest.mark.parametrize("engine", ENGINES)
def test_a_fault_can_be_mended_and_the_access_done_again(engines: Engines, engine: str) -> None:
    """What a signal handler of the guest's does that maps memory on demand."""
    text = f"""
        li x5, {NOTHING + 16}
        li x6, 77
        addi x10, x10, 1
        sd x6, 0(x5)
        amoadd.d x7, x6, (x5)
        ld x8, 0(x5)
        fld f1, 0(x5)
        ebreak
    """
    start = start_of(text)
    engines.load(start)
    engines.use(engine)
    if engine == "jit":
        engines.machine.engine.translate([CODE])
    stop = engines.hart.run()
    assert (stop.cause, stop.address) == ("store", NOTHING + 16)
    engines.space.map(NOTHING, PAGE, READ)
    stop = engines.hart.run()
    assert (stop.cause, stop.code) == ("store", 2)
    engines.space.protect(NOTHING, PAGE, READ | WRITE)
    stop = engines.hart.run()
    assert stop.cause == "ebreak"
    assert (engines.hart.x[7], engines.hart.x[8], engines.hart.f[1]) == (77, 154, 154)
    assert engines.hart.x[10] == start.x[10] + 1


@pytest.mark.parametrize("reserved", ["x5", "x8"])
@pytest.mark.parametrize(
    "source", ["fmv.x.d x7, f7", "fmv.x.w x7, f7", "ld x7, 8(x5)", "lw x7, 8(x5)"]
)
def test_what_a_conditional_store_takes_is_there_afterwards(
    engines: Engines, source: str, reserved: str
) -> None:
    """Where nothing was attempted too: a value that only a floating-point register of the host's
    held has to be moved on both ways."""
    for kind in "wd":
        text = f"""
            li x5, {AREA + 64}
            li x8, {AREA + 72}
            lr.{kind} x6, ({reserved})
            {source}
            sc.{kind} x9, x7, (x5)
            add x10, x7, x7
            fmv.d.x f5, x7
            sd x7, 256(x5)
            ebreak
        """
        moment = agreed(engines, start_of(text))
        assert moment.cause == "ebreak"
        assert moment.x[9] == (reserved == "x8")
