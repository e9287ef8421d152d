"""The images of system mode: banks of handlers, "system-base" and so on, and that of its stencils.

Banks other than the base reach what they share through pointers in the state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hartwood.bits.ssa import Text
from hartwood.isa.riscv import csr_machine, csr_supervisor, pmp
from hartwood.isa.riscv.system import SYSTEM
from hartwood.jit.compile import compile_image
from hartwood.jit.decoder import decoder_text
from hartwood.jit.interp import BANKS, banks, numbering
from hartwood.jit.softmmu import tail
from hartwood.jit.stitch import BANK as STENCILS
from hartwood.jit.sysabi import link
from hartwood.jit.sysframe import frame
from hartwood.jit.sysstencil import stencils
from hartwood.jit.system import function, handler_text

if TYPE_CHECKING:
    from hartwood.jit.image import Image

#: Modules that register what `SYSTEM` holds.
DEFINITIONS = (csr_machine, csr_supervisor, pmp)
PREFIX = "system-"

#: What banks share of `sysabi.LINKS`: results and parameters of functions, or nothing for handlers.
LINKS: dict[str, tuple[str, str] | None] = {
    "exception": None,
    "over": None,
    "fetch_miss": None,
    "leave": None,
    "reference": None,
    "wait": None,
    "hot": None,
    "load_slow": ("{i64, i1}", "ptr %s, i64 %va, i64 %size, i64 %budget"),
    "store_slow": ("i1", "ptr %s, i64 %va, i64 %size, i64 %budget, i64 %value, ptr %rec"),
    "atomic_slow": ("ptr", "ptr %s, i64 %va, i64 %size, ptr %rec"),
    "zero_slow": ("i1", "ptr %s, i64 %va, ptr %rec"),
    "settle": ("void", "ptr %s"),
    "flush": ("void", "ptr %s, i64 %va, i1 %every"),
}


def _bank_text(bank: str) -> Iterator[str]:
    where = banks(SYSTEM)
    for (name, variant), number in numbering(SYSTEM).items():
        if where[name, variant] == bank:
            yield handler_text(SYSTEM[name], variant, f"h_{number}")


def _links() -> Iterator[str]:
    """In a bank other than the base: go where the state says."""
    for name, signature in LINKS.items():
        text = Text()
        callee = text.value(f"load ptr, ptr {text.value(link(name))}")
        if signature is None:
            tail(text, callee, "%pc", "%rec", "%budget")
            yield function(name, text).replace("define ", "define internal ", 1)
            continue
        result, parameters = signature
        call = f"call {result} {callee}({parameters})"
        if result == "void":
            text.emit(call)
            text.emit("ret void")
        else:
            text.emit(f"ret {result} {text.value(call)}")
        head = f"define internal {result} @{name}({parameters}) #0"
        yield f"{head} {{\nentry:\n{text.body()}\n}}"


def system_image(name: str) -> Image:
    """The image of a bank of system mode; see `worker.bank_image` for its meta."""
    bank = name.removeprefix(PREFIX)
    if bank == STENCILS:
        return stencils()
    texts = list(_bank_text(bank))
    meta = b""
    if bank == "base":
        numbers, where = numbering(SYSTEM), banks(SYSTEM)
        meta = bytes([0, *(BANKS.index(where[key]) for key in numbers)])
        texts += [decoder_text(SYSTEM, numbers), *frame()]
    else:
        texts += _links()
    return compile_image(texts, 1, meta)
