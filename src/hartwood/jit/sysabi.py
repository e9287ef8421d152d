"""What the state of a hart with privilege levels holds beyond `abi.State`: CSRs, TLBs, memory map.

The fields of `abi.State` come first, at the same offsets, so that text made for a user-mode hart
runs on it.
"""

from __future__ import annotations

import ctypes

from hartwood.jit import abi

#: Entries of each TLB. Sixteen bytes each: the page's virtual address, and what added to a virtual
#: address gives the host's (or, for fetches, added to eight times it, the record's).
TLB_ENTRIES = 512
#: Words of bits that remember large pages (see "large"): half of them for the upper half of
#: addresses, where kernels map all of memory by large pages.
LARGE = 128
#: Bytes of records a page of memory has: one for each halfword, then what runs off its end.
RECORDS_PER_PAGE = 2048 * abi.RECORD + 64
#: Instructions between two looks at the clock.
CHUNK = 10_000
#: Records that are remembered where control was when `CHUNK` instructions were used up.
SAMPLES = 1024
#: Guest time counts tenths of a microsecond; deterministic time takes an instruction for ten ns.
FREQUENCY = 10_000_000
INSTRUCTIONS_PER_TICK = 10

# Further reasons to return to Python (see `abi.REASONS`).
WAIT, LOCKUP = len(abi.REASONS), len(abi.REASONS) + 1

#: Registers of `Hart.sys`, by name.
REGISTERS = (
    *("mode", "mstatus", "mtvec", "medeleg", "mideleg", "mie", "mip", "mcounteren", "mscratch"),
    *("mepc", "mcause", "mtval", "menvcfg", "mcycle", "minstret", "mhartid", "scounteren", "stvec"),
    *("sscratch", "sepc", "scause", "stval", "senvcfg", "satp", "stimecmp", "mtimecmp", "lines"),
    *("pmpcfg0", "pmpcfg2", *(f"pmpaddr{entry}" for entry in range(16))),
)

#: Contexts that have TLBs of their own: M, S, S with SUM, U.
CONTEXTS = 4
#: TLBs of a context, in order: reads, writes, fetches.
READ, WRITE, FETCH = range(3)

#: Functions and handlers that text beyond the base bank reaches through the state, in the order
#: of their places there.
LINKS = (
    *("exception", "over", "fetch_miss", "leave", "reference", "wait", "hot"),
    *("load_slow", "store_slow", "atomic_slow", "zero_slow", "settle", "flush"),
    *("leap", "unit_once", "fill_read", "fill_write"),
)

#: In `until`.
NOWHERE = (1 << 64) - 1

FIELDS: abi.Fields = (
    *abi.FIELDS,
    ("tlb", 8, 1),  # of the present context of loads and stores
    ("tlb_fetch", 8, 1),  # of the present context of fetches
    ("attention", 4, 1),  # look at interrupts and requests at the next transfer; from any thread
    ("io_fault", 4, 1),  # set by a callback: there is no device
    ("goal", 8, 1),  # instructions retired when `budget` is used up
    ("left", 8, 1),  # instructions that may run after `budget` is used up
    ("until", 8, 1),  # single steps end at this pc; odd: at none
    ("supervisor_calls", 8, 1),  # non-zero: ecall from S-mode goes to Python
    ("running", 4, 1),  # the hart is inside native code
    ("physical", 8, 1),  # what the last walk found, and the bytes of that page less one
    ("span", 8, 1),
    ("nothing", 8, 1),  # what is read where there is nothing to read
    ("timers", 8, 1),  # interrupts of timers, as they were when the clock was last looked at
    ("links", 8, len(LINKS)),
    # Where there may be translations by pages larger than 4 KiB: a bit for each 2 MiB, by the
    # low bits of their number; one for each GiB that is one page; all ones: anywhere.
    ("large", 8, LARGE),
    ("larger", 8, 1),
    ("step_word", 8, 1),  # the instruction word in `step_record`
    ("clock", 8, 1),  # clock_gettime; zero: time is the instruction count
    ("time_offset", 8, 1),
    ("timespec", 8, 2),
    ("host_mxcsr", 4, 1),
    ("io_read", 8, 1),  # callbacks: (at, size) -> value, (at, size, value)
    ("io_write", 8, 1),
    ("memory", 8, 1),  # host address of guest memory
    ("records", 8, 1),  # host address of its records
    ("flags", 8, 1),  # host address of a byte a page: 0, or 1 + stores since it was code
    ("table", 8, 1),  # host address of the table of regions and harts (`mem.ram`)
    ("posted", 4, 1),  # software interrupts sent by others, not in mip yet
    ("flush_asked", 4, 1),  # by another hart: forget translations
    ("tlb_misses", 8, 1),
    ("tlb_flushes", 8, 1),
    *((name, 8, 1) for name in REGISTERS),
    ("used", 4, CONTEXTS * 3),  # by TLB: whether it has entries
    ("area", 8, 1),  # host address of stitched code, if there is any
    ("sampled", 8, 1),  # records where budgets were used up, so far; the last of them
    ("samples", 8, SAMPLES),
    # The pages of devices that were last read and written: the page's virtual address with the
    # number of the context, from 1, in its low bits, or 0; and the guest-physical address.
    ("io_pages", 8, 4),
    ("tlbs", 8, CONTEXTS * 3 * TLB_ENTRIES * 2),
)

_OFFSETS, STATE_SIZE = abi.layout(FIELDS)


def offset(name: str) -> int:
    """Byte offset of field `name` in a `SystemState`."""
    return _OFFSETS[name]


def field(name: str, add: int = 0) -> str:
    """The `getelementptr` of a state field, `add` bytes on."""
    return f"getelementptr i8, ptr %s, i64 {_OFFSETS[name] + add}"


def link(name: str) -> str:
    """The `getelementptr` of where the address of one of `LINKS` is."""
    return field("links", 8 * LINKS.index(name))


class SystemState(ctypes.Structure):
    """One hart's state, at a fixed address for its whole life."""

    _fields_ = [
        (name, {4: ctypes.c_uint32, 8: ctypes.c_uint64}[size] * count)
        if count > 1
        else (name, {4: ctypes.c_uint32, 8: ctypes.c_uint64}[size])
        for name, size, count in FIELDS
    ]


if any(getattr(SystemState, name).offset != _OFFSETS[name] for name, _, _ in FIELDS):
    raise abi.AbiError("the hart's state is laid out differently by ctypes: file a bug")
