"""Which pages hold decoded code, as LLVM text: what a store there forgets, what another hart makes
of a page, and how a region is linked.

`$name` is a pointer to a field of the state (`sysfunctions.expand`).
"""

from __future__ import annotations

from hartwood.jit.sysabi import CONTEXTS, RECORDS_PER_PAGE, TLB_ENTRIES
from hartwood.jit.tlbtext import CONTEXT, TLBS
from hartwood.mem.ram import STITCHED
from hartwood.mem.regiontable import HARTS_AT, LOCK_AT

TEXT = f"""
define i1 @link_region(ptr %s, i64 %page, ptr %halves, i64 %n, ptr %places, i64 %m, i64 %code) #0 {{
  call void @lock(ptr %s)
  %flags = load ptr, ptr $flags
  %flag = getelementptr i8, ptr %flags, i64 %page
  %was = load volatile i8, ptr %flag
  %gone = icmp eq i8 %was, 0
  %memory = load ptr, ptr $memory
  %far = shl i64 %page, 12
  %bytes = getelementptr i8, ptr %memory, i64 %far
  %records = load ptr, ptr $records
  %rel = mul i64 %page, {RECORDS_PER_PAGE}
  %base = getelementptr i8, ptr %records, i64 %rel
  br i1 %gone, label %no, label %same
same:
  %i = phi i64 [0, %0], [%i1, %more]
  %all = icmp eq i64 %i, %n
  br i1 %all, label %yes, label %look
look:
  ; Offset and value of a halfword that the region was made from.
  %hp = getelementptr i32, ptr %halves, i64 %i
  %h = load i32, ptr %hp
  %want = trunc i32 %h to i16
  %off32 = lshr i32 %h, 16
  %off = zext i32 %off32 to i64
  %bp = getelementptr i8, ptr %bytes, i64 %off
  %have = load volatile i16, ptr %bp, align 2
  %equal = icmp eq i16 %want, %have
  br i1 %equal, label %more, label %no
more:
  %i1 = add i64 %i, 1
  br label %same
yes:
  %mark = or i8 %was, {STITCHED}
  store volatile i8 %mark, ptr %flag
  br label %next
next:
  %k = phi i64 [0, %yes], [%k1, %put]
  %done = icmp eq i64 %k, %m
  br i1 %done, label %end, label %put
put:
  %pp = getelementptr i32, ptr %places, i64 %k
  %at32 = load i32, ptr %pp
  %at = zext i32 %at32 to i64
  %at8 = shl i64 %at, 3
  %rec = getelementptr i8, ptr %base, i64 %at8
  store atomic i64 %code, ptr %rec release, align 8
  %k1 = add i64 %k, 1
  br label %next
no:
  call void @unlock(ptr %s)
  ret i1 false
end:
  call void @unlock(ptr %s)
  ret i1 true
}}
define void @lock(ptr %s) #0 {{
  %table = load ptr, ptr $table
  %word = getelementptr i8, ptr %table, i64 {LOCK_AT}
  br label %try
try:
  %old = atomicrmw xchg ptr %word, i64 1 seq_cst
  %free = icmp eq i64 %old, 0
  br i1 %free, label %mine, label %try
mine:
  ret void
}}
define void @unlock(ptr %s) #0 {{
  %table = load ptr, ptr $table
  %word = getelementptr i8, ptr %table, i64 {LOCK_AT}
  store atomic i64 0, ptr %word seq_cst, align 8
  ret void
}}
define void @fence_code(ptr %s) #0 {{
  %table = load ptr, ptr $table
  %who = getelementptr i8, ptr %table, i64 {HARTS_AT + 8}
  %second = load ptr, ptr %who
  %alone = icmp eq ptr %second, null
  br i1 %alone, label %out, label %flush
flush:
  call void @flush(ptr %s, i64 0, i1 true)
  ret void
out:
  ret void
}}
define void @drop(ptr %s, i64 %tlb, i64 %shift, i64 %base) #0 {{
  %table = load ptr, ptr $table
  br label %hart
hart:
  %n = phi i64 [{HARTS_AT}, %0], [%n2, %after]
  %who = getelementptr i8, ptr %table, i64 %n
  %other = load volatile ptr, ptr %who
  %n2 = add i64 %n, 8
  %last = icmp eq ptr %other, null
  br i1 %last, label %out, label %there
there:
  %tlbs = getelementptr i8, ptr %other, i64 {TLBS}
  br label %context
context:
  %c = phi i64 [%tlb, %there], [%d, %contextend]
  br label %loop
loop:
  %i = phi i64 [0, %context], [%j, %next]
  %at = add i64 %c, %i
  %e = getelementptr i8, ptr %tlbs, i64 %at
  %tag = load volatile i64, ptr %e
  %ap = getelementptr i8, ptr %e, i64 8
  %add = load volatile i64, ptr %ap
  %scaled = shl i64 %tag, %shift
  %target = add i64 %scaled, %add
  %same = icmp eq i64 %target, %base
  br i1 %same, label %kill, label %next
kill:
  store volatile i64 -1, ptr %e
  br label %next
next:
  %j = add i64 %i, 16
  %done = icmp eq i64 %j, {TLB_ENTRIES * 16}
  br i1 %done, label %contextend, label %loop
contextend:
  %d = add i64 %c, {CONTEXT}
  %end = icmp uge i64 %d, {CONTEXTS * CONTEXT}
  br i1 %end, label %after, label %context
after:
  br label %hart
out:
  ret void
}}
define void @page_in(ptr %s, i64 %page) #0 {{
  %all = load ptr, ptr $records
  %at = mul i64 %page, {RECORDS_PER_PAGE}
  %base = getelementptr i8, ptr %all, i64 %at
  call void @lock(ptr %s)
  br label %loop
loop:
  %i = phi i64 [0, %0], [%j, %loop]
  %rec = getelementptr i8, ptr %base, i64 %i
  store ptr @decode, ptr %rec
  %j = add i64 %i, 16
  %done = icmp eq i64 %j, 32768
  br i1 %done, label %last, label %loop
last:
  %c1 = getelementptr i8, ptr %base, i64 32768
  store ptr @cross, ptr %c1
  %c2 = getelementptr i8, ptr %base, i64 32784
  store ptr @cross, ptr %c2
  %flags = load ptr, ptr $flags
  %flag = getelementptr i8, ptr %flags, i64 %page
  store atomic i8 1, ptr %flag seq_cst, align 1
  fence seq_cst
  %memory = load i64, ptr $memory
  %off = shl i64 %page, 12
  %host = add i64 %memory, %off
  call void @drop(ptr %s, i64 {TLB_ENTRIES * 16}, i64 0, i64 %host)
  call void @unlock(ptr %s)
  ret void
}}
define i1 @discard(ptr %s, i64 %off, i64 %size) #0 {{
  call void @lock(ptr %s)
  %page = lshr i64 %off, 12
  %flags = load ptr, ptr $flags
  %flag = getelementptr i8, ptr %flags, i64 %page
  %code = load volatile i8, ptr %flag
  %plain = icmp eq i8 %code, 0
  br i1 %plain, label %end, label %which
which:
  %in = and i64 %off, 4095
  %slot = lshr i64 %in, 1
  %prev = sub i64 %slot, 1
  %neg = icmp slt i64 %prev, 0
  %from1 = select i1 %neg, i64 0, i64 %prev
  %lastb = add i64 %in, %size
  %lastb1 = sub i64 %lastb, 1
  %to1 = lshr i64 %lastb1, 1
  ; A unit may hold anything of its page.
  %units = icmp slt i8 %code, 0
  %from = select i1 %units, i64 0, i64 %from1
  %to = select i1 %units, i64 2047, i64 %to1
  %all = load ptr, ptr $records
  %at = mul i64 %page, {RECORDS_PER_PAGE}
  %base = getelementptr i8, ptr %all, i64 %at
  br label %loop
loop:
  %i = phi i64 [%from, %which], [%j, %loop]
  %ro = shl i64 %i, 4
  %r = getelementptr i8, ptr %base, i64 %ro
  store atomic ptr @decode, ptr %r release, align 8
  %j = add i64 %i, 1
  %done = icmp ugt i64 %j, %to
  br i1 %done, label %count, label %loop
count:
  %times = and i8 %code, {STITCHED - 1}
  %few = icmp ult i8 %times, 17
  %more = add i8 %times, 1
  %capped = select i1 %few, i8 %more, i8 %times
  store i8 %capped, ptr %flag
  %many = xor i1 %few, true
  br label %end
end:
  %often = phi i1 [false, %0], [%many, %count]
  call void @unlock(ptr %s)
  ret i1 %often
}}
define void @wrote(ptr %s, ptr %host, i64 %size, ptr %rec) #0 {{
  %memory = load i64, ptr $memory
  %h = ptrtoint ptr %host to i64
  %off = sub i64 %h, %memory
  %page = lshr i64 %off, 12
  %flags = load ptr, ptr $flags
  %flag = getelementptr i8, ptr %flags, i64 %page
  %code = load i8, ptr %flag
  %plain = icmp eq i8 %code, 0
  br i1 %plain, label %out, label %discard
discard:
  %often = call i1 @discard(ptr %s, i64 %off, i64 %size)
  %all = load i64, ptr $records
  %at = mul i64 %page, {RECORDS_PER_PAGE}
  %bi = add i64 %all, %at
  %ri = ptrtoint ptr %rec to i64
  %dist = sub i64 %ri, %bi
  %other = icmp uge i64 %dist, {RECORDS_PER_PAGE}
  %worth = and i1 %other, %often
  br i1 %worth, label %give, label %out
give:
  call void @lock(ptr %s)
  call void @drop(ptr %s, i64 {2 * TLB_ENTRIES * 16}, i64 3, i64 %bi)
  store atomic i8 0, ptr %flag seq_cst, align 1
  call void @unlock(ptr %s)
  ret void
out:
  ret void
}}
define ptr @bytes_of(ptr %s, ptr %rec) #0 {{
  %records = load i64, ptr $records
  %r = ptrtoint ptr %rec to i64
  %rel = sub i64 %r, %records
  %page = udiv i64 %rel, {RECORDS_PER_PAGE}
  %start = mul i64 %page, {RECORDS_PER_PAGE}
  %in = sub i64 %rel, %start
  %byte = lshr i64 %in, 3
  %off = shl i64 %page, 12
  %sum = add i64 %off, %byte
  %memory = load ptr, ptr $memory
  %host = getelementptr i8, ptr %memory, i64 %sum
  ret ptr %host
}}
"""
