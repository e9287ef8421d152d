"""9P2000.L, the server's side: what Linux's 9p file system speaks (diod's protocol.md; the base is
in section 5 of Plan 9's manual, intro(5)).

One user: whoever runs the machine. Owners cannot be changed and there are no extended attributes;
locks are the guest's own affair.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EBADF, EINVAL, EMFILE, EOPNOTSUPP, EPERM, EPROTO
from typing import Any

from hartwood.dev.virtio.tree import FLAGS, Names, Tree, checked, refuse

VERSION = b"9P2000.L"
#: Bytes of a message at most, names a guest holds, and files that are open for it.
MESSAGE, FIDS, FILES = 1 << 19, 1 << 14, 512
_SMALLEST, _HEAD, _WALK = 4096, struct.Struct("<IBH"), 16
_ERROR, _VERSION, _REMOVEDIR, _UNLOCKED = 7, 100, 0x200, 2
_BASIC = 0x7FF  # of getattr: all that stat(2) gives
_MODE, _OWNER, _GROUP, _SIZE, _ATIME, _MTIME, _ATIME_SET, _MTIME_SET = (
    1, 2, 4, 8, 0x10, 0x20, 0x80, 0x100,
)  # fmt: skip
#: An argument list: B H I Q are numbers, s a string, n strings, d data.
_SIZES = {"B": 1, "H": 2, "I": 4, "Q": 8}
Arguments = tuple[Any, ...]


@dataclass
class Fid:
    """What a guest calls by a number: a file, and how it was opened (-1: it was not)."""

    names: Names
    flags: int = -1
    file: int = -1
    entries: list[bytes] = field(default_factory=list)


def _text(data: bytes) -> bytes:
    return struct.pack("<H", len(data)) + data


def _qid(status: os.stat_result) -> bytes:
    """Kind, version and identity of a file (intro(5))."""
    kind = {stat.S_IFDIR: 0x80, stat.S_IFLNK: 0x02}.get(stat.S_IFMT(status.st_mode), 0)
    version = (status.st_mtime_ns ^ status.st_size << 8) & 0xFFFF_FFFF
    path = (status.st_ino ^ status.st_dev << 48) & (1 << 64) - 1
    return struct.pack("<BIQ", kind, version, path)


def _place(offset: int) -> int:
    """A place in a file. Raises `OSError` for one that cannot be."""
    if offset >= 1 << 63:
        raise refuse(EINVAL)
    return offset


def _nanoseconds(seconds: int, more: int) -> int:
    if more >= 1_000_000_000:
        raise refuse(EINVAL)
    return (seconds - (seconds >> 63 << 64)) * 1_000_000_000 + more


def decode(form: str, data: bytes) -> Arguments:
    """The arguments of a message. Raises `OSError` (EPROTO) where they are cut off."""
    place, found = 0, list[Any]()

    def take(size: int) -> bytes:
        nonlocal place
        place += size
        if place > len(data):
            raise refuse(EPROTO)
        return data[place - size : place]

    def number(size: int) -> int:
        return int.from_bytes(take(size), "little")

    for letter in form:
        if letter in _SIZES:
            found.append(number(_SIZES[letter]))
        elif letter == "s":
            found.append(take(number(2)))
        elif letter == "d":
            found.append(take(number(4)))
        else:
            count = number(2)
            if count > _WALK:
                raise refuse(EINVAL)
            found.append([take(number(2)) for _ in range(count)])
    return tuple(found)


def parse(dumped: bytes) -> tuple[int, dict[int, Fid]]:
    """What `Server.dump` gave. Raises `ValueError` for anything else."""
    fids = dict[int, Fid]()
    try:
        message, table = json.loads(dumped) if dumped else (0, [])
        for number, flags, names in table:
            found = checked(tuple(os.fsencode(name) for name in names))
            if type(number) is not int or type(flags) is not int or len(table) > FIDS:
                raise ValueError(number)
            fids[number] = Fid(found, -1 if flags < 0 else flags & FLAGS & ~os.O_TRUNC)
        if type(message) is not int or not 0 <= message <= MESSAGE:
            raise ValueError(message)
    except (TypeError, ValueError, OSError, RecursionError) as error:
        raise ValueError(f"no session of 9P: {error}") from None
    return message, fids


class Server:
    """One session over `tree`. `answer` never raises for what a guest sends."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.message = 0
        self.fids: dict[int, Fid] = {}
        self._calls: dict[int, tuple[str, Callable[..., bytes]]] = {
            8: ("I", self._statfs), 12: ("II", self._open), 14: ("IsIII", self._create),
            16: ("IssI", self._symlink), 18: ("IsIIII", self._mknod), 20: ("IIs", self._rename),
            22: ("I", self._readlink), 24: ("IQ", self._getattr),
            26: ("IIIIIQQQQQ", self._setattr), 40: ("IQI", self._readdir), 50: ("II", self._fsync),
            52: ("IBIQQIs", self._lock), 54: ("IBQQIs", self._getlock), 70: ("IIs", self._link),
            72: ("IsII", self._mkdir), 74: ("IsIs", self._renameat), 76: ("IsI", self._unlinkat),
            104: ("IIssI", self._attach), 108: ("H", self._flush), 110: ("IIn", self._walk),
            116: ("IQI", self._read), 118: ("IQd", self._write), 120: ("I", self._clunk),
            122: ("I", self._remove),
        }  # fmt: skip

    def answer(self, request: bytes, room: int) -> bytes:
        """The reply to a message, which has to fit into `room` bytes. Raises `ValueError` where
        not even an error would."""
        if len(request) < _HEAD.size or room < _HEAD.size + 4:
            raise ValueError("a message without a header, or without room for an answer")
        size, kind, tag = _HEAD.unpack_from(request)
        self._room = min(room, self.message or room) - _HEAD.size
        try:
            if size > len(request) or size < _HEAD.size:
                raise refuse(EPROTO)
            kind, body = kind + 1, self._dispatch(kind, request[_HEAD.size : size])
            if len(body) > self._room:
                raise refuse(EPROTO)
        except OSError as error:
            kind, body = _ERROR, struct.pack("<I", error.errno or EPROTO)
        return _HEAD.pack(_HEAD.size + len(body), kind, tag) + body

    def _dispatch(self, kind: int, data: bytes) -> bytes:
        if kind == _VERSION:
            return self._version(*decode("Is", data))
        if not self.message:
            raise refuse(EPROTO)
        if kind not in self._calls:
            raise refuse(EOPNOTSUPP)
        form, call = self._calls[kind]
        return call(*decode(form, data))

    # The session.
    def _version(self, message: int, version: bytes) -> bytes:
        self.clear()
        known = version == VERSION and message >= _SMALLEST
        self.message = min(message, MESSAGE) if known else 0
        return struct.pack("<I", self.message or message) + _text(VERSION if known else b"unknown")

    def clear(self) -> None:
        """Forget everything."""
        for fid in self.fids.values():
            self._shut(fid)
        self.fids.clear()
        self.message = 0

    @staticmethod
    def _shut(fid: Fid) -> None:
        if fid.file >= 0:
            os.close(fid.file)
        fid.file = -1

    def dump(self) -> bytes:
        """The session, to be gone on with by `restore`; nothing where there is none."""
        table = [
            [number, fid.flags, [os.fsdecode(name) for name in fid.names]]
            for number, fid in self.fids.items()
        ]
        return json.dumps([self.message, table]).encode() if self.message else b""

    def restore(self, dumped: bytes) -> None:
        """Go on with a session; its files are opened when they are needed. Raises `ValueError`."""
        message, fids = parse(dumped)
        self.clear()
        self.message, self.fids = message, fids

    def _fid(self, number: int) -> Fid:
        if number not in self.fids:
            raise refuse(EBADF)
        return self.fids[number]

    def _new(self, number: int, names: Names) -> None:
        if number in self.fids:
            raise refuse(EBADF)
        if len(self.fids) >= FIDS:
            raise refuse(EMFILE)
        self.fids[number] = Fid(names)

    def _file(self, fid: Fid) -> int:
        """Its open file."""
        if fid.flags < 0:
            raise refuse(EBADF)
        if fid.file < 0:
            fid.file = self.tree.open(fid.names, fid.flags)
        return fid.file

    def _stat(self, fid: Fid) -> os.stat_result:
        return os.fstat(fid.file) if fid.file >= 0 else self.tree.stat(fid.names)

    def _attach(self, number: int, auth: int, user: bytes, name: bytes, uid: int) -> bytes:
        status = self.tree.stat(())
        self._new(number, ())
        return _qid(status)

    def _flush(self, tag: int) -> bytes:
        return b""  # every request is done by the time the next one is read

    def _walk(self, number: int, new: int, steps: list[bytes]) -> bytes:
        names, found = self._fid(number).names, list[bytes]()
        for step in steps:
            beyond = names[:-1] if step == b".." else (*names, step)
            try:
                found.append(_qid(self.tree.stat(beyond)))
            except OSError:
                if not found:
                    raise
                break
            names = beyond
        if len(found) == len(steps):
            if new == number:
                self._shut(self.fids.pop(number))
            self._new(new, names)
        return struct.pack("<H", len(found)) + b"".join(found)

    def _clunk(self, number: int) -> bytes:
        self._shut(self._fid(number))
        del self.fids[number]
        return b""

    # Files.
    def _ready(self, fid: Fid) -> None:
        """It may be opened."""
        if fid.flags >= 0:
            raise refuse(EBADF)
        if sum(each.file >= 0 for each in self.fids.values()) >= FILES:
            raise refuse(EMFILE)

    def _open(self, number: int, flags: int) -> bytes:
        fid = self._fid(number)
        self._ready(fid)
        fid.file = self.tree.open(fid.names, flags & FLAGS)
        fid.flags = flags & FLAGS & ~os.O_TRUNC
        return _qid(os.fstat(fid.file)) + struct.pack("<I", 0)

    def _create(self, number: int, name: bytes, flags: int, mode: int, group: int) -> bytes:
        fid = self._fid(number)
        self._ready(fid)
        names, exclusive = (*fid.names, name), bool(flags & os.O_EXCL)
        fid.file = self.tree.create(names, flags & FLAGS, mode & 0o777, exclusive)
        fid.names, fid.flags = names, flags & FLAGS & ~os.O_TRUNC
        return _qid(os.fstat(fid.file)) + struct.pack("<I", 0)

    def _read(self, number: int, offset: int, count: int) -> bytes:
        data = os.pread(self._file(self._fid(number)), min(count, self._room - 4), _place(offset))
        return struct.pack("<I", len(data)) + data

    def _write(self, number: int, offset: int, data: bytes) -> bytes:
        return struct.pack("<I", os.pwrite(self._file(self._fid(number)), data, _place(offset)))

    def _fsync(self, number: int, only_data: int) -> bytes:
        (os.fdatasync if only_data else os.fsync)(self._file(self._fid(number)))
        return b""

    def _readdir(self, number: int, offset: int, count: int) -> bytes:
        fid = self._fid(number)
        file = self._file(fid)
        if offset == 0 or not fid.entries:
            fid.entries = [b".", b"..", *sorted(map(os.fsencode, os.listdir(file)))]
        data, room = b"", min(count, self._room - 4)
        for place in range(min(offset, len(fid.entries)), len(fid.entries)):
            name = fid.entries[place]
            try:
                if name in (b".", b".."):
                    status = os.fstat(file)  # who wants to go up has a walk for it
                else:
                    status = os.stat(name, dir_fd=file, follow_symlinks=False)
            except FileNotFoundError:
                continue  # gone since it was listed
            kind = stat.S_IFMT(status.st_mode) >> 12  # d_type of readdir(3)
            entry = _qid(status) + struct.pack("<QB", place + 1, kind) + _text(name)
            if len(data) + len(entry) > room:
                break
            data += entry
        return struct.pack("<I", len(data)) + data

    def _lock(self, number: int, *_: object) -> bytes:
        self._fid(number)
        return b"\0"

    def _getlock(
        self, number: int, kind: int, start: int, size: int, process: int, client: bytes
    ) -> bytes:
        self._fid(number)
        return struct.pack("<BQQI", _UNLOCKED, start, size, process) + _text(client)

    # What there is to know of a file, and to change.
    def _statfs(self, number: int) -> bytes:
        s = self.tree.statfs(self._fid(number).names)
        return struct.pack(
            "<IIQQQQQQI", 0x01021997, s.f_frsize, s.f_blocks, s.f_bfree, s.f_bavail, s.f_files,
            s.f_ffree, 0, s.f_namemax,
        )  # fmt: skip

    def _getattr(self, number: int, mask: int) -> bytes:
        s = self._stat(self._fid(number))
        times = [part for ns in (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns)
                 for part in divmod(ns, 1_000_000_000)]  # fmt: skip
        return struct.pack("<Q", _BASIC) + _qid(s) + struct.pack(
            "<IIIQQQQQ6q4Q", s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_rdev, s.st_size,
            s.st_blksize, s.st_blocks, *times, 0, 0, 0, 0,
        )  # fmt: skip

    def _setattr(
        self, number: int, valid: int, mode: int, owner: int, group: int, size: int,
        accessed: int, accessed_ns: int, modified: int, modified_ns: int,
    ) -> bytes:  # fmt: skip
        fid = self._fid(number)
        status = self._stat(fid)
        if (valid & _OWNER and owner != status.st_uid) or (
            valid & _GROUP and group != status.st_gid
        ):
            raise refuse(EPERM)
        if valid & _MODE:
            self.tree.chmod(fid.names, mode)
        if valid & _SIZE:
            self.tree.truncate(fid.names, _place(size))
        if valid & (_ATIME | _MTIME):
            now = time.time_ns()
            times = [status.st_atime_ns, status.st_mtime_ns]
            if valid & _ATIME:
                times[0] = _nanoseconds(accessed, accessed_ns) if valid & _ATIME_SET else now
            if valid & _MTIME:
                times[1] = _nanoseconds(modified, modified_ns) if valid & _MTIME_SET else now
            self.tree.utime(fid.names, (times[0], times[1]))
        return b""

    def _readlink(self, number: int) -> bytes:
        return _text(self.tree.readlink(self._fid(number).names))

    # Names.
    def _symlink(self, number: int, name: bytes, target: bytes, group: int) -> bytes:
        names = (*self._fid(number).names, name)
        if not target or b"\0" in target:
            raise refuse(EINVAL)
        self.tree.symlink(names, target)
        return _qid(self.tree.stat(names))

    def _mknod(self, number: int, *_: object) -> bytes:
        raise refuse(EPERM)  # devices, pipes and sockets would be the host's

    def _mkdir(self, number: int, name: bytes, mode: int, group: int) -> bytes:
        names = (*self._fid(number).names, name)
        self.tree.mkdir(names, mode & 0o1777)
        return _qid(self.tree.stat(names))

    def _link(self, directory: int, number: int, name: bytes) -> bytes:
        self.tree.link(self._fid(number).names, (*self._fid(directory).names, name))
        return b""

    def _rename(self, number: int, directory: int, name: bytes) -> bytes:
        self._move(self._fid(number).names, (*self._fid(directory).names, name))
        return b""

    def _renameat(self, old: int, name: bytes, new: int, other: bytes) -> bytes:
        self._move((*self._fid(old).names, name), (*self._fid(new).names, other))
        return b""

    def _move(self, old: Names, new: Names) -> None:
        self.tree.rename(old, new)
        for fid in self.fids.values():  # they go with their files
            if fid.names[: len(old)] == old:
                fid.names = new + fid.names[len(old) :]

    def _unlinkat(self, number: int, name: bytes, flags: int) -> bytes:
        self.tree.remove((*self._fid(number).names, name), bool(flags & _REMOVEDIR))
        return b""

    def _remove(self, number: int) -> bytes:
        fid = self._fid(number)
        try:
            self.tree.remove(fid.names, stat.S_ISDIR(self._stat(fid).st_mode))
        finally:
            self._clunk(number)
        return b""
