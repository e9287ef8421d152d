"""The words of `hartwood boot` where nothing is unusual about them.

typer takes a quarter of a second to load, a tenth of the time that a kernel takes to boot. So what
is plain is read here, and anything else, help and mistakes, by typer: `parse` gives nothing then.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hartwood.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Options with a value, by the name of `cli.boot`'s parameter, and what makes it of a word.
VALUES: dict[str, Callable[[str], object]] = {
    "kernel": Path, "initrd": Path, "append": str, "memory": str, "harts": int, "bios": str,
    "net": str, "engine": str, "until": str, "timeout": float, "stats": Path,
    "save_snapshot": Path, "load_snapshot": Path,
}  # fmt: skip
#: Options that may be given again and again, and one without a value.
LISTS, FLAGS = ("disk", "forward", "share"), ("deterministic",)


def parse(words: list[str]) -> dict[str, object] | None:
    """Arguments of `tools.boot.Options`, or nothing where typer has to look."""
    found: dict[str, object] = {}
    rest = list(words)
    while rest:
        dashes, equals, value = rest.pop(0).partition("=")
        name = dashes.removeprefix("--").replace("-", "_")
        if dashes != "--" + name.replace("_", "-"):
            return None
        if name in FLAGS and not equals:
            found[name] = True
            continue
        if (name not in VALUES and name not in LISTS) or (not equals and not rest):
            return None
        value = value if equals else rest.pop(0)
        if name in LISTS:
            known = found.setdefault(name, [])
            assert isinstance(known, list)
            known.append(value)
            continue
        try:
            found[name] = VALUES[name](value)
        except ValueError:
            return None
    return found


def main(words: list[str]) -> int | None:
    """Boot, and give the exit status; nothing where typer has to look at the words."""
    arguments = parse(words)
    if not arguments:
        return None
    from hartwood.jit import syscode

    # Or all the loading below would come before the compiling.
    interprets = arguments.get("engine") == "interp" or "deterministic" in arguments
    syscode.prepare(learn=not interprets)
    from hartwood.tools import boot

    return ending(lambda: boot.boot(boot.Options(**arguments)))  # type: ignore[arg-type]


def ending(command: Callable[[], int]) -> int:
    """Run a command; its exit status, or that of the error that it ended with, in one line."""
    try:
        return command()
    except Error as error:
        sys.stderr.write(f"hartwood: {error}\n")
        return error.exit_status
    except BrokenPipeError:
        # The reader has gone; what is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
