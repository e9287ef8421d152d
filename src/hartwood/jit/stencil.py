"""Stencils: each instruction's machine code once, with holes for its operands.

What a definition compiles to when registers stay in `State` and control simply goes on. The process
that runs the guest copies stencils one after another and fills the holes (`stitch`): a translation
that costs a hundredth of LLVM's and runs a multiple of the interpreter's speed.
"""

from __future__ import annotations

import io
import marshal
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from hartwood.bits.effects import Properties
from hartwood.bits.ssa import Text, Val
from hartwood.bits.ssa_float_x86 import X86Float
from hartwood.isa.insn import Insn
from hartwood.isa.insnset import InsnSet
from hartwood.jit import abi
from hartwood.jit import host_x86 as host
from hartwood.jit.access import Access, Loaded
from hartwood.jit.calling import (
    HANDLER_CC,
    HANDLER_PARAMETERS,
    field,
    handler_tail,
    is_stitched,
)
from hartwood.jit.compile import compile_image, compile_object, module_text
from hartwood.jit.interp import banks, numbering
from hartwood.jit.record import Slot, slots
from hartwood.jit.stitch import (  # fmt: skip
    BRANCH,
    INDIRECT,
    JUMP,
    PLAIN,
    SHARED,
    STOP,
    Stencil,
)
from hartwood.jit.stitcher import stitcher_text
from hartwood.jit.words import StateHart

if TYPE_CHECKING:
    from hartwood.jit.image import Image

_PREFIX = "hole_"
_HOLE = re.compile(rf"@({_PREFIX}\w+)")


def hole(name: object, *parts: object) -> str:
    """The symbol that stands for a value, or a place, which only the stitcher knows."""
    return "_".join([f"{_PREFIX}{name}", *map(str, parts)])


def hole_value(name: object, *parts: object) -> str:
    """Its value, of 32 bits, as an i64."""
    return f"ptrtoint (ptr @{hole(name, *parts)} to i64)"


