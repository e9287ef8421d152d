"""Debian on a virtio disk: an image of packages that are unpacked and configured by the host.

A package whose scripts nobody has read (see `configured`) is configured by the guest: the initramfs
mounts the disk, has that done once, and starts the disk's init.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hartwood.guests import bootable, configured, ext4, modules
from hartwood.guests.catalog import DISK, INITRD, KERNEL
from hartwood.guests.installed import install
from hartwood.guests.packages import Apt
from hartwood.guests.tree import Tree

SIZE = 1 << 30
LIMIT = 900 << 20  # bytes of files on it
#: Where there is something to configure, the first boot prints these, before it and after it.
BEGUN, DONE = "hartwood: first boot, configuring Debian", "hartwood: Debian is configured"

# What dpkg leaves out now and later; copyright files stay.
_EXCLUDED = ("doc", "info", "lintian", "locale")
_EXCLUDE = rf"^/usr/share/({'|'.join(_EXCLUDED)})/(?!.*/copyright$)"

INIT = f"""#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /disk /sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
root=/dev/vda
for word in $(cat /proc/cmdline); do
  case $word in root=*) root=${{word#root=}} ;; esac
done
ln -s /bin/busybox /sbin/modprobe
{bootable.DEVICES}for module in crc32c_generic ext4; do modprobe -q $module; done
[ ! -e /sys/module/9pnet_virtio ] || modprobe -q 9p
tries=0
until [ -b "$root" ] || [ $tries -eq 100 ]; do tries=$((tries + 1)); usleep 100000; done
if ! mount -t ext4 "$root" /disk; then
  echo "hartwood: cannot mount $root; give the disk with --disk"
  poweroff -f
fi
[ ! -e /etc/resolv.conf ] || cp /etc/resolv.conf /disk/etc
for place in proc sys dev; do mount -o move /$place /disk/$place; done
if [ -e /disk/var/lib/hartwood/first-boot ]; then
  chroot /disk /bin/sh /var/lib/hartwood/first-boot || {{
    echo "hartwood: the first boot failed; this is a shell on the disk"
    setsid cttyhack chroot /disk /bin/sh
  }}
fi
exec switch_root /disk /sbin/init
"""

# dpkg runs a package's preinst before it unpacks, which the host cannot.
_FIRST_BOOT = f"""\
set -e
echo "{BEGUN}"
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
mount -t tmpfs tmpfs /run
cd /var/lib/dpkg/info
for package in @PACKAGES@; do
  for script in "$package.preinst" "$package:@ARCHITECTURE@.preinst"; do
    [ ! -e "$script" ] || DPKG_MAINTSCRIPT_PACKAGE=$package DPKG_MAINTSCRIPT_NAME=preinst \
      DPKG_ROOT= DPKG_MAINTSCRIPT_ARCH=@ARCHITECTURE@ DPKG_ADMINDIR=/var/lib/dpkg \
      "./$script" install
  done
done
cd /
dpkg --force-unsafe-io --configure -a
rm -r /var/lib/hartwood
umount /run
sync
echo "{DONE}"
"""

# With the scripts of package initscripts the login prompt comes after four times as long.
_SYSINIT = """\
#!/bin/sh
# Prepares a system on one disk, mounted by its initramfs, in a few seconds.
# It stands in for the boot scripts of the package initscripts, and runs those of others.
# /etc/inittab has it; with /etc/init.d/rcS there instead, Debian's own run.
export PATH=/usr/sbin:/usr/bin RUNLEVEL=S PREVLEVEL=N
mount -t tmpfs -o nosuid,nodev,mode=755,size=10% tmpfs /run
mkdir -p /run/lock /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=000 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
: > /run/utmp
chmod 1777 /run/lock
chown root:utmp /run/utmp
chmod 664 /run/utmp
hostname -F /etc/hostname
mount -a
swapon -a
own="$(cat /var/lib/dpkg/info/initscripts.list) "
for script in /etc/rcS.d/S*; do
  name=${script#/etc/rcS.d/S??}
  case $own in *"/etc/init.d/$name"[[:space:]]*) ;; *) "$script" start ;; esac
done
"""

_INITTAB = """\
id:2:initdefault:
si::sysinit:/etc/rc.sysinit
~~:S:wait:/sbin/sulogin --force
l0:0:wait:/etc/init.d/rc 0
l1:1:wait:/etc/init.d/rc 1
l2:2:wait:/etc/init.d/rc 2
l6:6:wait:/etc/init.d/rc 6
T0:2:respawn:/sbin/agetty --local-line ttyS0 115200 linux
"""

_FILES = {
    "etc/inittab": _INITTAB,
    "etc/fstab": "/dev/vda / ext4 rw,relatime 0 0\n",
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1 localhost debian\n::1 localhost\n",
    "etc/dpkg/dpkg.cfg.d/hartwood": "".join(
        [f"path-exclude=/usr/share/{name}/*\n" for name in _EXCLUDED]
        + ["path-include=/usr/share/doc/*/copyright\n"]
    ),
}


def make(apt: Apt, packages: tuple[str, ...], folder: Path, say: Callable[[str], None]) -> None:
    """Put `KERNEL`, `INITRD` and `DISK` into `folder`. `apt` has read its index.

    Raises `GuestError`.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="disk-") as work:
        say("fetching Debian's packages")
        archives = apt.download(packages)
        say("fetching Debian's kernel")
        kernel = bootable.kernel(apt, Path(work) / "kernel", folder / KERNEL)
        programs = bootable.busybox(apt, Path(work) / "programs")
        initrd = bootable.initial(programs, INIT, modules.collect(kernel))
        (folder / INITRD).write_bytes(initrd)
        say(f"unpacking {len(archives)} packages to a disk")
        with (Path(work) / "files").open("w+b") as store, (folder / DISK).open("w+b") as image:
            tree = Tree(store, limit=LIMIT)
            unpacked = install(
                archives, tree, architecture=apt.architecture, exclude=_EXCLUDE,
                settled=configured.PACKAGES,
            )  # fmt: skip
            configured.configure(tree, architecture=apt.architecture)
            complete(tree, unpacked, architecture=apt.architecture)
            names = "".join(archive.name for archive in archives)
            identity = hashlib.sha256(names.encode()).digest()[:16]
            ext4.write(image, tree, SIZE, label="debian", uuid=identity)


def complete(tree: Tree, unpacked: Sequence[str], *, architecture: str) -> None:
    """Add what makes packages a system: its few settings, and what its first boot does about those
    that are `unpacked` only."""
    for path, text in _FILES.items():
        tree.file(path, text.encode())
    tree.file("etc/rc.sysinit", _SYSINIT.encode(), 0o755)
    if unpacked:
        script = _FIRST_BOOT.replace("@PACKAGES@", " ".join(unpacked))
        script = script.replace("@ARCHITECTURE@", architecture)
        tree.file("var/lib/hartwood/first-boot", script.encode(), 0o755)
