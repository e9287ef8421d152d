"""The one struct that generated code and Python share, and the rules of crossing between them.

`State` is one hart. Offsets come from the table below and from nowhere else: generated text asks
`offset("pc")`, Python asks `State.pc`.
"""

from __future__ import annotations

import ctypes

from hartwood.errors import Error

#: Guest addresses are 38 bits in user mode, as on Linux with Sv39 (TASK_SIZE).
ADDRESS_BITS = 38
LIMIT = 1 << ADDRESS_BITS

#: Where the two shadows of guest code live. A guest instruction at `pc` has a 16-byte record at
#: SHADOW + pc*8 (instructions are 2-byte aligned) and an 8-byte pointer to translated code at
#: ENTRIES + pc*4. Both are reserved for the whole address space and backed page by page, so that
#: a fetch from a page that may not be executed is a hardware fault and costs nothing to check.
SHADOW = 0x3000_0000_0000
ENTRIES = 0x3800_0000_0000
RECORD = 16
SHADOW_PER_PAGE = 4096 * 8
ENTRIES_PER_PAGE = 4096 * 4

#: Guest registers that travel in host registers between regions: the stack and return registers
#: and the arguments, which every call touches.
PINNED = (1, 2, 8, 10, 11, 12, 13, 14)

#: Index of the register-file slot that swallows writes to x0.
SINK = 32

#: Bit of `reserved_address` that says four bytes were reserved, not eight.
RESERVED_WORD = 1

#: Interpreted transfers to one address before it is worth translating.
HOT_SLOTS = 4096

# Reasons for generated code to return to Python.
REASONS = (
    "none",
    "slice",  # the budget ran out
    "trap",  # an exception of the guest: cause and tval
    "fault",  # a host fault on a data access: kind in `cause` (13 load, 15 store)
    "fetch",  # the shadow of `tval` is not there: activate the page or deliver a fetch fault
    "hot",  # `tval` was entered often enough to translate
    "bank",  # handler number `tval` lives in a bank that is not loaded
    "reference",  # an instruction that only the reference can run (rounding mode RMM)
    "illegal",  # no definition for the instruction at pc
)
(NONE, SLICE, TRAP, FAULT, FETCH, HOT, BANK, REFERENCE, ILLEGAL) = range(len(REASONS))

FIELDS: tuple[tuple[str, int, int], ...] = (
    # name, bytes per element, elements
    ("x", 8, 33),
    ("f", 8, 32),
    ("pc", 8, 1),
    ("budget", 8, 1),  # instructions left in this slice
    ("reason", 8, 1),
    ("cause", 8, 1),
    ("tval", 8, 1),
    ("stop", 4, 1),  # set by signal handlers: return to Python soon
    ("mxcsr", 4, 1),  # the guest's, while Python runs; the host's, while the guest runs
    ("frm", 8, 1),
    ("frm_reserved", 8, 1),  # non-zero: frm is RMM or reserved, the host FPU cannot do it
    ("reserved_address", 8, 1),  # LR/SC, with RESERVED_WORD; all ones: no reservation
    ("reserved_value", 8, 1),
    ("limit", 8, 1),  # `LIMIT`, for comparisons
    ("stack_limit", 8, 1),  # host stack pointer below which host frames unwind
    ("hot_threshold", 8, 1),  # zero: never report
    ("handlers", 8, 1),  # pointer to the table of interpreter handlers
    ("instret", 8, 1),  # retired before this slice began
    ("slice_budget", 8, 1),  # what `budget` was at the beginning of the slice
    ("translated", 8, 1),  # instructions that ran in regions
    ("fault_signo", 4, 1),
    ("fault_code", 4, 1),
    ("fault_address", 8, 1),
    ("scratch", 8, 2),
    ("step_record", 8, 8),  # one decoded instruction and the records that follow it
    ("hot", 4, HOT_SLOTS),
    ("stitch", 8, 1),  # the native stitcher and its context; zero: leave with HOT instead
    ("stitch_context", 8, 1),
    ("once", 8, 1),  # the handler that interprets an instruction whose record leads elsewhere
)


class AbiError(Error):
    """The layout that generated code was built for is not the one of this process."""


#: Name, bytes per element, elements of each field of a struct.
Fields = tuple[tuple[str, int, int], ...]


def layout(fields: Fields) -> tuple[dict[str, int], int]:
    """Offsets of fields by name, each aligned to its size, and the size of the struct."""
    offsets: dict[str, int] = {}
    at = 0
    for name, size, count in fields:
        at = (at + size - 1) & -size
        offsets[name] = at
        at += size * count
    return offsets, (at + 63) & -64


_OFFSETS, STATE_SIZE = layout(FIELDS)


def offset(name: str, index: int = 0) -> int:
    """Byte offset of element `index` of field `name` in a `State`."""
    return _OFFSETS[name] + index * next(size for field, size, _ in FIELDS if field == name)


class State(ctypes.Structure):
    """One hart's state, at a fixed address for its whole life."""

    _fields_ = [
        (name, {4: ctypes.c_uint32, 8: ctypes.c_uint64}[size] * count)
        if count > 1
        else (name, {4: ctypes.c_uint32, 8: ctypes.c_uint64}[size])
        for name, size, count in FIELDS
    ]


if any(getattr(State, name).offset != _OFFSETS[name] for name, _, _ in FIELDS):
    raise AbiError("the hart's state is laid out differently by ctypes: file a bug")
