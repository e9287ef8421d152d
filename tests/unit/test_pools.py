"""Pools: nothing is handed out twice, the limit holds, a wrong release is an error; threads too."""

from __future__ import annotations

import random
from array import array
from mmap import PAGESIZE
from threading import Barrier, Thread

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import hartwood
from hartwood import mem
from hartwood.mem import (
    AsyncBufferPool,
    MemoryPool,
    PageTableEntryPool,
    StackPool,
    TlbEntryPool,
)

CAPACITY = 5


def pools() -> list[StackPool]:
    """One pool of each kind."""
    return [
        StackPool(capacity=CAPACITY, factory=lambda: bytearray(16)),
        TlbEntryPool(capacity=CAPACITY, size=8),
        PageTableEntryPool(capacity=CAPACITY),
        AsyncBufferPool(capacity=CAPACITY, size=5000),
    ]


NAMES = [type(pool).__name__ for pool in pools()]


@pytest.mark.parametrize("pool", pools(), ids=NAMES)
def test_a_pool_lends_each_item_once_up_to_its_limit(pool: MemoryPool) -> None:
    items = [pool.acquire() for _ in range(CAPACITY)]
    assert len({id(item) for item in items}) == CAPACITY
    with pytest.raises(hartwood.PoolExhausted, match=f"all {CAPACITY} items"):
        pool.acquire()
    pool.release(items[2])
    assert pool.acquire() is items[2]


@pytest.mark.parametrize("pool", pools(), ids=NAMES)
def test_double_and_foreign_releases_are_errors(pool: StackPool, request) -> None:
    item = pool.acquire()
    pool.release(item)
    with pytest.raises(hartwood.PoolMisuse):
        pool.release(item)
    other = next(other for other in pools() if type(other) is type(pool))
    with pytest.raises(hartwood.PoolMisuse):
        pool.release(other.acquire())
    assert pool.in_use == 0
    assert pool.acquire() is item


def test_the_last_in_is_the_first_out() -> None:
    pool = StackPool(capacity=3, factory=object)
    first, second = pool.acquire(), pool.acquire()
    pool.release(first)
    pool.release(second)
    assert pool.acquire() is second
    assert pool.acquire() is first


def test_equal_items_are_told_apart() -> None:
    pool = StackPool(capacity=2, factory=lambda: [0])
    one, two = pool.acquire(), pool.acquire()
    assert one == two
    pool.release(one)
    with pytest.raises(hartwood.PoolMisuse):
        pool.release(one)
    pool.release(two)


def test_a_factory_that_fails_takes_no_place() -> None:
    answers = iter([MemoryError("no room"), object(), object()])

    def factory() -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    pool = StackPool(capacity=1, factory=factory)
    with pytest.raises(MemoryError):
        pool.acquire()
    assert pool.in_use == 0
    assert pool.acquire() is not None


def test_a_factory_that_repeats_itself_is_found_out() -> None:
    item = object()
    pool = StackPool(capacity=2, factory=lambda: item)
    pool.acquire()
    with pytest.raises(hartwood.PoolMisuse, match="one item twice"):
        pool.acquire()


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_pool_of_nothing_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        StackPool(capacity=capacity, factory=object)


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TlbEntryPool(capacity=1, size=0)
    with pytest.raises(ValueError, match="at least 1"):
        AsyncBufferPool(capacity=1, size=0)


def test_a_recycled_tlb_holds_nothing() -> None:
    pool = TlbEntryPool(capacity=1, size=4)
    tlb = pool.acquire()
    assert tlb == array("Q", [2**64 - 1] * 8)
    tlb[3] = 0x8000_0000
    pool.release(tlb)
    assert pool.acquire() == array("Q", [2**64 - 1] * 8)
    tlb.append(1)
    with pytest.raises(hartwood.PoolMisuse, match="comes back with 9"):
        pool.release(tlb)


def test_a_page_for_page_tables_is_zero() -> None:
    pool = PageTableEntryPool(capacity=1)
    page = pool.acquire()
    assert page.nbytes == 4096
    page[8:16] = b"\xff" * 8
    pool.release(page)
    assert bytes(pool.acquire()) == bytes(4096)


