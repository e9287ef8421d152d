"""The native stitcher, as LLVM text: decode, copy the stencil, fill its holes, on to the next.

A unit is what follows from one address: through branches that are not taken and jumps that link
nothing, to where control goes elsewhere, and within one page of guest memory, so that whoever
discards what was decoded from a page discards its units with the records that lead to them. Ways
out go through the record of the address they lead to.
"""

from __future__ import annotations

from hartwood.jit import abi
from hartwood.jit import stitch as layout
from hartwood.jit.stitch import LIMIT, PIECE, context_offset
from hartwood.jit.stitchparts import (
    AT_ONCE,
    EXIT,
    LEAVE,
    LOOP,
    SITES,
    STUB,
    USER,
    Space,
    parts_text,
    word,
)

#: Stubs of one unit at most.
_MOST = 2 * LIMIT + 8


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
    "next", "end", "base", "room", "count", "table", "decode", "joints", "units",
    "to_fetch", "region", "fresh", "gone", "unlinked", "stitched", "records",
)  # fmt: skip


def _begin(space: Space) -> str:
    """Look whether there is room and whether there is anything to do."""
    return f"""
entry:
  %rec = alloca [64 x i8], align 16
  %sites = alloca [{SITES} x i64], align 16
  %sites.taken = getelementptr i64, ptr %sites, i64 {SITES // 2}
  %stubs = alloca [{8 + STUB * _MOST} x i8], align 16
  %pc.v = alloca i64
  %out.v = alloca i64
  %count.v = alloca i64
  %n.v = alloca i64
  %i.v = alloca i64
  %leap.v = alloca i64
  br label %begin
abort:
  ret i64 0
begin:
{"".join(map(word, _USED))}
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
  %record.i = add i64 %record.o, %records
  %record = inttoptr i64 %record.i to ptr
  %old = {space.handler("%record", "abort")}
there:
  %past = add i64 %base, {layout.AREA}
  %above = icmp uge i64 %old, %base
  %below = icmp ult i64 %old, %past
  %known = and i1 %above, %below
  br i1 %known, label %already, label %unknown
already:
  ret i64 %old
unknown:
  ; Only what was decoded, from a page that is watched and not about to change.
  %translated = icmp eq i64 %old, %region
  %untried.e = icmp eq i64 %old, %fresh
  %untried = and i1 %untried.e, {str(not space.untried).lower()}
  %retired = icmp eq i64 %old, %gone
  %odd.1 = and i64 %epoch, 1
  %changing = icmp ne i64 %odd.1, 0
  %bad.1 = or i1 %translated, %untried
  %bad.2 = or i1 %retired, %changing
  %bad = or i1 %bad.1, %bad.2
  br i1 %bad, label %abort, label %start
start:{space.begins}
  store i64 %pc0, ptr %pc.v
  store i64 %next, ptr %out.v
  store i64 0, ptr %count.v
  store i64 0, ptr %n.v
  store i64 0, ptr %leap.v
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
  %first = call i32 @half(ptr %ctx, i64 %pc)
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
  %second = call i32 @half(ptr %ctx, i64 %pc.2)
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


def _append(space: Space) -> str:
    """One more instruction, and what its kind means for the unit."""
    return f"""
append:
  store i64 0, ptr %sites
  store i64 0, ptr %sites.taken
  %out.1 = call i64 @copy(ptr %ctx, i64 %number, i64 %out, ptr %rec, i64 %pc, i64 %run.1,
                          ptr %sites)
  store i64 %out.1, ptr %out.v
  store i64 %n.1, ptr %n.v
{space.appended}
  %fault.a = call i64 @fault_of(ptr %ctx, i64 %number, i64 %out)
  ; An indirect jump that faults has jumped already: its page is not there.
  %leaps = icmp eq i8 %kind, {layout.INDIRECT}
  %fault = select i1 %leaps, i64 0, i64 %fault.a
  %leap = select i1 %leaps, i64 %fault.a, i64 0
  store i64 %leap, ptr %leap.v
  %leaves = load i64, ptr %sites
  %leave.1p = getelementptr i64, ptr %sites, i64 1
  %leave.1 = load i64, ptr %leave.1p
  %leave.any = icmp ne i64 %leaves, 0
  %site = select i1 %leave.any, i64 %leave.1, i64 0
  %wanted.i = or i64 %site, %fault
  %wanted = icmp ne i64 %wanted.i, 0
  br i1 %wanted, label %must.leave, label %went
