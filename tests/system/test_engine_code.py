"""Code that changes: by itself, by another mapping, by the system; every engine runs what is there.

The guests here are a few instructions each. `jit` has everything translated before it starts, and
again whenever a test says so; `auto` translates by itself, in its worker, while the guest runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from random import Random

import pytest

from hartwood.isa.riscv import RISCV
from hartwood.machine.hart import Machine, Stop
from hartwood.mem import hostmem
from hartwood.mem.flat import FlatSpace

ENGINES = ("reference", "interp", "jit", "auto")
NATIVE = ENGINES[1:]
PAGE = 4096
CODE = 0x4010_0000
MORE = CODE + PAGE
DATA = 0x2000_0000
RX, RW, RWX = 5, 3, 7
SOAK = bool(os.environ.get("HARTWOOD_SOAK"))


class Guest:
    """Bare code on one engine."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.space = FlatSpace()
        self.machine = Machine(self.space, "jit" if engine == "auto" else "interp")
        if engine == "reference":
            self.machine.mode = engine
        self.hart = self.machine.new_hart()
        self.x = self.hart.x

    def close(self) -> None:
        self.machine.close()
        self.space.close()

    def put(self, text: str, at: int = CODE, prot: int = RWX) -> int:
        """Assemble code into pages of its own; gives its end."""
        code = RISCV.assemble(text, at)
        first, last = at & -PAGE, (at + len(code) + PAGE - 1) & -PAGE
        if self.space.regions.is_free(first, last):
            self.space.map(first, last - first, RW)
        self.space.protect(first, last - first, RW)
        self.space.write(at, code)
        self.space.protect(first, last - first, prot)
        return at + len(code)

    def translate(self, *entries: int) -> None:
        """Have code translated now, where the engine is one that is told to."""
        if self.engine == "jit":
            self.machine.engine.translate(list(entries))

    def run(self, pc: int = CODE, *, budget: int = 200_000, slices: int = 400) -> Stop:
        """Run from `pc` to the first stop that is not the end of a slice."""
        self.hart.pc = pc
        for _ in range(slices):
            stop = self.hart.run(budget)
            if stop.cause != "slice":
                return stop
        raise AssertionError(f"still running at {self.hart.pc:#x}")


@pytest.fixture(params=ENGINES)
def guest(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Guest]:
    monkeypatch.setenv("HARTWOOD_CACHE", str(tmp_path_factory.getbasetemp() / "code"))
    guest = Guest(request.param)
    yield guest
    guest.close()


def word(text: str) -> int:
    return int.from_bytes(RISCV.assemble(text), "little")


PATCH = [
    # how the store is done: lines that put a5 to the address a4
    "sw a5, 0(a4)",
    "sh a5, 0(a4); srli a6, a5, 16; sh a6, 2(a4)",
    "sb a5, 0(a4); srli a6, a5, 8; sb a6, 1(a4); srli a6, a5, 16; sb a6, 2(a4); "
    "srli a6, a5, 24; sb a6, 3(a4)",
    "amoswap.w a6, a5, (a4)",
    "lr.w a6, (a4); sc.w a6, a5, (a4)",
    "fmv.w.x fa0, a5; fsw fa0, 0(a4)",
    "ld a6, 0(a4); srli a6, a6, 32; slli a6, a6, 32; or a6, a6, a5; sd a6, 0(a4)",
    "lwu a6, 4(a4); slli a6, a6, 32; or a6, a6, a5; fmv.d.x fa0, a6; fsd fa0, 0(a4)",
]


@pytest.mark.parametrize("how", PATCH, ids=lambda how: how.split()[0])
@pytest.mark.parametrize("fence", ["fence.i", "nop"])
def test_an_instruction_ahead_in_the_same_block(guest: Guest, how: str, fence: str) -> None:
    """Without fence.i the manual would allow the old instruction; we never run it."""
    text = f"""
        li a4, {CODE + 0x100}
        li a5, {word("addi a0, a0, 2")}
        {how}
        {fence}
        j {CODE + 0x100:#x}
    """
    guest.put(text)
    guest.put("addi a0, a0, 1; c.addi a1, 5; ebreak", CODE + 0x100)
    guest.translate(CODE, CODE + 0x100)
    guest.run(CODE + 0x100)
    assert guest.x[10] == 1
    assert guest.run().cause == "ebreak"
    assert (guest.x[10], guest.x[11]) == (3, 10)


