"""What the scripts of Debian's packages do to a new system, done by the host without running them.

dpkg runs a package's preinst and postinst as root on the machine it is for, which takes minutes
when that is emulated. What those of a small system do is little, and written down here; the scripts
are the source, package by package, for a system that has none of the package yet and no systemd.
"""

from __future__ import annotations

import re
import shlex
import stat

from hartwood.guests.catalog import GuestError
from hartwood.guests.tree import Node, Tree

#: Packages whose scripts have been read, and whose work `configure` does: theirs need not be run.
PACKAGES = frozenset(
    "apt base-files base-passwd bash binutils cpp dash debconf debian-archive-keyring debianutils "
    "dpkg gcc gzip init-system-helpers initscripts insserv libc-bin libc6 libcrypt-dev "
    "libpam-modules libpam-modules-bin libpam-runtime libpam0g libpython3.13-minimal "
    "libreadline8t64 libselinux1 login login.defs mawk netbase passwd python3 python3-minimal "
    "python3.13 python3.13-minimal readline-common sysv-rc sysvinit-core tar tzdata "
    "util-linux".split()
)
_COPIES = {
    "root/.profile": "usr/share/base-files/dot.profile",
    "root/.bashrc": "usr/share/base-files/dot.bashrc",
    "etc/profile": "usr/share/base-files/profile",
    "etc/motd": "usr/share/base-files/motd",
    "etc/nsswitch.conf": "usr/share/libc-bin/nsswitch.conf",
    "etc/inputrc": "usr/share/readline/inputrc",
}
_DIRECTORIES = (
    "mnt srv opt etc/opt var/opt media usr/local/share/man usr/local/bin usr/local/games "
    "usr/local/lib usr/local/libexec usr/local/include usr/local/sbin usr/local/src usr/local/etc "
    "usr/local/lib/python3.13/dist-packages"
)
_LINKS = {
    "etc/dpkg/origins/default": "debian",
    "etc/mtab": "/proc/mounts",
    "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
    "usr/local/man": "share/man",
    "var/lock": "/run/lock",
    "var/run": "/run",
    "var/spool/mail": "../mail",
}
_NOTHING_LOGGED = "(Nothing has been logged yet.)\n"
_FILES = {  # text, permissions, group
    "etc/environment": ("", 0o644, 0),
    "etc/networks": (
        "default\t\t0.0.0.0\nloopback\t127.0.0.0\nlink-local\t169.254.0.0\n\n", 0o644, 0,
    ),
    "etc/python3/debian_config": (
        "[DEFAULT]\n# how to byte-compile (comma separated: standard, optimize)\n"
        "byte-compile = standard\n", 0o644, 0,
    ),
    "etc/security/opasswd": ("", 0o600, 0),
    "etc/subgid": ("", 0o644, 0),
    "etc/subuid": ("", 0o644, 0),
    "var/log/btmp": ("", 0o660, 43),  # utmp
    "var/log/fsck/checkfs": (_NOTHING_LOGGED, 0o640, 4),  # adm
    "var/log/fsck/checkroot": (_NOTHING_LOGGED, 0o640, 4),
    "var/log/lastlog": ("", 0o664, 43),
    "var/log/wtmp": ("", 0o664, 43),
}  # fmt: skip


# What insserv makes of the headers of /etc/init.d; names that are not there are passed over.
_BOOT_SCRIPTS = {
    "S": "S01hostname.sh S01hwclock.sh S01mountkernfs.sh S02udev S03mountdevsubfs.sh "
    "S04checkroot.sh S05checkfs.sh S06checkroot-bootclean.sh S06kmod S07mount-configfs "
    "S07mountall.sh S08mountall-bootclean.sh S09brightness S09mountnfs.sh S09urandom "
    "S10mountnfs-bootclean.sh S11bootmisc.sh",
    "06": "K01brightness K01hwclock.sh K01rc.local K01sendsigs K01udev K01urandom "
    "K02umountnfs.sh K03umountfs K04umountroot",
    "0": "K05halt",
    "1": "S01bootlogs S01killprocs S02single",
    "2345": "S01bootlogs S01rmnologin S02rc.local",
    "6": "K05reboot",
}


def configure(tree: Tree, *, architecture: str) -> None:
    """Do in `tree`, where `PACKAGES` are unpacked, what their scripts would do.

    What a package of a smaller set does not bring is passed over. Raises `GuestError` for packages
    that make no system.
    """
    for path, source in _COPIES.items():
        if source in tree:
            tree.file(path, tree.read(source))
    for path in _DIRECTORIES.split():
        tree.directory(path)
    tree.add("var/mail", Node(stat.S_IFDIR | 0o2775, gid=8))
    for name in ("lock", "run"):  # base-files brings directories
        tree.find("var").children.pop(name, None)
    for path, target in _LINKS.items():
        tree.link(path, target)
    for path, (text, mode, group) in _FILES.items():
        tree.file(path, text.encode(), mode, group)
    tree.file("var/lib/dpkg/arch-native", f"{architecture}\n".encode())
    try:
        for step in (_accounts, _shells, _authentication, _boot_scripts, _alternatives):
            step(tree)
    except (ValueError, LookupError) as error:  # of a file that is not as theirs was
        raise GuestError(f"the packages cannot be configured: {error!r}") from error


