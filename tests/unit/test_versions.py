"""Versions of a memory against copies of it, pages shared and nothing lost."""

from __future__ import annotations

import errno
import gc
import itertools
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartwood.mem import hostmem, versions
from hartwood.mem.ram import Ram
from hartwood.mem.versions import Store, Version, VersionError

PAGE, BASE, PAGES = 4096, 0x8000_0000, 24


def new_ram(pages: int = PAGES, record_bytes: int = 2048 * 16 + 64) -> Ram:
    ram = Ram(pages * PAGE, record_bytes)
    ram.map(BASE, pages * PAGE)
    return ram


@pytest.fixture
def ram() -> Iterator[Ram]:
    made = new_ram()
    yield made
    made.close()


def content(ram: Ram) -> bytes:
    return ram.read(BASE, ram.pages * PAGE)


def rebuilt(version: Version) -> bytes:
    data = bytearray(version.store.pages * PAGE)
    for number, piece in version.pieces():
        data[number * PAGE : number * PAGE + len(piece)] = piece
    return bytes(data)


def file_bytes(store: Store) -> int:
    return os.fstat(store.fd).st_blocks * 512


def test_there_and_back(ram: Ram) -> None:
    host = ram.host
    ram.write(BASE + 10, b"before")
    version = ram.snapshot()
    assert ram.read(BASE + 10, 6) == b"before"
    ram.write(BASE + 12, b"after")
    ram.write(BASE + 5 * PAGE, b"more")
    ram.restore(version)
    assert ram.read(BASE + 8, 10) == b"\0\0before\0\0"
    assert ram.read(BASE + 5 * PAGE, 4) == bytes(4)
    assert ram.host == host


# Writes to pages, snapshots, and restoring of one of the snapshots so far.
STEPS = st.lists(
    st.tuples(st.just("write"), st.integers(0, PAGES - 1), st.integers(0, 3))
    | st.tuples(st.just("snapshot"), st.just(0), st.just(0))
    | st.tuples(st.just("restore"), st.integers(0, 99), st.just(0))
    | st.tuples(st.just("drop"), st.integers(0, 99), st.just(0))
    | st.tuples(st.just("swap"), st.just(0), st.just(0)),
    max_size=40,
)


@pytest.mark.parametrize("told", [True, False], ids=["pagemap", "compared"])
@given(STEPS)
@settings(max_examples=120)
def test_any_history_of_two_memories(told: bool, steps: list[tuple[str, int, int]]) -> None:
    """`swap` turns to the other memory, so snapshots of one are restored in the other."""
    pagemap = versions._PAGEMAP
    versions._PAGEMAP = pagemap if told else "/nowhere"
    rams, at = [new_ram(), new_ram()], 0
    copies = [bytearray(PAGES * PAGE), bytearray(PAGES * PAGE)]
    taken: list[tuple[Version, bytes]] = []
    try:
        for what, number, value in steps:
            if what == "write":
                data = bytes([value]) * PAGE
                rams[at].write(BASE + number * PAGE, data)
                copies[at][number * PAGE : (number + 1) * PAGE] = data
            elif what == "snapshot":
                taken.append((rams[at].snapshot(), bytes(copies[at])))
            elif what == "restore" and taken:
                version, copy = taken[number % len(taken)]
                rams[at].restore(version)
                copies[at][:] = copy
            elif what == "drop" and taken:
                del taken[number % len(taken)]
            elif what == "swap":
                at = 1 - at
            for memory, expected in zip(rams, copies, strict=True):
                assert content(memory) == expected
        for version, copy in taken:
            assert rebuilt(version) == copy
    finally:
        versions._PAGEMAP = pagemap
        for memory in rams:
            memory.close()


def test_versions_outlive_their_memory() -> None:
    ram = new_ram()
    ram.write(BASE, b"old")
    old = ram.snapshot()
    ram.write(BASE, b"new")
    new = ram.snapshot()
    ram.close()
    assert rebuilt(old)[:3] == b"old"
    assert rebuilt(new)[:3] == b"new"
    other = new_ram()
    other.restore(old)
    assert other.read(BASE, 3) == b"old"
    other.close()


