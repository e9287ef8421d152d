"""Paths below a system root, /proc as the guest sees it, descriptors, directories."""

from __future__ import annotations

import os
import struct
from errno import EACCES, EBADF, EINVAL, ENOENT, ENOTDIR, ENOTTY

import pytest

from hartwood.linux import procfs
from hartwood.mem import descriptors
from unit.fake_engine import call, make_process, make_task

AT = 0x10_0000
FDCWD = 2**64 - 100
OPENAT, READLINKAT, NEWFSTATAT, GETDENTS, CLOSE, CLOSE_RANGE = 56, 78, 79, 61, 57, 436
FCNTL, IOCTL, FACCESSAT, MKDIRAT, OPENAT2 = 25, 29, 48, 34, 437


@pytest.fixture
def root(tmp_path):
    """A system root with links of every kind in it."""
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "usr/lib/file").write_text("below")
    (tmp_path / "etc/absolute").symlink_to("/usr/lib/file")
    (tmp_path / "etc/relative").symlink_to("../lib/file")
    (tmp_path / "etc/upwards").symlink_to("../../../../../../../usr/lib/file")
    (tmp_path / "etc/dangling").symlink_to("/nowhere")
    (tmp_path / "etc/loop").symlink_to("loop")
    return tmp_path


@pytest.fixture
def task(root):
    made = make_task(root=str(root))
    made.space.map(AT, 0x10000, 3)
    yield made
    made.space.close()


def name(task, text, at=AT):
    task.space.write(at, os.fsencode(text) + b"\0")
    return at


def opened(task, path, flags=0):
    fd = call(task, OPENAT, FDCWD, name(task, path), flags, 0)
    if fd < 0:
        return fd
    try:
        return os.read(fd, 100000)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "path", ["/lib/file", "/usr/lib/file", "/etc/absolute", "/etc/relative", "/etc/upwards"]
)
def test_links_stay_below_the_root(task, path):
    assert opened(task, path) == b"below"
    assert task.process.paths.translate(path.encode(), follow=True).endswith(b"/usr/lib/file")


def test_what_is_not_below_the_root_is_the_hosts(task):
    assert opened(task, "/proc/version").startswith(b"Linux")
    assert opened(task, "/dev/null") == b""
    assert opened(task, "/nowhere/at/all") == -ENOENT
    assert opened(task, "/etc/dangling") == -ENOENT


def test_the_link_itself_where_it_is_not_to_be_followed(task, root):
    translate = task.process.paths.translate
    assert translate(b"/etc/absolute", follow=False) == os.fsencode(root / "etc/absolute")
    assert translate(b"relative/path", follow=True) == b"relative/path"
    assert call(task, READLINKAT, FDCWD, name(task, "/etc/absolute"), AT + 500, 100) == 13
    assert task.space.read(AT + 500, 13) == b"/usr/lib/file"
    assert opened(task, "/etc/absolute", os.O_NOFOLLOW) == -40
    assert call(task, NEWFSTATAT, FDCWD, name(task, "/etc/absolute"), AT + 500, 0x100) == 0
    assert task.space.read_u32(AT + 516) & 0o170000 == 0o120000
    assert call(task, NEWFSTATAT, FDCWD, name(task, "/etc/absolute"), AT + 500, 0) == 0
    assert task.space.read_u32(AT + 516) & 0o170000 == 0o100000


def test_passed_calls_look_below_the_root_too(task, root):
    assert call(task, FACCESSAT, FDCWD, name(task, "/etc/relative"), 4) == 0
    assert call(task, FACCESSAT, FDCWD, name(task, "/usr/lib/missing"), 4) == -ENOENT
    # Two paths in one call, each with a place of its own.
    first, second = name(task, "/usr/lib/file"), name(task, str(root / "hard"), AT + 1000)
    assert call(task, 37, FDCWD, first, FDCWD, second, 0) == 0
    assert (root / "hard").read_text() == "below"
    assert call(task, 276, FDCWD, name(task, "/hard"), FDCWD, second, 0) in (0, -EINVAL)


def test_without_a_root_the_guests_own_string_is_used():
    task = make_task()
    task.space.map(AT, 0x1000, 3)
    at = name(task, "/dev/null")
    assert task.process.paths.host_path(task, at, True) == task.base + at
    assert task.process.paths.host_path(task, 0, True) == 0
    task.space.close()


def test_openat2(task):
    how = AT + 1000
    task.space.write(how, struct.pack("<QQQ", 0, 0, 0))
    fd = call(task, OPENAT2, FDCWD, name(task, "/lib/file"), how, 24)
    assert os.read(fd, 10) == b"below"
    os.close(fd)
    task.space.write(how, struct.pack("<QQQ", os.O_PATH, 0, 8))  # RESOLVE_BENEATH
    assert call(task, OPENAT2, FDCWD, name(task, "/lib/file"), how, 24) == -18
    assert call(task, OPENAT2, FDCWD, name(task, "/lib/file"), how, 8) == -EINVAL


