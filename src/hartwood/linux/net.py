"""Socket calls whose arguments hold pointers or paths; the others pass as they are."""

from __future__ import annotations

from errno import EBADF, EMSGSIZE, ENOENT

from hartwood.linux import vectors
from hartwood.linux.calls import HOST
from hartwood.linux.structs import MESSAGE as HEADER
from hartwood.linux.task import MESSAGE, VECTORS
from hartwood.mem.descriptors import private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.task import Task

AF_UNIX = 1
SOL_SOCKET, SO_ATTACH_FILTER = 1, 26
#: struct mmsghdr: a msghdr and the length transferred.
MULTIPLE = HEADER.size + 8
MSG_DONTWAIT, MSG_WAITFORONE = 0x40, 0x10000


def _message(task: Task, at: int) -> tuple[int, bytes]:
    """A msghdr with host pointers: its host address, and the guest's own bytes."""
    data = task.space.read(at, HEADER.size)
    name, name_size, iov, count, control, control_size, flags = HEADER.unpack(data)
    if count > vectors.MAX_VECTORS:
        raise OSError(EMSGSIZE, "too many vectors")
    host = HEADER.pack(
        task.host(name),
        name_size,
        vectors.to_host(task, iov, count, VECTORS),
        count,
        task.host(control),
        control_size,
        flags,
    )
    return task.place(MESSAGE, host), data


def sendmsg(task: Task, fd: int, message: int, flags: int) -> int:
    """Send a message."""
    if fd & 0xFFFFFFFF in private:
        return -EBADF
    address, _ = _message(task, message)
    return task.syscall(HOST["sendmsg"], fd, address, flags)


def recvmsg(task: Task, fd: int, message: int, flags: int) -> int:
    """Receive a message; the sizes and flags come back in the header."""
    if fd & 0xFFFFFFFF in private:
        return -EBADF
    address, data = _message(task, message)
    result = task.syscall(HOST["recvmsg"], fd, address, flags)
    if result >= 0:
        name, _, iov, count, control, _, _ = HEADER.unpack(data)
        _, name_size, _, _, _, control_size, flags = HEADER.unpack(
            task.scratch.view[MESSAGE : MESSAGE + HEADER.size]
        )
        header = HEADER.pack(name, name_size, iov, count, control, control_size, flags)
        task.space.write(message, header[:52])
    return result


def sendmmsg(task: Task, fd: int, messages: int, count: int, flags: int) -> int:
    """Send several messages, up to the first that fails."""
    sent = 0
    for number in range(min(count & 0xFFFFFFFF, vectors.MAX_VECTORS)):
        at = messages + number * MULTIPLE
        result = sendmsg(task, fd, at, flags)
        if result < 0:
            return sent or result
        task.space.write_u32(at + HEADER.size, result)
        sent += 1
    return sent


def recvmmsg(task: Task, fd: int, messages: int, count: int, flags: int, timeout: int) -> int:
    """Receive several messages; with a timeout or MSG_WAITFORONE it waits for the first only."""
    received = 0
    wait = flags & ~MSG_WAITFORONE
    for number in range(min(count & 0xFFFFFFFF, vectors.MAX_VECTORS)):
        at = messages + number * MULTIPLE
        result = recvmsg(task, fd, at, wait)
        if result < 0:
            return received or result
        task.space.write_u32(at + HEADER.size, result)
        received += 1
        if flags & MSG_WAITFORONE or timeout:
            wait |= MSG_DONTWAIT
    return received


def _address(task: Task, at: int, size: int, *, follow: bool) -> tuple[int, int]:
    """A socket address for the host: an AF_UNIX path goes through the system root."""
    if task.process.paths.root is None or not 3 <= size <= 110:
        return task.host(at), size
    data = task.space.read(at, size)
    path = data[2:].split(b"\0", 1)[0]
    if int.from_bytes(data[:2], "little") != AF_UNIX or path[:1] != b"/":
        return task.host(at), size
    file = task.process.paths.translate(path, follow=follow)
    if file is path:
        return task.host(at), size
    if len(file) > 107:
        raise OSError(ENOENT, "path too long below the system root")
    return task.place(VECTORS, data[:2] + file + b"\0"), len(file) + 3


def bind(task: Task, fd: int, at: int, size: int) -> int:
    """Name a socket."""
    if fd & 0xFFFFFFFF in private:
        return -EBADF
    return task.syscall(HOST["bind"], fd, *_address(task, at, size & 0xFFFFFFFF, follow=False))


def connect(task: Task, fd: int, at: int, size: int) -> int:
    """Connect a socket."""
    if fd & 0xFFFFFFFF in private:
        return -EBADF
    return task.syscall(HOST["connect"], fd, *_address(task, at, size & 0xFFFFFFFF, follow=True))


def setsockopt(task: Task, fd: int, level: int, option: int, value: int, size: int) -> int:
    """Socket options; a packet filter has a pointer inside."""
    if fd & 0xFFFFFFFF in private:
        return -EBADF
    address = task.host(value)
    if level == SOL_SOCKET and option == SO_ATTACH_FILTER and size >= 16:
        data = task.space.read(value, 16)
        program = int.from_bytes(data[8:16], "little")
        address = task.place(VECTORS, data[:8] + task.host(program).to_bytes(8, "little"))
    return task.syscall(HOST["setsockopt"], fd, level, option, address, size)
