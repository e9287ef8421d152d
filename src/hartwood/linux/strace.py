"""--strace: one line on standard error for every system call."""

from __future__ import annotations

import os
from errno import errorcode

from hartwood.errors import MemoryFault
from hartwood.linux.table import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.linux.task import Task

LONGEST_TEXT = 64


def traced(call: Call) -> Call:
    """The same call, announced when it returns."""
    inner = call.function

    def function(task: Task, *arguments: int) -> int | None:
        shown = ", ".join(
            argument(task, kind, value) for kind, value in zip(call.kinds, arguments, strict=True)
        )
        result: int | None = None
        try:
            result = inner(task, *arguments)
        except MemoryFault:
            result = -14
            raise
        except OSError as error:
            result = -(error.errno or 14)
            raise
        finally:
            task.process.complain(f"[{task.tid}] {call.name}({shown}) = {outcome(result)}")
        return result

    return Call(call.name, call.kinds, function)


def outcome(result: int | None) -> str:
    """A result the way a reader wants it: error names, large numbers in hexadecimal."""
    if result is None:
        return "?"
    if -4096 < result < 0:
        return f"-1 {errorcode.get(-result, str(-result))} ({os.strerror(-result)})"
    return hex(result) if result > 0xFFFFFF else str(result)


def argument(task: Task, kind: str, value: int) -> str:
    """One argument by its kind."""
    if kind in ("path", "link", "name*", "target*"):
        try:
            text = task.space.read_cstring(value, LONGEST_TEXT)
        except MemoryFault:
            return hex(value)
        if text is None:
            return repr(task.space.read_some(value, LONGEST_TEXT))[1:] + "..."
        return repr(text)[1:]
    if kind.endswith("*"):
        return hex(value) if value else "NULL"
    if kind in ("at", "fd"):
        signed = (value & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
        return "AT_FDCWD" if signed == -100 else str(signed)
    if kind.endswith("flags") or kind in ("prot", "addr", "request", "mode"):
        return hex(value)
    return str(value - (1 << 64) if value >> 63 else value)
