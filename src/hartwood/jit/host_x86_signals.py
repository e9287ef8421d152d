"""The signal handlers and the race-free system call, as text for Linux on x86-64.

Worker side: `text()` is compiled into the image that `signals.HostSignals` is attached to. The
handlers touch nothing but the block of memory that the slot `hw_context` points to, so they are
safe at any instruction of any thread. Kernel layouts: `struct rt_sigframe` in
arch/x86/include/asm/sigframe.h, `struct sigcontext_64` in uapi/asm/sigcontext.h.
"""

from __future__ import annotations

from hartwood.jit import arena, host_x86
from hartwood.jit import signals as layout

# ucontext: uc_flags 8, uc_link 8, uc_stack 24, then sigcontext_64: r8-r15, rdi, rsi, rbp, rbx,
# rdx, rax, rcx, rsp, rip, eflags, cs/gs/fs/ss, err.
_GREGS = 40
_RDI, _RSP, _RIP, _ERROR = (_GREGS + 8 * n for n in (8, 15, 16, 19))

# siginfo: si_signo, si_errno, si_code, then (8-aligned) si_addr for a fault.
_SI_CODE, _SI_ADDR = 8, 16

# A signal that arrives in [start, end) finds the call not yet made, or backed out of by the
# kernel for a restart (SA_RESTART): either way it may be given up without a trace.
_ASSEMBLER = f"""
.text
.globl hw_safe_syscall
.type hw_safe_syscall,@function
hw_safe_syscall:
  movq %rdi, %rax
  movq %rsi, %rdi
  movq %rdx, %rsi
  movq %rcx, %rdx
  movq %r8, %r10
  movq %r9, %r8
  movq 8(%rsp), %r9
  movq 16(%rsp), %rcx
.hidden hw_window_start
.globl hw_window_start
hw_window_start:
  cmpl $0, (%rcx)
  jne hw_window_not_begun
  syscall
.hidden hw_window_end
.globl hw_window_end
hw_window_end:
  ret
.hidden hw_window_interrupted
.globl hw_window_interrupted
hw_window_interrupted:
  movq ${layout.INTERRUPTED}, %rax
  ret
hw_window_not_begun:
  movq ${layout.NOT_BEGUN}, %rax
  ret
.globl hw_restorer
.type hw_restorer,@function
hw_restorer:
  movl ${host_x86.SYS_RT_SIGRETURN}, %eax
  syscall
"""


def _syscall(number: int, *arguments: str) -> str:
    registers = ("{rdi}", "{rsi}", "{rdx}", "{r10}")[: len(arguments)]
    constraints = ",".join(("={rax}", "{rax}", *registers, "~{rcx}", "~{r11}", "~{memory}"))
    values = ", ".join((f"i64 {number}", *(f"i64 {a}" for a in arguments)))
    return f'call i64 asm sideeffect "syscall", "{constraints}"({values})'