must.leave:
  call void @stub(ptr %stubs, i64 {LEAVE}, i64 %pc, i64 %run, i64 %site, i64 %fault)
  store i64 2, ptr %i.v
  br label %others
others:
  %i = load i64, ptr %i.v
  %further = icmp ule i64 %i, %leaves
  br i1 %further, label %other, label %went
other:
  %other.p = getelementptr i64, ptr %sites, i64 %i
  %other.s = load i64, ptr %other.p
  call void @stub(ptr %stubs, i64 {LEAVE}, i64 %pc, i64 %run, i64 %other.s, i64 0)
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
  %how = select i1 %home, i64 {LOOP}, i64 {EXIT}
  call void @stub(ptr %stubs, i64 %how, i64 %goal, i64 0, i64 %taken.1, i64 0)
  store i64 0, ptr %count.v
  store i64 %following, ptr %pc.v
  ; A branch backwards is mostly taken: what follows is another unit's business.
  %backward = icmp slt i64 %imm, 0
  br i1 %backward, label %ends, label %insn
called:
  %called.1p = getelementptr i64, ptr %sites.taken, i64 1
  %called.1 = load i64, ptr %called.1p
  call void @stub(ptr %stubs, i64 {EXIT}, i64 %goal, i64 0, i64 %called.1, i64 0)
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
  call void @stub(ptr %stubs, i64 {EXIT}, i64 %pc.e, i64 0, i64 %onward.s, i64 0)
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
  %f.leaves = icmp eq i64 %f.kind, {LEAVE}
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
  %own.f = load i64, ptr %leap.v
  %own.none = icmp eq i64 %own.f, 0
  br i1 %own.none, label %second.pass, label %own.note
own.note:
  call void @fault(ptr %ctx, i64 %own.f, i64 %to_fetch)
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
    i64 {EXIT}, label %second.exit  i64 {LOOP}, label %second.loop ]
second.exit:
  %away.o = load i64, ptr %out.v
  %away = call i64 @exit_to(ptr %ctx, i64 %away.o, ptr %rec, i64 %g.pc, i64 %pc0, ptr %sites,
                            ptr %list, ptr %out.v)
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
        f"  %{name}.o = mul i64 %{name}, {STUB}",
        f"  %{name}.o8 = add i64 %{name}.o, 8",
        f"  %{name}.at = getelementptr i8, ptr %stubs, i64 %{name}.o8",
    ]
    for index, field in enumerate(("kind", "pc", "count", "site", "fault")):
        lines.append(f"  %{name}.p{index} = getelementptr i64, ptr %{name}.at, i64 {index}")
        lines.append(f"  %{name}.{field} = load i64, ptr %{name}.p{index}")
    return "\n".join(lines)


#: `i64 @all(ctx, pc)`: what is asked for, and then what it leads to.
_ALL = f"""
define internal i64 @all(ptr %ctx, i64 %pc) #0 {{
entry:
  %list = alloca [{AT_ONCE + 1} x i64], align 16
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
_STITCH = """
define i64 @stitch(ptr %s, ptr %ctx, i64 %pc) #0 {
  %unit = call i64 @all(ptr %ctx, i64 %pc)
  ret i64 %unit
}
"""


def stitcher_text(space: Space = USER, stitch: str = _STITCH) -> list[str]:
    """Text of `i64 @stitch(state, context, pc)`: the address of the unit at `pc`, now linked to its
    record, or 0 where there is none. Another way in takes a lock of its own around `@all`."""
    head = "define internal i64 @unit(ptr %ctx, i64 %pc0, ptr %list) #0 {"
    body = "".join((_begin(space), _decode(), _append(space), _finish()))
    return [*parts_text(space), f"{head}{body}}}", _ALL, stitch]