@pytest.mark.parametrize("size", [1, 512, 4096, 5000, 1 << 20])
def test_buffers_begin_on_a_page(size: int) -> None:
    import ctypes

    pool = AsyncBufferPool(capacity=2, size=size)
    for buffer in (pool.acquire(), pool.acquire()):
        assert buffer.nbytes == size
        assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % PAGESIZE == 0
        buffer[:] = b"\x5a" * size


def test_buffers_are_neighbours() -> None:
    import ctypes

    pool = AsyncBufferPool(capacity=5, size=PAGESIZE + 1)
    held = [pool.acquire() for _ in range(5)]
    places = [ctypes.addressof(ctypes.c_char.from_buffer(buffer)) for buffer in held]
    assert [at - places[0] for at in places] == [2 * PAGESIZE * n for n in range(5)]
    for n, buffer in enumerate(held):
        buffer[:] = bytes([n]) * len(buffer)
    assert [buffer[-1] for buffer in held] == [0, 1, 2, 3, 4]
    held.pop()[:4] = b"last"
    with pytest.raises(hartwood.PoolExhausted):
        pool.acquire()
    del pool  # a buffer that is still held stays what it is
    assert bytes(held[1][:2]) == b"\1\1"


def test_the_limit_holds_while_a_factory_is_at_work() -> None:
    """Somebody else makes the last item, and an item is on its way back."""
    inner: list[object] = []

    def factory() -> object:
        if not inner:
            inner.append(None)
            inner.append(pool.acquire())  # from within: the second of two
            with pytest.raises(hartwood.PoolExhausted):
                pool.acquire()
        return object()

    pool = StackPool(capacity=2, factory=factory)
    item = pool.acquire()
    assert pool.in_use == 2
    pool.release(item)
    pool.release(inner[1])
    assert {id(pool.acquire()), id(pool.acquire())} == {id(item), id(inner[1])}


def test_the_door_is_complete() -> None:
    for name in mem.__all__:
        assert getattr(mem, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = mem.nothing


class PoolMachine(RuleBasedStateMachine):
    """Random acquires and releases, right and wrong, against a model of who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.held: list[list[int]] = []
        self.back: list[list[int]] = []
        self.pool = StackPool(capacity=CAPACITY, factory=self.factory)

    def factory(self) -> list[int]:
        self.made += 1
        return [self.made]

    @precondition(lambda self: len(self.held) < CAPACITY)
    @rule()
    def acquire(self) -> None:
        item = self.pool.acquire()
        assert not any(item is other for other in self.held)
        assert bool(self.back) == any(item is other for other in self.back)
        self.back = [other for other in self.back if other is not item]
        self.held.append(item)

    @precondition(lambda self: len(self.held) == CAPACITY)
    @rule()
    def acquire_too_many(self) -> None:
        with pytest.raises(hartwood.PoolExhausted):
            self.pool.acquire()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        item = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.pool.release(item)
        self.back.append(item)

    @precondition(lambda self: self.back)
    @rule(data=st.data())
    def release_again(self, data: st.DataObject) -> None:
        with pytest.raises(hartwood.PoolMisuse):
            self.pool.release(data.draw(st.sampled_from(self.back)))

    @rule()
    def release_foreign(self) -> None:
        with pytest.raises(hartwood.PoolMisuse):
            self.pool.release([1])

    @invariant()
    def limits_hold(self) -> None:
        assert self.made <= CAPACITY
        assert self.pool.in_use == len(self.held)


PoolMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestPoolMachine = PoolMachine.TestCase


@pytest.mark.parametrize("pool", pools(), ids=NAMES)
def test_threads_never_share_an_item_and_never_pass_the_limit(pool: StackPool) -> None:
    threads, rounds = 8, 300
    owners: dict[int, int] = {}
    faults: list[str] = []
    exhausted = []
    start = Barrier(threads)

    def work(number: int) -> None:
        rng = random.Random(number)
        start.wait()
        for _ in range(rounds):
            held = []
            for _ in range(rng.randrange(1, 4)):
                try:
                    item = pool.acquire()
                except hartwood.PoolExhausted:
                    exhausted.append(number)
                    continue
                if owners.setdefault(id(item), number) != number:
                    faults.append("two owners")
                held.append(item)
            if pool.in_use > CAPACITY:
                faults.append("over the limit")
            for item in held:
                del owners[id(item)]
                pool.release(item)

    workers = [Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not faults
    assert pool.in_use == 0
    assert len({id(pool.acquire()) for _ in range(CAPACITY)}) == CAPACITY
