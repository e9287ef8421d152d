"""Stitched code of whole machines: where it must notice that something changed, and when it must
let the interpreter do the work."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hartwood.isa.riscv.system import SYSTEM
from hartwood.jit.stitch import CONTEXT
from hartwood.machine.bare import Machine, new_bus
from hartwood.machine.processor import Processor

RAM, SIZE, PAGE = 0x8000_0000, 1 << 20, 4096
DATA, HANDLER, TABLES = RAM + 0x8000, RAM + 0x4000, RAM + 0x10000
#: A device: stores there end the run.
END = 0x1000
STOP = f"lui t6, {END >> 12}\nsw zero, 0(t6)\nstay: j stay\n"


class Bench:
    """A machine that stitches everything, which a store to `END` stops."""

    def __init__(self, mode: str = "stitch") -> None:
        self.compiled = mode == "region"
        mode = "stitch" if self.compiled else mode
        self.cpu = cpu = Machine("riscv64", mode=mode, deterministic=mode != "auto")
        cpu.mem.map(RAM, SIZE)
        cpu.mem.map_io(END, 0x1000, self._read, self._write)
        self.seen: list[tuple[int, int, int]] = []
        self.load("csrrs a7, mcause, zero\n" + STOP, HANDLER)
        cpu.mtvec = HANDLER

    def _read(self, at: int, size: int) -> int:
        self.seen.append((at, size, len(self.seen)))
        return len(self.seen)

    def _write(self, at: int, size: int, value: int) -> None:
        if at:
            self.seen.append((at, size, value))
        else:
            self.cpu.request_stop()

    def load(self, source: str, at: int = RAM) -> None:
        """Put a program into memory."""
        code = SYSTEM.assemble(source, at)
        self.cpu.mem[at : at + len(code)] = code

    def run(self, source: str = "", at: int = RAM, **registers: int) -> None:
        """Run a program, or go on, to the end."""
        if source:
            self.load(source + STOP, at)
            self.cpu.pc = at
        for name, value in registers.items():
            setattr(self.cpu, name, value)
        if self.compiled:
            self.cpu.translate(self.cpu.pc & 0xFFFF_FFFF)
        stop = self.cpu.run(seconds=60)
        assert stop.reason == "stopped", stop


@pytest.fixture(params=["stitch", "region"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    made.cpu.close()


def test_nearly_everything_runs_stitched(bench: Bench) -> None:
    bench.run("loop: add a0, a0, a1\naddi a1, a1, -1\nbne a1, zero, loop\n", a1=100_000)
    assert bench.cpu.a0 == 5_000_050_000
    stats = bench.cpu.stats()
    assert isinstance(stats["translated"], int)
    assert stats["translated"] > 299_000
    assert stats["instructions"] == bench.cpu.instructions >= 300_002


def test_the_interpreter_alone_stitches_nothing() -> None:
    bench = Bench("interp")
    bench.run("loop: add a0, a0, a1\naddi a1, a1, -1\nbne a1, zero, loop\n", a1=1000)
    assert (bench.cpu.a0, bench.cpu.state.translated) == (500_500, 0)
    bench.cpu.close()


def test_auto_begins_with_what_is_run_often() -> None:
    bench = Bench("auto")
    bench.cpu.code.learn().join()
    bench.run("nop\n")
    assert bench.cpu.state.translated == 0
    bench.run("loop: add a0, a0, a1\naddi a1, a1, -1\nbne a1, zero, loop\n", a1=10_000)
    assert bench.cpu.a0 == 50_005_000
    assert 20_000 < bench.cpu.state.translated < 30_000
    bench.cpu.close()


# The same code at several addresses.
def _map(bench: Bench, pages: dict[int, int]) -> None:
    """Sv39: virtual pages of the first gigabyte, and RAM at its own addresses, for S-mode."""
    mem = bench.cpu.mem

    def put(at: int, value: int) -> None:
        mem[at : at + 8] = value.to_bytes(8, "little")

    put(TABLES + 16, RAM >> 12 << 10 | 0xCF)
    put(TABLES, TABLES + PAGE >> 12 << 10 | 1)
    put(TABLES + PAGE, TABLES + 2 * PAGE >> 12 << 10 | 1)
    for virtual, physical in pages.items():
        put(TABLES + 2 * PAGE + 8 * (virtual >> 12), physical >> 12 << 10 | 0xCF)
    bench.cpu.satp = 8 << 60 | TABLES >> 12
    bench.cpu.pmpaddr0, bench.cpu.pmpcfg0 = (1 << 54) - 1, 31
    bench.cpu.state.mode = 1


def test_code_that_is_mapped_twice_knows_where_it_runs(bench: Bench) -> None:
    """The pc of AUIPC, of a link and of what traps is that of the mapping control came by."""
    where = RAM + 0x6000
    _map(bench, {0x5000: where, 0x9000: where, END: END, RAM & 0xFFFFF: RAM})
    bench.load("auipc a0, 0\njal a1, on\non: ld a2, 0(a3)\njalr zero, 0(ra)\n", where)
    program = """
    again: lui t0, 5
    jalr ra, 0(t0)
    add s2, s2, a0
    add s3, s3, a1
    lui t0, 9
    jalr ra, 0(t0)
    add s4, s4, a0
    add s5, s5, a1
    addi s1, s1, -1
    bne s1, zero, again
    """
    bench.run(program, s1=50, a3=DATA)
    cpu = bench.cpu
    assert (cpu.s2, cpu.s3) == (50 * 0x5000, 50 * 0x5008)
    assert (cpu.s4, cpu.s5) == (50 * 0x9000, 50 * 0x9008)
    for page in (0x5000, 0x9000):
        cpu.state.mode = 1
        bench.run(f"lui t0, {page >> 12}\njalr ra, 0(t0)\n", a3=0x1234_5000)
        assert (cpu.mcause, cpu.mepc, cpu.mtval) == (13, page + 8, 0x1234_5000)


def test_another_page_behind_the_same_address(bench: Bench) -> None:
    """After SFENCE.VMA control goes where the tables lead now."""
    one, two = RAM + 0x6000, RAM + 0x7000
    _map(bench, {0x5000: one})
    bench.load("addi a0, a0, 1\njalr zero, 0(ra)\n", one)
    bench.load("addi a0, a0, 100\njalr zero, 0(ra)\n", two)
    entry = TABLES + 2 * PAGE + 8 * 5
    program = """
    again: lui t0, 5
    jalr ra, 0(t0)
    xor t1, t1, t2
    sd t1, 0(t3)
    sfence.vma zero, zero
    addi s1, s1, -1
    bne s1, zero, again
    """
    leaves = [at >> 12 << 10 | 0xCF for at in (one, two)]
    bench.run(program, s1=40, t1=leaves[0], t2=leaves[0] ^ leaves[1], t3=entry)
    assert bench.cpu.a0 == 20 * 101


# Code that changes.
def test_a_store_into_the_middle_of_a_unit(bench: Bench) -> None:
    new = int.from_bytes(SYSTEM.assemble("addi a0, a0, 100"), "little")
    program = """
    again: addi a2, a2, 1
    addi a3, a3, 1
    spot: addi a0, a0, 1
    addi s1, s1, -1
    bne s1, zero, again
    bne t3, zero, over
    addi t3, zero, 1
    sw t1, 8(t0)
    fence.i
    addi s1, zero, 50
    j again
    over: nop
    """
    bench.run(program, s1=50, t0=RAM, t1=new)
    assert bench.cpu.a0 == 50 + 50 * 100


def test_code_that_python_writes(bench: Bench) -> None:
    loop = "again: addi a0, a0, {}\naddi s1, s1, -1\nbne s1, zero, again\n"
    total = 0
    for step in (1, 7, 300):
        bench.run(loop.format(step), s1=100)
        total += 100 * step
        assert bench.cpu.a0 == total


def test_code_beside_data_that_is_written_often(bench: Bench) -> None:
    """Its page is given up and comes back."""
    program = (
        "again: sd s1, 0(t0)\nld t1, 0(t0)\nadd a0, a0, t1\naddi s1, s1, -1\nbne s1, zero, again\n"
    )
    bench.run(program, s1=200, t0=RAM + 0x800)
    assert bench.cpu.a0 == 200 * 201 // 2
    # And from another page.
    bench.run("nop\n")
    bench.run(program, at=RAM + 0x2000, s1=200, t0=RAM + 0x800, a0=0)
    assert bench.cpu.a0 == 200 * 201 // 2
    bench.run("addi a0, zero, 5\n")
    assert bench.cpu.a0 == 5


def test_a_full_area_is_emptied() -> None:
    bench = Bench()
    loop = "again: addi a0, a0, 1\naddi s1, s1, -1\nbne s1, zero, again\n"
    bench.run(loop, s1=1000)
    stitches = bench.cpu._stitches
    assert stitches is not None
    code = stitches.code
    used, units = code._words[CONTEXT.index("next")], code.units
    code._words[CONTEXT.index("next")] = code._words[CONTEXT.index("end")]
    fullness = [code.full]
    for _ in range(2):
        bench.run(loop, s1=1000)
        fullness.append(code.full)
    assert fullness == [True, False, False]
    assert bench.cpu.a0 == 3000
    assert code.units > units
    bench.cpu.close()
    assert code._words[CONTEXT.index("next")] <= used + PAGE


# What the interpreter does.
@pytest.mark.parametrize("offset", [1, 4, PAGE - 4, PAGE - 1])
def test_misaligned_and_crossing_accesses(bench: Bench, offset: int) -> None:
    program = """
    again: sd s1, 0(t0)
    ld t1, 0(t0)
    add a0, a0, t1
    lwu t1, 2(t0)
    add a1, a1, t1
    addi s1, s1, -1
    bne s1, zero, again
    """
    bench.run(program, s1=300, t0=DATA + offset)
    assert (bench.cpu.a0, bench.cpu.a1) == (300 * 301 // 2, 0)
    assert bytes(bench.cpu.mem[DATA + offset : DATA + offset + 8]) == (1).to_bytes(8, "little")


def test_a_device_sees_every_access_once_and_in_order(bench: Bench) -> None:
    bench.run("again: lw a1, 8(t0)\nsh a1, 16(t0)\naddi s1, s1, -1\nbne s1, zero, again\n",
              s1=20, t0=END)  # fmt: skip
    assert [(at, size) for at, size, _ in bench.seen] == [(8, 4), (16, 2)] * 20
    assert [value for at, _, value in bench.seen if at == 16] == list(range(1, 40, 2))


def test_a_fault_in_a_unit_is_precise(bench: Bench) -> None:
    program = "addi a0, a0, 1\naddi a1, a1, 1\nsd a0, 0(t0)\naddi a2, a2, 1\n"
    bench.run(program, t0=DATA)
    bench.run(program, t0=0x4000_0000)
    cpu = bench.cpu
    assert (cpu.mcause, cpu.mepc, cpu.mtval) == (7, RAM + 8, 0x4000_0000)
    assert (cpu.a0, cpu.a1, cpu.a2) == (2, 2, 1)


def test_floating_point_that_is_off(bench: Bench) -> None:
    program = "fadd.d ft0, ft1, ft2\nfmv.x.d a0, ft0\n"
    bench.run(program)
    assert (bench.cpu.mcause, bench.cpu.mepc) == (2, RAM)
    bench.cpu.mstatus = 1 << 13
    bench.cpu.ft1, bench.cpu.ft2 = 0x3FF0 << 48, 0x4000 << 48
    for _ in range(3):
        bench.run(program)
    assert bench.cpu.a0 == 0x4008 << 48
    assert bench.cpu.mstatus >> 13 & 3 == 3  # dirty


def test_atomics(bench: Bench) -> None:
    program = """
    again: lr.d t1, (t0)
    addi t1, t1, 1
    sc.d t2, t1, (t0)
    bne t2, zero, again
    amoadd.w a0, s1, (t3)
    addi s1, s1, -1
    bne s1, zero, again
    """
    bench.run(program, s1=1000, t0=DATA, t3=DATA + 8)
    assert int.from_bytes(bench.cpu.mem[DATA : DATA + 8], "little") == 1000
    assert bench.cpu.a0 == 500_500 - 1
    bench.run("amoadd.d a0, a1, (t0)\n", t0=DATA + 1)
    assert (bench.cpu.mcause, bench.cpu.mtval) == (6, DATA + 1)


# Who wants to be heard.
@pytest.mark.parametrize("there", [RAM, RAM + 64, RAM + PAGE])
def test_a_loop_without_end_is_left(bench: Bench, there: int) -> None:
    """Within a unit, between two of one page, between pages."""
    bench.load(f"j {RAM}\n", there)
    bench.load(f"j {there}\n")
    bench.cpu.pc = RAM
    threading.Timer(0.3, bench.cpu.request_stop).start()
    assert bench.cpu.run(seconds=60).reason == "stopped"
    assert bench.cpu.state.translated > 1000


def test_a_timer_interrupts_stitched_code(bench: Bench) -> None:
    """Again and again, each time where it can go on."""
    handler = """
    csrrw t6, mscratch, t6
    addi s2, s2, 1
    csrrs t6, time, zero
    addi t6, t6, 500
    csrrw zero, stimecmp, t6
    csrrw t6, mscratch, t6
    mret
    """
    bench.load(handler, RAM + 0x5000)
    cpu = bench.cpu
    cpu.mtvec, cpu.menvcfg, cpu.mie, cpu.mstatus = RAM + 0x5000, 1 << 63, 1 << 5, 8
    cpu.stimecmp = 500
    bench.run("again: add a0, a0, s1\naddi s1, s1, -1\nbne s1, zero, again\n", s1=300_000)
    assert cpu.a0 == 300_000 * 300_001 // 2
    assert cpu.s2 > 20


def test_two_harts_and_code_that_one_of_them_changes() -> None:
    """The other sees it after its FENCE.I; both run stitched code."""
    bus = new_bus()
    bus.map(RAM, SIZE)
    harts = [Processor(bus, number, mode="stitch") for number in range(2)]
    flag, spot = DATA, RAM + 0x2000
    writer = f"""
    again: sw s2, 0(t1)
    fence rw, rw
    sd s1, 0(t0)
    wait: ld t2, 8(t0)
    bne t2, s1, wait
    addi s2, s2, {1 << 20 >> 20}
    addi s1, s1, 1
    bne s1, s3, again
    stay: j stay
    """
    reader = """
    again: ld t2, 0(t0)
    bne t2, s1, again
    fence.i
    jalr ra, 0(t1)
    sd s1, 8(t0)
    addi s1, s1, 1
    bne s1, s3, again
    stay: j stay
    """.replace("stay", "rest")
    addi = int.from_bytes(SYSTEM.assemble("addi a0, a0, 0"), "little")
    bus[spot : spot + 8] = SYSTEM.assemble("addi a0, a0, 0\njalr zero, 0(ra)")
    for hart, source, at in zip(harts, (writer, reader), (RAM, RAM + 0x1000), strict=True):
        code = SYSTEM.assemble(source.replace("addi s2, s2, 1", "add s2, s2, s4"), at)
        bus[at : at + len(code)] = code
        hart.pc, hart.t0, hart.t1, hart.s1, hart.s3 = at, flag, spot, 1, 101
    harts[0].s2, harts[0].s4 = addi + (1 << 20), 1 << 20
    done = threading.Event()

    def ended() -> bool:
        return done.is_set() or (harts[1].s1 == 101 and harts[0].s1 == 101)

    threads = [threading.Thread(target=hart.run, kwargs={"until": ended, "seconds": 60})
               for hart in harts]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert harts[1].a0 == sum(range(1, 101))
    assert all(hart.state.translated for hart in harts)
    bus.ram.close()
