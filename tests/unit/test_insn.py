"""The decorator, compressed forms, sets: what they make and what they refuse."""

from __future__ import annotations

from types import FunctionType

import pytest

from hartwood.bits.ints import Int, IntHart, State, Trap
from hartwood.bits.words import Bits, Hart, Operand
from hartwood.errors import EncodingError, LawError
from hartwood.isa import InsnSet, nonzero, not_in
from hartwood.isa.insn import insn
from hartwood.isa.riscv import RISCV
from hartwood.isa.riscv.regs import X_NAMES
from hartwood.isa.syntax import Names
from unit.test_golden import Sparse

ROW = "0000000 rs2 rs1 000 rd 0001011"


def fresh() -> InsnSet:
    return InsnSet("test", Names({"x": X_NAMES}))


def plus(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
    h.x[rd] = h.x[rs1] + h.x[rs2]


def test_an_instruction_of_ones_own_decodes_runs_and_prints() -> None:
    mine = RISCV.subset(RISCV.extensions)

    @mine.insn("0000001 rs2 rs1 000 rd 0001011", asm="madd3 {rd}, {rs1}, {rs2}")
    def madd3(h: Hart, rd: Operand, rs1: Operand, rs2: Operand) -> None:
        h.x[rd] = h.x[rs1] * 3 + h.x[rs2]

    code = mine.assemble("madd3 a0, a1, t0")
    assert mine.disassemble(code) == "madd3 a0, a1, t0"
    decoded = mine.decode(int.from_bytes(code, "little"))
    assert decoded is not None
    assert decoded.insn is madd3
    state = State()
    state.x[11], state.x[5] = 5, 2
    IntHart(state, Sparse({})).step(decoded)
    assert (state.x[10], state.pc) == (17, 4)
    assert mine.properties(madd3).x_reads == {"rs1", "rs2"}
    assert RISCV.decode(int.from_bytes(code, "little")) is None


def test_parameters_have_to_be_the_fields() -> None:
    with pytest.raises(LawError, match=r"mul3: parameters \(rd, rs1\) of f are not the fields"):

        @insn(ROW, asm="mul3 {rd}, {rs1}, {rs2}")
        def f(h: Hart, rd: Operand, rs1: Operand) -> None: ...


@pytest.mark.parametrize("variants", [{"rm": (0,)}, {"rd": (32,)}])
def test_variants_have_to_be_fields_and_in_range(variants: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(LawError, match=r"variant r. is not a field of the row, or out of range"):
        insn(ROW, asm="p {rd}, {rs1}, {rs2}", variants=variants)


def test_values_that_are_no_variant_are_illegal() -> None:
    mine = fresh()
    asm = "v {rd}, {rs1}, {rs2}"
    made = mine.insn("0000000 rs2 rs1 rm rd 0001011", asm=asm, variants={"rm": (0, 7)})(
        lambda h, rd, rs1, rs2, rm: None
    )
    legal = [rm for rm in range(8) if mine.decode(0x0B | rm << 12) is not None]
    assert legal == [0, 7]
    assert list(made.cases()) == [{"rm": 0}, {"rm": 7}]
    assert made.variant({"rm": 7, "rd": 3}) == {"rm": 7}


def test_encodings_may_not_overlap() -> None:
    mine = fresh()
    mine.insn(ROW, asm="one {rd}, {rs1}, {rs2}")(plus)
    with pytest.raises(LawError, match="two overlaps one"):
        mine.insn(ROW, asm="two {rd}, {rs1}, {rs2}")(plus)
    with pytest.raises(LawError, match="one is registered already"):
        mine.insn("0000001 rs2 rs1 000 rd 0001011", asm="one {rd}, {rs1}, {rs2}")(plus)


def test_rows_without_a_fixed_opcode_are_compared_with_all() -> None:
    mine = fresh()
    mine.insn(ROW, asm="one {rd}, {rs1}, {rs2}")(plus)
    with pytest.raises(LawError, match="wide overlaps one"):
        mine.insn("uimm[29:0] 11", asm="wide {uimm}")(lambda h, uimm: None)


def test_exclusions_make_room_for_another_encoding() -> None:
    mine = fresh()
    base = mine.insn(ROW, asm="one {rd}, {rs1}, {rs2}")(plus)
    other = fresh()
    other.insn(ROW, asm="one {rd}, {rs1}, {rs2}")(plus)
    other.alias("100 1 rd/rs1 rs2 10", "one", asm="c.a {rd}, {rs2}")
    with pytest.raises(LawError, match=r"c\.b overlaps c\.a"):
        other.alias("100 1 rd/rs1 00000 10", "one", asm="c.b {rd}", bind={"rs2": 0})
    mine.alias("100 1 rd/rs1 rs2 10", base, asm="c.a {rd}, {rs2}", where={"rs2": nonzero})
    mine.alias("100 1 rd/rs1 00000 10", base, asm="c.b {rd}", bind={"rs2": 0})
    assert [mine.decode(word).spelling for word in (0x9006, 0x9002)] == ["c.a", "c.b"]


def test_lengths_follow_the_two_low_bits() -> None:
    with pytest.raises(LawError, match="two low bits"):
        fresh().insn("0000000 rs2 rs1 000 rd 0001001", asm="x {rd}, {rs1}, {rs2}")(plus)
    mine = fresh()
    mine.insn(ROW, asm="one {rd}, {rs1}, {rs2}")(plus)
    with pytest.raises(LawError, match="two low bits"):
        mine.alias("100 1 rd/rs1 rs2 11", "one", asm="c.a {rd}, {rs2}")


@pytest.mark.parametrize(
    ("row", "bind", "where", "complaint"),
    [
        ("100 1 rd uimm[4:0] 10", {}, {}, "nothing is bound to field rs2"),
        ("100 1 rd/rs1 rs2 10", {"rs2": 32}, {}, "rs2=32 is not possible in one"),
        ("100 1 rd/rs1 rs2 10", {"rs2": ("rs2", 8)}, {}, "rs2=39 is not possible in one"),
        ("100 1 rd/rs1 rs2 10", {"rs9": 0}, {}, "there is no field rs9"),
        ("100 1 rd/rs1 rs2 10", {}, {"imm": nonzero}, "there is no field imm"),
    ],
)
def test_compressed_forms_have_to_fit_their_base(row, bind, where, complaint) -> None:
    mine = fresh()
    base = mine.insn(ROW, asm="one {rd}, {rs1}, {rs2}")(plus)
    with pytest.raises(LawError, match=complaint):
        mine.alias(row, base, asm="c.x {rd}", bind=bind, where=where)


def test_compressed_forms_bind_by_name_by_primed_name_and_by_bias() -> None:
    mine = fresh()
    base = mine.insn(ROW, asm="one {rd}, {rs1}, {rs2}")(plus)
    form = mine.alias(
        "100 111 rd'/rs1' 10 rs2' 01", base, asm="c.x {rd'}, {rs2'}", where={"rs2'": not_in(7)}
    )
    assert form.bind == {"rs2": ("rs2'", 8), "rs1": ("rd'", 8), "rd": ("rd'", 8)}
    decoded = mine.decode(0xFFFF_0000 | 0x9C41 | 2 << 7 | 3 << 2)
    assert decoded is not None
    assert decoded.fields == {"rd": 10, "rs1": 10, "rs2": 11}
    assert (decoded.length, decoded.spelling) == (2, "c.x")
    assert form.encode({"rd": 10, "rs1": 10, "rs2": 11}) == 0x9D4D
    for impossible in ({"rd": 10, "rs1": 9, "rs2": 11}, {"rd": 7, "rs1": 7, "rs2": 11}):
        assert form.encode(impossible) is None
    assert form.encode({"rd": 10, "rs1": 10, "rs2": 15}) is None


def test_decoding_reads_the_low_half_only_of_a_compressed_instruction() -> None:
    first, second = RISCV.decode(0x0000_0505), RISCV.decode(0xABCD_0505)
    assert first is not None
    assert first is second
    assert first.fields == {"rd": 10, "rs1": 10, "imm": 1}


@pytest.mark.parametrize("word", [0, 0xFFFFFFFF, 0x6101, 0x4002, 0x8002, 0x2001, 0x0000_605B])
def test_reserved_words_decode_to_nothing(word: int) -> None:
    assert RISCV.decode(word) is None


def test_decode_forgets_rather_than_grow_without_bound(monkeypatch) -> None:
    mine = RISCV.subset(["i"])
    monkeypatch.setattr("hartwood.isa.insnset._REMEMBERED", 10)
    for number in range(100):
        assert mine.decode(0x13 | number << 20) is not None
        assert len(mine._seen) <= 10


def test_subsets_have_what_their_extensions_need() -> None:
    integer = RISCV.subset(["i", "c"])
    assert integer.extensions == ("i", "c")
    assert "c.fld" not in integer
    assert "c.ld" in integer
    assert not integer.csrs
    assert integer.idiom("pause") is not None
    assert RISCV.subset(["i", "c", "d"]).spelled("c.fld") is not None
    full = RISCV.subset(RISCV.extensions)
    assert [e.name for e in full.encodings()] == [e.name for e in RISCV.encodings()]
    assert full.csrs == RISCV.csrs
    with pytest.raises(LawError, match="no extension v"):
        RISCV.subset(["v"])
    with pytest.raises(LawError, match="no instruction vadd"):
        RISCV["vadd"]


def test_the_fingerprint_is_that_of_the_meaning() -> None:
    def make(body, **extra) -> str:
        mine = fresh()
        mine.insn(ROW, asm="one {rd}, {rs1}, {rs2}", **extra)(body)
        return mine.fingerprint()

    def source(text: str, **known: object) -> FunctionType:
        names = dict(known)
        exec(text, names)
        made = names["f"]
        assert isinstance(made, FunctionType)
        return made

    head = "def f(h, rd, rs1, rs2):\n"
    same = make(source(head + " 'Prose.'\n h.x[rd] = h.x[rs1] + 1"))
    assert same == make(source(head + " 'Other prose.'\n\n h.x[rd] = h.x[rs1] + 1  # more"))
    assert same != make(source(head + " h.x[rd] = h.x[rs1] + 2"))
    assert same != make(source(head + " h.x[rd] = h.x[rs1] - 1"))
    assert same != make(source(head + " h.x[rd] = h.x[rs1] + 1"), variants={"rd": (0, 1)})
    constant = head + " h.x[rd] = h.x[rs1] + K"
    assert make(source(constant, K=1)) != make(source(constant, K=2))
    called = head + " g(h, rd)"
    first, second = (source(f"def f(h, rd): h.x[rd] = {k}") for k in (1, 2))
    assert make(source(called, g=first)) != make(source(called, g=second))
    assert RISCV.fingerprint() == RISCV.subset(RISCV.extensions).fingerprint()
    assert RISCV.fingerprint() != RISCV.subset(["i", "m"]).fingerprint()


class CountingHart(IntHart):
    """Counts writes of frm."""

    writes = 0

    @property
    def frm(self) -> Int:
        return Int(self.state.frm, 64)

    @frm.setter
    def frm(self, value: Bits | int) -> None:
        self.writes += 1


def test_csrs_are_written_only_when_the_manual_says_so() -> None:
    def writes(text: str) -> int:
        hart = CountingHart(State(), Sparse({}), RISCV.csrs)
        decoded = RISCV.decode(int.from_bytes(RISCV.assemble(text), "little"))
        assert decoded is not None
        hart.step(decoded)
        return hart.writes

    # x6 holds zero, but it is the field that decides (6.1).
    written = ["csrrw x0, frm, x0", "csrrs x5, frm, x6", "csrrc x5, frm, x6", "csrrwi x5, frm, 0"]
    unwritten = ["csrrs x5, frm, x0", "csrrc x5, frm, x0", "csrrsi x5, frm, 0", "csrrci x5, frm, 0"]
    assert [writes(text) for text in written] == [1, 1, 1, 1]
    assert [writes(text) for text in unwritten] == [0, 0, 0, 0]


def test_csrs_are_registered_once_and_read_only_by_their_number() -> None:
    mine = fresh()
    made = mine.csr(0x7C0, "mine")(lambda h: h.counter("cycle"))
    assert mine.names.csrs == {"mine": 0x7C0}
    with pytest.raises(LawError, match="0x7c0 is mine already"):
        mine.csr(0x7C0, "other")(lambda h: h.counter("cycle"))
    with pytest.raises(LawError, match="12 bits"):
        mine.csr(0x1000, "far")(lambda h: h.counter("cycle"))
    with pytest.raises(LawError, match="read-only range"):
        mine.csr(0xFC0, "fixed")(lambda h: h.counter("cycle")).writer(lambda h, value: None)
    hart = IntHart(State(), Sparse({}), mine.csrs)
    with pytest.raises(Trap, match="cause 2"):
        made.update(hart, "write", hart.const(1, 64), 1)
    with pytest.raises(Trap, match="cause 2"):
        made.update(hart, "set", 1, Int(1, 64))
    assert made.update(hart, "set", 1, Int(0, 64)).width == 64


def test_errors_of_rows_come_through_the_decorator() -> None:
    with pytest.raises(EncodingError, match="31 bits long"):
        fresh().insn("000000 rs2 rs1 000 rd 0001011", asm="x {rd}, {rs1}, {rs2}")
