"""Accesses that missed the TLB, as LLVM text: devices, misaligned ones, those on pages of code.

`$name` is a pointer to a field of the state (`sysfunctions.expand`). Each says whether it
succeeded; if not, the state holds the exception. A misaligned access to anything but memory is an
access fault (Priv. 3.6.3.3 leaves the choice). A device that has shown a register, or lets stores
to one wait (`mem.posted`), is not called.
"""

from __future__ import annotations

from hartwood.jit.tlbtext import CONTEXT
from hartwood.mem import posted
from hartwood.mem.regiontable import WINDOWS_AT

#: ptr @access(s, va, access): as `@reach`, which is not asked again for the page of a device.
_ACCESS = f"""
define ptr @access(ptr %s, i64 %va, i64 %access) #0 {{
  %page = and i64 %va, -4096
  %tlb = load i64, ptr $tlb
  %first = ptrtoint ptr $tlbs to i64
  %apart = sub i64 %tlb, %first
  %context = udiv i64 %apart, {CONTEXT}
  %some = add i64 %context, 1
  %key = or i64 %page, %some
  %which = shl i64 %access, 4
  %from = sub i64 %which, 16
  %key.p = getelementptr i8, ptr $io_pages, i64 %from
  %known = load i64, ptr %key.p
  %pa.p = getelementptr i8, ptr %key.p, i64 8
  %same = icmp eq i64 %known, %key
  br i1 %same, label %hit, label %walk
hit:
  %pa.page = load i64, ptr %pa.p
  %in = and i64 %va, 4095
  %pa.hit = or i64 %pa.page, %in
  store i64 %pa.hit, ptr $physical
  ret ptr inttoptr (i64 1 to ptr)
walk:
  %p = call ptr @reach(ptr %s, i64 %va, i64 %access)
  %device = icmp eq ptr %p, inttoptr (i64 1 to ptr)
  br i1 %device, label %note, label %end
note:
  %pa = load i64, ptr $physical
  %pa.new = and i64 %pa, -4096
  store i64 %pa.new, ptr %pa.p
  store i64 %key, ptr %key.p
  br label %end
end:
  ret ptr %p
}}
"""

#: {i64, i1} @posted(s, write, size, value): what a load at `physical` gave, and whether a window
#: has served it.
_POSTED = f"""
define {{i64, i1}} @posted(ptr %s, i1 %write, i64 %size, i64 %value) #0 {{
  %pa = load i64, ptr $physical
  %table = load ptr, ptr $table
  br label %next
next:
  %n = phi i64 [{WINDOWS_AT}, %0], [%n1, %window]
  %entry = getelementptr i8, ptr %table, i64 %n
  %w = load volatile ptr, ptr %entry
  %n1 = add i64 %n, 8
  %none = icmp eq ptr %w, null
  br i1 %none, label %ask, label %window
window:
  %at.p = getelementptr i64, ptr %w, i64 {posted.AT}
  %at = load i64, ptr %at.p
  %offset = sub i64 %pa, %at
  %shift.p = getelementptr i64, ptr %w, i64 {posted.SHIFT}
  %shift = load i64, ptr %shift.p
  %register = lshr i64 %offset, %shift
  %in = icmp ult i64 %register, {posted.REGISTERS}
  br i1 %in, label %found, label %next
found:
  %width = shl i64 1, %shift
  %whole = icmp eq i64 %size, %width
  br i1 %whole, label %which, label %ask
which:
  %stores.p = getelementptr i64, ptr %w, i64 {posted.STORES}
  %lowers.p = getelementptr i64, ptr %w, i64 {posted.LOWERS}
  %changes.p = select i1 %write, ptr %stores.p, ptr %lowers.p
  %likely = load volatile i64, ptr %changes.p
  %change = icmp eq i64 %likely, %register
  %lock.p = getelementptr i64, ptr %w, i64 {posted.LOCK}
  br i1 %change, label %try, label %peek
peek:
  br i1 %write, label %ask, label %load
load:
  %shown = getelementptr i64, ptr %w, i64 {posted.SHOWN}
  %shown.p = getelementptr i64, ptr %shown, i64 %register
  %got = load volatile i64, ptr %shown.p
  %asks = icmp slt i64 %got, 0
  br i1 %asks, label %ask, label %served
try:
  %held = atomicrmw xchg ptr %lock.p, i64 1 seq_cst
  %free = icmp eq i64 %held, 0
  br i1 %free, label %mine, label %try
mine:
  %changes = load volatile i64, ptr %changes.p
  %put.p = getelementptr i64, ptr %w, i64 {posted.PUT}
  %put = load i64, ptr %put.p
  %taken.p = getelementptr i64, ptr %w, i64 {posted.TAKEN}
  %taken = load volatile i64, ptr %taken.p
  %wait = sub i64 %put, %taken
  %fits = icmp ult i64 %wait, {posted.ROOM}
  %still = icmp eq i64 %changes, %register
  %may = and i1 %still, %fits
  %flag.p = getelementptr i64, ptr %w, i64 {posted.RAISED}
  br i1 %may, label %do, label %refuse
refuse:
  store atomic i64 0, ptr %lock.p release, align 8
  br label %ask
do:
  br i1 %write, label %post, label %lower
post:
  %slot = and i64 %put, {posted.ROOM - 1}
  %ring = getelementptr i8, ptr %w, i64 {posted.RING}
  %byte.p = getelementptr i8, ptr %ring, i64 %slot
  %byte = trunc i64 %value to i8
  store volatile i8 %byte, ptr %byte.p
  store volatile i64 1, ptr %flag.p
  %put1 = add i64 %put, 1
  store atomic i64 %put1, ptr %put.p release, align 8
  br label %done
lower:
  %was = load i64, ptr %flag.p
  store volatile i64 0, ptr %flag.p
  %raised = icmp ne i64 %was, 0
  %low.p = getelementptr i64, ptr %w, i64 {posted.LOW}
  %high.p = getelementptr i64, ptr %w, i64 {posted.HIGH}
  %gives.p = select i1 %raised, ptr %high.p, ptr %low.p
  %gives = load volatile i64, ptr %gives.p
  br label %done
done:
  %result = phi i64 [0, %post], [%gives, %lower]
  store atomic i64 0, ptr %lock.p release, align 8
  br label %served
ask:
  ret {{i64, i1}} zeroinitializer
served:
  %given = phi i64 [%got, %load], [%result, %done]
  %r0 = insertvalue {{i64, i1}} poison, i64 %given, 0
  %r1 = insertvalue {{i64, i1}} %r0, i1 true, 1
  ret {{i64, i1}} %r1
}}
"""


