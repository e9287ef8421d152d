"""A kernel and an initial file system to boot: Debian's kernel, and busybox around a small init."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from hartwood.guests import modules
from hartwood.guests.catalog import INITRD, KERNEL, GuestError
from hartwood.guests.initramfs import Initramfs
from hartwood.guests.packages import Apt, unpack

#: The init prints this when user space is there.
MARKER = "hartwood: user space is up"
#: Shell that loads the drivers of what is there, and asks for an address where there is a network.
DEVICES = """\
for each in /sys/bus/platform/devices/*.virtio_mmio; do
  [ -e "$each" ] && modprobe -q virtio_mmio
  break
done
for each in /sys/bus/virtio/devices/*/modalias; do
  [ -e "$each" ] && modprobe -q "$(cat "$each")"
done
if [ -e /sys/class/net/eth0 ]; then
  ip link set lo up
  ip link set eth0 up
  udhcpc -q -n -i eth0 -O mtu -s /bin/lease >/dev/null 2>&1 || echo "hartwood: no lease"
fi
"""
#: What stands behind `--` on the kernel's command line is run instead of a shell.
INIT = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /root /usr /sbin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev 2>/dev/null
/bin/busybox --install -s /bin
/bin/ln -s /bin/busybox /sbin/modprobe
export PATH=/bin HOME=/root TERM=${{TERM:-linux}} PS1='# '
{DEVICES}echo "{MARKER}"
if [ $# -gt 0 ]; then
  sh -c "$*"
  echo "hartwood: status $?"
else
  cd /root
  setsid cttyhack sh
fi
sync
# Setting a terminal drains it first (TCSADRAIN): power off takes what was not yet sent.
stty echo 2>/dev/null
poweroff -f
"""

#: What the DHCP client runs (networking/udhcp/README.udhcpc of busybox).
LEASE = """#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip link set "$interface" mtu "${mtu:-1500}"
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
mkdir -p /etc
echo "nameserver $dns" > /etc/resolv.conf
"""


def make(apt: Apt, tree: Path, say: Callable[[str], None]) -> None:
    """Put `KERNEL` and `INITRD` into `tree`. `apt` has read its index. Raises `GuestError`."""
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix="boot-") as work:
        say("fetching Debian's kernel")
        unpacked = kernel(apt, Path(work) / "kernel", tree / KERNEL)
        say("making the initial file system")
        programs = busybox(apt, Path(work) / "programs")
        (tree / INITRD).write_bytes(initial(programs, files=modules.collect(unpacked)))


def kernel(apt: Apt, work: Path, image: Path) -> Path:
    """Unpack Debian's kernel package to `work`, which is returned; its kernel goes to `image`.

    Raises `GuestError`.
    """
    package = _kernel_package(apt)
    unpack(_only(apt, package), work)
    images = sorted((work / "boot").glob("vmlinu[xz]-*"))
    if len(images) != 1:
        raise GuestError(f"{package}: {len(images)} kernels in /boot, not one")
    shutil.copyfile(images[0], image)
    return work


def busybox(apt: Apt, work: Path) -> bytes:
    """Debian's static busybox, by way of `work`."""
    unpack(_only(apt, "busybox-static"), work)
    return (work / "usr/bin/busybox").read_bytes()


def initial(
    busybox: bytes, init: str = INIT, files: Mapping[str, bytes] = MappingProxyType({})
) -> bytes:
    """The archive: a static busybox, `init`, the console that they start on, and more `files`."""
    made = Initramfs()
    for path in ("bin", "dev"):
        made.directory(path)
    made.device("dev/console", 5, 1)
    made.device("dev/null", 1, 3, 0o666)
    made.file("bin/busybox", busybox, 0o755)
    made.file("bin/lease", LEASE.encode(), 0o755)
    made.file("init", init.encode(), 0o755)
    made.files(files)
    return made.archive()


def _kernel_package(apt: Apt) -> str:
    """The package that the suite's newest kernel is in: what `linux-image-riscv64` depends on."""
    meta = f"linux-image-{apt.architecture}"
    archive = _only(apt, meta)[0]
    command = ("dpkg-deb", "--field", str(archive), "Depends")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    names = [part.split()[0] for part in done.stdout.split(",") if part.strip()]
    names = [name for name in names if name.startswith("linux-image-")]
    if done.returncode or len(names) != 1:
        raise GuestError(f"{meta}: does not say which kernel it stands for: {done.stdout.strip()}")
    return names[0]


def _only(apt: Apt, package: str) -> list[Path]:
    """One package's archive, without what it depends on."""
    found = [
        path
        for path in apt.download([package], dependencies=False)
        if path.name.startswith(f"{package}_")
    ]
    if len(found) != 1:
        raise GuestError(f"{package}: apt gave {len(found)} archives, not one")
    return found
