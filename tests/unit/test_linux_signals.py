"""Guest signals on a fake engine: frames, masks, restarts, stacks, what is fatal."""

from __future__ import annotations

import os
import struct
from errno import EINTR, EINVAL, ENOMEM, EPERM

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartwood.linux import signals
from hartwood.linux.delivery import Dispositions
from hartwood.linux.signals import Action, bit, user_info
from hartwood.linux.task import Ended
from hartwood.mem import hostmem
from unit.fake_engine import FakeStop, call, make_process, make_task

STACK, STACK_TOP = 0x10_0000, 0x11_0000
HANDLER = 0x2_0000
USR1, USR2, TERM, CHLD, STOP, KILL = 10, 12, 15, 17, 19, 9
SIGRETURN, SIGACTION, SIGPROCMASK, SIGPENDING, SIGSUSPEND, ALTSTACK = 139, 134, 135, 136, 133, 132
READ, WRITE_CALL, NANOSLEEP, TGKILL = 63, 64, 101, 131


@pytest.fixture
def task(monkeypatch):
    """A task with a stack; its mask is kept off the thread that runs the tests."""
    monkeypatch.setattr(signals, "mirror_mask", lambda task: None)
    made = make_task()
    made.space.map(STACK, STACK_TOP - STACK, 3)
    made.x[2] = STACK_TOP
    made.process.trampoline = 0x5000
    made.process.complaints = []
    monkeypatch.setattr(
        type(made.process), "complain", lambda self, text: self.complaints.append(text)
    )
    yield made
    made.space.close()


def info(signo, code=0):
    return user_info(signo, code, 4711, 0)


def handle(task, signo, flags=0, mask=0):
    task.process.set_action(signo, Action(HANDLER, flags, mask))


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=31, max_size=31),
    st.lists(st.integers(0, 2**64 - 1), min_size=32, max_size=32),
    st.integers(0, 2**38 - 1),
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
)
@settings(max_examples=60, deadline=None)
def test_a_frame_gives_everything_back(registers, floats, pc, fcsr, mask):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "mirror_mask", lambda task: None)
        task = make_task()
        try:
            task.space.map(STACK, STACK_TOP - STACK, 3)
            for number, value in enumerate(registers, 1):
                task.x[number] = value
            task.x[2] = STACK_TOP - 24
            for number, value in enumerate(floats):
                task.hart.f[number] = value
            task.hart.pc, task.hart.fcsr = pc, fcsr
            task.mask = before = mask & ~signals.UNBLOCKABLE
            saved = task.x.tolist(), task.hart.f.tolist()
            handle(task, USR1)
            signals.push_frame(task, USR1, info(USR1))
            assert task.hart.pc == HANDLER
            for number in range(1, 32):
                if number != 2:
                    task.x[number] = 0x5555
                task.hart.f[number] = 1
            task.hart.fcsr = 0
            call(task, SIGRETURN)
            assert (task.x.tolist(), task.hart.f.tolist()) == saved
            assert (task.hart.pc, task.hart.fcsr, task.mask) == (pc, fcsr, before)
        finally:
            task.space.close()


def test_the_frame_is_laid_out_as_the_kernel_does(task):
    """arch/riscv/kernel/signal.c: struct rt_sigframe { siginfo; ucontext { ... } }."""
    handle(task, USR1, mask=bit(USR2))
    task.hart.pc = 0x1234
    task.x[5] = 55
    task.x[31] = 31
    task.hart.f[9] = 99
    task.hart.fcsr = 0x61
    task.mask = bit(TERM)
    signals.push_frame(task, USR1, info(USR1))
    frame = task.x[2]
    assert frame % 16 == 0
    assert STACK_TOP - frame == 1088
    assert task.x[10:13].tolist() == [USR1, frame, frame + 128]
    assert task.x[1] == task.process.trampoline
    read = task.space.read
    assert read(frame, 128) == info(USR1)
    context = frame + 128
    assert task.space.read_u64(context + 40) == bit(TERM)  # uc_sigmask
    registers = struct.unpack("<32Q", read(context + 176, 256))  # uc_mcontext.sc_regs
    assert (registers[0], registers[2], registers[5], registers[31]) == (0x1234, STACK_TOP, 55, 31)
    floats = struct.unpack("<32QI", read(context + 432, 260))
    assert (floats[9], floats[32]) == (99, 0x61)
    assert task.mask == bit(TERM) | bit(USR1) | bit(USR2)


