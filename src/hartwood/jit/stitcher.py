"""The native stitcher, as LLVM text: decode, copy the stencil, fill its holes, on to the next.

A unit is what follows from one address: through branches that are not taken and jumps that link
nothing, to where control goes elsewhere, and within one page of guest memory, so that whoever
discards what was decoded from a page discards its units with the records that lead to them. Ways
out go through the record of the address they lead to.
"""

from __future__ import annotations

from hartwood.jit import abi
from hartwood.jit import host_x86 as host
from hartwood.jit import stitch as layout
from hartwood.jit.stitch import HOLE, LIMIT, PIECE, context_offset

#: What waits to be placed behind the unit: kind, pc, count, address of the hole, address that may
#: fault. An instruction that leaves has no hole where only the fault leads there.
_EXIT, _LOOP, _LEAVE = range(3)
_STUB = 40
_MOST = 2 * LIMIT + 8
#: Units that are made together.
_AT_ONCE = 60
#: Words of the list of holes that a copy leaves to its caller: counts, then addresses.
_SITES = 16


def _word(name: str) -> str:
    """The context's word as `%name`."""
    return f"""
  %{name}.at = getelementptr i8, ptr %ctx, i64 {context_offset(name)}
  %{name} = load i64, ptr %{name}.at
"""


def _fetch() -> str:
    """Half an instruction word, or -1 where the page has gone."""
    return f"""
define internal i32 @half(i64 %va) #0 {{
  %where = inttoptr i64 %va to ptr
  %value = {host.load(2, "%where", "done", "gone")}
done:
  ret i32 %value
gone:
  ret i32 -1
}}
"""


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
        f"""{label}:{_word(word)}
  br label %to.place"""
        for label, word in (("k.spent", "to_over"), ("k.once", "to_once"), ("k.pool", "base"))
    )
    return f"""
define internal i64 @copy(ptr %ctx, i64 %number, i64 %out, ptr %rec, i64 %pc, i64 %count,
                          ptr %sites) #0 {{
entry:{_word("table")}
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
    i32 {layout.POOL}, label %k.pool ]
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
  %record = add i64 %record.o, {abi.SHADOW}
  br label %to.number
k.following:
  %length.p = getelementptr i8, ptr %rec, i64 15
  %length.b = load i8, ptr %length.p
  %length.w = zext i8 %length.b to i64
  %following = add i64 %pc, %length.w
  br label %to.number
k.count:
  br label %to.number
to.number:
  %raw = phi i64 [%byte, %k.byte], [%field, %k.field], [%pc, %k.pc], [%record, %k.record],
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
  %row = phi i64 [0, %k.leave], [{_SITES // 2 * 8}, %k.taken]
  %head = getelementptr i8, ptr %sites, i64 %row
  %known = load i64, ptr %head
  %known.1 = add i64 %known, 1
  store i64 %known.1, ptr %head
  %slot = getelementptr i64, ptr %head, i64 %known.1
  store i64 %site, ptr %slot
  br label %filled
{places}
to.place:
  %goal = phi i64 [%to_over, %k.spent], [%to_once, %k.once], [%base, %k.pool]
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
  %offset = mul i64 %many, {_STUB}
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

define internal void @fault(ptr %ctx, i64 %insn, i64 %place) #0 {{{_word("base")}{_word("faults")}
{_word("count")}
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

define internal i64 @fault_of(ptr %ctx, i64 %number, i64 %out) #0 {{{_word("table")}
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


def _exit_to() -> str:
    """Append a way out to `%goal`; gives its address. What ran already is put on the list, to be
    stitched too, and reached directly; what did not is reached by way of the interpreter, which
    counts how often that happens."""
    return f"""
define internal i64 @exit_to(ptr %ctx, i64 %out, ptr %rec, i64 %goal, ptr %sites, ptr %list,
                             ptr %end.p) #0 {{
entry:
{_word("joints")}{_word("fresh")}{_word("gone")}{_word("to_fetch")}
  %direct = add i64 %joints, {layout.JOINTS.index("exit")}
  %counted = add i64 %joints, {layout.JOINTS.index("counted")}
  %outside = icmp uge i64 %goal, {abi.LIMIT}
  %many = load i64, ptr %list
  %full = icmp uge i64 %many, {_AT_ONCE}
  %slow = or i1 %outside, %full
  br i1 %slow, label %count, label %look
