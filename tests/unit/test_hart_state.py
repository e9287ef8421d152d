"""The state that generated code and Python share, floating-point control, and why a hart stops."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator

import pytest

from hartwood.isa.riscv import RISCV
from hartwood.jit import abi
from hartwood.jit.engine import SLICE
from hartwood.machine.floating import flags_of, mxcsr_of
from hartwood.machine.hart import Hart, Machine, Stop
from hartwood.mem.flat import FlatSpace

CODE = 0x40_0000
DATA = 0x50_0000
PAGE = 4096
SIGBUS, SIGSEGV = 7, 11


# The layout.
def test_offsets_are_those_of_the_structure() -> None:
    for name, *_ in abi.State._fields_:
        assert abi.offset(name) == getattr(abi.State, name).offset


def test_elements_are_aligned_to_their_size_and_lie_behind_each_other() -> None:
    state = abi.State()
    address = ctypes.addressof(state)
    state.x[31] = 0x1122_3344_5566_7788
    state.f[3] = 42
    state.hot[abi.HOT_SLOTS - 1] = 77
    for name, index, size, value in (
        ("x", 31, 8, 0x1122_3344_5566_7788),
        ("f", 3, 8, 42),
        ("hot", abi.HOT_SLOTS - 1, 4, 77),
    ):
        at = abi.offset(name, index)
        assert at % size == 0
        assert int.from_bytes(ctypes.string_at(address + at, size), "little") == value


def test_fields_do_not_overlap() -> None:
    taken: set[int] = set()
    for name, *_ in abi.State._fields_:
        place = getattr(abi.State, name)
        here = set(range(place.offset, place.offset + place.size))
        assert not here & taken, name
        taken |= here
    assert max(taken) < abi.STATE_SIZE
    assert abi.STATE_SIZE % 64 == 0


def test_the_sink_is_behind_the_registers_and_pinned_ones_are_registers() -> None:
    assert abi.SINK == 32
    assert abi.State.x.size == 33 * 8
    assert len(set(abi.PINNED)) == len(abi.PINNED) == 8
    assert all(0 < register < 32 for register in abi.PINNED)


def test_reasons_have_the_numbers_of_their_names() -> None:
    for number, name in enumerate(abi.REASONS):
        assert getattr(abi, name.upper()) == number


def test_shadows_lie_apart() -> None:
    shadow = range(abi.SHADOW, abi.SHADOW + abi.LIMIT * 8)
    entries = range(abi.ENTRIES, abi.ENTRIES + abi.LIMIT * 4)
    assert shadow.stop <= entries.start
    assert entries.stop < 1 << 47
    assert abi.SHADOW_PER_PAGE == PAGE // 2 * abi.RECORD
    assert abi.ENTRIES_PER_PAGE == PAGE // 2 * 8


# Floating-point control.
@pytest.mark.parametrize("fflags", range(32))
def test_flags_make_the_round_trip_in_every_rounding_mode(fflags: int) -> None:
    for frm in range(8):
        assert flags_of(mxcsr_of(fflags, frm)) == fflags


def test_flags_are_the_bits_that_the_manuals_say() -> None:
    # (RISC-V: NX UF OF DZ NV from bit 0; MXCSR: IE DE ZE OE UE PE from bit 0.)
    pairs = {1: 0x20, 2: 0x10, 4: 0x08, 8: 0x04, 16: 0x01}
    for guest, host in pairs.items():
        assert mxcsr_of(guest, 0) == 0x1F80 | host
        assert flags_of(host) == guest
    assert flags_of(0x02) == 0  # a denormal operand is nothing to RISC-V


def test_rounding_modes_and_masks() -> None:
    # RNE, RTZ, RDN, RUP as MXCSR.RC; what the host cannot do rounds to nearest until it is asked.
    rounding = [mxcsr_of(0, frm) >> 13 & 3 for frm in range(8)]
    assert rounding == [0, 3, 1, 2, 0, 0, 0, 0]
    assert all(mxcsr_of(31, frm) & 0x1F80 == 0x1F80 for frm in range(8))
    assert all(mxcsr_of(31, frm) & 0x8040 == 0 for frm in range(8))  # neither FTZ nor DAZ


# Stops.
def test_a_stop_says_all_it_knows() -> None:
    assert repr(Stop("slice")) == "<Stop slice address=0x0 signo=0 code=0>"
    assert repr(Stop("load", 0x1234, 11, 1)) == "<Stop load address=0x1234 signo=11 code=1>"


@pytest.fixture(params=["interp", "reference"])
def machine(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Machine]:
    monkeypatch.setenv("HARTWOOD_CACHE", str(tmp_path_factory.getbasetemp() / "code"))
    space = FlatSpace()
    machine = Machine(space, request.param)
    yield machine
    for hart in list(machine.harts):
        hart.close()
    machine.close()
    space.close()


def start(machine: Machine, text: str) -> Hart:
    code = RISCV.assemble(text, CODE)
    machine.space.map(CODE, PAGE, 3)
    machine.space.write(CODE, code)
    machine.space.protect(CODE, PAGE, 5)
    hart = machine.new_hart()
    hart.pc = CODE
    return hart


def seen(stop: Stop) -> tuple[str, int, int, int]:
    return stop.cause, stop.address, stop.signo, stop.code


def test_registers_are_views_of_the_state(machine: Machine) -> None:
    hart = machine.new_hart()
    hart.x[10], hart.f[31] = 7, (1 << 64) - 1
    assert hart.state.x[10] == 7
    assert hart.state.f[31] == (1 << 64) - 1
    assert (len(hart.x), len(hart.f)) == (32, 32)


@pytest.mark.parametrize("fcsr", [0, 0x1F, 0x20, 0x6A, 0x81, 0xE0, 0xFF])
def test_fcsr_makes_the_round_trip_through_the_guest(machine: Machine, fcsr: int) -> None:
    """Set by Python, read and written back by the guest, read by Python; RMM and the reserved
    modes too, which the host has not."""
    hart = start(machine, "frcsr a0\nfscsr zero\nfrcsr a1\nfscsr a0\necall")
    hart.fcsr = fcsr
    assert hart.fcsr == fcsr
    assert hart.run().cause == "ecall"
    assert (hart.x[10], hart.x[11], hart.fcsr) == (fcsr, 0, fcsr)
    assert bool(hart.state.frm_reserved) == (fcsr >> 5 > 3)


def test_bits_above_fcsr_are_ignored(machine: Machine) -> None:
    hart = machine.new_hart()
    hart.fcsr = 0xFFFF_FF00 | 0x23
    assert hart.fcsr == 0x23


def test_a_copy_has_the_registers_and_its_own_state(machine: Machine) -> None:
    first, second = machine.new_hart(), machine.new_hart()
    first.x[5], first.f[6], first.pc, first.fcsr = 1, 2, 0x1000, 0x8F
    second.copy_from(first)
    first.x[5] = 9
    assert (second.x[5], second.f[6], second.pc, second.fcsr) == (1, 2, 0x1000, 0x8F)


def test_calls_and_breakpoints_stop_at_the_instruction(machine: Machine) -> None:
    hart = start(machine, "nop\necall\nebreak\n.word 0")
    assert seen(hart.run()) == ("ecall", 0, 0, 0)
    assert (hart.pc, hart.instructions) == (CODE + 4, 2)
    hart.pc += 4
    assert seen(hart.run()) == ("ebreak", 0, 0, 0)
    hart.pc += 4
    assert seen(hart.run()) == ("illegal", 0, 0, 0)
    assert hart.pc == CODE + 12


def test_a_slice_ends_with_the_budget_and_goes_on(machine: Machine) -> None:
    hart = start(machine, "again: addi a0, a0, 1\nj again")
    for _ in range(3):
        assert seen(hart.run(100)) == ("slice", 0, 0, 0)
    assert 300 <= hart.instructions < 400
    assert abs(hart.x[10] - hart.instructions // 2) <= 1


def test_a_slice_of_the_usual_length_ends_soon_whoever_asked(machine: Machine) -> None:
    """Python gets its turn every few million instructions, so a request to stop need not be heard
    in the middle."""
    hart = start(machine, "again: addi a0, a0, 1\nj again")
    hart.request_stop()
    begin = time.monotonic()
    assert hart.run().cause == "slice"
    assert time.monotonic() - begin < 10
    assert 0 < hart.instructions <= SLICE + 100


@pytest.mark.parametrize(
    ("text", "cause"), [("ld a0, 0(a1)", "load"), ("sd a0, 0(a1)", "store"), ("jr a1", "fetch")]
)
def test_faults_say_what_was_there(machine: Machine, text: str, cause: str) -> None:
    hart = start(machine, text)
    machine.space.map(DATA, PAGE, 0)
    # Nothing there; something that forbids it; nothing a guest can have.
    for address, code in ((DATA + PAGE, 1), (DATA, 2), (1 << 40, 1)):
        hart.pc = CODE
        hart.x[11] = address
        assert seen(hart.run()) == (cause, address, SIGSEGV, code)
        assert hart.pc == (address if cause == "fetch" else CODE)


def test_atomics_want_their_address_aligned(machine: Machine) -> None:
    hart = start(machine, "amoadd.w a0, a1, (a2)")
    machine.space.map(DATA, PAGE, 3)
    hart.x[12] = DATA + 2
    stop = hart.run()
    assert seen(stop) == ("store", DATA + 2, SIGBUS, 1)
    hart = start_again(machine, hart, "lr.d a0, (a2)")
    assert seen(hart.run()) == ("load", DATA + 2, SIGBUS, 1)


def start_again(machine: Machine, hart: Hart, text: str) -> Hart:
    machine.space.protect(CODE, PAGE, 3)
    machine.space.write(CODE, RISCV.assemble(text, CODE))
    machine.space.protect(CODE, PAGE, 5)
    hart.pc = CODE
    return hart


def test_stats_count_harts_that_are_gone(machine: Machine) -> None:
    hart = start(machine, "nop\nnop\necall")
    hart.run()
    hart.close()
    stats = machine.stats()
    assert (stats["instructions"], stats["translated"], stats["interpreted"]) == (3, 0, 3)
    assert machine.harts == []
    assert stats["engine"] == machine.mode
