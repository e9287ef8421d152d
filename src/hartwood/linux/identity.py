"""Who and what the guest is: process numbers, limits, names, and the processor it may expect."""

from __future__ import annotations

import os
import struct
from errno import EINVAL, EPERM

from hartwood.linux.calls import HOST
from hartwood.linux.task import MESSAGE
from hartwood.mem import hostmem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.task import Task

M32 = 0xFFFFFFFF


def getpid(task: Task) -> int:
    """The process."""
    return task.process.pid


def gettid(task: Task) -> int:
    """The thread."""
    return task.tid


def uname(task: Task, buf: int) -> int:
    """The host's names, with the guest's machine."""
    host = os.uname()
    fields = (host.sysname, host.nodename, host.release, host.version, "riscv64", "(none)")
    task.space.write(buf, b"".join(field.encode()[:64].ljust(65, b"\0") for field in fields))
    return 0


def personality(task: Task, persona: int) -> int:
    """Read or set the execution domain: kept for the guest, nothing here depends on it."""
    before = task.process.personality
    if persona & M32 != M32:
        task.process.personality = persona & M32
    return before


RLIMIT_DATA, RLIMIT_STACK, RLIMIT_NOFILE, RLIMIT_AS = 2, 3, 7, 9
#: Limits that would strangle the process that hosts the guest: kept by us instead. Of the one on
#: descriptors the soft half is the host's too; we need the rest for our own.
OWN_LIMITS = (RLIMIT_DATA, RLIMIT_STACK, RLIMIT_NOFILE, RLIMIT_AS)
RLIM_INFINITY = (1 << 64) - 1


def _limit(task: Task, resource: int) -> tuple[int, int]:
    """Soft and hard limit as the guest sees them. Raises `OSError`."""
    limits = task.process.limits
    if resource not in limits:
        at = task.scratch.address + MESSAGE
        result = hostmem.syscall(HOST["getrlimit"], resource, at)
        if result < 0:
            raise OSError(-result, "getrlimit")
        pair = struct.unpack("<QQ", task.scratch.view[MESSAGE : MESSAGE + 16])
        if resource not in OWN_LIMITS:
            return pair
        limits[resource] = pair
    return limits[resource]


def prlimit64(task: Task, pid: int, resource: int, new: int, old: int) -> int:
    """Read and set a resource limit."""
    pid &= M32
    resource &= M32
    if pid not in (0, task.process.pid) or resource not in OWN_LIMITS:
        return task.syscall(HOST["prlimit64"], pid, resource, task.host(new), task.host(old))
    before = _limit(task, resource)
    if new:
        soft, hard = struct.unpack("<QQ", task.space.read(new, 16))
        if soft > hard:
            return -EINVAL
        if hard > before[1] and os.geteuid() != 0:
            return -EPERM
        if resource == RLIMIT_NOFILE:
            result = _limit_descriptors(task, soft, hard)
            if result < 0:
                return result
        task.process.set_limit(resource, soft, hard)
    if old:
        task.space.write(old, struct.pack("<QQ", *before))
    return 0


def _limit_descriptors(task: Task, soft: int, hard: int) -> int:
    """Set the host's soft limit, and its hard limit where it has to grow."""
    at = task.scratch.address + MESSAGE
    hostmem.syscall(HOST["getrlimit"], RLIMIT_NOFILE, at)
    have = struct.unpack("<QQ", task.scratch.view[MESSAGE : MESSAGE + 16])[1]
    task.place(MESSAGE, struct.pack("<QQ", soft, max(have, hard)))
    return hostmem.syscall(HOST["setrlimit"], RLIMIT_NOFILE, at)


def getrlimit(task: Task, resource: int, at: int) -> int:
    """Read a resource limit."""
    return prlimit64(task, 0, resource, 0, at)


def setrlimit(task: Task, resource: int, at: int) -> int:
    """Set a resource limit."""
    return prlimit64(task, 0, resource, at, 0)


