"""Encoding rows: reading them, both ways through their fields, and what is refused."""

from __future__ import annotations

import pytest

from hartwood.errors import EncodingError
from hartwood.isa import Row, Slice

BRANCH = "imm[12|10:5] rs2 rs1 001 imm[4:1|11] 1100011"


def test_a_branch_row_has_the_manuals_mask_and_match() -> None:
    row = Row.parse(BRANCH)
    assert (row.length, row.mask, row.match) == (4, 0x707F, 0x1063)
    assert list(row.fields) == ["imm", "rs2", "rs1"]


def test_slices_say_where_the_bits_of_a_value_are() -> None:
    imm = Row.parse(BRANCH).fields["imm"]
    assert imm.slices == (Slice(31, 1, 12), Slice(25, 6, 5), Slice(8, 4, 1), Slice(7, 1, 11))
    assert (imm.width, imm.signed, imm.low) == (13, True, 1)
    assert (imm.range[0], imm.range[-1], imm.range.step) == (-4096, 4094, 2)
    assert imm.bits == 0xFE000F80


@pytest.mark.parametrize(
    ("word", "offset"),
    [(0xFE0796E3, -20), (0x00109463, 8), (0x80001063, -4096), (0x7E001FE3, 4094)],
)
def test_branch_offsets_decode_and_encode(word: int, offset: int) -> None:
    row = Row.parse(BRANCH)
    fields = row.decode(word)
    assert fields is not None
    assert fields["imm"] == offset
    assert row.encode(**fields) == word


def test_compressed_rows_have_two_bytes_and_primed_fields_as_they_stand() -> None:
    row = Row.parse("110 uimm[5:3] rs1' uimm[2|6] rs2' 00")
    assert row.length == 2
    assert row.decode(0xC188) == {"uimm": 0, "rs1'": 3, "rs2'": 2}
    assert row.fields["uimm"].range == range(0, 128, 4)
    assert row.fields["rs1'"].range == range(8)


def test_a_field_with_two_names_is_found_by_either() -> None:
    row = Row.parse("100 1 rd/rs1 rs2 10")
    assert row.find("rd") == row.find("rs1") == "rd"
    assert row.find("rs2") == "rs2"
    assert row.find("imm") is None


def test_decoding_refuses_words_of_other_rows() -> None:
    assert Row.parse(BRANCH).decode(0x00000013) is None


def test_the_extractor_agrees_with_the_slices() -> None:
    row = Row.parse("imm[20|10:1|11|19:12] rd 1101111")
    for word in (0x0000006F, 0xFFFFFFFF, 0x8000006F, 0x7FFFFFEF, 0x12345AEF, 0xABCDE0EF):
        slow = {name: spec.extract(word) for name, spec in row.fields.items()}
        assert row.extractor(word) == slow


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"rs1": 1, "rs2": 2, "imm": 4096}, r"imm=4096 is not in -4096\.\.4094 in steps of 2"),
        ({"rs1": 1, "rs2": 2, "imm": 3}, "imm=3 is not in"),
        ({"rs1": 32, "rs2": 2, "imm": 0}, r"rs1=32 is not in 0\.\.31$"),
        ({"rs1": -1, "rs2": 2, "imm": 0}, "rs1=-1"),
        ({"rs1": 1, "imm": 0}, "needs a value for rs2"),
        ({"rs1": 1, "rs2": 2, "imm": 0, "rd": 0}, "has no field rd"),
    ],
)
def test_encoding_refuses_what_does_not_fit(values: dict[str, int], complaint: str) -> None:
    with pytest.raises(EncodingError, match=complaint):
        Row.parse(BRANCH).encode(**values)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rd 0110111", "12 bits long"),
        ("imm[31:12] Rd 0110111", "cannot read 'Rd'"),
        ("imm[12:31] rd 0110111", "cannot read 'imm"),
        ("imm[31:20|20:13] rd 0110111", "bit twice or leaves one out"),
        ("imm[31:21|18:12] 00 rd 0110111", "bit twice or leaves one out"),
        ("shamt rs1 001 rd 0010011", r"field shamt needs a bit range"),
        ("imm[1:2:3] rd 0110111", "cannot read"),
        ("", "0 bits long"),
    ],
)
def test_bad_rows_are_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(EncodingError, match=complaint):
        Row.parse(text)


def test_overlap_is_about_words_that_match_both() -> None:
    add = Row.parse("0000000 rs2 rs1 000 rd 0110011")
    sub = Row.parse("0100000 rs2 rs1 000 rd 0110011")
    any_f7 = Row.parse("uimm[6:0] rs2 rs1 000 rd 0110011")
    assert not add.overlaps(sub)
    assert add.overlaps(any_f7)
    assert any_f7.overlaps(sub)
    assert not add.overlaps(Row.parse("100 1 rd/rs1 rs2 10"))


def test_fixed_gives_a_fields_value_where_a_mask_leaves_no_choice() -> None:
    row = Row.parse("100 1 rd/rs1 rs2 10")
    jalr = Row.parse("100 1 rs1 00000 10")
    assert row.fixed("rs2", jalr.mask, jalr.match) == 0
    assert row.fixed("rd", jalr.mask, jalr.match) is None
