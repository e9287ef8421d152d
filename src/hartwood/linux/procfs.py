"""What /proc says about the guest: its program, memory and processor, not ours."""

from __future__ import annotations

import os
from errno import EACCES, ENOTDIR

from hartwood.mem import descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hartwood.linux.process import Process
    from hartwood.linux.task import Task

ISA = "rv64imafdc_zicntr_zicond_zicsr_zifencei_zca_zcb_zcd_zba_zbb_zbs"
O_WRITE, O_DIRECTORY, O_PATH = 0x3, 0x10000, 0x200000
#: Column at which maps shows the path (fs/proc/task_mmu.c: 25 + 6 * 8 - 1).
_PATH_COLUMN = 72


def entry(process: Process, path: bytes) -> bytes | None:
    """The part of a /proc path below the own process's folder, or None for any other path."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if path[:1] != b"/" or len(parts) < 3 or parts[0] != b"proc":
        return None
    own = b"%d" % process.pid
    if parts[1] in (b"self", b"thread-self", own):
        rest = parts[2:]
        if rest[:1] == [b"task"] and len(rest) > 2:
            rest = rest[2:]
        return b"/".join(rest)
    return None


def read_link(process: Process, path: bytes) -> bytes | None:
    """The target of a link below /proc that we answer for; empty where it must not exist."""
    name = entry(process, path)
    if name == b"exe":
        return process.exe
    if name is not None and name[:3] == b"fd/" and name[3:].isdigit():
        return b"" if int(name[3:]) in descriptors.private else None
    return None


def open_file(task: Task, path: bytes, flags: int) -> int | None:
    """Open a file of /proc that shows the guest; None where the host's own will do."""
    process = task.process
    if path == b"/proc/cpuinfo":
        return _open_text(cpuinfo(), flags)
    name = entry(process, path)
    if name is None:
        return None
    if name == b"mem":
        return -EACCES  # offsets would be host addresses
    if name[:3] == b"fd/" and name[3:].isdigit() and int(name[3:]) in descriptors.private:
        return -2
    make = _FILES.get(name)
    return None if make is None else _open_text(make(process), flags)


def _open_text(text: bytes, flags: int) -> int:
    """A read-only descriptor on a memory file with this text."""
    if flags & O_DIRECTORY:
        return -ENOTDIR
    if flags & O_WRITE:
        return -EACCES
    with descriptors.Room():
        memory = descriptors.hide(os.memfd_create("proc", os.MFD_CLOEXEC))
    try:
        os.write(memory, text)
        # By a second open the guest gets the lowest free number, and cannot write.
        return os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | flags & os.O_CLOEXEC)
    finally:
        descriptors.close(memory)


def maps(process: Process) -> bytes:
    """/proc/self/maps from our own list of regions."""
    lines = []
    for region in process.space.regions:
        prot = region.prot
        line = (
            f"{region.start:08x}-{region.end:08x} "
            f"{'r' if prot & 1 else '-'}{'w' if prot & 2 else '-'}{'x' if prot & 4 else '-'}"
            f"{'s' if region.shared else 'p'} {region.offset:08x} "
            f"{os.major(region.device):02x}:{os.minor(region.device):02x} {region.inode} "
        )
        if region.path:
            line = line.ljust(_PATH_COLUMN) + " " + region.path.replace("\n", "\\012")
        lines.append(line + "\n")
    return os.fsencode("".join(lines))


def cmdline(process: Process) -> bytes:
    """/proc/self/cmdline."""
    return b"".join(word + b"\0" for word in process.argv)


def environ(process: Process) -> bytes:
    """/proc/self/environ."""
    return b"".join(word + b"\0" for word in process.env)


def auxv(process: Process) -> bytes:
    """/proc/self/auxv."""
    return process.auxv


def stat(process: Process) -> bytes:
    """/proc/self/stat: the host's, with the guest's size, code and stack addresses."""
    with open("/proc/self/stat", "rb", buffering=0) as file:
        text = file.read(4096)
    head, _, tail = text.rpartition(b") ")
    fields = tail.split()  # field 3 (state) is fields[0]
    regions = list(process.space.regions)
    fields[20] = b"%d" % sum(region.end - region.start for region in regions)
    fields[23] = fields[24] = fields[25] = b"0"
    for region in regions:
        if region.path == "[stack]":
            fields[25] = b"%d" % (region.end - 16)
        elif region.prot & 4 and fields[23] == b"0":
            fields[23], fields[24] = b"%d" % region.start, b"%d" % region.end
    return head + b") " + b" ".join(fields) + b"\n"


def cpuinfo() -> bytes:
    """/proc/cpuinfo as a riscv64 kernel writes it, one entry for each usable host processor."""
    lines = []
    for number in range(len(os.sched_getaffinity(0))):
        lines.append(
            f"processor\t: {number}\nhart\t\t: {number}\nisa\t\t: {ISA}\nmmu\t\t: sv39\n"
            f"uarch\t\t: hartwood\nmvendorid\t: 0x0\nmarchid\t\t: 0x0\nmimpid\t\t: 0x0\n\n"
        )
    return "".join(lines).encode()


_FILES: dict[bytes, Callable[[Process], bytes]] = {
    b"maps": maps,
    b"cmdline": cmdline,
    b"environ": environ,
    b"auxv": auxv,
    b"stat": stat,
}
