"""Split virtqueues: what the specification wants, and everything a driver must not do."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.dev.virtio.queue import Chain, Queue, QueueError, Segment, split, total
from hartwood.errors import MemoryFault
from hartwood.mem.ram import Ram
from unit.virtio_driver import (
    BASE,
    F_EVENT_IDX,
    F_INDIRECT,
    INDIRECT,
    MEMORY,
    NEXT,
    WRITE,
    Ring,
    memory,
)

SIZE, DATA = 8, BASE + 0x8000
BOTH = F_INDIRECT | F_EVENT_IDX


class Pair:
    """Both ends of a queue."""

    def __init__(self, features: int = BOTH, size: int = SIZE) -> None:
        self.ram = memory()
        self.ring = Ring(self.ram, BASE + 0x1000, size)
        ring = self.ring
        self.queue = Queue(self.ram, size, ring.descriptors, ring.driver, ring.device, features)

    def table(self, *entries: tuple[int, int, int, int], at: int = BASE + 0x4000) -> int:
        """An indirect table."""
        self.ram.write(at, b"".join(struct.pack("<QIHH", *entry) for entry in entries))
        return at


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_an_empty_queue_has_nothing(pair: Pair) -> None:
    assert pair.queue.pop() is None
    assert list(pair.queue.chains()) == []
    assert pair.queue.push([]) is False


def test_a_chain_is_readable_then_writable(pair: Pair) -> None:
    pair.ring.describe(3, DATA, 16, NEXT, 1)
    pair.ring.describe(1, DATA + 100, 20, NEXT | WRITE, 7)
    pair.ring.describe(7, DATA + 200, 1, WRITE, 99)  # where it ends, `next` means nothing
    pair.ring.offer(3)
    chain = Chain(3, [Segment(DATA, 16)], [Segment(DATA + 100, 20), Segment(DATA + 200, 1)])
    assert pair.queue.pop() == chain
    assert pair.queue.pop() is None


def test_an_indirect_table_is_a_chain(pair: Pair) -> None:
    """Descriptors may come before it, its own write flag means nothing (2.7.5.3.2), and it may be
    as long as the queue."""
    table = pair.table(
        (DATA, 4, NEXT, 2), (DATA + 8, 4, WRITE, 0), (DATA + 4, 4, NEXT, 1), (1, 1, 77, 77)
    )
    pair.ring.describe(0, DATA + 32, 2, NEXT, 5)
    pair.ring.describe(5, table, 64, INDIRECT | WRITE)
    pair.ring.offer(0)
    chain = pair.queue.pop()
    assert chain is not None
    assert chain.readable == [Segment(DATA + 32, 2), Segment(DATA, 4), Segment(DATA + 4, 4)]
    assert chain.writable == [Segment(DATA + 8, 4)]
    pair.table(*((DATA, 1, NEXT if n < SIZE - 1 else 0, n + 1) for n in range(SIZE)))
    pair.ring.describe(0, table, 16 * SIZE, INDIRECT)
    pair.ring.offer(0)
    chain = pair.queue.pop()
    assert chain is not None
    assert total(chain.readable) == SIZE


Entry = tuple[int, int, int, int]
TABLE = BASE + 0x4000
#: Descriptors from 0 on, and entries of a table that the first may lead to.
WRONG: dict[str, tuple[list[Entry], list[Entry]]] = {
    "next out of range": ([(DATA, 1, NEXT, SIZE)], []),
    "loop of one": ([(DATA, 1, NEXT, 0)], []),
    "loop of two": ([(DATA, 1, NEXT, 1), (DATA, 1, NEXT, 0)], []),
    "no bytes": ([(DATA, 0, 0, 0)], []),
    "readable after writable": ([(DATA, 1, NEXT | WRITE, 1), (DATA, 1, 0, 0)], []),
    "more than 2^32 bytes": ([(BASE, 0xFFFF_FFFF, NEXT, 1), (BASE, 2, 0, 0)], []),
    "table of no entries": ([(TABLE, 0, INDIRECT, 0)], []),
    "table of odd size": ([(TABLE, 24, INDIRECT, 0)], [(DATA, 1, 0, 0)]),
    "table that goes on": ([(TABLE, 16, INDIRECT | NEXT, 1)], [(DATA, 1, 0, 0)]),
    "table in a table": ([(TABLE, 16, INDIRECT, 0)], [(TABLE, 16, INDIRECT, 0)]),
    "table that leaves itself": ([(TABLE, 16, INDIRECT, 0)], [(DATA, 1, NEXT, 1)]),
    "table that loops": ([(TABLE, 16, INDIRECT, 0)], [(DATA, 1, NEXT, 0)]),
    "table longer than the queue": (
        [(TABLE, 16 * (SIZE + 1), INDIRECT, 0)],
        [(DATA, 1, NEXT if n < SIZE else 0, n + 1) for n in range(SIZE + 1)],
    ),
    "chain longer than the queue by its table": (
        [(DATA, 1, NEXT, 1), (TABLE, 16 * SIZE, INDIRECT, 0)],
        [(DATA, 1, NEXT if n < SIZE - 1 else 0, n + 1) for n in range(SIZE)],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_driver_must_not_do(name: str, pair: Pair) -> None:
    descriptors, table = WRONG[name]
    for index, entry in enumerate(descriptors):
        pair.ring.describe(index, *entry)
    pair.table(*table, at=TABLE)
    pair.ring.offer(0)
    with pytest.raises(QueueError):
        list(pair.queue.chains())


@pytest.mark.parametrize("index", [SIZE + 1, 0x8000, 0xFFFF])
def test_an_index_that_jumps(index: int, pair: Pair) -> None:
    pair.ring.put_word(pair.ring.driver + 2, index)
    with pytest.raises(QueueError, match="buffers in a queue of 8"):
        pair.queue.pop()


@pytest.mark.parametrize("head", [SIZE, 0xFFFF])
def test_a_head_out_of_range(head: int, pair: Pair) -> None:
    pair.ring.offer(head)
    with pytest.raises(QueueError, match=f"descriptor {head} of 8"):
        pair.queue.pop()


def test_a_table_has_to_be_negotiated() -> None:
    pair = Pair(features=0)
    pair.ring.describe(0, pair.table((DATA, 1, 0, 0)), 16, INDIRECT)
    pair.ring.offer(0)
    with pytest.raises(QueueError, match="not negotiated"):
        pair.queue.pop()


def test_a_table_is_in_memory(pair: Pair) -> None:
    for at in (0, 0x1000_0000, BASE + MEMORY - 8, (1 << 64) - 16):
        pair.ring.describe(0, at, 16, INDIRECT)
        pair.ring.offer(0)
        with pytest.raises(MemoryFault):
            pair.queue.pop()


def test_no_more_is_taken_than_the_queue_holds(pair: Pair) -> None:
    """However often the driver offers what it has not got back."""
    pair.ring.describe(0, DATA, 1)
    for _ in range(SIZE):
        pair.ring.offer(0)
        assert pair.queue.pop()
    pair.ring.offer(0)
    with pytest.raises(QueueError, match=f"{SIZE + 1} buffers"):
        pair.queue.pop()


@pytest.mark.parametrize("size", [0, 3, 12, 1 << 16, -8])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(QueueError):
        Queue(memory(), size, BASE, BASE + 0x1000, BASE + 0x2000)


@pytest.mark.parametrize("shift", [(8, 0, 0), (0, 1, 0), (0, 0, 2)])
def test_rings_are_aligned(shift: tuple[int, int, int]) -> None:
    a, b, c = shift
    with pytest.raises(QueueError, match="aligned"):
        Queue(memory(), 8, BASE + a, BASE + 0x1000 + b, BASE + 0x2000 + c)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_rings_are_in_memory(place: int) -> None:
    at = [BASE, BASE + 0x1000, BASE + 0x2000]
    for wrong in (0, BASE - 16, BASE + MEMORY - 16, (1 << 64) - 16):
        at[place] = wrong
        with pytest.raises(MemoryFault):
            Queue(memory(), 8, at[0], at[1], at[2])


def test_buffers_are_given_back_in_one_update(pair: Pair) -> None:
    for head in (4, 2, 6):
        pair.ring.describe(head, DATA, 1)
        pair.ring.offer(head)
    assert [chain.head for chain in pair.queue.chains()] == [4, 2, 6]
    pair.queue.push([(2, 0), (6, 100), (4, 1 << 40)])
    assert pair.ring.used() == [(2, 0), (6, 100), (4, 0xFFFF_FFFF)]


def test_indices_go_round(pair: Pair) -> None:
    """Some 70,000 buffers, in batches, through a queue of eight: 16-bit indices wrap."""
    ring, queue, random = pair.ring, pair.queue, Random(1)
    for head in range(SIZE):
        ring.describe(head, DATA + head, 1, WRITE)
    for _ in range(16_000):
        heads = random.sample(range(SIZE), random.randrange(1, SIZE + 1))
        for head in heads:
            ring.offer(head)
        chains = list(queue.chains())
        assert [chain.head for chain in chains] == heads
        assert ring.avail_event == ring.added & 0xFFFF
        queue.push((chain.head, 1) for chain in chains)
        assert ring.used() == [(head, 1) for head in heads]
    assert ring.added > 1 << 16


# Notifications (2.7.7 and 2.7.10).
def used(pair: Pair, count: int) -> bool:
    for _ in range(count):
        pair.ring.describe(0, DATA, 1)
        pair.ring.offer(0)
        pair.queue.pop()
    return pair.queue.push([(0, 0)] * count)


def test_without_events_a_flag_keeps_interrupts_away() -> None:
    pair = Pair(features=0)
    assert used(pair, 1)
    pair.ring.put_word(pair.ring.driver, 1)
    assert not used(pair, 1)
    pair.ring.want_event(2)
    assert not used(pair, 3)
    assert pair.ring.avail_event == 0  # which is not there


def test_an_event_is_one_interrupt(pair: Pair) -> None:
    pair.ring.put_word(pair.ring.driver, 1)  # means nothing now
    pair.ring.want_event(2)
    assert [used(pair, 1) for _ in range(5)] == [False, False, True, False, False]
    pair.ring.want_event(7)
    assert used(pair, 4)
    pair.ring.want_event(20)
    assert not used(pair, 8)


@given(st.integers(0, 0xFFFF), st.integers(1, SIZE), st.integers(0, 0xFFFF))
def test_an_event_is_where_the_index_passes(start: int, count: int, event: int) -> None:
    """The formula is as good as counting."""
    pair = Pair()
    pair.queue.next_available = pair.queue.next_used = start
    pair.ring.added = start
    pair.ring.put_word(pair.ring.driver + 2, start)
    pair.ring.want_event(event)
    passed = {start + step & 0xFFFF for step in range(count)}
    assert used(pair, count) == (event in passed)


def test_a_buffer_that_comes_while_we_ask_to_be_notified_is_seen(pair: Pair) -> None:
    assert not pair.queue.arm()
    pair.ring.describe(0, DATA, 1)
    pair.ring.offer(0)
    assert pair.queue.arm()
    chains = pair.queue.chains()
    assert next(chains).head == 0
    pair.ring.offer(0)
    assert next(chains).head == 0


# The bytes of chains.
def test_bytes_are_gathered_and_scattered(pair: Pair) -> None:
    segments = [Segment(DATA, 3), Segment(DATA + 10, 4), Segment(DATA + 20, 2)]
    assert pair.queue.scatter(segments, b"abcdefg") == 7
    assert pair.queue.scatter([], b"abc") == 0
    assert pair.queue.gather(segments) == b"abcdefg\0\0"
    assert pair.queue.scatter(segments, b"0123456789") == 9
    assert pair.queue.gather(segments) == b"012345678"
    assert pair.ram.read(DATA, 22) == b"012\0\0\0\0\0\0\x003456\0\0\0\0\0\x0078"


def test_views_are_the_memory(pair: Pair) -> None:
    segments = [Segment(DATA, 3), Segment(DATA + 10, 4)]
    first, second = pair.queue.views(segments)
    first[:], second[:] = b"abc", b"defg"
    assert pair.queue.gather(segments) == b"abcdefg"
    with pytest.raises(MemoryFault):
        pair.queue.views([Segment(BASE + MEMORY - 1, 2)])
    with pytest.raises(MemoryFault):
        pair.queue.gather([Segment(0, 1)])
    with pytest.raises(MemoryFault):
        pair.queue.scatter([Segment(0x1000_0000, 8)], b"x")


class Forgetful(Ram):
    """Memory that remembers what was discarded."""

    def __init__(self) -> None:
        super().__init__(MEMORY)
        self.map(BASE, MEMORY)
        self.forgotten: list[tuple[int, int]] = []

    def discard(self, at: int, size: int) -> None:
        self.forgotten.append((at, size))
        super().discard(at, size)


def test_code_where_data_landed_is_forgotten() -> None:
    ram = Forgetful()
    queue = Queue(ram, 8, BASE, BASE + 0x1000, BASE + 0x2000)
    queue.landed([Segment(DATA, 512), Segment(DATA + 4096, 1)])
    assert ram.forgotten == [(DATA, 512), (DATA + 4096, 1)]


@given(st.lists(st.integers(1, 9), max_size=6), st.integers(0, 60))
def test_a_split_is_a_split(sizes: list[int], size: int) -> None:
    segments, at = [], DATA
    for length in sizes:
        segments.append(Segment(at, length))
        at += length + 3
    first, rest = split(segments, size)
    spread = [at + n for at, length in segments for n in range(length)]
    assert [at + n for at, length in first for n in range(length)] == spread[:size]
    assert [at + n for at, length in rest for n in range(length)] == spread[size:]
    assert all(length for _, length in first + rest)


@given(st.integers(0, 1 << 32))
def test_random_rings_give_chains_or_errors(seed: int) -> None:
    """Structure-aware noise: a chain that comes out keeps every rule."""
    random, pair = Random(seed), Pair(features=random_features(seed))
    for index in range(SIZE):
        at = random.choice([DATA, BASE + 0x1000, BASE + 0x4000, 0, random.getrandbits(64)])
        size = random.choice([1, 16, 32, 48, random.getrandbits(32), 0])
        flags = random.choice([0, 0, 1, 1, 2, 3, 4, random.getrandbits(16)])
        pair.ring.describe(
            index, at, size, flags, random.choice([index + 1, random.getrandbits(4)])
        )
    pair.table(*((DATA, 5, random.randrange(8), random.randrange(5)) for _ in range(4)))
    for _ in range(random.randrange(1, SIZE)):
        pair.ring.offer(random.randrange(SIZE))
    try:
        for chain in pair.queue.chains():
            assert 0 < len(chain.readable) + len(chain.writable) <= SIZE
            assert 0 < total(chain.readable + chain.writable) <= 1 << 32
            assert 0 <= chain.head < SIZE
    except (QueueError, MemoryFault):
        pass


def random_features(seed: int) -> int:
    return BOTH if seed % 4 else 0
