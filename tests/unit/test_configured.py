"""Packages configured by the host: Debian's own programs make the same of the same files."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from conftest import unavailable
from hartwood.guests import GuestError
from hartwood.guests.configured import _BOOT_SCRIPTS, PACKAGES, configure
from hartwood.guests.tree import Tree

PASSWD = "root:*:0:0:root:/root:/bin/bash\n_apt:*:42:65534::/nonexistent:/usr/sbin/nologin\n"
GROUP = "root:*:0:\nshadow:*:42:\nutmp:*:43:\n"
# Of libpam-runtime, as far as it matters; the blocks' text is what its own program replaces.
UNIX = """\
Name: Unix authentication
Default: yes
Priority: 256
Auth-Type: Primary
Auth:
\t[success=end default=ignore]\tpam_unix.so nullok try_first_pass
Auth-Initial:
\t[success=end default=ignore]\tpam_unix.so nullok
Account-Type: Primary
Account:
\t[success=end new_authtok_reqd=done default=ignore]\tpam_unix.so
Account-Initial:
\t[success=end new_authtok_reqd=done default=ignore]\tpam_unix.so
Session-Type: Additional
Session:
\trequired\tpam_unix.so
Session-Initial:
\trequired\tpam_unix.so
Password-Type: Primary
Password:
\t[success=end default=ignore]\tpam_unix.so obscure use_authtok try_first_pass yescrypt
Password-Initial:
\t[success=end default=ignore]\tpam_unix.so obscure yescrypt
"""
COMMON = ("auth", "account", "session", "session-noninteractive", "password")


def program(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        unavailable(f"{name} (a part of every Debian)")
    assert path is not None
    return path


def new(files: dict[str, str] | None = None) -> Tree:
    """A tree with what every system has and `files`."""
    tree = Tree(io.BytesIO(), limit=1 << 20)
    tree.directory("usr/bin")
    tree.directory("var/lock")
    tree.directory("var/run")
    tree.link("bin", "usr/bin")
    for path, text in (files or {}).items():
        tree.file(path, text.encode())
    return tree


def configured(files: dict[str, str] | None = None) -> Tree:
    tree = new(files)
    configure(tree, architecture="riscv64")
    return tree


def text(tree: Tree, path: str) -> str:
    return tree.read(path).decode()


def accounts() -> Tree:
    base = "usr/share/base-passwd"
    return configured({f"{base}/passwd.master": PASSWD, f"{base}/group.master": GROUP})


@pytest.mark.parametrize(
    ("checker", "names"), [("pwck", ("passwd", "shadow")), ("grpck", ("group", "gshadow"))]
)
def test_accounts_are_sound(checker: str, names: tuple[str, str], tmp_path: Path) -> None:
    """By the words of passwd's own programs."""
    tree = accounts()
    for name in names:
        (tmp_path / name).write_bytes(tree.read(f"etc/{name}"))
    command = [program(checker), "-r", *(str(tmp_path / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [  # of this machine, which has not their homes
        line for line in (done.stdout + done.stderr).splitlines() if "does not exist" not in line
    ]
    assert [line for line in complaints if "no changes" not in line] == []


def test_only_root_logs_in_and_without_a_password() -> None:
    tree = accounts()
    assert text(tree, "etc/passwd").splitlines() == [
        "root:x:0:0:root:/root:/bin/bash", "_apt:x:42:65534::/nonexistent:/usr/sbin/nologin",
    ]  # fmt: skip
    passwords = [line.split(":")[:2] for line in text(tree, "etc/shadow").splitlines()]
    assert passwords == [["root", ""], ["_apt", "*"]]
    assert text(tree, "etc/group") == GROUP.replace("*", "x")
    assert text(tree, "etc/gshadow") == "root:*::\nshadow:*::\nutmp:*::\n"
    for name in ("shadow", "gshadow"):
        node = tree.find(f"etc/{name}")
        assert (stat.S_IMODE(node.mode), node.uid, node.gid) == (0o640, 0, 42)


def test_shells_are_those_that_update_shells_finds(tmp_path: Path) -> None:
    folder = "usr/share/debianutils/shells"
    files = {
        folder: "# /etc/shells: valid login shells\n/bin/sh\n",
        f"{folder}.d/bash": "/bin/bash\n/usr/bin/bash\n/bin/rbash\n",
        f"{folder}.d/dash": "/usr/bin/dash\n",
    }
    tree = configured(files)
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    for name in ("etc", "usr/bin", "var/lib"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    command = [program("update-shells"), "--root", str(tmp_path)]
    subprocess.run(command, capture_output=True, check=True)
    for name in ("etc/shells", "var/lib/shells.state"):
        theirs = (tmp_path / name).read_text().splitlines()
        assert text(tree, name).splitlines() == list(dict.fromkeys(theirs)), name  # some twice


# As they stand in Debian's scripts; {0} is where the files are.
CALLS = {
    "mawk": (
        'if [ "$1" = "configure" ]; then\n'
        "        update-alternatives --install {0}/bin/awk awk {0}/bin/mawk 5 \\\n"
        "            --slave {0}/man/awk.1.gz awk.1.gz {0}/man/mawk.1.gz \\\n"
        "            --slave {0}/bin/nawk nawk {0}/bin/mawk\nfi\n",
        ["--install", "{0}/bin/awk", "awk", "{0}/bin/mawk", "5",
         "--slave", "{0}/man/awk.1.gz", "awk.1.gz", "{0}/man/mawk.1.gz",
         "--slave", "{0}/bin/nawk", "nawk", "{0}/bin/mawk"],
        ("bin/mawk",),
    ),
    "gcc": (
        "update-alternatives --quiet \\\n    --install {0}/bin/cc cc {0}/bin/gcc 20 \\\n"
        "#\t--slave {0}/man/cc.1.gz cc.1.gz {0}/man/gcc.1.gz\n\nexit 0\n",
        ["--install", "{0}/bin/cc", "cc", "{0}/bin/gcc", "20"],
        ("bin/gcc", "man/gcc.1.gz"),
    ),
    "bash": (
        "update-alternatives --install \\\n  {0}/man/b.7.gz \\\n  b.7.gz \\\n  {0}/man/bash-b.7.gz "
        "\\\n  10 \\\n  || true\n",
        ["--install", "{0}/man/b.7.gz", "b.7.gz", "{0}/man/bash-b.7.gz", "10"],
        ("man/bash-b.7.gz",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("package", CALLS)
def test_alternatives_are_those_of_update_alternatives(package: str, tmp_path: Path) -> None:
    """The same record byte for byte, and the same links."""
    script, words, present = CALLS[package]
    root = tmp_path / "root"
    files = {f"{root}/{name}": "x" for name in present}
    postinst = f"var/lib/dpkg/info/{package}.postinst"
    tree = configured({**files, postinst: script.format(root)})
    for path in [*files, str(root / "bin/x"), str(root / "man/x")]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    for name in ("alt", "admin"):
        (tmp_path / name).mkdir()
    command = [
        program("update-alternatives"), "--altdir", f"{tmp_path}/alt", "--admindir",
        f"{tmp_path}/admin", "--log", "/dev/null", *(word.format(root) for word in words),
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, check=True)
    ours = tree.find("var/lib/dpkg/alternatives").children
    assert sorted(ours) == sorted(os.listdir(tmp_path / "admin"))
    for name in ours:
        theirs = (tmp_path / "admin" / name).read_text()
        assert text(tree, f"var/lib/dpkg/alternatives/{name}") == theirs
    found = {path: node for path, node in tree.paths() if stat.S_ISLNK(node.mode)}
    for link in (tmp_path / "alt").iterdir():
        assert found.pop(f"/etc/alternatives/{link.name}").target == os.readlink(link)
    links = {str(path): os.readlink(path) for path in root.rglob("*") if path.is_symlink()}
    assert {
        path: node.target.replace("/etc/alternatives", f"{tmp_path}/alt")
        for path, node in found.items()
        if path.startswith(str(tmp_path))
    } == links


def test_an_alternative_that_is_not_there_is_none() -> None:
    """initscripts has one for the Hurd."""
    script = "update-alternatives --quiet --install /etc/run run /etc/run.sysv 10\n"
    tree = configured({"var/lib/dpkg/info/initscripts.postinst": script})
    assert "etc/run" not in tree
    assert "var/lib/dpkg/alternatives" not in tree


def test_only_scripts_that_are_known_are_looked_at() -> None:
    script = "update-alternatives --install /usr/bin/a a /usr/bin/b 1\n"
    assert "tool" not in PACKAGES
    tree = configured({"usr/bin/b": "x", "var/lib/dpkg/info/tool.postinst": script})
    assert "usr/bin/a" not in tree


def test_authentication_is_what_pam_auth_update_makes_of_it() -> None:
    """Expected is what Debian's program wrote, run on a system that has these files."""
    files = {"usr/share/pam-configs/unix": UNIX}
    for kind in COMMON:
        short = kind.replace("-noninteractive", "_nonint")
        files[f"usr/share/pam/common-{kind}"] = f"# {kind}\n${short}_primary\n${short}_additional\n"
    tree = configured(files)
    null = "[default=1]\t\t\tpam_permit.so"
    session = f"session\t{null}\nsession\trequired\tpam_unix.so \n"
    assert {kind: text(tree, f"etc/pam.d/common-{kind}") for kind in COMMON} == {
        "auth": "# auth\nauth\t[success=1 default=ignore]\tpam_unix.so nullok\n",
        "account": "# account\naccount\t[success=1 new_authtok_reqd=done default=ignore]\t"
        "pam_unix.so \n",
        "session": f"# session\n{session}",
        "session-noninteractive": f"# session-noninteractive\n{session}",
        "password": "# password\npassword\t[success=1 default=ignore]\tpam_unix.so obscure "
        "yescrypt\n",
    }
    assert text(tree, "var/lib/pam/auth") == (
        "Module: unix\n[success=end default=ignore]\tpam_unix.so nullok\n"
    )
    assert text(tree, "var/lib/pam/session") == (
        f"Module: null\n{null}\nModule: unix\nrequired\tpam_unix.so\n"
    )
    assert text(tree, "var/lib/pam/seen") == "unix\nmkhomedir\n"


def test_boot_scripts_that_are_there_are_linked_to() -> None:
    tree = configured({f"etc/init.d/{name}": "#!/bin/sh\n" for name in ("halt", "rc.local")})
    rcs = {path: node for path, node in tree.paths() if path.startswith("/etc/rc")}
    links = {path: node.target for path, node in rcs.items() if node.target}
    assert links == {
        "/etc/rc0.d/K05halt": "../init.d/halt",
        "/etc/rc0.d/K01rc.local": "../init.d/rc.local",
        "/etc/rc6.d/K01rc.local": "../init.d/rc.local",
        **{f"/etc/rc{level}.d/S02rc.local": "../init.d/rc.local" for level in (2, 3, 4, 5)},
    }
    for path in links:
        assert text(tree, path) == "#!/bin/sh\n"


def test_no_boot_script_stands_twice_in_a_level() -> None:
    for level in "0123456S":
        names = [
            name[3:]
            for levels, listed in _BOOT_SCRIPTS.items()
            if level in levels
            for name in listed.split()
        ]
        assert len(names) == len(set(names)), level


def test_files_and_directories_of_a_new_system() -> None:
    tree = configured({"usr/share/base-files/dot.profile": "mine\n", "srv/kept": "kept\n"})
    assert text(tree, "root/.profile") == "mine\n"
    assert "root/.bashrc" not in tree  # nobody brought it
    assert text(tree, "srv/kept") == "kept\n"
    assert tree.find("var/run", follow=False).target == "/run"
    assert tree.find("var/lock", follow=False).target == "/run/lock"
    assert text(tree, "var/lib/dpkg/arch-native") == "riscv64\n"
    for path, mode, group in (
        ("var/mail", stat.S_IFDIR | 0o2775, 8),
        ("var/log/btmp", stat.S_IFREG | 0o660, 43),
        ("var/log/fsck/checkfs", stat.S_IFREG | 0o640, 4),
        ("etc/security/opasswd", stat.S_IFREG | 0o600, 0),
        ("usr/local/share/man", stat.S_IFDIR | 0o755, 0),
    ):
        node = tree.find(path)
        assert (node.mode, node.uid, node.gid) == (mode, 0, group), path


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("usr/share/base-passwd/passwd.master", "root\n"),
        ("usr/share/base-passwd/group.master", "\xff:\n"),
        ("usr/share/pam-configs/unix", "Name: of nothing\n"),
        ("var/lib/dpkg/info/mawk.postinst", "update-alternatives --install 'open\n"),
        ("var/lib/dpkg/info/mawk.postinst", "update-alternatives --install a b\n"),
        ("var/lib/dpkg/info/mawk.postinst", "update-alternatives --install a b bin 1 --slave c\n"),
        ("var/lib/dpkg/info/mawk.postinst", "update-alternatives x--installed\n"),
        ("var/lib/dpkg/info/mawk.postinst", "update-alternatives --install ../../a b bin 1\n"),
        ("etc/localtime/file", "where a link has to be"),
    ],
)
def test_files_that_are_not_as_they_were_are_a_line(path: str, content: str) -> None:
    with pytest.raises(GuestError) as caught:
        configured({"usr/share/base-passwd/passwd.master": PASSWD, path: content})
    assert "\n" not in str(caught.value)
