"""Images of file systems, judged by e2fsck and read back by debugfs."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartwood.guests import GuestError, ext4
from hartwood.guests.ext4 import BLOCK, EXTENT, GROUP, INODES, JOURNAL_BLOCKS
from hartwood.guests.tree import Node, Tree

MIB = 1 << 20
SIZE = 24 * MIB
UUID = bytes(range(16))
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # which a user's PATH may lack
LISTED = re.compile(r"\s*(\d+)\s+(\d+) \((\d+)\)\s+(\d+)\s+(\d+)\s+(.*?)\s+\d+-\w+-\d+ \S+ (.+)")


@pytest.fixture(autouse=True)
def _programs(oracle: Callable[[str], str]) -> None:
    for program in ("e2fsck", "debugfs"):
        if shutil.which(program, path=SBIN) is None:
            oracle(program)


def run(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    path = shutil.which(program, path=SBIN)
    assert path is not None
    command = [path, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def write(tree: Tree, path: Path, size: int = SIZE) -> Path:
    with path.open("w+b") as image:
        ext4.write(image, tree, size, label="label", uuid=UUID)
    done = run("e2fsck", "-f", "-n", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Fix" not in done.stdout
    return path


def ask(image: Path, request: str) -> str:
    return run("debugfs", "-R", request, image).stdout


def listing(image: Path, path: str) -> dict[str, tuple[int, int, int, int]]:
    """Name to inode, mode, user and group."""
    found = {}
    for line in ask(image, f'ls -l "{path}"').splitlines():
        if matched := LISTED.fullmatch(line.rstrip()):
            inode, mode, _, user, group, _, name = matched.groups()
            found[name] = int(inode), int(mode, 8), int(user), int(group)
    return found


def new() -> Tree:
    return Tree(io.BytesIO(), limit=300 * MIB)


def test_an_empty_tree_is_a_sound_file_system(tmp_path: Path) -> None:
    image = write(new(), tmp_path / "image")
    assert image.stat().st_size == SIZE
    assert image.stat().st_blocks * 512 < MIB
    assert set(listing(image, "/")) == {".", "..", "lost+found"}
    told = run("debugfs", "-R", "stats -h", image).stdout
    assert "Filesystem volume name:   label" in told
    assert "00010203-0405-0607-0809-0a0b0c0d0e0f" in told
    assert "has_journal" in told
    assert "Total journal blocks" not in told or str(JOURNAL_BLOCKS) in told


def test_owners_modes_times_and_kinds_are_kept(tmp_path: Path) -> None:
    tree = new()
    nodes = {
        "setuid": Node(stat.S_IFREG | 0o4755, 1, 2, 1_700_000_000),
        "sticky": Node(stat.S_IFDIR | 0o1777, 0, 0),
        "group": Node(stat.S_IFDIR | 0o2775, 70_000, 80_000),
        "null": Node(stat.S_IFCHR | 0o666, device=(1, 3)),
        "wide": Node(stat.S_IFBLK | 0o660, 0, 6, device=(259, 1000)),
        "pipe": Node(stat.S_IFIFO | 0o600),
        "old": Node(stat.S_IFREG | 0o644, mtime=-5),
        "new": Node(stat.S_IFREG | 0o644, mtime=1 << 40),
    }
    for path, node in nodes.items():
        tree.add(path, node)
    image = write(tree, tmp_path / "image")
    found = listing(image, "/")
    for path, node in nodes.items():
        assert found[path][1:] == (node.mode, node.uid, node.gid), path
    assert "mtime: 0x6553f100" in ask(image, "stat /setuid")
    assert "major/minor number: 01:03" in ask(image, "stat /null")
    assert "major/minor number: 259:1000" in ask(image, "stat /wide")
    assert "mtime: 0x00000000" in ask(image, "stat /old")


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, MIB + 7])
def test_contents_are_kept(size: int, tmp_path: Path) -> None:
    tree, content = new(), os.urandom(size)
    tree.file("first", b"before")
    tree.file("file", content)
    tree.file("last", b"after")
    image = write(tree, tmp_path / "image")
    for name, expected in (("first", b"before"), ("file", content), ("last", b"after")):
        run("debugfs", "-R", f"dump /{name} {tmp_path / name}", image)
        assert (tmp_path / name).read_bytes() == expected


@pytest.mark.parametrize("length", [1, 58, 59, 60, 61, 4000])
def test_symbolic_links_short_and_long(length: int, tmp_path: Path) -> None:
    tree, target = new(), "x/" * (length // 2) + "y" * (length % 2)
    tree.link("link", target)
    image = write(tree, tmp_path / "image")
    run("debugfs", "-R", f"rdump /link {tmp_path}", image)
    assert os.readlink(tmp_path / "link") == target


def test_hard_links_are_one_inode(tmp_path: Path) -> None:
    tree = new()
    tree.file("a", b"shared")
    tree.add("d/b", tree.find("a"))
    tree.add("d/c", tree.find("a"))
    image = write(tree, tmp_path / "image")
    inodes = {listing(image, "/")["a"][0], *(listing(image, "/d")[name][0] for name in "bc")}
    assert len(inodes) == 1
    assert "Links: 3" in ask(image, "stat /a")


@pytest.mark.parametrize("length", [1, 4, 200, 255])
def test_directories_of_many_blocks(length: int, tmp_path: Path) -> None:
    tree, names = new(), [f"{number:0{length}}"[-length:] for number in range(600)]
    for name in set(names):
        tree.file(f"many/{name}", name.encode())
    image = write(tree, tmp_path / "image")
    assert set(listing(image, "/many")) == {".", "..", *names}


def test_a_file_longer_than_an_extent_and_a_group(tmp_path: Path) -> None:
    tree = new()
    length = EXTENT * BLOCK + 5 * MIB
    store = tmp_path / "store"
    with store.open("w+b") as file:
        tree.store = file
        file.truncate(length)
        file.seek(length - 4)
        file.write(b"tail")
        tree.add("big", Node(stat.S_IFREG | 0o644, span=(0, length)))
        image = write(tree, tmp_path / "image", 2 * GROUP * BLOCK)
    told = ask(image, "ex /big")
    assert len([line for line in told.splitlines() if line.strip().startswith("0/")]) == 2
    assert f"Size: {length}" in ask(image, "stat /big")
    run("debugfs", "-R", f"dump /big {tmp_path / 'big'}", image)
    with (tmp_path / "big").open("rb") as file:
        file.seek(length - 4)
        assert file.read() == b"tail"


def test_directories_deeper_than_the_interpreters_stack(tmp_path: Path) -> None:
    tree = new()
    tree.file("a/" * 1500 + "file", b"deep")
    image = write(tree, tmp_path / "image")
    assert ask(image, f"cat {'a/' * 1500}file") == "deep"


def test_many_files_fill_the_inodes_of_more_than_one_group(tmp_path: Path) -> None:
    tree = new()
    for number in range(INODES + 50):
        tree.file(f"d{number % 7}/f{number}", b"")
    tree.directory("later")
    image = write(tree, tmp_path / "image", 2 * GROUP * BLOCK)
    assert listing(image, "/")["later"][0] > INODES


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    tree = new()
    for number in range(INODES):
        tree.file(f"f{number}", b"")
    with pytest.raises(GuestError, match="files are too many for a disk of 24 MiB"):
        write(tree, tmp_path / "image")
    tree = new()
    tree.file("large", b"x" * (10 * MIB))
    with pytest.raises(GuestError, match="do not fit on a disk of 24 MiB"):
        write(tree, tmp_path / "image")
    tree = new()
    tree.file("lost+found", b"")
    with pytest.raises(GuestError, match=r"lost\+found: is a directory"):
        write(tree, tmp_path / "image")
    tree = new()
    tree.add("huge", Node(stat.S_IFREG, span=(0, 4 * EXTENT * BLOCK + 1)))
    with pytest.raises(GuestError, match=r"a file of 512 MiB is too large"):
        write(tree, tmp_path / "image", 1 << 30)


# Names that debugfs' own language can say.
NAMES = st.text(st.sampled_from("abcXYZ019._+-é"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..", "lost+found")
)
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=4).map("/".join),
    st.binary(max_size=3 * BLOCK),
    max_size=25,
)


@settings(max_examples=25)
@given(TREES)
def test_any_tree_is_sound_and_read_back(files: dict[str, bytes]) -> None:
    tree, kept = new(), {}
    for path, content in files.items():
        try:
            tree.file(path, content)
        except GuestError:  # a file where a directory is, or below a file
            continue
        kept[path] = content
    with tempfile.TemporaryDirectory() as folder:
        image = write(tree, Path(folder) / "image")
        out = Path(folder) / "out"
        out.mkdir()
        run("debugfs", "-R", f"rdump / {out}", image)
        found = {
            str(path.relative_to(out)): path.read_bytes()
            for path in out.rglob("*")
            if path.is_file()
        }
    assert found == kept
