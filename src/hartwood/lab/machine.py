"""The machine a run was made on: what one has to know to compare its numbers with others.

Read from /proc and /sys of Linux; what is not there is left out.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from pathlib import Path

from hartwood.lab.results import Scalar

_CPU0 = Path("/sys/devices/system/cpu/cpu0")
_FILES = {
    "governor": _CPU0 / "cpufreq/scaling_governor",
    "max_khz": _CPU0 / "cpufreq/cpuinfo_max_freq",
    "no_turbo": Path("/sys/devices/system/cpu/intel_pstate/no_turbo"),
    "smt": Path("/sys/devices/system/cpu/smt/active"),
    "clock_source": Path("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    "aslr": Path("/proc/sys/kernel/randomize_va_space"),
    "huge_pages": Path("/sys/kernel/mm/transparent_hugepage/enabled"),
}
#: What has to agree for two runs to be of one machine.
IDENTITY = ("cpu", "cores", "memory", "machine_id")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def describe() -> dict[str, Scalar]:
    """This machine. `memory` is in MiB; `identity` is a hash of what makes it this one."""
    cpuinfo = _text(Path("/proc/cpuinfo"))
    memory = _field(_text(Path("/proc/meminfo")), "MemTotal").split()
    secret = _text(Path("/etc/machine-id"))
    found: dict[str, Scalar] = {
        "cpu": _field(cpuinfo, "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory": int(memory[0]) >> 10 if memory else 0,
        "kernel": platform.release(),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": platform.python_compiler(),
        "virtual": " hypervisor " in f" {_field(cpuinfo, 'flags')} ",
        "load": round(os.getloadavg()[0], 2),
        # systemd asks that the id itself be shown to nobody: machine-id(5).
        "machine_id": hashlib.sha256(secret.encode()).hexdigest()[:12] if secret else "",
    }
    for name, path in _FILES.items():
        if text := _text(path):
            found[name] = text
    words = "\n".join(str(found[name]) for name in IDENTITY)
    found["identity"] = hashlib.sha256(words.encode()).hexdigest()[:12]
    return found


def revision(folder: Path) -> str:
    """What git calls the tree in `folder`, with "+" behind it where files were changed; "" where
    there is no git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
