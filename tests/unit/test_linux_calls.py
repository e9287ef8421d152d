"""The table of calls, what passes through it to the host, and what --strace says about it."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import struct
import subprocess
from errno import EBADF, EFAULT, EINVAL, ENOSYS
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.linux import structs, vectors
from hartwood.linux.calls import HOST, LINES, row
from hartwood.linux.strace import argument, outcome
from hartwood.linux.table import HANDLERS, NEVER_RESTARTED
from hartwood.mem import descriptors
from hartwood.mem.flat import LIMIT
from unit.fake_engine import call, make_task

AT = 0x10_0000
READ, WRITE, GETPID, GETPPID, PREAD, READV, PIPE2 = 63, 64, 172, 173, 67, 65, 59
OPENAT, MKDIRAT, SYMLINKAT, UNLINKAT = 56, 34, 36, 35
FDCWD = 2**64 - 100


@pytest.fixture
def task():
    made = make_task()
    made.space.map(AT, 0x10000, 3)
    yield made
    made.space.close()


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def compiler_numbers(compiler):
    """System call numbers as a compiler's headers have them."""
    if shutil.which(compiler) is None:
        pytest.skip(f"missing: {compiler}")
    source = "#include <asm/unistd.h>\n"
    done = subprocess.run(
        [compiler, "-E", "-dM", "-"], input=source, capture_output=True, text=True, check=True
    )
    texts = dict(re.findall(r"#define (__NR\w*) (.+)", done.stdout))

    def value(text):
        text = text.strip().strip("()")
        if "+" in text:
            return sum(value(part) for part in text.split("+"))
        return value(texts[text]) if text in texts else int(text)

    return {
        name[5:]: value(text)
        for name, text in texts.items()
        if name.startswith("__NR_") and re.fullmatch(r"\(?[\w ]+(\+ ?\d+)?\)?", text)
    }


def test_numbers_agree_with_both_compilers_headers():
    guest = compiler_numbers("riscv64-linux-gnu-gcc")
    host = compiler_numbers("x86_64-linux-gnu-gcc")
    compared = 0
    for number in LINES:
        entry = row(number)
        assert entry is not None
        if entry.name in guest:
            assert guest[entry.name] == number
            compared += 1
        if entry.host is not None and entry.name in host:
            assert host[entry.name] == entry.host
    assert compared > 280
    known = {row(number).name for number in LINES}
    assert set(guest) - known <= {"arch_specific_syscall", "syscalls"}


def test_rows_are_well_formed():
    names = [row(number).name for number in LINES]
    assert len(names) == len(set(names))
    for number in LINES:
        entry = row(number)
        assert entry.how in "=.!"
        assert len(entry.kinds) <= 6
        assert entry.how != "=" or entry.host is not None
    assert HOST["read"] == 0
    with pytest.raises(KeyError):
        HOST["riscv_hwprobe"]
    assert row(4000) is None


def test_every_handler_exists_and_takes_the_arguments_of_its_row():
    rows = {row(number).name: row(number) for number in LINES}
    handled = set()
    for module, names in HANDLERS.items():
        for name in names.split():
            function = getattr(import_module(f"hartwood.linux.{module}"), name)
            parameters = list(inspect.signature(function).parameters)
            assert parameters[0] == "task"
            assert len(parameters) - 1 == len(rows[name].kinds), name
            handled.add(name)
    assert handled == {name for name, entry in rows.items() if entry.how == "."}
    assert set(rows) >= NEVER_RESTARTED


def test_unknown_and_refused_calls_are_counted_by_name(task):
    assert call(task, 4000) == -ENOSYS
    assert call(task, 4000) == -ENOSYS
    assert call(task, 293, AT, 32, 0, 0) == -ENOSYS
    assert call(task, 425, 1, AT) == -ENOSYS
    assert task.process.calls.unknown == {"syscall_4000": 2, "rseq": 1, "io_uring_setup": 1}
    assert task.hart.made == []


def test_a_call_is_looked_up_once(task):
    assert call(task, GETPPID) == os.getppid()
    known = task.process.calls.known[GETPPID]
    assert call(task, GETPPID) == os.getppid()
    assert task.process.calls.known[GETPPID] is known