# /proc.
def test_proc_shows_the_guest(task):
    process = task.process
    process.exe = b"/bin/the guest"
    process.argv = [b"one", b"", b"three"]
    process.env = [b"A=1", b"B=2"]
    process.auxv = b"vector"
    assert opened(task, "/proc/self/cmdline") == b"one\0\0three\0"
    assert opened(task, "/proc/self/environ") == b"A=1\0B=2\0"
    assert opened(task, f"/proc/{process.pid}/auxv") == b"vector"
    assert opened(task, f"/proc/self/task/{task.tid}/cmdline") == b"one\0\0three\0"
    assert opened(task, "/proc//self/./cmdline") == b"one\0\0three\0"
    cpu = opened(task, "/proc/cpuinfo")
    assert cpu.count(b"processor") == len(os.sched_getaffinity(0))
    assert b"isa\t\t: rv64imafdc_" in cpu
    assert opened(task, "/proc/self/mem") == -EACCES
    assert opened(task, "/proc/self/maps", os.O_WRONLY) == -EACCES
    assert opened(task, "/proc/self/maps", os.O_DIRECTORY) == -ENOTDIR
    assert call(task, READLINKAT, FDCWD, name(task, "/proc/self/exe"), AT + 500, 100) == 14
    assert task.space.read(AT + 500, 14) == b"/bin/the guest"
    assert call(task, READLINKAT, FDCWD, name(task, "/proc/self/exe"), AT + 500, 5) == 5
    assert call(task, READLINKAT, FDCWD, name(task, "/proc/self/exe"), AT + 500, 0) == -EINVAL


def test_the_guests_program_is_what_exe_opens(task, root):
    task.process.exe = os.fsencode(root / "usr/lib/file")
    assert opened(task, "/proc/self/exe") == b"below"
    assert call(task, FACCESSAT, FDCWD, name(task, "/proc/self/exe"), 4) == 0


def test_a_file_of_proc_has_the_lowest_number_and_cannot_be_written(task):
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    fd = call(task, OPENAT, FDCWD, name(task, "/proc/self/maps"), os.O_CLOEXEC, 0)
    try:
        assert fd == lowest
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError, match="Bad file"):
            os.write(fd, b"x")
    finally:
        os.close(fd)


def test_maps_is_in_the_kernels_format(task):
    task.space.map(0x2000_0000, 0x2000, 5, path="[stack]")
    lines = procfs.maps(task.process).decode().splitlines()
    assert lines[-1] == "20000000-20002000 r-xp 00000000 00:00 0 ".ljust(73) + "[stack]"
    assert lines[0] == "00100000-00110000 rw-p 00000000 00:00 0 "
    task.space.map(0x3F_0000_0000, 0x1000, 0, flags=0x21, path="/tmp/a\nb")
    last = procfs.maps(task.process).decode().splitlines()[-1]
    assert last == "3f00000000-3f00001000 ---s 00000000 00:00 0 ".ljust(73) + "/tmp/a\\012b"


def test_stat_has_the_guests_stack(task):
    task.space.map(0x2000_0000, 0x2000, 3, path="[stack]")
    task.space.map(0x3000_0000, 0x2000, 5)
    fields = procfs.stat(task.process).rpartition(b") ")[2].split()
    assert int(fields[25]) == 0x2000_1FF0
    assert (int(fields[23]), int(fields[24])) == (0x3000_0000, 0x3000_2000)
    assert int(fields[20]) == 0x10000 + 0x4000


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/proc/self/maps", b"maps"),
        (b"/proc/thread-self/maps", b"maps"),
        (b"/proc/self/task/77/stat", b"stat"),
        (b"/proc/self/task/77", b"task/77"),
        (b"/proc/1/maps", None),
        (b"/proc/cpuinfo", None),
        (b"/sys/self/maps", None),
        (b"proc/self/maps", None),
    ],
)
def test_which_paths_are_about_us(path, expected):
    process = make_process()
    assert procfs.entry(process, path) == expected
    assert procfs.entry(process, b"/proc/%d/maps" % process.pid) == b"maps"
    process.space.close()


# Descriptors.
def listing(task, fd, size=4096):
    names = []
    while (count := call(task, GETDENTS, fd, AT + 4096, size)) > 0:
        data, at = task.space.read(AT + 4096, count), 0
        while at < count:
            length = int.from_bytes(data[at + 16 : at + 18], "little")
            names.append(data[at + 19 : at + length].split(b"\0")[0].decode())
            at += length
    assert count == 0
    return names