_SEARCH = f"""
; The entry of the image that holds %rip, or null: the last one that starts at or below it.
define internal ptr @hw_find_image(ptr %table, i64 %rip) nounwind {{
  %count = load atomic i64, ptr %table acquire, align 8
  br label %loop
loop:
  %low = phi i64 [0, %0], [%low1, %next]
  %high = phi i64 [%count, %0], [%high1, %next]
  %more = icmp ult i64 %low, %high
  br i1 %more, label %next, label %done
next:
  %sum = add i64 %low, %high
  %middle = lshr i64 %sum, 1
  %off = mul i64 %middle, {arena.ENTRY}
  %off1 = add i64 %off, {arena.ENTRIES_AT + arena.ENTRY_START}
  %at = getelementptr i8, ptr %table, i64 %off1
  %start = load i64, ptr %at
  %below = icmp ule i64 %start, %rip
  %up = add i64 %middle, 1
  %low1 = select i1 %below, i64 %up, i64 %low
  %high1 = select i1 %below, i64 %high, i64 %middle
  br label %loop
done:
  %none = icmp eq i64 %low, 0
  br i1 %none, label %missing, label %check
check:
  %last = sub i64 %low, 1
  %eoff = mul i64 %last, {arena.ENTRY}
  %eoff1 = add i64 %eoff, {arena.ENTRIES_AT}
  %entry = getelementptr i8, ptr %table, i64 %eoff1
  %endp = getelementptr i8, ptr %entry, i64 {arena.ENTRY_END}
  %end = load i64, ptr %endp
  %inside = icmp ult i64 %rip, %end
  %found = select i1 %inside, ptr %entry, ptr null
  ret ptr %found
missing:
  ret ptr null
}}

; Where to continue after a fault at %rip in the image of %entry; 0: nowhere.
define internal i64 @hw_find_landing(ptr %entry, i64 %rip) nounwind {{
  %startp = getelementptr i8, ptr %entry, i64 {arena.ENTRY_START}
  %start = load i64, ptr %startp
  %faultsp = getelementptr i8, ptr %entry, i64 {arena.ENTRY_FAULTS}
  %faults = load ptr, ptr %faultsp
  %countp = getelementptr i8, ptr %entry, i64 {arena.ENTRY_FAULT_COUNT}
  %count = load i64, ptr %countp
  %wide = sub i64 %rip, %start
  %insn = trunc i64 %wide to i32
  br label %loop
loop:
  %low = phi i64 [0, %0], [%low1, %next1]
  %high = phi i64 [%count, %0], [%high1, %next1]
  %more = icmp ult i64 %low, %high
  br i1 %more, label %next, label %missing
next:
  %sum = add i64 %low, %high
  %middle = lshr i64 %sum, 1
  %at = getelementptr [2 x i32], ptr %faults, i64 %middle
  %key = load i32, ptr %at
  %same = icmp eq i32 %key, %insn
  br i1 %same, label %hit, label %next1
next1:
  %below = icmp ult i32 %key, %insn
  %up = add i64 %middle, 1
  %low1 = select i1 %below, i64 %up, i64 %low
  %high1 = select i1 %below, i64 %high, i64 %middle
  br label %loop
hit:
  %landp = getelementptr i8, ptr %at, i64 4
  %land32 = load i32, ptr %landp
  %land = zext i32 %land32 to i64
  %to = add i64 %start, %land
  ret i64 %to
missing:
  ret i64 0
}}

; This thread's entry in the table of threads, or null.
define internal ptr @hw_find_thread(ptr %ctx) nounwind {{
  %self = {host_x86.thread_pointer()}
  %countp = getelementptr i8, ptr %ctx, i64 {layout.THREAD_COUNT}
  %count = load atomic i64, ptr %countp acquire, align 8
  br label %loop
loop:
  %i = phi i64 [0, %0], [%i1, %next]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %look, label %missing
look:
  %off = mul i64 %i, {layout.THREAD}
  %off1 = add i64 %off, {layout.THREADS}
  %entry = getelementptr i8, ptr %ctx, i64 %off1
  %key = load atomic i64, ptr %entry acquire, align 8
  %same = icmp eq i64 %key, %self
  br i1 %same, label %hit, label %next
next:
  %i1 = add i64 %i, 1
  br label %loop
hit:
  ret ptr %entry
missing:
  ret ptr null
}}
"""

