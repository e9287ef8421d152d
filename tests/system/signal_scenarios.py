"""What the tests of faults and signals do to a process of its own: `python -m` this, a scenario's
name and the directory with the images. Prints one JSON value; imports no LLVM."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from hartwood.jit import host_x86
from hartwood.jit.arena import CodeArena, reserve
from hartwood.jit.image import Image
from hartwood.jit.signals import INTERRUPTED, SIGINFO, THREAD_ERROR, THREAD_RIP, HostSignals
from hartwood.mem import hostmem

PAGE = 4096
SYS_READ, SYS_NANOSLEEP, SYS_GETPID, SYS_GETTID = 0, 35, 39, 186
REALTIME = 40
U64 = ctypes.c_uint64
MASK = (1 << 64) - 1

libc = ctypes.CDLL(None, use_errno=True)


class Hart:
    """What a registered thread owns: a mailbox, a stop word, a place for its stack pointer."""

    def __init__(self, signals: HostSignals) -> None:
        self.words = (U64 * 8)()
        address = ctypes.addressof(self.words)
        self.stop_at, self.stack_at = address + 16, address + 24
        self.entry = signals.register_thread(address, self.stop_at)

    def fault(self) -> tuple[int, int, int, int]:
        """(signo, si_code, si_addr, whether it was a write) of the last fault."""
        word = self.words[0]
        error = U64.from_address(self.entry + THREAD_ERROR).value
        return word & 0xFFFFFFFF, word >> 32, self.words[1], error >> 1 & 1

    @property
    def stop(self) -> int:
        return int(self.words[2] & 0xFFFFFFFF)

    def clear(self) -> None:
        self.words[2] = 0


class World:
    """An arena with the runtime and the scenario's code, faults taken, this thread registered."""

    def __init__(self, folder: Path) -> None:
        self.arena = CodeArena(1 << 20)
        self.signals = HostSignals(self.arena)
        runtime = Image.load((folder / "runtime").read_bytes())
        self.signals.attach(runtime, self.arena.install(runtime, self.signals.slots))
        self.code = Image.load((folder / "code").read_bytes())
        self.base = self.arena.install(self.code)
        self.signals.take_faults()
        self.hart = Hart(self.signals)
        self.guest = 0

    def function(self, name: str, arguments: int) -> ctypes._CFunctionType:
        kind = ctypes.CFUNCTYPE(U64, *[U64] * arguments)
        return kind(self.base + self.code.entries[name])

    def reserve_guest(self, size: int) -> int:
        """Guest memory that nobody may access yet; gs points to it in this thread."""
        self.guest = reserve(size, hostmem.PROT_NONE)
        self.use_guest()
        return self.guest

    def use_guest(self) -> None:
        host_x86.use_guest_memory(self.guest)

    def call(self, nr: int, *arguments: int, pending: int | None = None) -> int:
        words = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
        where = self.signals.pending_at if pending is None else pending
        return self.signals.safe_syscall(nr, *words, where)


def landing(world: World) -> object:
    """Four threads take faults among working accesses, and no live value is disturbed."""
    guest = world.reserve_guest(64 << 10)
    hostmem.mprotect(guest, 32 << 10, hostmem.PROT_READ | hostmem.PROT_WRITE)
    for at in range(0, 32 << 10, 8):
        U64.from_address(guest + at).value = at * 0x9E3779B97F4A7C15 & MASK
    probe = world.function("probe", 3)
    wrong: list[object] = []
    faults = [0] * 4

    def run(number: int) -> None:
        hart = Hart(world.signals)
        world.use_guest()
        for n in range(3000):
            seed = n * 0x2545F4914F6CDD1D + number & MASK
            at = (n * 104 + number * 16384) % (64 << 10)
            write = n & 1
            result = probe(seed, at, write)
            mix = 0
            for k in range(1, 13):
                mix ^= (seed * k + k & MASK) * (2 * k + 1) & MASK
            if at < 32 << 10:
                expected = at * 0x9E3779B97F4A7C15 + mix & MASK
            else:
                faults[number] += 1
                expected = ~mix & MASK
                found = hart.fault()
                if found != (signal.SIGSEGV, 2, guest + at, write):
                    wrong.append(("mailbox", number, n, found))
            if result != expected:
                wrong.append(("value", number, n, hex(result), hex(expected)))
        world.signals.unregister_thread()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"wrong": wrong[:5], "faults": faults}


