"""Firmware from a file: how it is entered, and M-mode's devices, held against QEMU's board."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

import pytest

from hartwood.board import BoardError, LoaderError, RiscvVirt
from hartwood.machine.sysreference import SYSTEM
from unit.small_guests import FOREVER, digit, put
from unit.small_guests import kernel as small_kernel

BASE = 0x8000_0000
OFF = "li t0, 0x100000\nli t1, 0x5555\nsw t1, 0(t0)\nstays: j stays\n"
#: Says a register in hexadecimal, on a line of its own; called by `jal ra, say`.
SAY = """
say: li t3, 60
digits: srl t5, a0, t3
andi t5, t5, 15
addi t5, t5, 48
li t4, 58
blt t5, t4, ready
addi t5, t5, 39
ready: li t6, 0x10000000
sb t5, 0(t6)
addi t3, t3, -4
bge t3, zero, digits
li t5, 10
sb t5, 0(t6)
ret
"""
LOADS = {1: "lbu", 2: "lhu", 4: "lwu", 8: "ld"}
STORES = {1: "sb", 2: "sh", 4: "sw", 8: "sd"}


def read(at: int, width: int = 4) -> str:
    """Say what a register holds."""
    return f"li t0, {at}\n{LOADS[width]} a0, 0(t0)\njal ra, say\n"


def write(at: int, value: int, width: int = 4) -> str:
    return f"li t0, {at}\nli t1, {value}\n{STORES[width]} t1, 0(t0)\n"


def say(register: str) -> str:
    return f"mv a0, {register}\njal ra, say\n"


def csr(name: str) -> str:
    return f"csrr a0, {name}\njal ra, say\n"


def firmware(folder: Path, code: str) -> Path:
    path = folder / "firmware.bin"
    path.write_bytes(SYSTEM.assemble(code + OFF + SAY, BASE))
    return path


def ours(path: Path, *, harts: int = 1, kernel: Path | None = None) -> tuple[str, list[str]]:
    with RiscvVirt(bios=path, kernel=kernel, memory=32 << 20, harts=harts) as board:
        out = bytearray()
        board.uart.tx = out.extend
        reason = board.run(seconds=60).reason
        return reason, out.decode().split()


Both = Callable[[Iterable[str]], list[str]]


@pytest.fixture
def both(tmp_path: Path, oracle: Callable[[str], str]) -> Both:
    """Run code on our board and on QEMU's: what both say, which has to be the same."""

    def run(code: Iterable[str]) -> list[str]:
        path = firmware(tmp_path, "".join(code))
        qemu = [oracle("qemu-system-riscv64"), "-M", "virt", "-m", "32", "-bios", str(path)]
        qemu += ["-display", "none", "-serial", "stdio", "-monitor", "none"]
        done = subprocess.run(
            qemu, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
        )
        reason, said = ours(path)
        assert reason == "poweroff"
        assert said == done.stdout.split()
        return said

    return run


# How it is entered.
def test_firmware_is_told_hart_tree_and_what_follows(tmp_path: Path) -> None:
    """fw_dynamic's: a magic number, version 2, the kernel's entry, S-mode, no options, hart 0."""
    code = say("a0") + "".join(f"ld a0, {8 * n}(a2)\njal ra, say\n" for n in range(6))
    code += "lwu a0, 0(a1)\njal ra, say\n"
    guest = small_kernel(tmp_path, FOREVER)
    reason, said = ours(firmware(tmp_path, code), kernel=guest)
    assert reason == "poweroff"
    magic = int.from_bytes(struct.pack(">I", 0xD00DFEED), "little")
    assert [int(each, 16) for each in said] == [0, 0x4942534F, 2, 0x8020_0000, 1, 0, 0, magic]


def test_the_kernel_is_where_firmware_looks_for_it(tmp_path: Path) -> None:
    code = "li t0, 0x80200000\njr t0\n"
    guest = small_kernel(tmp_path, put("kernel") + OFF)
    assert ours(firmware(tmp_path, code), kernel=guest) == ("poweroff", ["kernel"])