_FAULT = f"""
define hidden void @hw_fault_handler(i32 %signo, ptr %info, ptr %uc) nounwind {{
  %ctx = load ptr, ptr @hw_context
  %codep = getelementptr i8, ptr %info, i64 {_SI_CODE}
  %code = load i32, ptr %codep
  ; A code that is not positive says that a process sent it (sigaction(2)): no fault of ours.
  %sent = icmp sle i32 %code, 0
  br i1 %sent, label %async, label %look
async:
  call void @hw_signal_handler(i32 %signo, ptr %info, ptr %uc)
  ret void
look:
  %ripp = getelementptr i8, ptr %uc, i64 {_RIP}
  %rip = load i64, ptr %ripp
  %tablep = getelementptr i8, ptr %ctx, i64 {layout.TABLE}
  %table = load ptr, ptr %tablep
  %image = call ptr @hw_find_image(ptr %table, i64 %rip)
  %foreign = icmp eq ptr %image, null
  br i1 %foreign, label %chain, label %ours
ours:
  %thread = call ptr @hw_find_thread(ptr %ctx)
  %stranger = icmp eq ptr %thread, null
  br i1 %stranger, label %chain, label %known
known:
  %errp = getelementptr i8, ptr %uc, i64 {_ERROR}
  %err = load i64, ptr %errp
  %terr = getelementptr i8, ptr %thread, i64 {layout.THREAD_ERROR}
  store i64 %err, ptr %terr
  %trip = getelementptr i8, ptr %thread, i64 {layout.THREAD_RIP}
  store i64 %rip, ptr %trip
  %boxp = getelementptr i8, ptr %thread, i64 {layout.THREAD_MAILBOX}
  %box = load ptr, ptr %boxp
  store i32 %signo, ptr %box
  %boxcode = getelementptr i8, ptr %box, i64 {layout.MAILBOX_CODE}
  store i32 %code, ptr %boxcode
  %addrp = getelementptr i8, ptr %info, i64 {_SI_ADDR}
  %addr = load i64, ptr %addrp
  %boxaddr = getelementptr i8, ptr %box, i64 {layout.MAILBOX_ADDRESS}
  store i64 %addr, ptr %boxaddr
  %landing = call i64 @hw_find_landing(ptr %image, i64 %rip)
  %nowhere = icmp eq i64 %landing, 0
  br i1 %nowhere, label %abort, label %land
land:
  store i64 %landing, ptr %ripp
  ret void
abort:
  %abortp = getelementptr i8, ptr %ctx, i64 {layout.ABORT}
  %to = load i64, ptr %abortp
  %stackp = getelementptr i8, ptr %thread, i64 {layout.THREAD_STACK}
  %stack = load i64, ptr %stackp
  %noabort = icmp eq i64 %to, 0
  %nostack = icmp eq i64 %stack, 0
  %cannot = or i1 %noabort, %nostack
  br i1 %cannot, label %chain, label %leave
leave:
  store i64 %to, ptr %ripp
  %rspp = getelementptr i8, ptr %uc, i64 {_RSP}
  store i64 %stack, ptr %rspp
  %rdip = getelementptr i8, ptr %uc, i64 {_RDI}
  %t = ptrtoint ptr %thread to i64
  store i64 %t, ptr %rdip
  ret void
chain:
  ; Put back what was there before and run the instruction again: whoever was responsible,
  ; the default action included, sees the fault exactly as if we had never been here.
  %wide = sext i32 %signo to i64
  %poff = mul i64 %wide, {layout.ACTION}
  %poff1 = add i64 %poff, {layout.PREVIOUS}
  %prev = getelementptr i8, ptr %ctx, i64 %poff1
  %previ = ptrtoint ptr %prev to i64
  %r = {_syscall(host_x86.SYS_RT_SIGACTION, "%wide", "%previ", "0", "8")}
  ret void
}}
"""

