"""Encoding rows as the manual prints them: text in, mask, match and fields out.

`Row.parse("imm[12|10:5] rs2 rs1 001 imm[4:1|11] 1100011")` is the branch row of Unpriv. 2.5;
compressed rows (`"110 uimm[5:3] rs1' uimm[2|6] rs2' 00"`) are spelt as in Unpriv. 26.8.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from hartwood.errors import EncodingError

#: Field names whose value is two's complement; every other name is unsigned.
SIGNED = frozenset({"imm", "nzimm"})
#: Widths of fields that the manual's tables write without a bit range.
_WIDTHS = {
    "rd": 5, "rs1": 5, "rs2": 5, "rs3": 5, "rd'": 3, "rs1'": 3, "rs2'": 3,
    "rm": 3, "aq": 1, "rl": 1, "fm": 4, "pred": 4, "succ": 4, "csr": 12, "uimm": 5,
}  # fmt: skip

_TOKEN = re.compile(r"([a-z][a-z0-9]*'?)((?:/[a-z][a-z0-9]*'?)*)(?:\[([0-9:|]+)\])?")


@dataclass(frozen=True, slots=True)
class Slice:
    """`width` consecutive bits: instruction bits from `at` hold value bits from `to`."""

    at: int
    width: int
    to: int


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field of a row. `width` counts the value's bits, implied low zero bits included, so a
    branch offset is 13 bits wide with `low` 1."""

    name: str
    slices: tuple[Slice, ...]
    width: int
    signed: bool

    @property
    def low(self) -> int:
        """Number of low value bits that are always zero."""
        return min(part.to for part in self.slices)

    @property
    def range(self) -> range:
        """Every value the field can hold, smallest first."""
        half = 1 << (self.width - 1)
        if self.signed:
            return range(-half, half, 1 << self.low)
        return range(0, 2 * half, 1 << self.low)

    @property
    def bits(self) -> int:
        """Mask of the instruction bits that hold this field."""
        return sum(((1 << part.width) - 1) << part.at for part in self.slices)

    def extract(self, word: int) -> int:
        """The field's value in an instruction; negative numbers where it is signed."""
        value = 0
        for part in self.slices:
            value |= (word >> part.at & (1 << part.width) - 1) << part.to
        if self.signed and value >> (self.width - 1):
            value -= 1 << self.width
        return value

    def insert(self, value: int) -> int:
        """Instruction bits for a value.

        Raises `EncodingError` naming the field and its range when the value does not fit.
        """
        if value not in self.range:
            span = self.range
            step = f" in steps of {span.step}" if span.step > 1 else ""
            raise EncodingError(f"{self.name}={value} is not in {span[0]}..{span[-1]}{step}")
        word = 0
        for part in self.slices:
            word |= (value >> part.to & (1 << part.width) - 1) << part.at
        return word

    def source(self) -> str:
        """A Python expression over `w` that computes `extract(w)`."""
        parts = []
        for part in sorted(self.slices, key=lambda part: part.at):
            mask, shift = (1 << part.width) - 1, part.to - part.at
            shifted = f"w << {shift}" if shift > 0 else f"w >> {-shift}" if shift else "w"
            parts.append(f"({shifted} & {mask << part.to})")
        value = " | ".join(parts)
        if not self.signed:
            return value
        half = 1 << (self.width - 1)
        return f"(({value}) ^ {half}) - {half}"


