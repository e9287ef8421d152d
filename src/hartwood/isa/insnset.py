"""One architecture's instructions: registration, decoding, derived properties, assembly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hartwood.bits import effects
from hartwood.errors import LawError
from hartwood.isa import assembler
from hartwood.isa.fingerprint import digest
from hartwood.isa.insn import (
    BindSpec,
    Body,
    Csr,
    CsrRead,
    Decoded,
    Encoding,
    Insn,
    compressed,
    encoding_of,
    insn,
)
from hartwood.isa.syntax import Names

#: Decoded words that are remembered; a guest with more distinct instructions starts anew.
_REMEMBERED = 1 << 16

_Bucket = list[tuple[int, int, Encoding]]


def not_in(*values: int) -> tuple[int, ...]:
    """Values of a row's field that are reserved or belong to another instruction."""
    return values


#: For fields that must not be zero.
nonzero = not_in(0)


class InsnSet:
    """The instructions of one architecture, selectable by extension.

    Lengths follow RISC-V's rule (Unpriv. 1.5): an instruction whose two low bits are 11 takes four
    bytes, any other two.
    """

    def __init__(
        self,
        name: str,
        names: Names | None = None,
        pseudo: Mapping[str, assembler.Pseudo] | None = None,
    ) -> None:
        self.name = name
        #: Definitions of CSRs by number.
        self.csrs: dict[int, Csr] = {}
        self.names = names or Names()
        self.pseudo: dict[str, assembler.Pseudo] = dict(pseudo or {})
        self._encodings: dict[str, Encoding] = {}
        self._idioms: dict[str, Decoded] = {}
        self._extensions: dict[str, str] = {}
        #: Encodings that may overlap: those of one length and major opcode.
        self._groups: dict[tuple[int, int | None], list[Encoding]] = {}
        self._table: dict[int, _Bucket] = {}
        self._seen: dict[int, Decoded | None] = {}
        self._properties: dict[tuple[Insn, tuple[int, ...]], effects.Properties] = {}

    def __repr__(self) -> str:
        return f"<InsnSet {self.name}: {len(self._encodings)} encodings>"

    # Registration
    def extension(self, name: str) -> Extension:
        """A part of this set under a name; what is registered through it belongs to it."""
        return Extension(self, name)

    def insn(
        self,
        row: str,
        *,
        asm: str,
        variants: Mapping[str, tuple[int, ...]] | None = None,
        extension: str = "custom",
    ) -> Callable[[Body], Insn]:
        """Register the decorated body as an instruction of this set.

        `row` is the manual's encoding row, `asm` the assembly template (see `isa.syntax`),
        `variants` the values of fields the body branches on. Raises `EncodingError` or `LawError`
        when the definition breaks a law or overlaps another one.
        """
        make = insn(row, asm=asm, variants=variants)

        def register(body: Body) -> Insn:
            made = make(body)
            self._add(encoding_of(made, extension))
            return made

        return register

    def alias(
        self,
        row: str,
        base: Insn | str,
        *,
        asm: str,
        bind: Mapping[str, BindSpec] | None = None,
        where: Mapping[str, tuple[int, ...]] | None = None,
        extension: str = "custom",
    ) -> Encoding:
        """Register a compressed form of `base`: `bind` says where its fields come from (a number,
        a field of the row, or (field, bias); see `isa.insn.compressed` for what may be left out),
        `where` which values of the row's fields are reserved. Raises as `insn` does."""
        target = base if isinstance(base, Insn) else self[base]
        made = compressed(
            row, target, asm=asm, extension=extension, bind=bind or {}, where=where or {}
        )
        self._add(made)
        return made

    def name_idiom(self, text: str, base: str, **fields: int) -> None:
        """Give one operation of `base`, with these fields and zeros, a name of its own."""
        target = self[base]
        complete = dict.fromkeys(target.fields, 0) | fields
        self._idioms[text] = Decoded(target, complete, target.row.length, base)

    def csr(self, number: int, name: str, extension: str = "custom") -> Callable[[CsrRead], Csr]:
        """Register a CSR whose reading the decorated function defines; see `Csr.writer`.

        Raises `LawError` for a number of more than 12 bits or one that is taken.
        """

        def register(read: CsrRead) -> Csr:
            if number in self.csrs:
                raise LawError(f"CSR {name}: {number:#x} is {self.csrs[number].name} already")
            made = self.csrs[number] = Csr(number, name, read)
            self.names.csrs[name] = number
            self._extensions[f"csr {name}"] = extension
            return made

        return register

    def _add(self, encoding: Encoding) -> None:
        name, row = encoding.name, encoding.row
        if name in self._encodings:
            raise LawError(f"{name} is registered already")
        if row.mask & 3 != 3 or (row.match & 3 == 3) != (row.length == 4):
            raise LawError(f"{name}: the two low bits have to be 11 in 32-bit rows, else another")
        opcode = 0x7F if row.length == 4 else 0xE003
        key = row.match & opcode if row.mask & opcode == opcode else None
        for (length, other), group in self._groups.items():
            if length == row.length and (key is None or other is None or key == other):
                for known in group:
                    if encoding.clashes(known):
                        raise LawError(f"{name} overlaps {known.name}")
        self._groups.setdefault((row.length, key), []).append(encoding)
        self._encodings[name] = encoding
        self._extensions[name] = encoding.extension
        self._table.clear()
        self._seen.clear()

    # What there is
    def __getitem__(self, name: str) -> Insn:
        """The instruction called `name`, or the one that the compressed form `name` stands for.

        Raises `LawError` when there is none.
        """
        if name not in self._encodings:
            raise LawError(f"{self.name} has no instruction {name}")
        return self._encodings[name].insn

    def __contains__(self, name: object) -> bool:
        return name in self._encodings

    @property
    def extensions(self) -> tuple[str, ...]:
        """Names of the extensions with something in this set."""
        return tuple(dict.fromkeys(self._extensions.values()))

    def insns(self) -> Iterable[Insn]:
        """Every instruction once, without compressed forms."""
        return [encoding.insn for encoding in self._encodings.values() if encoding.plain]

    def encodings(self) -> Iterable[Encoding]:
        """Every row that decodes to an instruction; the native decoder is made from these."""
        return list(self._encodings.values())

    def subset(self, extensions: Iterable[str], without: Iterable[str] = ()) -> InsnSet:
        """The same set with only the named extensions, and `without` some instructions and CSRs.
        A compressed form needs its own and its base's. Raises `LawError` for an extension that is
        not there."""
        wanted = set(extensions)
        if unknown := wanted - set(self.extensions):
            raise LawError(f"{self.name} has no extension {', '.join(sorted(unknown))}")
        left_out = set(without)
        names = Names(self.names.registers, self.names.synonyms)
        chosen = InsnSet(self.name, names, self.pseudo)
        for encoding in self._encodings.values():
            base = self._encodings[encoding.insn.name]
            if {encoding.extension, base.extension} <= wanted and encoding.name not in left_out:
                chosen._add(encoding)
        for number, csr in self.csrs.items():
            extension = self._extensions[f"csr {csr.name}"]
            if extension in wanted and csr.name not in left_out:
                chosen.csr(number, csr.name, extension)(csr.read)
                chosen.csrs[number] = csr
        chosen._idioms = {
            text: idiom for text, idiom in self._idioms.items() if idiom.insn.name in chosen
        }
        return chosen

    def outside(self) -> dict[str, str]:
        """Source files of the instructions that users registered, by module name: whoever
        translates in another process has to load these as well.

        Raises `LawError` for an instruction that was not defined in a file.
        """
        sources: dict[str, str] = {}
        for encoding in self._encodings.values():
            module = encoding.insn.body.__module__
            if not module.startswith("hartwood."):
                file = encoding.insn.body.__code__.co_filename
                if not os.path.isfile(file):
                    raise LawError(
                        f"{encoding.name} was not defined in a file; put it in a module, "
                        "so that the translator can load it too"
                    )
                sources[module] = os.path.abspath(file)
        return sources

    # Decoding
    def decode(self, word: int) -> Decoded | None:
        """The instruction in the low bits of a 32-bit fetch, or None when it is illegal.

        Results are shared between calls; do not change their fields.
        """
        if word & 3 != 3:
            word &= 0xFFFF
        try:
            return self._seen[word]
        except KeyError:
            return self._decode(word)

    def _decode(self, word: int) -> Decoded | None:
        if not self._table:
            self._build()
        found = None
        for mask, match, encoding in self._table.get(_key(word), ()):
            if word & mask == match:
                found = encoding.decoder(word)
                if found is not None:
                    break
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        self._seen[word] = found
        return found

    def _build(self) -> None:
        for encoding in self._encodings.values():
            row = encoding.row
            # The bits that `_key` looks at: major opcode and the three bits of funct3.
            looked = 0x707F if row.length == 4 else 0xE003
            free = looked & ~row.mask
            part = free
            while True:
                key = _key(row.match & looked | part)
                self._table.setdefault(key, []).append((row.mask, row.match, encoding))
                if not part:
                    break
                part = part - 1 & free

    # What is derived
    def properties(
        self, insn: Insn, variant: Mapping[str, int] | None = None
    ) -> effects.Properties:
        """What an instruction reads, writes and may raise. `variant` gives its variant fields
        (others in it are ignored, so decoded fields will do).

        Raises `LawError` when the definition breaks a law, `KeyError` for a missing variant.
        """
        chosen = insn.variant(variant or {})
        key = (insn, tuple(chosen.values()))
        if key not in self._properties:
            self._properties[key] = effects.derive(insn.name, insn.body, insn.fields, chosen)
        return self._properties[key]

    def fingerprint(self) -> str:
        """A hash over every definition: rows, syntax, bodies and what they call. Translations made
        under another fingerprint are not to be used."""
        rows = [
            (
                encoding.name,
                encoding.row.text,
                encoding.asm,
                encoding.insn.name,
                sorted(encoding.bind.items()),
                sorted(encoding.excluded.items()),
                sorted(encoding.insn.variants.items()),
                encoding.insn.body,
            )
            for encoding in self._encodings.values()
        ]
        csrs = [(number, csr.name, csr.read, csr.write) for number, csr in self.csrs.items()]
        return digest(self.name, rows, csrs, Csr.update)

    # Assembly
    def spelled(self, mnemonic: str) -> Encoding | None:
        """The encoding called `mnemonic`."""
        return self._encodings.get(mnemonic)

    def idiom(self, mnemonic: str) -> Decoded | None:
        """The operation that `name_idiom` gave this name."""
        return self._idioms.get(mnemonic)

    def idiom_of(self, decoded: Decoded) -> str | None:
        """The name that `name_idiom` gave this operation."""
        return next((text for text, idiom in self._idioms.items() if idiom == decoded), None)

    def assemble(self, text: str, pc: int = 0) -> bytes:
        """Machine code of some lines of assembly; see `isa.assembler.assemble`.

        Raises `AssemblyError` with the line and what is wrong with it.
        """
        return assembler.assemble(self, text, pc)

    def disassemble(self, code: bytes, pc: int = 0) -> str:
        """Assembly of machine code, one line an instruction."""
        return assembler.disassemble(self, code, pc)

    def listing(self, code: bytes, pc: int = 0) -> Iterator[tuple[int, bytes, str]]:
        """Address, bytes and assembly of each instruction in turn."""
        return assembler.listing(self, code, pc)


class Extension:
    """A named part of an `InsnSet`, with the same decorators."""

    def __init__(self, insnset: InsnSet, name: str) -> None:
        self._insnset = insnset
        self.name = name

    def insn(
        self, row: str, *, asm: str, variants: Mapping[str, tuple[int, ...]] | None = None
    ) -> Callable[[Body], Insn]:
        """As `InsnSet.insn`."""
        return self._insnset.insn(row, asm=asm, variants=variants, extension=self.name)

    def alias(
        self,
        row: str,
        base: Insn | str,
        *,
        asm: str,
        bind: Mapping[str, BindSpec] | None = None,
        where: Mapping[str, Sequence[int]] | None = None,
    ) -> Encoding:
        """As `InsnSet.alias`."""
        excluded = {name: tuple(values) for name, values in (where or {}).items()}
        return self._insnset.alias(
            row, base, asm=asm, bind=bind, where=excluded, extension=self.name
        )

    def csr(self, number: int, name: str) -> Callable[[CsrRead], Csr]:
        """As `InsnSet.csr`."""
        return self._insnset.csr(number, name, self.name)


def _key(word: int) -> int:
    """The bits by which encodings are sorted into buckets."""
    return word & 0x707F if word & 3 == 3 else word & 0xE003
