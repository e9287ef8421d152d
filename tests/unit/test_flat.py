"""The flat address space: mapping, protection, safe access, and a random run against a model."""

from __future__ import annotations

import mmap as host_mmap
import os
import tempfile
from errno import EFAULT, EINVAL, ENOMEM
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartwood.errors import MappingError, MemoryFault
from hartwood.mem.flat import LIMIT, FlatSpace, host_protection
from hartwood.mem.hostmem import MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED
from hartwood.mem.regions import EXEC, PAGE, READ, WRITE

AT = 0x10_0000


@pytest.fixture
def space():
    made = FlatSpace()
    yield made
    made.close()


def listing(space):
    return [(r.start, r.end, r.prot) for r in space.regions]


def test_write_and_read_back(space):
    space.map(AT, 2 * PAGE, READ | WRITE)
    space.write(AT + PAGE - 3, b"across")
    assert space.read(AT + PAGE - 3, 6) == b"across"
    space.write_u32(AT, 0xDEADBEEF)
    space.write_u64(AT + 8, -2)
    assert space.read_u32(AT) == 0xDEADBEEF
    assert space.read_u64(AT + 8) == 2**64 - 2


@pytest.mark.parametrize(
    "va", [0, AT - 1, AT + PAGE, LIMIT - 1, LIMIT, LIMIT + 5, 2**64 - 1, -1, 2**70]
)
def test_addresses_outside_fault_instead_of_crashing(space, va):
    space.map(AT, PAGE, READ | WRITE)
    with pytest.raises(MemoryFault) as caught:
        space.read(va, 8)
    assert caught.value.access == "read"
    with pytest.raises(MemoryFault):
        space.write(va, b"12345678")
    with pytest.raises(MemoryFault):
        space.view(va, 8)


def test_fault_address_is_the_first_missing_byte(space):
    space.map(AT, PAGE, READ | WRITE)
    with pytest.raises(MemoryFault) as caught:
        space.read(AT + PAGE - 4, 8)
    assert caught.value.address == AT + PAGE
    with pytest.raises(MemoryFault) as caught:
        space.write(AT + PAGE - 4, bytes(8))
    assert caught.value.address == AT + PAGE


def test_protection_is_obeyed(space):
    space.map(AT, 3 * PAGE, READ | WRITE)
    space.write(AT + PAGE, b"kept")
    space.protect(AT + PAGE, PAGE, READ)
    with pytest.raises(MemoryFault):
        space.write(AT + PAGE, b"x")
    assert space.read(AT + PAGE, 4) == b"kept"
    space.protect(AT + PAGE, PAGE, 0)
    with pytest.raises(MemoryFault):
        space.read(AT + PAGE, 1)
    space.protect(AT, 3 * PAGE, READ | WRITE)
    assert listing(space) == [(AT, AT + 3 * PAGE, READ | WRITE)]


@pytest.mark.parametrize(
    ("guest", "host"),
    [(0, 0), (1, 1), (2, 3), (3, 3), (4, 1), (5, 1), (7, 3)],
)
def test_host_protection_never_executes(guest, host):
    assert host_protection(guest) == host


def test_protect_stops_at_the_first_hole(space):
    space.map(AT, PAGE, READ | WRITE)
    space.map(AT + 2 * PAGE, PAGE, READ | WRITE)
    with pytest.raises(MappingError) as caught:
        space.protect(AT, 3 * PAGE, READ)
    assert caught.value.errno == ENOMEM
    assert listing(space) == [(AT, AT + PAGE, 1), (AT + 2 * PAGE, AT + 3 * PAGE, 3)]


@pytest.mark.parametrize(
    ("at", "size", "errno"),
    [
        (AT + 1, PAGE, EINVAL),
        (AT, 0, EINVAL),
        (LIMIT - PAGE, 2 * PAGE, ENOMEM),
        (AT, LIMIT, ENOMEM),
    ],
)
def test_bad_ranges_are_refused(space, at, size, errno):
    with pytest.raises(MappingError) as caught:
        space.map(at, size, READ)
    assert caught.value.errno == errno


def test_a_refused_file_mapping_leaves_no_hole(space):
    space.map(AT, PAGE, READ | WRITE)
    read_end, write_end = os.pipe()
    try:
        with pytest.raises(MappingError):
            space.map(AT, PAGE, READ, flags=MAP_PRIVATE, fd=read_end)
        with pytest.raises(MappingError):
            space.map(AT + 8 * PAGE, PAGE, READ, flags=MAP_PRIVATE, fd=read_end)
    finally:
        os.close(read_end)
        os.close(write_end)
    # A hole would let the host place this right inside; NOREPLACE tells whether one is there.
    from hartwood.mem import hostmem

    flags = MAP_PRIVATE | MAP_ANONYMOUS | hostmem.MAP_FIXED_NOREPLACE
    for page in (AT, AT + 8 * PAGE):
        with pytest.raises(MappingError):
            hostmem.mmap(space.base + page, PAGE, READ, flags)


