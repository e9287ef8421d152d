"""What is behind a TLB miss, as LLVM text: the memory map, filling and forgetting entries, time.

`$name` is a pointer to a field of the state (`sysfunctions.expand`).
"""

from __future__ import annotations

from hartwood.jit import sysabi
from hartwood.jit.sysabi import CONTEXTS, LARGE, RECORDS_PER_PAGE, TLB_ENTRIES
from hartwood.mem.regiontable import COPIES_AT, COPY, COUNT_BITS, READ_ONLY

#: What a walk gives where it has to begin again, in place of a cause.
AGAIN = 64
#: Bytes of TLBs that a context has, and where the first one's are.
CONTEXT = 3 * TLB_ENTRIES * 16
TLBS = sysabi.offset("tlbs")


#: The word of "large" that has the bit `%bit.o` for the 2 MiB around `%va`, and where it is.
_LARGE_BIT = f"""
  %word.n = ashr i64 %va, 27
  %word.h = and i64 %word.n, {LARGE // 2 - 1}
  %word.s = lshr i64 %va, 63
  %word.u = mul i64 %word.s, {LARGE // 2}
  %word.o = add i64 %word.h, %word.u
  %word.p = getelementptr i64, ptr $large, i64 %word.o
  %word = load i64, ptr %word.p
  %bit.n = lshr i64 %va, 21
  %bit.o = and i64 %bit.n, 63"""


def _fill(name: str, access: int, tlb: int) -> str:
    """i64 @name(s, va, last): the host address for a region's access that missed, once there is an
    entry that answers it; else 0, and the interpreter does it."""
    return f"""
define preserve_mostcc i64 @{name}(ptr %s, i64 %va, i64 %last) #0 {{
  %page = and i64 %va, -4096
  %differ = xor i64 %last, %va
  %one = icmp ult i64 %differ, 4096
  br i1 %one, label %try, label %none
none:
  ret i64 0
try:
  %p = call ptr @reach(ptr %s, i64 %va, i64 {access})
  %tlb = load ptr, ptr $tlb
  %index = lshr i64 %va, 8
  %slot = and i64 %index, {(TLB_ENTRIES - 1) << 4}
  %at = add i64 %slot, {tlb * TLB_ENTRIES * 16}
  %e = getelementptr i8, ptr %tlb, i64 %at
  %tag = load i64, ptr %e
  %hit = icmp eq i64 %tag, %page
  br i1 %hit, label %found, label %none
found:
  %addp = getelementptr i8, ptr %e, i64 8
  %add = load i64, ptr %addp
  %host = add i64 %add, %va
  ret i64 %host
}}"""


