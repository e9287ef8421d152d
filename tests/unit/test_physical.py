"""Access to guest memory from Python, against a model of single bytes."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.errors import AccessError, MemoryFault
from hartwood.mem import hostmem
from hartwood.mem.bus import Bus
from hartwood.mem.ram import Ram

PAGE = 4096
AT = 0x8000_0000
#: Pages in the order in which they are mapped, so that neighbours are no neighbours in the host's
#: memory; there is a hole at page 4, and page 6 is page 1 once more.
ORDER = (3, 0, 2, 1, 5)
ALIAS, ORIGINAL, PAGES = 6, 1, 7


@pytest.fixture
def bus() -> Iterator[Bus]:
    made = new()
    yield made
    made.ram.close()


def new() -> Bus:
    bus = Bus(Ram(1 << 20, 64))
    for page in ORDER:
        bus.map(AT + page * PAGE, PAGE, readonly=page == 2)
    bus.alias(AT + ALIAS * PAGE, AT + ORIGINAL * PAGE, PAGE)
    return bus


class Model:
    """What memory is: a byte at each address, or none."""

    def __init__(self) -> None:
        self.bytes = dict.fromkeys((page * PAGE + at for page in ORDER for at in range(PAGE)), 0)

    def _own(self, at: int) -> int:
        return at - (ALIAS - ORIGINAL) * PAGE if at // PAGE == ALIAS else at

    def reach(self, at: int, size: int) -> int:
        """How many of the bytes there are."""
        return next((n for n in range(size) if self._own(at + n) not in self.bytes), size)

    def read(self, at: int, size: int) -> bytes:
        return bytes(self.bytes[self._own(at + n)] for n in range(self.reach(at, size)))

    def write(self, at: int, data: bytes) -> None:
        for n in range(self.reach(at, len(data))):
            self.bytes[self._own(at + n)] = data[n]


EDGES = st.builds(
    lambda page, near: page * PAGE + near, st.integers(0, PAGES), st.integers(-12, 12)
)
SIZES = st.integers(0, 24) | st.integers(PAGE - 4, 3 * PAGE)
CALLS = st.one_of(
    st.tuples(st.just("number"), EDGES, st.sampled_from((1, 2, 4, 8)), st.integers(0, 1 << 64)),
    st.tuples(st.just("write"), EDGES, st.binary(max_size=20), st.integers(1, 500)),
    st.tuples(st.just("fill"), EDGES, SIZES, st.integers(0, 255)),
    st.tuples(st.just("copy"), EDGES, EDGES, SIZES),
    st.tuples(st.just("compare"), EDGES, EDGES, SIZES),
    st.tuples(st.just("find"), EDGES, SIZES, st.binary(min_size=1, max_size=3)),
)


def check_fault(model: Model, caught: MemoryFault, at: int, size: int, access: str) -> None:
    done = model.reach(at, size)
    assert done < size
    assert (caught.address, caught.size) == (AT + at + done, size - done)
    assert (caught.done, caught.access) == (done, access)


def one(bus: Bus, model: Model, call: tuple[object, ...]) -> None:
    """Do the same to both."""
    what, at, second, third = call
    assert isinstance(at, int)
    if what == "number":
        assert isinstance(second, int)
        assert isinstance(third, int)
        value = third & (1 << 8 * second) - 1
        read, write = getattr(bus, f"read_u{8 * second}"), getattr(bus, f"write_u{8 * second}")
        data, whole = value.to_bytes(second, "little"), model.reach(at, second) == second
        if whole:
            for _ in range(3):  # from the second on by another way
                assert read(AT + at) == int.from_bytes(model.read(at, second), "little")
                write(AT + at, value)
                model.write(at, data)
        else:
            with pytest.raises(MemoryFault) as caught:
                read(AT + at)
            check_fault(model, caught.value, at, second, "read")
            with pytest.raises(MemoryFault) as caught:
                write(AT + at, value)
            check_fault(model, caught.value, at, second, "write")
        model.write(at, data)
    elif what in ("write", "fill"):
        if what == "write":
            assert isinstance(second, bytes)
            assert isinstance(third, int)
            data = second * third
        else:
            assert isinstance(second, int)
            assert isinstance(third, int)
            data = bytes([third]) * second
        try:
            if what == "write":
                bus.write(AT + at, bytearray(data) if at & 1 else data)
            else:
                bus.fill(AT + at, second, third)  # type: ignore[arg-type]
            assert model.reach(at, len(data)) == len(data)
        except MemoryFault as caught:
            check_fault(model, caught, at, len(data), "write")
        model.write(at, data)
    elif what == "find":
        assert isinstance(second, int)
        assert isinstance(third, bytes)
        try:
            found = bus.find(AT + at, second, third)
            place = model.read(at, second).find(third)
            assert model.reach(at, second) == second
            assert found == (None if place < 0 else AT + at + place)
        except MemoryFault as caught:
            check_fault(model, caught, at, second, "read")
    else:
        assert isinstance(second, int)
        assert isinstance(third, int)
        ours, other = model.read(at, third), model.read(second, third)
        try:
            if what == "copy":
                bus.copy(AT + at, AT + second, third)
            else:
                assert bus.compare(AT + at, AT + second, third) == (ours > other) - (ours < other)
                assert len(ours) == len(other) == third
        except MemoryFault as caught:
            source = second if what == "copy" else at
            if len(other if what == "copy" else ours) == third:
                source = at if what == "copy" else second
            kind = "write" if what == "copy" and source == at and len(other) == third else "read"
            check_fault(model, caught, source, third, kind)
        if what == "copy" and len(other) == third:
            model.write(at, other)


@given(st.lists(CALLS, min_size=1, max_size=12))
def test_every_call_does_what_bytes_would(calls: list[tuple[object, ...]]) -> None:
    bus, model = new(), Model()
    try:
        for call in calls:
            one(bus, model, call)
        for first, count in ((0, 4), (5, 2)):
            have = bus.read(AT + first * PAGE, count * PAGE)
            assert have == model.read(first * PAGE, count * PAGE)
    finally:
        bus.ram.close()


def test_numbers_are_little_endian_and_unsigned(bus: Bus) -> None:
    bus.write(AT, bytes(range(0xF1, 0xF9)))
    assert (bus.read_u8(AT), bus.read_u16(AT)) == (0xF1, 0xF2F1)
    assert bus.read_u32(AT) == 0xF4F3F2F1
    assert bus.read_u64(AT) == 0xF8F7F6F5F4F3F2F1
    assert bus.read_u16(AT + 1) == 0xF3F2
    for size, write in (
        (1, bus.write_u8),
        (2, bus.write_u16),
        (4, bus.write_u32),
        (8, bus.write_u64),
    ):
        for wrong in (-1, 1 << 8 * size):
            with pytest.raises(AccessError, match=f"no unsigned number of {size} bytes"):
                write(AT, wrong)
    assert bus.read_u64(AT) == 0xF8F7F6F5F4F3F2F1


@pytest.mark.parametrize("at", [-1, -8, 0, AT - 1, 1 << 56, (1 << 64) - 4, 1 << 70])
def test_addresses_that_are_none(bus: Bus, at: int) -> None:
    for use in (
        lambda: bus.read_u64(at), lambda: bus.write_u64(at, 0), lambda: bus.read(at, 9),
        lambda: bus.write(at, b"12"), lambda: bus.fill(at, 1 << 60, 0), lambda: bus.view(at, 1),
        lambda: bus.copy(AT, at, 1), lambda: bus.copy(at, AT, 1), lambda: bus.numpy(at, 1),
        lambda: bus.compare(AT, at, 1), lambda: bus.find(at, 1, b"1"), lambda: bus.unpack(at, "B"),
    ):  # fmt: skip
        with pytest.raises(MemoryFault) as caught:
            use()
        assert (caught.value.address, caught.value.done) == (at, 0)


def test_sizes_that_are_none(bus: Bus) -> None:
    assert (bus.read(AT, 0), bus.read(0, 0), bus.compare(0, 1, 0)) == (b"", b"", 0)
    bus.write(0, b"")
    bus.fill(0, 0, 1)
    for use in (
        lambda: bus.read(AT, -1), lambda: bus.fill(AT, -1, 0), lambda: bus.view(AT, -1),
        lambda: bus.find(AT, -1, b"1"), lambda: bus.read(AT, 1 << 62),
    ):  # fmt: skip
        with pytest.raises(MemoryFault):
            use()
    with pytest.raises(AccessError, match="at least one byte"):
        bus.find(AT, 8, b"")
    for byte in (-1, 256):
        with pytest.raises(AccessError, match="no value of a byte"):
            bus.fill(AT, 1, byte)


def test_a_needle_across_chunks_and_regions() -> None:
    bus = Bus(Ram(8 << 20, 64))
    bus.map(AT + (3 << 20), 1 << 20)
    bus.map(AT, 3 << 20)
    for at in ((1 << 20) - 2, (3 << 20) - 1):
        bus.write(AT + at, b"needle")
        assert bus.find(AT, 4 << 20, b"needle") == AT + at
        assert bus.find(AT, at + 5, b"needle") is None
        assert bus.find(AT + at, 6, b"needle") == AT + at
        bus.fill(AT + at, 6, 0)
    bus.ram.close()


@given(
    st.sampled_from(("BHIQ", "<bhiq", ">IQ", "=Hd", "@BQ", "3s5x2H")),
    st.integers(0, 9) | st.integers(PAGE - 9, PAGE + 1),
    st.data(),
)
def test_structures(form: str, at: int, data: st.DataObject) -> None:
    bus = new()
    layout = struct.Struct(form if form[0] in "<>=@" else "<" + form)
    raw = data.draw(st.binary(min_size=layout.size, max_size=layout.size))
    bus.write(AT + at, raw)
    values = layout.unpack(raw)
    got = bus.unpack(AT + at, form)
    assert struct.pack(layout.format, *got) == struct.pack(layout.format, *values)
    bus.fill(AT + at, layout.size, 0xAA)
    bus.pack(AT + at, form, *values)
    assert bus.read(AT + at, layout.size) == layout.pack(*values)
    bus.ram.close()


def test_structures_that_are_none(bus: Bus) -> None:
    for form in ("<Z", "q<", "9" * 30 + "s", 5):
        with pytest.raises(AccessError, match="no format"):
            bus.unpack(AT, form)  # type: ignore[arg-type]
    for values in ((), (1, 2), (256,), ("1",)):
        with pytest.raises(AccessError, match="does not take"):
            bus.pack(AT, "B", *values)
    with pytest.raises(AccessError, match="larger than all memory"):
        bus.pack(AT, f"{1 << 40}s", b"")
    assert bus.unpack(AT, "") == ()


def test_views_are_the_memory_itself(bus: Bus) -> None:
    view, raw = bus.view(AT, 16), bus.view(AT, 16, writable=True)
    raw[3] = 9
    bus.write_u8(AT + 4, 7)
    assert view[3:5].tolist() == [9, 7]
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises(MemoryFault):  # the next page is elsewhere in the host's memory
        bus.view(AT + PAGE - 1, 2)
    bus.ram.close()
    assert view[3] == 0


def test_arrays_are_the_memory_itself(bus: Bus) -> None:
    array, raw = bus.numpy(AT + 8, 4, "<u4"), bus.numpy(AT + 8, 2, "f8", writable=True)
    raw[0] = 1.0
    assert array.tolist() == [0, 0x3FF00000, 0, 0]
    assert bus.unpack(AT + 8, "d") == (1.0,)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    assert bus.numpy(AT, 0).shape == (0,)
    assert int(numpy.sum(bus.numpy(AT, PAGE))) == 0x3F + 0xF0
    for count, kind in ((1, "O"), (-1, "u1"), (1, "bogus"), (1, "V0")):
        with pytest.raises(AccessError):
            bus.numpy(AT, count, kind)
    with pytest.raises(MemoryFault):
        bus.numpy(AT, 1 << 62, "u8")


def test_without_numpy(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(AccessError, match="pip install numpy"):
        bus.numpy(AT, 1)
    assert len(bus.view(AT, 1)) == 1


def test_all_that_writes_forgets_code(bus: Bus) -> None:
    forgotten: list[tuple[int, int]] = []
    bus.ram.forget = lambda offset, size: forgotten.append((offset, size))
    start = bus.ram.find(AT, 1)
    hostmem.view(bus.ram.flags_at, 16)[start // PAGE] = 1
    bus.read_u64(AT)
    bus.write_u64(AT + 8, 1)
    bus.write_u32(AT + 1, 1)
    bus.write_u8(AT + PAGE, 1)  # no code there
    bus.write(AT + 16, b"123")
    bus.fill(AT + PAGE - 1, 2, 0)
    bus.copy(AT + 32, AT, 8)
    bus.pack(AT + 64, "H", 1)
    bus.view(AT, 8)
    assert forgotten == [
        (start + at, size)
        for at, size in ((8, 8), (1, 4), (16, 3), (PAGE - 1, 1), (32, 8), (64, 2))
    ]
    bus.view(AT, 8, writable=True)
    assert forgotten[-1] == (start, 8)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("at", [0, AT, (1 << 56) - 2 * PAGE])
def test_numbers_of_one_region(size: int, at: int) -> None:
    """All addresses around a region that was used before, against its bytes."""
    bus = Bus(Ram(1 << 20, 64))
    bus.map(0x1000_0000, PAGE)  # so that the region is not where the host's memory begins
    bus.map(at, 2 * PAGE)
    data = bytes(n * 7 + n // 256 & 0xFF for n in range(2 * PAGE))
    bus.write(at, data)
    read, write = getattr(bus, f"read_u{8 * size}"), getattr(bus, f"write_u{8 * size}")
    for _ in range(3):
        read(at), write(at, read(at))
    places = (*range(20), *range(PAGE - 10, PAGE + 10), *range(2 * PAGE - 20, 2 * PAGE - size + 1))
    for n in places:
        assert read(at + n) == int.from_bytes(data[n : n + size], "little"), n
        write(at + n, 1 << 8 * size - 1)
        assert bus.read(at + n, size) == bytes(size - 1) + b"\x80"
        write(at + n, int.from_bytes(data[n : n + size], "little"))
    assert bus.read(at, 2 * PAGE) == data
    wrong = (at - 1, at - size, at - PAGE, at + 2 * PAGE - size + 1, at + 2 * PAGE, 1 << 64, -1)
    for outside in (*wrong, at - (1 << 20), 1 << 70, -(1 << 70)):
        with pytest.raises(MemoryFault):
            read(outside)
        with pytest.raises(MemoryFault):
            write(outside, 0)
    assert bus.read(at, 2 * PAGE - size) == data[: 2 * PAGE - size]
    for value in (-1, 1 << 8 * size, 1 << 100):
        with pytest.raises(AccessError, match=f"no unsigned number of {size} bytes"):
            write(at, value)
    with pytest.raises(TypeError):
        write(at, "1")
    with pytest.raises(TypeError):
        read(at + 0.0)
    bus.ram.close()


def test_numbers_of_regions_by_turns(bus: Bus) -> None:
    for n in range(40):
        at = AT + (n % 4) * PAGE + 8 * n
        bus.write_u64(at, n)
        bus.write_u16(at ^ PAGE, n)
        assert (bus.read_u64(at), bus.read_u16(at ^ PAGE)) == (n, n)
        assert (bus.read_u8(at), bus.read_u32(at ^ PAGE)) == (n, n)
    assert bus.read_u64(AT + 39 * 8 + 3 * PAGE) == 39


def test_numbers_of_more_regions_than_are_kept() -> None:
    bus = Bus(Ram(1 << 20, 64))
    for n in range(200):
        bus.map(AT + 2 * n * PAGE, PAGE)
    for _ in range(3):
        for n in range(200):
            at = AT + 2 * n * PAGE
            for _ in range(3):
                bus.write_u16(at, n)
                assert (bus.read_u16(at), bus.read_u64(at)) == (n, n)
            with pytest.raises(MemoryFault):
                bus.read_u16(at + PAGE)
    assert [bus.read_u16(AT + 2 * n * PAGE) for n in range(200)] == list(range(200))
    bus.ram.close()


def test_numbers_beside_a_change_of_the_map(bus: Bus) -> None:
    at = AT + PAGE
    for _ in range(3):
        bus.write_u32(at, bus.read_u32(at) + 1)
    bus.protect(at, PAGE, readonly=True)  # for the guest alone
    bus.write_u32(at, bus.read_u32(at) + 1)
    assert bus.read_u32(AT + ALIAS * PAGE) == 4
    bus.unmap(at, PAGE)
    for use in (lambda: bus.read_u32(at), lambda: bus.write_u32(at, 1)):
        with pytest.raises(MemoryFault):
            use()
    assert bus.read_u32(AT + ALIAS * PAGE) == 4  # the other name of it stays
    bus.map(at, PAGE)
    assert [bus.read_u32(at) for _ in range(3)] == [0, 0, 0]
    bus.write_u32(at, 9)
    assert (bus.read_u32(at), bus.read_u32(AT + ALIAS * PAGE)) == (9, 4)
    regions = [region for region in bus.ram.regions if region.at != at]
    bus.ram.adopt(regions)
    with pytest.raises(MemoryFault):
        bus.read_u32(at)


def test_code_is_forgotten_by_numbers_of_a_region_that_is_in_use(bus: Bus) -> None:
    forgotten: list[tuple[int, int]] = []
    bus.ram.forget = lambda offset, size: forgotten.append((offset, size))
    at = AT + 5 * PAGE
    start = bus.ram.find(at, 1)
    hostmem.view(bus.ram.flags_at, 16)[start // PAGE] = 1
    for size in (1, 2, 4, 8):
        write = getattr(bus, f"write_u{8 * size}")
        for _ in range(4):
            write(at + 16, 0)
        with pytest.raises(AccessError):
            write(at + 16, -1)
        assert forgotten == [(start + 16, size)] * 4
        forgotten.clear()


def test_slices_are_the_memory_itself(bus: Bus) -> None:
    for _ in range(2):
        view = bus[AT + 1 : AT + 9]
        bus.write_u8(AT + 4, 7)
        assert (view.tolist(), view.readonly) == ([0, 0, 0, 7, 0, 0, 0, 0], True)
        assert bus[AT + 4].tolist() == [7]
        assert bus[AT : AT + PAGE : 1].nbytes == PAGE
    for start, stop, step in (
        (AT, AT + PAGE + 1, None), (AT + 8, AT, None), (AT, AT + 8, 2), (None, AT, None),
        (AT, None, None), (AT - 1, AT + 1, None), (AT + 4 * PAGE, AT + 4 * PAGE, None),
    ):  # fmt: skip
        bus.read(AT, 1)
        with pytest.raises(MemoryFault):
            bus[start:stop:step]
    bus[AT + 2 : AT + 4] = b"ab"
    assert bytes(bus[AT : AT + 8]) == b"\0\0ab\7\0\0\0"
    with pytest.raises(MemoryFault):
        bus[AT : AT + 1] = b"ab"
    bus.unmap(AT, PAGE)
    with pytest.raises(MemoryFault):
        bus[AT : AT + 1]


def test_what_was_used_last_is_not_remembered_for_too_long(bus: Bus) -> None:
    assert (bus.read_u64(AT), bus.read(AT, 8)) == (0, bytes(8))
    bus.unmap(AT, PAGE)
    for use in (lambda: bus.read_u64(AT), lambda: bus.write_u64(AT, 1), lambda: bus.read(AT, 1)):
        with pytest.raises(MemoryFault):
            use()
    bus.read_u64(AT + PAGE)
    bus.ram.close()
    for use in (lambda: bus.read_u64(AT + PAGE), lambda: bus.write(AT + PAGE, b"1")):
        with pytest.raises(MemoryFault):
            use()
