"""ioctl: request numbers and layouts agree on both sides; what differs is who owns a pointer."""

from __future__ import annotations

import struct
from errno import EBADF, ENOTTY

from hartwood.linux.calls import HOST
from hartwood.linux.task import VECTORS
from hartwood.mem.descriptors import private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.task import Task

#: Requests without an encoded size whose argument is a pointer: terminals, descriptors, sockets.
POINTERS = frozenset(
    {
        0x5401, 0x5402, 0x5403, 0x5404,  # TCGETS TCSETS TCSETSW TCSETSF
        0x5405, 0x5406, 0x5407, 0x5408,  # TCGETA TCSETA TCSETAW TCSETAF
        0x540F, 0x5410, 0x5411, 0x5412,  # TIOCGPGRP TIOCSPGRP TIOCOUTQ TIOCSTI
        0x5413, 0x5414, 0x5415, 0x5416, 0x5417, 0x5418,  # TIOC[GS]WINSZ TIOCM GET BIS BIC SET
        0x5419, 0x541A, 0x541B,  # TIOCGSOFTCAR TIOCSSOFTCAR FIONREAD
        0x541E, 0x541F, 0x5420, 0x5421, 0x5423, 0x5424,  # SERIAL TIOCPKT FIONBIO [GS]ETD
        0x5429, 0x5452, 0x5460,  # TIOCGSID FIOASYNC FIOQSIZE
        *range(0x8901, 0x8908),  # SIOCSPGRP and its like, SIOCGSTAMP
        *range(0x8910, 0x8990),  # interface requests: struct ifreq
        0x890B, 0x890C, 0x890D,  # routes
    }
)  # fmt: skip
#: Requests whose argument is a number or nothing at all.
NUMBERS = frozenset(
    {
        0x5409, 0x540A, 0x540B,  # TCSBRK TCXONC TCFLSH
        0x540C, 0x540D, 0x540E,  # TIOCEXCL TIOCNXCL TIOCSCTTY
        0x5422, 0x5425,  # TIOCNOTTY TCSBRKP
        0x5427, 0x5428, 0x5437,  # TIOCSBRK TIOCCBRK TIOCVHANGUP
        0x5450, 0x5451,  # FIONCLEX FIOCLEX
        0x5441,  # TIOCGPTPEER
        0x40049409,  # FICLONE takes a descriptor although it encodes a size
    }
)  # fmt: skip
SIOCGIFCONF = 0x8912
_IFCONF = struct.Struct("<i4xQ")


def ioctl(task: Task, fd: int, request: int, argument: int) -> int:
    """Device requests; an unknown one is ENOTTY and counted."""
    if fd & 0xFFFFFFFF in private:
        return -EBADF
    request &= 0xFFFFFFFF
    if request in NUMBERS:
        return task.syscall(HOST["ioctl"], fd, request, argument)
    if request == SIOCGIFCONF:
        return _interfaces(task, fd, argument)
    # Newer requests encode direction and size; one with a size points to a structure, and
    # those known here have no pointers inside.
    kind, size = request >> 8 & 0xFF, request >> 16 & 0x3FFF
    if request in POINTERS or (size and kind in (0x54, 0x66, 0x12, 0x89, 0x52, 0x50, 0x55, 0x76)):
        return task.syscall(HOST["ioctl"], fd, request, task.host(argument))
    unknown = task.process.calls.unknown
    name = f"ioctl_{request:#x}"
    unknown[name] = unknown.get(name, 0) + 1
    return -ENOTTY


def _interfaces(task: Task, fd: int, argument: int) -> int:
    """SIOCGIFCONF: a structure with a pointer inside."""
    length, buffer = _IFCONF.unpack(task.space.read(argument, 16))
    address = task.place(VECTORS, _IFCONF.pack(length, task.host(buffer)))
    result = task.syscall(HOST["ioctl"], fd, SIOCGIFCONF, address)
    if result >= 0:
        length = _IFCONF.unpack(task.scratch.view[VECTORS : VECTORS + 16])[0]
        task.space.write(argument, struct.pack("<i", length))
    return result