def programs(world: World) -> object:
    """Run every generated program at every guest layout; the parent knows the answers."""
    guest = world.reserve_guest(64 << 10)
    results = []
    for name in sorted(n for n in world.code.entries if n.startswith("program")):
        run = world.function(name, 3)
        for present in range(17):  # how many of the sixteen pages are there
            hostmem.mprotect(guest, 64 << 10, hostmem.PROT_READ | hostmem.PROT_WRITE)
            for at in range(0, 64 << 10, 8):
                U64.from_address(guest + at).value = at * 0x9E3779B97F4A7C15 & MASK
            if present < 16:
                hostmem.mprotect(guest + present * PAGE, (16 - present) * PAGE, hostmem.PROT_NONE)
            for a, b in ((1, 2), (0x123456789, 77), (MASK, 1 << 40)):
                results.append((name, present, a, b, run(a, b, 0)))
    return results


def kinds(world: World) -> object:
    """One fault of each kind, as the mailbox reports it, addresses relative to the guest."""
    guest = world.reserve_guest(64 << 10)
    load, store = world.function("load", 1), world.function("store", 1)
    combine = world.function("combine", 1)
    found = {}

    def note(name: str, result: int) -> None:
        signo, code, address, write = world.hart.fault()
        found[name] = (result, signo, code, address - guest if address else 0, write)

    note("access", load(0x1234))
    note("write", store(0x2000))
    hostmem.mprotect(guest, PAGE, hostmem.PROT_READ)
    note("read-only", store(0x10))
    note("read-only-atomic", combine(0x18))
    note("absent-atomic", combine(0x3000))
    hostmem.munmap(guest + 0x8000, PAGE)
    note("unmapped", load(0x8008))
    note("non-canonical", load(1 << 62))
    with tempfile.TemporaryFile() as file:
        file.truncate(2 * PAGE)
        flags = hostmem.MAP_SHARED | hostmem.MAP_FIXED
        prot = hostmem.PROT_READ | hostmem.PROT_WRITE
        hostmem.mmap(guest + 0x4000, 2 * PAGE, prot, flags, file.fileno())
        note("file", store(0x5008) ^ load(0x5008) ^ 7)
        file.truncate(PAGE)
        note("truncated", load(0x5008))
        note("truncated-write", store(0x5010))
        found["still-there"] = load(0x4000)
    return found


def python_crash(world: World) -> object:
    """A fault that is not ours: Python itself reads what it may not."""
    world.reserve_guest(1 << 20)
    world.function("load", 1)(0)
    print("before", flush=True)
    ctypes.string_at(world.guest, 1)
    print("after", flush=True)
    return None


def python_crash_reported(world: World) -> object:
    """The same with faulthandler there first: it still gets its turn."""
    import faulthandler

    for signo in (signal.SIGSEGV, signal.SIGBUS):
        world.signals.leave(signo)
    faulthandler.enable()
    world.signals.take_faults()
    return python_crash(world)


def unregistered(world: World) -> object:
    """Generated code faults in a thread that nobody registered: a crash, not a wild jump."""
    world.reserve_guest(1 << 20)
    world.signals.unregister_thread()
    world.function("load", 1)(0)
    return "survived"


def abort(world: World) -> object:
    """An access without a landing leaves through the abort landing, again and again."""
    world.reserve_guest(1 << 20)
    world.signals.abort_to(world.base + world.code.entries["aborted"])
    stack_at = ctypes.addressof(U64.from_address(world.hart.entry)) + 24
    enter, plain = world.function("enter", 3), world.base + world.code.entries["plain_load"]
    results = [enter(plain, world.guest + 8 * n, stack_at) for n in range(100)]
    rip = U64.from_address(world.hart.entry + THREAD_RIP).value
    fine = U64(5)
    return {
        "results": sorted(set(results)),
        "inside": world.arena.find(rip) == world.arena.find(world.base),
        "fault": world.hart.fault()[0],
        "normal": enter(plain, ctypes.addressof(fine), stack_at),
    }


def abort_nowhere(world: World) -> object:
    """The same with no abort landing given: the process dies as it would have."""
    world.reserve_guest(1 << 20)
    world.function("plain_load", 1)(world.guest)
    return "survived"