def _slow(head: str, failed: str, rest: str, *, write: bool) -> str:
    """An access that may be a device's, or lie on two pages. `rest` ends the loop over its bytes,
    one of which is at `%byte`, and has the blocks `ram`, for one page of memory, and `done`."""
    value = "%value" if write else "0"
    return f"""
define {head} #0 {{
  %more = sub i64 %size, 1
  %last = add i64 %va, %more
  %differ = xor i64 %va, %last
  %high = and i64 %differ, -4096
  %crosses = icmp ne i64 %high, 0
  %p = call ptr @access(ptr %s, i64 %va, i64 {1 + write})
  %fault = icmp eq ptr %p, null
  br i1 %fault, label %failed, label %reached
failed:
  ret {failed}
reached:
  %isio = icmp eq ptr %p, inttoptr (i64 1 to ptr)
  br i1 %crosses, label %two, label %onepage
onepage:
  br i1 %isio, label %io, label %ram
io:
  %got = call i64 @device(ptr %s, i1 {int(write)}, i64 %va, i64 %size, i64 %budget, i64 {value})
  %bad = load i32, ptr $io_fault
  %isbad = icmp ne i32 %bad, 0
  br i1 %isbad, label %failed, label %done
misaligned:
  store i64 {5 + 2 * write}, ptr $cause
  store i64 %va, ptr $tval
  ret {failed}
two:
  %second = and i64 %last, -4096
  br i1 %isio, label %misaligned, label %two1
two1:
  %q = call ptr @reach(ptr %s, i64 %second, i64 {1 + write})
  %fault2 = icmp eq ptr %q, null
  br i1 %fault2, label %failed, label %two2
two2:
  %isio2 = icmp eq ptr %q, inttoptr (i64 1 to ptr)
  br i1 %isio2, label %misaligned, label %bytes
bytes:
  %far = phi ptr [%p, %ram], [%q, %two2]
  %page = and i64 %va, -4096
  br label %loop
loop:
  %i = phi i64 [{0 if write else "%more"}, %bytes], [%j, %loop]
  %held = phi i64 [{value}, %bytes], [%held2, %loop]
  %at = add i64 %va, %i
  %atpage = and i64 %at, -4096
  %near = icmp eq i64 %atpage, %page
  %inpage = and i64 %at, 4095
  %here = getelementptr i8, ptr %p, i64 %i
  %there = getelementptr i8, ptr %far, i64 %inpage
  %byte = select i1 %near, ptr %here, ptr %there{rest}
}}
"""


_LOAD = """
  %b = load i8, ptr %byte
  %wide = zext i8 %b to i64
  %up = shl i64 %held, 8
  %held2 = or i64 %up, %wide
  %j = sub i64 %i, 1
  %end = icmp slt i64 %j, 0
  br i1 %end, label %done, label %loop
ram:
  br label %bytes
done:
  %value = phi i64 [%got, %io], [%held2, %loop]
  %r0 = insertvalue {i64, i1} poison, i64 %value, 0
  %r1 = insertvalue {i64, i1} %r0, i1 true, 1
  ret {i64, i1} %r1"""

