"""A file system in memory: paths as dpkg and Linux take them, and never out of it."""

from __future__ import annotations

import io
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.guests import GuestError
from hartwood.guests.tree import LINKS, Node, Tree

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


def new(limit: int = 1 << 20) -> Tree:
    return Tree(io.BytesIO(), limit=limit)


def kind(node: Node) -> int:
    return stat.S_IFMT(node.mode)


def test_files_links_and_directories_are_found_again() -> None:
    tree = new()
    tree.file("etc/deep/a", b"content", 0o600)
    tree.file("/etc/b", b"")
    tree.link("etc/c", "deep/a")
    tree.directory("./srv/", 0o2775)
    assert tree.read("etc/deep/a") == tree.read("/etc/./c") == b"content"
    assert tree.read("etc/b") == b""
    assert tree.find("etc/deep/a").mode == stat.S_IFREG | 0o600
    assert tree.find("srv").mode == stat.S_IFDIR | 0o2775
    assert kind(tree.find("etc/c", follow=False)) == stat.S_IFLNK
    assert [path for path, _ in tree.paths()] == [
        "/etc", "/etc/b", "/etc/c", "/etc/deep", "/etc/deep/a", "/srv",
    ]  # fmt: skip
    assert tree.find("/") is tree.root


def test_what_is_there() -> None:
    tree = new()
    tree.file("etc/a", b"x", 0o640, 42)
    tree.link("etc/link", "a")
    tree.link("etc/dangling", "nothing")
    assert tree.find("etc/link").gid == 42
    for path in ("", "/", "etc", "/etc/a", "etc/link"):
        assert path in tree, path
    for path in ("a", "etc/a/b", "etc/dangling", "../etc", "x" * 5000):
        assert path not in tree, path


def test_a_path_goes_through_links_to_directories() -> None:
    tree = new()
    tree.directory("usr/lib")
    tree.link("lib", "usr/lib")
    tree.link("usr/up", "/lib")
    tree.file("lib/a.so", b"1")
    tree.file("usr/up/b.so", b"2")
    tree.directory("lib/", 0o700)  # another package's idea of it
    assert set(tree.find("usr/lib").children) == {"a.so", "b.so"}
    assert kind(tree.find("lib", follow=False)) == stat.S_IFLNK
    assert stat.S_IMODE(tree.find("lib").mode) == 0o755


def test_a_link_cannot_lead_out() -> None:
    tree = new()
    tree.link("etc/out", "../../../../..")
    tree.file("etc/out/escaped", b"x")
    assert "escaped" in tree.root.children
    tree.link("abs", "/../..//./etc/out/..")
    assert tree.find("abs") is tree.root


@pytest.mark.parametrize(
    "path", ["../x", "a/../b", "a/..", "nul\0", "x" * 256, "é" * 128, "a/" * 2049]
)
def test_a_path_that_none_can_have_is_refused(path: str) -> None:
    with pytest.raises(GuestError, match="no path"):
        new().file(path, b"")


def test_links_that_go_round_are_refused() -> None:
    tree = new()
    tree.link("a", "b")
    tree.link("b", "a")
    for use in (tree.find, lambda path: tree.file(f"{path}/x", b""), tree.directory):
        with pytest.raises(GuestError, match="too many symbolic links"):
            use("a")
    tree.directory("end")
    for number in range(LINKS + 1):
        tree.link(f"hop{number}", f"hop{number - 1}" if number else "end")
    assert tree.find(f"hop{LINKS - 1}") is tree.find("end")
    with pytest.raises(GuestError, match="too many"):
        tree.find(f"hop{LINKS}")


def test_a_dangling_link_to_a_directory_is_made_good() -> None:
    tree = new()
    tree.link("var/run", "/run/now")
    tree.file("var/run/pid", b"1")
    assert tree.read("run/now/pid") == b"1"


def test_files_and_directories_do_not_replace_each_other() -> None:
    tree = new()
    tree.directory("d")
    tree.file("f", b"1")
    with pytest.raises(GuestError, match="d: is a directory"):
        tree.file("d", b"")
    with pytest.raises(GuestError, match="f: is a file"):
        tree.directory("f")
    with pytest.raises(GuestError, match="not a directory"):
        tree.file("f/below", b"")
    with pytest.raises(GuestError, match="root of a file system"):
        tree.file("/", b"")
    tree.link("to", "f")
    with pytest.raises(GuestError, match="not a directory"):
        tree.directory("to")
    with pytest.raises(GuestError, match="no such file"):
        tree.find("d/nothing")
    with pytest.raises(GuestError, match="no such file"):
        tree.find("nothing", follow=False)
    assert tree.read("f") == b"1"


def test_the_first_directory_stays_and_the_last_file() -> None:
    tree = new()
    tree.file("a/b/c", b"old")
    tree.add("a", Node(stat.S_IFDIR | 0o711, uid=3, gid=4, mtime=5))  # it was implied
    tree.add("a", Node(stat.S_IFDIR | 0o777))
    node = tree.find("a")
    assert (node.mode, node.uid, node.gid, node.mtime) == (stat.S_IFDIR | 0o711, 3, 4, 5)
    tree.file("a/b/c", b"new")
    assert tree.read("a/b/c") == b"new"
    tree.add("/", Node(stat.S_IFDIR | 0o700))
    assert tree.root.mode == stat.S_IFDIR | 0o700


def test_a_limit_holds_before_anything_is_copied() -> None:
    tree = new(limit=100)
    tree.file("a", b"x" * 60)
    with pytest.raises(GuestError, match="b: more than 0 MiB of files"):
        tree.file("b", b"x" * 41)
    with pytest.raises(GuestError, match="more than"):
        new(limit=100).keep(io.BytesIO(), 1 << 62, "huge")
    with pytest.raises(GuestError, match="more than"):
        new(limit=100).keep(io.BytesIO(), -1, "negative")
    with pytest.raises(GuestError, match="short: ends 7 bytes early"):
        new(limit=100).keep(io.BytesIO(b"abc"), 10, "short")
    assert tree.read("a") == b"x" * 60


@given(st.lists(st.tuples(st.sampled_from("fdl"), PATHS, PATHS), max_size=12))
def test_whatever_is_added_is_one_tree_below_one_root(steps: list[tuple[str, str, str]]) -> None:
    tree = new()
    for what, path, other in steps:
        try:
            if what == "f":
                tree.file(path, other.encode())
            elif what == "d":
                tree.directory(path)
            else:
                tree.link(path, f"/{other}/../{other}")
        except GuestError:
            continue
        try:
            made = tree.find(path, follow=False)
        except GuestError:  # it replaced a link on the way to itself
            continue
        assert what == "d" or kind(made) == (stat.S_IFREG if what == "f" else stat.S_IFLNK)
    seen = [node for _, node in tree.paths()]
    assert len(set(seen)) == len(seen)
    assert all(node.is_directory or not node.children for node in seen)
