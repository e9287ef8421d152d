"""The two calling conventions of generated code, as LLVM text.

A *handler* of the native interpreter is `preserve_nonecc void (state, pc, record, budget)` and
always ends in a tail call or a plain return to `@run`. A *region* of translated code takes and
returns the same words in the same host registers: pc, budget and the pinned guest registers.
A returned pc with bit 0 set is an exit: every frame passes it on until the dispatcher has it.
"""

from __future__ import annotations

from hartwood.bits.ssa import Text
from hartwood.jit.abi import PINNED, offset
from hartwood.jit.stitch import AREA

HANDLER_CC = "preserve_nonecc"
HANDLER_PARAMETERS = "ptr noalias %s, i64 %pc, ptr %rec, i64 %budget"

#: Returns more words in registers than any other convention that allows `musttail`.
REGION_CC = "x86_regcallcc"
REGION_WORDS = 2 + len(PINNED)
#: The state's address comes back too, so that each word returns in the register it came in.
REGION_RESULT = "{" + ", ".join(["ptr"] + ["i64"] * REGION_WORDS) + "}"
REGION_PARAMETERS = "ptr noalias %s, i64 %pc, i64 %budget, " + ", ".join(
    f"i64 %p{i}" for i in range(len(PINNED))
)


def handler_tail(callee: str, pc: str, record: str, budget: str) -> list[str]:
    """Lines that continue in another handler."""
    args = f"ptr %s, i64 {pc}, ptr {record}, i64 {budget}"
    return [f"musttail call {HANDLER_CC} void {callee}({args})", "ret void"]


def is_stitched(text: Text, handler: str, area: str) -> str:
    """Whether a handler is code in the area of stitched code, as an i1; `area` is the right-hand
    side that gives where that is."""
    distance = text.value(f"ptrtoint ptr {handler} to i64")
    distance = text.value(f"sub i64 {distance}, {text.value(area)}")
    return text.value(f"icmp ult i64 {distance}, {AREA}")


def region_arguments(pc: str, budget: str, pinned: list[str]) -> str:
    """The argument list of a call to a region."""
    words = [f"i64 {word}" for word in (pc, budget, *pinned)]
    return ", ".join(["ptr %s", *words])


def field(name: str, index: int = 0) -> str:
    """A pointer constant expression is not possible, so: the `getelementptr` of a state field."""
    return f"getelementptr i8, ptr %s, i64 {offset(name, index)}"


def region_words(text: Text, result: str) -> list[str]:
    """The words that a region returned: pc, budget, pinned registers."""
    return [
        text.value(f"extractvalue {REGION_RESULT} {result}, {1 + index}")
        for index in range(REGION_WORDS)
    ]


def region_return(text: Text, words: list[str]) -> None:
    """Return from a region."""
    value = text.value(f"insertvalue {REGION_RESULT} poison, ptr %s, 0")
    for index, word in enumerate(words, start=1):
        value = text.value(f"insertvalue {REGION_RESULT} {value}, i64 {word}, {index}")
    text.emit(f"ret {REGION_RESULT} {value}")
