"""Raw images: bytes where they belong, errors as errno, room given back, one writer at a time."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hartwood import storage
from hartwood.errors import DiskError, Error
from hartwood.storage import hostfile
from hartwood.storage.hostfile import HostFile, advance
from hartwood.storage.queue import Queue, Request
from hartwood.storage.raw import Raw

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> str:
    Raw.create(str(tmp_path / "disk.raw"), MIB)
    return str(tmp_path / "disk.raw")


def code(call, *arguments, **named) -> int | None:
    with pytest.raises(DiskError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, (Error, OSError))
    return caught.value.errno


def test_vectors_are_filled_and_written_in_order(path: str) -> None:
    with Raw(path) as disk:
        disk.writev(1000, [memoryview(b"abc"), memoryview(b""), memoryview(b"defgh")])
        first, second = bytearray(2), bytearray(6)
        disk.readv(1000, [memoryview(first), memoryview(second)])
        assert bytes(first + second) == b"abcdefgh"
        disk.flush()
    assert Path(path).read_bytes()[999:1009] == b"\0abcdefgh\0"


def test_more_buffers_than_one_call_takes(path: str) -> None:
    pieces = [memoryview(bytes([n % 251])) for n in range(3 * hostfile.IOV_MAX + 7)]
    with Raw(path) as disk:
        disk.writev(5, pieces)
        assert disk.file.calls == 4
        assert disk.read(5, len(pieces)) == b"".join(pieces)


def test_the_kernel_may_do_part_of_a_call(path: str, monkeypatch) -> None:
    real_read, real_write = os.preadv, os.pwritev

    def some(buffers):
        return [buffers[0][:3]]

    monkeypatch.setattr(os, "preadv", lambda fd, b, at: real_read(fd, some(b), at))
    monkeypatch.setattr(os, "pwritev", lambda fd, b, at: real_write(fd, some(b), at))
    with Raw(path) as disk:
        disk.writev(10, [memoryview(b"0123456"), memoryview(b"789")])
        assert disk.read(10, 10) == b"0123456789"


@given(st.lists(st.binary(max_size=5), max_size=6), st.integers(0, 40))
def test_advance_leaves_what_is_left(parts: list[bytes], size: int) -> None:
    whole = b"".join(parts)
    size = min(size, len(whole))
    assert b"".join(advance([memoryview(part) for part in parts], size)) == whole[size:]


@pytest.mark.parametrize("at", [-1, MIB - 1, MIB, 1 << 64])
def test_beyond_the_end_is_refused(path: str, at: int) -> None:
    with Raw(path) as disk:
        assert code(disk.read, at, 2) == errno.EINVAL
        assert code(disk.write, at, b"xy") == errno.EINVAL
        assert code(disk.discard, at, 2) == errno.EINVAL
        assert code(disk.zero, at, 2) == errno.EINVAL
        assert code(disk.zero, 0, -1) == errno.EINVAL
    assert Path(path).stat().st_size == MIB


def test_an_offset_beyond_what_the_host_takes(path: str) -> None:
    file = HostFile(path, readonly=False)
    for at in (1 << 63, (1 << 64) - 512):
        assert code(file.read, at, 512) == errno.EIO
        assert code(file.write, at, b"x") == errno.EIO
        assert code(file.resize, at) == errno.EIO
        assert code(file.punch, at, 512) == errno.EINVAL
        assert code(list, file.extents(at, at + 1)) == errno.EIO
    file.close()


def test_readonly_is_kept(path: str) -> None:
    with Raw(path, readonly=True) as disk:
        for call, arguments in (
            (disk.write, (0, b"x")),
            (disk.discard, (0, 512)),
            (disk.zero, (0, 512)),
            (disk.resize, (512,)),
        ):
            assert code(call, *arguments) == errno.EROFS
        disk.flush()


def test_room_is_given_back(path: str) -> None:
    with Raw(path) as disk:
        disk.write(0, b"x" * MIB)
        disk.flush()
        used = os.stat(path).st_blocks
        disk.discard(4096, MIB // 2)
        assert os.stat(path).st_blocks < used
        assert disk.read(0, MIB) == b"x" * 4096 + bytes(MIB // 2) + b"x" * (MIB // 2 - 4096)
        disk.zero(MIB // 2, MIB // 2, may_unmap=True)
        assert list(disk.extents()) == [(0, 4096)]
        disk.zero(100, 50)
        assert disk.read(99, 52) == b"x" + bytes(50) + b"x"
    assert os.stat(path).st_size == MIB


def test_a_host_without_fallocate(path: str, monkeypatch) -> None:
    monkeypatch.setattr(HostFile, "_fallocate", lambda *_: False)
    with Raw(path) as disk:
        disk.write(0, b"x" * MIB)
        disk.discard(0, 4096)
        disk.zero(8192, MIB - 10000, may_unmap=True)
        data = disk.read(0, MIB)
        assert data == b"x" * 8192 + bytes(MIB - 10000) + b"x" * 1808


def test_extents_are_what_is_no_hole(path: str) -> None:
    with Raw(path) as disk:
        assert list(disk.extents()) == []
        disk.write(64 << 10, b"x")
        disk.write(MIB - 1, b"x")
        assert list(disk.extents()) == [(65536, 65536 + 4096), (MIB - 4096, MIB)]


@pytest.mark.parametrize("format", [None, "raw"])
def test_open_is_raw_where_nothing_says_otherwise(path: str, format: str | None) -> None:
    with storage.open(path, format=format, sector=4096, serial="HW0") as disk:
        assert (disk.size, disk.sector, disk.readonly, disk.serial) == (MIB, 4096, False, "HW0")


@pytest.mark.parametrize("magic", [b"QFI\xfb", b"KDMV", b"vhdxfile", b"LUKS\xba\xbe", b"conectix"])
def test_what_a_guest_may_have_written_is_not_believed(path: str, magic: bytes) -> None:
    with storage.open(path) as disk:
        disk.write(0, magic)
    with pytest.raises(DiskError, match=r"say format=\w+, or format=raw"):
        storage.open(path)
    with storage.open(path, format="raw") as disk:
        assert disk.read(0, len(magic)) == magic


def test_bad_arguments_are_one_line(path: str, tmp_path: Path) -> None:
    assert code(storage.open, path, sector=1024) == errno.EINVAL
    assert code(storage.open, path, serial="x" * 21) == errno.EINVAL
    assert code(storage.open, path, format="vmdk") == errno.EINVAL
    assert code(storage.open, tmp_path / "none") == errno.ENOENT
    assert code(storage.open, tmp_path / "none", format="raw") == errno.ENOENT
    assert code(storage.open, tmp_path) == errno.EISDIR
    assert code(Raw.create, path, MIB) == errno.EEXIST
    assert code(Raw.create, str(tmp_path / "huge"), 1 << 63) == errno.EFBIG
    os.mkfifo(tmp_path / "pipe")
    assert code(Raw, str(tmp_path / "pipe")) in (errno.EINVAL, errno.ENXIO)
    odd = tmp_path / "odd"
    odd.write_bytes(bytes(513))
    with pytest.raises(DiskError, match="truncate -s %512"):
        storage.open(odd)
    # Nothing above has kept a lock or a descriptor.
    storage.open(path).close()


def test_two_writers_are_refused_and_two_readers_are_not(path: str) -> None:
    with Raw(path, readonly=True), Raw(path, readonly=True):
        assert code(Raw, path) == errno.EBUSY
    with Raw(path):
        assert code(Raw, path, readonly=True) == errno.EBUSY
    Raw(path).close()


def test_qemu_and_we_respect_each_other(path: str, oracle) -> None:
    write = [oracle("qemu-io"), "-f", "raw", "-c", "write 0 4k", path]
    with Raw(path):
        done = subprocess.run(write, capture_output=True, text=True, check=False)
        assert "lock" in done.stdout + done.stderr
    words = [oracle("qemu-io"), "-f", "raw", "-c", "sleep 60000", path]
    assert any(_found_locked(words, path) for _ in range(20)), "we never saw QEMU's lock"
    Raw(path).close()


def _found_locked(words: list[str], path: str) -> bool:
    """Whether QEMU's lock was met; it may have met ours instead, while we looked, and ended."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:
        try:
            while other.poll() is None:  # until it has opened the file
                try:
                    Raw(path).close()
                except DiskError as error:
                    assert error.errno == errno.EBUSY
                    return True
                time.sleep(0.02)
        finally:
            other.kill()
    return False