def test_nodefer_and_resethand(task):
    handle(task, USR1, signals.SA_NODEFER | signals.SA_RESETHAND)
    signals.push_frame(task, USR1, info(USR1))
    assert not task.mask & bit(USR1)
    assert task.process.actions[USR1].handler == signals.SIG_DFL
    assert task.process.delivery.set[USR1] == (signals.SIG_DFL, 0)


def test_the_alternate_stack_is_used_once(task):
    other = 0x20_0000
    task.space.map(other, 0x4000, 3)
    assert signals.set_stack(task, other, 0, 0x4000) == 0
    handle(task, USR1, signals.SA_ONSTACK | signals.SA_NODEFER)
    signals.push_frame(task, USR1, info(USR1))
    first = task.x[2]
    assert first == other + 0x4000 - 1088
    signals.push_frame(task, USR1, info(USR1))
    assert task.x[2] == first - 1088
    assert signals.stack_state(task, task.x[2]) == signals.SS_ONSTACK


def test_without_onstack_the_alternate_stack_is_left_alone(task):
    signals.set_stack(task, 0x20_0000, 0, 0x4000)
    handle(task, USR1)
    signals.push_frame(task, USR1, info(USR1))
    assert STACK < task.x[2] < STACK_TOP


def test_autodisarm_takes_the_stack_away_until_the_return(task):
    other = 0x20_0000
    task.space.map(other, 0x4000, 3)
    signals.set_stack(task, other, signals.SS_AUTODISARM, 0x4000)
    handle(task, USR1, signals.SA_ONSTACK)
    signals.push_frame(task, USR1, info(USR1))
    assert task.stack_size == 0
    call(task, SIGRETURN)
    assert (task.stack_at, task.stack_size) == (other, 0x4000)
    assert task.stack_flags == signals.SS_AUTODISARM


def test_no_room_on_the_stack_is_a_deadly_segv(task):
    handle(task, USR1)
    task.x[2] = STACK + 100
    with pytest.raises(Ended):
        signals.push_frame(task, USR1, info(USR1))
    assert task.process.exit_status == -signals.SIGSEGV


def test_overflow_of_the_alternate_stack_is_a_deadly_segv(task):
    task.space.map(0x20_0000, 0x4000, 3)
    signals.set_stack(task, 0x20_1000, 0, 2048)
    handle(task, USR1, signals.SA_ONSTACK)
    task.x[2] = 0x20_1000 + 500
    with pytest.raises(Ended):
        signals.push_frame(task, USR1, info(USR1))


def test_sigreturn_from_nowhere_is_a_segv(task):
    task.x[2] = 0x7000_0000
    with pytest.raises(Ended):
        call(task, SIGRETURN)
    assert task.process.exit_status == -signals.SIGSEGV


def test_fault_becomes_siginfo(task):
    handle(task, signals.SIGSEGV)
    task.hart.pc = 0x4444
    signals.fault(task, FakeStop("store", 0x1234, signals.SIGSEGV, 2))
    signo, _, code, address = struct.unpack_from("<iii4xQ", task.space.read(task.x[11], 24))
    assert (signo, code, address) == (signals.SIGSEGV, 2, 0x1234)


@pytest.mark.parametrize(("cause", "signo"), [("illegal", 4), ("ebreak", 5)])
def test_bad_instructions_point_at_themselves(task, cause, signo):
    handle(task, signo)
    task.hart.pc = 0x4444
    signals.fault(task, FakeStop(cause))
    assert struct.unpack_from("<iii4xQ", task.space.read(task.x[11], 24)) == (signo, 0, 1, 0x4444)