def test_pointers_become_host_pointers_null_stays_and_bad_ones_fault(task, pipe):
    task.space.write(AT, b"payload")
    assert call(task, WRITE, pipe[1], AT, 7) == 7
    assert call(task, READ, pipe[0], AT + 100, 50) == 7
    assert task.space.read(AT + 100, 7) == b"payload"
    assert call(task, WRITE, pipe[1], 0, 7) == -EFAULT
    for bad in (LIMIT, LIMIT + 5, 2**63, 2**64 - 1, AT - 7):
        assert call(task, WRITE, pipe[1], bad, 7) == -EFAULT
    # A host address of ours is no address of the guest's.
    assert call(task, WRITE, pipe[1], task.scratch.address, 7) == -EFAULT
    host = [made[2] for made in task.hart.made]
    assert host[0] == task.base + AT
    assert host[2] == 0
    assert all(task.base <= at <= task.base + LIMIT for at in host if at)


def test_several_pointers_and_plain_numbers(task):
    assert call(task, 59, AT, os.O_CLOEXEC) == 0
    reading, writing = struct.unpack("<ii", task.space.read(AT, 8))
    os.close(reading)
    os.close(writing)
    assert call(task, 113, 1, AT) == 0  # clock_gettime
    assert task.space.read_u64(AT) > 0
    assert call(task, 124) == 0  # sched_yield
    assert call(task, 113, 1, 8) == -EFAULT


def test_our_descriptors_are_bad_ones(task):
    hidden = descriptors.hide(os.open("/dev/null", os.O_RDWR))
    try:
        for number, arguments in (
            (READ, (hidden, AT, 1)),
            (WRITE, (hidden, AT, 1)),
            (READ, (hidden | 1 << 32, AT, 1)),
            (PREAD, (hidden, AT, 1, 0)),
            (READV, (hidden, AT, 1)),
            (57, (hidden,)),  # close
            (24, (hidden, 5, 0)),  # dup3
            (24, (0, hidden, 0)),
            (23, (hidden,)),  # dup
            (25, (hidden, 1, 0)),  # fcntl
            (29, (hidden, 0x5401, AT)),  # ioctl
            (62, (hidden, 0, 0)),  # lseek
            (80, (hidden, AT)),  # fstat
            (79, (hidden, AT, AT, 0x1000)),  # newfstatat
            (61, (hidden, AT, 100)),  # getdents64
            (22, (hidden, AT, 1, 0, 0, 8)),  # epoll_pwait
            (21, (hidden, 1, 0, AT)),
            (211, (hidden, AT, 0)),  # sendmsg
            (212, (hidden, AT, 0)),
            (200, (hidden, AT, 16)),  # bind
            (203, (hidden, AT, 16)),
            (208, (hidden, 1, 2, AT, 4)),
            (71, (hidden, 0, 0, 1)),  # sendfile
            (71, (1, hidden, 0, 1)),
            (222, (0, 4096, 1, 2, hidden, 0)),  # mmap
            (OPENAT, (hidden, AT, 0, 0)),
            (MKDIRAT, (hidden, AT, 0)),
            (SYMLINKAT, (AT, hidden, AT)),
        ):
            task.space.write(AT, b"name\0")
            assert call(task, number, *arguments) == -EBADF, number
        os.fstat(hidden)
    finally:
        descriptors.close(hidden)


def test_a_write_into_protected_code_pages_is_let_through(task, pipe):
    changed = []
    task.space.map(AT, 0x3000, 7)
    for page in range(3):
        task.space.write_protect(AT + 0x1000 * page)
    task.space.on_code_change = lambda start, end: changed.append(start)
    os.write(pipe[1], b"x" * 100)
    assert call(task, READ, pipe[0], AT + 0x1000 - 50, 100) == 100
    assert changed == [AT, AT + 0x1000] or changed == [AT + 0x1000, AT]
    assert task.space.is_write_protected(AT + 0x2000)
    # Where the size is not known beforehand the host's EFAULT is the sign.
    assert call(task, 113, 1, AT + 0x2000) == 0
    assert not task.space.protected_pages
    assert task.space.read_u64(AT + 0x2000) > 0


def test_errors_of_python_become_the_guests(task):
    assert call(task, 222, AT + 1, 4096, 3, 0x32, -1, 0) == -EINVAL  # MappingError
    assert call(task, 48, FDCWD, 8, 0) == -EFAULT  # MemoryFault
    task.space.map(AT, 0x4000, 3)
    task.space.write(AT, b"n" * 5000 + b"\0")
    assert call(task, 48, FDCWD, AT, 0) == -36  # OSError: the name is too long
    assert call(task, READV, 0, AT, 5000) == -EINVAL


