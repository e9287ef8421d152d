"""Instructions as definitions: the decorator, compressed forms, and the properties derived.

An `Insn` is one function over the words of `hartwood.bits.words` together with the manual's
encoding row and its assembly syntax. An `Encoding` is a row that decodes to an `Insn`: its own,
or that of a compressed form, whose fields it binds to the base instruction's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, cast

from hartwood.bits.words import ILLEGAL_INSTRUCTION, Bits, Hart, Operand, Value
from hartwood.errors import EncodingError, LawError
from hartwood.isa.rows import Row

#: The function that defines an instruction: `body(h, **fields)`.
Body = Callable[..., None]
#: Where a field of the base instruction comes from: a number, or (field of the row, bias).
Bound = int | tuple[str, int]
#: How a compressed form may spell a `Bound`; a bare name means bias 0.
BindSpec = int | str | tuple[str, int]


@dataclass(frozen=True, eq=False)
class Insn:
    """One instruction: `name` is its mnemonic, `variants` the values of the fields that its body
    branches on (any other value of such a field is not this instruction)."""

    name: str
    row: Row
    body: Body
    asm: str
    variants: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the operand fields, which are also the parameters of the body."""
        return tuple(self.row.fields)

    def cases(self) -> Iterator[dict[str, int]]:
        """Every combination of variant values; one empty dict where there are no variants."""
        for values in itertools.product(*self.variants.values()):
            yield dict(zip(self.variants, values, strict=True))

    def variant(self, fields: Mapping[str, int]) -> dict[str, int]:
        """The variant that decoded fields select."""
        return {name: fields[name] for name in self.variants}

    def __repr__(self) -> str:
        return f"<Insn {self.name}>"


def insn(
    row: str, *, asm: str, variants: Mapping[str, tuple[int, ...]] | None = None
) -> Callable[[Body], Insn]:
    """Make the decorated body an `Insn` with the manual's `row` and an assembly template.

    Raises `EncodingError` for a bad row and `LawError` where the parameters after the hart are not
    exactly the fields of the row (law 2) or a variant is not a field.
    """
    parsed = Row.parse(row)
    name = mnemonic(asm)
    chosen = dict(variants or {})
    for variant, values in chosen.items():
        spec = parsed.fields.get(variant)
        if spec is None or any(value not in spec.range for value in values):
            raise LawError(f"{name}: variant {variant} is not a field of the row, or out of range")

    def define(body: Body) -> Insn:
        code = body.__code__
        parameters = code.co_varnames[1 : code.co_argcount]
        if sorted(parameters) != sorted(parsed.fields):
            raise LawError(
                f"{name}: parameters ({', '.join(parameters)}) of {code.co_name} are not the "
                f"fields ({', '.join(parsed.fields)}) of its row (law 2)"
            )
        return Insn(name, parsed, body, asm, chosen)

    return define


def mnemonic(asm: str) -> str:
    """The mnemonic of an assembly template, ordering suffix aside."""
    return asm.split(maxsplit=1)[0].removesuffix("{aqrl}")


@dataclass(frozen=True, eq=False)
class Encoding:
    """A row that decodes to `insn`. A word is of this encoding when it matches the row and no
    field named in `excluded` (values as the row gives them) holds an excluded value; each field of
    the instruction then is `bind`'s number, or a field of the row plus a bias."""

    name: str
    row: Row
    insn: Insn
    bind: Mapping[str, Bound]
    excluded: Mapping[str, tuple[int, ...]]
    asm: str
    extension: str

    @property
    def length(self) -> int:
        """Bytes: 2 or 4."""
        return self.row.length

    @property
    def plain(self) -> bool:
        """Whether this is the instruction's own row."""
        return self.row is self.insn.row

    @cached_property
    def decoder(self) -> Callable[[int], Decoded | None]:
        """The compiled decoder for words that match the row."""
        parts = []
        for name, bound in self.bind.items():
            if isinstance(bound, int):
                parts.append(f"{name!r}: {bound}")
            else:
                bias = f" + {bound[1]}" if bound[1] else ""
                parts.append(f"{name!r}: ({self.row.fields[bound[0]].source()}){bias}")
        tests = [
            f"({self.row.fields[name].source()}) not in {values!r}"
            for name, values in self.excluded.items()
        ]
        made = f"Decoded(insn, {{{', '.join(parts)}}}, {self.length}, {self.name!r})"
        source = f"lambda w: {made}" + (f" if {' and '.join(tests)} else None" if tests else "")
        known = {"Decoded": Decoded, "insn": self.insn}
        return cast("Callable[[int], Decoded | None]", eval(source, known))

    def encode(self, fields: Mapping[str, int]) -> int | None:
        """The word that means `insn` with these fields, or None where this form cannot say it."""
        raw: dict[str, int] = {}
        for name, bound in self.bind.items():
            value = fields[name]
            if isinstance(bound, int):
                if value != bound:
                    return None
            elif raw.setdefault(bound[0], value - bound[1]) != value - bound[1]:
                return None
        free = {name: 0 for name in self.row.fields if name not in raw}
        try:
            word = self.row.encode(**raw, **free)
        except EncodingError:
            return None
        return word if self.decoder(word) is not None else None

    def clashes(self, other: Encoding) -> bool:
        """Whether some word is of both encodings, exclusions considered."""
        if not self.row.overlaps(other.row):
            return False
        mask = self.row.mask | other.row.mask
        match = self.row.match | other.row.match
        for encoding in (self, other):
            for name, values in encoding.excluded.items():
                if encoding.row.fixed(name, mask, match) in values:
                    return False
        return True


