"""Assembly: operands, labels, pseudo-instructions, data, errors, and the way back."""

from __future__ import annotations

import struct
from random import Random

import pytest

from hartwood.bits.ints import IntHart, State
from hartwood.errors import AssemblyError
from hartwood.isa import Encoding
from hartwood.isa.riscv import RISCV
from property.encodings import legal_word_of
from unit.test_golden import Sparse


def word(text: str, pc: int = 0) -> int:
    return int.from_bytes(RISCV.assemble(text, pc), "little")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("addi a0, a0, 1", 0x00150513),
        ("ADDI x10,x10,0x1", 0x00150513),
        ("  addi\ta0 , a0 , 0b1  # one", 0x00150513),
        ("ld a0, -8(sp)", 0xFF813503),
        ("ld a0, (sp)", 0x00013503),
        ("sd fp, 8 ( sp )", 0x00813423),
        ("lui a0, 0xfffff", 0xFFFFF537),
        ("lui a0, -1", 0xFFFFF537),
        ("auipc t0, 1", 0x00001297),
        ("fence", 0x0FF0000F),
        ("fence rw, w", 0x0310000F),
        ("fence 0, iorw", 0x00F0000F),
        ("fence.tso", 0x8330000F),
        ("pause", 0x0100000F),
        ("lr.w.aqrl a0, (a1)", 0x1605A52F),
        ("amoadd.d.rl a0, a1, (a2)", 0x02B6352F),
        ("fadd.s fa0, fa1, fa2", 0x00C5F553),
        ("fadd.s fa0, fa1, fa2, rne", 0x00C58553),
        ("fcvt.d.w fa0, a0", 0xD2050553),
        ("fcvt.d.w fa0, a0, dyn", 0xD2057553),
        ("csrrw a0, fflags, a1", 0x00159573),
        ("csrrw a0, 0x7c0, a1", 0x7C059573),
        ("c.addi4spn a0, sp, 16", 0x0808),
        ("c.lui a0, 0xfffff", 0x757D),
        ("c.fsdsp fa0, 8(sp)", 0xA42A),
    ],
)
def test_lines_assemble_to_the_manuals_words(text: str, expected: int) -> None:
    assert word(text) == expected


@pytest.mark.parametrize("encoding", list(RISCV.encodings()), ids=lambda encoding: encoding.name)
def test_every_encoding_makes_the_round_trip(encoding: Encoding) -> None:
    random = Random(encoding.name)
    for pc in (0, 0x10000, 0x3F_FFFF_0000):
        for _ in range(10):
            raw = legal_word_of(encoding, random).to_bytes(encoding.length, "little")
            text = RISCV.disassemble(raw, pc)
            assert RISCV.assemble(text, pc) == raw, text
            decoded = RISCV.decode(int.from_bytes(raw, "little"))
            assert decoded is not None
            assert decoded.spelling == encoding.name
            base = decoded.insn.row.encode(**decoded.fields)
            again = RISCV.decode(base)
            assert again is not None
            assert (again.insn, again.fields) == (decoded.insn, decoded.fields)


def test_targets_are_absolute_or_relative_to_pc() -> None:
    assert word("jal x0, 0x1010", pc=0x1000) == word("jal x0, pc+0x10", pc=0x2000)
    assert word("beq x0, x0, . - 8", pc=0x1000) == word("beq x0, x0, 0xff8", pc=0x1000)
    assert RISCV.disassemble(RISCV.assemble("c.j pc-2"), 0) == "c.j 0xfffffffffffffffe"


def test_labels_name_addresses_before_and_after() -> None:
    code = RISCV.assemble(
        "start: addi a0, a0, -1; c.nop\nbnez a0, start; j end; end: again: ret", 64
    )
    lines = RISCV.disassemble(code, 64).splitlines()
    assert lines == [
        "addi a0, a0, -1",
        "c.addi zero, 0",
        "bne a0, zero, 0x40",
        "jal zero, 0x4e",
        "jalr zero, 0(ra)",
    ]
    assert RISCV.assemble("x: .8byte x+2, y-x; y:", 8) == struct.pack("<2Q", 10, 16)


@pytest.mark.parametrize(
    "number",
    [
        0,
        1,
        -1,
        2047,
        -2048,
        2048,
        0x7FFFFFFF,
        -0x80000000,
        0x80000000,
        0xFFFFFFFF,
        1 << 63,
        -1 << 63,
    ]
    + [0x123456789ABCDEF0, 0xFFFFFFFF80000000, 0x7FFFFFFFFFFFFFFF, 0xFFF, 0x7FFFF800, 1 << 40]
    + [Random(5).getrandbits(64) >> n for n in range(0, 64, 3)],
)
def test_li_loads_any_number(number: int) -> None:
    code = RISCV.assemble(f"li a0, {number}")
    state, hart_memory = State(), Sparse({})
    hart = IntHart(state, hart_memory)
    for at in range(0, len(code), 4):
        decoded = RISCV.decode(int.from_bytes(code[at : at + 4], "little"))
        assert decoded is not None
        hart.step(decoded)
    assert state.x[10] == number & (1 << 64) - 1
    if -2048 <= number < 2048:
        assert len(code) == 4
    elif -(1 << 31) <= number < 1 << 31:
        assert len(code) <= 8


