"""How fast Debian's kernel reads a raw disk of 64 MB here and under QEMU, by its own clock:
`python -m bench.disk`. Machines take turns; each reads the disk three times from its beginning.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

from hartwood.guests import GUESTS, fetch

SIZE, TURNS, SECONDS = 64 << 20, 4, 600
_READ = """echo 3 > /proc/sys/vm/drop_caches; read from rest < /proc/uptime;
dd if=/dev/vda of=/dev/null bs=1M; read to rest < /proc/uptime; echo took $from $to"""
_LOOP = f"for i in 1 2 3; do {_READ}; done; sha256sum /dev/vda".replace("\n", " ")
APPEND = f'quiet console=ttyS0 -- "{_LOOP}"'
#: Of the guest's clock, in seconds with two digits after the point.
_TOOK = re.compile(r"^took ([0-9.]+) ([0-9.]+)$", re.MULTILINE)


def commands(disk: Path) -> dict[str, list[str]]:
    """The words of each machine: the same kernel, initramfs, disk and memory, one processor."""
    kernel, initrd = map(str, GUESTS["debian-riscv64"].paths(fetch("debian-riscv64")))
    files = ["-kernel", kernel, "-initrd", initrd, "-append", APPEND]
    drive = f"file={disk},format=raw,if=none,id=d,readonly=on"
    return {
        "hartwood": [
            sys.executable, "-m", "hartwood", "boot", *(f"-{word}" if word[0] == "-" else word
            for word in files), "--memory", "256M", "--disk", f"{disk},format=raw,readonly",
        ],
        "qemu": [
            "qemu-system-riscv64", "-M", "virt", "-m", "256", "-nographic", "-no-reboot", *files,
            "-drive", drive, "-device", "virtio-blk-device,drive=d",
        ],
    }  # fmt: skip


def boot(words: list[str], digest: str) -> list[float]:
    """Seconds that each reading took by the guest's clock; what it read has to be right."""
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=True
    )
    text = done.stdout.replace("\r", "")
    assert digest in text, text
    return [float(to) - float(begin) for begin, to in _TOOK.findall(text)]


def measure(turns: int) -> dict[str, list[float]]:
    """Times of every reading by machine."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.write_bytes(Random(1).randbytes(SIZE))
        digest = subprocess.run(["sha256sum", disk], capture_output=True, text=True, check=True)
        for _ in range(turns):
            for name, words in commands(disk).items():
                times = boot(words, digest.stdout.split()[0])
                assert len(times) == 3
                found.setdefault(name, []).extend(times)
                print(name, *(f"{each:.2f}" for each in times), flush=True)
    return found


if __name__ == "__main__":
    medians = {name: statistics.median(times) for name, times in measure(TURNS).items()}
    for name, middle in medians.items():
        print(f"{name}: {SIZE / middle / 1e6:.0f} MB/s (median of {3 * TURNS})")
    print(f"hartwood's time is {medians['hartwood'] / medians['qemu']:.2f} of QEMU's")
