"""Guest signals: what is blocked, which action is taken, and the frame a handler runs on.

The guest's mask and dispositions are mirrored onto the host thread and process, so that the host
kernel does the routing, the queueing and the default actions. What it delivers to us comes out
of `Delivery.drain` and is turned into a riscv64 rt_sigframe here (arch/riscv/kernel/signal.c).
"""

from __future__ import annotations

import struct

from hartwood.errors import MemoryFault
from hartwood.linux.calls import HOST
from hartwood.mem import hostmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.engine import Stop
    from hartwood.linux.process import Process
    from hartwood.linux.task import Task

NAMES = (
    "0 HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP"
    " TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
).split()
SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGKILL, SIGSEGV = 4, 5, 6, 7, 9, 11
SIGCHLD, SIGCONT, SIGSTOP, SIGURG, SIGWINCH = 17, 18, 19, 23, 28
SIGNALS = 64
#: Our own thread-to-thread interruption travels as this signal, told apart by its siginfo.
SIGKICK = 64
KICK_VALUE = 0x4861_7274_776F_6F64
SI_QUEUE, SI_TKILL = -1, -6

IGNORED_BY_DEFAULT = frozenset({SIGCHLD, SIGCONT, SIGURG, SIGWINCH})
STOPPING = frozenset({19, 20, 21, 22})
#: Their default action dumps core: worth a line that says where the guest was.
DUMPING = frozenset({3, 4, 5, 6, 7, 8, 11, 24, 25, 31})

SIG_DFL, SIG_IGN = 0, 1
SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK = 0, 1, 2
SA_NOCLDSTOP, SA_NOCLDWAIT, SA_SIGINFO = 1, 2, 4
SA_ONSTACK, SA_RESTART, SA_NODEFER, SA_RESETHAND = 0x08000000, 0x10000000, 0x40000000, 0x80000000
SS_ONSTACK, SS_DISABLE, SS_AUTODISARM = 1, 2, 1 << 31


def bit(signo: int) -> int:
    """The bit of `signo` in a signal set."""
    return 1 << (signo - 1)


#: Never blocked on the host: the engine lives on the first two, interruption on the last.
UNBLOCKABLE = bit(SIGKILL) | bit(SIGSTOP)
HOST_OPEN = bit(SIGSEGV) | bit(SIGBUS) | bit(SIGKICK)

# si_code names for the line about an uncaught fault.
CODES = {
    (SIGSEGV, 1): "SEGV_MAPERR",
    (SIGSEGV, 2): "SEGV_ACCERR",
    (SIGBUS, 1): "BUS_ADRALN",
    (SIGBUS, 2): "BUS_ADRERR",
    (SIGILL, 1): "ILL_ILLOPC",
    (SIGTRAP, 1): "TRAP_BRKPT",
}

_INFO = struct.Struct("<iii4xQ104x")
_INFO_HEAD = struct.Struct("<iii4xiIQ")
# struct ucontext up to the registers: flags, link, stack (sp, flags, size), mask, reserved.
_CONTEXT = struct.Struct("<QQQi4xQQ128x")
_REGISTERS = struct.Struct("<32Q")
_FLOATS = struct.Struct("<32QI268x")
INFO_SIZE = 128
CONTEXT_SIZE = 176
FRAME = INFO_SIZE + CONTEXT_SIZE + 256 + 528


class Action:
    """A signal's disposition: `handler` is SIG_DFL, SIG_IGN or a guest address."""

    __slots__ = ("flags", "handler", "mask")

    def __init__(self, handler: int = SIG_DFL, flags: int = 0, mask: int = 0) -> None:
        self.handler = handler
        self.flags = flags
        self.mask = mask


def name(signo: int) -> str:
    """The signal's usual name."""
    if 0 < signo < len(NAMES):
        return "SIG" + NAMES[signo]
    return f"SIGRT{signo}"


def is_kick(signo: int, info: bytes) -> bool:
    """Whether this is our own interruption and not a signal for the guest."""
    if signo != SIGKICK:
        return False
    code, value = _INFO_HEAD.unpack_from(info)[2::3]
    return bool(code == SI_QUEUE and value == KICK_VALUE)


def host_mask(mask: int) -> int:
    """What of the guest's blocked set may be blocked on the host."""
    return mask & ~(HOST_OPEN | UNBLOCKABLE)


def set_mask(task: Task, mask: int) -> None:
    """Block exactly `mask`, in the guest's eyes and (as far as may be) on the host thread."""
    mask &= ~UNBLOCKABLE
    if mask != task.mask:
        task.mask = mask
        mirror_mask(task)