def encoding_of(insn: Insn, extension: str) -> Encoding:
    """The instruction's own encoding; unlisted values of its variant fields are excluded."""
    excluded = {
        name: tuple(value for value in insn.row.fields[name].range if value not in values)
        for name, values in insn.variants.items()
    }
    bind = {name: (name, 0) for name in insn.row.fields}
    excluded = {name: values for name, values in excluded.items() if values}
    return Encoding(insn.name, insn.row, insn, bind, excluded, insn.asm, extension)


def compressed(
    row: str,
    base: Insn,
    *,
    asm: str,
    extension: str,
    bind: Mapping[str, BindSpec],
    where: Mapping[str, tuple[int, ...]],
) -> Encoding:
    """An encoding of its own row for the instruction `base`.

    A base field that `bind` leaves out takes the row's field of the same name, its primed form
    plus 8, or for an immediate the row's uimm, nzimm or nzuimm. Raises `LawError` naming a base
    field that stays open, or whose bound values do not all fit.
    """
    parsed, name = Row.parse(row), mnemonic(asm)
    resolved: dict[str, Bound] = {}
    for wanted, spec in base.row.fields.items():
        bound = _bound(parsed, bind.get(wanted, wanted), name)
        resolved[wanted] = bound
        if isinstance(bound, int):
            values: tuple[int, ...] = (bound,)
        else:
            span = parsed.fields[bound[0]].range
            values = (span[0] + bound[1], span[-1] + bound[1], span[-1] + bound[1] - span.step)
        for value in values:
            if value not in base.variants.get(wanted, spec.range):
                raise LawError(f"{name}: {wanted}={value} is not possible in {base.name}")
    for limited in (*where, *bind):
        if limited not in (parsed.fields if limited in where else base.row.fields):
            raise LawError(f"{name}: there is no field {limited}")
    return Encoding(name, parsed, base, resolved, dict(where), asm, extension)


def _bound(row: Row, wanted: BindSpec, name: str) -> Bound:
    if isinstance(wanted, int):
        return wanted
    if isinstance(wanted, tuple):
        return wanted
    candidates = [(wanted, 0), (wanted + "'", 8)]
    if wanted in ("imm", "shamt"):
        candidates += [(other, 0) for other in ("uimm", "nzimm", "nzuimm")]
    for candidate, bias in candidates:
        found = row.find(candidate)
        if found is not None:
            return found, bias
    raise LawError(f"{name}: nothing is bound to field {wanted} of the base instruction")


class Decoded(NamedTuple):
    """A decoded instruction. `fields` are those of `insn` even for a compressed form, whose name
    is in `spelling`; instructions that were decoded before are shared, so do not change `fields`.
    """

    insn: Insn
    fields: dict[str, int]
    length: int
    spelling: str


#: What reading and writing a CSR mean, in the same words as an instruction's body.
CsrRead = Callable[[Hart], Bits]
CsrWrite = Callable[[Hart, Bits], None]


class Csr:
    """A control and status register; without a `write` it is read-only."""

    def __init__(self, number: int, name: str, read: CsrRead) -> None:
        if number not in range(1 << 12):
            raise LawError(f"CSR {name}: number {number:#x} has more than 12 bits")
        self.number = number
        self.name = name
        self.read = read
        self.write: CsrWrite | None = None
        #: What a set or clear starts from where that is not what is read (Priv. 3.1.9, mip).
        self.base: CsrRead = read

    def writer(self, write: CsrWrite) -> CsrWrite:
        """Decorator: what a write does with the 64-bit value. Raises `LawError` for a CSR whose
        number says that it is read-only (Priv. 2.1)."""
        if self.number >> 10 == 3:
            raise LawError(f"CSR {self.name}: number {self.number:#x} is in the read-only range")
        self.write = write
        return write

    def update(self, h: Hart, op: str, value: Value, source: Operand) -> Bits:
        """What `Hart.csr_update` means for this register, under any meaning of the words."""
        old = self.read(h)
        # A number when translating, one bit in the native interpreter, where the source field is
        # a run-time value.
        writes = True if op == "write" else source != 0
        if writes is False:
            return old
        if self.write is None:
            if isinstance(writes, bool):
                h.trap(ILLEGAL_INSTRUCTION)
            else:
                h.trap_if(writes, ILLEGAL_INSTRUCTION)
            return old
        operand = h.const(value, 64)
        base = old if self.base is self.read else self.base(h)
        new = {"write": operand, "set": base | operand, "clear": base & ~operand}[op]
        self.write(h, new if isinstance(writes, bool) else h.select(writes, new, old))
        return old