TEXT = f"""{_fill("fill_read", 1, sysabi.READ)}{_fill("fill_write", 2, sysabi.WRITE)}
define i64 @retired(ptr %s, i64 %budget) #0 {{
  %goal = load i64, ptr $goal
  %n = sub i64 %goal, %budget
  ret i64 %n
}}
define i64 @now(ptr %s, i64 %budget) #0 {{
  %clock = load ptr, ptr $clock
  %offset = load i64, ptr $time_offset
  %counted = icmp eq ptr %clock, null
  br i1 %counted, label %count, label %ask
count:
  %n = call i64 @retired(ptr %s, i64 %budget)
  %ticks = udiv i64 %n, {sysabi.INSTRUCTIONS_PER_TICK}
  %t = add i64 %ticks, %offset
  ret i64 %t
ask:
  %status = call i32 %clock(i32 1, ptr $timespec)
  %seconds = load i64, ptr $timespec
  %at = getelementptr i8, ptr $timespec, i64 8
  %nano = load i64, ptr %at
  %whole = mul i64 %seconds, {sysabi.FREQUENCY}
  %part = udiv i64 %nano, {10**9 // sysabi.FREQUENCY}
  %sum = add i64 %whole, %part
  %t2 = add i64 %sum, %offset
  ret i64 %t2
}}
define ptr @ram(ptr %s, i64 %at, i64 %access) #0 {{
  %memory = load ptr, ptr $memory
  %table = load ptr, ptr $table
  br label %again
again:
  %head = load atomic i64, ptr %table acquire, align 8
  %which = and i64 %head, 1
  %far = mul i64 %which, {COPY}
  %start = add i64 %far, {COPIES_AT}
  %copy = getelementptr i8, ptr %table, i64 %start
  %counted = lshr i64 %head, 1
  %count = and i64 %counted, {(1 << COUNT_BITS) - 1}
  br label %next
next:
  ; The first region after the address is at or after `low`, among the `n` from there.
  %low = phi i64 [0, %again], [%low1, %look]
  %n = phi i64 [%count, %again], [%n1, %look]
  %end = icmp eq i64 %n, 0
  br i1 %end, label %last, label %look
look:
  %half = lshr i64 %n, 1
  %mid = add i64 %low, %half
  %midb = mul i64 %mid, 24
  %midp = getelementptr i8, ptr %copy, i64 %midb
  %begins = load atomic i64, ptr %midp monotonic, align 8
  %up = icmp ule i64 %begins, %at
  %above = add i64 %mid, 1
  %low1 = select i1 %up, i64 %above, i64 %low
  %rest0 = sub i64 %n, %half
  %rest = sub i64 %rest0, 1
  %n1 = select i1 %up, i64 %rest, i64 %half
  br label %next
last:
  %before = sub i64 %low, 1
  %first = icmp eq i64 %low, 0
  %place = select i1 %first, i64 0, i64 %before
  %hereb = mul i64 %place, 24
  %here = getelementptr i8, ptr %copy, i64 %hereb
  %at0 = load atomic i64, ptr %here monotonic, align 8
  %sizep = getelementptr i8, ptr %here, i64 8
  %size = load atomic i64, ptr %sizep monotonic, align 8
  %deltap = getelementptr i8, ptr %here, i64 16
  %delta = load atomic i64, ptr %deltap monotonic, align 8
  fence acquire
  %now = load atomic i64, ptr %table monotonic, align 8
  %steady = icmp eq i64 %head, %now
  br i1 %steady, label %decide, label %again
decide:
  %off = sub i64 %at, %at0
  %in = icmp ult i64 %off, %size
  %some = xor i1 %first, true
  %found = and i1 %in, %some
  br i1 %found, label %rights, label %none
none:
  ret ptr null
rights:
  %only = and i64 %delta, {READ_ONLY}
  %fixed = icmp ne i64 %only, 0
  %stores = icmp eq i64 %access, 2
  %never = and i1 %fixed, %stores
  br i1 %never, label %refuse, label %give
refuse:
  ret ptr inttoptr (i64 1 to ptr)
give:
  %plain = xor i64 %delta, %only
  %inside = add i64 %plain, %off
  %host = getelementptr i8, ptr %memory, i64 %inside
  ret ptr %host
}}
define ptr @table(ptr %s, i64 %at, i64 %access) #0 {{
  %nowhere = icmp eq i64 %at, -1
  br i1 %nowhere, label %zero, label %look
zero:
  store i64 0, ptr $nothing
  ret ptr $nothing
look:
  %allowed = call i1 @protection(ptr %s, i64 %at, i64 1, i64 1)
  br i1 %allowed, label %go, label %none
go:
  %host = call ptr @ram(ptr %s, i64 %at, i64 %access)
  %fixed = icmp eq ptr %host, inttoptr (i64 1 to ptr)
  br i1 %fixed, label %none, label %give
give:
  ret ptr %host
none:
  ret ptr null
}}
define void @flush(ptr %s, i64 %va, i1 %every) #0 {{
  store i64 0, ptr $io_pages
  %io.w = getelementptr i8, ptr $io_pages, i64 16
  store i64 0, ptr %io.w
  ; One address stands for the whole page that maps it (Priv. 12.2.1), whose parts may be anywhere.
  %page = and i64 %va, -4096{_LARGE_BIT}
  %parts = lshr i64 %word, %bit.o
  %giant = load i64, ptr $larger
  %giga.n = lshr i64 %va, 30
  %giga = and i64 %giga.n, 63
  %gigas = lshr i64 %giant, %giga
  %both = or i64 %parts, %gigas
  %large = trunc i64 %both to i1
  %all = or i1 %every, %large
  %tlbs = getelementptr i8, ptr %s, i64 {TLBS}
  br i1 %all, label %clear, label %one
clear:
  %count = load i64, ptr $tlb_flushes
  %counted = add i64 %count, 1
  store i64 %counted, ptr $tlb_flushes
  %first = getelementptr i8, ptr $large, i64 0
  store i64 0, ptr $larger
  br label %forget
forget:
  %w = phi i64 [0, %clear], [%w1, %forget]
  %w.p = getelementptr i64, ptr %first, i64 %w
  store i64 0, ptr %w.p
  %w1 = add i64 %w, 1
  %forgotten = icmp eq i64 %w1, {LARGE}
  br i1 %forgotten, label %each, label %forget
each:
  %t = phi i64 [0, %forget], [%t1, %skip]
  %u = getelementptr i32, ptr $used, i64 %t
  %filled = load i32, ptr %u
  %full = icmp ne i32 %filled, 0
  br i1 %full, label %empty, label %skip
empty:
  store i32 0, ptr %u
  %from = mul i64 %t, {TLB_ENTRIES * 16}
  %past.t = add i64 %from, {TLB_ENTRIES * 16}
  br label %loop
loop:
  %i = phi i64 [%from, %empty], [%j, %loop]
  %e = getelementptr i8, ptr %tlbs, i64 %i
  store i64 -1, ptr %e
  %j = add i64 %i, 16
  %done = icmp eq i64 %j, %past.t
  br i1 %done, label %skip, label %loop
skip:
  %t1 = add i64 %t, 1
  %last.t = icmp eq i64 %t1, {3 * CONTEXTS}
  br i1 %last.t, label %end, label %each
one:
  %index = lshr i64 %page, 8
  %slot = and i64 %index, {(TLB_ENTRIES - 1) << 4}
  br label %loop1
loop1:
  %k = phi i64 [%slot, %one], [%l, %next1]
  %e1 = getelementptr i8, ptr %tlbs, i64 %k
  %tag = load i64, ptr %e1
  %same = icmp eq i64 %tag, %page
  br i1 %same, label %kill, label %next1
kill:
  store i64 -1, ptr %e1
  br label %next1
next1:
  %l = add i64 %k, {TLB_ENTRIES * 16}
  %past = icmp uge i64 %l, {CONTEXTS * CONTEXT}
  br i1 %past, label %end, label %loop1
end:
  ret void
}}
define internal void @use(ptr %s, ptr %entry) #0 {{
  %tlbs = getelementptr i8, ptr %s, i64 {TLBS}
  %a = ptrtoint ptr %entry to i64
  %b = ptrtoint ptr %tlbs to i64
  %off = sub i64 %a, %b
  %tlb = udiv i64 %off, {TLB_ENTRIES * 16}
  %u = getelementptr i32, ptr $used, i64 %tlb
  store i32 1, ptr %u
  ret void
}}
define ptr @reach(ptr %s, i64 %va, i64 %access) #0 {{
  %misses = load i64, ptr $tlb_misses
  %misses1 = add i64 %misses, 1
  store i64 %misses1, ptr $tlb_misses
  %fetch = icmp eq i64 %access, 0
  %own = load i64, ptr $mode
  %data = call i64 @data_mode(ptr %s)
  %mode = select i1 %fetch, i64 %own, i64 %data
  br label %again
again:
  %cause = call i64 @walk(ptr %s, i64 %va, i64 %access, i64 %mode)
  %retry = icmp eq i64 %cause, {AGAIN}
  br i1 %retry, label %again, label %walked
walked:
  %fault = icmp ne i64 %cause, 0
  br i1 %fault, label %failed, label %translated
denied:
  %twice = shl i64 %access, 1
  %three = add i64 %twice, 3
  %accessfault = select i1 %fetch, i64 1, i64 %three
  br label %failed
failed:
  %why = phi i64 [%cause, %walked], [%accessfault, %denied]
  store i64 %why, ptr $cause
  store i64 %va, ptr $tval
  ret ptr null
translated:
  %pa = load i64, ptr $physical
  %allowed = call i1 @protection(ptr %s, i64 %pa, i64 %access, i64 %mode)
  br i1 %allowed, label %there, label %denied
there:
  %host = call ptr @ram(ptr %s, i64 %pa, i64 %access)
  %fixed = icmp eq ptr %host, inttoptr (i64 1 to ptr)
  br i1 %fixed, label %denied, label %somewhere
somewhere:
  %none = icmp eq ptr %host, null
  br i1 %none, label %device, label %memory
device:
  br i1 %fetch, label %denied, label %io
io:
  ret ptr inttoptr (i64 1 to ptr)
memory:
  %span = load i64, ptr $span
  %big = icmp ugt i64 %span, 4095
  br i1 %big, label %large, label %fill
large:
  %small = icmp ult i64 %span, {1 << 21}
  br i1 %small, label %note2, label %note1
note2:{_LARGE_BIT}
  %bit = shl i64 1, %bit.o
  %word.1 = or i64 %word, %bit
  store i64 %word.1, ptr %word.p
  br label %fill
note1:
  %giga.n = lshr i64 %va, 30
  %giga.o = and i64 %giga.n, 63
  %giga = shl i64 1, %giga.o
  %huge = icmp ult i64 %span, {1 << 30}
  %which = select i1 %huge, i64 %giga, i64 -1
  %giant = load i64, ptr $larger
  %giant.1 = or i64 %giant, %which
  store i64 %giant.1, ptr $larger
  br label %fill
fill:
  %base = load i64, ptr $memory
  %h = ptrtoint ptr %host to i64
  %off = sub i64 %h, %base
  %page = lshr i64 %off, 12
  %flags = load ptr, ptr $flags
  %flagp = getelementptr i8, ptr %flags, i64 %page
  %flag = load i8, ptr %flagp
  %vpage = and i64 %va, -4096
  %index = lshr i64 %va, 8
  %slot = and i64 %index, {(TLB_ENTRIES - 1) << 4}
  br i1 %fetch, label %code, label %plain
plain:
  %iswrite = icmp eq i64 %access, 2
  %iscode = icmp ne i8 %flag, 0
  %skip = and i1 %iswrite, %iscode
  br i1 %skip, label %nofill, label %tlbfill
nofill:
  ret ptr %host
tlbfill:
  %tlb = load ptr, ptr $tlb
  %which.t = select i1 %iswrite, i64 {TLB_ENTRIES * 16}, i64 0
  %where0 = add i64 %which.t, %slot
  %where = getelementptr i8, ptr %tlb, i64 %where0
  %hostpage = and i64 %h, -4096
  %add = sub i64 %hostpage, %vpage
  %addp = getelementptr i8, ptr %where, i64 8
  call void @use(ptr %s, ptr %where)
  store volatile i64 -1, ptr %where
  store volatile i64 %add, ptr %addp
  store volatile i64 %vpage, ptr %where
  br i1 %iswrite, label %recheck, label %filled
recheck:
  fence seq_cst
  %flag2 = load volatile i8, ptr %flagp
  %became = icmp ne i8 %flag2, 0
  br i1 %became, label %undo, label %filled
undo:
  store volatile i64 -1, ptr %where
  ret ptr %host
filled:
  ret ptr %host
code:
  %fresh1 = icmp eq i8 %flag, 0
  br i1 %fresh1, label %begin, label %ready
begin:
  call void @page_in(ptr %s, i64 %page)
  br label %ready
ready:
  %records = load i64, ptr $records
  %rel = mul i64 %page, {RECORDS_PER_PAGE}
  %rbase = add i64 %records, %rel
  %vp8 = shl i64 %vpage, 3
  %radd = sub i64 %rbase, %vp8
  %ftlb = load ptr, ptr $tlb_fetch
  %fslot = add i64 %slot, {2 * TLB_ENTRIES * 16}
  %fwhere = getelementptr i8, ptr %ftlb, i64 %fslot
  call void @use(ptr %s, ptr %fwhere)
  store i64 %vpage, ptr %fwhere
  %faddp = getelementptr i8, ptr %fwhere, i64 8
  store i64 %radd, ptr %faddp
  %v8 = shl i64 %va, 3
  %rint = add i64 %v8, %radd
  %rptr = inttoptr i64 %rint to ptr
  ret ptr %rptr
}}
"""