look:
  %record.o = shl i64 %goal, 3
  %record.i = add i64 %record.o, {abi.SHADOW}
  %record = inttoptr i64 %record.i to ptr
  %handler = {host.load(8, "%record", "there", "count", guest=False)}
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
  call void @fault(ptr %ctx, i64 %insn, i64 %to_fetch)
  ret i64 %out
count:
  %end.2 = call i64 @copy(ptr %ctx, i64 %counted, i64 %out, ptr %rec, i64 %goal, i64 0, ptr %sites)
  store i64 %end.2, ptr %end.p
  ret i64 %out
}}
"""


def _joint(name: str, number: str, pc: str, count: str) -> str:
    """Text that appends a joint: `%name` is where it begins, `%name.end` where it ends."""
    which = layout.JOINTS.index(number)
    return f"""
  %{name}.n = add i64 %joints, {which}
  %{name} = load i64, ptr %out.v
  store i64 0, ptr %sites.taken
  %{name}.end = call i64 @copy(ptr %ctx, i64 %{name}.n, i64 %{name}, ptr %rec, i64 {pc},
                               i64 {count}, ptr %sites)
  store i64 %{name}.end, ptr %out.v
"""


#: Words of the context that a unit is made from.
_USED = (
    "next", "end", "base", "room", "count", "table", "decode",
    "joints", "units", "region", "fresh", "gone", "unlinked", "stitched",
)  # fmt: skip


def _begin() -> str:
    """Look whether there is room and whether there is anything to do."""
    return f"""
