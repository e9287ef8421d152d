"""Debian's kernel booted here and under QEMU, and what its user space then does, in turns:
`python -m bench.machine [TURNS [WORD]]`, only the work with WORD in its name (none for "boot").
Times are the host's, between lines on the console.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from hartwood.guests import GUESTS, fetch
from hartwood.guests.bootable import MARKER

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
SECONDS = 900


def commands(work: dict[str, str], memory: str = "512M") -> dict[str, list[str]]:
    """The words of each machine: the same kernel, initramfs and command line, one processor."""
    kernel, initrd = map(str, GUESTS["debian-riscv64"].paths(fetch("debian-riscv64")))
    steps = "; ".join(f"echo begin {n}; ({step}) 2>/dev/null; echo end {n}" for n, step in
                      enumerate(work.values()))  # fmt: skip
    append = f'quiet console=ttyS0 -- "{steps or "true"}"'
    ours = [sys.executable, "-m", "hartwood", "boot", "--kernel", kernel, "--initrd", initrd]
    theirs = ["qemu-system-riscv64", "-M", "virt", "-nographic", "-no-reboot", "-m", memory]
    return {
        "hartwood": [*ours, "--append", append, "--memory", memory],
        "qemu": [*theirs, "-kernel", kernel, "-initrd", initrd, "-append", append],
    }


def run(names: list[str], words: list[str], cache: str) -> dict[str, float]:
    """Seconds to the first user process, and of each piece of work."""
    found, begin = dict[str, float](), time.perf_counter()
    environment = {**os.environ, "HARTWOOD_CACHE": cache}
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment
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
    work = {name: step for name, step in WORK.items() if word in name}
    times: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns):
            for name, words in commands(work).items():
                rounds = [("cold", f"{folder}/{turn}"), ("warm", f"{folder}/{turn}")]
                for state, cache in rounds if name == "hartwood" else [("", folder)]:
                    for what, seconds in run(list(work), words, cache).items():
                        times.setdefault(what, {}).setdefault(f"{name} {state}".strip(), []).append(
                            seconds
                        )
            shutil.rmtree(f"{folder}/{turn}", ignore_errors=True)
    print("| | qemu | hartwood cold | warm | cold / qemu | warm / qemu |")
    print("| --- | --- | --- | --- | --- | --- |")
    for what, arms in times.items():
        qemu, cold, warm = (
            statistics.median(arms[arm]) for arm in ("qemu", "hartwood cold", "hartwood warm")
        )
        print(
            f"| {what} | {qemu:.2f} | {cold:.2f} | {warm:.2f} | {cold / qemu:.2f} | "
            f"{warm / qemu:.2f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(int([*sys.argv, "2"][1]), "".join(sys.argv[2:3])))
