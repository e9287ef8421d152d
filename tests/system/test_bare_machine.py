"""`hartwood.Machine`: registers, memory, devices, interrupts, and why it stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

import hartwood
import hartwood.machine as machine_room
from hartwood.errors import MappingError, MemoryFault
from hartwood.isa.riscv import RISCV
from hartwood.isa.riscv.system import SYSTEM
from hartwood.machine.bare import Machine, MachineError, StateError, new_bus
from hartwood.machine.processor import Processor, ProcessorError, RegisterError

RAM, SIZE = 0x8000_0000, 1 << 20
MODES = ("interp", "reference", "stitch")


@pytest.fixture(params=MODES)
def cpu(request: pytest.FixtureRequest) -> Iterator[Machine]:
    machine = Machine("riscv64", mode=request.param, deterministic=True)
    machine.mem.map(RAM, SIZE)
    yield machine
    machine.close()


def load(machine: Machine, source: str, at: int = RAM) -> int:
    """Assemble to memory and point the pc there; the address after it."""
    code = SYSTEM.assemble(source, at)
    machine.mem[at : at + len(code)] = code
    machine.pc = at
    return at + len(code)


def test_the_contract() -> None:
    cpu = hartwood.Machine("riscv64")
    code = SYSTEM.assemble("addi a0, a0, 5\nadd a1, a0, a0\n")
    cpu.mem.map(0x1000, 0x1000)
    cpu.mem[0x1000:0x1008] = code
    cpu.pc = 0x1000
    stop = cpu.run(instructions=2)
    assert (stop.reason, stop.pc, cpu.a0, cpu.a1) == ("instructions", 0x1008, 5, 10)
    assert cpu.mstatus == 0xA_0000_0000
    assert bytes(cpu.mem[0x1000:0x1008]) == code
    cpu.close()


def test_a_machine_that_is_not_there() -> None:
    with pytest.raises(MachineError, match="'vax'"):
        Machine("vax")
    with pytest.raises(MachineError, match="'warp'"):
        Machine("riscv64", mode="warp")


def test_what_boards_stand_on_is_exported() -> None:
    assert machine_room.Processor is Processor
    assert machine_room.new_bus is new_bus


def test_registers_by_name(cpu: Machine) -> None:
    cpu.a0, cpu.x31, cpu.fp, cpu.fa0 = -1, 5, 7, 1 << 63
    assert (cpu.x10, cpu.t6, cpu.s0, cpu.f10) == ((1 << 64) - 1, 5, 7, 1 << 63)
    cpu.zero = 3
    assert cpu.zero == 0
    cpu.mtvec, cpu.mepc, cpu.fcsr = 0x103, 7, 0xE1
    assert (cpu.mtvec, cpu.mepc, cpu.frm, cpu.fflags) == (0, 6, 7, 1)
    cpu.mtvec = 0x101
    assert cpu.mtvec == 0x101
    with pytest.raises(RegisterError, match="read-only"):
        cpu.mhartid = 1
    with pytest.raises(RegisterError, match="bogus"):
        _ = cpu.bogus
    for wrong in (1 << 64, "1", -(1 << 64)):
        with pytest.raises(RegisterError):
            cpu.a0 = wrong


def test_memory_refuses_what_makes_no_sense(cpu: Machine) -> None:
    for at, size in ((1, 4096), (0, 0), (0, 100), (-4096, 4096), (RAM, 4096), (RAM - 4096, 8192)):
        with pytest.raises(MappingError):
            cpu.mem.map(at, size)
    with pytest.raises(MappingError):
        cpu.mem.map(1 << 40, 1 << 40)
    with pytest.raises(MappingError):
        cpu.mem.map_io(RAM + 8, 8, lambda at, width: 0, lambda at, width, value: None)
    for where in (slice(0, 8), slice(RAM - 4, RAM + 4), slice(RAM + SIZE - 4, RAM + SIZE + 4)):
        with pytest.raises(MemoryFault):
            _ = cpu.mem[where]
        with pytest.raises(MemoryFault):
            cpu.mem[where] = bytes(8)
    with pytest.raises(MemoryFault):
        cpu.mem[RAM : RAM + 4] = bytes(5)
    with pytest.raises(TypeError):
        cpu.mem[RAM : RAM + 4][0] = 1  # a view of what the guest may run: write by slices


def test_budgets_are_exact(cpu: Machine) -> None:
    load(cpu, "loop: addi a0, a0, 1\nj loop")
    for count in (1, 2, 7, 3000):
        before = cpu.instructions
        assert cpu.run(instructions=count).reason == "instructions"
        assert cpu.instructions - before == count
    assert cpu.a0 == sum((1, 2, 7, 3000)) // 2
    cpu.step()
    assert cpu.instructions == 3011


def test_until_an_address_or_an_answer(cpu: Machine) -> None:
    end = load(cpu, "addi a0, zero, 9\nloop: addi a0, a0, -1\nbne a0, zero, loop\naddi a1, zero, 1")
    assert cpu.run(until=end).pc == end
    assert (cpu.a0, cpu.a1) == (0, 1)
    load(cpu, "loop: addi a0, a0, 1\nj loop")
    assert cpu.run(until=lambda: cpu.a0 > 100).reason == "until"
    assert cpu.run(seconds=0.05).reason == "seconds"


def test_a_request_to_stop_from_another_thread(cpu: Machine) -> None:
    load(cpu, "loop: j loop")
    timer = threading.Timer(0.1, cpu.request_stop)
    timer.start()
    assert cpu.run(seconds=60).reason == "stopped"
    timer.join()


def test_devices_see_width_offset_and_value(cpu: Machine) -> None:
    seen: list[tuple[int, ...]] = []

    def read(offset: int, width: int) -> int:
        seen.append((offset, width))
        return 0xFFFF_FFFF_FFFF_FF80

    cpu.mem.map_io(0x1000_0000, 64, read, lambda *call: seen.append(call))
    load(
        cpu,
        "lb a1, 1(a0)\nlhu a2, 2(a0)\nld a3, 8(a0)\nsw a0, 4(a0)\nsb a3, 63(a0)\nfld fa0, 8(a0)",
    )
    cpu.a0 = 0x1000_0000
    cpu.mstatus = 1 << 13
    cpu.run(instructions=6)
    assert cpu.a1 == (1 << 64) - 128
    assert (cpu.a2, cpu.a3, cpu.fa0) == (0xFF80, 0xFFFF_FFFF_FFFF_FF80, 0xFFFF_FFFF_FFFF_FF80)
    assert 0 < cpu.device_seconds < 10 or cpu.mode == "reference"
    assert cpu.stats()["device_seconds"] == cpu.device_seconds
    assert seen == [(1, 1), (2, 2), (8, 8), (4, 4, 0x1000_0000), (63, 1, 0x80), (8, 8)]


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("ld a1, 4(a0)", 5), ("sd a1, 4(a0)", 7), ("ld a1, 64(a0)", 5), ("sd a1, 64(a0)", 7),
        ("lr.w a1, (a0)", 0), ("amoadd.w a1, a1, (a0)", 7), ("cbo.zero (a0)", 7),
    ],
)  # fmt: skip
def test_what_devices_do_not_take(cpu: Machine, source: str, cause: int) -> None:
    cpu.mem.map_io(0x1000_0000, 64, lambda *call: 0, lambda *call: None)
    load(cpu, source)
    cpu.a0, cpu.mtvec = 0x1000_0000, RAM + 0x100
    cpu.step()
    assert cpu.mcause == cause
    assert cpu.pc == (RAM + 0x100 if cause else RAM + 4)


def test_an_error_in_a_device_comes_out_of_run(cpu: Machine) -> None:
    def broken(offset: int, width: int) -> int:
        raise ZeroDivisionError("the device is broken")

    cpu.mem.map_io(0x1000_0000, 64, broken, lambda *call: None)
    load(cpu, "ld a1, 0(a0)\nloop: j loop")
    cpu.a0 = 0x1000_0000
    with pytest.raises(ZeroDivisionError):
        cpu.run(instructions=10_000)


def test_lockup_is_told_from_a_loop(cpu: Machine) -> None:
    if cpu.mode == "reference":
        pytest.skip("the reference goes on trapping, as the manual has it")
    load(cpu, ".word 0")
    assert cpu.run(instructions=100).reason == "lockup"
    assert (cpu.mcause, cpu.mepc, cpu.pc) == (2, RAM, 0)


def test_interrupts_by_priority_and_vector(cpu: Machine) -> None:
    load(cpu, "loop: addi a0, a0, 1\nj loop")
    cpu.mtvec, cpu.mie = RAM + 0x101, 0xAAA
    for bit in (7, 3, 11):
        cpu.set_pending(bit, True)
    cpu.run(instructions=4)
    assert cpu.a0 == 2  # MIE is off
    for bit in (11, 3, 7):
        cpu.mstatus = 1 << 3
        cpu.pc = RAM
        cpu.step()
        assert cpu.mcause == 1 << 63 | bit
        assert (cpu.pc, cpu.mepc) == (RAM + 0x100 + 4 * bit, RAM)
        assert cpu.mstatus & 0x1888 == 0x1880
        cpu.set_pending(bit, False)
    assert cpu.mip == 0


def test_delegated_interrupts_go_to_s(cpu: Machine) -> None:
    load(cpu, "loop: j loop")
    cpu.pmpaddr0, cpu.pmpcfg0 = (1 << 54) - 1, 31
    cpu.mideleg, cpu.mie, cpu.stvec = 0x222, 0x222, RAM + 0x200
    cpu.state.mode = 0
    cpu.post(1)
    cpu.run(instructions=1)
    assert (cpu.privilege, cpu.pc, cpu.scause) == (1, RAM + 0x200, 1 << 63 | 1)
    assert cpu.mip == 2


def test_the_timer_of_s(cpu: Machine) -> None:
    """Deterministic time is a tenth of the instruction count, so the moment is exact to a slice."""
    load(cpu, "loop: addi a0, a0, 1\nj loop")
    cpu.pmpaddr0, cpu.pmpcfg0 = (1 << 54) - 1, 31
    cpu.menvcfg, cpu.mideleg, cpu.mie, cpu.stvec = 1 << 63, 0x20, 0x20, RAM + 0x200
    load(cpu, "here: j here", RAM + 0x200)
    cpu.pc = RAM
    slow = cpu.mode == "reference"
    cpu.stimecmp = 50 if slow else 500
    cpu.state.mode = 0
    cpu.run(instructions=600 if slow else 16_000)
    assert cpu.scause == 1 << 63 | 5
    assert cpu.pc == RAM + 0x200
    assert (250 if slow else 2_500) <= cpu.a0 <= 7_600


def test_wfi_wakes_sleeps_and_gives_up() -> None:
    cpu = Machine("riscv64")
    cpu.mem.map(RAM, SIZE)
    load(cpu, "wfi\naddi a0, a0, 1\nloop: j loop")
    cpu.mie = 1 << 7
    cpu.state.mtimecmp = cpu.clock + 1_000_000  # a tenth of a second
    begin, spent = time.monotonic(), time.process_time()
    cpu.run(until=lambda: cpu.a0 == 1, seconds=20)
    assert cpu.a0 == 1
    assert time.monotonic() - begin >= 0.09
    assert time.process_time() - spent < 0.09
    assert cpu.idle_seconds >= 0.05
    load(cpu, "wfi\naddi a0, a0, 1\nloop: j loop")
    cpu.state.mtimecmp = (1 << 64) - 1
    timer = threading.Timer(0.1, cpu.set_pending, (7, True))
    timer.start()
    cpu.run(until=lambda: cpu.a0 == 2, seconds=20)
    assert cpu.a0 == 2
    timer.join()
    cpu.close()
    idle = Machine("riscv64", deterministic=True)
    idle.mem.map(RAM, SIZE)
    load(idle, "wfi")
    assert idle.run(instructions=100).reason == "waiting"
    idle.close()


def test_code_that_changes_itself(cpu: Machine) -> None:
    """In the same run of instructions, on the same page, with and without a fence."""
    patch = int.from_bytes(SYSTEM.assemble("addi a0, a0, 100"), "little")
    load(cpu, "sw a1, 8(a2)\nnop\naddi a0, a0, 1\nj .")
    cpu.a1, cpu.a2 = patch, RAM
    cpu.run(instructions=3)
    assert cpu.a0 == 100


def test_data_on_a_page_of_code_and_code_on_a_page_of_data(cpu: Machine) -> None:
    source = """
    outer: addi t0, zero, 40
    loop: sd a0, 1024(a2)
    addi t0, t0, -1
    bne t0, zero, loop
    lw t1, 2044(a2)
    addi t1, t1, 0
    jalr ra, 1024(a3)
    addi a4, a4, -1
    bne a4, zero, outer
    wfi
    """
    load(cpu, source)
    for value in (1, 2):
        code = SYSTEM.assemble(f"addi a0, a0, {value}\njalr zero, 0(ra)")
        cpu.mem[RAM + 0x1400 : RAM + 0x1400 + len(code)] = code
        cpu.pc, cpu.a2, cpu.a3, cpu.a4 = RAM, RAM + 0x1800, RAM + 0x1000, 10
        cpu.run(instructions=10 * (1 + 40 * 3 + 5 + 2))
    assert cpu.a0 == 30


def test_python_writes_code_that_ran(cpu: Machine) -> None:
    load(cpu, "addi a0, a0, 1\nj .")
    cpu.run(instructions=1)
    cpu.pc = RAM
    cpu.bus.ram.view(RAM, 4)[:] = SYSTEM.assemble("addi a0, a0, 16")
    cpu.run(instructions=1)
    load(cpu, "addi a0, a0, 256")
    cpu.run(instructions=1)
    assert cpu.a0 == 273


def test_an_instruction_on_two_pages(cpu: Machine) -> None:
    load(cpu, "lui a0, 0x12345\nj .", RAM + 0xFFE)
    cpu.run(instructions=1)
    assert cpu.a0 == 0x12345000
    cpu.mem[RAM + 0x1000 : RAM + 0x1002] = b"\x11\x11"  # only its second half
    cpu.pc = RAM + 0xFFE
    cpu.run(instructions=1)
    assert cpu.a0 == 0x11115000
    last = RAM + SIZE - 2
    cpu.mem[last : last + 2] = b"\x37\x55"
    cpu.pc, cpu.mtvec = last, RAM + 0x100
    cpu.step()
    assert (cpu.mcause, cpu.mepc, cpu.mtval) == (1, last, RAM + SIZE)


def test_floating_point_needs_leave_and_leaves_traces(cpu: Machine) -> None:
    load(cpu, "fadd.d fa0, fa1, fa2\nfcvt.l.d a0, fa0, rmm\nfadd.d fa0, fa1, fa2")
    cpu.mtvec = RAM + 0x100
    cpu.step()
    assert (cpu.mcause, cpu.mtval) == (2, int.from_bytes(cpu.mem[RAM : RAM + 4], "little"))
    cpu.pc, cpu.mcause, cpu.mstatus = RAM, 0, 1 << 13
    cpu.fa1, cpu.fa2 = 0x3FF8_0000_0000_0000, 0x3FF0_0000_0000_0000  # 1.5 and 1.0
    cpu.run(instructions=2)
    assert cpu.mstatus >> 63 == 1
    assert cpu.mstatus >> 13 & 3 == 3
    assert (cpu.mcause, cpu.a0) == (0, 3)
    # A rounding mode that is reserved is found by the reference, the trap is taken all the same.
    cpu.frm = 5
    cpu.step()
    assert (cpu.mcause, cpu.mepc, cpu.pc) == (2, RAM + 8, RAM + 0x100)


def test_two_machines_in_one_process() -> None:
    machines = [Machine("riscv64", deterministic=True) for _ in range(3)]
    for number, machine in enumerate(machines):
        machine.mem.map(RAM, SIZE)
        load(machine, f"loop: addi a0, a0, {number + 1}\nj loop")
    threads = [threading.Thread(target=m.run, kwargs={"instructions": 400_000}) for m in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [machine.a0 for machine in machines] == [200_000, 400_000, 600_000]
    for machine in machines:
        machine.close()


def test_a_saved_hart_goes_on_elsewhere() -> None:
    def make() -> Machine:
        machine = Machine("riscv64", deterministic=True)
        machine.mem.map(RAM, SIZE)
        load(machine, "loop: addi a0, a0, 3\ncsrrs a1, time, zero\nadd a2, a2, a1\nj loop")
        return machine

    first, second = make(), make()
    first.mstatus, first.frm, first.fa0 = 1 << 13, 1, 1 << 62
    first.run(instructions=1001)
    saved = first.save_hart()
    for machine in (first, second):
        machine.load_hart(saved)
        machine.run(instructions=501)
    assert first.save_hart() == second.save_hart() != saved
    assert (second.frm, second.fa0, second.a0) == (1, 1 << 62, first.a0)
    before = second.save_hart()
    for wrong in (
        {"pc": -1}, {"pc": 1 << 64}, {"pc": "0"}, {"mode": 2}, {"x": [0] * 31}, {"x": [1] * 32},
        {"f": 5}, {"fcsr": 256}, {"bogus": 1}, {"satp": [1, 2]}, {"mie": True}, {"clock": 0.5},
    ):  # fmt: skip
        with pytest.raises(ProcessorError, match=r"hart state"):
            second.load_hart({**saved, **wrong})  # type: ignore[dict-item]
    with pytest.raises(ProcessorError, match="mepc"):
        second.load_hart({name: value for name, value in saved.items() if name != "mepc"})
    assert second.save_hart() == before
    first.close()
    second.close()


def test_a_closed_machine_says_so() -> None:
    machine = Machine("riscv64")
    machine.mem.map(RAM, SIZE)
    view = machine.mem[RAM : RAM + 8]
    machine.mem[RAM : RAM + 8] = b"\xff" * 8
    machine.close()
    machine.close()
    with pytest.raises(StateError, match="closed"):
        machine.run(instructions=1)
    with pytest.raises(MemoryFault):
        _ = machine.mem[RAM : RAM + 8]
    with pytest.raises(MappingError):
        machine.mem.map(0, 4096)
    assert bytes(view) == bytes(8)


def test_user_mode_knows_nothing_of_all_this() -> None:
    for source in ("mret", "sret", "wfi", "sfence.vma a0, a1", "cbo.zero (a0)"):
        word = int.from_bytes(SYSTEM.assemble(source), "little")
        assert RISCV.decode(word) is None
        assert SYSTEM.decode(word) is not None
    assert set(SYSTEM.csrs) > set(RISCV.csrs) == {1, 2, 3, 0xC00, 0xC01, 0xC02}


def _two_harts() -> tuple[Processor, Processor]:
    bus = new_bus()
    bus.map(RAM, SIZE)
    harts = Processor(bus, 0), Processor(bus, 1)
    for hart in harts:
        hart.mtvec = RAM + 0x800
    return harts


def _together(harts: tuple[Processor, ...], until: Callable[[], bool]) -> None:
    threads = [
        threading.Thread(target=hart.run, kwargs={"until": until, "seconds": 60}) for hart in harts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_harts_count_together() -> None:
    """Atomically, by AMO and by LR/SC, and each knows who it is."""
    harts = _two_harts()
    source = """
    csrrs a5, mhartid, zero
    loop: amoadd.d zero, a1, (a0)
    again: lr.w a2, (a3)
    addi a2, a2, 1
    sc.w a4, a2, (a3)
    bne a4, zero, again
    addi a6, a6, -1
    bne a6, zero, loop
    end: j end
    """
    for hart in harts:
        code = SYSTEM.assemble(source, RAM)
        hart.bus[RAM : RAM + len(code)] = code
        hart.pc, hart.a0, hart.a1, hart.a3, hart.a6 = RAM, RAM + 0x4000, 1, RAM + 0x5000, 50_000
    _together(harts, lambda: harts[0].a6 == harts[1].a6 == 0)
    read = harts[0].bus.ram.read
    assert int.from_bytes(read(RAM + 0x4000, 8), "little") == 100_000
    assert int.from_bytes(read(RAM + 0x5000, 4), "little") == 100_000
    assert [hart.a5 for hart in harts] == [0, 1]
    harts[0].bus.ram.close()


def test_code_that_another_hart_writes() -> None:
    """Hart 0 calls a function until it answers 2; hart 1 rewrites it, on a page that both ran."""
    harts = _two_harts()
    for hart, source, at in (
        (harts[0], "loop: jalr ra, 1024(a3)\nfence.i\nbne a0, a1, loop\nend: j end", RAM),
        (harts[1], "wait: addi a4, a4, -1\nbne a4, zero, wait\nsw a0, 1024(a3)\nend: j end",
         RAM + 0x1000),
        (harts[0], "addi a0, zero, 1\njalr zero, 0(ra)", RAM + 0x1400),
    ):  # fmt: skip
        code = SYSTEM.assemble(source, at)
        hart.bus[at : at + len(code)] = code
    patch = int.from_bytes(SYSTEM.assemble("addi a0, zero, 2"), "little")
    harts[0].pc, harts[0].a1, harts[0].a3 = RAM, 2, RAM + 0x1000
    harts[1].pc, harts[1].a0, harts[1].a3, harts[1].a4 = RAM + 0x1000, patch, RAM + 0x1000, 900_000
    _together(harts, lambda: harts[0].a0 == 2)
    assert harts[0].a0 == 2
    harts[0].bus.ram.close()


def test_harts_interrupt_and_flush_each_other() -> None:
    harts = _two_harts()
    code = SYSTEM.assemble("loop: addi a0, a0, 1\nj loop", RAM)
    harts[0].bus[RAM : RAM + len(code)] = code
    harts[0].bus[RAM + 0x800 : RAM + 0x800 + len(code)] = code
    target = harts[1]
    target.pc, target.mie, target.mstatus = RAM, 2, 8
    thread = threading.Thread(target=target.run, kwargs={"seconds": 60})
    thread.start()
    before = target.state.tlb_flushes
    target.flush_remote()
    assert target.state.tlb_flushes > before or not target.state.running
    target.post(1)
    while target.state.mcause != 1 << 63 | 1 and thread.is_alive():
        time.sleep(0.001)
    assert (target.state.mcause, target.state.mip & 2) == (1 << 63 | 1, 2)
    target.request_stop()
    thread.join()
    target.bus.ram.close()


def test_the_same_run_twice() -> None:
    def run() -> tuple[int, ...]:
        machine = Machine("riscv64", deterministic=True)
        machine.mem.map(RAM, SIZE)
        load(machine, "loop: csrrs a1, time, zero\nadd a0, a0, a1\naddi a2, a2, 1\nj loop")
        machine.run(instructions=123_456)
        result = machine.a0, machine.a1, machine.a2, machine.pc, machine.instructions
        machine.close()
        return result

    assert run() == run()
