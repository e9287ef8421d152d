"""`make demo`: get a real riscv64 program, run it, say what happened and how fast.

The guest is Debian's; where there is no Debian package client, one is built from this repository's
source, and that is said.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from hartwood.guests import GuestError, fetch

ROOT = Path(__file__).resolve().parents[1]
HARTWOOD = [str(Path(sys.executable).parent / "hartwood"), "run"]
ROUNDS = "250"


def main() -> int:
    """Run the demonstration; return 1 when the guest went wrong."""
    try:
        root = fetch("riscv64-sysroot", say=lambda text: print(f"demo: {text}", flush=True))
    except GuestError as error:
        print(f"demo: Debian's programs cannot be had ({error})")
        return built_here()
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
