"""Harts of a board in time: states and calls of SBI 2.0, what ends a run, resets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hartwood.board import BoardError, RiscvVirt
from hartwood.board.harts import STARTED, STOPPED
from unit.small_guests import (
    CONSOLE,
    FOREVER,
    HSM,
    IPI,
    POWEROFF,
    REBOOT,
    RESET,
    SECOND,
    call,
    digit,
    kernel,
    put,
)  # fmt: skip

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(code, second)` runs a guest; why it ended and what it said."""

    def boot(
        first: str, second: str = "nop", *, harts: int = 1, reboot: bool = True
    ) -> tuple[str, str]:
        path = kernel(tmp_path, first, second)
        with RiscvVirt(kernel=path, memory=16 << 20, harts=harts, reboot=reboot) as board:
            out = bytearray()
            board.uart.tx = out.extend
            return board.run(seconds=60).reason, out.decode()

    return boot


# Endings.
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (POWEROFF, "poweroff"),
        (call(RESET, 0, 0, 1), "fail 1"),
        (call(RESET, 0, 1, 1), "fail 1"),
        ("li t0, 0x100000\nli t1, 0x5555\nsw t1, 0(t0)\n", "poweroff"),
        ("li t0, 0x100000\nli t1, 0x73333\nsw t1, 0(t0)\n", "fail 7"),
        (call(HSM, 1), "halted"),
    ],
)
def test_a_machine_ends(run: Run, code: str, reason: str) -> None:
    assert run(code + FOREVER) == (reason, "")


# Hart state management (SBI 9).
def test_a_hart_starts_with_its_number_and_argument(run: Run) -> None:
    first = call(HSM, 0, 1, SECOND, 4) + digit("a0") + FOREVER
    second = digit("a0") + digit("a1") + "csrr t0, sstatus\nandi t0, t0, 2\n" + digit("t0")
    reason, said = run(first, second + "csrr t0, satp\n" + digit("t0") + POWEROFF, harts=2)
    assert reason == "poweroff"
    # "a" is the first hart's SBI_SUCCESS, which may come at any time.
    assert sorted(said) == sorted("abeaa") or said == "beaa"


def test_errors_of_hart_start_are_the_specifications(run: Run) -> None:
    """INVALID_PARAM for no hart, INVALID_ADDRESS for no memory, ALREADY_AVAILABLE for one that
    runs."""
    code = "".join(
        call(HSM, 0, *arguments) + "sub s1, zero, a0\n" + digit("s1")
        for arguments in ((9, SECOND, 0), (1, 0x1000, 0), (0, SECOND, 0))
    )
    assert run(code + POWEROFF, harts=2) == ("poweroff", "dfg")


def test_the_status_of_harts(run: Run) -> None:
    """The second is stopped, then started; there is no third."""
    waits = call(HSM, 0, 1, SECOND, 0) + "wait: li a0, 1\nli a7, 0x48534d\nli a6, 2\necall\n"
    waits += "li t0, 2\nbeq a1, t0, wait\n" + digit("a1")
    code = call(HSM, 2, 0) + digit("a1") + call(HSM, 2, 1) + digit("a1") + waits
    code += call(HSM, 2, 2) + "sub s1, zero, a0\n" + digit("s1") + POWEROFF
    assert run(code, FOREVER, harts=2) == ("poweroff", "abad")


def test_the_first_hart_may_stop_and_be_started_again(run: Run) -> None:
    """While it is stopped the others go on."""
    first = "bne a1, zero, fresh\nj again\nfresh: " + call(HSM, 0, 1, SECOND, 0) + call(HSM, 1)
    first += "again: " + put("again") + POWEROFF
    second = put("other") + "wait: li a0, 0\nli a7, 0x48534d\nli a6, 2\necall\n"
    second += "li t0, 1\nbne a1, t0, wait\n" + call(HSM, 0, 0, 0x8020_0000, 0) + call(HSM, 1)
    assert run(first, second, harts=2) == ("poweroff", "otheragain")