def mirror_mask(task: Task) -> None:
    """Give the host thread the task's mask."""
    at = task.place(0, host_mask(task.mask).to_bytes(8, "little"))
    hostmem.syscall(HOST["rt_sigprocmask"], SIG_SETMASK, at, 0, 8)


def suspend_mask(task: Task, mask: int) -> int:
    """Before a host call that swaps the mask: note it for delivery; the set's host address.

    The host kernel puts the old mask back by itself; `restore_mask` undoes the note.
    """
    if task.saved_mask is None:
        task.saved_mask = task.mask
    task.mask = mask & ~UNBLOCKABLE
    return task.place(8, host_mask(mask).to_bytes(8, "little"))


def restore_mask(task: Task) -> None:
    """Put back the mask that `suspend_mask` replaced."""
    if task.saved_mask is not None:
        task.mask = task.saved_mask
        task.saved_mask = None


def collect(process: Process) -> None:
    """Hand every signal the host delivered to the thread that took it."""
    delivery = process.delivery
    if not delivery.word[0]:
        return
    for signo, tid, info in delivery.drain():
        if is_kick(signo, info):
            continue
        task = process.tasks.get(tid)
        if task is None:
            task = _willing(process, signo)
            task.hart.request_stop()
        task.pending.append((signo, info))
        if process.tasks.get(task.tid) is not task:
            pass_on(task)  # it ended just now


def pass_on(task: Task) -> None:
    """Give what an ended thread had taken and not delivered to another, as far as it was sent to
    the process and not to the thread."""
    while task.pending:
        signo, info = task.pending.pop(0)
        code = int.from_bytes(info[8:12], "little", signed=True)
        if task.process.tasks and code != SI_TKILL:
            other = _willing(task.process, signo)
            other.pending.append((signo, info))
            other.hart.request_stop()


def _willing(process: Process, signo: int) -> Task:
    """A thread for a signal whose own thread is gone: one that does not block it, if any."""
    tasks = list(process.tasks.values())
    for task in tasks:
        if not task.mask & bit(signo):
            return task
    return tasks[0]


def deliver(task: Task, result: int | None = None, *, restart: str = "yes") -> bool:
    """Act on the signals pending for `task`; True where a handler will run.

    `result` is that of a host call they interrupted: EINTR reaches the guest unless `restart` is
    "always", or "yes" and the handler's action has SA_RESTART. Raises `Ended` when the guest dies.
    """
    handled = False
    actions = task.process.actions
    while True:
        index = next(
            (i for i, (signo, _) in enumerate(task.pending) if not task.mask & bit(signo)), None
        )
        if index is None:
            break
        signo, info = task.pending.pop(index)
        action = actions[signo]
        if action.handler == SIG_IGN:
            continue
        if action.handler == SIG_DFL:
            default_action(task, signo, info)
            continue
        if result is not None:
            if restart == "no" or (restart == "yes" and not action.flags & SA_RESTART):
                task.x[10] = result & (1 << 64) - 1
                task.hart.pc += 4
            result = None
        push_frame(task, signo, info)
        handled = True
    if not handled:
        restore_mask(task)
    return handled


def default_action(task: Task, signo: int, info: bytes) -> None:
    """What the kernel does with a signal that has no handler; raises `Ended` if that is death."""
    if signo in IGNORED_BY_DEFAULT:
        return
    process = task.process
    if signo in STOPPING:
        process.raise_on_host(signo)
        return
    if signo in DUMPING:
        _, _, code, address = _INFO.unpack(info)
        text = f"hartwood: {process.name}: uncaught {name(signo)}"
        if code > 0 and (signo, code) in CODES:
            text += f" ({CODES[signo, code]} at {address:#x})"
        process.complain(f"{text}, pc {task.hart.pc:#x}")
    process.die(task, signo)


def fault(task: Task, stop: Stop) -> None:
    """Turn a fault of the guest's own making into the signal that Linux sends for it."""
    pc = task.hart.pc
    if stop.cause == "illegal":
        signo, code, address = SIGILL, 1, pc
    elif stop.cause == "ebreak":
        signo, code, address = SIGTRAP, 1, pc
    else:
        signo, code, address = stop.signo, stop.code, stop.address
    force(task, signo, fault_info(signo, code, address))


def fault_info(signo: int, code: int, address: int) -> bytes:
    """siginfo of a fault at a guest address."""
    return _INFO.pack(signo, 0, code, address & (1 << 64) - 1)


def user_info(signo: int, code: int, pid: int, uid: int, value: int = 0) -> bytes:
    """siginfo of a signal that a process sent."""
    return _INFO_HEAD.pack(signo, 0, code, pid, uid, value).ljust(INFO_SIZE, b"\0")