@dataclass(frozen=True)
class Row:
    """One line of an encoding table. `length` is in bytes (2 or 4); an instruction word belongs
    to the row when `word & mask == match`."""

    text: str
    length: int
    mask: int
    match: int
    fields: Mapping[str, FieldSpec]
    #: Other names of a field: `rs1` for the field of the token `rd/rs1`, which is called `rd`.
    synonyms: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Row:
        """Read a row, most significant bit first.

        Raises `EncodingError` naming the row and the token at fault: an unknown token, a value
        bit given twice or missing, a total that is neither 16 nor 32 bits.
        """
        tokens = [_token(text, token) for token in text.split()]
        total = sum(width for width, *_ in tokens)
        if total not in (16, 32):
            raise EncodingError(f"row '{text}' is {total} bits long, not 16 or 32")
        mask = match = 0
        at = total
        slices: dict[str, list[Slice]] = {}
        synonyms: dict[str, str] = {}
        for width, constant, name, others, ranges in tokens:
            if name is None:
                at -= width
                mask |= ((1 << width) - 1) << at
                match |= constant << at
                continue
            for high, low in ranges:
                at -= high - low + 1
                slices.setdefault(name, []).append(Slice(at, high - low + 1, low))
            synonyms.update(dict.fromkeys(others, name))
        fields = {name: _field(text, name, tuple(parts)) for name, parts in slices.items()}
        return cls(text, total // 8, mask, match, fields, synonyms)

    def decode(self, word: int) -> dict[str, int] | None:
        """The fields of an instruction word, or None when it is not of this row."""
        if word & self.mask != self.match:
            return None
        return self.extractor(word)

    @cached_property
    def extractor(self) -> Callable[[int], dict[str, int]]:
        """`decode` without the test, compiled: translation decodes every guest instruction."""
        pairs = ", ".join(f"{name!r}: {spec.source()}" for name, spec in self.fields.items())
        return cast(Callable[[int], dict[str, int]], eval(f"lambda w: {{{pairs}}}"))

    def encode(self, **values: int) -> int:
        """The instruction word for the given fields, every one of them.

        Raises `EncodingError` naming the field: missing, unknown, or out of its range.
        """
        word = self.match
        for name in values:
            if name not in self.fields:
                raise EncodingError(f"row '{self.text}' has no field {name}")
        for name, spec in self.fields.items():
            if name not in values:
                raise EncodingError(f"row '{self.text}' needs a value for {name}")
            word |= spec.insert(values[name])
        return word

    def overlaps(self, other: Row) -> bool:
        """Whether some instruction word is of both rows."""
        both = self.mask & other.mask
        return self.length == other.length and self.match & both == other.match & both

    def fixed(self, name: str, mask: int, match: int) -> int | None:
        """The value that field `name` must have in every word with `word & mask == match`, or
        None where the mask leaves some bit of the field free."""
        spec = self.fields[name]
        return spec.extract(match) if spec.bits & ~mask == 0 else None

    def find(self, name: str) -> str | None:
        """The field called `name`, directly or by another name of its token."""
        return name if name in self.fields else self.synonyms.get(name)


_Token = tuple[int, int, "str | None", tuple[str, ...], "list[tuple[int, int]]"]


def _token(text: str, token: str) -> _Token:
    """Width, constant value, field name, its other names and value-bit ranges of one token."""
    if not token.strip("01"):
        return len(token), int(token, 2), None, (), []
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise EncodingError(f"row '{text}': cannot read '{token}'")
    name, others, ranges = found[1], tuple(found[2].split("/")[1:]), found[3]
    if ranges is None:
        if name not in _WIDTHS:
            raise EncodingError(f"row '{text}': field {name} needs a bit range, as in {name}[4:0]")
        parts = [(_WIDTHS[name] - 1, 0)]
    else:
        parts = list(_ranges(text, token, ranges))
    return sum(high - low + 1 for high, low in parts), 0, name, others, parts


def _ranges(text: str, token: str, ranges: str) -> Iterator[tuple[int, int]]:
    for part in ranges.split("|"):
        ends = part.split(":")
        if len(ends) > 2 or not all(ends) or int(ends[0]) < int(ends[-1]):
            raise EncodingError(f"row '{text}': cannot read '{token}'")
        yield int(ends[0]), int(ends[-1])


def _field(text: str, name: str, slices: tuple[Slice, ...]) -> FieldSpec:
    covered = sorted(part.to + bit for part in slices for bit in range(part.width))
    if covered != list(range(covered[0], covered[-1] + 1)):
        raise EncodingError(f"row '{text}': {name} gives a value bit twice or leaves one out")
    return FieldSpec(name, slices, covered[-1] + 1, name in SIGNED)
