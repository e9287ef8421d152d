"""What the native stitcher is made of, as LLVM text: copying a stencil and filling its holes, ways
out, stubs and faults.

Each is a function of the stitcher's image; `stitcher` puts units together with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hartwood.jit import abi
from hartwood.jit import host_x86 as host
from hartwood.jit import stitch as layout
from hartwood.jit.stitch import HOLE, PIECE, context_offset

#: A stub that waits to be placed behind the unit: kind, pc, count, address of the hole, address
#: that may fault; each a word. (EXIT and LOOP have a hole, LEAVE a hole or a fault or both.)
EXIT, LOOP, LEAVE = range(3)
STUB = 40
#: Units that are made together.
AT_ONCE = 60
#: Words of the list of holes that a copy leaves to its caller: counts, then addresses.
SITES = 16


def word(name: str) -> str:
    """The context's word as `%name`."""
    return f"""
  %{name}.at = getelementptr i8, ptr %ctx, i64 {context_offset(name)}
  %{name} = load i64, ptr %{name}.at
"""


@dataclass(frozen=True)
class Space:
    """How the stitcher finds its way in a guest's code, as LLVM text."""

    #: `i32 @half(ctx, pc)`: half an instruction word, or -1 where the page has gone.
    half: str
    #: The right-hand side that loads the handler of a record, then goes on at `there` or, where
    #: the page has gone, elsewhere: pointer, label.
    handler: Callable[[str, str], str]
    #: `i1 @reaches(goal, pc0)`: whether a unit can lead to the record of an address.
    reaches: str
    #: The joint that leads elsewhere.
    away: str
    #: Whether a unit may begin where nothing ran yet.
    untried: bool = False
    #: Statements after an instruction at `%pc` was appended, and when a unit at `%pc0` begins.
    appended: str = ""
    begins: str = ""
    #: Statements that place the fault at `%insn` of a way out.
    faults: str = ""


USER = Space(
    half=f"""
define internal i32 @half(ptr %ctx, i64 %va) #0 {{
  %where = inttoptr i64 %va to ptr
  %value = {host.load(2, "%where", "done", "gone")}
done:
  ret i32 %value
gone:
  ret i32 -1
}}
""",
    handler=lambda record, gone: host.load(8, record, "there", gone, guest=False),
    reaches=f"""
define internal i1 @reaches(i64 %goal, i64 %pc0) #0 {{
  %inside = icmp ult i64 %goal, {abi.LIMIT}
  ret i1 %inside
}}
""",
    away="counted",
    appended=f"""
  %slot.o = shl i64 %pc, 2
  %slot.i = add i64 %slot.o, {abi.ENTRIES}
  %slot = inttoptr i64 %slot.i to ptr
  %marked = cmpxchg ptr %slot, i64 %unlinked, i64 %stitched monotonic monotonic""",
    faults="  call void @fault(ptr %ctx, i64 %insn, i64 %to_fetch)",
)


def _patch() -> str:
    """Let a hole lead to a place."""
    return """
define internal void @patch(i64 %site, i64 %place) #0 {
  %from = add i64 %site, 4
  %far = sub i64 %place, %from
  %word = trunc i64 %far to i32
  %at = inttoptr i64 %site to ptr
  store i32 %word, ptr %at, align 1
  ret void
}
"""


