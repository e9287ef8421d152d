"""The laws of the house over every definition, and that breaking one is noticed."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable

import pytest

from hartwood.bits.effects import EffectsHart, Field, Properties, Trace, derive
from hartwood.bits.ints import Int, IntHart, State
from hartwood.bits.words import Bits, Hart
from hartwood.errors import LawError
from hartwood.isa import Insn
from hartwood.isa.riscv import RISCV
from unit.test_golden import Sparse

INSNS = list(RISCV.insns())
VARIANTS = [(insn, case) for insn in INSNS for case in insn.cases()]


def test_the_meanings_keep_to_the_protocols() -> None:
    # The types matter as much: mypy reads these two lines.
    harts: list[Hart] = [EffectsHart("x"), IntHart(State(), Sparse({}))]
    values: list[Bits] = [Int(1, 8), Trace(8, frozenset())]
    for protocol, meanings in ((Hart, harts), (Bits, values)):
        words = [name for name in vars(protocol) if not name.startswith("_")]
        assert len(words) > 15
        for meaning in meanings:
            assert [word for word in words if not hasattr(type(meaning), word)] == []


def test_no_two_encodings_overlap() -> None:
    encodings = list(RISCV.encodings())
    clashes = [
        (one.name, other.name)
        for one, other in itertools.combinations(encodings, 2)
        if one.clashes(other)
    ]
    assert not clashes
    assert len(encodings) > 240


@pytest.mark.parametrize("insn", INSNS, ids=lambda insn: insn.name)
def test_parameters_are_the_fields(insn: Insn) -> None:
    parameters = list(inspect.signature(insn.body).parameters)
    assert sorted(parameters[1:]) == sorted(insn.fields)


@pytest.mark.parametrize("insn", INSNS, ids=lambda insn: insn.name)
def test_definitions_keep_the_laws_and_have_plausible_properties(insn: Insn) -> None:
    for case in insn.cases():
        found = RISCV.properties(insn, case)
        assert found == derive(insn.name, insn.body, insn.fields, case)
        registers = found.x_reads | found.x_writes | found.f32_reads | found.f32_writes
        registers |= found.f64_reads | found.f64_writes
        assert registers <= set(insn.fields)
        # Everything but fences and the reserved fields of fences is good for something.
        writes = found.x_writes | found.f32_writes | found.f64_writes
        assert writes or found.stores or found.control != "none" or found.fence or found.fence_i
        if found.control in ("jump", "branch"):
            assert found.target in ({"pc", "imm"}, {"x", "imm"})
        if insn.name[0] == "f" and "rd" in insn.fields and insn.name not in ("fence", "fence.i"):
            assert found.floating
        assert found.may_trap >= found.accesses_memory


@pytest.mark.parametrize("insn", INSNS, ids=lambda insn: insn.name)
def test_bodies_are_short(insn: Insn) -> None:
    source = inspect.getsource(insn.body)
    body = ast.parse(textwrap.dedent(source)).body[0]
    assert isinstance(body, ast.FunctionDef)
    statements = [part for part in body.body if not isinstance(part, ast.Expr) or
                  not isinstance(part.value, ast.Constant)]  # fmt: skip
    lines = (statements[-1].end_lineno or 0) - statements[0].lineno + 1
    assert lines <= 15


def test_csr_definitions_keep_to_words() -> None:
    assert {csr.name for csr in RISCV.csrs.values()} == {
        "fflags", "frm", "fcsr", "cycle", "time", "instret",
    }  # fmt: skip
    for csr in RISCV.csrs.values():
        hart = EffectsHart(csr.name)
        assert csr.read(hart).width == 64
        if csr.write is not None:
            csr.write(hart, hart.const(1, 64))
        assert (csr.write is None) == (csr.number >> 10 == 3)


def properties(name: str, **variant: int) -> Properties:
    return RISCV.properties(RISCV[name], variant)


def test_properties_of_some_instructions_are_as_the_manual_has_them() -> None:
    assert properties("addi") == Properties(x_reads=frozenset({"rs1"}), x_writes=frozenset({"rd"}))
    jalr = properties("jalr")
    assert (jalr.control, jalr.indirect, jalr.ends_block, jalr.may_trap) == (
        "jump",
        True,
        True,
        False,
    )
    assert not properties("jal").indirect
    assert properties("jal").target == {"pc", "imm"}
    assert properties("bne").control == "branch"
    assert properties("ecall").control == "trap"
    assert properties("ecall").causes == {8}
    assert (properties("ld").loads, properties("ld").may_trap) == ((8,), True)
    assert properties("sh").stores == (2,)
    assert properties("lr.w").atomics == ("lr",)
    assert properties("lr.w").causes == {4}
    assert properties("amomaxu.d").atomics == ("maxu",)
    assert properties("amomaxu.d").causes == {6}
    assert properties("fence").fence
    assert properties("fence.i").ends_block
    static, dynamic = properties("fadd.d", rm=0), properties("fadd.d", rm=7)
    assert not static.causes
    assert dynamic.causes == {2}
    assert static.f64_reads == {"rs1", "rs2"}
    assert static.f64_writes == {"rd"}
    assert static.rounding
    assert not properties("fsgnj.d").rounding
    assert properties("fsgnj.d").floating
    assert properties("fmv.x.w").f64_reads == {"rs1"}
    assert properties("csrrs").csr == {"set"}
    assert properties("csrrs").causes == {2}
    assert not properties("div").may_trap


def breaks(body: Callable[..., None], *fields: str) -> str:
    with pytest.raises(LawError) as caught:
        derive("bad", body, fields or ("rd", "rs1"), {})
    assert str(caught.value).startswith("bad: ")
    return str(caught.value)


def trap_after_write(h, rd, rs1):
    h.x[rd] = h.x[rs1]
    h.trap_if(h.x[rs1] == 0, 2)


def load_after_store(h, rd, rs1):
    h.store(h.x[rs1], h.x[rs1])
    h.x[rd] = h.load(h.x[rs1], 8)


def dynamic_rounding_after_write(h, rd, rs1):
    h.x[rd] = 1
    h.f64[rd] = h.fsqrt(h.f64[rs1], 7)


def csr_after_write(h, rd, rs1):
    h.f32[rd] = h.f32[rs1]
    h.x[rd] = h.csr_update(1, "write", 0, 1)


def read_after_write(h, rd, rs1):
    h.x[rd] = h.next_pc
    h.jump(h.x[rs1])


def write_after_jump(h, rd, rs1):
    h.jump(h.x[rs1])
    h.x[rd] = h.next_pc


def two_jumps(h, rd, rs1):
    h.branch(h.x[rs1] == 0, h.pc)
    h.jump(h.pc)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (trap_after_write, "reads a register after writing"),
        (load_after_store, r"may trap \(memory access\) after it stores: law 6"),
        (dynamic_rounding_after_write, r"may trap \(dynamic rounding mode\) after it writes x"),
        (csr_after_write, r"may trap \(CSR access\) after it writes f32"),
        (read_after_write, "reads a register after writing one of the same file"),
        (write_after_jump, "does something after its control transfer"),
        (two_jumps, "does something after its control transfer"),
    ],
)
def test_order_is_checked(body, complaint: str) -> None:
    assert re.search(complaint, breaks(body))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (lambda h, rd, rs1: 1 if rs1 else 2, "operand rs1 is opaque"),
        (lambda h, rd, rs1: rs1 == 0, "operand rs1 is opaque"),
        (lambda h, rd, rs1: range(rs1), "operand rs1 is opaque"),
        (lambda h, rd, rs1: -rs1, "operand rs1 is opaque"),
        (lambda h, rd, rs1: rs1 + 1, "not a word"),
        (lambda h, rd, rs1: 1 if h.x[rs1] else 2, "no truth"),
        (lambda h, rd, rs1: h.x[rs1] < 1, "no truth, no order"),
        (lambda h, rd, rs1: h.x[rs1] >> 1, "no truth, no order"),
        (lambda h, rd, rs1: h.x[rs1] // 2, "no truth, no order"),
        (lambda h, rd, rs1: h.x[rs1].foo(), "not a word of Hart or Bits.*foo"),
        (lambda h, rd, rs1: h.y, "not a word"),
        (lambda h, rd, rs1: h.x[rs1] + h.x[rs1].trunc(32), "widths 64 and 32 meet"),
        (lambda h, rd, rs1: h.x[rs1] + 1.5, "1.5 is not a value"),
        (lambda h, rd, rs1: h.x[rs1].trunc(65), "truncation from 64 to 65"),
        (lambda h, rd, rs1: h.x[rs1].zext(32), "extension from 64 to 32"),
        (lambda h, rd, rs1: h.x[rs1].sext(32), "extension from 64 to 32"),
        (lambda h, rd, rs1: h.x[h.x[rs1]], "indexed by operand fields"),
        (lambda h, rd, rs1: h.x.__setitem__(rd, h.x[rs1].trunc(32)), "writes 32 bits"),
        (lambda h, rd, rs1: h.select(h.x[rs1], 1, 2), "condition of 64 bits"),
        (lambda h, rd, rs1: h.select(h.pc == 1, h.pc, h.pc.trunc(8)), "between different widths"),
        (lambda h, rd, rs1: h.branch(h.pc, h.pc), "not one bit"),
        (lambda h, rd, rs1: h.trap_if(h.pc, 2), "not one bit"),
        (lambda h, rd, rs1: h.jump(1), "not 64 bits wide"),
        (lambda h, rd, rs1: h.load(h.pc, 3), "size not of 1 to 8"),
        (lambda h, rd, rs1: h.load(h.pc.trunc(32), 4), "not 64 bits"),
        (lambda h, rd, rs1: h.store(h.pc, h.pc == 1), "not 8, 16, 32 or 64 bits"),
        (lambda h, rd, rs1: h.amo("nand", h.pc, h.pc), "unknown atomic operation nand"),
        (lambda h, rd, rs1: h.csr_update(1, "flip", 0, 1), "unknown operation flip"),
        (lambda h, rd, rs1: h.const(h.pc, 32), "gives 64 bits the width 32"),
        (lambda h, rd, rs1: h.fadd(h.f32[rs1], h.f64[rs1], 0), "of one width, 32 or 64"),
        (lambda h, rd, rs1: h.fsqrt(h.pc.trunc(16), 0), "of one width, 32 or 64"),
    ],
)
def test_values_and_operands_are_used_as_they_may_be(body, complaint: str) -> None:
    assert re.search(complaint, breaks(body))


def test_a_variant_is_a_number_in_the_body() -> None:
    def body(h, rd, rm):
        h.x[rd] = 1 if rm == 7 else h.pc

    assert derive("v", body, ("rd", "rm"), {"rm": 7}).x_writes == {"rd"}
    with pytest.raises(LawError, match="operand rm is opaque"):
        derive("v", body, ("rd", "rm"), {})


def test_constants_index_registers_too() -> None:
    def body(h):
        h.x[1] = h.x[2]

    found = derive("v", body, (), {})
    assert found.x_reads == {2}
    assert found.x_writes == {1}


def test_fields_are_told_apart_by_identity() -> None:
    assert len({Field("rd"), Field("rd")}) == 2
