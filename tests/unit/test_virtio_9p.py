"""Shared folders: the protocol, its limits, and that nothing leads out of the folder."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hartwood.dev.device import DeviceError
from hartwood.dev.virtio.fs9p import VirtioFs9p
from hartwood.dev.virtio.ninep import FIDS, FILES, MESSAGE, Server, decode, parse
from hartwood.dev.virtio.tree import Tree
from unit.virtio_driver import BASE, MEMORY, Driver, scribble

(STATFS, OPEN, CREATE, SYMLINK, MKNOD, RENAME, READLINK, GETATTR, SETATTR, XATTRWALK, READDIR,
 FSYNC, LOCK, GETLOCK, LINK, MKDIR, RENAMEAT, UNLINKAT, ATTACH, FLUSH, WALK, READ, WRITE, CLUNK,
 REMOVE) = (8, 12, 14, 16, 18, 20, 22, 24, 26, 30, 40, 50, 52, 54, 70, 72, 74, 76, 104, 108, 110,
            116, 118, 120, 122)  # fmt: skip
ROOT, NOBODY = 0, 0xFFFF_FFFF
READING, WRITING, BOTH = os.O_RDONLY, os.O_WRONLY, os.O_RDWR


class Refused(Exception):
    """The server said no; the errno is the argument."""


def text(data: bytes) -> bytes:
    return struct.pack("<H", len(data)) + data


def encode(form: str, *values: Any) -> bytes:
    """Arguments, spelt as the server's `decode` has them."""
    out = b""
    for letter, value in zip(form, values, strict=True):
        if letter == "s":
            out += text(value)
        elif letter == "d":
            out += struct.pack("<I", len(value)) + value
        elif letter == "n":
            out += struct.pack("<H", len(value)) + b"".join(map(text, value))
        else:
            out += struct.pack("<" + letter, value)
    return out