def _copy() -> str:
    """Copy piece `%number` to `%out` and fill its holes; gives its end. Holes that lead to places
    of the unit are listed in `%sites`: how many, and their addresses, for LEAVE and for TAKEN."""
    sizes = {"code": 0, "holes": 8, "size": 16, "many": 20}
    fields = "\n".join(
        f"  %{name}.p = getelementptr i8, ptr %piece, i64 {at}\n"
        f"  %{name} = load {'i64' if at < 16 else 'i32'}, ptr %{name}.p"
        for name, at in sizes.items()
    )
    details = "\n".join(
        f"  %{name}.p = getelementptr i8, ptr %hole, i64 {at}\n"
        f"  %{name}.b = load i8, ptr %{name}.p\n  %{name} = zext i8 %{name}.b to i32"
        for name, at in {"kind": 4, "bytes": 5, "a": 6, "b": 7, "c": 8, "shift": 9}.items()
    )
    places = "\n".join(
        f"""{label}:{word(name)}
  br label %to.place"""
        for label, name in (
            ("k.spent", "to_over"),
            ("k.once", "to_once"),
            ("k.leap", "to_leap"),
            ("k.pool", "base"),
        )
    )
    return f"""
define internal i64 @copy(ptr %ctx, i64 %number, i64 %out, ptr %rec, i64 %pc, i64 %count,
                          ptr %sites) #0 {{
entry:{word("table")}{word("records")}{word("origin")}
  %here = sub i64 %pc, %origin
  %index = mul i64 %number, {PIECE.size}
  %piece.i = add i64 %table, %index
  %piece = inttoptr i64 %piece.i to ptr
{fields}
  %length = zext i32 %size to i64
  %end = add i64 %out, %length
  br label %chunk
chunk:
  %done = phi i64 [0, %entry], [%more, %chunk]
  %from.i = add i64 %code, %done
  %from = inttoptr i64 %from.i to ptr
  %to.i = add i64 %out, %done
  %to = inttoptr i64 %to.i to ptr
  %part = load <16 x i8>, ptr %from, align 1
  store <16 x i8> %part, ptr %to, align 1
  %more = add i64 %done, 16
  %again = icmp ult i64 %more, %length
  br i1 %again, label %chunk, label %fill
fill:
  %which = phi i32 [0, %chunk], [%then, %filled]
  %left = icmp ult i32 %which, %many
  br i1 %left, label %one, label %finish
finish:
  ret i64 %end
one:
  %which.w = zext i32 %which to i64
  %hole.o = mul i64 %which.w, {HOLE.size}
  %hole.i = add i64 %holes, %hole.o
  %hole = inttoptr i64 %hole.i to ptr
  %offset = load i32, ptr %hole
  %offset.w = zext i32 %offset to i64
  %site = add i64 %out, %offset.w
  %addend.p = getelementptr i8, ptr %hole, i64 12
  %addend.s = load i32, ptr %addend.p
  %addend = sext i32 %addend.s to i64
{details}
  switch i32 %kind, label %filled [
    i32 {layout.BYTE}, label %k.byte  i32 {layout.FIELD}, label %k.field
    i32 {layout.PC}, label %k.pc  i32 {layout.RECORD}, label %k.record
    i32 {layout.FOLLOWING}, label %k.following  i32 {layout.COUNT}, label %k.count
    i32 {layout.LEAVE}, label %k.leave  i32 {layout.TAKEN}, label %k.taken
    i32 {layout.SPENT}, label %k.spent  i32 {layout.ONCE}, label %k.once
    i32 {layout.LEAP}, label %k.leap  i32 {layout.POOL}, label %k.pool ]
k.byte:
  %a.w = zext i32 %a to i64
  %byte.p = getelementptr i8, ptr %rec, i64 %a.w
  %byte.b = load i8, ptr %byte.p
  %byte = zext i8 %byte.b to i64
  br label %to.number
k.field:
  %imm.p = getelementptr i8, ptr %rec, i64 8
  %imm = load i32, ptr %imm.p
  %imm.w = zext i32 %imm to i64
  %b.w = zext i32 %b to i64
  %a.v = zext i32 %a to i64
  %high = sub i64 64, %b.w
  %up = sub i64 %high, %a.v
  %shifted = shl i64 %imm.w, %up
  %signed = ashr i64 %shifted, %high
  %plain = lshr i64 %shifted, %high
  %is.signed = icmp ne i32 %c, 0
  %field = select i1 %is.signed, i64 %signed, i64 %plain
  br label %to.number
k.pc:
  br label %to.number
k.record:
  %record.o = shl i64 %pc, 3
  %record = add i64 %record.o, %records
  br label %to.number
k.following:
  %length.p = getelementptr i8, ptr %rec, i64 15
  %length.b = load i8, ptr %length.p
  %length.w = zext i8 %length.b to i64
  %following = add i64 %here, %length.w
  br label %to.number
k.count:
  br label %to.number
to.number:
  %raw = phi i64 [%byte, %k.byte], [%field, %k.field], [%here, %k.pc], [%record, %k.record],
                 [%following, %k.following], [%count, %k.count]
  %shift.w = zext i32 %shift to i64
  %scaled = shl i64 %raw, %shift.w
  %value = add i64 %scaled, %addend
  %at = inttoptr i64 %site to ptr
  %is.wide = icmp eq i32 %bytes, 8
  br i1 %is.wide, label %wide, label %narrow
wide:
  store i64 %value, ptr %at, align 1
  br label %filled
narrow:
  %value.n = trunc i64 %value to i32
  store i32 %value.n, ptr %at, align 1
  br label %filled
k.leave:
  br label %to.list
k.taken:
  br label %to.list
to.list:
  %row = phi i64 [0, %k.leave], [{SITES // 2 * 8}, %k.taken]
  %head = getelementptr i8, ptr %sites, i64 %row
  %known = load i64, ptr %head
  %known.1 = add i64 %known, 1
  store i64 %known.1, ptr %head
  %slot = getelementptr i64, ptr %head, i64 %known.1
  store i64 %site, ptr %slot
  br label %filled
{places}
to.place:
  %goal = phi i64 [%to_over, %k.spent], [%to_once, %k.once],
                 [%to_leap, %k.leap], [%base, %k.pool]
  %goal.a = add i64 %goal, %addend
  %goal.4 = add i64 %goal.a, 4
  call void @patch(i64 %site, i64 %goal.4)
  br label %filled
filled:
  %then = add i32 %which, 1
  br label %fill
}}
"""


