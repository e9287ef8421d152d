"""The one place for text that only an x86-64 host understands.

Memory accesses are `callbr` inline assembler: the instruction that may fault is entered in the
section `.hwfault` beside the block to continue at, so a host fault is an edge of the control-flow
graph and LLVM keeps every value the landing block needs where it can find it. `$n` operands with
`*m` let LLVM fold base, index and displacement. References: LLVM Language Reference, "Inline
Assembler Expressions" and "callbr"; Intel SDM volume 2.
"""

from __future__ import annotations

from os import strerror

from hartwood.errors import HostError
from hartwood.mem import hostmem

#: The text assembles only for this target; the runtime refuses to start elsewhere.
MACHINE = "x86_64"

# System calls, and the code with which arch_prctl(2) sets the base of the gs segment.
SYS_RT_SIGACTION, SYS_RT_SIGRETURN, SYS_ARCH_PRCTL, SYS_GETTID = 13, 15, 158, 186
ARCH_SET_GS = 0x1001
#: AT_HWCAP2 bit that says user mode may execute WRGSBASE.
HWCAP2_FSGSBASE = 1 << 1

#: Read-modify-write operations, as `Hart.amo` names them.
AMO_OPS = ("swap", "add", "and", "or", "xor", "min", "max", "minu", "maxu")

_SUFFIX = {1: "b", 2: "w", 4: "l", 8: "q"}
_CONDITION = {"min": "l", "max": "g", "minu": "b", "maxu": "a"}

# Guest memory cannot alias the hart's state or anything else that IR can name, which lets LLVM
# keep state in registers across accesses; their own order is that of the control flow.
_EFFECTS = "nounwind memory(inaccessiblemem: readwrite)"


#: Name and flags of the section of fault entries, as the assembler wants them.
_SECTION = ".hwfault,\\22a\\22"

_JMP = 0xE9  # with a 32-bit displacement (SDM 2, JMP)

# In a stencil (see `stencil`) nothing but the state and the budget is alive where it leaves early,
# and both are where the handlers' calling convention has them.
_STENCIL_SECTION = ".hwstencil,\\22a\\22"
_HELD, _HELD_ARGUMENTS = ",{r12},{r15}", ", ptr %s, i64 %budget"


def _access(
    result: str,
    lines: tuple[str, ...],
    constraints: str,
    arguments: str,
    label: int,
    targets: tuple[str, str],
) -> str:
    """A `callbr`. Lines that start with a local label `N:!` may fault; `label` is the operand
    number of the fault target. Without targets it is a stencil's `call`."""
    faults = [line[0] for line in lines if line[1:3] == ":!"]
    body = "\\0A ".join(line.replace(":!", ":") for line in lines)
    done, fault = targets
    if not done:
        entries = ", ".join(f"{n}b - ." for n in faults)
        return (
            f'call {result} asm sideeffect "{body}\\0A .pushsection {_STENCIL_SECTION}\\0A '
            f'.long {entries}\\0A .popsection", "{constraints.replace(",!i", _HELD)}"'
            f"({arguments}{_HELD_ARGUMENTS}) {_EFFECTS}"
        )
    entries = ", ".join(f"{n}b - ., ${{{label}:l}} - ." for n in faults)
    return (
        f'callbr {result} asm sideeffect "{body}\\0A .pushsection {_SECTION}\\0A '
        f'.long {entries}\\0A .popsection", "{constraints}"({arguments}) {_EFFECTS} '
        f"to label %{done} [label %{fault}]"
    )


def _segment(guest: bool) -> str:
    return "%gs:" if guest else ""


def _suffix(size: int) -> str:
    try:
        return _SUFFIX[size]
    except KeyError:
        raise HostError(f"no host access of {size} bytes") from None