def test_all_harts_enter_it(tmp_path: Path) -> None:
    """They count themselves; the last one says all numbers."""
    code = "li t0, 0x80001000\nslli t1, a0, 3\nadd t1, t1, t0\naddi t2, a0, 1\nsd t2, 8(t1)\n"
    code += "li t2, 1\namoadd.d t3, t2, (t0)\nli t4, 3\nbeq t3, t4, last\nsleep: wfi\nj sleep\n"
    code += "last: " + "".join(read(BASE + 0x1008 + 8 * number, 8) for number in range(4))
    reason, said = ours(firmware(tmp_path, code), harts=4)
    assert (reason, [int(each, 16) for each in said]) == ("poweroff", [1, 2, 3, 4])


def test_firmware_answers_its_own_calls(tmp_path: Path) -> None:
    """An ecall from S-mode goes to the handler of M-mode, not to ours."""
    code = "li t0, 0x80000100\ncsrw mtvec, t0\nli t0, 0x1f\ncsrw pmpcfg0, t0\nli t0, -1\n"
    code += "csrw pmpaddr0, t0\nli t0, 0x1000\ncsrc mstatus, t0\nli t0, 0x800\ncsrs mstatus, t0\n"
    code += "li t0, 0x80000080\ncsrw mepc, t0\nmret\n"
    path = tmp_path / "firmware.bin"
    image = SYSTEM.assemble(code, BASE).ljust(0x80, b"\0")
    image += SYSTEM.assemble("li a7, 8\necall\n", BASE + 0x80).ljust(0x80, b"\0")
    image += SYSTEM.assemble("csrr t0, mcause\n" + digit("t0") + OFF, BASE + 0x100)
    path.write_bytes(image)
    assert ours(path) == ("poweroff", ["j"])  # 9


def test_a_hart_wakes_another_by_its_software_interrupt(tmp_path: Path) -> None:
    """By way of the CLINT, while it sleeps or before."""
    code = (
        "bne a0, zero, second\nli t0, 8\ncsrw mie, t0\nsleep: wfi\ncsrr t0, mip\nandi t0, t0, 8\n"
    )
    code += "beq t0, zero, sleep\n" + put("woken") + OFF.replace("stays", "ends")
    code += f"second: {write(CLINT, 1)}" + FOREVER
    assert ours(firmware(tmp_path, code), harts=2) == ("poweroff", ["woken"])


def test_a_hart_sets_the_timer_of_another(tmp_path: Path) -> None:
    """One that waits for a time that is centuries away."""
    code = "bne a0, zero, second\nli t0, 128\ncsrw mie, t0\nsleep: wfi\ncsrr t0, mip\n"
    code += "andi t0, t0, 128\nbeq t0, zero, sleep\n" + put("rung") + OFF.replace("stays", "ends")
    code += "second: li t0, 200000\nspins: addi t0, t0, -1\nbne t0, zero, spins\n"
    code += write(CLINT + 0x4000, 0, 8) + FOREVER
    assert ours(firmware(tmp_path, code), harts=2) == ("poweroff", ["rung"])


def test_an_alarm_that_is_not_enabled_keeps_nobody_awake(tmp_path: Path) -> None:
    """mtimecmp is over, but only software interrupts end the wait: the hart does nothing."""
    code = write(CLINT + 0x4000, 0, 8) + "li t0, 8\ncsrw mie, t0\nsleep: wfi\nj sleep\n"
    with RiscvVirt(bios=firmware(tmp_path, code), memory=32 << 20) as board:
        assert board.run(seconds=0.5).reason == "seconds"
        assert int(str(board.stats()["instructions"])) < 100


def test_a_lockup_of_any_hart_is_one_of_the_machine(tmp_path: Path) -> None:
    path = firmware(tmp_path, "beq a0, zero, waits\n.word 0\nwaits: wfi\nj waits\n")
    assert ours(path, harts=2)[0] == "lockup"


