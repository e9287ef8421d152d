"""Guests from Debian's archive for real: signatures checked, an old keyring renewed, no root."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hartwood.guests import GUESTS, GuestError, catalog, fetch
from hartwood.guests.bootable import MARKER
from hartwood.guests.packages import KEYRING, Apt
from system.running import run

Oracle = Callable[[str], str]


@pytest.fixture
def apt(oracle: Oracle, tmp_path: Path) -> Apt:
    oracle("apt-get")
    if not KEYRING.exists():
        pytest.skip(f"missing: {KEYRING} (package debian-archive-keyring)")
    return Apt.of_machine(tmp_path / "apt", suite=catalog.SUITE, architecture="riscv64")


def test_busybox_is_fetched_and_is_for_riscv64(
    oracle: Oracle, tmp_path: Path, hartwood_command: list[str]
) -> None:
    oracle("apt-get")
    done = run([*hartwood_command, "guests", "fetch", "riscv64-busybox", "--dir", tmp_path])
    assert done.status == 0, done.err
    path = Path(done.out.decode().strip())
    assert path.is_relative_to(tmp_path)
    assert path.read_bytes()[18:20] == (243).to_bytes(2, "little")  # e_machine: EM_RISCV
    stamp = json.loads((tmp_path / "riscv64-busybox" / catalog.STAMP).read_text())
    assert len(stamp["archives"]) == 1


def test_dependencies_come_along(apt: Apt) -> None:
    apt.update()
    names = {archive.name.partition("_")[0] for archive in apt.download(["lua5.4"])}
    assert {"lua5.4", "libc6", "libreadline8t64"} <= names


def test_the_machines_package_lists_are_left_alone(apt: Apt) -> None:
    lists = Path("/var/lib/apt/lists")
    before = sorted((path.name, path.stat().st_mtime_ns) for path in lists.glob("*"))
    apt.update()
    assert sorted((path.name, path.stat().st_mtime_ns) for path in lists.glob("*")) == before


def test_an_unknown_key_is_refused(apt: Apt, tmp_path: Path) -> None:
    empty = tmp_path / "empty.gpg"
    empty.touch()
    apt.keyring = empty
    with pytest.raises(GuestError, match=r"NO_PUBKEY|not signed"):
        apt.update()


def test_a_machine_older_than_the_suite_gets_its_keys_through_its_own_release(
    apt: Apt, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Apt._update

    def refuse(self: Apt) -> None:
        if self is apt and self.keyring == KEYRING:
            raise GuestError("apt-get: NO_PUBKEY 0123456789ABCDEF")
        update(self)

    monkeypatch.setattr(Apt, "_update", refuse)
    apt.update()
    assert apt.keyring != KEYRING
    assert apt.keyring.is_relative_to(apt.folder)
    assert apt.keyring.read_bytes()


def test_an_unknown_package_is_named(apt: Apt) -> None:
    apt.update()
    with pytest.raises(GuestError, match="no-such-package"):
        apt.download(["no-such-package"])


def test_the_sysroot_runs_under_the_oracle(oracle: Oracle) -> None:
    qemu = oracle("qemu-riscv64")
    root = fetch("riscv64-sysroot")
    for program in ("bash", "perl", "python3", "sqlite3"):
        path = root / "usr/bin" / program
        done = subprocess.run(
            [qemu, "-L", root, path, "--version"], capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr


def test_another_machine_boots_the_kernel_and_runs_what_it_is_told(
    guest: Callable[[str], Path], oracle: Callable[[str], str]
) -> None:
    """That the guest itself is sound: kernel, initramfs, init."""
    folder = guest("debian-riscv64")
    kernel, initrd = GUESTS["debian-riscv64"].paths(folder)
    command = [
        oracle("qemu-system-riscv64"), "-M", "virt", "-m", "256", "-nographic", "-no-reboot",
        "-kernel", str(kernel), "-initrd", str(initrd),
        "-append", "quiet console=ttyS0 -- uname -m && false",
    ]  # fmt: skip
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=170, check=False
    )
    lines = done.stdout.decode(errors="replace").replace("\r", "").splitlines()
    assert [line for line in lines if line.startswith(("hartwood", "riscv64"))] == [
        MARKER,
        "riscv64",
        "hartwood: status 1",
    ]
    assert done.returncode == 0
