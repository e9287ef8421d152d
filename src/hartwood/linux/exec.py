"""execve: finding the program, its `#!` interpreter, and starting it in place of the old one."""

from __future__ import annotations

import fcntl
import os
import struct
from errno import E2BIG, EACCES, ELOOP, ENOENT, ENOEXEC, ENOTDIR
from stat import S_ISREG

from hartwood.errors import LoadError, MappingError, MemoryFault
from hartwood.linux import elf, signals, stack
from hartwood.linux.calls import HOST
from hartwood.linux.load import Link, load, open_link
from hartwood.mem import descriptors, hostmem
from hartwood.mem.flat import LIMIT
from hartwood.mem.regions import EXEC, PAGE, READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.process import Process
    from hartwood.linux.task import Task

HOST_MACHINES = {"x86_64": (62, 3), "aarch64": (183, 40)}
SCRIPT_LINE = 256
SCRIPT_DEPTH = 5
MAX_ARGUMENTS = 0x20000

#: AT_HWCAP: one bit for each single-letter extension (arch/riscv uapi hwcap.h).
HWCAP = sum(1 << (ord(letter) - ord("A")) for letter in "IMAFDC")
CLOCK_TICKS = 100
MINIMUM_SIGNAL_STACK = signals.FRAME
STACK_DEFAULT = 8 << 20
STACK_LARGEST = 1 << 30
#: What lies between the stack's lowest page and the mappings below it.
STACK_GAP = 128 << 20
RLIMIT_STACK = 3

# What rt_sigreturn looks like in the riscv64 vDSO, by which unwinders know a signal frame.
TRAMPOLINE = bytes.fromhex("9308b00873000000")  # li a7, 139; ecall


class Request:
    """A program ready to be started: everything that can be refused has been checked.

    `fd` is open on the ELF file, `path` what the caller asked for, `exe` the file's real path.
    """

    __slots__ = ("argv", "env", "exe", "fd", "link", "mask", "path", "program")

    def __init__(
        self,
        fd: int,
        program: elf.Program,
        link: Link | None,
        path: bytes,
        argv: list[bytes],
        env: list[bytes],
    ) -> None:
        self.fd = fd
        self.program = program
        self.link = link
        self.path = path
        self.argv = argv
        self.env = env
        self.exe = os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))
        self.mask: int | None = None

    def close(self) -> None:
        """Close the files, once they are mapped."""
        descriptors.close(self.fd)
        if self.link is not None:
            descriptors.close(self.link.fd)


class HostProgram(LoadError):
    """The file is a program for the host itself; `file` is its path, `argv` its arguments."""

    def __init__(self, path: str, reason: str, file: bytes, argv: list[bytes]) -> None:
        super().__init__(path, reason)
        self.file = file
        self.argv = argv


def prepare(process: Process, path: bytes, argv: list[bytes], env: list[bytes]) -> Request:
    """Open and check the program that execve would start. Raises `LoadError`."""
    asked = path
    for _ in range(SCRIPT_DEPTH):
        name = os.fsdecode(path)
        file = process.paths.translate(path, follow=True)
        try:
            with descriptors.Room():
                fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise LoadError(name, error.strerror or "cannot be opened", error.errno or 2) from None
        try:
            if not S_ISREG(os.fstat(fd).st_mode):
                raise LoadError(name, "is not a regular file", EACCES)
            if not os.access(f"/proc/self/fd/{fd}", os.X_OK, effective_ids=False) and (
                process.leader is not None
            ):
                raise LoadError(name, "is not executable", EACCES)
            start = os.pread(fd, SCRIPT_LINE, 0)
            if start[:2] != b"#!":
                return _request(process, fd, name, file, asked, argv, env, start)
            words = _script_line(name, start)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        argv = [*words, path, *argv[1:]]
        path = words[0]
    raise LoadError(os.fsdecode(asked), "too many interpreters in a row", ELOOP)


def _request(
    process: Process,
    fd: int,
    name: str,
    file: bytes,
    asked: bytes,
    argv: list[bytes],
    env: list[bytes],
    start: bytes,
) -> Request:
    machine = elf.machine_of(start)
    if machine is not None and machine in HOST_MACHINES.get(os.uname().machine, ()):
        what = elf.MACHINES[machine]
        raise HostProgram(name, f"a program for {what}, not for riscv64", file, argv)
    program = elf.read_program(fd, name, process.space.limit)
    _check_strings(name, argv, env, stack_size(process))

    def open_interpreter(path: bytes) -> int:
        translated = process.paths.translate(path, follow=True)
        with descriptors.Room():
            return os.open(translated, os.O_RDONLY | os.O_CLOEXEC)

    link = open_link(program, open_interpreter, process.space.limit)
    if link is not None:
        link.fd = descriptors.hide(link.fd)
    return Request(descriptors.hide(fd), program, link, asked, argv, env)