_STORE = """
  %b = trunc i64 %held to i8
  store volatile i8 %b, ptr %byte
  call void @wrote(ptr %s, ptr %byte, i64 1, ptr %rec)
  %held2 = lshr i64 %held, 8
  %j = add i64 %i, 1
  %end = icmp eq i64 %j, %size
  br i1 %end, label %done, label %loop
ram:
  switch i64 %size, label %bytes [i64 8, label %s8 i64 4, label %s4 i64 2, label %s2]
s8:
  store volatile i64 %value, ptr %p, align 1
  br label %note
s4:
  %v4 = trunc i64 %value to i32
  store volatile i32 %v4, ptr %p, align 1
  br label %note
s2:
  %v2 = trunc i64 %value to i16
  store volatile i16 %v2, ptr %p, align 1
  br label %note
note:
  call void @wrote(ptr %s, ptr %p, i64 %size, ptr %rec)
  br label %done
done:
  ret i1 true"""

TEXT = (
    _ACCESS
    + _POSTED
    + """
define i64 @device(ptr %s, i1 %write, i64 %va, i64 %size, i64 %budget, i64 %value) #0 {
  %mask = sub i64 %size, 1
  %low = and i64 %va, %mask
  %odd = icmp ne i64 %low, 0
  %acc = select i1 %write, i64 7, i64 5
  br i1 %odd, label %failed, label %look
look:
  store i32 0, ptr $io_fault
  %quick = call {i64, i1} @posted(ptr %s, i1 %write, i64 %size, i64 %value)
  %quick.v = extractvalue {i64, i1} %quick, 0
  %served = extractvalue {i64, i1} %quick, 1
  br i1 %served, label %windowed, label %call
windowed:
  ret i64 %quick.v
call:
  store i64 %budget, ptr $budget
  call void asm sideeffect "stmxcsr \\240", "=*m"(ptr elementtype(i32) $mxcsr)
  call void asm sideeffect "ldmxcsr \\240", "*m"(ptr elementtype(i32) $host_mxcsr)
  %pa = load i64, ptr $physical
  br i1 %write, label %out, label %in
out:
  %wf = load ptr, ptr $io_write
  call void %wf(i64 %pa, i64 %size, i64 %value)
  br label %after
in:
  %rf = load ptr, ptr $io_read
  %got = call i64 %rf(i64 %pa, i64 %size)
  br label %after
after:
  %result = phi i64 [0, %out], [%got, %in]
  call void asm sideeffect "ldmxcsr \\240", "*m"(ptr elementtype(i32) $mxcsr)
  %bad = load i32, ptr $io_fault
  %isbad = icmp ne i32 %bad, 0
  br i1 %isbad, label %failed, label %good
good:
  ret i64 %result
failed:
  store i32 1, ptr $io_fault
  store i64 %acc, ptr $cause
  store i64 %va, ptr $tval
  ret i64 0
}
"""
    + _slow(
        "{i64, i1} @load_slow(ptr %s, i64 %va, i64 %size, i64 %budget)",
        "{i64, i1} zeroinitializer",
        _LOAD,
        write=False,
    )
    + _slow(
        "i1 @store_slow(ptr %s, i64 %va, i64 %size, i64 %budget, i64 %value, ptr %rec)",
        "i1 false",
        _STORE,
        write=True,
    )
    + """
define ptr @atomic_slow(ptr %s, i64 %va, i64 %size, ptr %rec) #0 {
  %p = call ptr @reach(ptr %s, i64 %va, i64 2)
  %fault = icmp eq ptr %p, null
  br i1 %fault, label %failed, label %reached
failed:
  ret ptr null
reached:
  %isio = icmp eq ptr %p, inttoptr (i64 1 to ptr)
  br i1 %isio, label %io, label %ram
io:
  store i64 7, ptr $cause
  store i64 %va, ptr $tval
  ret ptr null
ram:
  call void @wrote(ptr %s, ptr %p, i64 %size, ptr %rec)
  ret ptr %p
}
define i1 @zero_slow(ptr %s, i64 %va, ptr %rec) #0 {
  %p = call ptr @atomic_slow(ptr %s, i64 %va, i64 64, ptr %rec)
  %fault = icmp eq ptr %p, null
  br i1 %fault, label %failed, label %loop
failed:
  ret i1 false
loop:
  %i = phi i64 [0, %0], [%j, %loop]
  %at = getelementptr i8, ptr %p, i64 %i
  store volatile i64 0, ptr %at
  %j = add i64 %i, 8
  %end = icmp eq i64 %j, 64
  br i1 %end, label %done, label %loop
done:
  ret i1 true
}"""
)