def test_shared_file_mapping_reaches_the_file(space):
    with tempfile.TemporaryFile() as file:
        file.truncate(2 * PAGE)
        file.flush()
        space.map(AT, 2 * PAGE, READ | WRITE, flags=MAP_SHARED, fd=file.fileno(), inode=1)
        space.write(AT + PAGE, b"through")
        assert os.pread(file.fileno(), 7, PAGE) == b"through"
        space.map(AT, 2 * PAGE, READ | WRITE, flags=MAP_PRIVATE, fd=file.fileno(), inode=1)
        space.write(AT, b"private")
        assert os.pread(file.fileno(), 7, 0) == bytes(7)


def test_past_the_end_of_a_truncated_file_is_a_fault_not_a_crash(space):
    with tempfile.TemporaryFile() as file:
        file.truncate(2 * PAGE)
        space.map(AT, 2 * PAGE, READ, flags=MAP_SHARED, fd=file.fileno())
        file.truncate(PAGE)
        with pytest.raises(MemoryFault):
            space.read(AT + PAGE, 1)


def test_growing_a_file_mapping_keeps_its_file(space):
    with tempfile.TemporaryFile() as file:
        file.truncate(3 * PAGE)
        os.pwrite(file.fileno(), b"third", 2 * PAGE)
        space.map(AT, PAGE, READ, flags=MAP_SHARED, fd=file.fileno(), inode=7)
        assert space.remap(AT, PAGE, 3 * PAGE, may_move=False, target=None) == AT
        assert space.read(AT + 2 * PAGE, 5) == b"third"
        assert listing(space) == [(AT, AT + 3 * PAGE, READ)]


def test_mremap_moves_when_the_neighbour_is_taken(space):
    space.map(AT, PAGE, READ | WRITE)
    space.map(AT + PAGE, PAGE, READ)
    space.write(AT, b"moved")
    with pytest.raises(MappingError) as caught:
        space.remap(AT, PAGE, 2 * PAGE, may_move=False, target=None)
    assert caught.value.errno == ENOMEM
    new = space.remap(AT, PAGE, 2 * PAGE, may_move=True, target=None)
    assert space.read(new, 5) == b"moved"
    assert space.read(new + PAGE, 5) == bytes(5)
    with pytest.raises(MemoryFault):
        space.read(AT, 1)


def test_mremap_of_pieces_still_moves_after_a_fork(space):
    space.map(AT, 4 * PAGE, READ | WRITE)
    space.write(AT + 3 * PAGE, b"tail")
    child = os.fork()
    if child == 0:
        space.protect(AT + PAGE, PAGE, READ)
        space.write(AT, b"head")
        space.protect(AT + PAGE, PAGE, READ | WRITE)
        new = space.remap(AT, 4 * PAGE, 8 * PAGE, may_move=True, target=0x4000_0000)
        ok = space.read(new, 4) == b"head" and space.read(new + 3 * PAGE, 4) == b"tail"
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert space.read(AT, 4) == bytes(4)


@pytest.mark.parametrize(
    ("old", "new", "target", "errno"),
    [
        (0, PAGE, None, EINVAL),
        (PAGE, 0, None, EINVAL),
        (5 * PAGE, PAGE, None, EFAULT),
        (PAGE, 2 * PAGE, AT, EINVAL),
        (PAGE, LIMIT, None, ENOMEM),
    ],
)
def test_mremap_refusals(space, old, new, target, errno):
    space.map(AT, 2 * PAGE, READ | WRITE)
    with pytest.raises(MappingError) as caught:
        space.remap(AT, old, new, may_move=True, target=target)
    assert caught.value.errno == errno


def test_layout_is_the_same_every_time():
    layouts = []
    for _ in range(2):
        space = FlatSpace()
        places = []
        for size in (PAGE, 5 * PAGE, 1 << 20):
            at = space.find_free(size)
            space.map(at, size, READ)
            places.append(at)
        layouts.append(places)
        space.close()
    assert layouts[0] == layouts[1]
    assert layouts[0] == sorted(layouts[0], reverse=True)