def force(task: Task, signo: int, info: bytes) -> None:
    """Deliver a signal that cannot wait: blocked or ignored, it kills (force_sig_info)."""
    action = task.process.actions[signo]
    if action.handler in (SIG_DFL, SIG_IGN) or task.mask & bit(signo):
        default_action(task, signo, info)
        task.process.die(task, signo)
    push_frame(task, signo, info)


def push_frame(task: Task, signo: int, info: bytes) -> None:
    """Make the guest run its handler: build the frame, set the registers, block signals."""
    process = task.process
    action = process.actions[signo]
    hart, x = task.hart, task.x
    stack = sp = x[2]
    if action.flags & SA_ONSTACK and stack_state(task, sp) == 0:
        sp = task.stack_at + task.stack_size
    frame = sp - FRAME & -16
    if stack_state(task, sp) == SS_ONSTACK and stack_state(task, sp - FRAME) != SS_ONSTACK:
        frame = 0  # no room left on the alternate stack: the write below fails, as it must
    old_mask = task.mask if task.saved_mask is None else task.saved_mask
    shown = stack_state(task, stack) | task.stack_flags & SS_AUTODISARM
    registers = x[:32].tolist()
    registers[0] = hart.pc
    data = b"".join(
        (
            info,
            _CONTEXT.pack(0, 0, task.stack_at, _signed(shown), task.stack_size, old_mask),
            _REGISTERS.pack(*registers),
            _FLOATS.pack(*hart.f[:32].tolist(), hart.fcsr),
        )
    )
    try:
        task.space.write(frame, data)
    except MemoryFault:
        if signo == SIGSEGV:
            process.actions[SIGSEGV] = Action()
        force(task, SIGSEGV, fault_info(SIGSEGV, 1, frame))
        return
    task.saved_mask = None
    x[1] = process.trampoline
    x[2] = frame
    x[10] = signo
    x[11] = frame
    x[12] = frame + INFO_SIZE
    hart.pc = action.handler
    if task.stack_flags & SS_AUTODISARM:
        task.stack_at = task.stack_size = 0
        task.stack_flags = SS_DISABLE
    mask = task.mask | action.mask
    if not action.flags & SA_NODEFER:
        mask |= bit(signo)
    if action.flags & SA_RESETHAND:
        process.set_action(signo, Action())
    task.mask = mask & ~UNBLOCKABLE
    mirror_mask(task)


def pop_frame(task: Task) -> None:
    """rt_sigreturn: take everything back from the frame at sp; a bad frame is a SIGSEGV."""
    x, hart = task.x, task.hart
    sp = x[2]
    try:
        data = task.space.read(sp, FRAME)
    except MemoryFault:
        force(task, SIGSEGV, fault_info(SIGSEGV, 1, sp))
        return
    _, _, stack, flags, size, mask = _CONTEXT.unpack_from(data, INFO_SIZE)
    registers = _REGISTERS.unpack_from(data, INFO_SIZE + CONTEXT_SIZE)
    floats = _FLOATS.unpack_from(data, INFO_SIZE + CONTEXT_SIZE + 256)
    for number in range(1, 32):
        x[number] = registers[number]
    hart.pc = registers[0]
    for number in range(32):
        hart.f[number] = floats[number]
    hart.fcsr = floats[32] & 0xFF
    set_mask(task, mask)
    set_stack(task, stack, flags & 0xFFFFFFFF, size)


def stack_state(task: Task, sp: int) -> int:
    """SS_DISABLE, SS_ONSTACK where `sp` is on the alternate stack, else 0."""
    if task.stack_size == 0:
        return SS_DISABLE
    if task.stack_flags & SS_AUTODISARM:
        return 0
    return SS_ONSTACK if 0 <= sp - task.stack_at - 1 < task.stack_size else 0


#: Smallest alternate stack that Linux takes (MINSIGSTKSZ).
MINIMUM_STACK = 2048


def set_stack(task: Task, at: int, flags: int, size: int) -> int:
    """Set the alternate stack as sigaltstack(2) does; 0 or a negative errno."""
    mode = flags & ~SS_AUTODISARM & 0xFFFFFFFF
    if mode not in (0, SS_ONSTACK, SS_DISABLE):
        return -22
    if mode == SS_DISABLE:
        at = size = 0
    elif size < MINIMUM_STACK:
        return -12
    task.stack_at, task.stack_size = at, size
    task.stack_flags = SS_DISABLE if mode == SS_DISABLE else flags & SS_AUTODISARM
    return 0


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value