#: prctl options whose arguments are numbers, and those whose first argument is a pointer.
PLAIN_OPTIONS = frozenset({1, 3, 4, 7, 8, 13, 14, 23, 24, 27, 28, 29, 30, 36, 38, 39, 41, 42, 47})
POINTER_OPTIONS = frozenset({2, 15, 16, 37})
PR_SET_PTRACER = 0x59616D61


def prctl(task: Task, option: int, a: int, b: int, c: int, d: int) -> int:
    """Process options; those that would reach into the host process are refused."""
    option &= M32
    if option in PLAIN_OPTIONS or option == PR_SET_PTRACER:
        return task.syscall(HOST["prctl"], option, a, b, c, d)
    if option in POINTER_OPTIONS:
        return task.syscall(HOST["prctl"], option, task.host(a), b, c, d)
    if option == 40:  # PR_GET_TID_ADDRESS
        task.space.write_u64(a, task.clear_tid)
        return 0
    unknown = task.process.calls.unknown
    unknown[f"prctl_{option}"] = unknown.get(f"prctl_{option}", 0) + 1
    return -EINVAL


def unshare(task: Task, flags: int) -> int:
    """Leave shared namespaces; the kernel refuses what threads make impossible."""
    return task.syscall(HOST["unshare"], flags)


def _bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


#: RISCV_HWPROBE_KEY_IMA_EXT_0: FD, C, Zba, Zbb, Zbs, Zicond, Zca, Zcb, Zcd, Zicntr.
EXTENSIONS = _bits(0, 1, 3, 4, 5, 35, 43, 44, 45, 50)
#: The engine's `time` counter, in Hz.
TIME_FREQUENCY = 10_000_000
MISALIGNED_FAST = 3
#: riscv_hwprobe(2): vendor, architecture and implementation 0; base behaviour IMA.
PROBES = {
    0: 0,
    1: 0,
    2: 0,
    3: 1,
    4: EXTENSIONS,
    5: MISALIGNED_FAST,
    6: 0,
    7: (1 << 38) - 1,
    8: TIME_FREQUENCY,
    9: MISALIGNED_FAST,
    10: 4,  # no vector unit, so no vector accesses
}
_PAIR = struct.Struct("<qQ")
WHICH_CPUS = 1


def riscv_hwprobe(task: Task, pairs: int, count: int, size: int, cpus: int, flags: int) -> int:
    """What the processor can do: the truth about this engine."""
    if flags & ~WHICH_CPUS or count > 4096:
        return -EINVAL
    if flags & WHICH_CPUS:
        return _which_cpus(task, pairs, count, size, cpus)
    data = task.space.read(pairs, 16 * count)
    answer = []
    for key, _ in _PAIR.iter_unpack(data):
        value = PROBES.get(key)
        answer.append(_PAIR.pack(-1, 0) if value is None else _PAIR.pack(key, value))
    if count:
        task.space.write(pairs, b"".join(answer))
    return 0


def _which_cpus(task: Task, pairs: int, count: int, size: int, cpus: int) -> int:
    """Which processors have all of the asked values: all of ours are alike."""
    if not size or not cpus:
        return -EINVAL
    mask = int.from_bytes(task.space.read(cpus, size), "little")
    online = sum(1 << cpu for cpu in os.sched_getaffinity(0))
    mask = mask & online if mask else online
    for key, value in _PAIR.iter_unpack(task.space.read(pairs, 16 * count)):
        have = PROBES.get(key)
        if have is None:
            mask = 0
        elif key in (3, 4):
            mask = mask if have & value == value else 0
        elif have != value:
            mask = 0
    task.space.write(cpus, mask.to_bytes(max(size, 1024), "little")[:size])
    return 0


def riscv_flush_icache(task: Task, start: int, end: int, flags: int) -> int:
    """Make written code visible to every thread."""
    if flags & ~1:
        return -EINVAL
    task.space.code_changed(start, min(end, task.space.limit))
    return 0