def test_find_free_prefers_the_hint_and_fills_gaps(space):
    assert space.find_free(PAGE, AT) == AT
    space.map(AT, PAGE, READ)
    assert space.find_free(PAGE, AT) != AT
    top = space.find_free(3 * PAGE)
    space.map(top, 3 * PAGE, READ)
    space.unmap(top + PAGE, PAGE)
    assert space.find_free(PAGE) == top + PAGE
    assert space.find_free(2 * PAGE) == top - 2 * PAGE
    with pytest.raises(MappingError):
        space.find_free(LIMIT)


def test_commit_limit_gives_enomem_and_counts_what_linux_counts():
    space = FlatSpace(commit_limit=4 * PAGE)
    try:
        space.map(AT, 3 * PAGE, READ | WRITE)
        space.map(AT, 3 * PAGE, READ | WRITE)
        with pytest.raises(MappingError) as caught:
            space.map(AT + 8 * PAGE, 2 * PAGE, READ | WRITE)
        assert caught.value.errno == ENOMEM
        space.map(AT + 8 * PAGE, 64 * PAGE, READ)
        with pytest.raises(MappingError):
            space.protect(AT + 8 * PAGE, 64 * PAGE, READ | WRITE)
        with pytest.raises(MappingError):
            space.remap(AT, 3 * PAGE, 6 * PAGE, may_move=True, target=None)
        space.map(
            AT + 99 * PAGE,
            64 * PAGE,
            READ | WRITE,
            flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
        )
        assert space.regions.committed == 3 * PAGE
        space.unmap(AT, PAGE)
        assert space.regions.committed == 2 * PAGE
    finally:
        space.close()


def test_code_changes_are_announced(space):
    seen = []
    space.on_code_change = lambda start, end: seen.append((start, end))
    space.map(AT, 2 * PAGE, READ | WRITE)
    assert seen == []
    space.protect(AT, PAGE, READ | EXEC)
    assert seen == [(AT, AT + PAGE)]
    space.protect(AT, 2 * PAGE, READ | WRITE)
    assert seen == [(AT, AT + PAGE)] * 2
    space.map(AT, PAGE, READ | EXEC)
    space.unmap(AT, 2 * PAGE)
    assert len(seen) == 4
    space.reset()
    assert seen[-1] == (0, LIMIT)


def test_write_protected_code_is_released_by_a_write(space):
    seen = []
    space.map(AT, 2 * PAGE, READ | WRITE | EXEC)
    space.write_protect(AT + 5)
    assert space.is_write_protected(AT + PAGE - 1)
    assert not space.is_write_protected(AT + PAGE)
    space.on_code_change = lambda start, end: seen.append((start, end))
    space.write(AT + 8, b"new code")
    assert seen == [(AT, AT + PAGE)]
    assert space.read(AT + 8, 8) == b"new code"
    assert not space.protected_pages


def test_write_protection_of_a_read_only_page_is_not_taken(space):
    space.map(AT, PAGE, READ | EXEC)
    space.write_protect(AT)
    assert not space.protected_pages
    assert space.release_write_protection() is False


def test_a_new_mapping_forgets_the_write_protection(space):
    space.map(AT, 4 * PAGE, READ | WRITE | EXEC)
    for page in range(4):
        space.write_protect(AT + page * PAGE)
    space.map(AT, PAGE, READ | WRITE)
    space.protect(AT + PAGE, PAGE, READ | WRITE | EXEC)
    space.unmap(AT + 2 * PAGE, PAGE)
    assert space.protected_pages == {AT + 3 * PAGE}
    view = space.view(AT, 2 * PAGE, write=True)
    view[0] = view[PAGE] = 1


def test_cstrings(space):
    space.map(AT, 2 * PAGE, READ | WRITE)
    space.write(AT + 2 * PAGE - 6, b"hello\0")
    assert space.read_cstring(AT + 2 * PAGE - 6) == b"hello"
    long = b"x" * 700
    space.write(AT + 100, long + b"\0")
    assert space.read_cstring(AT + 100) == long
    assert space.read_cstring(AT + 100, 700) is None
    space.write(AT + 2 * PAGE - 3, b"end")
    with pytest.raises(MemoryFault):
        space.read_cstring(AT + 2 * PAGE - 3)


def test_view_is_zero_copy(space):
    space.map(AT, PAGE, READ | WRITE)
    view = space.view(AT + 16, 32, write=True)
    view[:4] = b"zero"
    assert space.read(AT + 16, 4) == b"zero"
    space.write(AT + 16, b"copy")
    assert bytes(view[:4]) == b"copy"
    space.protect(AT, PAGE, READ)
    with pytest.raises(MemoryFault):
        space.view(AT, 1, write=True)


