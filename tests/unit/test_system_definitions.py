"""The definitions of system mode: laws, properties, assembly, and what generated code relies on."""

from __future__ import annotations

import itertools

import pytest

from hartwood.bits.effects import ANY_CAUSE, EffectsHart
from hartwood.bits.ints import Int, Trap
from hartwood.errors import LawError
from hartwood.isa.riscv import RISCV, pmp, sv, trap
from hartwood.isa.riscv.system import MIE, MPIE, SYSTEM
from hartwood.jit import abi, interp, sysabi, sysbanks, syscode
from hartwood.machine.bare import Machine
from hartwood.machine.sysreference import DEFINITIONS

assert DEFINITIONS
PRIVILEGED = {
    "ecall": 0x73, "mret": 0x3020_0073, "sret": 0x1020_0073, "wfi": 0x1050_0073,
    "sfence.vma a0, a1": 0x12B5_0073, "sinval.vma a0, a1": 0x16B5_0073,
    "sfence.w.inval": 0x1800_0073, "sfence.inval.ir": 0x1810_0073, "cbo.zero (a0)": 0x0045_200F,
    "cbo.inval (a0)": 0x0005_200F, "cbo.clean (a0)": 0x0015_200F, "cbo.flush (a0)": 0x0025_200F,
}  # fmt: skip


@pytest.mark.parametrize("text", PRIVILEGED)
def test_assembly_both_ways(text: str) -> None:
    """Words from the manual's tables, by hand."""
    code = PRIVILEGED[text].to_bytes(4, "little")
    assert SYSTEM.assemble(text) == code
    assert SYSTEM.disassemble(code) == text


def test_every_definition_keeps_the_laws() -> None:
    for insn in SYSTEM.insns():
        for case in insn.cases():
            SYSTEM.properties(insn, case)


def test_what_user_mode_has_is_the_same_here() -> None:
    ours = {encoding.name: encoding for encoding in SYSTEM.encodings()}
    for encoding in RISCV.encodings():
        if encoding.name != "ecall":
            assert ours[encoding.name].row.text == encoding.row.text


def test_properties_of_privileged_instructions() -> None:
    p = {name: SYSTEM.properties(SYSTEM[name]) for name in ("mret", "ecall", "wfi", "cbo.zero")}
    assert (p["mret"].control, p["mret"].causes, p["mret"].context) == (
        "jump",
        frozenset({2}),
        True,
    )
    assert (p["ecall"].control, p["ecall"].causes) == ("trap", frozenset({ANY_CAUSE}))
    assert p["wfi"].ends_block
    assert p["cbo.zero"].stores == (8,)
    assert not SYSTEM.properties(SYSTEM["add"]).context


def test_effects_of_the_new_words() -> None:
    h = EffectsHart("probe")
    h.sys["mepc"] = h.sys["mtvec"]
    with pytest.raises(LawError, match="after it writes mepc"):
        h.trap(2)
    h = EffectsHart("probe")
    with pytest.raises(LawError, match="32 bits"):
        h.sys["mepc"] = h.sys["mtvec"].trunc(32)
    h = EffectsHart("probe")
    h.context_changed()
    with pytest.raises(LawError, match="changes its context"):
        h.load_physical(h.pc, h.pc, h.pc)


def test_walks_and_traps_are_definitions_too() -> None:
    """They keep to the words, so the meaning that records can run them."""
    h = EffectsHart("walk")
    physical, span, done = sv.walk(h, h.pc, h.const(1, 64), h.sys["mode"])
    assert (physical.width, span.width, done.width) == (64, 64, 1)
    assert h.properties().causes == {ANY_CAUSE}
    h = EffectsHart("take")
    trap.take(h, h.const(2, 64), h.pc)
    assert (h.properties().control, h.properties().context) == ("jump", True)
    h = EffectsHart("protection")
    assert pmp.allows(h, h.pc, h.pc, h.pc).width == 1
    assert not h.properties().may_trap


def test_every_csr_reads_before_it_writes() -> None:
    for csr in SYSTEM.csrs.values():
        h = EffectsHart(csr.name)
        assert csr.read(h).width == 64
        if csr.write is not None:
            csr.write(h, h.const(0, 64))
        assert (csr.write is None) == (csr.number >> 10 == 3) or csr.number in (0xC00, 0xC01, 0xC02)


def test_what_generated_code_relies_on() -> None:
    assert set(sysbanks.LINKS) < set(sysabi.LINKS)
    assert syscode.BANKS == interp.BANKS
    for name, _, _ in abi.FIELDS:
        assert sysabi.offset(name) == abi.offset(name)


@pytest.mark.parametrize(
    ("mode", "status", "deleg"),
    list(itertools.product([0, 1, 3], [0, MIE, 2, MIE | 2], [0, 0x222])),
)
def test_which_interrupt_is_taken(mode: int, status: int, deleg: int) -> None:
    """By the table of Priv. 3.1.9: a level is on below it, or at it with its enable bit."""
    cpu = Machine("riscv64", deterministic=True)
    cpu.mideleg, cpu.mie = deleg, 0xAAA
    cpu.state.mode, cpu.state.mstatus = mode, status | MPIE
    for mask in (0, 0xAAA, 0x222, 0x888, 0x020, 0x008):
        cause = Int(0, 64)._of(trap.interrupt(cpu._int, Int(mask, 64)))
        for_m, for_s = mask & ~deleg, mask & deleg
        if mode == 3 and not status & MIE:
            for_m = 0
        if mode == 3 or (mode == 1 and not status & 2):
            for_s = 0
        due = for_m or for_s
        expected = next((n for n in (11, 3, 7, 9, 1, 5) if due >> n & 1), None)
        assert cause == (0 if expected is None else 1 << 63 | expected)
    cpu.close()


@pytest.mark.parametrize("bits", [39, 48, 57])
def test_addresses_have_to_be_canonical(bits: int) -> None:
    cpu = Machine("riscv64")
    cpu.satp = (bits - 39) // 9 + 8 << 60
    cpu.state.mode = 1
    for va in (1 << bits - 1, (1 << 64) - (1 << bits - 1) - 1, 1 << 63):
        for access, cause in ((sv.FETCH, 12), (sv.LOAD, 13), (sv.STORE, 15)):
            with pytest.raises(Trap) as caught:
                cpu._int.translate(va, access)
            assert (caught.value.cause, caught.value.tval) == (cause, va)
    for access, cause in ((sv.FETCH, 1), (sv.LOAD, 5), (sv.STORE, 7)):
        with pytest.raises(Trap) as caught:  # canonical, but its table is nowhere
            cpu._int.translate((1 << bits - 1) - 1, access)
        assert caught.value.cause == cause
    cpu.close()
