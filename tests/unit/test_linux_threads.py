"""Threads, processes and their ends on a fake engine; identity, polling and messages."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from errno import EAGAIN, EBADF, EFAULT, EINVAL, EMSGSIZE, ENOSYS, EPERM, ESRCH
from typing import Any

import pytest

from hartwood.errors import LoadError
from hartwood.linux import signals, threads
from hartwood.linux.process import Process, die_by
from hartwood.linux.signals import bit
from hartwood.linux.task import Ended
from hartwood.mem import hostmem
from unit.fake_engine import FakeStop, call, in_child, make_process, make_task

AT = 0x10_0000
CLONE, CLONE3, EXIT, EXIT_GROUP, FUTEX, WAIT4 = 220, 435, 93, 94, 98, 260
SET_TID, SET_ROBUST, GET_ROBUST = 96, 99, 100
UNAME, PRCTL, PERSONALITY, HWPROBE, GETTID = 160, 167, 92, 258, 178
EPOLL_CTL, EPOLL_PWAIT, PPOLL, PSELECT, SIGNALFD, EPOLL_CREATE, EPOLL_PWAIT2 = (
    21, 22, 73, 72, 74, 20, 441,
)  # fmt: skip
SENDMSG, RECVMSG, SENDMMSG, RECVMMSG, BIND, CONNECT, SETSOCKOPT = 211, 212, 269, 243, 200, 203, 208
THREAD = 0x3D0F00  # what pthread_create asks for
FORK, VFORK = 0x11, 0x4111


@pytest.fixture
def task(monkeypatch):
    monkeypatch.setattr(signals, "mirror_mask", lambda task: None)
    made = make_task()
    made.space.map(AT, 0x10000, 3)
    yield made
    made.space.close()


# Clone.
@pytest.mark.parametrize(
    "flags",
    [
        0x10000,  # a thread that shares nothing
        0x10100,  # without handlers
        0x100 | 0x11,  # memory shared with a process
        0x400 | 0x11,  # files shared with a process
        0x800 | 0x11,
        0x20000000 | 0x11,  # a new pid namespace
        0x8000 | 0x11,  # our parent's child
        0x0A,  # another signal than SIGCHLD
    ],
)
def test_what_cannot_be_shared_is_refused(task, flags):
    assert call(task, CLONE, flags, 0, 0, 0, 0) == -EINVAL
    assert task.process.tasks == {task.tid: task}


def test_clone3_checks_its_arguments(task):
    def clone3(*words, size=64):
        task.space.write(AT, struct.pack(f"<{len(words)}Q", *words))
        return call(task, CLONE3, AT, size)

    assert clone3(0x11, size=63) == -EINVAL
    assert clone3(0x11, size=5000) == -7
    assert clone3(0x11, 0, 0, 0, 17, 0, 0, 0) == -EINVAL  # a signal among the flags
    assert clone3(0, 0, 0, 0, 17, AT, 0, 0) == -EINVAL
    assert clone3(0, 0, 0, 0, 99, 0, 0, 0) == -EINVAL
    assert clone3(0, 0, 0, 0, 17, 0, 0, 0, 5, size=72) == -ENOSYS
    assert call(task, CLONE3, 8, 64) == -EFAULT


def test_a_thread_runs_with_its_own_registers_and_announces_itself(task):
    process = task.process
    seen = {}

    def serve(child):
        seen["x"] = child.x.tolist()
        seen["pc"], seen["fcsr"], seen["f5"] = child.hart.pc, child.hart.fcsr, child.hart.f[5]
        seen["mask"], seen["tid"] = child.mask, child.tid
        seen["known"] = process.tasks.get(child.tid) is child
        seen["clear"] = child.clear_tid
        process.tasks.pop(child.tid)
        done.set()

    process.serve = serve
    done = threading.Event()
    task.hart.pc, task.hart.fcsr, task.mask = 0x4000, 0x21, bit(10)
    task.hart.f[5] = 55
    task.x[9] = 99
    tid = call(task, CLONE, THREAD | 0x1000000, AT + 0x8000, AT, 0x7777, AT + 8)
    assert done.wait(5)
    assert tid == seen["tid"] != task.tid
    assert seen["x"][10] == 0
    assert seen["x"][2] == AT + 0x8000
    assert seen["x"][4] == 0x7777
    assert seen["x"][9] == 99
    assert (seen["pc"], seen["fcsr"], seen["f5"], seen["mask"]) == (0x4004, 0x21, 55, bit(10))
    assert seen["known"]
    assert seen["clear"] == AT + 8
    assert task.space.read_u32(AT) == tid
    assert task.space.read_u32(AT + 8) == tid


def test_a_bad_pointer_of_a_new_thread_is_an_error_and_no_thread(task):
    assert call(task, CLONE, THREAD, AT, 8, 0, 0) == -EFAULT
    assert list(task.process.tasks) == [task.tid]


@in_child
def test_fork_splits_memory_and_tells_both_sides():
    task = make_task(make_process())
    task.space.map(AT, 0x1000, 3)
    hooks = []
    machine = task.process.machine
    machine.before_fork.append(lambda: hooks.append("before"))
    machine.after_fork_parent.append(lambda: hooks.append("parent"))
    machine.after_fork_child.append(lambda: hooks.append("child"))
    task.pending.append((10, b""))
    task.process.timers.append(5)
    other = make_task(task.process, tid=99)
    assert other.tid in task.process.tasks
    result = call(task, CLONE, FORK | 0x1200000, 0, 0, 0, AT)
    if result == 0:
        process = task.process
        right = task.space.read_u32(AT) == os.getpid() == task.tid == process.pid
        right = right and process.tasks == {task.tid: task} and task.pending == []
        right = right and process.forked and process.leader is task and process.timers == []
        right = right and hooks == ["before", "child"] and task.clear_tid == AT
        os._exit(0 if right else 1)
    assert hooks == ["before", "parent"]
    assert task.space.read_u32(AT) == 0
    assert task.pending
    assert call(task, WAIT4, result, AT, 0, 0) == result
    assert task.space.read_u32(AT) == 0


@in_child
def test_the_parent_of_a_vfork_waits_and_takes_over_its_stack():
    task = make_task(make_process())
    task.space.map(AT, 0x10000, 3)
    task.x[2] = AT + 0x4000
    began = time.monotonic()
    result = call(task, CLONE, VFORK | 0x100, 0, 0, 0, 0)
    if result == 0:
        time.sleep(0.1)
        task.space.write_u64(AT + 0x4010, 0xABCDEF)
        task.space.write_u64(AT + 0x100, 1)  # below the stack pointer: the child's own affair
        task.process.exit_status = 3
        task.process.conclude()
    assert time.monotonic() - began > 0.09
    assert task.space.read_u64(AT + 0x4010) == 0xABCDEF
    assert task.space.read_u64(AT + 0x100) == 0
    assert os.waitstatus_to_exitcode(os.waitpid(result, 0)[1]) == 3


@in_child
def test_a_refused_fork_is_the_guests_error():
    task = make_task(make_process())

    def refuse():
        raise OSError(EAGAIN, "no")

    original, os.fork = os.fork, refuse
    try:
        assert call(task, CLONE, FORK, 0, 0, 0, 0) == -EAGAIN
        assert call(task, CLONE, VFORK, 0, 0, 0, 0) == -EAGAIN
    finally:
        os.fork = original


# Ends.
def test_the_last_exit_counts(task):
    other = make_task(task.process, tid=77)
    for thread, status in ((task, 7), (other, 256 + 5)):
        with pytest.raises(Ended):
            call(thread, EXIT, status)
    assert task.process.exit_status == 5
    assert task.process.ending is None


def test_exit_group_ends_every_thread_once(task):
    other = make_task(task.process, tid=77)
    with pytest.raises(Ended):
        call(task, EXIT_GROUP, 300)
    assert task.process.exit_status == 44
    assert other.hart.stops == 1
    assert task.process.delivery.kicks == [77]
    with pytest.raises(Ended):
        other.check()
    with pytest.raises(Ended):
        call(other, EXIT_GROUP, 9)
    assert task.process.exit_status == 44


def test_an_ended_thread_clears_its_word_and_wakes_who_waits(task):
    make_task(task.process, tid=77)
    task.space.write_u32(AT, 55)
    task.clear_tid = AT
    woken = threading.Event()

    def wait():
        hostmem.syscall(202, task.base + AT, 0, 55)
        woken.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.05)
    threads.release(task)
    assert woken.wait(5)
    waiter.join()
    assert task.space.read_u32(AT) == 0


def test_the_only_thread_clears_nothing(task):
    task.space.write_u32(AT, 55)
    task.clear_tid = AT
    threads.release(task)
    assert task.space.read_u32(AT) == 55


def test_bad_words_of_an_ended_thread_are_ignored(task):
    make_task(task.process, tid=77)
    task.clear_tid = task.robust_list = 8
    threads.release(task)


def test_robust_locks_are_marked_and_others_left(task):
    head, first, second, pending = AT, AT + 0x100, AT + 0x200, AT + 0x300
    offset = 0x20
    task.space.write(head, struct.pack("<QqQ", first, offset, pending))
    task.space.write_u64(first, second | 1)  # the low bit marks a lock with priority inheritance
    task.space.write_u64(second, head)
    task.space.write_u32(first + offset, task.tid | 0x8000_0000)
    task.space.write_u32(second + offset, 4711)
    task.space.write_u32(pending + offset, task.tid)
    assert call(task, SET_ROBUST, head, 8) == -EINVAL
    assert call(task, SET_ROBUST, head, 24) == 0
    assert call(task, GET_ROBUST, 0, AT + 0x800, AT + 0x808) == 0
    assert task.space.read_u64(AT + 0x800) == head
    assert call(task, GET_ROBUST, 12345, AT + 0x800, AT + 0x808) == -ESRCH
    threads.release(task)
    assert task.space.read_u32(first + offset) == 0xC000_0000
    assert task.space.read_u32(second + offset) == 4711
    assert task.space.read_u32(pending + offset) == 0x4000_0000


def test_a_robust_list_that_goes_round_ends(task):
    task.space.write(AT, struct.pack("<QqQ", AT + 0x100, 8, 0))
    task.space.write_u64(AT + 0x100, AT + 0x100)
    task.robust_list = AT
    began = time.monotonic()
    threads.release(task)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("operation", "timed", "two"),
    [
        (0, True, False),
        (1, False, False),
        (4, False, True),
        (9 | 0x180, True, False),
        (5, False, True),
    ],
)
def test_futex_arguments_are_pointers_or_numbers(task, operation, timed, two):
    task.hart.answers = [7]
    assert call(task, FUTEX, AT, operation, 1, AT + 8, AT + 16, 3) == 7
    (made,) = task.hart.made
    base = task.base
    assert made == (
        202,
        base + AT,
        operation,
        1,
        base + AT + 8 if timed else AT + 8,
        base + AT + 16 if two else AT + 16,
        3,
    )


def test_set_tid_address(task):
    assert call(task, SET_TID, AT) == task.tid
    assert task.clear_tid == AT


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, 34, 64])
def test_death_by_a_signal_is_what_the_parent_sees(signo):
    child = os.fork()
    if child == 0:
        if signo not in (signal.SIGKILL,):
            signal.pthread_sigmask(signal.SIG_BLOCK, [signo])
        die_by(signo)
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signo


@in_child
def test_a_whole_life_with_a_script_for_an_engine():
    """run() from the file to the exit status: the hart makes two calls and ends."""
    import tempfile

    from unit.elf_files import program
    from unit.fake_engine import FakeDelivery, FakeHart, FakeMachine

    def getpid(hart):
        hart.x[17] = 172
        return FakeStop("ecall")

    def leave(hart):
        seen.append((hart.x[10], hart.pc))
        hart.x[17], hart.x[10] = 94, 21
        return FakeStop("ecall")

    seen = []

    class Machine(FakeMachine):
        def new_hart(self):
            return FakeHart([getpid, lambda hart: FakeStop("slice"), leave])

    def make_machine(space) -> Any:
        return Machine(space), FakeDelivery()

    with tempfile.NamedTemporaryFile() as file:
        file.write(program())
        file.flush()
        process: Any = Process(file.name, make_machine=make_machine)
        assert process.run() == 21
    assert seen == [(os.getpid(), 0x10204)]
    assert process.delivery.set["closed"]


def failing(tmp_path, script, monkeypatch):
    from unit.elf_files import program
    from unit.fake_engine import FakeDelivery, FakeHart, FakeMachine

    class Machine(FakeMachine):
        def new_hart(self):
            return FakeHart(script)

    def make_machine(space) -> Any:
        return Machine(space), FakeDelivery()

    file = tmp_path / "prog"
    file.write_bytes(program())
    return Process(str(file), make_machine=make_machine)


@in_child
def test_an_error_of_ours_ends_the_process_and_reaches_the_caller(tmp_path, monkeypatch):
    def broken(hart):
        raise LoadError("engine", "is broken")

    process = failing(tmp_path, [broken], monkeypatch)
    with pytest.raises(LoadError, match="engine: is broken"):
        process.run()
    assert process.tasks == {}


@in_child
def test_an_error_in_a_thread_is_raised_by_the_leader(tmp_path, monkeypatch):
    def thread(hart):
        hart.x[17], hart.x[10] = 220, THREAD & ~0x200000 & ~0x100000
        return FakeStop("ecall")

    def leader_or_thread(hart):
        if hart.x[10] == 0:
            raise LoadError("thread", "is broken")
        time.sleep(0.05)
        return FakeStop("slice")

    process = failing(tmp_path, [thread, *[leader_or_thread] * 100], monkeypatch)
    machine = process.machine
    new_hart = machine.new_hart

    def later_harts_start_in_the_middle():
        hart = new_hart()
        machine.harts.append(hart)
        if len(machine.harts) > 1:
            del hart.script[0]
        return hart

    machine.new_hart = later_harts_start_in_the_middle
    with pytest.raises(LoadError, match="thread: is broken"):
        process.run()
    assert process.tasks == {}


@in_child
def test_an_error_in_a_forked_child_is_one_line_and_a_status(tmp_path, monkeypatch):
    def fork(hart):
        hart.x[17], hart.x[10] = 220, FORK
        return FakeStop("ecall")

    def child_fails(hart):
        if hart.x[10] == 0:
            os.close(reading)
            os.dup2(writing, 2)
            raise LoadError("child", "is broken")
        hart.x[17], hart.x[10] = 94, 0
        return FakeStop("ecall")

    reading, writing = os.pipe()
    process = failing(tmp_path, [fork, child_fails], monkeypatch)
    assert process.run() == 0
    os.close(writing)
    assert os.read(reading, 1000) == b"hartwood: child: is broken\n"
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 70


# Identity.
def test_uname_is_the_hosts_but_for_the_machine(task):
    assert call(task, UNAME, AT) == 0
    data = task.space.read(AT, 6 * 65)
    fields = [data[at : at + 65].split(b"\0")[0].decode() for at in range(0, 6 * 65, 65)]
    assert fields[0] == "Linux"
    assert fields[2] == os.uname().release
    assert fields[4] == "riscv64"
    assert call(task, UNAME, 8) == -EFAULT


def test_personality_is_remembered(task):
    assert call(task, PERSONALITY, 0xFFFFFFFF) == 0
    assert call(task, PERSONALITY, 0x40000) == 0
    assert call(task, PERSONALITY, 0xFFFFFFFF) == 0x40000


def test_process_options(task):
    task.hart.answers = [0, 0]
    assert call(task, PRCTL, 15, AT, 0, 0, 0) == 0
    assert task.hart.made[-1][2] == task.base + AT
    assert call(task, PRCTL, 38, 1, 0, 0, 0) == 0
    assert task.hart.made[-1][1:3] == (38, 1)
    assert call(task, PRCTL, 35, 1, 0, 0, 0) == -EINVAL  # PR_SET_MM would move our own memory
    assert task.process.calls.unknown == {"prctl_35": 1}
    task.clear_tid = 0x1234
    assert call(task, PRCTL, 40, AT, 0, 0, 0) == 0
    assert task.space.read_u64(AT) == 0x1234
    assert call(task, GETTID) == task.tid


def probe(task, *pairs, **options):
    task.space.write(AT, b"".join(struct.pack("<qQ", *pair) for pair in pairs))
    result = call(
        task, HWPROBE, AT, len(pairs), *options.get("cpus", (0, 0)), options.get("flags", 0)
    )
    data = task.space.read(AT, 16 * len(pairs))
    return result, list(struct.iter_unpack("<qQ", data))


def test_hardware_probing_tells_the_truth(task):
    result, pairs = probe(task, (3, 9), (4, 9), (5, 9), (7, 9), (12345, 9), (-7, 9))
    assert result == 0
    values = dict(pairs[:4])
    assert values[3] == 1
    assert values[5] == 3
    assert values[7] == (1 << 38) - 1
    assert pairs[4:] == [(-1, 0), (-1, 0)]
    have = {number for number in range(64) if values[4] >> number & 1}
    assert have == {0, 1, 3, 4, 5, 35, 43, 44, 45, 50}
    assert 2 not in have  # no vectors
    assert probe(task, (3, 0), flags=2)[0] == -EINVAL
    assert call(task, HWPROBE, 8, 1, 0, 0, 0) == -EFAULT


def test_which_processors_have_it(task):
    online = sum(1 << cpu for cpu in os.sched_getaffinity(0))

    def which(pair, before=0):
        task.space.write_u64(AT + 512, before)
        assert probe(task, pair, cpus=(8, AT + 512), flags=1)[0] == 0
        return task.space.read_u64(AT + 512)

    assert which((4, 1 << 3)) == online
    assert which((4, 1 << 2)) == 0
    assert which((5, 3)) == online
    assert which((5, 1)) == 0
    assert which((999, 0)) == 0
    assert which((3, 1), before=1) == online & 1
    assert probe(task, (3, 1), flags=1)[0] == -EINVAL


# Polling.
def test_epoll_events_are_repacked(task):
    reading, writing = os.pipe()
    epoll = call(task, EPOLL_CREATE, 0)
    try:
        task.space.write(AT, struct.pack("<IIQ", 1, 0xFFFFFFFF, 0x1122334455667788))
        assert call(task, EPOLL_CTL, epoll, 1, reading, AT) == 0
        assert call(task, EPOLL_CTL, epoll, 1, 9999, AT) == -EBADF
        assert call(task, EPOLL_CTL, epoll, 3, reading, 8) == -EFAULT
        assert call(task, EPOLL_PWAIT, epoll, AT, 8, 0, 0, 8) == 0
        os.write(writing, b"x")
        assert call(task, EPOLL_PWAIT, epoll, AT + 64, 8, -1 & 0xFFFFFFFF, 0, 8) == 1
        bits, _, data = struct.unpack("<IIQ", task.space.read(AT + 64, 16))
        assert (bits, data) == (1, 0x1122334455667788)
        assert call(task, EPOLL_PWAIT, epoll, AT + 64, 0, 0, 0, 8) == -EINVAL
        assert call(task, EPOLL_PWAIT, epoll, 8, 8, 0, 0, 8) == -EFAULT
        assert call(task, EPOLL_PWAIT, epoll, AT, 1 << 20, 0, 0, 8) == 1
        task.space.write(AT + 128, struct.pack("<qq", 0, 1000))
        assert call(task, EPOLL_PWAIT2, epoll, AT + 64, 8, AT + 128, 0, 8) == 1
        assert call(task, EPOLL_PWAIT2, epoll, AT + 64, 0, AT + 128, 0, 8) == -EINVAL
        assert call(task, EPOLL_CTL, epoll, 2, reading, 0) == 0
    finally:
        for fd in (reading, writing, epoll):
            os.close(fd)


@pytest.mark.parametrize("number", [PPOLL, PSELECT])
def test_a_temporary_mask_is_given_to_the_host_and_taken_back(task, number):
    task.mask = bit(10)
    task.space.write_u64(AT, bit(12) | bit(11))
    task.space.write(AT + 64, struct.pack("<QQ", AT, 8))
    task.hart.answers = [0]
    if number == PPOLL:
        assert call(task, number, 0, 0, 0, AT, 8) == 0
        address = task.hart.made[0][4]
    else:
        assert call(task, number, 0, 0, 0, 0, 0, AT + 64) == 0
        at = task.hart.made[0][6] - task.scratch.address
        address, size = struct.unpack("<QQ", task.scratch.view[at : at + 16])
        assert size == 8
    at = address - task.scratch.address
    assert int.from_bytes(task.scratch.view[at : at + 8], "little") == bit(12)
    assert task.mask == bit(10)
    assert task.saved_mask is None


def test_a_mask_of_the_wrong_size_is_refused(task):
    assert call(task, PPOLL, 0, 0, 0, AT, 4) == -EINVAL
    assert call(task, PPOLL, 0, 0, 0, 8, 8) == -EFAULT
    assert call(task, SIGNALFD, -1 & 0xFFFFFFFF, AT, 4, 0) == -EINVAL


def test_signalfd_does_not_get_the_engines_signals(task):
    task.space.write_u64(AT, bit(10) | bit(11) | bit(64))
    task.hart.answers = [5]
    assert call(task, SIGNALFD, -1 & 0xFFFFFFFF, AT, 8, 0) == 5
    at = task.hart.made[0][2] - task.scratch.address
    assert int.from_bytes(task.scratch.view[at : at + 8], "little") == bit(10)


# Messages.
def message(task, at, vectors, control=0, control_size=0):
    base = at + 0x100
    for index, (where, size) in enumerate(vectors):
        task.space.write(base + 16 * index, struct.pack("<QQ", where, size))
    header = struct.pack("<QI4xQQQQi4x", 0, 0, base, len(vectors), control, control_size, 0)
    task.space.write(at, header)
    return at


def test_messages_pass_descriptors_and_data(task):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        task.space.write(AT + 0x1000, b"oneTWO")
        control = struct.pack("<QiiI4x", 20, 1, 1, 0)
        task.space.write(AT + 0x2000, control)
        sent = message(task, AT, [(AT + 0x1000, 3), (AT + 0x1003, 3)], AT + 0x2000, len(control))
        assert call(task, SENDMSG, left.fileno(), sent, 0) == 6
        got = message(task, AT + 0x400, [(AT + 0x3000, 4), (AT + 0x3100, 9)], AT + 0x4000, 64)
        assert call(task, RECVMSG, right.fileno(), got, 0) == 6
        assert task.space.read(AT + 0x3000, 4) + task.space.read(AT + 0x3100, 2) == b"oneTWO"
        fields = struct.unpack("<QI4xQQQQi", task.space.read(got, 52))
        assert fields[2:5] == (AT + 0x500, 2, AT + 0x4000)  # the guest's pointers are untouched
        assert fields[5] == 24
        passed = struct.unpack("<QiiI", task.space.read(AT + 0x4000, 20))[3]
        os.close(passed)
        task.space.write(AT + 24, struct.pack("<Q", 1025))
        assert call(task, SENDMSG, left.fileno(), AT, 0) == -EMSGSIZE
        assert call(task, SENDMSG, left.fileno(), 8, 0) == -EFAULT


def test_several_messages_at_once(task):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        task.space.write(AT + 0x1000, b"abcdef")
        for index in range(3):
            at = AT + 64 * index
            task.space.write(AT + 0x800 + 16 * index, struct.pack("<QQ", AT + 0x1000, index + 1))
            task.space.write(
                at, struct.pack("<QI4xQQQQi4x", 0, 0, AT + 0x800 + 16 * index, 1, 0, 0, 0)
            )
        assert call(task, SENDMMSG, left.fileno(), AT, 3, 0) == 3
        assert [task.space.read_u32(AT + 64 * i + 56) for i in range(3)] == [1, 2, 3]
        assert call(task, RECVMMSG, right.fileno(), AT, 2, 0x40, 0) == 2
        assert call(task, RECVMMSG, right.fileno(), AT, 3, 0x10000, 0) == 1
        assert call(task, RECVMMSG, right.fileno(), AT, 3, 0x40, 0) == -EAGAIN
        assert call(task, SENDMMSG, 9999, AT, 3, 0) == -EBADF


def test_socket_paths_go_through_the_root(tmp_path):
    task = make_task(root=str(tmp_path))
    task.space.map(AT, 0x1000, 3)
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "run/s"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            address = struct.pack("<H", 1) + b"/run/s\0"
            task.space.write(AT, address)
            assert call(task, CONNECT, client.fileno(), AT, len(address)) == 0
            client.send(b"found")
            assert server.recv(10) == b"found"
            relative = struct.pack("<H", 1) + b"\0abstract"
            task.space.write(AT, relative)
            assert call(task, BIND, client.fileno(), AT, len(relative)) == 0
            assert client.getsockname() == b"\0abstract"
            task.space.write(AT, struct.pack("<H4xQ", 2, AT + 64))
            assert call(task, SETSOCKOPT, client.fileno(), 1, 26, AT, 16) in (
                -EINVAL,
                -EPERM,
                -EFAULT,
            )
    task.space.close()
