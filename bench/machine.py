"""Debian's kernel booted here and under QEMU, and what its user space then does, in turns:
`python -m bench.machine [TURNS [WORD]]`, only the work with WORD in its name (none for "boot").
Times are the host's, between lines on the console. The programs of `make bench` that are one file
of C are work too ("kernel ..."), a third as much of it.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.programs import FLAGS, PROGRAMS, Program
from bench.programs import GUESTS as SOURCES
from guests.build import build
from hartwood.guests import GUESTS, fetch
from hartwood.guests.bootable import MARKER
from hartwood.guests.initramfs import Initramfs

#: Work of a busybox shell by name.
WORK = {
    "shell loop": "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done",
    "fork and exec x500": "i=0; while [ $i -lt 500 ]; do /bin/busybox true; i=$((i+1)); done",
    "sha256sum of 64 MB": "head -c 67108864 /dev/zero | sha256sum",
    "gzip of 16 MB": "head -c 4194304 /bin/busybox > /tmp/a; cat /tmp/a /tmp/a /tmp/a /tmp/a"
    " /tmp/a /tmp/a /tmp/a /tmp/a /tmp/a /tmp/a | head -c 16777216 | gzip -1 | wc -c",
    "console, 1 MB": "head -c 786432 /bin/busybox | base64",
}
BOOT = "first user process"
KERNELS = {f"kernel {one.name}": one for one in PROGRAMS if one.source.endswith(".c")}
SECONDS = 900


def words(program: Program) -> str:
    """What a shell in the guest is told to run a program of `make bench`."""
    rounds = program.rounds - 2 if program.name == "fib" else program.rounds // 3
    return " ".join([f"/bench/{program.source.removesuffix('.c')}", str(rounds), *program.words])


def archive(work: dict[str, str], base: Path, whole: Path) -> None:
    """Write an initramfs: `base`, and another archive behind it with programs and the `work` (the
    kernel unpacks one after the other)."""
    made = Initramfs()
    steps = (f"echo begin {n}; ({step}) 2>/dev/null; echo end {n}\n" for n, step in
             enumerate(work.values()))  # fmt: skip
    made.files({"bench/work": "".join(steps).encode()})
    for source in sorted({KERNELS[name].source for name in work if name in KERNELS}):
        program = build(SOURCES / source, FLAGS).read_bytes()
        made.file(f"bench/{source.removesuffix('.c')}", program, 0o755)
    whole.write_bytes(base.read_bytes() + made.archive())


def commands(work: dict[str, str], folder: str, memory: str = "512M") -> dict[str, list[str]]:
    """The words of each machine: the same kernel, initramfs and command line, one processor."""
    kernel, base = GUESTS["debian-riscv64"].paths(fetch("debian-riscv64"))
    initrd = f"{folder}/initrd"
    archive(work, base, Path(initrd))
    append = "quiet console=ttyS0 -- sh /bench/work"
    ours = [sys.executable, "-m", "hartwood", "boot", "--kernel", str(kernel), "--initrd", initrd]
    theirs = ["qemu-system-riscv64", "-M", "virt", "-nographic", "-no-reboot", "-m", memory]
    return {
        "hartwood": [*ours, "--append", append, "--memory", memory],
        "qemu": [*theirs, "-kernel", str(kernel), "-initrd", initrd, "-append", append],
    }


def run(names: list[str], command: list[str], cache: str) -> dict[str, float]:
    """Seconds to the first user process, and of each piece of work."""
    found, begin = dict[str, float](), time.perf_counter()
    environment = {**os.environ, "HARTWOOD_CACHE": cache}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment
    ) as machine:
        assert machine.stdout is not None
        started = 0.0
        for line in machine.stdout:
            now, text = time.perf_counter() - begin, line.decode(errors="replace").strip()
            kind, _, number = text.partition(" ")
            if text == MARKER:
                found[BOOT] = now
            elif kind == "begin":
                started = now
            elif kind == "end":
                found[names[int(number)]] = now - started
    return found


def main(turns: int, word: str) -> int:
    """Print a table of medians and ratios."""
    everything = WORK | {name: words(program) for name, program in KERNELS.items()}
    work = {name: step for name, step in everything.items() if word in name}
    times: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        machines = commands(work, folder)
        for turn in range(turns):
            for name, command in machines.items():
                rounds = [("cold", f"{folder}/{turn}"), ("warm", f"{folder}/{turn}")]
                for state, cache in rounds if name == "hartwood" else [("", folder)]:
                    for what, seconds in run(list(work), command, cache).items():
                        times.setdefault(what, {}).setdefault(f"{name} {state}".strip(), []).append(
                            seconds
                        )
            shutil.rmtree(f"{folder}/{turn}", ignore_errors=True)
    print("| | qemu | hartwood cold | warm | cold / qemu | warm / qemu |")
    print("| --- | --- | --- | --- | --- | --- |")
    faster: list[float] = []
    for what, arms in times.items():
        qemu, cold, warm = (
            statistics.median(arms[arm]) for arm in ("qemu", "hartwood cold", "hartwood warm")
        )
        print(
            f"| {what} | {qemu:.2f} | {cold:.2f} | {warm:.2f} | {cold / qemu:.2f} | "
            f"{warm / qemu:.2f} |"
        )
        faster += [qemu / warm] if what in work else []
    if faster:
        mean = math.exp(statistics.fmean(map(math.log, faster)))
        print(f"work, geometric mean of {len(faster)}: {mean:.2f} times as fast as qemu, warm")
    return 0


if __name__ == "__main__":
    sys.exit(main(int([*sys.argv, "2"][1]), "".join(sys.argv[2:3])))