def test_firmware_that_is_elf(tmp_path: Path) -> None:
    code = SYSTEM.assemble(put("elf") + OFF, BASE)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1", 2, 243, 1, BASE, 64, 0, 0, 64, 56, 1, 64, 0, 0,
    )  # fmt: skip
    part = struct.pack("<IIQQQQQQ", 1, 5, 120, BASE, BASE, len(code), len(code), 4)
    path = tmp_path / "firmware.elf"
    path.write_bytes(head + part + code)
    assert ours(path) == ("poweroff", ["elf"])


def test_firmware_and_kernel_in_one_place(tmp_path: Path) -> None:
    path = tmp_path / "firmware.bin"
    path.write_bytes(SYSTEM.assemble(FOREVER, BASE).ljust(0x20_0004, b"\0"))
    with pytest.raises(BoardError, match="where the firmware is"):
        RiscvVirt(bios=path, kernel=small_kernel(tmp_path, FOREVER), memory=32 << 20)


def test_nothing_to_run() -> None:
    with pytest.raises(BoardError, match="nothing to run"):
        RiscvVirt()


def test_firmware_that_is_not_there() -> None:
    with pytest.raises(LoaderError, match="/nowhere/fw: cannot read the firmware"):
        RiscvVirt(bios="/nowhere/fw")


def test_a_reset_starts_firmware_again(tmp_path: Path) -> None:
    code = "bne a0, zero, other\n" + put("x") + "li t0, 0x100000\nli t1, 0x7777\nsw t1, 0(t0)\n"
    assert ours(firmware(tmp_path, code + "other: j other\n"), harts=2) == ("reset loop", ["xxx"])


# Against QEMU's board.
CLINT, RTC, PLIC, UART = 0x200_0000, 0x10_1000, 0xC00_0000, 0x1000_0000


def test_the_interruptor_is_qemus(both: Both) -> None:
    code = [write(CLINT + 0x4000, (1 << 64) - 1, 8), csr("mip")]  # after power-on it is anything
    for value in (1, 0xFFFF_FFFE, 0xFFFF_FFFF, 0):
        code += [write(CLINT, value), read(CLINT), csr("mip")]
    timer = CLINT + 0x4000
    for value in (0, (1 << 63) - 1, 0x1234_5678_9ABC_DEF0):
        code += [write(timer, value, 8), read(timer, 8), csr("mip")]
    code += [write(timer + 4, 0), write(timer, 5), read(timer, 8), csr("mip")]
    code += [write(timer + 4, 0x7FFF_FFFF), read(timer, 4), read(timer + 4, 4), csr("mip")]
    said = both(code)
    assert said.count(f"{0x80:016x}") >= 2


def test_time_is_the_counters(both: Both) -> None:
    """mtime and the CSR are one clock, which is set for all."""
    mtime = CLINT + 0xBFF8
    near = f"li t0, {mtime}\nld t1, 0(t0)\ncsrr t2, time\nsub a0, t2, t1\nsltiu a0, a0, 2000\n"
    near = near.replace("sltiu a0, a0, 2000", "li t1, 2000000\nsltu a0, a0, t1") + "jal ra, say\n"
    start = f"li t0, {mtime}\nld a0, 0(t0)\nsrli a0, a0, 32\njal ra, say\n"
    code = [near, start, write(mtime, 7 << 32, 8), start, near]
    assert [int(each, 16) for each in both(code)] == [1, 0, 7, 1]


