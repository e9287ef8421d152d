"""Guest-physical memory and what answers at an address."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EEXIST, EINVAL, ENOMEM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.errors import MappingError, MemoryFault
from hartwood.mem import hostmem
from hartwood.mem.bus import Bus
from hartwood.mem.ram import STITCHED, Ram
from hartwood.mem.regiontable import HARTS, HARTS_AT, REGIONS

PAGE = 4096


@pytest.fixture
def ram() -> Iterator[Ram]:
    made = Ram(1 << 20, 2048 * 16 + 64)
    made.map(0x8000_0000, 4 * PAGE)
    made.map(0x1000, PAGE)
    yield made
    made.close()


def test_regions_are_apart(ram: Ram) -> None:
    ram.write(0x8000_0000, b"abc")
    ram.write(0x1FFD, b"xyz")
    assert ram.read(0x8000_0000, 4) == b"abc\0"
    assert ram.read(0x1FFC, 4) == b"\0xyz"
    assert ram.find(0x1000, 1) == 4 * PAGE


@pytest.mark.parametrize(
    ("at", "size", "errno"),
    [
        (1, PAGE, EINVAL), (0, 1, EINVAL), (0, 0, EINVAL), (-PAGE, PAGE, EINVAL),
        ((1 << 56) - PAGE, 2 * PAGE, EINVAL), (0x8000_3000, PAGE, EEXIST), (0, 2 * PAGE, EEXIST),
        (1 << 40, 1 << 20, ENOMEM),
    ],
)  # fmt: skip
def test_what_cannot_be_mapped(ram: Ram, at: int, size: int, errno: int) -> None:
    with pytest.raises(MappingError) as caught:
        ram.map(at, size)
    assert caught.value.errno == errno
    assert len(ram.regions) == 2


def test_there_are_so_many_regions_and_harts(ram: Ram) -> None:
    for number in range(REGIONS - 2):
        ram.alias((1 << 40) + number * PAGE, 0x1000, PAGE)
    for refused in (lambda: ram.map(1 << 50, PAGE), lambda: ram.protect(0x8000_1000, PAGE, True)):
        with pytest.raises(MappingError) as caught:
            refused()
        assert caught.value.errno == ENOMEM
    assert len(ram.regions) == REGIONS
    for number in range(HARTS - 1):
        ram.add_hart(number + 1)
    with pytest.raises(MappingError):
        ram.add_hart(99)
    table = hostmem.view(ram.table_at, PAGE).cast("Q")
    assert table[HARTS_AT // 8] == 1
    assert table[HARTS_AT // 8 + HARTS - 1] == 0


@given(
    st.integers(-PAGE, 0x9000_0000) | st.integers(0x8000_0000 - 8, 0x8000_4000 + 8),
    st.integers(-4, 3 * PAGE),
)
def test_nothing_outside_is_ever_touched(at: int, size: int) -> None:
    ram = Ram(64 * 1024)
    ram.map(0x8000_0000, 4 * PAGE)
    inside = at >= 0x8000_0000 and size >= 0 and at + size <= 0x8000_4000
    for use in (lambda: ram.read(at, size), lambda: ram.view(at, size)):
        if inside:
            assert len(use()) == size
        else:
            with pytest.raises(MemoryFault) as caught:
                use()
            assert (caught.value.address, caught.value.size) == (at, size)
    ram.close()


def test_a_write_forgets_what_was_decoded_there(ram: Ram) -> None:
    """Page by page, and only on pages that hold decoded code."""
    forgotten: list[tuple[int, int]] = []
    ram.forget = lambda offset, size: forgotten.append((offset, size))
    flags = hostmem.view(ram.flags_at, 8)
    flags[1] = flags[3] = 1
    ram.write(0x8000_1010, b"1234")
    ram.write(0x8000_0FFF, bytes(2))
    ram.write(0x8000_2000, bytes(PAGE))  # not code
    assert forgotten == [(PAGE + 0x10, 4), (PAGE, 1)]
    forgotten.clear()
    ram.view(0x8000_0800, 3 * PAGE)
    ram.discard(0x8000_1004, 0)
    assert forgotten == [(PAGE, PAGE), (3 * PAGE, 0x800)]


def test_what_is_stitched_is_forgotten_by_page(ram: Ram) -> None:
    forgotten: list[tuple[int, int]] = []
    ram.forget = lambda offset, size: forgotten.append((offset, size))
    flags = hostmem.view(ram.flags_at, 8)
    flags[1], flags[2], flags[5] = 1, STITCHED | 3, STITCHED | 1
    ram.forget_stitched()
    assert forgotten == [(2 * PAGE, PAGE), (5 * PAGE, PAGE)]


def test_those_who_wait_for_the_end_are_told_once() -> None:
    made, told = Ram(1 << 20, 64), []
    made.at_close.append(lambda: told.append("closed"))
    made.close()
    made.close()
    assert told == ["closed"]


def test_clear_and_close(ram: Ram) -> None:
    ram.write(0x1000, b"x")
    ram.clear()
    assert ram.read(0x1000, 1) == b"\0"
    ram.close()
    assert ram.closed
    with pytest.raises(MemoryFault):
        ram.read(0x1000, 1)


class _Device:
    size = 16

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def read(self, offset: int, width: int, /) -> int:
        self.seen.append((offset, width))
        return -1

    def write(self, offset: int, width: int, value: int, /) -> None:
        self.seen.append((offset, width, value))


def test_devices_answer_where_they_are(ram: Ram) -> None:
    bus, devices = Bus(ram), [_Device() for _ in range(3)]
    for number, device in enumerate(devices):
        bus.attach(0x100 + 16 * number, device)
    assert bus.load(0x110, 4) == 0xFFFF_FFFF
    bus.store(0x12F, 1, 0x1FF)
    assert [device.seen for device in devices] == [[], [(0, 4)], [(15, 1, 0xFF)]]
    for at, size in ((0xFF, 1), (0x130, 1), (0x10C, 8), (0x12C, 8)):
        with pytest.raises(MemoryFault):
            bus.load(at, size)
        with pytest.raises(MemoryFault):
            bus.store(at, size, 0)
    for at in (0xF8, 0x12F, 0x8000_0000, 0x0FF8, -16):
        with pytest.raises(MappingError):
            bus.attach(at, devices[0])
    with pytest.raises(MappingError):
        bus.map(0, PAGE)


@pytest.mark.parametrize("where", [slice(None, 8), slice(0x1000, None), slice(0x1000, 0x1008, 2)])
def test_slices_say_both_ends(ram: Ram, where: slice) -> None:
    with pytest.raises(MemoryFault):
        Bus(ram)[where]