@pytest.mark.parametrize("state", ["default", "ignored", "blocked"])
def test_a_fault_that_cannot_be_handled_kills_and_says_where(task, state):
    if state == "ignored":
        task.process.set_action(11, Action(signals.SIG_IGN))
    if state == "blocked":
        handle(task, 11)
        task.mask = bit(11)
    task.hart.pc = 0x4444
    with pytest.raises(Ended):
        signals.fault(task, FakeStop("load", 0x10, 11, 1))
    assert task.process.exit_status == -11
    (line,) = task.process.complaints
    assert "SIGSEGV (SEGV_MAPERR at 0x10), pc 0x4444" in line


def test_signals_wait_while_blocked_and_come_in_order(task):
    for signo in (USR1, USR2):
        handle(task, signo)
    task.mask = bit(USR1) | bit(USR2)
    delivery = task.process.delivery
    delivery.arrive(USR1, task.tid, info(USR1))
    delivery.arrive(USR2, task.tid, info(USR2))
    task.check()
    assert [entry[0] for entry in task.pending] == [USR1, USR2]
    assert task.hart.pc == 0
    task.mask = bit(USR1)
    task.check()
    assert task.x[10] == USR2
    assert [entry[0] for entry in task.pending] == [USR1]


def test_our_own_interruption_is_not_seen(task):
    handle(task, 64)
    mine = user_info(64, signals.SI_QUEUE, os.getpid(), 0, signals.KICK_VALUE)
    theirs = user_info(64, signals.SI_QUEUE, os.getpid(), 0, 1)
    task.process.delivery.arrive(64, task.tid, mine)
    task.check()
    assert not task.pending
    assert task.hart.pc == 0
    task.process.delivery.arrive(64, task.tid, theirs)
    task.check()
    assert task.hart.pc == HANDLER


def test_a_signal_for_a_thread_that_is_gone_finds_another(task):
    other = make_task(task.process, tid=999_999)
    task.mask = bit(USR1)
    handle(task, USR1)
    task.process.delivery.arrive(USR1, 123_456, info(USR1))
    signals.collect(task.process)
    assert [entry[0] for entry in other.pending] == [USR1]
    assert other.hart.stops == 1
    # What was sent to the thread itself dies with it; the rest is passed on.
    other.pending.append((USR2, info(USR2, signals.SI_TKILL)))
    del task.process.tasks[999_999]
    signals.pass_on(other)
    assert [entry[0] for entry in task.pending] == [USR1]


@pytest.mark.parametrize(
    ("result", "flags", "number", "again"),
    [
        (-512, 0, READ, False),
        (-512, signals.SA_RESTART, READ, True),
        (-513, 0, READ, True),
        (-4, signals.SA_RESTART, READ, False),
        (-4, signals.SA_RESTART, NANOSLEEP, False),
        (-512, 0, NANOSLEEP, True),
        (-513, 0, NANOSLEEP, True),
    ],
)
def test_interrupted_calls_restart_or_give_eintr(task, result, flags, number, again):
    handle(task, USR1, flags)
    task.hart.pc = 0x8000
    task.hart.answers = [result]
    task.process.delivery.arrive(USR1, task.tid, info(USR1))
    assert call(task, number, 77, STACK, 5) is None
    assert task.hart.pc == HANDLER
    call(task, SIGRETURN)
    if again:
        assert (task.hart.pc, task.x[10]) == (0x8000, 77)
    else:
        assert task.hart.pc == 0x8004
        assert task.x[10] == 2**64 - EINTR


def test_an_interruption_without_a_handler_makes_the_call_again(task):
    task.hart.pc = 0x8000
    task.hart.answers = [-512]
    assert call(task, READ, 77, STACK, 5) is None
    assert (task.hart.pc, task.x[10]) == (0x8000, 77)