def _queue(pid: int, signo: int, value: int) -> None:
    """sigqueue(3), patient: the kernel's queue is bounded (RLIMIT_SIGPENDING)."""
    while libc.sigqueue(pid, signo, ctypes.c_void_p(value)):
        if ctypes.get_errno() != errno.EAGAIN:
            raise OSError(ctypes.get_errno(), "sigqueue")
        time.sleep(0.001)


def _value(info: bytes) -> int:
    """si_value of a queued signal."""
    return int.from_bytes(info[24:32], "little")


def ping_pong(world: World) -> object:
    """One signal at a time, each sent at a random moment around the call that waits for it. A
    single lost one would leave both sides waiting for ever."""
    rounds = 4000
    world.signals.catch(REALTIME)
    never, ack = os.pipe(), os.pipe()
    sender = os.fork()
    if not sender:
        status = 1
        try:
            parent, delay = os.getppid(), 1
            for n in range(rounds):
                delay = delay * 1103515245 + 12345 & 0x7FFFFFFF
                for _ in range(delay % 300):
                    pass
                _queue(parent, REALTIME, n)
                os.read(ack[0], 1)
            status = 0
        finally:
            os._exit(status)
    buffer = ctypes.create_string_buffer(1)
    got: list[tuple[int, bool, int, int]] = []
    outcomes = set()
    while len(got) < rounds:
        outcomes.add(world.call(SYS_READ, never[0], ctypes.addressof(buffer), 1))
        for signo, tid, info in world.signals.ring.drain():
            got.append((signo, tid == threading.get_native_id(), len(info), _value(info)))
            os.write(ack[1], b"x")
    right = got == [(REALTIME, True, SIGINFO, n) for n in range(rounds)]
    return {"right": right, "outcomes": sorted(outcomes), "child": os.waitpid(sender, 0)[1]}


def storm(world: World) -> object:
    """Senders at full speed, four threads in calls that wait: every queued signal comes once."""
    senders, each, batch = 2, 4000, 200
    world.signals.catch(REALTIME)
    world.signals.catch(signal.SIGUSR1)
    credit = [os.pipe() for _ in range(senders)]
    children = []
    for number in range(senders):
        child = os.fork()
        if not child:
            status = 1
            try:
                for n in range(each):
                    if n % batch == 0:
                        os.read(credit[number][0], 1)
                    _queue(os.getppid(), REALTIME, number << 32 | n)
                    if n % 16 == 0:
                        os.kill(os.getppid(), signal.SIGUSR1)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    quiet = os.pipe()
    done = threading.Event()
    returns: list[int] = []

    def wait() -> None:
        hart = Hart(world.signals)
        buffer = ctypes.create_string_buffer(1)
        while not done.is_set():
            hart.clear()
            result = world.call(
                SYS_READ, quiet[0], ctypes.addressof(buffer), 1, pending=hart.stop_at
            )
            returns.append(result)
        world.signals.unregister_thread()

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    seen: list[list[int]] = [[] for _ in range(senders)]
    users = 0
    for number in range(senders):
        os.write(credit[number][1], b"xx")
    granted = [2 * batch] * senders
    while any(len(part) < each for part in seen):
        world.call(SYS_NANOSLEEP, ctypes.addressof((ctypes.c_int64 * 2)(0, 1_000_000)), 0)
        for signo, _, info in world.signals.ring.drain():
            if signo == signal.SIGUSR1:
                users += 1
                continue
            value = _value(info)
            seen[value >> 32].append(value & 0xFFFFFFFF)
        for number, part in enumerate(seen):
            while granted[number] < each and len(part) + batch >= granted[number]:
                os.write(credit[number][1], b"x")
                granted[number] += batch
    done.set()
    os.write(quiet[1], b"x" * 3)
    for thread in threads:
        thread.join()
    return {
        "complete": [sorted(part) == list(range(each)) for part in seen],
        "users": 0 < users <= senders * each // 16,
        "returns": sorted(set(returns)),
        "children": [os.waitpid(child, 0)[1] for child in children],
    }


