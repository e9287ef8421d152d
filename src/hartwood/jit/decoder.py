"""The native decoder: LLVM text that turns an instruction word into a record.

Generated from the same encoding rows as everything else: a switch on the bits that all candidates
fix, then tests in order; candidates that extract the same operands share that code.
"""

from __future__ import annotations

from collections.abc import Sequence

from hartwood.bits.ssa import Text
from hartwood.isa.insn import Encoding
from hartwood.isa.insnset import InsnSet
from hartwood.isa.rows import FieldSpec
from hartwood.jit.record import IMMEDIATE, LENGTH, Slot, slots

#: Handler number of an instruction word that is no instruction.
ILLEGAL_INDEX = 0

#: What a record's operand is made of: a constant, or a field of the word plus an addend.
_Source = int | tuple[FieldSpec, int]
_Layout = tuple[tuple[Slot, "_Source"], ...]


class _Decoder:
    def __init__(self, insns: InsnSet, numbers: dict[tuple[str, tuple[int, ...]], int]) -> None:
        self.text = Text()
        self.insns = insns
        self.numbers = numbers
        self._slots: dict[str, dict[str, Slot]] = {}
        #: layout -> (label, [(number, from block)])
        self._formats: dict[tuple[int, str], tuple[str, _Layout, list[tuple[int, str]]]] = {}

    def build(self) -> str:
        """Text of `i32 @decode_word(word, record)`, which gives the handler's number."""
        text = self.text
        cases = [
            (encoding, number, bound)
            for encoding in self.insns.encodings()
            for number, bound in self._variants(encoding)
        ]
        long = [case for case in cases if case[0].length == 4]
        short = [case for case in cases if case[0].length == 2]
        low = text.value("and i32 %word, 3")
        is_long = text.value(f"icmp eq i32 {low}, 3")
        text.emit(f"br i1 {is_long}, label %long, label %short")
        text.label("long")
        self._choose(long, 0)
        text.label("short")
        self._choose(short, 0)
        text.label("illegal")
        text.emit(f"ret i32 {ILLEGAL_INDEX}")
        for (length, _), (label, layout, uses) in list(self._formats.items()):
            self._format(label, length, layout, uses)
        body = text.body()
        return f"define i32 @decode_word(i32 %word, ptr %rec) #0 {{\nentry:\n{body}\n}}"

    def _variants(self, encoding: Encoding) -> list[tuple[int, dict[str, int]]]:
        """The handler of each variant of an encoding, with the variant fields' values."""
        combinations: list[dict[str, int]] = [{}]
        for name, values in encoding.insn.variants.items():
            combinations = [{**c, name: v} for c in combinations for v in values]
        names = tuple(encoding.insn.variants)
        result = []
        for bound in combinations:
            fixed = all(
                not isinstance(encoding.bind[name], int) or encoding.bind[name] == value
                for name, value in bound.items()
            )
            if fixed:
                key = (encoding.insn.name, tuple(bound[name] for name in names))
                result.append((self.numbers[key], bound))
        return result

    def _choose(self, cases: Sequence[tuple[Encoding, int, dict[str, int]]], known: int) -> None:
        """Emit the choice among `cases`; the bits of `known` are already decided."""
        text = self.text
        common = 0xFFFF_FFFF
        for encoding, _, _ in cases:
            common &= encoding.row.mask
        common &= ~known
        if len(cases) > 2 and common:
            groups: dict[int, list[tuple[Encoding, int, dict[str, int]]]] = {}
            for case in cases:
                groups.setdefault(case[0].row.match & common, []).append(case)
            if len(groups) > 1:
                bits = text.value(f"and i32 %word, {common}")
                labels = {value: text.fresh_label("case") for value in groups}
                arms = " ".join(f"i32 {v}, label %{label}" for v, label in labels.items())
                text.emit(f"switch i32 {bits}, label %illegal [{arms}]")
                for value, group in groups.items():
                    text.label(labels[value])
                    self._choose(group, known | common)
                return
        # More fixed bits first: an encoding inside another's space is the more specific one.
        for encoding, number, bound in sorted(cases, key=lambda c: -c[0].row.mask.bit_count()):
            self._test(encoding, number, bound, known)
        text.emit("br label %illegal")

    def _test(self, encoding: Encoding, number: int, bound: dict[str, int], known: int) -> None:
        """Emit: if the word is this encoding, go to the block that fills in its operands."""
        text = self.text
        found, miss = text.fresh_label("is"), text.fresh_label("not")
        conditions = []
        mask, match = encoding.row.mask, encoding.row.match
        for name, value in bound.items():
            spec = encoding.row.fields.get(name)
            if spec is not None:
                mask |= spec.bits
                match |= spec.insert(value)
        if mask & ~known:
            bits = text.value(f"and i32 %word, {mask}")
            conditions.append(text.value(f"icmp eq i32 {bits}, {match}"))
        for name, values in encoding.excluded.items():
            field = self._extract(encoding.row.fields[name])
            for excluded in values:
                conditions.append(text.value(f"icmp ne i32 {field}, {excluded}"))
        condition = conditions[0] if conditions else "true"
        for other in conditions[1:]:
            condition = text.value(f"and i1 {condition}, {other}")
        text.emit(f"br i1 {condition}, label %{found}, label %{miss}")
        text.label(found)
        text.emit(f"br label %{self._format_of(encoding, number)}")
        text.label(miss)

    def _extract(self, spec: FieldSpec) -> str:
        """The field's value as an i32 operand."""
        text = self.text
        total = "0"
        for part in spec.slices:
            bits = text.value(f"lshr i32 %word, {part.at}")
            bits = text.value(f"and i32 {bits}, {(1 << part.width) - 1}")
            bits = text.value(f"shl i32 {bits}, {part.to}")
            total = text.value(f"or i32 {total}, {bits}")
        if spec.signed and spec.width < 32:
            by = 32 - spec.width
            total = text.value(f"shl i32 {total}, {by}")
            total = text.value(f"ashr i32 {total}, {by}")
        return total

    def _layout(self, encoding: Encoding) -> _Layout:
        insn = encoding.insn
        if insn.name not in self._slots:
            self._slots[insn.name] = slots(self.insns, insn)
        layout: list[tuple[Slot, _Source]] = []
        for name, slot in self._slots[insn.name].items():
            source = encoding.bind[name]
            if isinstance(source, int):
                layout.append((slot, source))
            else:
                field, addend = source
                layout.append((slot, (encoding.row.fields[field], addend)))
        return tuple(layout)

    def _format_of(self, encoding: Encoding, number: int) -> str:
        layout = self._layout(encoding)
        key = (encoding.length, repr(layout))
        if key not in self._formats:
            self._formats[key] = (self.text.fresh_label("format"), layout, [])
        label, _, uses = self._formats[key]
        uses.append((number, self.text.block))
        return label

    def _format(
        self, label: str, length: int, layout: _Layout, uses: list[tuple[int, str]]
    ) -> None:
        """Emit the block that writes the operands of one layout."""
        text = self.text
        text.label(label)
        arms = ", ".join(f"[{number}, %{block}]" for number, block in uses)
        number = text.value(f"phi i32 {arms}")
        word = "0"
        for slot, source in layout:
            value: str
            if isinstance(source, int):
                value = str(source)
            else:
                value = self._extract(source[0])
                if source[1]:
                    value = text.value(f"add i32 {value}, {source[1]}")
            if slot.sink:
                none = text.value(f"icmp eq i32 {value}, 0")
                value = text.value(f"select i1 {none}, i32 32, i32 {value}")
            if slot.byte is not None:
                self._store("i8", text.value(f"trunc i32 {value} to i8"), slot.byte)
            elif slot.width == 32:
                word = value
            else:
                bits = text.value(f"and i32 {value}, {(1 << slot.width) - 1}")
                bits = text.value(f"shl i32 {bits}, {slot.lo}")
                word = text.value(f"or i32 {word}, {bits}")
        self._store("i32", word, IMMEDIATE)
        self._store("i8", str(length), LENGTH)
        text.emit(f"ret i32 {number}")

    def _store(self, kind: str, value: str, at: int) -> None:
        where = self.text.value(f"getelementptr i8, ptr %rec, i64 {at}")
        self.text.emit(f"store {kind} {value}, ptr {where}")


def decoder_text(insns: InsnSet, numbers: dict[tuple[str, tuple[int, ...]], int]) -> str:
    """LLVM text of `@decode_word`. `numbers` maps (instruction, variant values) to handlers."""
    return _Decoder(insns, numbers).build()