def load(
    size: int,
    pointer: str,
    done: str,
    fault: str,
    *,
    guest: bool = True,
    signed: bool = False,
    width: int = 0,
) -> str:
    """The right-hand side of a load of `size` bytes that continues in block `done`, or in `fault`.

    The result has `width` bits (32 or 64; by default 32, or 64 for eight bytes), zero-extended
    or, with `signed`, sign-extended by the load itself. `pointer` is a `ptr` operand: an offset
    into guest memory with `guest`, else a host address. With "" for both blocks it is a stencil's,
    and so for the other accesses.
    """
    width = width or (64 if size == 8 else 32)
    if width not in (32, 64) or size * 8 > width:
        raise HostError(f"no host load of {size} bytes to {width} bits")
    into = "q" if width == 64 else "l"
    if size * 8 == width:
        insn, out = f"mov{into}", "$0"
    elif signed:
        insn, out = f"movs{_suffix(size)}{into}", "$0"
    else:  # a 32-bit result clears the upper half (SDM 1, 3.4.1.1), and is shorter
        insn, out = ("movl" if size == 4 else f"movz{_suffix(size)}l"), "${0:k}"
    line = f"1:! {insn} {_segment(guest)}$1, {out}"
    argument = f"ptr elementtype(i{8 * size}) {pointer}"
    return _access(f"i{width}", (line,), "=r,*m,!i", argument, 2, (done, fault))


def store(size: int, pointer: str, value: str, done: str, fault: str, *, guest: bool = True) -> str:
    """The right-hand side of a store of the `8*size`-bit operand `value`."""
    line = f"1:! mov{_suffix(size)} $1, {_segment(guest)}$0"
    kind = f"i{8 * size}"
    # "e" is an immediate that the instruction can sign-extend to 64 bits.
    constraints = f"=*m,{'re' if size == 8 else 'ri'},!i"
    arguments = f"ptr elementtype({kind}) {pointer}, {kind} {value}"
    return _access("void", (line,), constraints, arguments, 2, (done, fault))


def _vector(size: int, avx: bool) -> tuple[str, str]:
    if size not in (4, 8):
        raise HostError(f"no host floating-point access of {size} bytes")
    insn = "movsd" if size == 8 else "movss"
    # The encoding must match what LLVM uses around it: mixing the two costs (SDM 1, 14.13.1).
    return ("v" if avx else "") + insn, "double" if size == 8 else "float"


def load_double(
    pointer: str, done: str, fault: str, *, guest: bool = True, avx: bool = False, size: int = 8
) -> str:
    """The right-hand side of a load of a `double` (or, with `size` 4, a `float`)."""
    insn, kind = _vector(size, avx)
    line = f"1:! {insn} {_segment(guest)}$1, $0"
    argument = f"ptr elementtype({kind}) {pointer}"
    return _access(kind, (line,), "=x,*m,!i", argument, 2, (done, fault))


def store_double(
    pointer: str,
    value: str,
    done: str,
    fault: str,
    *,
    guest: bool = True,
    avx: bool = False,
    size: int = 8,
) -> str:
    """The right-hand side of a store of a `double` (or, with `size` 4, a `float`)."""
    insn, kind = _vector(size, avx)
    line = f"1:! {insn} $1, {_segment(guest)}$0"
    arguments = f"ptr elementtype({kind}) {pointer}, {kind} {value}"
    return _access("void", (line,), "=*m,x,!i", arguments, 2, (done, fault))