def test_the_very_next_instruction(guest: Guest) -> None:
    text = "sw a5, 0(a4); addi a0, a0, 1; ebreak"
    guest.put(text)
    guest.x[14], guest.x[15] = CODE + 4, word("addi a0, a0, 64")
    guest.translate(CODE)
    guest.run()
    assert guest.x[10] == 64


LOOP = f"""
    li s1, 200
    li s2, {MORE}
    li s3, {word("addi a0, zero, 0")}
    li s4, 0
loop:
    slli t0, s1, 20
    add t0, t0, s3
    sw t0, 0(s2)
    fence.i
    jalr ra, 0(s2)
    add s4, s4, a0
    addi s1, s1, -1
    bnez s1, loop
    ebreak
"""


def test_a_function_that_is_rewritten_before_each_call(guest: Guest) -> None:
    guest.put(LOOP)
    guest.put("addi a0, zero, 0; ret", MORE)
    guest.translate(CODE, MORE)
    assert guest.run().cause == "ebreak"
    assert guest.x[20] == 200 * 201 // 2


@pytest.mark.parametrize("budget", [13, 100, 1000])
def test_translation_keeps_up_with_rewriting(guest: Guest, budget: int) -> None:
    """The same, translated anew again and again at random moments."""
    guest.put(LOOP)
    guest.put("addi a0, zero, 0; ret", MORE)
    random = Random(budget)
    guest.hart.pc = CODE
    while (stop := guest.hart.run(random.randint(1, budget))).cause == "slice":
        if random.random() < 0.1:
            guest.translate(CODE, MORE)
    assert stop.cause == "ebreak"
    assert guest.x[20] == 200 * 201 // 2


def test_a_function_that_rewrites_its_caller(guest: Guest) -> None:
    """The instruction after the call is another one when the call returns."""
    text = f"""
        li s1, 50
    loop:
        li a4, {MORE + 0x80}
        jalr ra, 0(a4)
        addi a0, a0, 1
        addi s1, s1, -1
        bnez s1, loop
        ebreak
    """
    guest.put(text)
    # Adds 1 to the immediate of the instruction that it returns to.
    guest.put("lw a5, 0(ra); lui a6, 0x100; add a5, a5, a6; sw a5, 0(ra); ret", MORE + 0x80)
    guest.translate(CODE, MORE + 0x80)
    assert guest.run().cause == "ebreak"
    assert guest.x[10] == sum(range(2, 52))


def test_a_region_over_two_pages_whose_second_page_changes(guest: Guest) -> None:
    """Entered on the first page, which nobody touched."""
    guest.put("nop\n" * 8 + f"li a5, 7\nj {MORE + 16:#x}", MORE - 64)
    guest.put("addi a0, a5, 1; ebreak", MORE + 16)
    guest.translate(MORE - 64)
    guest.run(MORE - 64)
    assert guest.x[10] == 8
    writer = CODE + 8 * PAGE
    guest.put("sw a3, 0(a4); ebreak", writer)
    guest.x[13], guest.x[14] = word("addi a0, a5, 100"), MORE + 16
    guest.run(writer)
    guest.run(MORE - 64)
    assert guest.x[10] == 107