# A bounded queue of many producers (Vyukov's, with laps counted from zero so that fresh memory
# is an empty ring): a cell whose turn is 2*lap is free, 2*lap + 1 is full.
_ASYNC = f"""
define hidden void @hw_signal_handler(i32 %signo, ptr %info, ptr %uc) nounwind {{
  %ctx = load ptr, ptr @hw_context
  %tailp = getelementptr i8, ptr %ctx, i64 {layout.TAIL}
  br label %retry
retry:
  %pos = load atomic i64, ptr %tailp acquire, align 8
  %index = and i64 %pos, {layout.CELLS - 1}
  %lap = udiv i64 %pos, {layout.CELLS}
  %free = mul i64 %lap, 2
  %coff = mul i64 %index, {layout.CELL}
  %coff1 = add i64 %coff, {layout.RING}
  %cell = getelementptr i8, ptr %ctx, i64 %coff1
  %turn = load atomic i64, ptr %cell acquire, align 8
  %mine = icmp eq i64 %turn, %free
  br i1 %mine, label %claim, label %busy
busy:
  %full = icmp ult i64 %turn, %free
  br i1 %full, label %overflow, label %retry
claim:
  %next = add i64 %pos, 1
  %swap = cmpxchg ptr %tailp, i64 %pos, i64 %next acq_rel acquire
  %won = extractvalue {{i64, i1}} %swap, 1
  br i1 %won, label %fill, label %retry
fill:
  %csigno = getelementptr i8, ptr %cell, i64 {layout.CELL_SIGNO}
  store i32 %signo, ptr %csigno
  %tid = {_syscall(host_x86.SYS_GETTID)}
  %tid32 = trunc i64 %tid to i32
  %ctid = getelementptr i8, ptr %cell, i64 {layout.CELL_TID}
  store i32 %tid32, ptr %ctid
  %cinfo = getelementptr i8, ptr %cell, i64 {layout.CELL_INFO}
  %copy = load [{layout.SIGINFO // 8} x i64], ptr %info, align 8
  store [{layout.SIGINFO // 8} x i64] %copy, ptr %cinfo, align 8
  %taken = or i64 %free, 1
  store atomic i64 %taken, ptr %cell release, align 8
  br label %wake
overflow:
  %bit0 = sub i32 %signo, 1
  %bit1 = zext i32 %bit0 to i64
  %bit = shl i64 1, %bit1
  %lostp = getelementptr i8, ptr %ctx, i64 {layout.OVERFLOW}
  %before = atomicrmw or ptr %lostp, i64 %bit seq_cst
  br label %wake
wake:
  ; After the cell, so that whoever sees the word finds the signal.
  %pendingp = getelementptr i8, ptr %ctx, i64 {layout.PENDING}
  store atomic i32 1, ptr %pendingp release, align 4
  %thread = call ptr @hw_find_thread(ptr %ctx)
  %stranger = icmp eq ptr %thread, null
  br i1 %stranger, label %window, label %stop
stop:
  %stopp = getelementptr i8, ptr %thread, i64 {layout.THREAD_STOP}
  %word = load ptr, ptr %stopp
  store atomic i32 1, ptr %word release, align 4
  br label %window
window:
  %ripp = getelementptr i8, ptr %uc, i64 {_RIP}
  %rip = load i64, ptr %ripp
  %inside = icmp ult i64 %rip, ptrtoint (ptr @hw_window_end to i64)
  %after = icmp uge i64 %rip, ptrtoint (ptr @hw_window_start to i64)
  %both = and i1 %inside, %after
  br i1 %both, label %rewind, label %out
rewind:
  store i64 ptrtoint (ptr @hw_window_interrupted to i64), ptr %ripp
  ret void
out:
  ret void
}}

; The signals that found the ring full, as bits signo-1; and forget them.
define i64 @hw_take_overflow() nounwind {{
  %ctx = load ptr, ptr @hw_context
  %lostp = getelementptr i8, ptr %ctx, i64 {layout.OVERFLOW}
  %lost = atomicrmw xchg ptr %lostp, i64 0 seq_cst
  ret i64 %lost
}}
"""

_DECLARATIONS = """
@hw_context = hidden externally_initialized global ptr null, section ".hwslot"
@hw_window_start = external hidden global i8
@hw_window_end = external hidden global i8
@hw_window_interrupted = external hidden global i8
"""


def text() -> str:
    """LLVM text of the whole runtime; every global name in it starts with `hw_`."""
    lines = [f'module asm "{line}"' for line in _ASSEMBLER.strip().splitlines()]
    return "\n".join(lines) + _DECLARATIONS + _SEARCH + _FAULT + _ASYNC