def amo(
    op: str, size: int, pointer: str, value: str, done: str, fault: str, *, guest: bool = True
) -> str:
    """The right-hand side of an atomic read-modify-write of 4 or 8 bytes; the result is the old
    value, `8*size` bits. Locked instructions are sequentially consistent (SDM 3, 9.2.3.9)."""
    if op not in AMO_OPS or size not in (4, 8):
        raise HostError(f"no host atomic {op!r} of {size} bytes")
    kind, s, memory = f"i{8 * size}", _suffix(size), _segment(guest)
    arguments = f"ptr elementtype({kind}) {pointer}, {kind} {value}"
    if op in ("swap", "add"):
        insn = "xchg" if op == "swap" else "lock xadd"
        line = f"1:! {insn}{s} $0, {memory}$1"
        constraints = "=r,=*m,0,!i,~{flags}"
        return _access(kind, (line,), constraints, arguments, 3, (done, fault))
    # r11 holds what to store: a second output would make the result a struct.
    old, new = ("%eax", "%r11d") if size == 4 else ("%rax", "%r11")
    combine: tuple[str, ...]
    if op in _CONDITION:
        combine = (f"cmp{s} $2, {old}", f"cmov{_CONDITION[op]}{s} {old}, {new}")
    else:
        combine = (f"{op}{s} {old}, {new}",)
    lines = (
        f"1:! mov{s} {memory}$1, {old}",
        f"2: mov{s} $2, {new}",
        *combine,
        f"3:! lock cmpxchg{s} {new}, {memory}$1",
        "jne 2b",
    )
    constraints = "=&{ax},=*m,r,!i,~{r11},~{flags}"
    return _access(kind, lines, constraints, arguments, 3, (done, fault))


def compare_exchange(
    size: int,
    pointer: str,
    expected: str,
    value: str,
    done: str,
    fault: str,
    *,
    guest: bool = True,
) -> str:
    """The right-hand side of: store `value` where memory holds `expected`. The result is what
    memory held, so the store happened exactly if it equals `expected`."""
    kind = f"i{8 * size}"
    line = f"1:! lock cmpxchg{_suffix(size)} $2, {_segment(guest)}$1"
    arguments = f"ptr elementtype({kind}) {pointer}, {kind} {value}, {kind} {expected}"
    constraints = "={ax},=*m,r,0,!i,~{flags}"
    return _access(kind, (line,), constraints, arguments, 4, (done, fault))


# What stencils are made of beside accesses: early ways out, and holes that only an immediate of
# the host's can be. Symbols are the stitcher's.


def _leave(
    lines: str, constraints: str, arguments: str, pc: str = "%pc", budget: str = "%budget"
) -> str:
    """A statement that may jump away, with state, pc and budget where handlers take them."""
    held = f"{constraints},{{r12}},{{r13}},{{r15}},~{{flags}}"
    values = f"{arguments}, ptr %s, i64 {pc}, i64 {budget}"
    return f'call void asm sideeffect "{lines}", "{held}"({values}) nounwind'


def leave_unless_below(value: str, limit: str, symbol: str) -> str:
    """A statement that jumps to `symbol` unless an i64 is below, unsigned, the one at `limit`."""
    argument = f"i64 {value}, ptr elementtype(i64) {limit}"
    return _leave(f"cmpq $1, $0\\0A jae {symbol}", "r,*m", argument)


def leave_unless_equal(value: str, pointer: str, symbol: str) -> str:
    """A statement that jumps to `symbol` unless an i64 is the one at `pointer`."""
    argument = f"i64 {value}, ptr elementtype(i64) {pointer}"
    return _leave(f"cmpq $1, $0\\0A jne {symbol}", "r,*m", argument)


def leave_if(condition: str, symbol: str) -> str:
    """A statement that jumps to `symbol` if an i32 is not zero."""
    return _leave(f"testl $0, $0\\0A jne {symbol}", "r", f"i32 {condition}")


def leave_if_set(pointer: str, pc: str, budget: str, symbol: str) -> str:
    """The same for an i32 in memory, on the way to `pc`."""
    argument = f"ptr elementtype(i32) {pointer}"
    return _leave(f"cmpl $$0, $0\\0A jne {symbol}", "*m", argument, pc, budget)


def leave_if_spent(budget: str, pc: str, symbol: str) -> str:
    """A statement that jumps to `symbol` if the budget is zero or negative."""
    return _leave(f"testq $0, $0\\0A jle {symbol}", "r", f"i64 {budget}", pc, budget)


def load_handler(record: str, pc: str, budget: str) -> str:
    """The right-hand side that loads the handler of a record, whose page may be gone: all is where
    handlers take it."""
    lines = f"1: movq ($1), $0\\0A .pushsection {_STENCIL_SECTION}\\0A .long 1b - .\\0A .popsection"
    constraints = f"=r,{{r14}},{{r13}}{_HELD}"
    arguments = f"ptr {record}, i64 {pc}, ptr %s, i64 {budget}"
    return f'call ptr asm sideeffect "{lines}", "{constraints}"({arguments}) nounwind'