entry:
  %rec = alloca [64 x i8], align 16
  %sites = alloca [{_SITES} x i64], align 16
  %sites.taken = getelementptr i64, ptr %sites, i64 {_SITES // 2}
  %stubs = alloca [{8 + _STUB * _MOST} x i8], align 16
  %pc.v = alloca i64
  %out.v = alloca i64
  %count.v = alloca i64
  %n.v = alloca i64
  %i.v = alloca i64
  br label %begin
abort:
  ret i64 0
begin:
{"".join(map(_word, _USED))}
  %epoch.at = getelementptr i8, ptr %ctx, i64 {context_offset("epoch")}
  %epoch = load atomic i64, ptr %epoch.at acquire, align 8
  %faults.p = inttoptr i64 %count to ptr
  %faults.n = load i64, ptr %faults.p
  %room.f = icmp ult i64 %faults.n, %room
  %room.c = icmp ult i64 %next, %end
  %room.a = and i1 %room.f, %room.c
  br i1 %room.a, label %look, label %abort
look:
  %record.o = shl i64 %pc0, 3
  %record.i = add i64 %record.o, {abi.SHADOW}
  %record = inttoptr i64 %record.i to ptr
  %old = {host.load(8, "%record", "there", "abort", guest=False)}
there:
  %past = add i64 %end, {layout.UNIT}
  %above = icmp uge i64 %old, %base
  %below = icmp ult i64 %old, %past
  %known = and i1 %above, %below
  br i1 %known, label %already, label %unknown
already:
  ret i64 %old
unknown:
  ; Only what was decoded, from a page that is watched and not about to change.
  %translated = icmp eq i64 %old, %region
  %untried = icmp eq i64 %old, %fresh
  %retired = icmp eq i64 %old, %gone
  %odd.1 = and i64 %epoch, 1
  %changing = icmp ne i64 %odd.1, 0
  %bad.1 = or i1 %translated, %untried
  %bad.2 = or i1 %retired, %changing
  %bad = or i1 %bad.1, %bad.2
  br i1 %bad, label %abort, label %start
start:
  store i64 %pc0, ptr %pc.v
  store i64 %next, ptr %out.v
  store i64 0, ptr %count.v
  store i64 0, ptr %n.v
  store i64 0, ptr %stubs
  br label %insn
"""


def _decode() -> str:
    """The next instruction, unless the unit ends before it."""
    return f"""
insn:
  %pc = load i64, ptr %pc.v
  %out = load i64, ptr %out.v
  %n = load i64, ptr %n.v
  %run = load i64, ptr %count.v
  %page.x = xor i64 %pc, %pc0
  %page.d = icmp ugt i64 %page.x, 4095
  %enough = icmp uge i64 %n, {LIMIT}
  %over = or i1 %page.d, %enough
  br i1 %over, label %ends, label %low
low:
  %first = call i32 @half(i64 %pc)
  %missing = icmp eq i32 %first, -1
  br i1 %missing, label %ends, label %got
got:
  %low.2 = and i32 %first, 3
  %long = icmp eq i32 %low.2, 3
  br i1 %long, label %more, label %ready
more:
  %place = and i64 %pc, 4095
  %straddles = icmp eq i64 %place, 4094
  br i1 %straddles, label %ends, label %high
high:
  %pc.2 = add i64 %pc, 2
  %second = call i32 @half(i64 %pc.2)
  %missing.2 = icmp eq i32 %second, -1
  br i1 %missing.2, label %ends, label %both
both:
  %second.u = shl i32 %second, 16
  %whole = or i32 %second.u, %first
  br label %ready
ready:
  %word = phi i32 [%first, %got], [%whole, %both]
  %decode.p = inttoptr i64 %decode to ptr
  %number.n = call i32 %decode.p(i32 %word, ptr %rec)
  %number = zext i32 %number.n to i64
  %index = mul i64 %number, {PIECE.size}
  %piece.i = add i64 %table, %index
  %piece = inttoptr i64 %piece.i to ptr
  %kind.p = getelementptr i8, ptr %piece, i64 28
  %kind = load i8, ptr %kind.p
  %length.p = getelementptr i8, ptr %rec, i64 15
  %length.b = load i8, ptr %length.p
  %length = zext i8 %length.b to i64
  %imm.p = getelementptr i8, ptr %rec, i64 8
  %imm.w = load i32, ptr %imm.p
  %imm = sext i32 %imm.w to i64
  %following = add i64 %pc, %length
  %goal = add i64 %pc, %imm
  %run.1 = add i64 %run, 1
  %n.1 = add i64 %n, 1
  switch i8 %kind, label %stop [
    i8 {layout.PLAIN}, label %append  i8 {layout.BRANCH}, label %append
    i8 {layout.JUMP}, label %jump  i8 {layout.INDIRECT}, label %append ]
jump:
  %link.p = getelementptr i8, ptr %piece, i64 29
  %link = load i8, ptr %link.p
  %link.w = zext i8 %link to i64
  %linked.p = getelementptr i8, ptr %rec, i64 %link.w
  %linked = load i8, ptr %linked.p
  %none = icmp eq i8 %link, 0
  %sink = icmp eq i8 %linked, {abi.SINK}
  %plain = or i1 %none, %sink
  br i1 %plain, label %follow, label %append
"""


def _append() -> str:
    """One more instruction, and what its kind means for the unit."""
    return f"""
append:
  store i64 0, ptr %sites
  store i64 0, ptr %sites.taken
  %out.1 = call i64 @copy(ptr %ctx, i64 %number, i64 %out, ptr %rec, i64 %pc, i64 %run.1,
                          ptr %sites)
  store i64 %out.1, ptr %out.v
  store i64 %n.1, ptr %n.v
  %slot.o = shl i64 %pc, 2
  %slot.i = add i64 %slot.o, {abi.ENTRIES}
  %slot = inttoptr i64 %slot.i to ptr
  %marked = cmpxchg ptr %slot, i64 %unlinked, i64 %stitched monotonic monotonic
  %fault = call i64 @fault_of(ptr %ctx, i64 %number, i64 %out)
  %leaves = load i64, ptr %sites
  %leave.1p = getelementptr i64, ptr %sites, i64 1
  %leave.1 = load i64, ptr %leave.1p
  %leave.any = icmp ne i64 %leaves, 0
  %site = select i1 %leave.any, i64 %leave.1, i64 0
  %wanted.i = or i64 %site, %fault
  %wanted = icmp ne i64 %wanted.i, 0
  br i1 %wanted, label %must.leave, label %went
must.leave:
  call void @stub(ptr %stubs, i64 {_LEAVE}, i64 %pc, i64 %run, i64 %site, i64 %fault)
  store i64 2, ptr %i.v
  br label %others
others:
  %i = load i64, ptr %i.v
  %further = icmp ule i64 %i, %leaves
  br i1 %further, label %other, label %went
other:
  %other.p = getelementptr i64, ptr %sites, i64 %i
  %other.s = load i64, ptr %other.p
  call void @stub(ptr %stubs, i64 {_LEAVE}, i64 %pc, i64 %run, i64 %other.s, i64 0)
  %i.1 = add i64 %i, 1
  store i64 %i.1, ptr %i.v
  br label %others
went:
  switch i8 %kind, label %on [
    i8 {layout.BRANCH}, label %branch  i8 {layout.JUMP}, label %called
    i8 {layout.INDIRECT}, label %places ]
on:
  store i64 %run.1, ptr %count.v
  store i64 %following, ptr %pc.v
  br label %insn
branch:
  %taken.1p = getelementptr i64, ptr %sites.taken, i64 1
  %taken.1 = load i64, ptr %taken.1p
  %home = icmp eq i64 %goal, %pc0
  %how = select i1 %home, i64 {_LOOP}, i64 {_EXIT}
  call void @stub(ptr %stubs, i64 %how, i64 %goal, i64 0, i64 %taken.1, i64 0)
  store i64 0, ptr %count.v
  store i64 %following, ptr %pc.v
  ; A branch backwards is mostly taken: what follows is another unit's business.
  %backward = icmp slt i64 %imm, 0
  br i1 %backward, label %ends, label %insn
called:
  %called.1p = getelementptr i64, ptr %sites.taken, i64 1
  %called.1 = load i64, ptr %called.1p
  call void @stub(ptr %stubs, i64 {_EXIT}, i64 %goal, i64 0, i64 %called.1, i64 0)
  br label %places
follow:
{_joint("hop", "charge", "%pc", "%run.1")}
  store i64 %n.1, ptr %n.v
  store i64 0, ptr %count.v
  store i64 %goal, ptr %pc.v
  %round = icmp eq i64 %goal, %pc0
  br i1 %round, label %loop, label %insn
loop:
{_joint("turn", "loop", "%pc0", "0")}
  %turn.p = getelementptr i64, ptr %sites.taken, i64 1
  %turn.s = load i64, ptr %turn.p
  call void @patch(i64 %turn.s, i64 %next)
  br label %places
"""


def _finish() -> str:
    """The end of the unit's own code, then what is rarely run, in the order of the fault table."""
    return f"""
stop:
  %empty = icmp eq i64 %n, 0
  br i1 %empty, label %abort, label %interpret
interpret:
{_joint("odd", "leave", "%pc", "%run")}
  br label %places
ends:
  %pc.e = load i64, ptr %pc.v
  %n.e = load i64, ptr %n.v
  %run.e = load i64, ptr %count.v
  %empty.e = icmp eq i64 %n.e, 0
  br i1 %empty.e, label %abort, label %last
last:
  %uncharged = icmp ne i64 %run.e, 0
  br i1 %uncharged, label %charge, label %leave
charge:
{_joint("due", "charge", "%pc.e", "%run.e")}
  br label %leave
leave:
  ; Its fault comes after those of the unit's instructions: so it has to stand behind them.
{_joint("onward", "jump", "%pc.e", "0")}
  %onward.p = getelementptr i64, ptr %sites.taken, i64 1
  %onward.s = load i64, ptr %onward.p
  call void @stub(ptr %stubs, i64 {_EXIT}, i64 %pc.e, i64 0, i64 %onward.s, i64 0)
  br label %places
places:
  %many = load i64, ptr %stubs
  store i64 0, ptr %i.v
  br label %first.pass
first.pass:
  %f = load i64, ptr %i.v
  %f.1 = add i64 %f, 1
  store i64 %f.1, ptr %i.v
  %f.more = icmp ult i64 %f, %many
  br i1 %f.more, label %first.one, label %own
first.one:
{_read_stub("f")}
  %f.leaves = icmp eq i64 %f.kind, {_LEAVE}
  br i1 %f.leaves, label %first.place, label %first.pass
first.place:
{_joint("lead", "leave", "%f.pc", "%f.count")}
  %f.none = icmp eq i64 %f.site, 0
  br i1 %f.none, label %first.fault, label %first.patch
first.patch:
  call void @patch(i64 %f.site, i64 %lead)
  br label %first.fault
first.fault:
  %f.quiet = icmp eq i64 %f.fault, 0
  br i1 %f.quiet, label %first.pass, label %first.note
first.note:
  call void @fault(ptr %ctx, i64 %f.fault, i64 %lead)
  br label %first.pass
own:
  store i64 0, ptr %i.v
  br label %second.pass
second.pass:
  %g = load i64, ptr %i.v
  %g.1 = add i64 %g, 1
  store i64 %g.1, ptr %i.v
  %g.more = icmp ult i64 %g, %many
  br i1 %g.more, label %second.one, label %publish
second.one:
{_read_stub("g")}
  switch i64 %g.kind, label %second.pass [
    i64 {_EXIT}, label %second.exit  i64 {_LOOP}, label %second.loop ]
second.exit:
  %away.o = load i64, ptr %out.v
  %away = call i64 @exit_to(ptr %ctx, i64 %away.o, ptr %rec, i64 %g.pc, ptr %sites, ptr %list,
                            ptr %out.v)
  call void @patch(i64 %g.site, i64 %away)
  br label %second.pass
second.loop:
{_joint("back", "loop", "%pc0", "0")}
  call void @patch(i64 %g.site, i64 %back)
  %back.p = getelementptr i64, ptr %sites.taken, i64 1
  %back.s = load i64, ptr %back.p
  call void @patch(i64 %back.s, i64 %next)
  br label %second.pass
publish:
  %done = load i64, ptr %out.v
  %done.u = add i64 %done, 15
  %done.a = and i64 %done.u, -16
  store i64 %done.a, ptr %next.at
  %units.1 = add i64 %units, 1
  store i64 %units.1, ptr %units.at
  %put = cmpxchg ptr %record, i64 %old, i64 %next seq_cst monotonic
  ; Another thread may have discarded the page meanwhile, and it may be back with other code.
  %epoch.2 = load atomic i64, ptr %epoch.at acquire, align 8
  %same = icmp eq i64 %epoch, %epoch.2
  br i1 %same, label %good, label %stale
stale:
  %unput = cmpxchg ptr %record, i64 %next, i64 %fresh seq_cst monotonic
  br label %good
good:
  ret i64 %next
"""


def _read_stub(name: str) -> str:
    """The fields of stub number `%name`."""
    lines = [
        f"  %{name}.o = mul i64 %{name}, {_STUB}",
        f"  %{name}.o8 = add i64 %{name}.o, 8",
        f"  %{name}.at = getelementptr i8, ptr %stubs, i64 %{name}.o8",
    ]
    for index, field in enumerate(("kind", "pc", "count", "site", "fault")):
        lines.append(f"  %{name}.p{index} = getelementptr i64, ptr %{name}.at, i64 {index}")
        lines.append(f"  %{name}.{field} = load i64, ptr %{name}.p{index}")
    return "\n".join(lines)


def _all() -> str:
    """What is asked for, and then what it leads to."""
    return f"""
define i64 @stitch(ptr %s, ptr %ctx, i64 %pc) #0 {{
entry:
  %list = alloca [{_AT_ONCE + 1} x i64], align 16
  store i64 0, ptr %list
  %taken = cmpxchg ptr %ctx, i64 0, i64 1 acquire monotonic
  %mine = extractvalue {{i64, i1}} %taken, 1
  br i1 %mine, label %begin, label %never
never:
  ret i64 0
begin:
  %unit = call i64 @unit(ptr %ctx, i64 %pc, ptr %list)
  br label %next
next:
  %done = phi i64 [0, %begin], [%done.1, %one]
  %many = load i64, ptr %list
  %more = icmp ult i64 %done, %many
  br i1 %more, label %one, label %end
one:
  %done.1 = add i64 %done, 1
  %slot = getelementptr i64, ptr %list, i64 %done.1
  %goal = load i64, ptr %slot
  call i64 @unit(ptr %ctx, i64 %goal, ptr %list)
  br label %next
end:
  store atomic i64 0, ptr %ctx release, align 8
  ret i64 %unit
}}
"""


def stitcher_text() -> list[str]:
    """Text of `i64 @stitch(state, context, pc)`: the address of the unit at `pc`, now linked to its
    record, or 0 where there is none."""
    head = "define internal i64 @unit(ptr %ctx, i64 %pc0, ptr %list) #0 {"
    body = "".join((_begin(), _decode(), _append(), _finish()))
    parts = (_fetch(), _patch(), _copy(), _note(), _exit_to())
    return [*parts, f"{head}{body}}}", _all()]