def _check_strings(name: str, argv: list[bytes], env: list[bytes], room: int) -> None:
    room = min(room // 4, stack.MAX_STRINGS)
    total = sum(len(text) + 9 for text in argv) + sum(len(text) + 9 for text in env)
    longest = max(map(len, (*argv, *env)), default=0)
    if total > room or longest >= stack.MAX_STRING:
        raise LoadError(name, "the arguments and environment are too long", E2BIG)


def _script_line(name: str, start: bytes) -> list[bytes]:
    """The words of a `#!` line: the interpreter and at most one argument (Linux's rule)."""
    line, newline, _ = start[2:].partition(b"\n")
    if not newline and len(start) == SCRIPT_LINE and b" " not in line.strip(b" \t"):
        raise LoadError(name, "its #! line is too long", ENOEXEC)
    words = line.strip(b" \t").split(None, 1)
    if not words or not words[0]:
        raise LoadError(name, "its #! line names no interpreter", ENOEXEC)
    return [words[0], *(word.rstrip(b" \t") for word in words[1:])]


def stack_size(process: Process) -> int:
    """Bytes of stack a new program gets: RLIMIT_STACK within reason."""
    if RLIMIT_STACK in process.limits:
        soft = process.limits[RLIMIT_STACK][0]
    else:
        buffer = hostmem.Buffer(16)
        hostmem.syscall(HOST["getrlimit"], RLIMIT_STACK, buffer.address)
        soft = int.from_bytes(buffer.view[:8], "little")
    return max(min(soft, STACK_LARGEST) & -PAGE, 32 * PAGE)


def start(task: Task, request: Request) -> None:
    """Replace the program of the task, which is the process's only one, by another.

    Raises `LoadError` where the first program of a process has no room; a later one that has none
    ends the process as Linux does, by SIGKILL.
    """
    process, space, program = task.process, task.space, request.program
    size = stack_size(process)
    top = LIMIT - PAGE
    space.reset()
    space.mmap_top = top - max(size + PAGE, STACK_GAP)
    process.machine.flush_code()
    try:
        loaded = load(space, request.fd, program, request.link)
        protection = READ | WRITE | (EXEC if program.executable_stack else 0)
        flags = hostmem.MAP_PRIVATE | hostmem.MAP_ANONYMOUS | hostmem.MAP_NORESERVE
        space.map(top - size, size, protection, flags=flags, path="[stack]")
        process.trampoline = space.find_free(PAGE)
        space.map(process.trampoline, PAGE, READ | WRITE, path="[vdso]")
        space.write(process.trampoline, TRAMPOLINE)
        space.protect(process.trampoline, PAGE, READ | EXEC)
        auxv = [
            (stack.AT_HWCAP, HWCAP),
            (stack.AT_PAGESZ, PAGE),
            (stack.AT_CLKTCK, CLOCK_TICKS),
            (stack.AT_PHDR, loaded.headers),
            (stack.AT_PHENT, 56),
            (stack.AT_PHNUM, loaded.header_count),
            (stack.AT_BASE, loaded.link_base),
            (stack.AT_FLAGS, 0),
            (stack.AT_ENTRY, loaded.entry),
            (stack.AT_UID, os.getuid()),
            (stack.AT_EUID, os.geteuid()),
            (stack.AT_GID, os.getgid()),
            (stack.AT_EGID, os.getegid()),
            (stack.AT_SECURE, 0),
            (stack.AT_MINSIGSTKSZ, MINIMUM_SIGNAL_STACK),
        ]
        sp, process.auxv = stack.build(
            space, top, request.argv, request.env, request.path, auxv, os.urandom(16), size
        )
    except (LoadError, MappingError, MemoryFault) as error:
        if not process.exe:
            raise
        process.complain(f"hartwood: {error}")
        process.die(task, signals.SIGKILL)
    finally:
        request.close()
    process.exe, process.argv, process.env = request.exe, request.argv, request.env
    process.name = os.fsdecode(os.path.basename(request.path))
    process.brk_start = process.brk = loaded.brk
    process.lock_future = False
    name_thread(task, os.path.basename(request.path))
    if request.mask is not None:
        signals.set_mask(task, request.mask)
    _reset_task(task, loaded.start, sp)


def _reset_task(task: Task, pc: int, sp: int) -> None:
    x, f = task.x, task.hart.f
    for number in range(1, 32):
        x[number] = 0
    for number in range(32):
        f[number] = 0
    task.hart.fcsr = 0
    x[2] = sp
    task.hart.pc = pc
    task.stack_at = task.stack_size = task.clear_tid = task.robust_list = 0
    task.stack_flags = signals.SS_DISABLE
    task.saved_mask = None


def name_thread(task: Task, name: bytes) -> None:
    """The name that ps shows (PR_SET_NAME), as execve sets it."""
    hostmem.syscall(HOST["prctl"], 15, task.place(0, name[:15] + b"\0"))


def _strings(task: Task, at: int) -> list[bytes]:
    """A NULL-terminated array of strings. Raises `MemoryFault`, or `OSError` (E2BIG)."""
    found: list[bytes] = []
    while at:
        # Whole runs of pointers at once, but never past the page that must be there.
        run = task.space.read(at, 256 - (at & 255) & -8 or 8)
        for index in range(0, len(run), 8):
            pointer = int.from_bytes(run[index : index + 8], "little")
            if not pointer:
                return found
            text = task.space.read_cstring(pointer, stack.MAX_STRING)
            if text is None or len(found) >= MAX_ARGUMENTS:
                raise OSError(E2BIG, "Argument list too long")
            found.append(text)
        at += len(run)
    return found


def execve(task: Task, path: int, argv: int, env: int) -> int | None:
    """Start another program in this process."""
    return _execute(task, task.path(path), _strings(task, argv), _strings(task, env))


AT_FDCWD = 0xFFFFFFFFFFFFFF9C
AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW = 0x1000, 0x100


def execveat(task: Task, at: int, path: int, argv: int, env: int, flags: int) -> int | None:
    """execve relative to a directory descriptor."""
    name = task.path(path)
    if not name and not flags & AT_EMPTY_PATH:
        return -ENOENT
    if name[:1] != b"/" and at & 0xFFFFFFFF != AT_FDCWD & 0xFFFFFFFF:
        number = at & 0xFFFFFFFF
        if number in descriptors.private:
            return -9
        os.fstat(number)
        name = b"/proc/self/fd/%d" % number + (b"/" + name if name else b"")
    if flags & AT_SYMLINK_NOFOLLOW and os.path.islink(name):
        return -ELOOP
    return _execute(task, name, _strings(task, argv), _strings(task, env))


def _execute(task: Task, path: bytes, argv: list[bytes], env: list[bytes]) -> int | None:
    process = task.process
    if not path:
        return -ENOENT
    argv = argv or [b""]
    try:
        request = prepare(process, path, argv, env)
    except HostProgram as error:
        return _leave_for_host(task, error, env)
    except LoadError as error:
        return -error.errno
    request.mask = task.mask
    if len(process.tasks) > 1 or task is not process.leader:
        # Linux gives the new program the leader's identity: the leader starts it.
        process.hand_over(task, request)
    start(task, request)
    after_start(task)
    return None


def after_start(task: Task) -> None:
    """Descriptors, handlers and timers that do not survive execve."""
    process = task.process
    process.reset_actions()
    with descriptors.Room():
        names = os.listdir("/proc/self/fd")
    for name in names:
        fd = int(name)
        if fd in descriptors.private:
            continue
        try:
            if fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                os.close(fd)
        except OSError:  # the descriptor that listed the directory is closed by now
            continue
    for timer in process.timers:
        hostmem.syscall(HOST["timer_delete"], timer)
    process.timers.clear()
    release_parent(process)


def release_parent(process: Process) -> None:
    """Let a parent that waits in vfork go on."""
    if process.vfork_pipe is not None:
        descriptors.close(process.vfork_pipe)
        process.vfork_pipe = None


def _leave_for_host(task: Task, program: HostProgram, env: list[bytes]) -> int:
    """Start a host program for real: this process is no guest any more."""
    process = task.process
    environment = dict(text.split(b"=", 1) for text in env if b"=" in text)
    # Handlers of ours must not look like the program's own while it starts.
    for signo in range(1, signals.SIGNALS + 1):
        if process.actions[signo].handler > signals.SIG_IGN:
            process.delivery.dispositions.set(signo, signals.SIG_DFL, 0)
    for resource, pair in process.limits.items():
        buffer = hostmem.Buffer(16)
        buffer.view[:] = struct.pack("<QQ", *pair)
        hostmem.syscall(HOST["setrlimit"], resource, buffer.address)
    try:
        os.execve(program.file, program.argv, environment)
    except OSError as error:
        for signo in range(1, signals.SIGNALS + 1):
            process.set_action(signo, process.actions[signo])
        return -(error.errno or ENOTDIR)