def _note() -> str:
    """Append to the list of stubs, and to the native table of faults."""
    return f"""
define internal void @stub(ptr %stubs, i64 %kind, i64 %pc, i64 %count, i64 %site, i64 %fault) #0 {{
  %many = load i64, ptr %stubs
  %next = add i64 %many, 1
  store i64 %next, ptr %stubs
  %offset = mul i64 %many, {STUB}
  %offset.1 = add i64 %offset, 8
  %at = getelementptr i8, ptr %stubs, i64 %offset.1
  store i64 %kind, ptr %at
  %p1 = getelementptr i64, ptr %at, i64 1
  store i64 %pc, ptr %p1
  %p2 = getelementptr i64, ptr %at, i64 2
  store i64 %count, ptr %p2
  %p3 = getelementptr i64, ptr %at, i64 3
  store i64 %site, ptr %p3
  %p4 = getelementptr i64, ptr %at, i64 4
  store i64 %fault, ptr %p4
  ret void
}}

define internal void @fault(ptr %ctx, i64 %insn, i64 %place) #0 {{{word("base")}{word("faults")}
{word("count")}
  %count.p = inttoptr i64 %count to ptr
  %many = load i64, ptr %count.p
  %offset = shl i64 %many, 3
  %entry.i = add i64 %faults, %offset
  %entry = inttoptr i64 %entry.i to ptr
  %from = sub i64 %insn, %base
  %from.w = trunc i64 %from to i32
  store i32 %from.w, ptr %entry
  %to = sub i64 %place, %base
  %to.w = trunc i64 %to to i32
  %second = getelementptr i32, ptr %entry, i64 1
  store i32 %to.w, ptr %second
  %more = add i64 %many, 1
  ; The handler may run at any point; x86 keeps stores in order (SDM 3, 9.2.2).
  store atomic i64 %more, ptr %count.p release, align 8
  ret void
}}

define internal i64 @fault_of(ptr %ctx, i64 %number, i64 %out) #0 {{{word("table")}
  %index = mul i64 %number, {PIECE.size}
  %piece.i = add i64 %table, %index
  %at.i = add i64 %piece.i, 24
  %at = inttoptr i64 %at.i to ptr
  %fault = load i32, ptr %at
  %none = icmp eq i32 %fault, -1
  %wide = zext i32 %fault to i64
  %where = add i64 %out, %wide
  %result = select i1 %none, i64 0, i64 %where
  ret i64 %result
}}
"""


def _exit_to(space: Space) -> str:
    """Append a way out to `%goal`; gives its address. What ran already is put on the list, to be
    stitched too, and reached directly; what did not is reached by way of the interpreter, which
    counts how often that happens."""
    return f"""
define internal i64 @exit_to(ptr %ctx, i64 %out, ptr %rec, i64 %goal, i64 %pc0, ptr %sites,
                             ptr %list, ptr %end.p) #0 {{
entry:
{word("joints")}{word("fresh")}{word("gone")}{word("to_fetch")}{word("records")}
  %direct = add i64 %joints, {layout.JOINTS.index("exit")}
  %counted = add i64 %joints, {layout.JOINTS.index("counted")}
  %far = add i64 %joints, {layout.JOINTS.index(space.away)}
  %inside = call i1 @reaches(i64 %goal, i64 %pc0)
  %piece = select i1 %inside, i64 %counted, i64 %far
  %many = load i64, ptr %list
  %full = icmp uge i64 %many, {AT_ONCE}
  br i1 %inside, label %near, label %count
near:
  br i1 %full, label %count, label %look
look:
  %record.o = shl i64 %goal, 3
  %record.i = add i64 %record.o, %records
  %record = inttoptr i64 %record.i to ptr
  %handler = {space.handler("%record", "count")}
there:
  %untried = icmp eq i64 %handler, %fresh
  %retired = icmp eq i64 %handler, %gone
  %odd = or i1 %untried, %retired
  br i1 %odd, label %count, label %go
go:
  %more = add i64 %many, 1
  store i64 %more, ptr %list
  %slot = getelementptr i64, ptr %list, i64 %more
  store i64 %goal, ptr %slot
  %end.1 = call i64 @copy(ptr %ctx, i64 %direct, i64 %out, ptr %rec, i64 %goal, i64 0, ptr %sites)
  store i64 %end.1, ptr %end.p
  %insn = call i64 @fault_of(ptr %ctx, i64 %direct, i64 %out)
{space.faults}
  ret i64 %out
count:
  %end.2 = call i64 @copy(ptr %ctx, i64 %piece, i64 %out, ptr %rec, i64 %goal, i64 0, ptr %sites)
  store i64 %end.2, ptr %end.p
  ret i64 %out
}}
"""


def parts_text(space: Space) -> list[str]:
    """All of them."""
    return [space.half, space.reaches, _patch(), _copy(), _note(), _exit_to(space)]
