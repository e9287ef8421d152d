"""Structures whose layout differs between riscv64 (asm-generic) and the x86-64 host."""

from __future__ import annotations

import struct

#: struct stat of x86-64: dev ino nlink mode uid gid pad rdev size blksize blocks times reserved.
_HOST_STAT = struct.Struct("<QQQIII4xQqqq6Q24x")
#: struct stat of asm-generic: dev ino mode nlink uid gid rdev pad size blksize pad blocks times.
_GUEST_STAT = struct.Struct("<QQIIIIQ8xqi4xq6Q8x")
HOST_STAT = _HOST_STAT.size
GUEST_STAT = _GUEST_STAT.size


def stat_to_guest(data: bytes | memoryview) -> bytes:
    """A host struct stat in the guest's layout (128 bytes)."""
    dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, *times = _HOST_STAT.unpack(data)
    return _GUEST_STAT.pack(dev, ino, mode, nlink, uid, gid, rdev, size, blksize, blocks, *times)


#: struct epoll_event is packed on x86-64 only.
_HOST_EVENT = struct.Struct("<IQ")
_GUEST_EVENT = struct.Struct("<I4xQ")
HOST_EVENT = _HOST_EVENT.size
GUEST_EVENT = _GUEST_EVENT.size


def event_to_host(data: bytes) -> bytes:
    """One epoll_event for the host."""
    return _HOST_EVENT.pack(*_GUEST_EVENT.unpack(data))


def events_to_guest(data: memoryview | bytes) -> bytes:
    """An array of the host's epoll_events in the guest's layout."""
    return b"".join(_GUEST_EVENT.pack(*event) for event in _HOST_EVENT.iter_unpack(data))


#: struct msghdr, alike on both; its pointers are not.
MESSAGE = struct.Struct("<QI4xQQQQi4x")

#: struct semid64_ds: x86-64 has a reserved word after each time, asm-generic at the end.
_HOST_SEMAPHORE = struct.Struct("<48sQ8xQ8xQ16x")
_GUEST_SEMAPHORE = struct.Struct("<48sQQQ16x")
HOST_SEMAPHORE = _HOST_SEMAPHORE.size
GUEST_SEMAPHORE = _GUEST_SEMAPHORE.size


def semaphore_to_guest(data: bytes | memoryview) -> bytes:
    """A host struct semid64_ds in the guest's layout."""
    return _GUEST_SEMAPHORE.pack(*_HOST_SEMAPHORE.unpack(data))


def semaphore_to_host(data: bytes) -> bytes:
    """The guest's struct semid64_ds in the host's layout."""
    return _HOST_SEMAPHORE.pack(*_GUEST_SEMAPHORE.unpack(data))