def test_a_region_whose_second_page_may_not_be_executed_any_more(guest: Guest) -> None:
    guest.put(f"li a5, 7\nj {MORE + 16:#x}", MORE - 64, RX)
    guest.put("addi a0, a5, 1; ebreak", MORE + 16, RX)
    guest.translate(MORE - 64)
    assert guest.run(MORE - 64).cause == "ebreak"
    guest.space.protect(MORE, PAGE, RW)
    stop = guest.run(MORE - 64)
    assert (stop.cause, stop.address, stop.signo, stop.code) == ("fetch", MORE + 16, 11, 2)
    guest.space.protect(MORE, PAGE, RX)
    assert guest.run(MORE - 64).cause == "ebreak"
    guest.space.unmap(MORE, PAGE)
    stop = guest.run(MORE - 64)
    assert (stop.cause, stop.address, stop.signo, stop.code) == ("fetch", MORE + 16, 11, 1)
    guest.put("addi a0, a5, 9; ebreak", MORE + 16, RX)
    assert guest.run(MORE - 64).cause == "ebreak"
    assert guest.x[10] == 16


@pytest.mark.parametrize("half", [0, 1])
def test_an_instruction_across_pages_of_which_one_changes(guest: Guest, half: int) -> None:
    at = MORE - 2
    guest.put("addi a0, a0, 1; ebreak", at)
    guest.translate(at, at - 6)
    for _ in range(3):
        guest.run(at)
    assert guest.x[10] == 3
    writer = CODE + 8 * PAGE
    guest.put("sh a3, 0(a4); ebreak", writer)
    new = word("addi a0, a1, 64") if half == 0 else word("addi a0, a0, 64")
    old = word("addi a0, a0, 1")
    if half == 0:  # only the low half: addi a0, ?, 1 with the other half's bits kept
        new = (old & 0xFFFF_0000) | word("addi a2, a0, 1") & 0xFFFF
    guest.x[13] = new >> 16 if half else new & 0xFFFF
    guest.x[14] = MORE if half else at
    guest.run(writer)
    guest.x[10] = 1000
    guest.run(at)
    if half:
        assert guest.x[10] == 1064
    else:
        assert (guest.x[10], guest.x[12]) == (1000, 1001)


def test_data_beside_the_code_that_uses_it(guest: Guest) -> None:
    """A counter on the code's own writable page: slow, and right."""
    text = f"""
        li s1, 300
        li s2, {CODE + 0x800}
    loop:
        lw a0, 0(s2)
        addi a0, a0, 3
        sw a0, 0(s2)
        addi s1, s1, -1
        bnez s1, loop
        ebreak
    """
    guest.put(text)
    guest.translate(CODE)
    assert guest.run().cause == "ebreak"
    assert guest.space.read_u32(CODE + 0x800) == 900


def test_a_store_that_crosses_into_a_code_page(guest: Guest) -> None:
    guest.space.map(MORE - PAGE, PAGE, RW)
    guest.put("addi a0, zero, 1; addi a1, zero, 1; ebreak", MORE)
    guest.translate(MORE)
    guest.run(MORE)
    writer = CODE + 8 * PAGE
    guest.put("sd a3, 0(a4); ebreak", writer)
    guest.x[13] = word("addi a0, zero, 5") << 32 | 0x1234_5678
    guest.x[14] = MORE - 4
    guest.translate(writer)
    guest.run(writer)
    guest.run(MORE)
    assert (guest.x[10], guest.x[11]) == (5, 1)
    assert guest.space.read_u32(MORE - 4) == 0x1234_5678


def test_code_written_from_outside_of_the_guest(guest: Guest) -> None:
    """What read(2) into a code page does."""
    guest.put("addi a0, zero, 1; ebreak")
    guest.translate(CODE)
    guest.run()
    guest.space.write(CODE, RISCV.assemble("addi a0, zero, 2"))
    guest.run()
    assert guest.x[10] == 2
    guest.translate(CODE)
    guest.run()
    with guest.space.view(CODE, 4, write=True) as view:
        view[:] = RISCV.assemble("addi a0, zero, 3")
    guest.run()
    assert guest.x[10] == 3