def calls(world: World) -> object:
    """What a system call gives: results, errors, and each way of being interrupted."""
    world.signals.catch(signal.SIGUSR1)
    world.signals.catch(signal.SIGUSR2, restart=False)
    found: dict[str, object] = {}
    zero = U64(0)
    calm = ctypes.addressof(zero)
    found["getpid"] = world.call(SYS_GETPID, pending=calm) == os.getpid()
    found["error"] = world.call(SYS_READ, 1 << 20, 0, 0, pending=calm)
    ends = os.pipe()
    buffer = ctypes.create_string_buffer(8)
    os.write(ends[1], b"abcdef")
    read = (SYS_READ, ends[0], ctypes.addressof(buffer), 8)
    found["read"] = (world.call(*read, pending=calm), buffer.raw[:6].decode())
    found["six"] = world.function("six", 0)() and _six(world, calm)
    long = (ctypes.c_int64 * 2)(60, 0)
    sleep = (SYS_NANOSLEEP, ctypes.addressof(long), 0)

    def soon(signo: int) -> None:
        target = threading.main_thread().ident or 0
        threading.Timer(0.1, lambda: signal.pthread_kill(target, signo)).start()

    soon(signal.SIGUSR1)
    found["restartable"] = world.call(*read, pending=calm)
    soon(signal.SIGUSR2)
    found["not-restarted"] = world.call(*read, pending=calm)
    soon(signal.SIGUSR1)
    found["sleep"] = world.call(*sleep, pending=calm)
    found["pending"] = (world.signals.ring.pending, world.call(*read))
    found["stop"] = world.hart.stop
    found["drained"] = [signo for signo, _, _ in world.signals.ring.drain()]
    found["calm"] = world.signals.ring.pending
    os.kill(os.getpid(), signal.SIGSEGV)  # sent, not suffered: a signal like any other
    found["sent"] = [
        (signo, int.from_bytes(info[8:12], "little", signed=True))
        for signo, _, info in world.signals.ring.drain()
    ]
    world.signals.leave(signal.SIGUSR1, ignore=True)
    os.kill(os.getpid(), signal.SIGUSR1)
    found["ignored"] = world.signals.ring.drain()
    return found


def _six(world: World, calm: int) -> bool:
    """A call with six arguments: map memory at an address of our choice."""
    at = reserve(PAGE, hostmem.PROT_NONE)
    flags = hostmem.MAP_PRIVATE | hostmem.MAP_ANONYMOUS | hostmem.MAP_FIXED
    return world.call(9, at, PAGE, 3, flags, MASK, 0, pending=calm) == at


def fork(world: World) -> object:
    """A child keeps working: its own faults, signals and code; the parent's are not its."""
    guest = world.reserve_guest(64 << 10)
    load = world.function("load", 1)
    world.signals.catch(REALTIME)
    others = threading.Event()
    thread = threading.Thread(target=lambda: (Hart(world.signals), others.wait()))
    thread.start()
    _queue(os.getpid(), REALTIME, 1)
    while not world.signals.ring.pending:
        time.sleep(0.001)
    world.signals.before_fork()
    child = os.fork()
    if not child:
        status = 1
        try:
            world.signals.after_fork_in_child()
            found = [load(8 * n) for n in range(50)]
            good = found == [MASK] * 50 and world.hart.fault()[2] == guest + 8 * 49
            good = good and world.signals.ring.drain() == []
            _queue(os.getpid(), REALTIME, 2)
            zero = (ctypes.c_int64 * 2)(1, 0)
            world.call(SYS_NANOSLEEP, ctypes.addressof(zero), 0)
            drained = [(tid, _value(info)) for _, tid, info in world.signals.ring.drain()]
            good = good and drained == [(os.getpid(), 2)]
            again = world.arena.install(world.code)
            second = ctypes.CFUNCTYPE(U64, U64)(again + world.code.entries["load"])
            good = good and second(0x40) == MASK and world.hart.fault()[2] == guest + 0x40
            status = 0 if good else 1
        finally:
            os._exit(status)
    world.signals.after_fork_in_parent()
    mine = [_value(info) for _, _, info in world.signals.ring.drain()]
    status = os.waitpid(child, 0)[1]
    others.set()
    thread.join()
    return {"child": status, "parent": mine, "faults": load(0) == MASK}


def main() -> None:
    name, folder = sys.argv[1:]
    result = globals()[name](World(Path(folder)))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    assert INTERRUPTED == -512
    main()
