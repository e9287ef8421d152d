"""`hartwood run`: parse its options by hand and hand the guest over.

argparse costs 6 ms of start-up and typer 85, more than a small guest runs.
"""

from __future__ import annotations

import os
import sys
from time import perf_counter

from hartwood.errors import Error

USAGE = "hartwood run [OPTIONS] PROGRAM [ARGS ...]"
HELP = f"""Usage: {USAGE}

  Run a riscv64 Linux program. What follows PROGRAM is the program's own; so are the standard
  streams, the exit status and the signals.

Options:
  --root DIR       look absolute paths up in DIR first: the guest's sysroot
  --engine NAME    auto (default), interp (native interpreter), jit or reference (pure Python)
  --stats FILE     write counters of the run to FILE as one JSON object
  --trace          print each instruction executed to standard error
  --strace         print each system call to standard error
  --env K=V        set K in the guest's environment (may be repeated)
  --argv0 S        what the guest sees as argv[0]
  --help           this text
"""
ENGINES = ("auto", "interp", "jit", "reference")
_VALUED = frozenset({"--root", "--engine", "--stats", "--env", "--argv0"})
_FLAGS = frozenset({"--trace", "--strace"})


class UsageError(Error):
    """The command line cannot be understood; the text says which part and how to mend it."""


class Options:
    """What `hartwood run` was asked to do.

    `env` holds only the additions of `--env`; `argv` starts with argv[0].
    """

    def __init__(self) -> None:
        self.program = ""
        self.argv: list[str] = []
        self.root: str | None = None
        self.engine = "auto"
        self.stats: str | None = None
        self.trace = False
        self.strace = False
        self.env: dict[str, str] = {}
        self.help = False


def parse(arguments: list[str]) -> Options:
    """Read the options of `run`; the first word that is not one is the program.

    Raises `UsageError` for an unknown option, a missing or unusable value, or no program.
    """
    options = Options()
    argv0: str | None = None
    at = 0
    while at < len(arguments):
        word = arguments[at]
        if word == "--":
            at += 1
            break
        if not word.startswith("-") or word == "-":
            break
        at += 1
        name, equals, value = word.partition("=")
        if name in ("-h", "--help"):
            options.help = True
            return options
        if name in _FLAGS:
            if equals:
                raise UsageError(f"option {name} takes no value")
            setattr(options, name[2:], True)
            continue
        if name not in _VALUED:
            raise UsageError(f"unknown option {name}; `hartwood run --help` lists them")
        if not equals:
            if at == len(arguments):
                raise UsageError(f"option {name} needs a value")
            value = arguments[at]
            at += 1
        if name == "--env":
            key, equals, value = value.partition("=")
            if not key or not equals:
                raise UsageError(f"option --env needs KEY=VALUE, not {key!r}")
            options.env[key] = value
        elif name == "--argv0":
            argv0 = value
        elif name == "--engine" and value not in ENGINES:
            raise UsageError(f"unknown engine {value!r}; there are {', '.join(ENGINES)}")
        else:
            setattr(options, name[2:], value)
    if at == len(arguments):
        raise UsageError(f"no program named; usage: {USAGE}")
    options.program = arguments[at]
    options.argv = [options.program if argv0 is None else argv0, *arguments[at + 1 :]]
    if options.root is not None and not os.path.isdir(options.root):
        raise UsageError(f"--root {options.root}: no such directory")
    return options


def main(arguments: list[str]) -> int:
    """Run a guest program and return its exit status; die by the signal it died by.

    2 means that the command line or the program file was unusable, said in one line on stderr.
    """
    try:
        options = parse(arguments)
        if options.help:
            sys.stdout.write(HELP)
            return 0
        from hartwood.linux import Process

        process = Process(
            options.program,
            options.argv,
            env={**os.environ, **options.env},
            root=options.root,
            engine=options.engine,
            stats=options.stats,
            trace=options.trace,
            strace=options.strace,
        )
        started = perf_counter()
        status = process.run()
        if options.stats is not None:
            from hartwood.tools import stats

            stats.write(options.stats, process, started)
    except Error as error:
        sys.stderr.write(f"hartwood: {error}\n")
        return 2
    if status < 0:
        _die_by(-status)
    return status


def _die_by(signo: int) -> None:
    """End this process by signal `signo`, so that whoever waits sees what the guest did."""
    import signal

    signal.signal(signo, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signo])
    os.kill(os.getpid(), signo)