def test_a_closed_memory_reads_as_zero_through_old_views(ram: Ram) -> None:
    ram.write(BASE, b"old")
    view = ram.view(BASE, 3)
    version = ram.snapshot()
    assert bytes(view) == b"old"
    ram.close()
    assert bytes(view) == bytes(3)
    with pytest.raises(VersionError):
        ram.restore(version)


def test_clear_after_a_snapshot_is_zero(ram: Ram) -> None:
    ram.write(BASE, b"old")
    version = ram.snapshot()
    ram.clear()
    assert content(ram) == bytes(PAGES * PAGE)
    ram.restore(version)
    assert ram.read(BASE, 3) == b"old"


def test_another_size_is_refused(ram: Ram) -> None:
    other = new_ram(PAGES + 1)
    ram.write(BASE, b"here")
    with pytest.raises(VersionError, match="25 pages"):
        ram.restore(other.snapshot())
    assert ram.read(BASE, 4) == b"here"
    other.close()


def test_a_page_is_held_once(ram: Ram) -> None:
    """A hundred versions of a page cost a hundred pages, and nothing of what did not change."""
    ram.write(BASE, b"x" * PAGES * PAGE)
    taken = [ram.snapshot()]
    for number in range(100):
        ram.write(BASE + 3 * PAGE, bytes([number]))
        taken.append(ram.snapshot())
    assert file_bytes(taken[0].store) == PAGES * PAGE
    assert sum(len(version._pages) for version in taken) == 100
    assert taken[-1].path() == taken[-1:]
    ram.restore(taken[0])
    assert sum(len(version._pages) for version in taken) == 100
    assert rebuilt(taken[50])[3 * PAGE] == 49


def test_zeros_are_holes(ram: Ram) -> None:
    ram.write(BASE, bytes(PAGES * PAGE))
    version = ram.snapshot()
    assert file_bytes(version.store) == 0
    assert list(version.pieces()) == []
    assert version.store.data_from(0) == PAGES


def test_a_forgotten_version_keeps_nothing(ram: Ram) -> None:
    first = ram.snapshot()
    ram.write(BASE, b"abc")
    second = ram.snapshot()
    fd, keys = first.store.fd, first._pages.keys()
    assert set(keys) == {0}
    del first
    ram.write(BASE, b"xyz")
    third = ram.snapshot()
    assert second._toward is third
    del second, third
    ram.close()
    gc.collect()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)


def test_no_room_changes_nothing(ram: Ram, monkeypatch: pytest.MonkeyPatch) -> None:
    ram.write(BASE, b"one" * PAGE)
    one = ram.snapshot()
    ram.write(BASE + 1, b"two" * PAGE)
    two = ram.snapshot()
    ram.write(BASE + PAGE, b"three")
    ram.write(BASE + 8 * PAGE, b"three")
    now, left, real = content(ram), [0], os.pwritev

    def full(fd: int, parts: list[bytes], at: int) -> int:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "no space")
        return real(fd, parts, at)

    monkeypatch.setattr(os, "pwritev", full)
    for left[0] in (1, 2):
        with pytest.raises(VersionError, match="no room"):
            ram.snapshot()
        assert content(ram) == now
    left[0] = 1
    with pytest.raises(VersionError, match="no room"):
        ram.restore(one)
    assert content(ram) == now
    monkeypatch.undo()
    assert rebuilt(one)[:6] == b"oneone"
    assert rebuilt(two)[:4] == b"otwo"


def test_a_short_write_is_finished(ram: Ram, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: real(fd, [parts[0][:100]], at))
    ram.write(BASE, b"x" * PAGES * PAGE)
    one = ram.snapshot()
    ram.write(BASE, b"y" * 3 * PAGE)
    two = ram.snapshot()
    assert rebuilt(one) == b"x" * PAGES * PAGE
    assert rebuilt(two) == b"y" * 3 * PAGE + b"x" * (PAGES - 3) * PAGE


