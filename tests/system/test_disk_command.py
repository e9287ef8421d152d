"""`hartwood disk`: what a person types, what is printed, the status; no traceback ever."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hartwood import storage
from hartwood.storage import qcow2_snapshots as snapshots
from hartwood.storage.qcow2 import Qcow2
from hartwood.tools.cli import main
from unit.disk_images import MIB, get, put, run, word


@pytest.fixture
def disk(tmp_path: Path, monkeypatch, capfd):
    """`disk("info", file)` is (status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        status = main(["disk", *map(str, words)])
        said = capfd.readouterr()
        assert status == 0 or said.err.count("\n") <= 1
        return status, said.out, said.err

    return call


def test_as_a_process(hartwood_command: list[str], tmp_path: Path) -> None:
    for words, status in ((["create", "a", "--size", "1M"], 0), (["info", "none"], 2)):
        done = subprocess.run(
            [*hartwood_command, "disk", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (status, "")
        assert done.stderr.count("\n") == (1 if status else 0)


def test_create_and_info(disk, tmp_path: Path) -> None:
    assert disk("create", "a.qcow2", "--size", "1G", "--format", "qcow2") == (0, "", "")
    assert disk("create", "a.raw", "--size", "3M") == (0, "", "")
    assert (tmp_path / "a.raw").stat().st_size == 3 * MIB
    status, out, _ = disk("info", "a.qcow2")
    assert status == 0
    fields = dict(line.split("\t") for line in out.splitlines())
    assert (fields["format"], fields["size"], fields["cluster"]) == ("qcow2", str(1 << 30), "65536")
    assert disk("check", "a.qcow2") == (0, "a.qcow2: 0 corruptions, 0 leaked clusters found\n", "")
    assert disk("check", "a.raw")[:2] == (0, "a.raw: raw, nothing to check\n")


def test_bad_words_are_one_line_and_status_2(disk, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(bytes(512))
    for words, says in (
        (["create", "x"], "--size"),
        (["create", "x", "--size", "many"], "--size many"),
        (["create", "x", "--size", "1000"], "multiple of 512"),
        (["create", "x", "--size", "1M", "--format", "vmdk"], "raw, qcow2"),
        (["create", "there", "--size", "1M"], "there: File exists"),
        (["create", "x", "--backing", "none"], "none: No such file"),
        (["info", "none"], "none: No such file"),
        (["info", "."], "Is a directory"),
        (["check", "there", "--format", "qcow2"], "qcow2"),
        (["convert", "there", "there", "--format", "raw"], "--force"),
        (["migrate", "there", "x", "--sector", "512"], "--sector 512"),
        (["migrate", "there", "there", "--sector", "4096"], "remove it first"),
    ):
        status, out, err = disk(*words)
        assert (status, out) == (2, ""), words
        assert says in err
    assert [each.name for each in tmp_path.iterdir()] == ["there"]


def test_corruption_is_status_1_and_leaks_can_be_mended(disk, tmp_path: Path) -> None:
    path = tmp_path / "d.qcow2"
    disk("create", path, "--size", "1M", "--format", "qcow2")
    with storage.open(path, format="qcow2") as image:
        image.write(0, b"x" * MIB)
        image.discard(0, MIB // 2)
    block = word(path, get(path, "reftable_offset"))
    whole = path.read_bytes()
    free = next(n for n in range(100) if whole[block + 2 * n : block + 2 * n + 2] == b"\0\0")
    put(path, block + 2 * free, 1, ">H")
    status, out, _ = disk("check", path)
    assert (status, "1 leaked" in out) == (0, True)
    assert "1 leaked" in disk("check", path, "--repair")[1]
    assert "0 leaked" in disk("check", path)[1]
    run("qemu-img", "check", path)
    put(path, block, 0, ">H")
    status, out, _ = disk("check", path)
    assert status == 1
    assert "cluster 0x0 is used 1 times, counted 0" in out


def test_a_backing_file_is_shown_and_named(disk, tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"b" * MIB)
    assert disk("create", "over.qcow2", "--backing", "base")[0] == 0
    assert f"backing\t{tmp_path / 'base'} (never opened unasked)" in disk("info", "over.qcow2")[1]
    status, _, err = disk("convert", "over.qcow2", "flat", "--format", "raw")
    assert (status, "backing" in err) == (2, True)
    assert disk("convert", "over.qcow2", "flat", "--format", "raw", "--backing", "base")[0] == 0
    assert (tmp_path / "flat").read_bytes() == b"b" * MIB


def test_info_shows_snapshots_and_does_not_obey_their_names(disk, tmp_path: Path) -> None:
    path = tmp_path / "d.qcow2"
    disk("create", path, "--size", "1M", "--format", "qcow2")
    with Qcow2(str(path)) as image:
        snapshots.create(image, "evil\x1b[2J\nname")
    out = disk("info", path)[1]
    assert "snapshot\t1 evil?[2J?name" in out
    assert "\x1b" not in out


def test_a_raw_disk_that_a_guest_made_look_like_qcow2(disk, tmp_path: Path) -> None:
    path = tmp_path / "guest.raw"
    disk("create", path, "--size", "1M")
    (tmp_path / "q").write_bytes(b"")
    (tmp_path / "q").unlink()
    disk("create", "q", "--size", "1M", "--format", "qcow2")
    head = (tmp_path / "q").read_bytes()
    path.write_bytes(head.ljust(MIB, b"\0"))
    assert disk("convert", path, "out", "--from", "raw", "--format", "raw")[0] == 0
    assert (tmp_path / "out").read_bytes() == path.read_bytes()
    assert "format\traw" in disk("info", path, "--format", "raw")[1]


def test_migrate_says_what_it_found(disk, tmp_path: Path) -> None:
    path = tmp_path / "old"
    with path.open("wb") as file:
        file.truncate(16 * MIB)
    run("sgdisk", "-o", "-n", "1:2048:+8M", "-c", "1:x", path)
    assert disk("migrate", path, "new", "--sector", "4096") == (0, "partition 1 (x): nothing\n", "")
    assert "corrupt" not in run("fdisk", "-b", "4096", "-l", tmp_path / "new")