def test_a_timer_interrupt_wakes_and_is_taken(both: Both) -> None:
    """mtimecmp 10 ms ahead; WFI; the trap's cause is 7 of the interrupts."""
    code = "li t0, 0x80000800\ncsrw mtvec, t0\nli t0, 0x200bff8\nld t1, 0(t0)\nli t2, 100000\n"
    code += "add t1, t1, t2\nli t0, 0x2004000\nsd t1, 0(t0)\nli t0, 128\ncsrw mie, t0\n"
    code += "csrsi mstatus, 8\nwaits: wfi\nj waits\n"
    body = code + "nop\n" * ((0x800 - len(SYSTEM.assemble(code, BASE))) // 2)
    assert both([body, csr("mcause"), csr("mip")]) == [f"{(1 << 63) + 7:016x}", f"{0x80:016x}"]


def test_the_clocks_alarm_is_qemus(both: Both) -> None:
    """Of what it tells, all but the time itself, which both are asked for high and low."""
    code = [read(RTC + 0x18), read(RTC + 0x10), write(RTC + 0x10, 3), read(RTC + 0x10)]
    pending = PLIC + 0x1000
    code += [write(RTC + 0x0C, 0), write(RTC + 0x08, 1), read(RTC + 0x18), read(pending)]
    code += [read(RTC + 0x08), read(RTC + 0x0C), write(RTC + 0x1C, 1), read(pending)]
    code += [write(RTC + 0x0C, 0x7000_0000), write(RTC + 0x08, 9), read(RTC + 0x18)]
    code += [read(RTC + 0x0C), write(RTC + 0x14, 1), read(RTC + 0x18), read(pending)]
    code += [write(RTC + 4, 0x77), write(RTC, 5)]
    code += [f"li t0, {RTC}\nlwu a0, 0(t0)\n", read(RTC + 4)]
    code += [write(RTC + 0x10, 0), write(RTC + 0x0C, 0), write(RTC + 8, 1), read(pending)]
    code += [write(RTC + 0x10, 1), read(pending)]
    said = both(code)
    assert f"{1 << 11:016x}" in said
    assert f"{0x77:016x}" in said


def test_the_interrupt_controller_is_qemus(both: Both) -> None:
    """The serial port's interrupt by way of the controller to mip, claimed and completed."""
    enable, context = PLIC + 0x2000, PLIC + 0x20_0000
    code = [write(CLINT + 0x4000, (1 << 64) - 1, 8)]
    code += [write(PLIC + 40, 0xFFFF_FFFF), read(PLIC + 40), write(PLIC + 40, 1)]
    code += [write(enable, 1 << 10), read(enable), read(PLIC + 0x1000), csr("mip")]
    code += [write(UART + 1, 2, 1), read(PLIC + 0x1000), csr("mip")]
    code += [write(context, 1), read(context), csr("mip"), write(context, 0), csr("mip")]
    # To say something while it is served would raise the wire again, which QEMU keeps in mind and
    # a gateway must not (PLIC 1.0, chapter 5).
    code += [f"li t0, {context}\nlwu s2, 4(t0)\ncsrr s3, mip\nlwu s4, 4(t0)\n"]
    code += [f"li t0, {PLIC + 0x1000}\nlwu s5, 0(t0)\n", write(UART + 1, 0, 1)]
    code += [say(register) for register in ("s2", "s3", "s4", "s5")]
    code += [write(context + 4, 10), csr("mip"), read(context + 4)]
    code += [write(PLIC, 7), read(PLIC), read(PLIC + 0x1004)]
    said = both(code)
    assert f"{1 << 11:016x}" in said
    assert f"{10:016x}" in said


@pytest.mark.parametrize("seed", range(3))
def test_the_serial_port_is_qemus(both: Both, seed: int) -> None:
    """Random stores to registers that make no sound, and loads of all but the received byte."""
    random = Random(seed)
    code = [write(UART + 3, 3, 1)]
    for _ in range(12):
        at = random.choice([1, 7, 7, 4])
        value = random.getrandbits(8) & (0x0F if at in (1, 4) else 0xFF)
        code += [write(UART + at, value, 1), read(UART + random.choice([1, 3, 4, 5, 7]), 1)]
    code += [write(UART + 1, 0, 1), read(UART + 2, 1)]
    code += [write(UART + 3, 0x83, 1), write(UART, 0x21, 1), write(UART + 1, 0x43, 1)]
    divisor = f"li t0, {UART}\nlbu s2, 0(t0)\nlbu s3, 1(t0)\n"
    code += [divisor, write(UART + 3, 3, 1), say("s2"), say("s3")]
    code += [write(UART + 4, 0, 1), read(UART + 6, 1), write(UART + 4, 0x1A, 1)]
    code += [f"li t0, {UART}\nlbu s2, 6(t0)\n", write(UART + 4, 0, 1), say("s2")]
    both(code)
