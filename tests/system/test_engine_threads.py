"""Harts in threads of the host on one memory: atomics are atomic, waiting ends, order is kept, and
code may change under somebody's feet."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from hartwood.isa.riscv import RISCV
from hartwood.machine.hart import Hart, Machine, Stop
from hartwood.mem.flat import FlatSpace

PAGE = 4096
CODE = 0x4010_0000
DATA = 0x2000_0000
RX, RW, RWX = 5, 3, 7
SCALE = 20 if os.environ.get("HARTWOOD_SOAK") else 1
U64 = (1 << 64) - 1


class Threads:
    """A machine whose harts each run in a thread of their own."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.space = FlatSpace()
        self.machine = Machine(self.space, "jit" if engine == "auto" else "interp")
        self.space.map(DATA, 16 * PAGE, RW)

    def close(self) -> None:
        self.machine.close()
        self.space.close()

    def put(self, text: str, at: int = CODE, prot: int = RX) -> int:
        """Assemble code into pages of its own; gives its address."""
        code = RISCV.assemble(text, at)
        first, last = at & -PAGE, (at + len(code) + PAGE - 1) & -PAGE
        self.space.map(first, last - first, RW)
        self.space.write(at, code)
        self.space.protect(first, last - first, prot)
        if self.engine == "jit":
            self.machine.engine.translate([at])
        return at

    def race(
        self,
        jobs: Sequence[tuple[int, Mapping[int, int]]],
        *,
        budget: int = 20_000,
        on_stop: Callable[[Hart, Stop], bool] = lambda hart, stop: False,
        seconds: float = 60,
    ) -> list[list[int]]:
        """Run a hart for each (pc, registers) until its ebreak, all at once; their registers.

        `on_stop` may mend any other stop, and says whether it did.
        """
        results: list[list[int]] = [[] for _ in jobs]
        wrong: list[BaseException] = []
        start = threading.Barrier(len(jobs))
        give_up = time.monotonic() + seconds

        def body(index: int) -> None:
            hart = self.machine.new_hart()
            try:
                hart.pc = jobs[index][0]
                if self.engine == "stitch":
                    self.machine.engine.stitch(hart.state, 2)
                for register, value in jobs[index][1].items():
                    hart.x[register] = value
                start.wait()
                while True:
                    stop = hart.run(budget)
                    if stop.cause == "ebreak":
                        break
                    mended = stop.cause == "slice" or on_stop(hart, stop)
                    assert mended, f"{stop} at {hart.pc:#x}"
                    assert time.monotonic() < give_up, f"still running at {hart.pc:#x}"
                results[index] = list(hart.x)
            except BaseException as error:
                wrong.append(error)
            finally:
                hart.close()

        threads = [threading.Thread(target=body, args=(n,), daemon=True) for n in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if wrong:
            raise wrong[0]
        return results


@pytest.fixture(params=["interp", "stitch", "jit", "auto"])
def threads(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Threads]:
    monkeypatch.setenv("HARTWOOD_CACHE", str(tmp_path_factory.getbasetemp() / "code"))
    threads = Threads(request.param)
    yield threads
    threads.close()


COUNTERS = {
    "amoadd.w": "amoadd.w zero, a2, (a0)",
    "amoadd.d": "amoadd.d zero, a2, (a0)",
    "amoadd.w with a result": "amoadd.w a3, a2, (a0); add a4, a4, a3",
    "lr.w": "retry: lr.w a3, (a0); add a3, a3, a2; sc.w a4, a3, (a0); bnez a4, retry",
    "lr.d": "retry: lr.d a3, (a0); add a3, a3, a2; sc.d a4, a3, (a0); bnez a4, retry",
    "lock": """
        take: li a4, 1; amoswap.w.aq a3, a4, (a5); bnez a3, take
        ld a3, 0(a0); add a3, a3, a2; sd a3, 0(a0)
        amoswap.w.rl zero, zero, (a5)
    """,
    "lock by sc": """
        take: lr.w.aq a3, (a5); bnez a3, take; li a4, 1; sc.w a3, a4, (a5); bnez a3, take
        ld a3, 0(a0); add a3, a3, a2; sd a3, 0(a0)
        fence rw, w; sw zero, 0(a5)
    """,
}


@pytest.mark.parametrize("kind", COUNTERS)
def test_counters(threads: Threads, kind: str) -> None:
    pc = threads.put(f"loop: {COUNTERS[kind]}\naddi a1, a1, -1; bnez a1, loop; ebreak")
    rounds = (3_000 if "lock" in kind else 200_000) * SCALE
    steps = (1, 2, 3, 5)
    jobs = [(pc, {10: DATA, 11: rounds, 12: step, 15: DATA + 64}) for step in steps]
    threads.race(jobs, budget=30_000)
    assert threads.space.read_u64(DATA) & 0xFFFF_FFFF == sum(steps) * rounds & 0xFFFF_FFFF


def test_every_atomic_operation_is_atomic(threads: Threads) -> None:
    """Each hart has a byte of the word to itself; nobody's may get lost."""
    text = """
    loop:
        amoor.d zero, a2, (a0)
        ld a4, 0(a0)
        and a4, a4, a2
        bne a4, a2, wrong
        not a3, a2
        amoand.d zero, a3, (a0)
        ld a4, 0(a0)
        and a4, a4, a2
        bnez a4, wrong
        amoxor.d zero, a2, (a0)
        amoxor.d zero, a2, (a0)
        amomaxu.d zero, a5, (a6)
        amominu.d zero, a5, (a7)
        addi a5, a5, 4
        addi a1, a1, -1
        bnez a1, loop
    wrong:
        ebreak
    """
    pc = threads.put(text)
    rounds = 60_000 * SCALE
    threads.space.write_u64(DATA + 128, U64)
    jobs = [
        (pc, {10: DATA, 11: rounds, 12: 0xFF << 16 * n, 15: 7 + n, 16: DATA + 64, 17: DATA + 128})
        for n in range(4)
    ]
    results = threads.race(jobs, budget=5_000)
    assert [x[11] for x in results] == [0] * 4
    assert threads.space.read_u64(DATA + 64) == 10 + 4 * (rounds - 1)
    assert threads.space.read_u64(DATA + 128) == 7


@pytest.mark.parametrize("load", ["ld", "lw", "lb", "lr.d", "amoor.d"])
def test_waiting_for_memory_ends(threads: Threads, load: str) -> None:
    """The loop does nothing but read; the value must not be kept in a register of the host's."""
    read = {
        "lr.d": "lr.d a1, (a0)",
        "amoor.d": "amoor.d a1, zero, (a0)",
    }.get(load, f"{load} a1, 0(a0)")
    waiter = threads.put(f"loop: {read}; beqz a1, loop; ebreak")
    setter = threads.put(
        "loop: addi a2, a2, -1; bnez a2, loop; li a1, 1; sd a1, 0(a0); ebreak", CODE + PAGE
    )
    jobs = [(waiter, {10: DATA}), (waiter, {10: DATA}), (setter, {10: DATA, 12: 3_000_000})]
    results = threads.race(jobs, budget=1_000_000)
    assert [x[11] for x in results] == [1, 1, 1]


def test_messages_arrive_in_order(threads: Threads) -> None:
    """Data, fence, flag; whoever sees the flag sees the data. Many rounds, both ways."""
    writer = threads.put("""
    loop:
        sd a1, 64(a0)
        sd a1, 128(a0)
        fence w, w
        sd a1, 0(a0)
    wait:
        ld a3, 192(a0)
        bne a3, a1, wait
        addi a1, a1, 1
        bne a1, a2, loop
        ebreak
    """)
    reader = threads.put(
        """
    loop:
        ld a3, 0(a0)
        bne a3, a1, loop
        fence r, r
        ld a4, 128(a0)
        ld a5, 64(a0)
        bne a4, a1, wrong
        bne a5, a1, wrong
        fence rw, rw
        sd a1, 192(a0)
        addi a1, a1, 1
        bne a1, a2, loop
    wrong:
        ebreak
    """,
        CODE + PAGE,
    )
    rounds = 1_500 * SCALE
    jobs = [(pc, {10: DATA, 11: 1, 12: rounds}) for pc in (writer, reader)]
    results = threads.race(jobs, budget=50_000)
    assert [x[11] for x in results] == [rounds, rounds]


def test_a_fence_orders_a_store_before_a_load(threads: Threads) -> None:
    """Store buffering (Unpriv. A.3): with fences, not both harts may read the old value."""
    text = """
    loop:
        addi a1, a1, 1
        sd a1, 0(a0)
        fence rw, rw
        ld a3, 0(a2)
        sd a3, 0(a5)
        addi a5, a5, 8
        # Meet the other hart before the next round.
        amoadd.d zero, a6, (a7)
        slli a4, a1, 1
    meet:
        ld a3, 0(a7)
        blt a3, a4, meet
        bne a1, s1, loop
        ebreak
    """
    pc = threads.put(text)
    rounds = 1_500 * SCALE
    size = -(-rounds * 8 // PAGE) * PAGE
    notes = [DATA + 32 * PAGE, DATA + 32 * PAGE + size]
    threads.space.map(notes[0], 2 * size, RW)
    places = (DATA, DATA + 256)
    jobs = [
        (pc, {10: places[n], 12: places[1 - n], 15: notes[n], 16: 1, 17: DATA + 512, 9: rounds})
        for n in range(2)
    ]
    threads.race(jobs, budget=50_000)
    seen = [memoryview(threads.space.read(at, rounds * 8)).cast("Q") for at in notes]
    for number in range(rounds):
        # The old value is that of the round before.
        assert max(seen[0][number], seen[1][number]) >= number + 1


@pytest.mark.parametrize(
    ("store", "load", "bits"), [("sd", "ld", 64), ("sw", "lwu", 32), ("fsd", "ld", 64)]
)
def test_aligned_accesses_are_whole(threads: Threads, store: str, load: str, bits: int) -> None:
    register = "fa1" if store == "fsd" else "a1"
    writer = threads.put(
        f"fmv.d.x fa1, a1; fmv.d.x fa2, zero\n"
        f"loop: {store} {register}, 0(a0); {store} {register.replace('1', '2')}, 0(a0)\n"
        f"addi a3, a3, -1; bnez a3, loop; ebreak"
    )
    reader = threads.put(
        f"loop: {load} a2, 0(a0); beqz a2, fine; bne a2, a1, wrong\n"
        "fine: addi a3, a3, -1; bnez a3, loop\nwrong: ebreak",
        CODE + PAGE,
    )
    value = (1 << bits) - 1
    jobs = [(pc, {10: DATA + 8, 11: value, 12: 0, 13: 200_000 * SCALE}) for pc in (writer, reader)]
    results = threads.race(jobs)
    assert [x[13] for x in results] == [0, 0]


def word(text: str) -> int:
    return int.from_bytes(RISCV.assemble(text), "little")


def test_code_changes_while_others_run_on_its_page(threads: Threads) -> None:
    """One hart rewrites a function at the end of a page; the others run what is at its beginning,
    and must notice nothing."""
    steady = "\n".join(f"addi a{n}, a{n}, {n}" for n in range(2, 8))
    pc = threads.put(
        f"loop: {steady}\nmul s2, a2, a3; add s3, s3, s2\naddi a1, a1, -1; bnez a1, loop; ebreak",
        prot=RWX,
    )
    at = CODE + PAGE - 16
    threads.space.write(at, RISCV.assemble("addi a0, zero, 0; ret"))
    writer = threads.put(
        """
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
        """,
        CODE + 4 * PAGE,
    )
    rounds = 40_000 * SCALE
    changes = 600 * SCALE
    changes = min(changes, 2000)
    jobs = [(pc, {11: rounds}) for _ in range(2)]
    jobs.append((writer, {9: changes, 18: at, 19: word("addi a0, zero, 0")}))
    results = threads.race(jobs, budget=7_000)
    for x in results[:2]:
        assert x[11] == 0
        assert x[12:18] == [n * rounds for n in range(2, 8)]
        total = sum(2 * k * 3 * k for k in range(1, rounds + 1))
        assert x[19] == total & U64
    assert results[2][20] == changes * (changes + 1) // 2


def test_harts_store_to_one_code_page_at_once(threads: Threads) -> None:
    """Each fault finds the page protected, or another hart has just lifted the protection."""
    text = """
    loop:
        lw a3, 0(a0)
        addi a3, a3, 1
        sw a3, 0(a0)
        amoadd.d zero, a4, (a5)
        addi a1, a1, -1
        bnez a1, loop
        ebreak
    """
    pc = threads.put(text, prot=RWX)
    rounds = 400 * SCALE
    jobs = [
        (pc, {10: CODE + 0x400 + 64 * n, 11: rounds, 14: 1, 15: CODE + 0x800}) for n in range(4)
    ]
    threads.race(jobs)
    assert [threads.space.read_u32(CODE + 0x400 + 64 * n) for n in range(4)] == [rounds] * 4
    assert threads.space.read_u64(CODE + 0x800) == 4 * rounds


def test_pages_of_code_are_met_by_all_at_once(threads: Threads) -> None:
    """A long way through fresh code, every hart for itself."""
    pages = 60
    for number in range(pages):
        at = CODE + number * PAGE + (PAGE - 10 if number % 3 else 128)
        goal = CODE + (number + 1) * PAGE
        goal += PAGE - 10 if (number + 1) % 3 else 128
        last = "ebreak" if number == pages - 1 else f"j {goal:#x}"
        # Every third place straddles two pages.
        code = RISCV.assemble(f"addi a0, a0, {number}\nc.nop\n{last}", at)
        first = at & -PAGE
        if threads.space.regions.is_free(first, first + PAGE):
            threads.space.map(first, 2 * PAGE, RW)
        elif threads.space.regions.is_free(first + PAGE, first + 2 * PAGE):
            threads.space.map(first + PAGE, PAGE, RW)
        threads.space.write(at, code)
    threads.space.protect(CODE, (pages + 1) * PAGE, RX)
    for _ in range(3):
        results = threads.race([(CODE + 128, {}) for _ in range(4)])
        assert [x[10] for x in results] == [sum(range(pages))] * 4
        threads.space.protect(CODE, (pages + 1) * PAGE, RW)
        threads.space.protect(CODE, (pages + 1) * PAGE, RX)


def test_protection_comes_and_goes_under_running_harts(threads: Threads) -> None:
    """A page is taken and given back while harts store to it: every fault is precise, and a store
    that is done again after it counts once."""
    text = (
        "loop: ld a3, 0(a0); addi a3, a3, 1; sd a3, 0(a0); addi a1, a1, -1; bnez a1, loop; ebreak"
    )
    pc = threads.put(text)
    rounds = (3_000_000 if threads.engine == "interp" else 40_000_000) * SCALE
    done = threading.Event()
    faults = 0

    def toggle() -> None:
        while not done.is_set():
            threads.space.protect(DATA, PAGE, 1)
            time.sleep(0.0005)
            threads.space.protect(DATA, PAGE, RW)
            time.sleep(0.0005)

    def on_stop(hart: Hart, stop: Stop) -> bool:
        nonlocal faults
        if stop.cause != "store":
            return False
        faults += 1
        assert stop.address == hart.x[10]
        assert hart.pc == pc + 8
        time.sleep(0.0005)
        return True

    helper = threading.Thread(target=toggle)
    helper.start()
    try:
        jobs = [(pc, {10: DATA + 64 * n, 11: rounds}) for n in range(2)]
        threads.race(jobs, on_stop=on_stop)
    finally:
        done.set()
        helper.join()
    assert [threads.space.read_u64(DATA + 64 * n) for n in range(2)] == [rounds] * 2
    assert faults


def test_deep_recursion_in_threads_with_small_stacks(threads: Threads) -> None:
    """Guest calls use the host's stack, whatever its size; the guest's depth has no limit but its
    own stack's."""
    pc = threads.put("""
        addi sp, sp, -16
        sd ra, 8(sp)
        addi a1, a1, 1
        addi a0, a0, -1
        beqz a0, back
        jal ra, pc-20
    back:
        ld ra, 8(sp)
        addi sp, sp, 16
        addi a2, a2, 1
        ret
    """)
    end = threads.put("ebreak", CODE + PAGE)
    depth = 300_000
    size = depth * 16 + PAGE
    size = -(-size // PAGE) * PAGE
    stacks = [0x10_0000_0000 + n * 2 * size for n in range(3)]
    for stack in stacks:
        threads.space.map(stack, size, RW)
    before = threading.stack_size(512 << 10)
    try:
        jobs = [(pc, {1: end, 2: stack + size, 10: depth}) for stack in stacks]
        results = threads.race(jobs, budget=4_000_000)
    finally:
        threading.stack_size(before)
    assert [x[11:13] for x in results] == [[depth, depth]] * 3
