"""Overlays in memory: the base is never written, and what changed can be saved and loaded."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hartwood import storage
from hartwood.storage.layered import BLOCK, Overlay
from unit.disk_images import KIB, MIB, refused

SIZE = 5 * BLOCK + 512  # the last block is a short one


@pytest.fixture
def base(tmp_path: Path):
    data = random.Random(3).randbytes(SIZE)
    (tmp_path / "base").write_bytes(data)
    with storage.open(tmp_path / "base", readonly=True, serial="BASE", sector=512) as disk:
        yield disk
    assert (tmp_path / "base").read_bytes() == data


def test_it_looks_like_its_base_and_keeps_what_is_written(base) -> None:
    with storage.overlay(base) as disk:
        assert (disk.size, disk.sector, disk.serial) == (base.size, base.sector, "BASE")
        assert not disk.readonly
        assert disk.read(0, SIZE) == base.read(0, SIZE)
        disk.writev(BLOCK - 2, [memoryview(b"ab"), memoryview(b"cd")])
        assert disk.read(BLOCK - 3, 6) == base.read(BLOCK - 3, 1) + b"abcd" + base.read(
            BLOCK + 2, 1
        )
        disk.flush()
        assert refused(disk.write, SIZE - 1, b"xy").errno == errno.EINVAL


def test_what_was_saved_is_loaded_elsewhere(base) -> None:
    first, second = storage.overlay(base), storage.overlay(base)
    assert isinstance(first, Overlay)
    assert isinstance(second, Overlay)
    first.write(100, b"x" * BLOCK)
    first.zero(2 * BLOCK, BLOCK)
    first.write(SIZE - 512, b"y" * 512)
    saved = first.save()
    assert len(saved) < 2 * BLOCK  # what is alike is packed
    second.write(3 * BLOCK, b"gone")
    second.load(saved)
    assert second.read(0, SIZE) == first.read(0, SIZE)
    assert second.read(3 * BLOCK, 4) == base.read(3 * BLOCK, 4)
    assert second.save() == saved
    first.load(storage.overlay(base).save())  # type: ignore[attr-defined]
    assert first.read(0, SIZE) == base.read(0, SIZE)


def test_what_was_saved_of_another_disk_is_refused(base, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(MIB))
    with storage.open(tmp_path / "other", readonly=True) as other:
        saved = storage.overlay(other).save()  # type: ignore[attr-defined]
        assert "of a disk of 1048576 bytes" in str(refused(storage.overlay(base).load, saved))  # type: ignore[attr-defined]


def test_noise_is_stored_as_it_is(base) -> None:
    over = Overlay(base)
    over.write(0, random.Random(4).randbytes(2 * BLOCK))
    assert len(over.save()) < 2 * BLOCK + 200


def test_extents_are_the_bases_and_its_own(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(MIB)
        file.seek(512 * KIB)
        file.write(b"x" * 4096)
    with storage.open(tmp_path / "sparse", readonly=True) as base:
        over = Overlay(base)
        assert list(over.extents()) == [(512 * KIB, 516 * KIB)]
        over.write(0, b"y")
        over.write(7 * BLOCK, b"y")
        assert list(over.extents()) == [(0, BLOCK), (7 * BLOCK, 516 * KIB)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "zero", "discard", "save", "load"]),
            st.integers(0, SIZE),
            st.one_of(st.integers(0, 2000), st.just(BLOCK), st.integers(0, 3 * BLOCK)),
        ),
        max_size=12,
    )
)
def test_against_an_array_of_bytes(base, steps) -> None:
    over, model = Overlay(base), bytearray(base.read(0, SIZE))
    saved, then = over.save(), bytes(model)
    for number, (kind, at, size) in enumerate(steps):
        size = min(size, SIZE - at)
        if kind == "write":
            data = random.Random(number).randbytes(size)
            over.write(at, data)
            model[at : at + size] = data
        elif kind == "save":
            saved, then = over.save(), bytes(model)
        elif kind == "load":
            over.load(saved)
            model[:] = then
        else:
            (over.zero if kind == "zero" else over.discard)(at, size)
            model[at : at + size] = bytes(size)
        assert over.read(0, SIZE) == model
