"""Assembler and disassembler over an instruction set's templates: several lines, labels, data
directives, pseudo-instructions. Everything an instruction looks like comes from its definition."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hartwood.errors import AssemblyError, EncodingError, Error
from hartwood.isa.insn import Decoded, Encoding
from hartwood.isa.syntax import Names, Place, Template, split_mnemonic

#: A pseudo-instruction turns its operands into lines of plain assembly.
Pseudo = Callable[[Sequence[str]], Sequence[str]]

_LABEL = re.compile(r"\s*([A-Za-z_.$][\w.$]*)\s*:")
_DATA = {".byte": 1, ".half": 2, ".2byte": 2, ".word": 4, ".4byte": 4, ".dword": 8, ".8byte": 8}


class Syntax(Protocol):
    """The part of an instruction set that concerns its assembly."""

    names: Names

    @property
    def pseudo(self) -> Mapping[str, Pseudo]:
        """Pseudo-instructions by mnemonic."""
        ...

    def spelled(self, mnemonic: str) -> Encoding | None:
        """The encoding with that name."""
        ...

    def idiom(self, mnemonic: str) -> Decoded | None:
        """An operation that has a name of its own without having an encoding of its own."""
        ...

    def idiom_of(self, decoded: Decoded) -> str | None:
        """The name of the idiom that a decoded instruction is."""
        ...

    def decode(self, word: int) -> Decoded | None:
        """Decode one instruction."""
        ...


@dataclass
class _Line:
    """One instruction or datum, with the source line it came from."""

    text: str
    source: str
    at: int
    size: int


def assemble(syntax: Syntax, text: str, pc: int = 0) -> bytes:
    """Machine code of some lines of assembly that start at address `pc`.

    Lines end at newlines or `;`, comments start with `#`, `label:` names the next address, a
    branch target is a label or an absolute address, or relative when it is a sum with `pc`.
    Raises `AssemblyError` with the line and what is wrong with it.
    """
    labels: dict[str, int] = {}
    lines: list[_Line] = []
    at = pc
    for source in re.split(r"[\n;]", text):
        rest = source.split("#", 1)[0]
        while label := _LABEL.match(rest):
            if label[1] in labels:
                raise AssemblyError(f"label {label[1]} is there twice")
            labels[label[1]] = at
            rest = rest[label.end() :]
        for plain in _expand(syntax, rest.strip(), source):
            lines.append(_Line(plain, source.strip(), at, _size(syntax, plain)))
            at += lines[-1].size
    return b"".join(
        _reworded(_assemble, syntax, line, Place(line.at, syntax.names, labels)) for line in lines
    )


def _reworded(
    action: Callable[[Syntax, _Line, Place], bytes], syntax: Syntax, line: _Line, place: Place
) -> bytes:
    try:
        return action(syntax, line, place)
    except (AssemblyError, EncodingError) as error:
        raise AssemblyError(f"'{line.source}': {error}") from error


def _expand(syntax: Syntax, text: str, source: str) -> Iterator[str]:
    """The plain lines that a line stands for."""
    if not text:
        return
    mnemonic, operands = _split(text)
    pseudo = syntax.pseudo.get(mnemonic)
    parts = [part.strip() for part in operands.split(",")] if operands else []
    if pseudo is not None:
        lines = pseudo(parts)
        if lines:
            for line in lines:
                yield from _expand(syntax, line, source)
            return
    if syntax.spelled(split_mnemonic(mnemonic)[0]) is None and syntax.spelled(mnemonic) is None:
        if pseudo is not None:
            raise AssemblyError(f"'{source.strip()}': wrong operands for {mnemonic}")
        if mnemonic not in _DATA and syntax.idiom(text) is None:
            raise AssemblyError(f"'{source.strip()}': there is no instruction {mnemonic}")
    yield text


def _split(text: str) -> tuple[str, str]:
    mnemonic, _, operands = text.replace("\t", " ").partition(" ")
    return mnemonic.lower(), operands.strip()


def _find(syntax: Syntax, mnemonic: str) -> tuple[Encoding, str] | None:
    """The encoding that a mnemonic names, and its ordering suffix."""
    exact = syntax.spelled(mnemonic)
    if exact is not None:
        return exact, ""
    short, suffix = split_mnemonic(mnemonic)
    found = syntax.spelled(short)
    if found is not None and "{aqrl}" in found.asm:
        return found, suffix
    return None


def _size(syntax: Syntax, text: str) -> int:
    mnemonic, operands = _split(text)
    if mnemonic in _DATA:
        return _DATA[mnemonic] * len(operands.split(","))
    idiom = syntax.idiom(text)
    if idiom is not None:
        return idiom.insn.row.length
    found = _find(syntax, mnemonic)
    return found[0].length if found else 4


def _assemble(syntax: Syntax, line: _Line, place: Place) -> bytes:
    mnemonic, operands = _split(line.text)
    if mnemonic in _DATA:
        size = _DATA[mnemonic]
        values = [place.number(part) & (1 << 8 * size) - 1 for part in operands.split(",")]
        return b"".join(value.to_bytes(size, "little") for value in values)
    idiom = syntax.idiom(line.text)
    if idiom is not None:
        return idiom.insn.row.encode(**idiom.fields).to_bytes(idiom.insn.row.length, "little")
    found = _find(syntax, mnemonic)
    if found is None:
        raise AssemblyError(f"there is no instruction {mnemonic}")
    encoding, suffix = found
    template = Template(encoding.asm)
    fields = dict.fromkeys(encoding.row.fields, 0) | template.read(suffix, operands, place)
    word = encoding.row.encode(**fields)
    if encoding.decoder(word) is None:
        limits = ", ".join(f"{name} not {values}" for name, values in encoding.excluded.items())
        raise AssemblyError(f"{encoding.name} is reserved for these operands ({limits})")
    return word.to_bytes(encoding.length, "little")


def disassemble(syntax: Syntax, code: bytes, pc: int = 0) -> str:
    """Assembly of machine code that stands at address `pc`, one line an instruction, such that
    assembling it gives the same bytes; what is no instruction becomes `.2byte` or `.4byte`."""
    return "\n".join(text for _, _, text in listing(syntax, code, pc))


def listing(syntax: Syntax, code: bytes, pc: int = 0) -> Iterator[tuple[int, bytes, str]]:
    """Address, bytes and assembly of each instruction in turn."""
    at = 0
    while at < len(code):
        word = int.from_bytes(code[at : at + 4], "little")
        length = min(4 if word & 3 == 3 else 2, len(code) - at)
        raw = code[at : at + length]
        yield pc + at, raw, _show(syntax, word, raw, pc + at)
        at += length


def _show(syntax: Syntax, word: int, raw: bytes, pc: int) -> str:
    value = int.from_bytes(raw, "little")
    data = ", ".join(map(hex, raw))
    plain = f".{len(raw)}byte {value:#x}" if len(raw) in (2, 4) else f".byte {data}"
    decoded = syntax.decode(word) if len(raw) in (2, 4) else None
    if decoded is None or decoded.length != len(raw):
        return plain
    idiom = syntax.idiom_of(decoded)
    if idiom is not None:
        return idiom
    encoding = syntax.spelled(decoded.spelling)
    fields = encoding.row.decode(value) if encoding is not None else None
    if encoding is None or fields is None:
        raise Error(f"{decoded.spelling} decodes {value:#x} but has no row for it")
    template = Template(encoding.asm)
    # Fields that the syntax has no place for (FENCE's reserved ones) are printed only when zero,
    # because assembling the text has to give the same bytes.
    if any(number and name not in template.fields for name, number in fields.items()):
        return plain
    return template.show(fields, Place(pc, syntax.names))
