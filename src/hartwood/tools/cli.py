"""Every command but `run`: typer reads the words, the rooms do the work.

`run` is declared here too, so that `hartwood --help` shows it, and handed to `tools.run`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hartwood.tools import bench, bootwords, disk
from hartwood.tools import run as run_command

app = typer.Typer(
    name="hartwood",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A virtual machine in Python: runs riscv64 Linux programs through LLVM.",
)
guests_app = typer.Typer(help="Get real guests: Debian's riscv64 programs and kernel.")
cache_app = typer.Typer(help="The translated code kept on disk.")
app.add_typer(guests_app, name="guests")
app.add_typer(cache_app, name="cache")
app.add_typer(disk.app, name="disk")
app.add_typer(bench.app, name="bench")


def main(arguments: list[str]) -> int:
    """Run one command; return its exit status: 0, 1 for a failure, 2 for bad usage."""
    return bootwords.ending(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        status = command.main(
            args=arguments or ["--help"], prog_name="hartwood", standalone_mode=False
        )
    except typer.TyperException as error:
        text = " ".join(error.format_message().split())
        sys.stderr.write(f"hartwood: {text} (try --help)\n")
        return error.exit_code
    except typer.Abort:
        return 130
    return status if isinstance(status, int) else 0


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table on a terminal, lines with tabs in a pipe."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


@app.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    help="Run a riscv64 Linux program.",
    short_help="Run a riscv64 Linux program.",
)
def run(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> int:
    """Run a guest program; the words after `run` are parsed by `tools.run`."""
    return run_command.main(arguments or [])


@app.command()
def boot(
    kernel: Annotated[
        Path | None, typer.Option(help="a Linux Image, an ELF file, or raw code")
    ] = None,
    initrd: Annotated[Path | None, typer.Option(help="an initramfs")] = None,
    append: Annotated[str, typer.Option(help="the kernel's command line")] = "console=ttyS0",
    memory: Annotated[str, typer.Option(help="such as 512M or 2G")] = "512M",
    harts: Annotated[int, typer.Option(help="processors, 1 to 8")] = 1,
    bios: Annotated[str, typer.Option(help="firmware to enter in M-mode, or builtin")] = "builtin",
    disk: Annotated[
        list[str] | None,
        typer.Option(
            help="FILE[,format=raw|qcow2][,backing=FILE][,sector=512|4096][,serial=S][,readonly]"
        ),
    ] = None,
    net: Annotated[str, typer.Option(help="user (a network card) or none")] = "none",
    forward: Annotated[
        list[str] | None, typer.Option(help="tcp:HOST:GUEST or udp: a port to the guest's")
    ] = None,
    share: Annotated[
        list[str] | None, typer.Option(help="a folder that the guest mounts as 9p, tag `share`")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, interp or jit")] = "auto",
    until: Annotated[str | None, typer.Option(help="stop when TEXT was on the console")] = None,
    timeout: Annotated[float | None, typer.Option(help="give up after so many seconds")] = None,
    stats: Annotated[Path | None, typer.Option(help="where the counters go as JSON")] = None,
    save_snapshot: Annotated[
        Path | None, typer.Option(help="save there at --until, at --timeout and by Ctrl-A s")
    ] = None,
    load_snapshot: Annotated[
        Path | None, typer.Option(help="go on from there; needs no kernel")
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="guest time is the instruction count")
    ] = False,
) -> int:
    """Boot a kernel, with its console on this terminal (Ctrl-A x leaves, Ctrl-A s saves).

    D=$(dirname $(hartwood guests fetch debian-riscv64 | head -1));
    hartwood boot --kernel $D/Image --initrd $D/initrd
    """
    from hartwood.tools import boot as machine

    return machine.boot(
        machine.Options(
            kernel=kernel, initrd=initrd, append=append, memory=memory, harts=harts, bios=bios,
            disk=disk, net=net, forward=forward, share=share, engine=engine, until=until,
            timeout=timeout, stats=stats, save_snapshot=save_snapshot,
            load_snapshot=load_snapshot, deterministic=deterministic,
        )
    )  # fmt: skip


@guests_app.command("list")
def guests_list() -> None:
    """List the guests that can be fetched, and which are here."""
    from hartwood.guests import GUESTS, location

    rows = [
        [guest.name, "here" if location(guest.name).is_dir() else "", guest.summary]
        for guest in GUESTS.values()
    ]
    _print_table(["name", "", "what it is"], rows)


@guests_app.command("fetch")
def guests_fetch(
    name: Annotated[str, typer.Argument(help="a name from `hartwood guests list`")],
    directory: Annotated[
        Path | None, typer.Option("--dir", help="put it in DIR, not in the user's cache")
    ] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="fetch it even if it is here")] = False,
) -> None:
    """Fetch a guest when it is not here yet, and print its path.

    A bootable one has two, kernel and initrd; one with a disk has that too, and the last line is
    the command that boots it.
    """
    from hartwood.guests import GUESTS, fetch

    if name not in GUESTS:
        raise typer.BadParameter(f"no guest called {name!r}; there are {', '.join(GUESTS)}")
    console = Console(stderr=True)
    with console.status(f"{name}") as status:  # silent when standard error is no terminal
        path = fetch(name, directory, refresh=refresh, say=status.update)
    guest = GUESTS[name]
    for each in [*guest.paths(path), *filter(None, [guest.command(path)])]:
        print(each)


@app.command()
def disasm(file: Annotated[Path, typer.Argument(help="a riscv64 ELF file")]) -> None:
    """Print the code of a riscv64 program or object as assembly."""
    from hartwood.tools.disasm import disassemble

    for line in disassemble(file):
        print(line)


@app.command()
def info() -> None:
    """Say what this build can do: guests, extensions, engines, cache."""
    import platform
    from importlib.metadata import version

    from hartwood.isa.riscv import RISCV
    from hartwood.tools import cache

    used = cache.usage()
    _print_table(
        ["", ""],
        [
            ["hartwood", version("hartwood")],
            ["python", f"{platform.python_version()} on {platform.machine()}"],
            ["llvmlite", version("llvmlite")],
            ["guests", "riscv64 Linux programs (hartwood run)"],
            ["extensions", " ".join(RISCV.extensions)],
            ["engines", " ".join(run_command.ENGINES)],
            ["cache", f"{used.folder} ({_megabytes(used.size)} of {_megabytes(used.limit)})"],
        ],
    )


@cache_app.command("info")
def cache_info() -> None:
    """Say where the translated code is kept and how much of it there is."""
    from hartwood.tools import cache

    used = cache.usage()
    _print_table(
        ["", ""],
        [
            ["folder", str(used.folder)],
            ["size", f"{_megabytes(used.size)} of {_megabytes(used.limit)}"],
            ["files", f"{used.files} for {used.configurations} configurations"],
        ],
    )


@cache_app.command("clear")
def cache_clear() -> None:
    """Remove all translated code; it is made again as it is needed."""
    from hartwood.tools import cache

    print(f"removed {_megabytes(cache.clear())}")


def _megabytes(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
