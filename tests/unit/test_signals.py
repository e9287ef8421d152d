"""The generated handlers, called as the kernel calls them but with frames made here: every case
that would need luck with real signals."""

from __future__ import annotations

import ctypes
import random
import struct
import threading

import pytest

from hartwood.errors import SignalError
from hartwood.jit import signals as layout
from hartwood.jit.arena import CodeArena, reserve
from hartwood.jit.image import Image, flatten
from hartwood.jit.signals import CELLS, NOT_BEGUN, SIGINFO, HostSignals
from native_code import compile_image, runtime_object

MASK = (1 << 64) - 1
Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
RIP, RSP, RDI, ERROR = 168, 160, 104, 192  # offsets in a ucontext_t
SIGUSR1, SIGSEGV, LAST = 10, 11, 64


class Process:
    """One arena with the runtime in it, and handlers to call."""

    def __init__(self) -> None:
        self.arena = CodeArena(8 << 20)
        self.signals = HostSignals(self.arena)
        self.image = flatten(runtime_object())
        self.base = self.arena.install(self.image, self.signals.slots)
        self.signals.attach(self.image, self.base)
        self.on_signal = Handler(self.address("hw_signal_handler"))
        self.on_fault = Handler(self.address("hw_fault_handler"))
        self.mailbox = (ctypes.c_uint64 * 4)()

    def address(self, name: str) -> int:
        return self.base + self.image.entries[name]

    def register(self) -> int:
        at = ctypes.addressof(self.mailbox)
        return self.signals.register_thread(at, at + 16)

    def signal(self, signo: int, value: int = 0, rip: int = 0) -> int:
        """Deliver a signal; gives the rip it would return to."""
        info = siginfo(signo, -1, value)
        frame = ucontext(rip)
        self.on_signal(signo, info, frame)
        return int(struct.unpack_from("<Q", frame, RIP)[0])

    def fault(self, rip: int, signo: int = LAST, code: int = 1, at: int = 0, error: int = 0):
        """Deliver a fault; gives the (rip, rsp, rdi) it would return to. The default number is
        one whose disposition the handler may put back without harm to this process."""
        info = struct.pack("<iiiiQ", signo, 0, code, 0, at).ljust(SIGINFO, b"\0")
        frame = ucontext(rip, error)
        self.on_fault(signo, info, frame)
        return tuple(struct.unpack_from("<Q", frame, place)[0] for place in (RIP, RSP, RDI))


def siginfo(signo: int, code: int, value: int) -> bytes:
    head = struct.pack("<iiiiiiQ", signo, 0, code, 0, 1234, 5678, value)
    return head.ljust(SIGINFO, b"\xee")


def ucontext(rip: int, error: int = 0) -> ctypes.Array:
    frame = ctypes.create_string_buffer(1024)
    struct.pack_into("<QQ", frame, RSP, 0x5A5A, rip)
    struct.pack_into("<Q", frame, RDI, 0xD1D1)
    struct.pack_into("<Q", frame, ERROR, error)
    return frame


@pytest.fixture
def process() -> Process:
    return Process()


def test_signals_come_out_in_order_with_all_their_information(process: Process) -> None:
    tid = threading.get_native_id()
    expected = []
    for n in range(100):
        signo = 1 + n % 64
        process.signal(signo, n)
        expected.append((signo, tid, siginfo(signo, -1, n)))
    assert process.signals.ring.drain() == expected
    assert process.signals.ring.drain() == []


def test_the_pending_word_is_set_and_cleared(process: Process) -> None:
    ring = process.signals.ring
    word = ctypes.c_uint32.from_address(process.signals.pending_at)
    assert (ring.pending, word.value) == (False, 0)
    process.signal(SIGUSR1)
    assert (ring.pending, word.value) == (True, 1)
    ring.drain()
    assert (ring.pending, word.value) == (False, 0)


