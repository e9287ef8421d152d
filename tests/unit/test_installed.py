"""Debian systems of packages: dpkg's own programs read the database back."""

from __future__ import annotations

import hashlib
import io
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hartwood.guests import GuestError
from hartwood.guests.installed import CONTROL_LIMIT, DATABASE, install
from hartwood.guests.tree import Tree
from unit.debian_archives import control_of, make_package, member

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _dpkg(oracle: Callable[[str], str]) -> None:
    oracle("dpkg-deb")


def installed(*archives: Path, exclude: str = "", limit: int = MIB) -> Tree:
    tree = Tree(io.BytesIO(), limit=limit)
    install(archives, tree, architecture="riscv64", exclude=exclude)
    return tree


def one(folder: Path, *members: tarfile.TarInfo, content: bytes = b"text") -> Tree:
    control = {"control": control_of("made")}
    return installed(make_package(folder, members, content, control=control))


def database(tree: Tree, folder: Path) -> Path:
    """The database as a directory, for dpkg's programs."""
    for path, node in tree.paths():
        if path.startswith(f"/{DATABASE}"):
            place = folder / path[len(DATABASE) + 2 :]
            if node.is_directory:
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.write_bytes(tree.read(path))
    return folder


def dpkg(program: str, admin: Path, *words: str) -> str:
    command = [program, f"--admindir={admin}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert not done.stderr, done.stderr
    return done.stdout


def test_dpkg_reads_what_is_registered(tmp_path: Path) -> None:
    library = make_package(
        tmp_path,
        [
            member("./", tarfile.DIRTYPE, mode=0o755),
            member("./usr/", tarfile.DIRTYPE, mode=0o755),
            member("./usr/lib/x.so"),
        ],
        control={
            "control": control_of("library", "Multi-Arch: same"),
            "triggers": b"# a comment\nactivate-noawait ldconfig\n",
            "shlibs": b"x\n",
        },
        name="library",
    )
    program = make_package(
        tmp_path,
        [member("./etc/program.conf"), member("./usr/bin/program", mode=0o755)],
        b"setting\n",
        control={
            "control": control_of("program", "Depends: library"),
            "conffiles": b"/etc/program.conf\nremove-on-upgrade /etc/gone\n",
            "postinst": b"#!/bin/sh\n",
            "triggers": b"interest-noawait /usr/lib\ninterest ldconfig\ninterest-await /opt # x\n",
        },
        name="program",
    )
    tree = installed(library, program)
    admin = database(tree, tmp_path / "admin")
    shown = dpkg("dpkg-query", admin, "-W", "-f", "${binary:Package} ${Status} ${Conffiles}\n")
    md5 = hashlib.md5(b"setting\n", usedforsecurity=False).hexdigest()
    assert shown.splitlines() == [
        "library:riscv64 install ok installed ",
        f"program:riscv64 install ok unpacked  /etc/program.conf {md5}",
    ]
    assert dpkg("dpkg-query", admin, "-L", "library:riscv64").split() == [
        "/.", "/usr", "/usr/lib/x.so",
    ]  # fmt: skip
    assert dpkg("dpkg-query", admin, "-S", "*bin/program") == "program:riscv64: /usr/bin/program\n"
    audit = dpkg("dpkg", admin, "--audit").partition("md5sums")[0]  # which neither has
    assert "unpacked but not yet configured" in audit
    assert "library" not in audit
    assert "program" in audit
    assert tree.read(f"{DATABASE}/triggers/File") == b"/usr/lib program/noawait\n/opt program\n"
    assert tree.read(f"{DATABASE}/triggers/ldconfig") == b"program\n"
    assert stat.S_IMODE(tree.find(f"{DATABASE}/info/program.postinst").mode) == 0o755
    assert stat.S_IMODE(tree.find(f"{DATABASE}/info/library:riscv64.shlibs").mode) == 0o644


def test_what_is_settled_is_installed(tmp_path: Path) -> None:
    """The others stay unpacked as far as they have scripts that dpkg runs for a new package."""
    scripts = {"a": "postinst", "b": "preinst", "c": "prerm", "d": "postrm", "e": "postinst"}
    archives = []
    for name, part in scripts.items():
        control = {"control": control_of(f"p{name}"), part: b"x"}
        archives.append(make_package(tmp_path, [], control=control, name=name))
    tree = Tree(io.BytesIO(), limit=MIB)
    left = install(archives, tree, architecture="riscv64", settled={"pa", "c"})
    assert left == ["pb", "pe"]
    admin = database(tree, tmp_path / "admin")
    shown = dpkg("dpkg-query", admin, "-W", "-f", "${Package} ${db:Status-Status}\n")
    assert dict(line.split() for line in shown.splitlines()) == {
        "pa": "installed", "pb": "unpacked", "pc": "installed", "pd": "installed", "pe": "unpacked",
    }  # fmt: skip


def test_files_are_unpacked_with_owners_modes_and_kinds(tmp_path: Path) -> None:
    tree = one(
        tmp_path,
        member("./usr/lib/", tarfile.DIRTYPE, mode=0o755),
        member("./lib", tarfile.SYMTYPE, "usr/lib"),
        member("./lib/real", mode=0o4755, uid=3, gid=42, mtime=99),
        member("./usr/hard", tarfile.LNKTYPE, "./lib/real"),
        member("./etc/absolute", tarfile.SYMTYPE, "/usr/lib/real"),
        member("./dev/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3),
        member("./dev/loop", tarfile.BLKTYPE, mode=0o660, devmajor=7, devminor=1),
        member("./run/pipe", tarfile.FIFOTYPE, mode=0o600),
    )
    real = tree.find("usr/lib/real")
    assert (real.mode, real.uid, real.gid) == (stat.S_IFREG | 0o4755, 3, 42)
    assert real.mtime == 99
    assert tree.find("usr/hard") is real
    assert tree.read("etc/absolute") == b"text"
    assert tree.find("etc/absolute", follow=False).target == "/usr/lib/real"
    assert tree.find("dev/null").mode == stat.S_IFCHR | 0o666
    assert tree.find("dev/null").device == (1, 3)
    assert tree.find("dev/loop").mode == stat.S_IFBLK | 0o660
    assert tree.find("run/pipe").mode == stat.S_IFIFO | 0o600


def test_what_is_left_out_is_known_all_the_same(tmp_path: Path) -> None:
    archive = make_package(
        tmp_path,
        [member("./usr/share/man/a"), member("./usr/share/man/keep"), member("./usr/bin/a")],
        control={"control": control_of("made")},
    )
    tree = installed(archive, exclude="^/usr/share/man/(?!keep)")
    assert set(tree.find("usr/share/man").children) == {"keep"}
    assert b"/usr/share/man/a\n" in tree.read(f"{DATABASE}/info/made.list")


# Hostile packages: nothing may leave the tree, and every fault names the archive.
@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([member("./../../escaped")], "no path"),
        ([member("/../escaped")], "no path"),
        ([member("./usr/../../escaped")], "no path"),
        ([member("./etc/a\nb")], "no path"),
        ([member("x" * 300)], "no path"),
        ([member("./hard", tarfile.LNKTYPE, "../../../etc/shadow")], "no path"),
        ([member("./hard", tarfile.LNKTYPE, "/etc/shadow")], "no such file"),
        ([member("./d/", tarfile.DIRTYPE), member("./h", tarfile.LNKTYPE, "d")], "to a directory"),
        ([member("./a", tarfile.SYMTYPE, "a"), member("./a/b")], "too many symbolic links"),
        ([member("./a", tarfile.SYMTYPE, "x" * 5000)], "symbolic link to nowhere"),
        ([member("./a"), member("./a/b")], "not a directory"),
        ([member("./a", uid=-1)], "owned by nobody"),
        ([member("./a", gid=1 << 32)], "owned by nobody"),
        ([member("a/" * 3000)], "no path"),
        ([member("./a", tarfile.SYMTYPE, "a", linkpath="a\0b")], "symbolic link to nowhere"),
        ([member("./a", tarfile.CHRTYPE, devmajor=1 << 12)], "no numbers for"),
        ([member("./a", tarfile.BLKTYPE, devminor=1 << 20)], "no numbers for"),
        ([member("./a", mtime="inf")], "damaged package"),
        ([member("./a", mtime="nan")], "damaged package"),
    ],
    ids=[
        "up", "absolute up", "up within", "newline", "long name", "hard link up",
        "hard link to the host", "hard link to a directory", "link to itself", "long link",
        "below a file", "negative user", "large group", "long path", "NUL in a link", "major",
        "minor", "infinite time", "no time",
    ],
)  # fmt: skip
def test_a_hostile_member_is_refused(
    members: list[tarfile.TarInfo], complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(GuestError, match=complaint) as caught:
        one(tmp_path / "in", *members)
    assert "made_1_all.deb" in str(caught.value)
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "made_1_all.deb"}


