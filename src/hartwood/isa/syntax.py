"""Assembly syntax from templates such as `"ld {rd}, {imm}({rs1})"`, in both directions.

A placeholder is a field of the row, with its kind after a colon where the name does not say it:
`x` and `f` registers (primed fields count from 8), `int`, `pc` (a target relative to the
instruction), `upper` (the upper 20 bits), `csr`, `fence` (a set of `iorw`), `rm` (a rounding mode
after the last operand, left out when dynamic), `exact` (the same, left out when 0), and `{aqrl}`
for the ordering suffix of an atomic's mnemonic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from hartwood.errors import AssemblyError

_PLACEHOLDER = re.compile(r"\{([a-z0-9']+)(?::([a-z]+))?\}")
_KINDS = {
    "rd": "x", "rs1": "x", "rs2": "x", "rs3": "x", "rd'": "x", "rs1'": "x", "rs2'": "x",
    "csr": "csr", "pred": "fence", "succ": "fence", "rm": "rm", "aqrl": "aqrl",
}  # fmt: skip
#: Rounding modes by number (Unpriv. table 30); 7 takes the mode from `frm`.
ROUNDING_MODES = {0: "rne", 1: "rtz", 2: "rdn", 3: "rup", 4: "rmm", 7: "dyn"}
_ORDERINGS = {(0, 0): "", (1, 0): ".aq", (0, 1): ".rl", (1, 1): ".aqrl"}
_TERM = re.compile(r"\s*([+-]?)\s*(0x[0-9a-f]+|0b[01]+|[0-9]+|[.\w$]+)", re.IGNORECASE)


@dataclass
class Names:
    """What an assembler knows besides the templates: register names by kind ("x", "f"), in order,
    further names of registers, and CSRs by name."""

    registers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    synonyms: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    csrs: dict[str, int] = field(default_factory=dict)

    def register(self, kind: str, text: str) -> int:
        """The number of a register by its ABI name, a synonym, or kind and number (`x5`).

        Raises `AssemblyError` when there is none.
        """
        known = self.registers[kind]
        if text in known:
            return known.index(text)
        if text in self.synonyms.get(kind, {}):
            return self.synonyms[kind][text]
        number = text.removeprefix(kind)
        if number != text and number.isdecimal() and int(number) < len(known):
            return int(number)
        raise AssemblyError(f"{text} is not a register of kind {kind}")


@dataclass
class Place:
    """Where an instruction is being assembled or printed."""

    pc: int
    names: Names
    labels: Mapping[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        """The value of a sum of numbers, labels and `pc` (or `.`).

        Raises `AssemblyError` naming what it cannot read.
        """
        total, at, stripped = 0, 0, text.strip()
        while at < len(stripped):
            found = _TERM.match(stripped, at)
            if found is None or (at and not found[1]):
                raise AssemblyError(f"cannot read the number '{stripped}'")
            value = self._term(found[2])
            total += -value if found[1] == "-" else value
            at = found.end()
        if not stripped:
            raise AssemblyError("a number is missing")
        return total

    def _term(self, text: str) -> int:
        if text[0].isdecimal():
            return int(text, 0)
        if text in ("pc", "."):
            return self.pc
        if text in self.labels:
            return self.labels[text]
        raise AssemblyError(f"{text} is neither a number nor a label")


def _show_set(value: int) -> str:
    return "".join(letter for bit, letter in enumerate("wroi") if value >> bit & 1)[::-1] or "0"


def _read_set(text: str, place: Place) -> int:
    if text.isdecimal():
        return int(text)
    if not text or set(text) - set("iorw"):
        raise AssemblyError(f"{text} is not a set of iorw")
    return sum(1 << "wroi".index(letter) for letter in set(text))


def _read_mode(text: str, place: Place) -> int:
    for number, name in ROUNDING_MODES.items():
        if name == text:
            return number
    raise AssemblyError(f"{text} is not a rounding mode")


def _show_csr(value: int, place: Place) -> str:
    return next((name for name, number in place.names.csrs.items() if number == value), hex(value))


def _read_csr(text: str, place: Place) -> int:
    number = place.names.csrs.get(text)
    return place.number(text) if number is None else number


def _read_upper(text: str, place: Place) -> int:
    value = place.number(text)
    if value not in range(-(1 << 19), 1 << 20):
        raise AssemblyError(f"{text} does not fit in 20 bits")
    return (value ^ 1 << 19) - (1 << 19) << 12 if value >= 0 else value << 12


def _signed(value: int) -> int:
    """A difference of addresses: the address space wraps around."""
    return ((value & (1 << 64) - 1) ^ 1 << 63) - (1 << 63)


Show = Callable[[int, Place], str]
Read = Callable[[str, Place], int]
_NUMBER = r"([^,()]*?)"
_WORD = r"([\w.]+)"
_PLAIN: dict[str, tuple[Show, Read, str]] = {
    "int": (lambda value, place: str(value), lambda text, place: place.number(text), _NUMBER),
    "pc": (
        lambda value, place: hex(place.pc + value & (1 << 64) - 1),
        lambda text, place: _signed(place.number(text) - place.pc),
        _NUMBER,
    ),
    "upper": (lambda value, place: hex(value >> 12 & 0xFFFFF), _read_upper, _NUMBER),
    "csr": (_show_csr, _read_csr, _WORD),
    "fence": (lambda value, place: _show_set(value), _read_set, _WORD),
    "rm": (lambda value, place: ROUNDING_MODES[value], _read_mode, _WORD),
}


@dataclass(frozen=True)
class Template:
    """The assembly template of one encoding."""

    text: str

    @cached_property
    def mnemonic(self) -> str:
        """The mnemonic without ordering suffix."""
        return self.text.split(maxsplit=1)[0].removesuffix("{aqrl}")

    @cached_property
    def ordered(self) -> bool:
        """Whether the mnemonic takes an ordering suffix."""
        return "{aqrl}" in self.text

    @cached_property
    def operands(self) -> str:
        """The template after the mnemonic."""
        return self.text.partition(" ")[2]

    @cached_property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Field and kind of each placeholder among the operands, in order."""
        found = _PLACEHOLDER.findall(self.operands)
        return tuple((name, kind or _KINDS.get(name, "int")) for name, kind in found)

    @cached_property
    def fields(self) -> frozenset[str]:
        """Every field that the template can say."""
        extra = {"aq", "rl"} if self.ordered else set()
        return frozenset({name for name, _ in self.places} | extra)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """A regular expression with one group per placeholder."""
        made, at, kinds = "", 0, iter(self.places)
        for found in _PLACEHOLDER.finditer(self.operands):
            literal = _literal(self.operands[at : found.start()])
            _, kind = next(kinds)
            if kind in ("rm", "exact"):
                made += rf"(?:{literal}{_WORD})?"
            else:
                made += literal + (_WORD if kind in "xf" else _PLAIN[kind][2])
            at = found.end()
        return re.compile(made + _literal(self.operands[at:]) + r"\s*")

    def show(self, fields: Mapping[str, int], place: Place) -> str:
        """The instruction in assembly. Fields that the template does not say are left out."""
        shown, at = "", 0
        for (name, kind), found in zip(
            self.places, _PLACEHOLDER.finditer(self.operands), strict=True
        ):
            shown += self.operands[at : found.start()]
            value = fields[name]
            at = found.end()
            if kind in "xf":
                shown += place.names.registers[kind][value + 8 * name.endswith("'")]
            elif (kind, value) in (("rm", 7), ("exact", 0)):
                shown = shown.removesuffix(", ")
            else:
                shown += _PLAIN["rm" if kind == "exact" else kind][0](value, place)
        suffix = _ORDERINGS[fields["aq"], fields["rl"]] if self.ordered else ""
        return f"{self.mnemonic}{suffix} {shown}{self.operands[at:]}".rstrip()

    def read(self, suffix: str, operands: str, place: Place) -> dict[str, int]:
        """The fields that an instruction's ordering suffix and operands say.

        Raises `AssemblyError` when they do not have the template's form.
        """
        found = self.pattern.fullmatch(operands.strip())
        if found is None:
            raise AssemblyError(f"operands should read '{self._form()}'")
        fields: dict[str, int] = {}
        for (name, kind), text in zip(self.places, found.groups(), strict=True):
            if kind in "xf":
                value = place.names.register(kind, text) - 8 * name.endswith("'")
                if value not in range(8) and name.endswith("'"):
                    raise AssemblyError(f"{text} is not one of the eight compressed registers")
            elif text is None:
                value = 7 if kind == "rm" else 0
            elif not text and kind == "int" and f"{{{name}}}(" in self.operands:
                value = 0
            else:
                value = _PLAIN["rm" if kind == "exact" else kind][1](text, place)
            fields[name] = value
        if self.ordered:
            order = next(order for order, text in _ORDERINGS.items() if text == suffix)
            fields["aq"], fields["rl"] = order
        return fields

    def _form(self) -> str:
        return _PLACEHOLDER.sub(lambda found: found[1], self.operands)


def split_mnemonic(text: str) -> tuple[str, str]:
    """An atomic's mnemonic as (mnemonic, ordering suffix)."""
    for suffix in (".aqrl", ".aq", ".rl"):
        if text.endswith(suffix):
            return text.removesuffix(suffix), suffix
    return text, ""


def _literal(text: str) -> str:
    """A regular expression for literal text with free spacing."""
    tokens = re.findall(r"\w+|[^\w\s]", text)
    return "".join(rf"\s*{re.escape(token)}\s*" for token in tokens)