def test_the_ring_goes_round_many_times(process: Process) -> None:
    rng, sent, seen = random.Random(3), 0, []
    for _ in range(40):
        for _ in range(rng.randrange(CELLS // 2)):
            process.signal(40, sent)
            sent += 1
        seen += [struct.unpack_from("<Q", info, 24)[0] for _, _, info in
                 process.signals.ring.drain()]  # fmt: skip
    assert sent > 4 * CELLS
    assert seen == list(range(sent))


def test_what_does_not_fit_is_reported_once_for_each_number(process: Process) -> None:
    for n in range(CELLS):
        process.signal(40, n)
    for signo in (SIGUSR1, 64, SIGUSR1, 1, 40):
        process.signal(signo)
    found = process.signals.ring.drain()
    assert [info for _, _, info in found[:CELLS]] == [siginfo(40, -1, n) for n in range(CELLS)]
    assert [(signo, tid) for signo, tid, _ in found[CELLS:]] == [(1, 0), (10, 0), (40, 0), (64, 0)]
    assert all(len(info) == SIGINFO and info[4:] == bytes(124) for _, _, info in found[CELLS:])
    assert process.signals.ring.drain() == []
    process.signal(40, 7)
    assert process.signals.ring.drain() == [(40, threading.get_native_id(), siginfo(40, -1, 7))]


def test_many_threads_fill_while_one_drains(process: Process) -> None:
    """Handlers run without the GIL, so they race with each other and with the drain."""
    each, threads = 3000, 4
    found: list[tuple[int, int, bytes]] = []
    inside = threading.Semaphore(CELLS // 2)  # more would overflow, which is another test

    def send(number: int) -> None:
        for n in range(each):
            inside.acquire()
            process.signal(33 + number, n)

    workers = [threading.Thread(target=send, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    while len(found) < each * threads:
        batch = process.signals.ring.drain()
        found += batch
        if batch:
            inside.release(len(batch))
    for worker in workers:
        worker.join()
    for number in range(threads):
        mine = [struct.unpack_from("<Q", info, 24)[0] for s, _, info in found if s == 33 + number]
        assert mine == list(range(each))
    assert len({tid for _, tid, _ in found}) == threads


def test_a_signal_stops_the_thread_that_took_it_and_no_other(process: Process) -> None:
    process.register()
    other = (ctypes.c_uint64 * 4)()
    registered, leave = threading.Event(), threading.Event()

    def wait() -> None:
        at = ctypes.addressof(other)
        process.signals.register_thread(at, at + 16)
        registered.set()
        leave.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    registered.wait()
    process.signal(SIGUSR1)
    leave.set()
    thread.join()
    assert (process.mailbox[2], other[2]) == (1, 0)


def test_an_unregistered_thread_still_rings(process: Process) -> None:
    process.register()
    process.signals.unregister_thread()
    process.signal(SIGUSR1)
    assert process.mailbox[2] == 0
    assert len(process.signals.ring.drain()) == 1


def test_the_window_of_a_call_is_exact(process: Process) -> None:
    """At every address: before the system call has happened it is given up, after it not."""
    start, end = process.address("hw_window_start"), process.address("hw_window_end")
    interrupted = process.address("hw_window_interrupted")
    assert bytes((ctypes.c_char * 2).from_address(end - 2)) == b"\x0f\x05"  # syscall
    assert start < end < interrupted
    for rip in range(start - 40, end + 60):
        expected = interrupted if start <= rip < end else rip
        assert process.signal(SIGUSR1, rip=rip) == expected


def test_a_call_is_not_made_when_a_signal_is_pending(process: Process) -> None:
    word = ctypes.c_uint32(0)
    call = process.signals.safe_syscall
    getpid = (39, 0, 0, 0, 0, 0, 0)
    assert call(*getpid, ctypes.addressof(word)) > 0
    word.value = 1
    assert call(*getpid, ctypes.addressof(word)) == NOT_BEGUN
    word.value = 0x8000_0000
    assert call(*getpid, ctypes.addressof(word)) == NOT_BEGUN


def faulty_image(rng: random.Random) -> Image:
    size = rng.randrange(1, 9000)
    count = rng.randrange(min(60, size))
    keys = sorted(rng.sample(range(size), count))
    faults = b"".join(struct.pack("<II", key, rng.randrange(size)) for key in keys)
    return Image(b"\xcc" * size, {}, faults)


def test_every_fault_entry_of_every_image_is_found(process: Process) -> None:
    rng = random.Random(11)
    process.register()
    images = [(image, process.arena.install(image)) for image in
              (faulty_image(rng) for _ in range(150))]  # fmt: skip
    for image, base in images:
        for insn, landing in image.fault_pairs:
            at, error = rng.getrandbits(64), rng.randrange(8)
            rip, rsp, rdi = process.fault(base + insn, at=at, error=error)
            assert (rip, rsp, rdi) == (base + landing, 0x5A5A, 0xD1D1)
            assert process.mailbox[0] == LAST | 1 << 32
            assert process.mailbox[1] == at


def test_an_instruction_without_an_entry_stays_where_it_is(process: Process) -> None:
    rng = random.Random(12)
    process.register()
    for _ in range(50):
        image = faulty_image(rng)
        base = process.arena.install(image)
        known = {insn for insn, _ in image.fault_pairs}
        for insn in range(len(image.code)):
            if insn not in known and rng.random() < 0.02:
                assert process.fault(base + insn)[0] == base + insn
    for rip in (0, 1, process.arena.base - 1, process.arena.base + process.arena.used, MASK):
        assert process.fault(rip)[0] == rip


def test_code_that_was_reset_away_is_no_longer_ours(process: Process) -> None:
    process.register()
    process.arena.keep()
    image = Image(b"\xcc" * 8, {}, struct.pack("<II", 3, 5))
    base = process.arena.install(image)
    assert process.fault(base + 3)[0] == base + 5
    process.arena.reset()
    assert process.fault(base + 3)[0] == base + 3
    runtime = process.address("hw_window_start")
    assert process.signal(SIGUSR1, rip=runtime) == process.address("hw_window_interrupted")


def test_the_error_word_tells_reads_from_writes(process: Process) -> None:
    entry = process.register()
    base = process.arena.install(Image(b"\xcc" * 8, {}, struct.pack("<II", 0, 4)))
    for error in (4, 6):
        process.fault(base, error=error)
        assert ctypes.c_uint64.from_address(entry + layout.THREAD_ERROR).value == error
        assert ctypes.c_uint64.from_address(entry + layout.THREAD_RIP).value == base


@pytest.mark.parametrize("stack", [0, 0x7000])
@pytest.mark.parametrize("to", [0, 0x1234])
def test_an_abort_needs_a_landing_and_a_stack(process: Process, stack: int, to: int) -> None:
    entry = process.register()
    ctypes.c_uint64.from_address(entry + layout.THREAD_STACK).value = stack
    process.signals.abort_to(to)
    base = process.arena.install(Image(b"\xcc" * 8, {}))
    expected = (to, stack, entry) if to and stack else (base, 0x5A5A, 0xD1D1)
    assert process.fault(base) == expected


def test_a_fault_signal_that_somebody_sent_is_an_ordinary_signal(process: Process) -> None:
    base = process.arena.install(Image(b"\xcc" * 8, {}, struct.pack("<II", 0, 4)))
    process.register()
    for code in (0, -1, -6):
        assert process.fault(base, code=code)[0] == base
        ((signo, _, info),) = process.signals.ring.drain()
        assert (signo, struct.unpack_from("<i", info, 8)[0]) == (LAST, code)


def test_threads_come_and_go_without_using_the_table_up(process: Process) -> None:
    process.register()

    def visit() -> None:
        process.register()
        process.signals.unregister_thread()

    for _ in range(300):
        thread = threading.Thread(target=visit)
        thread.start()
        thread.join()
    count = ctypes.c_uint64.from_address(process.signals.address + layout.THREAD_COUNT).value
    assert count <= 2
    process.signal(SIGUSR1)
    assert process.mailbox[2] == 1


def test_registering_again_replaces(process: Process) -> None:
    first = process.register()
    other = (ctypes.c_uint64 * 4)()
    at = ctypes.addressof(other)
    assert process.signals.register_thread(at, at + 16) == first
    process.signal(SIGUSR1)
    assert (process.mailbox[2], other[2]) == (0, 1)


def test_a_full_thread_table_is_a_clear_error(process: Process, monkeypatch) -> None:
    monkeypatch.setattr(layout, "MAX_THREADS", 1)
    process.register()
    failed: list[str] = []

    def register() -> None:
        try:
            process.register()
        except SignalError as reason:
            failed.append(str(reason))

    thread = threading.Thread(target=register)
    thread.start()
    thread.join()
    assert failed == ["more than 1 threads"]


def test_a_child_forgets_the_signals_of_its_parent(process: Process, monkeypatch) -> None:
    """As after a fork: what another thread id took is dropped, claimed cells included."""
    ring = process.signals.ring
    thread = threading.Thread(target=lambda: [process.signal(40, n) for n in range(5)])
    thread.start()
    thread.join()
    tail = ctypes.c_uint64.from_address(process.signals.address + layout.TAIL)
    tail.value += 3  # three handlers of the parent were between claiming and filling a cell
    process.signal(SIGUSR1, 77)
    # In a child, the only thread has the process's number.
    monkeypatch.setattr(layout, "getpid", threading.get_native_id)
    process.signals.before_fork()
    process.signals.after_fork_in_child()
    assert [signo for signo, _, _ in ring.drain()] == [SIGUSR1]
    for n in range(CELLS + 5):
        process.signal(41, n)
        assert [info for _, _, info in ring.drain()] == [siginfo(41, -1, n)]


def test_nothing_is_installed_before_there_are_handlers() -> None:
    signals = HostSignals(CodeArena(1 << 20))
    with pytest.raises(SignalError, match="attached"):
        signals.take_faults()
    with pytest.raises(SignalError, match="attached"):
        signals.catch(SIGUSR1)
    with pytest.raises(SignalError, match="not the signal runtime"):
        signals.attach(compile_image("define void @f() { ret void }"), reserve(4096))


@pytest.mark.parametrize("signo", [0, 9, 19, 65, -1])
def test_a_signal_that_cannot_be_caught_is_refused(process: Process, signo: int) -> None:
    with pytest.raises(SignalError, match=f"handler for signal {signo} on"):
        process.signals.catch(signo)