def test_absolute_names_and_links_stay_within(tmp_path: Path) -> None:
    tree = one(
        tmp_path,
        member("/etc/hostile"),
        member("./out", tarfile.SYMTYPE, f"../../../../../..{tmp_path}"),
        member("./out/planted"),
        member("./host", tarfile.SYMTYPE, str(tmp_path)),
        member("./host/planted2"),
    )
    assert tree.read("etc/hostile") == b"text"
    assert tree.read(f"{tmp_path}/planted") == tree.read(f"{tmp_path}/planted2") == b"text"
    assert {path.name for path in tmp_path.iterdir()} == {"made_1_all.deb"}


def test_a_huge_member_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match=r"made_1_all.deb: .*more than 1 MiB of files"):
        one(tmp_path, member("./a"), content=bytes(MIB + 1))
    with pytest.raises(GuestError, match="more than 1 MiB"):  # none is large, their sum is
        one(tmp_path, *(member(f"./{number}") for number in range(5)), content=bytes(MIB // 4))


def test_more_files_than_anybody_needs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hartwood.guests.installed.MEMBERS", 3)
    one(tmp_path, *(member(f"./{number}") for number in range(3)))
    with pytest.raises(GuestError, match=r"made_1_all\.deb: more than 3 files"):
        one(tmp_path, *(member(f"./{number}") for number in range(4)))


def test_a_member_that_ends_early_is_refused(tmp_path: Path) -> None:
    archive = make_package(
        tmp_path, [member("./a")], b"x" * 4000, control={"control": control_of("made")}, cut=2000
    )
    with pytest.raises(GuestError, match=r"made_1_all\.deb"):
        installed(archive)


def test_a_sparse_member_counts_with_its_holes(tmp_path: Path) -> None:
    info = member("./sparse")
    info.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse",
        "GNU.sparse.realsize": str(1 << 50),
    }  # fmt: skip
    # The map of version 1.0: one piece of no bytes at the end.
    with pytest.raises(GuestError, match="more than 1 MiB"):
        one(tmp_path, info, content=b"1\n1125899906842624\n0\n".ljust(512, b"\0"))


@pytest.mark.parametrize(
    ("control", "complaint"),
    [
        ({}, "not a package for riscv64: ''"),
        ({"control": b"\xff\xfe\0"}, "not a package"),
        ({"control": control_of("../../x")}, "not a package for riscv64: '../../x'"),
        ({"control": control_of("a b")}, "not a package"),
        ({"control": control_of("ok", architecture="amd64")}, "'ok', 'amd64'"),
        ({"control": control_of("ok") + b"\nPackage: other\n"}, "more than the one paragraph"),
        ({"control": control_of("ok", "Status: install ok installed")}, "more than the one"),
        ({"control": control_of("ok"), "sub/postinst": b""}, "sub/postinst': no file"),
        ({"control": control_of("ok"), "Post Inst": b""}, "Post Inst': no file"),
        ({"control": control_of("ok"), "md5sums": bytes(CONTROL_LIMIT + 1)}, "md5sums': no file"),
        ({"control": control_of("ok"), "conffiles": b"/etc/absent\n"}, "etc/absent: no such file"),
        ({"control": control_of("ok"), "conffiles": b"/../../etc/shadow\n"}, "no path"),
    ],
    ids=[
        "none", "binary", "traversal", "space", "other architecture", "two", "status",
        "nested", "odd name", "large", "no such conffile", "conffile outside",
    ],
)  # fmt: skip
def test_a_hostile_control_part_is_refused(
    control: dict[str, bytes], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(GuestError, match=complaint) as caught:
        installed(make_package(tmp_path, [], control=control), limit=64 * MIB)
    assert "made_1_all.deb" in str(caught.value)


@pytest.mark.parametrize(
    "triggers",
    [b"interest ../../x\n", b"interest\n", b"interest a b\n", b"\xff\n", b"interest A/B\n"],
    ids=["traversal", "none", "two", "binary", "slash"],
)
def test_odd_triggers_make_no_files(triggers: bytes, tmp_path: Path) -> None:
    control = {"control": control_of("made"), "triggers": triggers}
    tree = installed(make_package(tmp_path, [], control=control))
    assert set(tree.find(f"{DATABASE}/triggers").children) == {"Unincorp"}


@pytest.mark.parametrize("at", [0, 70, 140, 200, 260, 400, -30])
def test_a_damaged_archive_is_refused(at: int, tmp_path: Path) -> None:
    archive = make_package(
        tmp_path, [member("./usr/lib/a")], control={"control": control_of("made")}
    )
    data = bytearray(archive.read_bytes())
    data[at : at + 8] = b"\xff" * 8
    archive.write_bytes(data)
    try:
        tree = installed(archive)
    except GuestError as error:
        assert "made_1_all.deb" in str(error)
    else:  # dpkg-deb does not look at the bytes that were changed
        assert tree.read("usr/lib/a") == b"text"