def wide_hole(symbol: str, kind: str = "i64") -> str:
    """The right-hand side that gives the 64-bit value of a symbol, as `kind`."""
    return f'call {kind} asm "movabsq $${symbol}, $0", "=r"() nounwind memory(none)'


def charge(budget: str, counter: str, symbol: str) -> str:
    """The right-hand side that gives the budget less a symbol's value, signed 32 bits, which is
    added to the counter in memory."""
    lines = f"subq $${symbol}, $0\\0A addq $${symbol}, $1"
    memory = f"ptr elementtype(i64) {counter}"
    arguments = f"{memory}, i64 {budget}, {memory}"
    return f'call i64 asm sideeffect "{lines}", "=r,=*m,0,*m,~{{flags}}"({arguments}) nounwind'


def falling_through(
    code: bytes, holes: list[tuple[int, int, str, int]]
) -> tuple[bytes, list[tuple[int, int, str, int]]]:
    """A stencil whose last jump is to what comes next, without that jump; one that ends in a
    conditional jump to what comes next and another elsewhere, with one jump for both."""
    ends = len(code) - 4
    if not holes or holes[-1][0] != ends or code[ends - 1] != _JMP:
        return code, holes
    if holes[-1][2] == "next":
        return code[: ends - 1], holes[:-1]
    condition = ends - 5 - 2
    if len(holes) > 1 and holes[-2][0] == ends - 5 and holes[-2][2] == "next":
        first, second = code[condition : condition + 2]
        if first == 0x0F and second & 0xF0 == 0x80:
            # Conditions come in pairs of opposites that differ in their last bit (SDM 2, app. B).
            turned = code[:condition] + bytes([first, second ^ 1]) + code[ends:]
            return turned, [*holes[:-2], (ends - 5, *holes[-1][1:])]
    return code, holes


def fence(before: str = "rw", after: str = "rw") -> str:
    """A statement that orders accesses, named as FENCE names them: letters of "rwio".

    x86 keeps everything in order except a load before an earlier store to elsewhere
    (SDM 3, 9.2.2), so only a fence from writes to reads is an instruction.
    """
    if set(before) & set("wo") and set(after) & set("ri"):
        return "fence seq_cst"
    return 'fence syncscope("singlethread") seq_cst'


def load_mxcsr(pointer: str) -> str:
    """A statement that sets the floating-point control and status word from an `i32` in memory."""
    return f'call void asm sideeffect "ldmxcsr $0", "*m"(ptr elementtype(i32) {pointer})'


def store_mxcsr(pointer: str) -> str:
    """A statement that writes the floating-point control and status word to an `i32` in memory."""
    return f'call void asm sideeffect "stmxcsr $0", "=*m"(ptr elementtype(i32) {pointer})'


def use_guest_memory(base: int) -> None:
    """Make the host address `base` where guest address 0 is, for generated code in this thread.

    A system call, which every kernel has; code that must be quicker uses `set_gs_base`. A forked
    child keeps it, a new thread does not. Raises `HostError`.
    """
    result = hostmem.syscall(SYS_ARCH_PRCTL, ARCH_SET_GS, base)
    if result:
        raise HostError(f"no guest memory at host address {base:#x}: {strerror(-result)}")


def set_gs_base(address: str) -> str:
    """A statement that makes the host address `address` (an i64 operand) the base of guest
    memory for this thread. Only where the kernel allows it: see `HWCAP2_FSGSBASE`."""
    return f'call void asm sideeffect "wrgsbase $0", "r"(i64 {address})'


def thread_pointer() -> str:
    """The right-hand side of a read of the thread's own address, an i64 that no other thread of
    the process has and that a forked child keeps (System V ABI for x86-64, TLS variant II)."""
    return 'call i64 asm "movq %fs:0, $0", "=r"() nounwind memory(none)'