class _Access(Access):
    """One guest access: leaves for the interpreter where the address is outside; a host fault at
    it is for the stitcher to place."""

    #: Lines between the access and where its result can be used.
    after = 0

    def __init__(self, text: Text, address: Val) -> None:
        limit = text.value(field("limit"))
        text.emit(host.leave_unless_below(address.name, limit, hole("leave")))
        super().__init__(text.value(f"inttoptr i64 {address.name} to ptr"), "", "")

    def store(self, value: Val) -> str:
        """A statement that stores `value`."""
        if value.is_float and value.width == 64:
            return host.store_double(self._where, value.float_name, "", "", avx=True)
        return host.store(value.width // 8, self._where, value.name, "", "")


class StencilHart(StateHart):
    """`words.Hart` for one stencil."""

    #: What is passed on as the pc inside a unit: nothing, its instructions know theirs.
    kept_pc = "poison"

    def __init__(self, text: Text, insns: InsnSet) -> None:
        super().__init__(text, insns)
        self._float = X86Float(text, self._scratch, lambda: self.state_load("frm").name)
        self._places: dict[str, tuple[object, ...]] = {}
        self._properties = Properties()
        self.ended = False

    def begin(self, properties: Properties) -> None:
        """The body of an instruction with these properties comes."""
        self._properties = properties

    def operand(self, slot: Slot) -> Val:
        """An operand field: a hole for its value."""
        if slot.byte is not None:
            place: tuple[object, ...] = ("byte", slot.byte)
        else:
            place = ("field", slot.lo, slot.width, int(slot.signed))
        name = hole_value(*place)
        self._places[name] = place
        return Val(self.text, 64, name)

    def register(self, file: str, index: Val | int) -> str:
        number = index if isinstance(index, int) else index.const
        if number is not None:
            return self.text.value(field(file, number))
        assert isinstance(index, Val)
        place = hole_value(file, *self._places[index.name])
        return self.text.value(f"getelementptr i8, ptr %s, i64 {place}")

    @staticmethod
    def place(text: Text, name: str) -> str:
        """The address "pc" or "following"."""
        return text.value(host.wide_hole(hole(name)))

    @property
    def pc(self) -> Val:
        """Address of this instruction."""
        return Val(self.text, 64, self.place(self.text, "pc"))

    @property
    def next_pc(self) -> Val:
        """Address of the instruction that follows in memory."""
        return Val(self.text, 64, self.place(self.text, "following"))

    # Memory: what can fault, or is atomic.
    def load(self, address: Val, size: int) -> Val:
        return Loaded(self.text, size, _Access(self.text, address))

    def store(self, address: Val, value: Val) -> None:
        self.text.emit(_Access(self.text, address).store(value))

    # Control.
    def finish(self) -> None:
        """Go on with what is stitched behind, unless the body went elsewhere."""
        if not self.ended:
            self._go(f"@{hole('next')}", self.kept_pc, "%budget")

    def _go(self, callee: str, pc: str, budget: str) -> None:
        for line in handler_tail(callee, pc, "poison", budget):
            self.text.emit(line)
        self.ended = True

    def jump(self, target: Val | int) -> None:
        if self._properties.indirect:
            assert isinstance(target, Val)
            self._leap(target.name, charged(self.text))
        else:
            self._go(f"@{hole('taken')}", self.kept_pc, charged(self.text))

    def _leap(self, target: str, budget: str) -> None:
        """To an address that is known only now: straight into its unit if it has one, else by way
        of the interpreter, which counts where control goes."""
        text = self.text
        slow, near, fast = (text.fresh_label(hint) for hint in ("slow", "near", "fast"))
        limit = text.value(f"load i64, ptr {text.value(field('limit'))}")
        outside = text.value(f"icmp uge i64 {target}, {limit}")
        spent = text.value(f"icmp sle i64 {budget}, 0")
        odd = text.value(f"or i1 {outside}, {spent}")
        text.emit(f"br i1 {odd}, label %{slow}, label %{near}, !prof !1")
        text.label(near)
        record = text.value(f"add i64 {text.value(f'shl i64 {target}, 3')}, {abi.SHADOW}")
        record = text.value(f"inttoptr i64 {record} to ptr")
        handler = text.value(host.load_handler(record, target, budget))
        stitched = is_stitched(text, handler, host.wide_hole(hole("area")))
        text.emit(f"br i1 {stitched}, label %{fast}, label %{slow}, !prof !0")
        text.label(fast)
        for line in handler_tail(handler, target, record, budget):
            text.emit(line)
        text.label(slow)
        self._go(text.value(host.wide_hole(hole("at_exit"), "ptr")), target, budget)

    def branch(self, condition: Val, target: Val | int) -> None:
        text = self.text
        left = charged(text)
        taken, straight = text.fresh_label("taken"), text.fresh_label("straight")
        text.emit(f"br i1 {condition.name}, label %{taken}, label %{straight}")
        text.label(taken)
        self._go(f"@{hole('taken')}", self.kept_pc, left)
        text.label(straight)
        self._go(f"@{hole('next')}", self.kept_pc, left)

    # Leaving before anything is written: the interpreter runs the instruction.
    def trap(self, cause: int, tval: Val | int = 0) -> None:
        self.only_reference()

    def trap_if(self, condition: Val, cause: int, tval: Val | int = 0) -> None:
        if condition.const != 0:
            self.only_reference_if(condition.name)

    def only_reference(self) -> None:
        self._go(f"@{hole('leave')}", self.kept_pc, "%budget")
        self.text.label(self.text.fresh_label("dead"))

    def only_reference_if(self, condition: str) -> None:
        wide = self.text.value(f"zext i1 {condition} to i32")
        self.text.emit(host.leave_if(wide, hole("leave")))


def charged(text: Text) -> str:
    """The budget less the instructions of this unit that ran since it was charged last."""
    return text.value(host.charge("%budget", text.value(field("translated")), hole("count")))


def _function(name: str, text: Text) -> str:
    head = f"define {HANDLER_CC} void @{name}({HANDLER_PARAMETERS}) #1"
    return f"{head} {{\nentry:\n{text.body()}\n}}"


def _stencil(
    insns: InsnSet, insn: Insn, variant: tuple[int, ...], name: str, flavour: Flavour
) -> str:
    text = Text()
    hart = flavour.hart(text, insns)
    operands: dict[str, Val | int] = dict(zip(insn.variants, variant, strict=True))
    hart.begin(insns.properties(insn, {k: v for k, v in operands.items() if isinstance(v, int)}))
    for operand, slot in slots(insns, insn).items():
        operands[operand] = hart.operand(slot)
    insn.body(hart, **operands)
    hart.finish()
    return _function(name, text)


def _kind(insns: InsnSet, insn: Insn, case: dict[str, int], flavour: Flavour) -> int:
    """How the stitcher treats an instruction: see `stitch.PLAIN` and the others."""
    p = insns.properties(insn, case)
    if flavour.stops(p):
        return STOP
    if p.control == "none":
        return PLAIN
    if p.control == "jump" and p.indirect:
        return INDIRECT
    # The stitcher finds the distance in the immediate word of the record, which holds it alone.
    distance = [slot for slot in slots(insns, insn).values() if slot.byte is None]
    known = len(distance) == 1 and len(p.target - {"pc"}) == 1 and distance[0].width == 32
    return STOP if not known else BRANCH if p.control == "branch" else JUMP


#: Where a piece goes, and the pc, record and budget there.
Way = tuple[str, str, str, str]


def charge(text: Text) -> Way:
    """What ran so far is taken off the budget."""
    return f"@{hole('next')}", "%pc", "poison", charged(text)


def jump(text: Text) -> Way:
    """To another place of the unit."""
    return f"@{hole('taken')}", "%pc", "poison", "%budget"


def away(handler: str) -> Callable[[Text], Way]:
    """On to one of the interpreter's handlers."""
    return lambda text: (
        text.value(host.wide_hole(hole(handler), "ptr")), "%pc", "%rec", "%budget"
    )  # fmt: skip


def _leave(text: Text) -> Way:
    """The instruction at hand has to be interpreted."""
    pc = StencilHart.place(text, "pc")
    return f"@{hole('once')}", pc, "poison", charged(text)


def _exit(text: Text) -> Way:
    """On to the record of another address: to its handler, or another unit."""
    pc = StencilHart.place(text, "pc")
    text.emit(host.leave_if_spent("%budget", pc, hole("spent")))
    record = text.value(host.wide_hole(hole("record"), "ptr"))
    return text.value(host.load_handler(record, pc, "%budget")), pc, record, "%budget"


def _counted(text: Text) -> Way:
    """The same by way of the interpreter, which counts where control goes."""
    pc = StencilHart.place(text, "pc")
    return text.value(host.wide_hole(hole("at_exit"), "ptr")), pc, "poison", "%budget"


def _loop(text: Text) -> Way:
    """Back to the beginning of the unit."""
    pc = StencilHart.place(text, "pc")
    text.emit(host.leave_if_spent("%budget", pc, hole("spent")))
    return f"@{hole('taken')}", "%pc", "poison", "%budget"


def _stops(p: Properties) -> bool:
    return bool(p.fence_i or p.csr or p.counters or p.atomics or p.control == "trap")


@dataclass(frozen=True)
class Flavour:
    """What stencils for one kind of guest are made of."""

    #: The words that bodies are run with.
    hart: type[StencilHart]
    #: Whether an instruction is left to the interpreter.
    stops: Callable[[Properties], bool]
    #: The pieces that are no instruction's: they arrange control. All of `stitch.JOINTS`.
    joints: dict[str, Callable[[Text], Way]]
    #: The shared one that leads to an address.
    leap: Callable[[Text], Way]


USER = Flavour(
    StencilHart,
    _stops,
    {"charge": charge, "leave": _leave, "exit": _exit, "counted": _counted, "jump": jump,
     "loop": _loop, "far": _counted},
    away("at_exit"),
)  # fmt: skip


def _joints(flavour: Flavour) -> Iterator[str]:
    shared = {name: away(f"at_{name.removeprefix('to_')}") for name in SHARED}
    for name, build in (flavour.joints | shared | {"to_leap": flavour.leap}).items():
        text = Text()
        for line in handler_tail(*build(text)):
            text.emit(line)
        yield _function(name, text)


def _link(insns: InsnSet, insn: Insn, kind: int) -> int:
    """Which register byte of the record a jump writes its return address to; 0 for none."""
    if kind not in (JUMP, INDIRECT):
        return 0
    written = insns.properties(insn, next(insn.cases())).x_writes
    places = [slot.byte for name, slot in slots(insns, insn).items() if name in written]
    return places[0] or 0 if places else 0


def stencil_text(
    insns: InsnSet, flavour: Flavour = USER
) -> tuple[list[str], dict[int, tuple[str, int, int]]]:
    """The text of all stencils; and by handler number, where there is one, the stencil's name, its
    kind, and the byte of the record that names a jump's link register."""
    functions = list(_joints(flavour))
    found: dict[int, tuple[str, int, int]] = {}
    where = banks(insns)
    for (name, variant), number in numbering(insns).items():
        insn = insns[name]
        kind = _kind(insns, insn, dict(zip(insn.variants, variant, strict=True)), flavour)
        if kind != STOP and where[name, variant] != "rounded":
            functions.append(_stencil(insns, insn, variant, f"i_{number}", flavour))
            found[number] = f"i_{number}", kind, _link(insns, insn, kind)
    body = "\n".join(functions)
    for name in sorted(set(_HOLE.findall(body))):
        # A symbol may be any 32-bit value: without the range LLVM would take it for a low address.
        functions.append(
            f"declare {HANDLER_CC} void @{name}(ptr, i64, ptr, i64)"
            if f"void @{name}(" in body
            else f"@{name} = external dso_local global i8, !absolute_symbol !4"
        )
    return functions, found


def stencil_image(
    insns: InsnSet, flavour: Flavour = USER, stitcher: Iterable[str] | None = None
) -> Image:
    """The stitcher, and the stencils as a table, marshalled, in the image's meta."""
    functions, numbers = stencil_text(insns, flavour)
    stencils, pool = cut(compile_object(module_text(functions), 1, "static"))
    # One landing for a fault is all that the stitcher knows of.
    numbers = {n: what for n, what in numbers.items() if len(stencils[what[0]][2]) <= 1}
    meta = marshal.dumps((stencils, numbers, len(numbering(insns)) + 1, pool))
    return compile_image(stitcher or stitcher_text(), 1, meta)


# From the object to the table of stencils.
_ABSOLUTE_64, _NEAR, _NEAR_CALL, _SIGNED_32 = 1, 2, 4, 11  # psABI table 4.9


def cut(obj: bytes) -> tuple[dict[str, Stencil], bytes]:
    """The stencils of an object by name, and the constants they refer to as the place "pool".

    What ends by going on to what comes next ends there.
    """
    elf = ELFFile(io.BytesIO(obj))
    symbols, text_index = elf.get_section_by_name(".symtab"), elf.get_section_index(".text")
    assert isinstance(symbols, SymbolTableSection)
    assert text_index is not None
    text = elf.get_section(text_index).data()
    pool: dict[bytes, int] = {}
    holes: list[tuple[int, int, str, int]] = []
    faults: list[int] = []
    for section in elf.iter_sections():
        if not isinstance(section, RelocationSection):
            continue
        for entry in section.iter_relocations():
            symbol = symbols.get_symbol(entry["r_info_sym"])
            home, addend = symbol["st_shndx"], entry["r_addend"]
            if section.name == ".rela.hwstencil":
                faults.append(symbol["st_value"] + addend)
            elif section.name == ".rela.text":
                kind = entry["r_info_type"]
                size = {_ABSOLUTE_64: 8, _SIGNED_32: 4, _NEAR: -4, _NEAR_CALL: -4}[kind]
                name = symbol.name.removeprefix(_PREFIX)
                if isinstance(home, int) and home != text_index:
                    name, addend = "pool", addend + _constant(elf, home, symbol["st_value"], pool)
                holes.append((entry["r_offset"], size, name, addend))
    found = {}
    for symbol in symbols.iter_symbols():
        if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_size"]:
            start, size = symbol["st_value"], symbol["st_size"]
            inside = [
                (at - start, *rest) for at, *rest in sorted(holes) if start <= at < start + size
            ]
            at = [fault - start for fault in sorted(faults) if start <= fault < start + size]
            code = text[start : start + size]
            found[symbol.name] = (*host.falling_through(code, inside), at)
    return found, b"".join(constant.ljust(16, b"\0") for constant in pool)


def _constant(elf: ELFFile, home: int, at: int, pool: dict[bytes, int]) -> int:
    """The place in the pool of a constant in a section of constants of one size."""
    section = elf.get_section(home)
    value = section.data()[at : at + section["sh_entsize"]]
    return pool.setdefault(value, 16 * len(pool))