@pytest.mark.parametrize(
    ("pseudo", "plain"),
    [
        ("nop", "addi zero, zero, 0"),
        ("mv a0, a1", "addi a0, a1, 0"),
        ("ret", "jalr zero, 0(ra)"),
        ("jr t0", "jalr zero, 0(t0)"),
        ("jalr t0", "jalr ra, 0(t0)"),
        ("jal 0x10", "jal ra, 0x10"),
        ("bgtu a0, a1, 8", "bltu a1, a0, 8"),
        ("fmv.d fa0, fa1", "fsgnj.d fa0, fa1, fa1"),
        ("fgt.s a0, fa0, fa1", "flt.s a0, fa1, fa0"),
        ("csrw fcsr, a0", "csrrw zero, fcsr, a0"),
        ("rdtime a0", "csrrs a0, time, zero"),
        ("zext.w a0, a1", "add.uw a0, a1, zero"),
    ],
)
def test_pseudo_instructions_are_their_plain_forms(pseudo: str, plain: str) -> None:
    assert RISCV.assemble(pseudo) == RISCV.assemble(plain)


def test_every_pseudo_instruction_assembles() -> None:
    operands = ["a0", "a1", "a2"]
    floats = ["fa0", "fa1", "fa2"]
    for name in RISCV.pseudo:
        choices: list[list[str]] = [
            operands[:n] + tail for n in range(4) for tail in ([], ["8"], ["fcsr"], ["fcsr", "1"])
        ]
        choices += [floats[:n] for n in (2, 3)] + [
            ["a0", *floats[:2]],
            ["fcsr", "a0"],
            ["fcsr", "1"],
        ]
        made = 0
        for given in choices:
            try:
                made += len(RISCV.assemble(f"{name} {', '.join(given)}"))
            except AssemblyError:
                continue
        assert made, name


def test_what_is_no_instruction_is_printed_as_data() -> None:
    assert RISCV.disassemble(bytes(4)) == ".2byte 0x0\n.2byte 0x0"
    assert RISCV.disassemble(b"\xff\xff\xff\xff") == ".4byte 0xffffffff"
    assert RISCV.disassemble(b"\x13\x00\x00") == ".byte 0x13, 0x0, 0x0"
    # A fence with reserved fields is one, but no syntax says them.
    assert RISCV.disassemble(bytes.fromhex("0f85f00f")) == ".4byte 0xff0850f"
    assert RISCV.decode(0x0FF0850F) is not None


def test_a_listing_has_addresses_and_bytes() -> None:
    assert list(RISCV.listing(bytes.fromhex("01 00 13 05 15 00"), 0x100)) == [
        (0x100, b"\x01\x00", "c.addi zero, 0"),
        (0x102, b"\x13\x05\x15\x00", "addi a0, a0, 1"),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("frobnicate a0", "'frobnicate a0': there is no instruction frobnicate"),
        ("addi a0, a1", "'addi a0, a1': operands should read 'rd, rs1, imm'"),
        ("addi a0, a1, 2048", r"imm=2048 is not in -2048\.\.2047"),
        ("addi a0, q1, 1", "q1 is not a register of kind x"),
        ("add a0, a1, x32", "x32 is not a register"),
        ("addi a0, a1, nowhere", "nowhere is neither a number nor a label"),
        ("addi a0, a1, 1 2", "cannot read the number '1 2'"),
        ("addi a0, a1, ", "a number is missing"),
        ("beq a0, a1, 3", "imm=3 is not in"),
        ("lui a0, 0x100000", "does not fit in 20 bits"),
        ("fence rx, w", "rx is not a set of iorw"),
        ("fadd.s fa0, fa1, fa2, up", "up is not a rounding mode"),
        ("c.sub a0, t0", "t0 is not one of the eight compressed registers"),
        ("c.lwsp zero, 0(sp)", "c.lwsp is reserved for these operands"),
        ("a: nop; a: nop", "label a is there twice"),
        ("mv a0", "wrong operands for mv"),
        ("add.aq a0, a1, a2", "there is no instruction add.aq"),
    ],
)
def test_errors_name_the_line_and_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(AssemblyError, match=complaint):
        RISCV.assemble(text)