def test_no_file_in_memory(monkeypatch: pytest.MonkeyPatch, ram: Ram) -> None:
    def refuse(name: str, flags: int) -> int:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(VersionError, match="too many"):
        ram.snapshot()


def test_code_of_changed_pages_is_forgotten_and_of_others_kept(ram: Ram) -> None:
    flags = hostmem.view(ram.flags_at, PAGES)
    per_page = 2048 * 16 + 64
    records = hostmem.view(ram.records, PAGES * per_page).cast("Q")

    def forget(offset: int, size: int) -> None:
        records[offset // PAGE * per_page // 8] = 7

    ram.forget = forget

    def decoded(*pages: int) -> None:
        for page in pages:
            flags[page] = 1
            records[page * per_page // 8] = 99

    def kept() -> list[int]:
        return [page for page in range(PAGES) if records[page * per_page // 8] == 99]

    ram.write(BASE, b"x" * PAGES * PAGE)
    one = ram.snapshot()
    decoded(1, 2, 5)
    ram.view(BASE + 2 * PAGE, 1)[0] = 1  # as a hart's store that raced the decoding
    decoded(2)
    ram.restore(one)
    assert kept() == [1, 5]
    ram.write(BASE + PAGE, b"y")
    two = ram.snapshot()
    decoded(1, 2, 5)
    ram.restore(one)  # the page that differs between the two was not written since
    assert kept() == [2, 5]
    decoded(1)
    ram.restore(two)
    assert kept() == [2, 5]
    other = new_ram()
    decoded(1)
    ram.restore(other.snapshot())  # another store: nothing is known about what differs
    assert kept() == []
    other.close()


def test_pages_that_only_were_read_are_not_copied(ram: Ram) -> None:
    ram.write(BASE, b"x" * PAGES * PAGE)
    one = ram.snapshot()
    assert content(ram) == b"x" * PAGES * PAGE
    two = ram.snapshot()
    assert one._pages == {}
    assert one.path() == [one, two]
    assert versions.written(ram.host, 0, PAGES) == bytes(PAGES)
    ram.write(BASE + 7 * PAGE, b"y")
    marks = versions.written(ram.host, 0, PAGES)
    assert marks is not None
    assert list(versions.marked(marks)) == [(7, 8)]


@given(st.binary(max_size=40) | st.text("\0\1\xff", max_size=40).map(lambda t: t.encode("latin1")))
def test_runs_of_marks(marks: bytes) -> None:
    runs = list(versions.marked(marks))
    assert {n for first, last in runs for n in range(first, last)} == {
        n for n, mark in enumerate(marks) if mark
    }
    assert all(last < first for (_, last), (first, _) in itertools.pairwise(runs))


def test_a_pagemap_that_ends_early_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, ram: Ram
) -> None:
    monkeypatch.setattr(versions, "_PAGEMAP", "/dev/null")
    assert versions.written(ram.host, 0, PAGES) is None


def test_large_runs_and_a_large_sparse_memory() -> None:
    pages = 1 << 18
    ram = Ram(pages * PAGE)
    ram.map(BASE, pages * PAGE)
    ram.write(BASE + (pages - 3000) * PAGE, b"a" * 3000 * PAGE)
    one = ram.snapshot()
    ram.write(BASE + (pages - 3000) * PAGE, b"b" * 3000 * PAGE)
    two = ram.snapshot()
    assert len(one._pages) == 3000
    ram.restore(one)
    assert ram.read(BASE + (pages - 1) * PAGE, 1) == b"a"
    assert sum(len(data) for _, data in two.pieces()) == 3000 * PAGE
    assert max(len(data) for _, data in two.pieces()) == versions.CHUNK
    ram.close()