def test_a_hart_stops_and_starts_many_times(run: Run) -> None:
    """No start is lost and none comes twice, whatever state the other is met in."""
    first = "li s2, 300\nnext: " + call(HSM, 0, 1, SECOND, 0) + "bne a0, zero, next\n"
    first += "addi s2, s2, -1\nbne s2, zero, next\n"
    first += "wait: li a0, 1\nli a7, 0x48534d\nli a6, 2\necall\nli t0, 1\nbne a1, t0, wait\n"
    first += "li t0, 0x80300000\nld t1, 0(t0)\nli t2, 300\nbne t1, t2, bad\n"
    second = "li t0, 0x80300000\nld t1, 0(t0)\naddi t1, t1, 1\nsd t1, 0(t0)\n" + call(HSM, 1)
    assert run(first + POWEROFF + "bad: " + call(RESET, 0, 0, 1), second, harts=2) == (
        "poweroff", ""
    )  # fmt: skip


def test_an_interrupt_between_harts(run: Run) -> None:
    """Hart 0 sleeps; hart 1 wakes it. Nothing waits for a hart that was stopped when it came."""
    first = call(IPI, 0, 2, 0) + "li t0, 2\ncsrw sie, t0\n" + call(HSM, 0, 1, SECOND, 0)
    first += "sleep: wfi\ncsrr t0, sip\nandi t0, t0, 2\nbeq t0, zero, sleep\n" + put("woken")
    second = "csrr t0, sip\n" + digit("t0") + call(IPI, 0, 1, 0) + FOREVER
    assert run(first + POWEROFF, second, harts=2) == ("poweroff", "awoken")


@pytest.mark.parametrize(
    ("mask", "base", "error"), [(0b100, 0, 3), (1, 5, 3), (0, 5, 0), (3, 0, 0)]
)
def test_masks_name_harts_that_there_are(run: Run, mask: int, base: int, error: int) -> None:
    for extension, function in ((IPI, 0), (0x52464E43, 0), (0x52464E43, 1)):
        code = call(extension, function, mask, base) + "sub s1, zero, a0\n" + digit("s1")
        assert run(code + POWEROFF, harts=2) == ("poweroff", chr(97 + error))


def test_a_suspended_hart_comes_back(run: Run) -> None:
    """Retentive: behind the call. Non-retentive: at the address, with its argument. Others are not
    there (9.4)."""
    alarm = (
        "li t0, 32\ncsrw sie, t0\ncsrr t0, time\nli t1, 100000\nadd t0, t0, t1\ncsrw stimecmp, t0\n"
    )
    code = alarm + call(HSM, 3, 0) + digit("a0")
    for kind, address in ((1, 0), (0x1000_0000, 0), (0x8000_0000, 0x1000)):
        code += call(HSM, 3, kind, address) + "sub s1, zero, a0\n" + digit("s1")
    code += call(HSM, 3, 0x8000_0000, SECOND, 6)
    assert run(code, digit("a0") + digit("a1") + POWEROFF) == ("poweroff", "adcfag")


# Resets.
def test_a_reset_begins_anew(run: Run) -> None:
    """Memory is as it was at first, the devices too; input in between tells it from a loop."""
    code = "li t0, 0x80300000\nld t1, 0(t0)\nli t2, 1\nsd t2, 0(t0)\n" + digit("t1") + REBOOT
    assert run(code) == ("reset loop", "aaa")
    assert run(code, reboot=False) == ("reset", "a")


def test_a_machine_that_is_typed_at_is_in_no_loop(tmp_path: Path) -> None:
    """It resets itself after each byte of input, and powers off for a "q"."""
    code = "li t0, 0x10000000\nwait: lbu t1, 5(t0)\nandi t1, t1, 1\nbeq t1, zero, wait\n"
    code += "lbu t1, 0(t0)\nsb t1, 0(t0)\nli t2, 113\nbeq t1, t2, off\n"
    code += REBOOT + "off: " + POWEROFF
    with RiscvVirt(kernel=kernel(tmp_path, code), memory=16 << 20) as board:
        for letter in "abcdefgh":
            board.uart.feed(letter.encode())
            assert board.run(until=board.uart.saw(letter.encode()), seconds=60).reason == "until"
        retired = board.stats()["instructions"]
        assert isinstance(retired, int)
        assert retired > 60  # those before a reset count
        board.uart.feed(b"q")
        assert board.run(seconds=60).reason == "poweroff"


