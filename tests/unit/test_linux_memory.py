"""Memory calls on a fake engine: what the guest may do to its address space, and what not."""

from __future__ import annotations

import os
import struct
from errno import EBADF, EEXIST, EFAULT, EINVAL, ENOMEM, ENOSYS, EPERM

import pytest

from hartwood.linux.process import available_memory
from hartwood.mem.flat import LIMIT, LOWEST
from unit.fake_engine import call, in_child, make_task

BRK, MUNMAP, MREMAP, MMAP, MPROTECT, MSYNC, MLOCK, MLOCKALL = 214, 215, 216, 222, 226, 227, 228, 230
MINCORE, MADVISE, PKEY_MPROTECT, SHMGET, SHMCTL, SHMAT, SHMDT, SEMCTL = (
    232, 233, 288, 194, 195, 196, 197, 191,
)  # fmt: skip
PRLIMIT, GETRLIMIT, SETRLIMIT = 261, 163, 164
P = 4096
RW, ANON, FIXED, NOREPLACE, SHARED = 3, 0x22, 0x10, 0x100000, 0x21
NONE = 2**64 - 1
AT = 0x10_0000


@pytest.fixture
def task():
    made = make_task(memory_limit=1 << 30)
    yield made
    made.space.close()


def anonymous(task, size, prot=RW, flags=ANON, at=0):
    return call(task, MMAP, at, size, prot, flags, NONE, 0)


def test_mmap_gives_high_addresses_going_down(task):
    first, second = anonymous(task, P), anonymous(task, 5 * P + 1)
    assert LIMIT > first > second
    assert second + 6 * P == first
    assert task.space.read(second, 6 * P) == bytes(6 * P)


@pytest.mark.parametrize(
    ("at", "size", "flags", "fd", "offset", "errno"),
    [
        (0, 0, ANON, -1, 0, EINVAL),
        (0, P, 0x20, -1, 0, EINVAL),
        (0, P, 2, 9999, 0, EBADF),
        (0, P, ANON, -1, 5, EINVAL),
        (AT + 1, P, ANON | FIXED, -1, 0, EINVAL),
        (0, P, ANON | FIXED, -1, 0, EPERM),
        (LOWEST - P, P, ANON | FIXED, -1, 0, EPERM),
        (LIMIT, P, ANON | FIXED, -1, 0, ENOMEM),
        (LIMIT - P, 2 * P, ANON | FIXED, -1, 0, ENOMEM),
        (2**64 - P, 2 * P, ANON | FIXED, -1, 0, ENOMEM),
        (0, LIMIT, ANON, -1, 0, ENOMEM),
        (0, 2**64 - 1, ANON, -1, 0, ENOMEM),
        (0, 2 << 30, ANON, -1, 0, ENOMEM),
        (0, P, ANON | 0x40000, -1, 0, ENOMEM),
    ],
)
def test_mmap_refusals(task, at, size, flags, fd, offset, errno):
    assert call(task, MMAP, at, size, RW, flags, fd, offset) == -errno
    assert len(task.space.regions) == 0


def test_fixed_mappings(task):
    assert anonymous(task, 2 * P, flags=ANON | FIXED, at=AT) == AT
    task.space.write(AT + P, b"old")
    assert anonymous(task, P, flags=ANON | NOREPLACE, at=AT) == -EEXIST
    assert anonymous(task, P, flags=ANON | NOREPLACE, at=AT + 2 * P) == AT + 2 * P
    assert anonymous(task, P, flags=ANON | FIXED, at=AT + P) == AT + P
    assert task.space.read(AT + P, 3) == bytes(3)


def test_hints_are_taken_when_free(task):
    assert anonymous(task, P, at=AT) == AT
    assert anonymous(task, P, at=AT) > AT
    assert anonymous(task, P, at=AT + 0x2001) == AT + 0x2000
    assert anonymous(task, P, at=2**64 - P) < LIMIT


def test_file_mappings_know_their_file(task, tmp_path):
    file = tmp_path / "data"
    file.write_bytes(b"0" * P + b"1" * P)
    fd = os.open(file, os.O_RDWR)
    try:
        at = call(task, MMAP, 0, P, RW, 1, fd, P)
        assert task.space.read(at, 3) == b"111"
        (region,) = task.space.regions
        assert (region.path, region.offset, region.shared) == (str(file), P, True)
        assert region.inode == os.fstat(fd).st_ino
        task.space.write(at, b"new")
        assert file.read_bytes()[P : P + 3] == b"new"
        read_only = os.open(file, os.O_RDONLY)
        assert call(task, MMAP, 0, P, RW, 1, read_only, 0) == -13
        os.close(read_only)
    finally:
        os.close(fd)