def test_mappings_that_come_and_go_at_one_place(guest: Guest) -> None:
    """dlopen and dlclose of different libraries at one address."""
    for number in range(12):
        guest.put(f"li a0, {number}; ebreak", MORE, RX)
        guest.put(f"li a4, {MORE}; jr a4", CODE, RX)
        if number % 2:
            guest.translate(CODE, MORE)
        for _ in range(3):
            assert guest.run().cause == "ebreak"
            assert guest.x[10] == number
        guest.space.unmap(MORE, PAGE)
        assert guest.run().cause == "fetch"
        assert guest.hart.pc == MORE


def test_code_moved_by_remap(guest: Guest) -> None:
    guest.put("addi a0, a0, 1; ebreak", MORE, RX)
    guest.translate(MORE)
    guest.run(MORE)
    target = MORE + 16 * PAGE
    assert guest.space.remap(MORE, PAGE, PAGE, may_move=True, target=target) == target
    assert guest.run(MORE).cause == "fetch"
    assert guest.run(target).cause == "ebreak"
    assert guest.x[10] == 2


def test_everything_goes_and_other_code_comes(guest: Guest) -> None:
    """execve: the new program has other code at the old one's addresses, or the same."""
    for number in (1, 1, 2, 1, 3, 3):
        guest.space.reset()
        guest.put(f"li a4, {MORE}; jr a4", CODE, RX)
        guest.put(f"addi a0, zero, {number}; ebreak", MORE, RX)
        guest.translate(CODE, MORE)
        assert guest.run().cause == "ebreak"
        assert guest.x[10] == number


def alias(guest: Guest, text: str) -> tuple[int, int]:
    """A shared object mapped twice, to be written at the first address and run at the second."""
    fd = os.memfd_create("code")
    try:
        os.ftruncate(fd, PAGE)
        at, other = DATA, MORE
        for place, prot in ((at, RW), (other, RX)):
            guest.space.map(place, PAGE, prot, flags=hostmem.MAP_SHARED, fd=fd, inode=1)
    finally:
        os.close(fd)
    guest.space.write(at, RISCV.assemble(text, other))
    return at, other


def test_code_written_through_another_mapping(guest: Guest) -> None:
    """Engines of JavaScript do so: no page is ever writable and executable. fence.i has to make
    the writes visible, though no store went to the page that is executed."""
    at, other = alias(guest, "addi a0, zero, 0; ret")
    text = LOOP.replace(f"li s2, {MORE}", f"li s2, {at}\nli s5, {other}")
    guest.put(text.replace("jalr ra, 0(s2)", "jalr ra, 0(s5)"))
    guest.translate(CODE, other)
    assert guest.run().cause == "ebreak"
    assert guest.x[20] == 200 * 201 // 2


def test_the_system_call_for_other_harts_makes_writes_visible_too(guest: Guest) -> None:
    """riscv_flush_icache announces a range as changed."""
    at, other = alias(guest, "addi a0, zero, 1; ebreak")
    guest.translate(other)
    guest.run(other)
    guest.space.write(at, RISCV.assemble("addi a0, zero, 2"))
    guest.space.code_changed(other, other + 4)
    guest.run(other)
    assert guest.x[10] == 2
    guest.space.write(at, RISCV.assemble("addi a0, zero, 3"))
    guest.space.code_changed(0, guest.space.limit)
    guest.run(other)
    assert guest.x[10] == 3


COMPILER = """
    # A compiler of guests: for n in 1..rounds make a function that computes a0 * 3 + n by writing
    # its instructions, call it twice and add up what it gives.
        mv s5, zero
        li s1, 1
    round:
        mv t0, s2
        lw t1, 0(s3)
        sw t1, 0(t0)
        lw t1, 4(s3)
        sw t1, 4(t0)
        slli t2, s1, 20
        lw t1, 8(s3)
        add t1, t1, t2
        sw t1, 8(t0)
        lw t1, 12(s3)
        sw t1, 12(t0)
        fence.i
        mv a0, s1
        jalr ra, 0(s2)
        jalr ra, 0(s2)
        add s5, s5, a0
        addi s2, s2, 16
        addi s1, s1, 1
        bge s4, s1, round
        ebreak
    template:
        slli a1, a0, 1
        add a0, a0, a1
        addi a0, a0, 0
        ret
"""