@pytest.mark.parametrize(("kind", "why", "error"), [(3, 0, 3), (0, 2, 3), (0xF000_0000, 0, 2)])
def test_resets_that_are_none(run: Run, kind: int, why: int, error: int) -> None:
    code = call(RESET, 0, kind, why) + "sub s1, zero, a0\n" + digit("s1") + POWEROFF
    assert run(code) == ("poweroff", chr(97 + error))


# Runs.
def test_a_request_to_stop_is_not_lost(tmp_path: Path) -> None:
    """Before a run it is for the next one; and one that sleeps wakes."""
    path = kernel(tmp_path, "sleep: wfi\nj sleep\n")
    with RiscvVirt(kernel=path, memory=16 << 20, harts=2) as board:
        board.request_stop()
        assert board.run(seconds=60).reason == "stopped"
        threading.Timer(0.2, board.request_stop).start()
        assert board.run().reason == "stopped"
        assert board.run(seconds=0.1).reason == "seconds"


def test_the_first_hart_stops_for_a_condition_that_another_meets(tmp_path: Path) -> None:
    first = call(HSM, 0, 1, SECOND, 0) + "sleep: wfi\nj sleep\n"
    path = kernel(tmp_path, first, put("here") + FOREVER)
    with RiscvVirt(kernel=path, memory=16 << 20, harts=2) as board:
        assert board.run(until=board.uart.saw(b"here"), seconds=60).reason == "until"


def test_time_is_up_while_the_first_hart_is_stopped(tmp_path: Path) -> None:
    first = call(HSM, 0, 1, SECOND, 0) + call(HSM, 1)
    with RiscvVirt(kernel=kernel(tmp_path, first, FOREVER), memory=16 << 20, harts=2) as board:
        assert board.run(seconds=0.5).reason == "seconds"
        assert [board.states.state(number) for number in (0, 1)] == [STOPPED, STARTED]


def test_what_goes_wrong_on_any_hart_is_raised(tmp_path: Path) -> None:
    """By the one who called `run`; the machine can go on."""

    class OwnError(Exception):
        pass

    def fails(data: bytes) -> None:
        raise OwnError(data)

    first = call(HSM, 0, 1, SECOND, 0) + "sleep: wfi\nj sleep\n"
    path = kernel(tmp_path, first, put("!") + POWEROFF)
    with RiscvVirt(kernel=path, memory=16 << 20, harts=2) as board:
        board.uart.tx = fails
        with pytest.raises(OwnError):
            board.run(seconds=60)
        board.uart.tx = lambda data: None
        assert board.run(seconds=60).reason == "poweroff"


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_seconds_that_cannot_be(tmp_path: Path, seconds: float) -> None:
    with (
        RiscvVirt(kernel=kernel(tmp_path, FOREVER), memory=16 << 20) as board,
        pytest.raises(BoardError, match="seconds cannot be"),
    ):
        board.run(seconds=seconds)


def test_firmware_reads_what_was_typed_while_it_is_typed(tmp_path: Path) -> None:
    """The console call and `feed` from another thread: no byte is lost, none comes twice."""
    code = "li s2, 4000\nli s3, 0\nli s4, 0x80300000\n"
    code += "next: li a0, 1\nadd a1, s4, s3\nli a2, 0\n"
    code += f"li a7, {CONSOLE}\nli a6, 1\necall\nadd s3, s3, a1\nbne s3, s2, next\n"
    sent = bytes(index * 7 % 251 for index in range(4000))
    with RiscvVirt(kernel=kernel(tmp_path, code + POWEROFF), memory=16 << 20) as board:

        def types() -> None:
            for at in range(0, 4000, 10):
                board.uart.feed(sent[at : at + 10])
                time.sleep(0)

        typist = threading.Thread(target=types)
        typist.start()
        assert board.run(seconds=60).reason == "poweroff"
        typist.join()
        assert board.bus.ram.read(0x8030_0000, 4000) == sent