def test_a_file_cut_short_under_us_is_an_error(path: str) -> None:
    with Raw(path) as disk:
        os.truncate(path, 4096)
        assert disk.read(0, 4096) == bytes(4096)
        assert code(disk.read, 4000, 512) == errno.EIO
        disk.write(8192, b"back")
        assert disk.read(8192, 4) == b"back"


def test_a_limit_on_the_file_is_an_errno_and_leaves_the_rest(path: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Raw(path) as disk:
        disk.write(0, b"kept")
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB // 2, hard))
        try:  # Python ignores SIGXFSZ
            assert code(disk.write, MIB - 512, b"x" * 512) == errno.EFBIG
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert disk.read(0, 4) == b"kept"
        disk.write(MIB - 512, b"y" * 512)


def test_a_failed_flush_goes_on_failing(path: str, monkeypatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "the drive is gone")

    with Raw(path) as disk:
        disk.flush()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            assert code(disk.flush) == errno.EIO
        assert code(disk.flush) == errno.EIO


def test_grows_and_shrinks(path: str) -> None:
    with Raw(path, sector=4096) as disk:
        disk.resize(2 * MIB)
        disk.write(2 * MIB - 1, b"x")
        assert code(disk.resize, 4097) == errno.EINVAL
        disk.resize(4096)
        assert disk.size == os.stat(path).st_size == 4096


def test_a_queue_on_a_file_saves_calls(path: str) -> None:
    data = [bytes([n]) * 512 for n in range(64)]
    with Raw(path) as disk:
        queue = Queue(disk)
        answers: list[int] = []
        batch = [
            Request("write", n * 512, [memoryview(data[n])], 512, answers.append) for n in range(64)
        ]
        queue.submit([*batch, Request("flush", 0, [], 0, answers.append)])
        queue.close()
        assert answers == [0] * 65
        assert disk.file.calls == 2  # one pwritev, one fdatasync
        assert disk.read(0, 64 * 512) == b"".join(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "zero", "unmap", "discard"]),
            st.integers(0, 40000),
            st.integers(0, 20000),
        ),
        max_size=12,
    )
)
def test_against_an_array_of_bytes(path: str, steps) -> None:
    model = bytearray(1 << 16)
    with Raw(path) as disk:
        disk.zero(0, MIB, may_unmap=True)
        for number, (kind, at, size) in enumerate(steps):
            if kind == "write":
                data = bytes([number + 1]) * size
                disk.write(at, data)
                model[at : at + size] = data
            elif kind == "discard":
                disk.discard(at, size)
                model[at : at + size] = disk.read(at, size)  # undefined by contract
            else:
                disk.zero(at, size, may_unmap=kind == "unmap")
                model[at : at + size] = bytes(size)
        assert disk.read(0, len(model)) == model