def test_sigsuspend_lets_in_what_is_blocked_and_saves_the_old_mask(task):
    handle(task, USR1)
    task.mask = bit(USR1) | bit(TERM)
    task.space.write_u64(STACK, bit(TERM))
    task.hart.answers = [-EINTR]
    task.process.delivery.arrive(USR1, task.tid, info(USR1))
    assert call(task, SIGSUSPEND, STACK, 8) is None
    assert task.hart.pc == HANDLER
    assert task.mask == bit(TERM) | bit(USR1)
    call(task, SIGRETURN)
    assert task.mask == bit(USR1) | bit(TERM)
    assert task.x[10] == 2**64 - EINTR


def test_sigsuspend_that_nothing_ended_keeps_the_old_mask(task):
    task.mask = bit(USR1)
    task.space.write_u64(STACK, 0)
    task.hart.answers = [-512]
    assert call(task, SIGSUSPEND, STACK, 8) is None
    assert task.mask == bit(USR1)
    assert task.saved_mask is None


def test_sigsuspend_takes_what_was_held_before_it_waits(task):
    handle(task, 11)
    task.mask = bit(11)
    task.pending.append((11, info(11)))
    task.space.write_u64(STACK, 0)
    assert call(task, SIGSUSPEND, STACK, 8) is None
    assert task.hart.made == []
    assert task.x[10] == 11


def test_host_mask_leaves_open_what_the_engine_needs():
    everything = (1 << 64) - 1
    for signo in (9, 11, 7, 19, 64):
        assert not signals.host_mask(everything) & bit(signo)
    assert signals.host_mask(bit(USR1)) == bit(USR1)


def test_sigprocmask(task):
    task.space.write_u64(STACK, bit(USR1) | bit(KILL) | bit(STOP))
    assert call(task, SIGPROCMASK, 0, STACK, STACK + 8, 8) == 0
    assert task.mask == bit(USR1)
    assert task.space.read_u64(STACK + 8) == 0
    assert call(task, SIGPROCMASK, 9, STACK, 0, 8) == -EINVAL
    assert call(task, SIGPROCMASK, 0, STACK, 0, 4) == -EINVAL
    assert call(task, SIGPROCMASK, 1, STACK, 0, 8) == 0
    assert task.mask == 0
    assert call(task, SIGPROCMASK, 9, 0, STACK + 8, 8) == 0


def test_sigaction(task):
    task.space.write(STACK, struct.pack("<QQQ", HANDLER, signals.SA_SIGINFO, bit(KILL) | bit(USR2)))
    assert call(task, SIGACTION, USR1, STACK, STACK + 64, 8) == 0
    assert task.space.read(STACK + 64, 24) == bytes(24)
    assert task.process.actions[USR1].mask == bit(USR2)
    assert task.process.delivery.set[USR1] == ("caught", signals.SA_SIGINFO)
    assert call(task, SIGACTION, USR1, 0, STACK + 64, 8) == 0
    assert task.space.read_u64(STACK + 64) == HANDLER
    for signo, new, size in ((KILL, STACK, 8), (STOP, STACK, 8), (0, 0, 8), (65, 0, 8), (10, 0, 4)):
        assert call(task, SIGACTION, signo, new, 0, size) == -EINVAL
    assert call(task, SIGACTION, KILL, 0, STACK, 8) == 0


def test_ignoring_drops_what_is_pending(task):
    task.mask = bit(USR1)
    task.pending += [(USR1, info(USR1)), (USR2, info(USR2)), (USR1, info(USR1))]
    task.process.set_action(USR1, Action(signals.SIG_IGN))
    assert [entry[0] for entry in task.pending] == [USR2]


def test_pending_shows_what_we_hold(task):
    task.mask = bit(11) | bit(USR1)
    task.pending.append((11, info(11)))
    assert call(task, SIGPENDING, STACK, 8) == 0
    assert task.space.read_u64(STACK) & bit(11)
    assert not task.space.read_u64(STACK) & bit(USR1)


def test_sigtimedwait_takes_what_we_hold(task):
    task.mask = bit(11)
    task.pending.append((11, info(11)))
    task.space.write_u64(STACK, bit(11))
    assert call(task, 137, STACK, STACK + 64, 0, 8) == 11
    assert task.space.read(STACK + 64, 128) == info(11)
    assert not task.pending


