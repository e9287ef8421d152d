"""Unpacking packages, the machine's mirror, the cache of guests: all without a network."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hartwood.guests import GUESTS, GuestError, catalog, fetch, location, packages
from hartwood.guests.packages import Apt, machine_mirror, unpack
from unit.debian_archives import make_package, member

Oracle = Callable[[str], str]


@pytest.fixture(autouse=True)
def _dpkg(oracle: Oracle) -> None:
    oracle("dpkg-deb")


def test_unpack_makes_files_links_and_directories(tmp_path: Path) -> None:
    archive = make_package(
        tmp_path,
        [
            member("./", tarfile.DIRTYPE),
            member("./lib/", tarfile.DIRTYPE),
            member("./lib/real.so", mode=0o755),
            member("./usr/share/doc/a/b", mode=0o4711),
            member("./usr/lib/hard.so", tarfile.LNKTYPE, "./lib/real.so"),
            member("./etc/absolute", tarfile.SYMTYPE, "/usr/lib/real.so"),
            member("./usr/lib/deep/up", tarfile.SYMTYPE, "/etc/absolute"),
            member("./usr/lib/relative", tarfile.SYMTYPE, "real.so"),
        ],
    )
    tree = tmp_path / "tree"
    unpack([archive], tree)
    assert os.readlink(tree / "lib") == "usr/lib"
    assert (tree / "usr/lib/real.so").read_bytes() == b"text"
    assert stat.S_IMODE((tree / "usr/lib/real.so").stat().st_mode) == 0o755
    assert stat.S_IMODE((tree / "usr/share/doc/a/b").stat().st_mode) == 0o711
    assert (tree / "usr/lib/hard.so").samefile(tree / "usr/lib/real.so")
    assert os.readlink(tree / "etc/absolute") == "../usr/lib/real.so"
    assert (tree / "usr/lib/deep/up").resolve() == (tree / "usr/lib/real.so").resolve()
    assert (tree / "usr/lib/relative").read_bytes() == b"text"


def test_unpack_leaves_out_devices_and_the_hosts_directories(tmp_path: Path) -> None:
    archive = make_package(
        tmp_path,
        [
            member("./dev/", tarfile.DIRTYPE),
            member("./proc/", tarfile.DIRTYPE),
            member("./tmp/x"),
            member("./etc/fifo", tarfile.FIFOTYPE),
            member("./etc/zero", tarfile.CHRTYPE),
        ],
    )
    unpack([archive], tmp_path / "tree")
    names = {str(path.relative_to(tmp_path / "tree")) for path in (tmp_path / "tree").rglob("*")}
    assert names == {"bin", "etc", "lib", "sbin", "usr", "usr/bin", "usr/lib", "usr/sbin"}


def test_unpack_refuses_a_member_outside(tmp_path: Path) -> None:
    archive = make_package(tmp_path, [member("./../../escaped")])
    with pytest.raises(GuestError, match="points outside"):
        unpack([archive], tmp_path / "deep" / "tree")
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("damage", [0, 9, 70, 140, 200, 260])
def test_unpack_refuses_a_damaged_archive(tmp_path: Path, damage: int) -> None:
    archive = make_package(tmp_path, [member("./usr/lib/a")])
    data = bytearray(archive.read_bytes())
    data = (
        data[: len(data) - 40] if damage == 0 else data[:damage] + b"\xff" * 8 + data[damage + 8 :]
    )
    archive.write_bytes(data)
    try:
        unpack([archive], tmp_path / "tree")
    except GuestError as error:
        assert "made_1_all.deb" in str(error)
    else:  # dpkg-deb does not look at the byte that was changed
        assert (tmp_path / "tree/usr/lib/a").read_bytes() == b"text"


def test_unpack_replaces_what_an_earlier_package_left(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    unpack([make_package(tmp_path, [member("./etc/a", tarfile.SYMTYPE, "/etc/b")])], tree)
    unpack([make_package(tmp_path, [member("./etc/a")], b"second")], tree)
    assert not (tree / "etc/a").is_symlink()
    assert (tree / "etc/a").read_bytes() == b"second"


@pytest.mark.parametrize(
    ("listing", "mirror"),
    [
        ("Packages http://a/debian-security/\nPackages http://a/debian/", "http://a/debian/"),
        ("Sources http://a/debian/\nPackages http://b/x/debian", "http://b/x/debian"),
    ],
)
def test_the_mirror_is_the_machines(
    listing: str, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARTWOOD_DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(packages, "_output", lambda *command: listing)
    assert machine_mirror() == mirror


def test_no_mirror_is_an_error_that_says_how_to_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARTWOOD_DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(packages, "_output", lambda *command: "Packages http://a/ubuntu/")
    with pytest.raises(GuestError, match="set HARTWOOD_DEBIAN_MIRROR"):
        machine_mirror()
    monkeypatch.setenv("HARTWOOD_DEBIAN_MIRROR", "file:/mine")
    assert machine_mirror() == "file:/mine"


def test_no_apt_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(GuestError, match="apt-get is needed"):
        Apt.of_machine(tmp_path, suite="trixie", architecture="riscv64")


def test_a_guest_says_what_it_consists_of_and_how_a_disk_is_booted(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    names = {name: [path.name for path in guest.paths(folder)] for name, guest in GUESTS.items()}
    assert names["debian-riscv64"] == ["Image", "initrd"]
    assert names["debian-riscv64-disk"] == ["Image", "initrd", "disk.img"]
    assert GUESTS["riscv64-busybox"].paths(folder) == [folder]
    words = shlex.split(GUESTS["debian-riscv64-disk"].command(folder))
    assert words == [
        "hartwood", "boot", "--kernel", f"{folder}/Image", "--initrd", f"{folder}/initrd",
        "--disk", f"{folder}/disk.img,format=raw", "--append", "root=/dev/vda rw console=ttyS0",
    ]  # fmt: skip
    assert not GUESTS["debian-riscv64"].command(folder)


def test_location_follows_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert location("riscv64-busybox") == tmp_path / "hartwood/guests/riscv64-busybox"
    assert location("riscv64-busybox", Path("/elsewhere")) == Path("/elsewhere/riscv64-busybox")
    with pytest.raises(GuestError, match="no guest called 'x'; there are riscv64-busybox"):
        location("x")


class FakeApt:
    """Stands in for the network: counts, and gives one package."""

    made = 0

    def __init__(self, archive: Path) -> None:
        self.archive = archive

    def update(self) -> None: ...

    def download(self, packages: tuple[str, ...], *, dependencies: bool) -> list[Path]:
        FakeApt.made += 1
        return [self.archive]


@pytest.fixture
def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_package(tmp_path, [member("./usr/bin/busybox", mode=0o755)])
    monkeypatch.setattr(Apt, "of_machine", lambda *_, **__: FakeApt(archive))
    FakeApt.made = 0


@pytest.mark.usefixtures("fake_apt")
def test_fetch_makes_a_guest_once(tmp_path: Path) -> None:
    said: list[str] = []
    path = fetch("riscv64-busybox", tmp_path / "guests", say=said.append)
    assert path == tmp_path / "guests/riscv64-busybox/usr/bin/busybox"
    assert path.read_bytes() == b"text"
    assert said
    assert fetch("riscv64-busybox", tmp_path / "guests") == path
    assert FakeApt.made == 1
    fetch("riscv64-busybox", tmp_path / "guests", refresh=True)
    assert FakeApt.made == 2
    assert {entry.name for entry in (tmp_path / "guests").iterdir()} == {
        "riscv64-busybox",
        ".riscv64-busybox.lock",
    }


@pytest.mark.usefixtures("fake_apt")
@pytest.mark.parametrize("stamp", ["", "{", "[]", '{"layout": 0}'])
def test_fetch_makes_a_stale_guest_again(tmp_path: Path, stamp: str) -> None:
    fetch("riscv64-busybox", tmp_path)
    (tmp_path / "riscv64-busybox" / catalog.STAMP).write_text(stamp)
    fetch("riscv64-busybox", tmp_path)
    assert FakeApt.made == 2


@pytest.mark.usefixtures("fake_apt")
def test_a_failed_fetch_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise GuestError("damaged")

    monkeypatch.setattr(packages, "unpack", fail)
    with pytest.raises(GuestError, match="damaged"):
        fetch("riscv64-busybox", tmp_path / "guests")
    assert [entry.name for entry in (tmp_path / "guests").iterdir()] == [".riscv64-busybox.lock"]


def test_an_unusable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GuestError, match="file"):
        fetch("riscv64-busybox", tmp_path / "file")


def test_every_guest_names_packages_and_an_architecture() -> None:
    for name, guest in GUESTS.items():
        assert name == guest.name
        assert guest.packages
        assert guest.architecture in ("riscv64", "amd64")


def test_apt_complaints_become_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complain(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            command, 100, "", "noise\nE: Unable to locate package x\n"
        )

    monkeypatch.setattr(subprocess, "run", complain)
    apt = Apt(tmp_path, mirror="m", suite="s", architecture="a", keyring=tmp_path)
    with pytest.raises(GuestError, match=r"^apt-get -qq: E: Unable to locate package x$"):
        apt.download(["x"])