def test_mprotect(task):
    at = anonymous(task, 4 * P)
    assert call(task, MPROTECT, at, P, 1) == 0
    assert call(task, MPROTECT, at + 1, P, 1) == -EINVAL
    assert call(task, MPROTECT, at, P, 0x1000) == -EINVAL
    assert call(task, MPROTECT, at - 100 * P, P, 1) == -ENOMEM
    assert call(task, MPROTECT, LIMIT - P, 2 * P, 1) == -ENOMEM
    assert call(task, MPROTECT, at, 0, 1) == 0
    # PROT_GROWSDOWN takes the mapping from its beginning.
    assert call(task, MPROTECT, at, 4 * P, 3) == 0
    assert call(task, MPROTECT, at + 3 * P, P, 7 | 0x0100_0000) == 0
    assert [r.prot for r in task.space.regions] == [7]
    assert call(task, MPROTECT, AT, P, 7 | 0x0100_0000) == -ENOMEM
    assert call(task, PKEY_MPROTECT, at, P, 1, NONE) == 0
    assert call(task, PKEY_MPROTECT, at, P, 1, 1) == -EINVAL


def test_munmap(task):
    at = anonymous(task, 4 * P)
    assert call(task, MUNMAP, at + P, P) == 0
    assert [(r.start - at) // P for r in task.space.regions] == [0, 2]
    assert call(task, MUNMAP, at + 1, P) == -EINVAL
    assert call(task, MUNMAP, at, 0) == -EINVAL
    assert call(task, MUNMAP, at, 2**64 - 1) == -EINVAL
    assert call(task, MUNMAP, at, 4 * P) == 0
    assert call(task, MUNMAP, at, 4 * P) == 0
    assert len(task.space.regions) == 0


@pytest.mark.parametrize(
    ("flags", "target", "errno"),
    [(2, AT, EINVAL), (8, 0, EINVAL), (4, 0, EINVAL), (3, AT + 1, EINVAL), (3, LIMIT + P, EINVAL)],
)
def test_mremap_refusals(task, flags, target, errno):
    at = anonymous(task, 2 * P)
    assert call(task, MREMAP, at, P, 2 * P, flags, target) == -errno


def test_mremap(task):
    at = anonymous(task, 2 * P)
    task.space.write(at, b"kept")
    moved = call(task, MREMAP, at, 2 * P, 100 * P, 1, 0)
    assert moved != at
    assert task.space.read(moved, 4) == b"kept"
    assert call(task, MREMAP, moved, 100 * P, P, 0, 0) == moved
    assert call(task, MREMAP, moved, P, 2 * P, 3, AT) == AT
    assert task.space.read(AT, 4) == b"kept"
    assert call(task, MREMAP, moved, P, 2 * P, 1, 0) == -EFAULT
    assert call(task, MREMAP, AT, 0, P, 1, 0) == -EINVAL
    assert call(task, MREMAP, AT, P, 4 << 30, 1, 0) == -ENOMEM


def test_brk_moves_in_pages_and_never_backwards_past_its_start(task):
    task.process.brk = task.process.brk_start = AT
    assert call(task, BRK, 0) == AT
    assert call(task, BRK, AT + 100) == AT + 100
    task.space.write(AT + P - 1, b"x")
    assert call(task, BRK, AT + 3 * P) == AT + 3 * P
    assert [r.path for r in task.space.regions] == ["[heap]"]
    assert call(task, BRK, AT + 1) == AT + 1
    assert call(task, BRK, AT - 1) == AT + 1
    assert [(r.start, r.end) for r in task.space.regions] == [(AT, AT + P)]
    anonymous(task, P, flags=ANON | FIXED, at=AT + 2 * P)
    assert call(task, BRK, AT + 3 * P) == AT + 1
    assert call(task, BRK, AT + 2 * P) == AT + 2 * P
    assert call(task, BRK, LIMIT + 5) == AT + 2 * P
    assert call(task, BRK, AT + (2 << 30)) == AT + 2 * P


def test_advice(task):
    at = anonymous(task, 4 * P)
    task.space.write(at, b"gone")
    assert call(task, MADVISE, at, P, 4) == 0
    assert task.space.read(at, 4) == bytes(4)
    assert call(task, MADVISE, at, 0, 4) == 0
    assert call(task, MADVISE, at + 1, P, 4) == -EINVAL
    call(task, MUNMAP, at + P, P)
    assert call(task, MADVISE, at, 4 * P, 0) == -ENOMEM
    assert call(task, MADVISE, AT, P, 4) == -ENOMEM
    assert call(task, MADVISE, at, P, 12345) == -EINVAL
    assert call(task, MADVISE, at, P, 100) == -EPERM
    assert call(task, MADVISE, LIMIT, P, 4) == -EINVAL


def test_dropping_code_is_announced(task):
    seen = []
    at = anonymous(task, 2 * P, prot=7)
    task.space.on_code_change = lambda start, end: seen.append((start, end))
    call(task, MADVISE, at, P, 4)
    assert seen == [(at, at + P)]
    call(task, 259, at, at + 2 * P, 0)  # riscv_flush_icache
    assert seen[-1] == (at, at + 2 * P)
    assert call(task, 259, at, at, 2) == -EINVAL


def test_ranges_must_be_mapped(task):
    at = anonymous(task, 2 * P)
    task.space.write(at, b"x")
    for number, rest in ((MSYNC, (4,)), (MINCORE, (at + P,)), (MLOCK, ())):
        assert call(task, number, at, P, *rest) == 0
        assert call(task, number, AT, P, *rest) == -ENOMEM
    assert task.space.read(at + P, 1)[0] & 1
    assert call(task, MSYNC, at + 1, P, 4) == -EINVAL
    assert call(task, MSYNC, at, 2**63, 4) == -ENOMEM


def test_mlockall_locks_the_guest_and_not_the_reservation(task):
    assert call(task, MLOCKALL, 0) == -EINVAL
    assert call(task, MLOCKALL, 8) == -EINVAL
    assert call(task, MLOCKALL, 4) == -EINVAL
    assert call(task, MLOCKALL, 5) == -ENOSYS
    at = anonymous(task, P)
    assert call(task, MLOCKALL, 3) == 0
    assert task.hart.made[-1] == (149, task.base + at, P)
    assert task.process.lock_future


def test_limits_on_memory_are_kept_by_us(task):
    def limit(resource, *pair):
        if pair:
            task.space.write(AT, struct.pack("<QQ", *pair))
            return call(task, SETRLIMIT, resource, AT)
        assert call(task, GETRLIMIT, resource, AT) == 0
        return struct.unpack("<QQ", task.space.read(AT, 16))

    anonymous(task, P, flags=ANON | FIXED, at=AT)
    assert limit(9, 10 << 20, 20 << 20) == 0
    assert limit(9) == (10 << 20, 20 << 20)
    assert anonymous(task, 16 << 20) == -ENOMEM
    assert limit(9, 20 << 20, 10 << 20) == -EINVAL
    assert limit(9, 18 << 20, 20 << 20) == 0
    assert anonymous(task, 16 << 20) > 0
    assert limit(2, P, P) == 0
    assert anonymous(task, P) == -ENOMEM
    if os.geteuid():
        assert limit(9, 10 << 20, 30 << 20) == -EPERM
    assert call(task, GETRLIMIT, 99, AT) == -EINVAL
    assert call(task, PRLIMIT, 0, 7, 0, AT) == 0
    assert struct.unpack("<QQ", task.space.read(AT, 16))[0] > 0


def test_the_default_limit_is_a_share_of_what_is_there():
    with open("/proc/meminfo") as file:
        total = next(int(line.split()[1]) for line in file if line.startswith("MemTotal"))
    assert 0 < available_memory() < total * 1024


@in_child
def test_shared_memory_segments():
    task = make_task()
    anonymous(task, P, flags=ANON | FIXED, at=AT)
    ident = call(task, SHMGET, 0, 2 * P, 0o600)
    try:
        first = call(task, SHMAT, ident, 0, 0)
        second = call(task, SHMAT, ident, 0x4000_0001, 0o20000)  # SHM_RND
        assert second == 0x4000_0000
        assert call(task, SHMAT, ident, 0x4000_0001, 0) == -EINVAL
        assert call(task, SHMAT, ident, second, 0) == -EINVAL
        assert call(task, SHMAT, ident, LIMIT - P, 0) == -EINVAL
        task.space.write(first + P, b"shared")
        assert task.space.read(second + P, 6) == b"shared"
        assert call(task, SHMAT, ident, second, 0o40000) == second  # SHM_REMAP
        assert call(task, SHMDT, first) == 0
        assert call(task, SHMDT, first) == -EINVAL
        assert call(task, SHMCTL, ident, 2, AT) == 0
        assert task.space.read_u64(AT + 48) == 2 * P
        assert task.space.read_u64(AT + 88) == 1  # shm_nattch
        assert [r.path for r in task.space.regions if r.shared] == [f"/SYSV{ident:08x} (deleted)"]
    finally:
        call(task, SHMCTL, ident, 0, 0)
    assert call(task, SHMAT, 0x7FFF_FFFF, 0, 0) == -EINVAL


@in_child
def test_semaphores():
    task = make_task()
    anonymous(task, P, flags=ANON | FIXED, at=AT)
    ident = call(task, 190, 0, 2, 0o600)
    try:
        task.space.write(AT, struct.pack("<HH", 5, 6))
        assert call(task, SEMCTL, ident, 0, 17, AT) == 0
        assert call(task, SEMCTL, ident, 1, 12, 0) == 6
        assert call(task, SEMCTL, ident, 0, 13, AT + 64) == 0
        assert struct.unpack("<HH", task.space.read(AT + 64, 4)) == (5, 6)
        assert call(task, SEMCTL, ident, 0, 2, AT) == 0
        changed, count = struct.unpack_from("<QQ", task.space.read(AT + 56, 16))
        assert count == 2
        assert changed > 1_000_000_000
        assert call(task, SEMCTL, ident, 0, 1, AT) == 0
        assert call(task, SEMCTL, ident, 0, 2, 8) == -EFAULT
    finally:
        assert call(task, SEMCTL, ident, 0, 0, 0) == 0