def test_altstack_errors(task):
    def set_to(at, flags, size):
        task.space.write(STACK, struct.pack("<QI4xQ", at, flags, size))
        return call(task, ALTSTACK, STACK, STACK + 64)

    assert set_to(0x20_0000, 8, 8192) == -EINVAL
    assert set_to(0x20_0000, 0, 100) == -ENOMEM
    assert set_to(0x20_0000, 0, 8192) == 0
    assert struct.unpack("<QI4xQ", task.space.read(STACK + 64, 24)) == (0, 2, 0)
    task.x[2] = 0x20_0000 + 100
    assert set_to(0x30_0000, 0, 8192) == -EPERM
    assert call(task, ALTSTACK, 0, STACK + 64) == 0
    assert struct.unpack("<QI4xQ", task.space.read(STACK + 64, 24)) == (0x20_0000, 1, 8192)


def test_default_actions(task):
    signals.default_action(task, CHLD, info(CHLD))
    for signo in (TERM, USR1, 33):
        task.process.ending = None
        with pytest.raises(Ended):
            signals.default_action(task, signo, info(signo))
        assert task.process.exit_status == -signo
    assert task.process.complaints == []


def test_abort_by_the_guests_own_hand_is_reported(task):
    with pytest.raises(Ended):
        call(task, TGKILL, task.process.pid, task.tid, signals.SIGABRT)
    assert "SIGABRT" in task.process.complaints[0]
    assert task.process.exit_status == -signals.SIGABRT


def test_names():
    assert [signals.name(n) for n in (1, 11, 31, 34)] == ["SIGHUP", "SIGSEGV", "SIGSYS", "SIGRT34"]


def test_dispositions_are_read_changed_and_put_back():
    """In a child, because they are the process's."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            table = Dispositions()
            before = table.read(USR1)
            table.set(USR1, signals.SIG_IGN, signals.SA_NOCLDWAIT | signals.SA_RESTART)
            handler, flags, _, _ = struct.unpack("<QQQQ", table.read(USR1))
            again = Dispositions()
            right = (handler, flags) == (signals.SIG_IGN, signals.SA_NOCLDWAIT)
            right = right and again.ignored(USR1) and again.differs(USR1)
            right = right and not again.ignored(13)  # Python's own choice, not inherited
            table.add_flags(USR1, signals.SA_NOCLDSTOP)
            right = right and struct.unpack("<QQQQ", table.read(USR1))[1] == 3
            table.close()
            right = right and table.read(USR1) == before and table.read(99) == b""
            status = 0 if right else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_python_delivery_serves_without_generated_code():
    child = os.fork()
    if child == 0:
        status = 1
        try:
            from hartwood.linux.delivery import PythonDelivery

            delivery = PythonDelivery()
            delivery.catch(USR1, 0)
            os.kill(os.getpid(), USR1)
            seen = delivery.word[0] == 1
            ((signo, tid, data),) = delivery.drain()
            seen = seen and (signo, tid) == (USR1, os.getpid()) and len(data) == 128
            delivery.kick(os.getpid())
            ((signo, _, data),) = delivery.drain()
            seen = seen and signals.is_kick(signo, data) and not delivery.drain()
            delivery.ignore(USR1, 0)
            os.kill(os.getpid(), USR1)
            seen = seen and not delivery.word[0]
            delivery.close()
            status = 0 if seen else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_host_thread_gets_the_mask():
    child = os.fork()
    if child == 0:
        status = 1
        try:
            task = make_task(make_process())
            signals.set_mask(task, bit(USR1) | bit(11) | bit(KILL))
            buffer = hostmem.Buffer(8)
            hostmem.syscall(14, 0, 0, buffer.address, 8)
            host = int.from_bytes(buffer.view, "little")
            right = host == bit(USR1) and task.mask == bit(USR1) | bit(11)
            status = 0 if right else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