def _accounts(tree: Tree) -> None:
    """base-passwd's users and groups, their passwords apart (pwconv(8)); root has none."""
    for name, apart, group in (("passwd", "shadow", 42), ("group", "gshadow", 42)):
        source = f"usr/share/base-passwd/{name}.master"
        if source not in tree:
            return
        shadows, shown = "", ""
        for line in tree.read(source).decode().splitlines():
            user, _, rest = line.split(":", 2)
            shown += f"{user}:x:{rest}\n"
            password = "" if (name, user) == ("passwd", "root") else "*"
            shadows += f"{user}:{password}:" + (":0:99999:7:::\n" if name == "passwd" else ":\n")
        tree.file(f"etc/{name}", shown.encode())
        tree.file(f"etc/{apart}", shadows.encode(), 0o640, group)


def _shells(tree: Tree) -> None:
    """update-shells(8): what packages say is a shell, by each name that it has."""
    template, folder = "usr/share/debianutils/shells", "usr/share/debianutils/shells.d"
    if folder not in tree:
        return
    names = [template, *(f"{folder}/{name}" for name in sorted(tree.find(folder).children))]
    lines = "".join(tree.read(name).decode() for name in names).splitlines()
    shells = [line for line in lines if line.startswith("/")]
    each = dict.fromkeys(name for line in shells for name in (line, _merged(line)))
    text = "".join(f"{name}\n" for name in each)
    tree.file("var/lib/shells.state", text.encode())
    tree.file("etc/shells", f"# /etc/shells: valid login shells\n{text}".encode())


def _merged(path: str) -> str:
    """Where a program really is: /bin is a link to /usr/bin."""
    return f"/usr{path}" if path.startswith("/bin/") else path


def _authentication(tree: Tree) -> None:
    """pam-auth-update(8) for the one profile that is on by default, `unix`, of one module."""
    if "usr/share/pam-configs/unix" not in tree:
        return
    profile = tree.read("usr/share/pam-configs/unix").decode()
    fields = dict(re.findall(r"^([\w-]+):\s*(.*)$", profile, re.MULTILINE))
    for kind in ("auth", "account", "session", "session-noninteractive", "password"):
        word = kind.partition("-")[0]
        module = fields[f"{word.capitalize()}-Initial"]
        saved = f"Module: unix\n{module}\n"
        module += " " * module.endswith(".so")  # what stands between it and no options
        first, more = module.replace("=end", "=1"), ""
        if fields[f"{word.capitalize()}-Type"] == "Additional":
            first, more = "[default=1]\t\t\tpam_permit.so", f"{word}\t{module}\n"
            saved = f"Module: null\n{first}\n{saved}"
        short = kind.replace("-noninteractive", "_nonint")
        text = tree.read(f"usr/share/pam/common-{kind}").decode()
        text = text.replace(f"${short}_primary", f"{word}\t{first}")
        text = text.replace(f"${short}_additional\n", more)
        tree.file(f"etc/pam.d/common-{kind}", text.encode())
        tree.file(f"var/lib/pam/{kind}", saved.encode())
    tree.file("var/lib/pam/seen", b"unix\nmkhomedir\n")


def _boot_scripts(tree: Tree) -> None:
    for levels, names in _BOOT_SCRIPTS.items():
        for level, name in ((level, name) for level in levels for name in names.split()):
            if f"etc/init.d/{name[3:]}" in tree:
                tree.link(f"etc/rc{level}.d/{name}", f"../init.d/{name[3:]}")


def _alternatives(tree: Tree) -> None:
    """update-alternatives(1), as each package's postinst calls it."""
    for package in sorted(PACKAGES):
        path = f"var/lib/dpkg/info/{package}.postinst"
        if path not in tree:
            continue
        for line in tree.read(path).decode(errors="replace").replace("\\\n", " ").splitlines():
            if "update-alternatives" in line and "--install" in line:
                words = shlex.split(line, comments=True)
                _alternative(tree, words[words.index("--install") + 1 :])


def _alternative(tree: Tree, words: list[str]) -> None:
    """One of them: LINK NAME PATH PRIORITY, and --slave LINK NAME PATH for what goes with it."""
    (link, name, path, priority), rest = words[:4], words[4:]
    if path not in tree:  # of another kernel's system
        return
    links, slaves = [(link, name, path)], list[tuple[str, str, str]]()
    while rest[:1] == ["--slave"]:
        slaves.append((rest[1], rest[2], rest[3]))
        rest = rest[4:]
    for link, each, target in [*links, *slaves]:
        if target in tree:
            tree.link(f"etc/alternatives/{each}", target)
            tree.link(link, f"/etc/alternatives/{each}")
    lines = ["auto", words[0], *(line for slave in slaves for line in (slave[1], slave[0])), ""]
    lines += [path, priority, *(slave[2] for slave in slaves), "", ""]
    tree.file(f"var/lib/dpkg/alternatives/{name}", "\n".join(lines).encode())