def test_a_compiler_in_the_guest(guest: Guest) -> None:
    rounds = 2000 if SOAK else 500
    end = guest.put(COMPILER, prot=RX)
    pages = -(-rounds * 16 // PAGE)
    guest.space.map(MORE + PAGE, pages * PAGE, RWX)
    guest.x[18], guest.x[19], guest.x[20] = MORE + PAGE, end - 16, rounds
    guest.translate(CODE)
    assert guest.run().cause == "ebreak"
    assert guest.x[21] == sum((n * 3 + n) * 3 + n for n in range(1, rounds + 1))


def test_a_hot_loop_changes_while_it_is_translated(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's answer may be about code that is not there any more."""
    monkeypatch.setenv("HARTWOOD_CACHE", str(tmp_path_factory.getbasetemp() / "code"))
    guest = Guest("auto")
    guest.put("add a0, a0, a2; addi a1, a1, -1; bnez a1, pc-8; ebreak")
    total, random = 0, Random("hot")
    for number in range(40):
        step = random.randrange(1, 100)
        name = random.choice(["a2", "a3"])
        guest.space.write(CODE, RISCV.assemble(f"add a0, a0, {name}"))
        guest.x[12], guest.x[13] = step, step + 1000
        guest.x[11] = count = random.choice([10, 30_000, 300_000])
        assert guest.run().cause == "ebreak"
        total += count * (step if name == "a2" else step + 1000)
        assert guest.x[10] == total, number
    assert guest.machine.engine.stats()["regions"]
    guest.close()


@pytest.mark.parametrize("engine", NATIVE)
def test_random_rewriting(
    engine: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of small functions that call each other; any of them changes at any time."""
    monkeypatch.setenv("HARTWOOD_CACHE", str(tmp_path_factory.getbasetemp() / "code"))
    guest = Guest(engine)
    random = Random("rewriting")
    count, stride = 24, PAGE // 2 - 2
    functions = [MORE + stride * n for n in range(count)]
    guest.space.map(MORE, (count // 2 + 1) * PAGE, RWX)
    addends = [0] * count

    def write(index: int) -> None:
        """Function n adds something and goes on with function n + 1."""
        addends[index] = random.randrange(1, 2000)
        at = functions[index]
        follow = f"j {functions[index + 1]:#x}" if index + 1 < count else "ret"
        text = f"c.nop\naddi a0, a0, {addends[index]}\n{follow}"
        guest.space.write(at, RISCV.assemble(text, at))

    for index in range(count):
        write(index)
    # The guest's own store, so that the host's protection takes part.
    guest.put("jalr ra, 0(a4); ebreak")
    guest.put("sw a5, 0(a6); ebreak", CODE + 0x40)
    for _ in range(400 if SOAK else 80):
        for _ in range(random.randrange(4)):
            index = random.randrange(count)
            if random.random() < 0.3:
                write(index)
            else:
                addends[index] = random.randrange(1, 2000)
                guest.x[15] = word(f"addi a0, a0, {addends[index]}")
                guest.x[16] = functions[index] + 2
                guest.run(CODE + 0x40)
        if random.random() < 0.3:
            guest.translate(functions[random.randrange(count)])
        first = random.randrange(count)
        guest.x[10], guest.x[14] = 0, functions[first]
        assert guest.run().cause == "ebreak"
        assert guest.x[10] == sum(addends[first:])
    guest.close()


def calls(guest: Guest) -> Callable[[], int]:
    """A region that ends in the middle of a page, entered over and over."""

    def run() -> int:
        guest.run()
        return guest.x[10]

    return run


def test_protection_that_is_taken_and_given_back_keeps_the_code(guest: Guest) -> None:
    guest.put("addi a0, a0, 1; ebreak", CODE, RX)
    guest.translate(CODE)
    run = calls(guest)
    for number in range(1, 6):
        assert run() == number
        guest.space.protect(CODE, PAGE, [RX, RWX, 4, RX, RWX][number - 1])