def test_vectors_hold_host_pointers(task, pipe):
    task.space.write(AT, b"onetwo")
    task.space.write(AT + 64, struct.pack("<8Q", AT, 3, AT + 3, 3, 0, 0, LIMIT + 1, 1))
    assert call(task, 66, pipe[1], AT + 64, 2) == 6
    assert os.read(pipe[0], 10) == b"onetwo"
    assert call(task, 66, pipe[1], AT + 64, 4) in (6, -EFAULT)
    assert call(task, 66, pipe[1], AT + 64 + 48, 1) == -EFAULT
    assert call(task, 66, pipe[1], AT + 64, 0) == 0
    assert call(task, 66, pipe[1], AT + 64, 1025) == -EINVAL
    assert call(task, 66, pipe[1], 8, 1) == -EFAULT
    address = vectors.to_host(task, AT + 64, 1)
    assert task.scratch.address <= address < task.scratch.address + 65536


# Layouts.
@given(st.lists(st.integers(0, 2**31 - 1), min_size=16, max_size=16))
def test_stat_fields_arrive_at_their_places(values):
    dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, *times = values
    host = struct.pack(
        "<QQQIIIIQqqqQQQQQQ24x",
        dev, ino, nlink, mode, uid, gid, 0, rdev, size, blksize, blocks, *times,
    )  # fmt: skip
    assert len(host) == structs.HOST_STAT == 144
    guest = structs.stat_to_guest(host)
    assert len(guest) == structs.GUEST_STAT == 128
    # asm-generic/stat.h: dev ino mode nlink uid gid rdev pad size blksize pad blocks times
    fields = struct.unpack("<QQIIIIQQqiiqQQQQQQ8x", guest)
    assert fields[:7] == (dev, ino, mode, nlink, uid, gid, rdev)
    assert (fields[8], fields[9], fields[11], fields[12:]) == (size, blksize, blocks, tuple(times))


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)), max_size=5))
def test_epoll_events_both_ways(events):
    guest = b"".join(struct.pack("<IIQ", bits, 0, data) for bits, data in events)
    host = b"".join(structs.event_to_host(guest[at : at + 16]) for at in range(0, len(guest), 16))
    assert host == b"".join(struct.pack("<IQ", *event) for event in events)
    assert structs.events_to_guest(host) == guest


def test_semaphores_both_ways():
    host = bytes(range(48)) + struct.pack("<QQQQQ", 111, 0, 222, 0, 5) + bytes(16)
    guest = structs.semaphore_to_guest(host)
    assert struct.unpack_from("<QQQ", guest, 48) == (111, 222, 5)
    assert structs.semaphore_to_host(guest) == host


# --strace.
def test_traced_calls_say_what_was_asked_and_answered():
    task = make_task(strace=True)
    lines = []
    task.process.complain = lines.append
    task.space.map(AT, 0x1000, 3)
    task.space.write(AT, b"/nonexistent/file\0")
    call(task, OPENAT, FDCWD, AT, 0, 0)
    call(task, OPENAT, FDCWD, 8, 0, 0)
    call(task, GETPID)
    call(task, 4000)
    call(task, 222, 0, 4096, 3, 0x22, 2**64 - 1, 0)
    assert lines[0] == (
        f"[{task.tid}] openat(AT_FDCWD, '/nonexistent/file', 0x0, 0x0)"
        " = -1 ENOENT (No such file or directory)"
    )
    assert "EFAULT" in lines[1]
    assert lines[2] == f"[{task.tid}] getpid() = {task.process.pid}"
    assert "syscall_4000() = -1 ENOSYS" in lines[3]
    assert lines[4].startswith(f"[{task.tid}] mmap(0x0, 4096, 0x3, 0x22, -1, 0) = 0x3f")
    task.space.close()


def test_strace_arguments(task):
    task.space.write(AT, b"x" * 100 + b"\0")
    assert argument(task, "path", AT) == repr("x" * 64) + "..."
    assert argument(task, "path", 8) == "0x8"
    assert argument(task, "buf*", 0) == "NULL"
    assert argument(task, "fd", 2**64 - 1) == "-1"
    assert argument(task, "count", 2**64 - 5) == "-5"
    assert outcome(None) == "?"
    assert outcome(-2).startswith("-1 ENOENT")
    assert outcome(5) == "5"
    assert outcome(0x3F_FFFF_F000) == "0x3ffffff000"