@pytest.mark.parametrize("size", [64, 4096])
def test_our_descriptors_are_not_listed(task, size):
    hidden = [descriptors.hide(os.open("/dev/null", os.O_RDONLY)) for _ in range(5)]
    fd = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = listing(task, fd, size)
        assert str(fd) in names
        assert not {str(number) for number in hidden} & set(names)
    finally:
        os.close(fd)
        descriptors.forget(hidden)


def test_other_directories_list_everything(task, tmp_path):
    for number in (4096, 5000):
        (tmp_path / str(number)).touch()
    hidden = descriptors.hide(os.open("/dev/null", os.O_RDONLY))
    (tmp_path / str(hidden)).touch()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert set(listing(task, fd)) >= {"4096", "5000", str(hidden), ".", ".."}
    finally:
        os.close(fd)
        descriptors.close(hidden)


def test_a_link_to_a_descriptor_of_ours_does_not_exist(task):
    hidden = descriptors.hide(os.open("/dev/null", os.O_RDONLY))
    try:
        path = f"/proc/self/fd/{hidden}"
        assert call(task, READLINKAT, FDCWD, name(task, path), AT + 500, 100) == -ENOENT
        assert opened(task, path) == -ENOENT
    finally:
        descriptors.close(hidden)


def test_close_range_spares_ours(task):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            base = 3000
            keep = [os.dup2(0, base + offset) for offset in (2, 5)]
            theirs = [os.dup2(0, base + offset) for offset in (0, 1, 3, 6, 9)]
            descriptors.private.update(keep)
            right = call(task, CLOSE_RANGE, base, base + 8, 0) == 0
            for fd in (*keep, base + 9):
                os.fstat(fd)
            for fd in theirs[:4]:
                try:
                    os.fstat(fd)
                    right = False
                except OSError:
                    pass
            right = right and call(task, CLOSE_RANGE, base + 2, base + 2, 0) == 0
            os.fstat(base + 2)
            right = right and call(task, CLOSE_RANGE, 9, 5, 0) == -EINVAL
            right = right and call(task, CLOSE, base + 9) == 0
            right = right and call(task, CLOSE, base + 9) == -EBADF
            status = 0 if right else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_locks_and_flags(task, tmp_path):
    fd = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    try:
        task.space.write(AT, struct.pack("<hhxxxxqqi", 1, 0, 0, 10, 0))
        assert call(task, FCNTL, fd, 6, AT) == 0
        assert call(task, FCNTL, fd, 5, AT) == 0
        assert struct.unpack("<h", task.space.read(AT, 2)) == (2,)  # F_UNLCK: it is our own
        assert call(task, FCNTL, fd, 3, 0) & 3 == 2
        assert call(task, FCNTL, fd, 6, 0) == -14
    finally:
        os.close(fd)


def test_ioctl_pointers_numbers_and_unknowns(task):
    reading, writing = os.pipe()
    try:
        os.write(writing, b"12345")
        assert call(task, IOCTL, reading, 0x541B, AT) == 0
        assert task.space.read_u32(AT) == 5
        assert call(task, IOCTL, reading, 0x5421, AT) == 0  # FIONBIO reads the 5
        assert not os.get_blocking(reading)
        assert call(task, IOCTL, reading, 0x5451, 0) == 0  # FIOCLEX takes nothing
        assert call(task, IOCTL, reading, 0x5401, AT) == -ENOTTY
        assert call(task, IOCTL, reading, 0xDEAD_0000, AT) == -ENOTTY
        assert task.process.calls.unknown == {"ioctl_0xdead0000": 1}
    finally:
        os.close(reading)
        os.close(writing)


def test_terminals(task):
    import pty

    leader, follower = pty.openpty()
    try:
        assert call(task, IOCTL, leader, 0x80045430, AT) == 0  # TIOCGPTN encodes its size
        assert os.ttyname(follower).endswith(f"/{task.space.read_u32(AT)}")
        task.space.write(AT, struct.pack("<HHHH", 24, 80, 0, 0))
        assert call(task, IOCTL, follower, 0x5414, AT) == 0
        assert os.get_terminal_size(follower) == (80, 24)
        assert call(task, IOCTL, follower, 0x5401, AT) == 0
        assert call(task, IOCTL, follower, 0x5401, 8) == -14
    finally:
        os.close(leader)
        os.close(follower)


def test_interface_list_has_its_pointer_translated(task):
    import socket

    with socket.socket() as plain:
        task.space.write(AT, struct.pack("<i4xQ", 400, AT + 1000))
        assert call(task, IOCTL, plain.fileno(), 0x8912, AT) == 0
        length, at = struct.unpack("<i4xQ", task.space.read(AT, 16))
        assert at == AT + 1000
        assert length % 40 == 0
        assert length == 0 or task.space.read(at, 2).isalnum()