def test_big_copies(space):
    space.map(AT, 1 << 20, READ | WRITE)
    data = os.urandom((1 << 20) - 5)
    space.write(AT + 5, data)
    assert space.read(AT + 5, len(data)) == data
    assert space.read_some(AT + 5, 1 << 21) == data


def test_regions_of_one_file_merge_only_when_the_offsets_continue(space):
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * PAGE)
        for page, offset in ((0, 0), (1, 1), (2, 3)):
            space.map(
                AT + page * PAGE,
                PAGE,
                READ,
                flags=MAP_PRIVATE,
                fd=file.fileno(),
                offset=offset * PAGE,
                path="f",
                inode=9,
            )
        assert [(r.start, r.offset) for r in space.regions] == [
            (AT, 0),
            (AT + 2 * PAGE, 3 * PAGE),
        ]


PAGES = 24
page_numbers = st.integers(0, PAGES - 1)
lengths = st.integers(1, 6)
operations = st.one_of(
    st.tuples(st.just("map"), page_numbers, lengths, st.sampled_from([0, 1, 3, 5, 7])),
    st.tuples(st.just("unmap"), page_numbers, lengths, st.just(0)),
    st.tuples(st.just("protect"), page_numbers, lengths, st.sampled_from([0, 1, 3, 5, 7])),
    st.tuples(st.just("write"), page_numbers, lengths, st.integers(1, 255)),
    st.tuples(st.just("lock"), page_numbers, lengths, st.just(0)),
    st.tuples(st.just("move"), page_numbers, lengths, st.integers(0, PAGES - 6)),
)


@given(st.lists(operations, max_size=30))
@settings(max_examples=150, deadline=None)
def test_random_operations_match_a_page_by_page_model(steps):
    space = FlatSpace()
    model: dict[int, list[int]] = {}  # page -> [prot, byte]
    try:
        for name, page, length, value in steps:
            at, size = AT + page * PAGE, length * PAGE
            span = range(page, page + length)
            if name == "map":
                space.map(at, size, value)
                model.update({p: [value, 0] for p in span})
            elif name == "unmap":
                space.unmap(at, size)
                for p in span:
                    model.pop(p, None)
            elif name == "protect":
                try:
                    space.protect(at, size, value)
                except MappingError:
                    assert any(p not in model for p in span)
                for p in span:
                    if p not in model:
                        break
                    model[p][0] = value
            elif name == "lock":
                for p in span:
                    space.write_protect(AT + p * PAGE)
            elif name == "move":
                check_move(space, model, page, length, value)
            elif name == "write":
                for p in span:
                    try:
                        space.write(AT + p * PAGE + 7, bytes([value]))
                    except MemoryFault:
                        assert p not in model or not model[p][0] & WRITE
                    else:
                        model[p][1] = value
        for p in range(PAGES + 12):
            if p in model and model[p][0]:
                assert space.read(AT + p * PAGE + 7, 1)[0] == model[p][1]
            else:
                with pytest.raises(MemoryFault):
                    space.read(AT + p * PAGE + 7, 1)
        flat = {
            p: r.prot
            for r in space.regions
            for p in range((r.start - AT) // PAGE, (r.end - AT) // PAGE)
        }
        assert flat == {p: entry[0] for p, entry in model.items()}
        for left, right in pairwise(space.regions):
            assert left.end <= right.start
            assert not left.continues(right)
        assert space.regions.committed == PAGE * sum(e[0] & WRITE != 0 for e in model.values())
    finally:
        space.close()


def check_move(space, model, page, length, target):
    span = range(page, page + length)
    at, to, size = AT + page * PAGE, AT + target * PAGE, length * PAGE
    refused = False
    try:
        space.remap(at, size, size, may_move=True, target=to)
    except MappingError:
        refused = True
    if refused:
        overlap = not (target + length <= page or page + length <= target)
        mixed = len({model[p][0] if p in model else None for p in span}) > 1
        assert overlap or mixed or page not in model
        return
    moved = [model.pop(p) for p in span]
    model.update({target + i: entry for i, entry in enumerate(moved)})


def test_two_spaces_live_side_by_side():
    one, two = FlatSpace(), FlatSpace()
    try:
        for space, byte in ((one, b"1"), (two, b"2")):
            space.map(AT, PAGE, READ | WRITE)
            space.write(AT, byte)
        assert (one.read(AT, 1), two.read(AT, 1)) == (b"1", b"2")
        assert abs(one.base - two.base) >= LIMIT
    finally:
        one.close()
        two.close()


def test_host_page_size_is_the_guests():
    assert host_mmap.PAGESIZE == PAGE