class Client:
    """Speaks to a server; raises `Refused`."""

    def __init__(self, server: Server) -> None:
        self.server, self.next, self.room = server, 100, MESSAGE
        self.call(100, "Is", 65536, b"9P2000.L")
        self.call(ATTACH, "IIssI", ROOT, NOBODY, b"root", b"", 0)

    def call(self, kind: int, form: str, *values: Any) -> bytes:
        body = encode(form, *values)
        request = struct.pack("<IBH", 7 + len(body), kind, 0x1234) + body
        answer = self.server.answer(request, self.room)
        size, what, tag = struct.unpack_from("<IBH", answer)
        assert (size, tag) == (len(answer), 0x1234)
        assert size <= self.room
        if what == 7:
            raise Refused(*struct.unpack("<I", answer[7:]))
        assert what == kind + 1
        return answer[7:]

    def walk(self, *names: bytes, start: int = ROOT) -> int:
        """A new fid; ENOENT where the walk stops half-way."""
        self.next += 1
        (count,) = struct.unpack_from("<H", self.call(WALK, "IIn", start, self.next, names))
        if count < len(names):
            raise Refused(errno.ENOENT)
        return self.next

    def open(self, *names: bytes, flags: int = READING) -> int:
        fid = self.walk(*names)
        self.call(OPEN, "II", fid, flags)
        return fid

    def create(self, name: bytes, flags: int = BOTH, mode: int = 0o644, start: int = ROOT) -> int:
        fid = self.walk(start=start)
        self.call(CREATE, "IsIII", fid, name, flags, mode, 0)
        return fid

    def read(self, fid: int, offset: int = 0, count: int = 1 << 20) -> bytes:
        (data,) = decode("d", self.call(READ, "IQI", fid, offset, count))
        assert isinstance(data, bytes)
        return data

    def write(self, fid: int, data: bytes, offset: int = 0) -> int:
        return int.from_bytes(self.call(WRITE, "IQd", fid, offset, data), "little")

    def attributes(self, fid: int) -> dict[str, int]:
        found = decode("QBIQIIIQQQQQQQQQQQQQQQ", self.call(GETATTR, "IQ", fid, 0x7FF))
        names = "valid kind version path mode uid gid nlink rdev size blksize blocks atime atime_ns"
        return dict(zip([*names.split(), "mtime", "mtime_ns"], found, strict=False))

    def set(self, fid: int, valid: int, **values: int) -> None:
        names = "mode uid gid size atime atime_ns mtime mtime_ns".split()
        assert values.keys() <= set(names)
        self.call(SETATTR, "IIIIIQQQQQ", fid, valid, *(values.get(name, 0) for name in names))

    def list(self, fid: int, count: int = 8192) -> list[tuple[bytes, int]]:
        """Names and kinds, asked for in as many calls as it takes."""
        found, offset = [], 0
        while True:
            (data,) = decode("d", self.call(READDIR, "IQI", fid, offset, count))
            if not data:
                return found
            while data:
                _, _, _, offset, kind, name = decode("BIQQBs", data)
                found.append((name, kind))
                data = data[24 + len(name) :]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tree to be shared, beside things that must not be reached."""
    shared = tmp_path / "shared"
    (shared / "inner" / "deep").mkdir(parents=True)
    (shared / "hello").write_bytes(b"hello, guest\n")
    (shared / "inner" / "deep" / "file").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "secret").write_bytes(b"host's own")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"host's own")
    (shared / "link").symlink_to("../secret")
    (shared / "away").symlink_to("../outside")
    (shared / "absolute").symlink_to(tmp_path / "secret")
    return shared


@pytest.fixture
def client(folder: Path) -> Iterator[Client]:
    tree = Tree(folder)
    client = Client(Server(tree))
    yield client
    client.server.clear()
    tree.close()


@pytest.fixture
def reader(folder: Path) -> Client:
    return Client(Server(Tree(folder, readonly=True)))


def refused(number: int) -> Any:
    return pytest.raises(Refused, match=f"^{number}$")


# Reading.
def test_a_file_is_read(client: Client) -> None:
    fid = client.open(b"hello")
    assert client.read(fid) == b"hello, guest\n"
    assert client.read(fid, offset=7, count=3) == b"gue"
    assert client.read(fid, offset=1 << 40) == b""
    deep = client.open(b"inner", b"deep", b"file")
    assert client.read(deep, offset=100) == (bytes(range(256)) * 40)[100:]


def test_attributes_are_the_hosts(client: Client, folder: Path) -> None:
    status = (folder / "hello").stat()
    found = client.attributes(client.walk(b"hello"))
    assert (found["mode"], found["size"], found["nlink"]) == (status.st_mode, 13, 1)
    assert (found["uid"], found["gid"]) == (status.st_uid, status.st_gid)
    assert found["mtime"] * 10**9 + found["mtime_ns"] == status.st_mtime_ns
    assert found["kind"] == 0
    assert client.attributes(ROOT)["kind"] == 0x80
    assert client.attributes(client.walk(b"link"))["kind"] == 2


def test_identities_are_files(client: Client, folder: Path) -> None:
    os.link(folder / "hello", folder / "same")
    one, two, other = (client.attributes(client.walk(n)) for n in (b"hello", b"same", b"inner"))
    assert one["path"] == two["path"] != other["path"]
    (folder / "hello").write_bytes(b"changed")
    assert client.attributes(client.walk(b"hello"))["version"] != one["version"]


@pytest.mark.parametrize("count", [30, 100, 8192])
def test_a_directory_is_listed(client: Client, folder: Path, count: int) -> None:
    for number in range(40):
        (folder / "inner" / f"f{number:02}").touch()
    fid = client.open(b"inner")
    names = [b".", b"..", b"deep", *(b"f%02d" % number for number in range(40))]
    assert [name for name, _ in client.list(fid, max(count, 30))] == names
    assert client.list(fid)[2] == (b"deep", 4)
    assert dict(client.list(client.open()))[b"link"] == 10


def test_a_listing_begins_again_at_the_beginning(client: Client, folder: Path) -> None:
    fid = client.open(b"inner")
    assert len(client.list(fid)) == 3
    (folder / "inner" / "new").touch()
    assert len(client.list(fid)) == 4


def test_what_a_walk_finds(client: Client) -> None:
    one = client.walk(b"inner", b"deep")
    up = client.walk(b"..", b"..", b"hello", start=one)
    assert client.attributes(up)["size"] == 13
    client.call(WALK, "IIn", one, one, [b"file"])  # in its own place
    assert client.attributes(one)["size"] == 10240
    answer = client.call(WALK, "IIn", ROOT, 900, [b"inner", b"nothing", b"file"])
    assert struct.unpack_from("<H", answer) == (1,)
    with refused(errno.EBADF):
        client.attributes(900)
    with refused(errno.ENOENT):
        client.walk(b"nothing")
    with refused(errno.EINVAL):
        client.walk(*[b"inner"] * 17)


def test_the_room_there_is(client: Client) -> None:
    found = decode("IIQQQQQQI", client.call(STATFS, "I", ROOT))
    assert found[0] == 0x01021997
    assert found[2] >= found[3]
    assert found[8] == 255


# Writing.
def test_a_file_is_made_and_written(client: Client, folder: Path) -> None:
    fid = client.create(b"new", mode=0o640)
    assert client.write(fid, b"0123456789") == 10
    assert client.write(fid, b"xy", offset=4) == 2
    assert client.read(fid) == b"0123xy6789"
    client.call(FSYNC, "II", fid, 0)
    client.call(FSYNC, "II", fid, 1)
    client.call(CLUNK, "I", fid)
    assert (folder / "new").read_bytes() == b"0123xy6789"
    assert (folder / "new").stat().st_mode & 0o7777 == 0o640


def test_flags_of_opening(client: Client, folder: Path) -> None:
    with refused(errno.EEXIST):
        client.create(b"hello", flags=BOTH | os.O_EXCL)
    assert client.read(client.create(b"hello")) == b"hello, guest\n"
    client.open(b"hello", flags=WRITING | os.O_TRUNC)
    assert (folder / "hello").read_bytes() == b""
    fid = client.open(b"hello", flags=WRITING | os.O_APPEND)
    client.write(fid, b"one")
    client.write(fid, b"two", offset=0)
    assert (folder / "hello").read_bytes() == b"onetwo"
    with refused(errno.EBADF):
        client.read(fid)
    with refused(errno.EBADF):
        client.write(client.open(b"hello"), b"x")


def test_names_are_made_moved_and_removed(client: Client, folder: Path) -> None:
    client.call(MKDIR, "IsII", ROOT, b"dir", 0o750, 0)
    assert (folder / "dir").stat().st_mode & 0o7777 == 0o750
    client.call(SYMLINK, "IssI", ROOT, b"sym", b"dir/x", 0)
    assert decode("s", client.call(READLINK, "I", client.walk(b"sym"))) == (b"dir/x",)
    client.call(LINK, "IIs", client.walk(b"dir"), client.walk(b"hello"), b"hard")
    assert (folder / "dir" / "hard").samefile(folder / "hello")
    client.call(RENAMEAT, "IsIs", ROOT, b"hello", client.walk(b"dir"), b"moved")
    assert not (folder / "hello").exists()
    with refused(errno.ENOTEMPTY):
        client.call(UNLINKAT, "IsI", ROOT, b"dir", 0x200)
    with refused(errno.ENOTDIR):
        client.call(UNLINKAT, "IsI", client.walk(b"dir"), b"hard", 0x200)
    client.call(UNLINKAT, "IsI", client.walk(b"dir"), b"hard", 0)
    client.call(REMOVE, "I", client.walk(b"dir", b"moved"))
    client.call(UNLINKAT, "IsI", ROOT, b"dir", 0x200)
    assert not (folder / "dir").exists()


def test_fids_go_with_what_is_renamed(client: Client) -> None:
    inside, directory = client.walk(b"inner", b"deep", b"file"), client.walk(b"inner")
    client.call(RENAME, "IIs", directory, ROOT, b"renamed")
    assert client.attributes(inside)["size"] == 10240
    assert client.attributes(directory)["kind"] == 0x80
    client.call(OPEN, "II", inside, READING)
    client.call(UNLINKAT, "IsI", client.walk(b"renamed", b"deep"), b"file", 0)
    assert len(client.read(inside)) == 10240  # open, it lives on
    assert client.attributes(inside)["nlink"] == 0


def test_remove_clunks_whatever_happens(client: Client) -> None:
    fid = client.walk(b"inner")
    with refused(errno.ENOTEMPTY):
        client.call(REMOVE, "I", fid)
    with refused(errno.EBADF):
        client.attributes(fid)


def test_attributes_are_set(client: Client, folder: Path) -> None:
    fid, path = client.walk(b"hello"), folder / "hello"
    client.set(fid, 1, mode=0o600)
    client.set(fid, 8, size=5)
    assert (path.stat().st_mode & 0o7777, path.read_bytes()) == (0o600, b"hello")
    client.set(fid, 0x1B0, atime=11, atime_ns=5, mtime=22, mtime_ns=999_999_999)
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (11_000_000_005, 22_999_999_999)
    client.set(fid, 0x20)
    assert path.stat().st_mtime > 1_000_000_000
    assert path.stat().st_atime_ns == 11_000_000_005
    client.set(fid, 0x120, mtime=(1 << 64) - 5)
    assert path.stat().st_mtime == -5
    with refused(errno.EINVAL):
        client.set(fid, 0x120, mtime_ns=1_000_000_000)
    with refused(errno.EINVAL):
        client.set(fid, 8, size=1 << 63)


def test_owners_stay(client: Client) -> None:
    fid = client.walk(b"hello")
    found = client.attributes(fid)
    client.set(fid, 6, uid=found["uid"], gid=found["gid"])
    for valid in (2, 4):
        with refused(errno.EPERM):
            client.set(fid, valid, uid=found["uid"] + 1, gid=found["gid"] + 1)


def test_no_program_gets_its_owners_rights(client: Client, folder: Path) -> None:
    client.create(b"set", mode=0o6755)
    client.set(client.walk(b"hello"), 1, mode=0o6777)
    client.call(MKDIR, "IsII", ROOT, b"dir", 0o3777, 0)
    modes = [(folder / name).stat().st_mode & 0o7777 for name in ("set", "hello", "dir")]
    assert modes == [0o755, 0o777, 0o1777]


def test_locks_are_the_guests_own(client: Client) -> None:
    fid = client.open(b"hello")
    assert client.call(LOCK, "IBIQQIs", fid, 1, 0, 0, 0, 7, b"me") == b"\0"
    answer = client.call(GETLOCK, "IBQQIs", fid, 1, 3, 4, 7, b"me")
    assert decode("BQQIs", answer) == (2, 3, 4, 7, b"me")


# Confinement.
NAMES = [b"..", b".", b"", b"/", b"a/b", b"../secret", b"/etc/passwd", b"inner/../..", b"x\0y"]


@pytest.mark.parametrize("name", NAMES)
def test_only_names_are_names(client: Client, name: bytes, folder: Path) -> None:
    before = sorted(path.name for path in folder.parent.rglob("*"))
    calls: list[tuple[int, str, tuple[Any, ...]]] = [
        (CREATE, "IsIII", (client.walk(), name, BOTH, 0o644, 0)),
        (MKDIR, "IsII", (ROOT, name, 0o755, 0)), (SYMLINK, "IssI", (ROOT, name, b"x", 0)),
        (LINK, "IIs", (ROOT, client.walk(b"hello"), name)),
        (RENAMEAT, "IsIs", (ROOT, name, ROOT, b"x")),
        (RENAMEAT, "IsIs", (ROOT, b"hello", ROOT, name)),
        (RENAME, "IIs", (client.walk(b"hello"), ROOT, name)),
        (UNLINKAT, "IsI", (ROOT, name, 0)), (UNLINKAT, "IsI", (ROOT, name, 0x200)),
    ]  # fmt: skip
    if name != b"..":
        calls.append((WALK, "IIn", (ROOT, 999, [name])))
    for kind, form, values in calls:
        with refused(errno.EINVAL):
            client.call(kind, form, *values)
    assert sorted(path.name for path in folder.parent.rglob("*")) == before


def test_nothing_is_above_the_root(client: Client) -> None:
    top = client.walk(b"..", b"..", b"..")
    assert client.attributes(top)["path"] == client.attributes(ROOT)["path"]
    with refused(errno.ENOENT):
        client.walk(b"..", b"..", b"secret")
    found = decode("BIQQBs", decode("d", client.call(READDIR, "IQI", client.open(), 1, 60))[0])
    assert (found[5], found[2]) == (b"..", client.attributes(ROOT)["path"])


@pytest.mark.parametrize("name", [b"link", b"absolute", b"away"])
def test_links_are_not_followed(client: Client, folder: Path, name: bytes) -> None:
    fid = client.walk(name)
    for flags in (READING, WRITING, WRITING | os.O_TRUNC):
        with refused(errno.EPERM):
            client.call(OPEN, "II", fid, flags)
    for valid in (1, 8, 0x20):
        with refused(errno.EPERM):
            client.set(fid, valid)
    for further in (b"secret", b"new"):
        with refused(errno.ENOENT):
            client.walk(name, further)
        with refused(errno.ENOTDIR):
            client.call(WALK, "IIn", fid, 999, [further])
    with refused(errno.ENOTDIR):
        client.create(b"new", start=fid)
    with refused(errno.EPERM):
        client.create(name)
    with refused(errno.ENOTDIR):
        client.call(MKDIR, "IsII", fid, b"new", 0o755, 0)
    with refused(errno.ENOTDIR):
        client.call(UNLINKAT, "IsI", fid, b"secret", 0)
    assert (folder.parent / "secret").read_bytes() == b"host's own"
    assert [path.name for path in (folder.parent / "outside").iterdir()] == ["secret"]


def test_a_directory_that_becomes_a_link(client: Client, folder: Path) -> None:
    """Between a walk and its use, whoever does it."""
    directory = client.walk(b"inner", b"deep")
    file = client.walk(b"inner", b"deep", b"file")
    (folder / "inner").rename(folder / "was")
    (folder / "inner").symlink_to("../outside")
    (folder.parent / "outside" / "deep").mkdir()
    (folder.parent / "outside" / "deep" / "file").write_bytes(b"host's own")
    for fid in (directory, file):
        with refused(errno.ENOTDIR):
            client.attributes(fid)
        with refused(errno.ENOTDIR):
            client.call(OPEN, "II", fid, READING)
    with refused(errno.ENOTDIR):
        client.create(b"new", start=directory)


def test_devices_pipes_and_sockets_are_not_opened(client: Client, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(folder / "socket"))
    if os.geteuid() == 0:
        os.mknod(folder / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    for path in (folder / "pipe", folder / "socket", folder / "zero"):
        if path.exists():
            for flags in (READING, BOTH):  # a pipe would wait for its other end
                with refused(errno.EPERM):
                    client.open(path.name.encode(), flags=flags)
                with refused(errno.EPERM):
                    client.create(path.name.encode(), flags=flags)
    for mode in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG):
        with refused(errno.EPERM):
            client.call(MKNOD, "IsIIII", ROOT, b"node", mode | 0o666, 1, 3, 0)
    server.close()


def test_what_is_read_only_stays(reader: Client, folder: Path) -> None:
    def state() -> list[tuple[str, bytes]]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return sorted((str(path), path.read_bytes()) for path in files)

    before = state()
    hello = reader.walk(b"hello")
    calls: list[tuple[int, str, tuple[Any, ...]]] = [
        (OPEN, "II", (hello, WRITING)), (OPEN, "II", (hello, os.O_TRUNC)),
        (CREATE, "IsIII", (reader.walk(), b"new", READING, 0o644, 0)),
        (MKDIR, "IsII", (ROOT, b"new", 0o755, 0)), (SYMLINK, "IssI", (ROOT, b"new", b"x", 0)),
        (LINK, "IIs", (ROOT, hello, b"new")), (RENAMEAT, "IsIs", (ROOT, b"hello", ROOT, b"x")),
        (UNLINKAT, "IsI", (ROOT, b"hello", 0)), (SETATTR, "IIIIIQQQQQ", (hello, 1, *[0] * 8)),
        (SETATTR, "IIIIIQQQQQ", (hello, 8, *[0] * 8)),
        (SETATTR, "IIIIIQQQQQ", (hello, 0x20, *[0] * 8)),
        (REMOVE, "I", (reader.walk(b"hello"),)),
    ]  # fmt: skip
    for kind, form, values in calls:
        with refused(errno.EROFS):
            reader.call(kind, form, *values)
    assert state() == before
    assert reader.read(reader.open(b"hello")) == b"hello, guest\n"


# Limits, and messages that make no sense.
def test_fids_are_bounded(client: Client) -> None:
    for number in range(1000, 1000 + FIDS - 1):
        client.call(WALK, "IIn", ROOT, number, [])
    with refused(errno.EMFILE):
        client.call(WALK, "IIn", ROOT, 1, [])
    client.call(CLUNK, "I", 1000)
    client.call(WALK, "IIn", ROOT, 1, [])


def test_open_files_are_bounded(client: Client) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(FILES):
        client.open(b"hello")
    with refused(errno.EMFILE):
        client.open(b"hello")
    client.server.clear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_descriptor_is_lost(client: Client) -> None:
    """Whatever is refused, nothing stays open for it."""
    before = len(os.listdir("/proc/self/fd"))
    for names in ((b"link",), (b"inner", b"x"), (b"hello", b"x"), (b"x" * 256,), (b"inner",)):
        for kind, form, extra in ((OPEN, "II", (WRITING,)), (READDIR, "IQI", (0, 100))):
            fid = 0
            try:
                fid = client.walk(*names)
                client.call(kind, form, fid, *extra)
            except Refused:
                pass
            if fid:
                client.call(CLUNK, "I", fid)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_path_is_bounded(client: Client) -> None:
    with refused(errno.ENAMETOOLONG):
        client.walk(b"x" * 256)
    at = ROOT
    with refused(errno.ENAMETOOLONG):
        for _ in range(20):
            client.call(MKDIR, "IsII", at, b"x" * 255, 0o755, 0)
            at = client.walk(b"x" * 255, start=at)


def test_a_fid_is_opened_once(client: Client) -> None:
    fid = client.open(b"hello")
    with refused(errno.EBADF):
        client.call(OPEN, "II", fid, READING)
    with refused(errno.EBADF):
        client.call(CREATE, "IsIII", fid, b"x", BOTH, 0o644, 0)
    for kind, form in ((READ, "IQI"), (READDIR, "IQI")):
        with refused(errno.EBADF):
            client.call(kind, form, client.walk(b"hello"), 0, 10)
    with refused(errno.EBADF):
        client.call(ATTACH, "IIssI", ROOT, NOBODY, b"", b"", 0)


def test_answers_fit(client: Client) -> None:
    fid = client.open(b"inner", b"deep", b"file")
    client.room = 111
    assert len(client.read(fid)) == 100
    client.room = 12
    with refused(errno.EPROTO):
        client.attributes(fid)
    client.room = 65536 * 2
    assert len(client.read(fid, count=NOBODY)) == 10240


@pytest.mark.parametrize("offset", [1 << 63, (1 << 64) - 1])
def test_places_that_cannot_be(client: Client, offset: int) -> None:
    fid = client.create(b"new")
    with refused(errno.EINVAL):
        client.read(fid, offset)
    with refused(errno.EINVAL):
        client.write(fid, b"x", offset)
    with refused(errno.EINVAL):
        client.write(fid, b"xx", (1 << 63) - 1)
    assert client.call(READDIR, "IQI", client.open(b"inner"), offset, 100) == bytes(4)


def test_sessions(folder: Path) -> None:
    client = Client(Server(Tree(folder)))
    client.open(b"hello")
    with pytest.raises(ValueError, match="without room"):
        client.server.answer(struct.pack("<IBH", 7, 100, 0), 10)
    with pytest.raises(ValueError, match="without a header"):
        client.server.answer(b"short", 100)
    assert client.call(100, "Is", 1 << 31, b"9P2000.L") == encode("Is", MESSAGE, b"9P2000.L")
    with refused(errno.EBADF):
        client.attributes(ROOT)  # a new session has no fids
    for size, version in ((65536, b"9P2000.u"), (4095, b"9P2000.L"), (0, b"")):
        answer = client.call(100, "Is", size, version)
        assert answer == encode("Is", size, b"unknown")
        with refused(errno.EPROTO):
            client.call(ATTACH, "IIssI", ROOT, NOBODY, b"", b"", 0)


@pytest.mark.parametrize("kind", [0, 6, 7, 9, 30, 32, 99, 101, 102, 106, 112, 114, 124, 126, 255])
def test_messages_that_nobody_knows(client: Client, kind: int) -> None:
    """Extended attributes and authentication among them."""
    if kind == 255:
        kind = 254
    with refused(errno.EOPNOTSUPP):
        client.call(kind, "")


def test_messages_that_are_cut_off(client: Client) -> None:
    for kind in (STATFS, OPEN, CREATE, READ, WRITE, WALK, GETATTR, SETATTR, RENAMEAT):
        for size in range(4):
            with refused(errno.EPROTO):
                client.call(kind, "B" * size, *[0] * size)
    with refused(errno.EPROTO):
        client.call(WRITE, "IQI", ROOT, 0, 100)  # says that there are 100 bytes
    header = struct.pack("<IBH", 100, STATFS, 0)
    for message in (header, struct.pack("<IBH", 6, STATFS, 0), struct.pack("<IBH", 0, STATFS, 0)):
        assert client.server.answer(message, 100)[4] == 7


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_random_messages_are_answered(client: Client, folder: Path, seed: int) -> None:
    """Sound messages with odd arguments, and noise; the host outside stays as it was."""
    random = Random(seed)
    forms = {kind: form for kind, (form, _) in client.server._calls.items()}
    for _ in range(30):
        kind = random.choice([*forms, random.randrange(256)])
        values = [odd(letter, random) for letter in forms.get(kind, "I")]
        body = encode(forms.get(kind, "I"), *values)
        if random.random() < 0.1:
            body = body[: random.randrange(len(body) + 1)]
        request = struct.pack("<IBH", 7 + len(body), kind, 1) + body
        answer = client.server.answer(request, random.choice([11, 100, 8192]))
        assert len(answer) == int.from_bytes(answer[:4], "little")
    outside = folder.parent
    assert {path.name for path in outside.iterdir()} == {"shared", "secret", "outside"}
    assert (outside / "secret").read_bytes() == b"host's own"
    assert [path.name for path in (outside / "outside").iterdir()] == ["secret"]


def odd(letter: str, random: Random) -> Any:
    """An argument of a kind."""
    names = [b"hello", b"inner", b"deep", b"file", b"link", b"away", b"new", b"..", b"secret", b"",
             b"/etc/passwd", b"x" * 300, b"\xff\xfe", b"a\0b"]  # fmt: skip
    if letter == "n":
        return [random.choice(names) for _ in range(random.randrange(4))]
    if letter in "sd":
        return random.choice(names)
    bits = {"B": 8, "H": 16, "I": 32, "Q": 64}[letter]
    small = [0, 0, 1, 2, 3, 101, 102, 103, os.O_TRUNC, 0x200, 0o755]
    return random.choice([*small, random.getrandbits(bits)]) & (1 << bits) - 1


# Over virtio, and saved.
def device(folder: Path, **more: Any) -> VirtioFs9p:
    return VirtioFs9p(tree=Tree(folder), **more)


def speak(driver: Driver, kind: int, form: str, *values: Any, room: int = 8192) -> bytes:
    body = encode(form, *values)
    driver.free = BASE + 0x4000
    head = struct.pack("<IBH", 7 + len(body), kind, 5)
    return driver.ask(0, [head, body], [100, room])[0] if body else driver.ask(0, [head], [room])[0]


def test_the_tag(folder: Path) -> None:
    driver = Driver(device(folder, tag="here"))
    assert driver.offered() & 1
    read = driver.device.read
    assert read(0x100, 2) == 4
    assert bytes(read(0x102 + n, 1) for n in range(4)) == b"here"


def test_a_session_over_virtio(folder: Path) -> None:
    driver = Driver(device(folder))
    assert speak(driver, 100, "Is", 8192, b"9P2000.L")[4] == 101
    speak(driver, ATTACH, "IIssI", 0, NOBODY, b"", b"", 0)
    speak(driver, WALK, "IIn", 0, 1, [b"hello"])
    speak(driver, OPEN, "II", 1, READING)
    assert speak(driver, READ, "IQI", 1, 0, 100)[11:24] == b"hello, guest\n"


def test_a_saved_session_goes_on(folder: Path) -> None:
    first = Driver(device(folder))
    speak(first, 100, "Is", 8192, b"9P2000.L")
    speak(first, ATTACH, "IIssI", 0, NOBODY, b"", b"", 0)
    for fid, name in ((1, b"hello"), (2, b"inner"), (3, os.fsencode("caf\udce9"))):
        if name.startswith(b"caf"):  # a name that is no UTF-8
            (folder / os.fsdecode(name)).touch()
        speak(first, WALK, "IIn", 0, fid, [name])
    speak(first, OPEN, "II", 1, BOTH)
    state = first.device.save()
    second = device(folder)
    second.ram = first.ram
    second.load(state)
    first.device = second
    assert speak(first, READ, "IQI", 1, 0, 100)[11:24] == b"hello, guest\n"
    assert speak(first, GETATTR, "IQ", 3, 0)[4] == GETATTR + 1
    (folder / "hello").unlink()
    third = device(folder)
    third.ram = first.ram
    third.load(second.save())
    first.device = third
    assert speak(first, READ, "IQI", 1, 0, 100)[7:11] == struct.pack("<I", errno.ENOENT)


@pytest.mark.parametrize(
    "session",
    [b"x", b"[]", b"[1]", b"[0,[[1]]]", b'[0,[[1,0,[".."]]]]', b'[0,[["a",0,["b"]]]]', b'[-1,[]]',
     b'[0,[[0,0,["a/b"]]]]', b'[0,[[0,0,5]]]', b'[0,[[0,0,[5]]]]', b"[" * 100_000, b"\xff", b"null",
     json.dumps([0, [[n, -1, []] for n in range(FIDS + 1)]]).encode()],
    ids=lambda session: f"{session[:20]!r}-{len(session)}",
)  # fmt: skip
def test_sessions_that_cannot_be(folder: Path, session: bytes) -> None:
    shared = device(folder)
    before = shared.save()
    with pytest.raises(DeviceError):
        shared.load({**before, "session": bytearray(session)})
    assert shared.save() == before
    with pytest.raises(ValueError, match="no session"):
        parse(session)


def test_a_device_without_a_folder_breaks_alone() -> None:
    driver = Driver(VirtioFs9p())
    driver.chain(0, [b"x" * 7], [100])
    driver.notify(0)
    assert driver.broken


def test_messages_have_a_limit(folder: Path) -> None:
    driver = Driver(device(folder))
    ring = driver.rings[0]
    ring.describe(0, BASE, MEMORY, 1, 1)
    ring.describe(1, BASE, 100, 2)
    ring.offer(0)
    driver.notify(0)
    assert driver.broken


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_no_guest_breaks_more_than_its_folder(folder: Path, seed: int) -> None:
    random, driver = Random(seed), Driver(device(folder))
    for _ in range(60):
        scribble(driver, random)
    driver.size, driver.free = 8, BASE + 0x1000
    driver.start()
    assert speak(driver, 100, "Is", 8192, b"9P2000.L")[4] == 101
