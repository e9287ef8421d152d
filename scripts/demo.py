"""`make demo`: boot a real kernel, run a real riscv64 program, say what happened and how fast.

The guests are Debian's; where there is no Debian package client, one is built from this
repository's source, and that is said.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from hartwood.guests import GUESTS, GuestError, fetch

ROOT = Path(__file__).resolve().parents[1]
HARTWOOD = [str(Path(sys.executable).parent / "hartwood"), "run"]
ROUNDS = "250"


def main() -> int:
    """Run the demonstration; return 1 when the guest went wrong."""
    try:
        machine = fetch("debian-riscv64", say=said)
        root = fetch("riscv64-sysroot", say=said)
    except GuestError as error:
        print(f"demo: Debian's kernel and programs cannot be had ({error})")
        return built_here()
    return boots(machine) or runs(root)


def said(text: str) -> None:
    """Progress."""
    print(f"demo: {text}", flush=True)


def boots(machine: Path) -> int:
    """Debian's kernel to a command in user space, and off again; 1 when that went wrong."""
    kernel, initrd = map(str, GUESTS["debian-riscv64"].paths(machine))
    command = "uname -sr; echo $((6 * 7)); cat /proc/cpuinfo | grep mmu"
    append = f"quiet console=ttyS0 -- {command}"
    ours = [HARTWOOD[0], "boot", "--kernel", kernel, "--initrd", initrd, "--append", append]
    peer = [
        "qemu-system-riscv64", "-M", "virt", "-m", "512", "-nographic", "-no-reboot",
        "-kernel", kernel, "-initrd", initrd, "-append", append,
    ]  # fmt: skip
    print("demo: Debian's stock riscv64 kernel boots, runs a command and powers off:")
    for name, words in (("hartwood", ours), (peer[0], peer)):
        if shutil.which(words[0]) is None:
            continue
        begin = time.perf_counter()
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - begin
        lines = done.stdout.replace("\r", "").splitlines()
        said_by_it = [line for line in lines if line.strip() and not line.startswith("[")]
        print(f"  {name:22} {seconds:6.2f} s   {' | '.join(said_by_it[-5:])}", flush=True)
        if done.returncode or "hartwood: status 0" not in lines:
            print(f"demo: status {done.returncode}: {done.stderr.strip()}")
            return 1
    return 0


def runs(root: Path) -> int:
    """A program without a kernel under it, against QEMU's user mode where that is installed."""
    program = str(root / "usr/bin/lua5.4")
    print("demo: Debian's riscv64 lua5.4 sorts, formats, matches text and memoises, unmodified:")
    words = [program, str(ROOT / "bench/guests/work.lua"), ROUNDS]
    arms = {
        "hartwood, first run": [*HARTWOOD, "--root", str(root), *words],
        "hartwood, second run": [*HARTWOOD, "--root", str(root), *words],
    }
    if shutil.which("qemu-riscv64"):
        arms["qemu-riscv64"] = ["qemu-riscv64", "-L", str(root), *words]
    return race(arms)


def built_here() -> int:
    """The same with a guest from the repository's own source, or the reason why not."""
    sys.path.insert(0, str(ROOT / "tests"))
    from guests.build import BuildError, build

    try:
        program = str(build(ROOT / "bench/guests/sha256.c"))
    except (BuildError, OSError) as error:
        print(f"demo: and none can be built: {error}; install gcc-riscv64-linux-gnu")
        return 1
    print("demo: a riscv64 program built from this repository's source hashes 128 MB instead:")
    words = [program, "2000"]
    return race({f"hartwood, {n} run": [*HARTWOOD, *words] for n in ("first", "second")})


def race(arms: dict[str, list[str]]) -> int:
    """Run each command, print what it printed and its seconds; 1 unless all agree."""
    answers = set()
    for name, command in arms.items():
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begin
        print(f"  {name:22} {seconds:6.2f} s   {done.stdout.strip()}", flush=True)
        if done.returncode:
            print(f"demo: status {done.returncode}: {done.stderr.strip()}")
            return 1
        answers.add(done.stdout)
    if len(answers) != 1:
        print("demo: the answers differ")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
