"""Memory of a whole machine as Python sees it: numbers, slices, blocks; Unicorn's beside it.

Selectors: `machine_memory_bench`; groups machine_reads, machine_writes, machine_slices,
machine_copies, machine_blocks. `naive` goes byte by byte.
"""

from __future__ import annotations

import ctypes
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hartwood
from hartwood.lab import Skip, workload
from hartwood.lab.workloads import _programs

FAMILY = "machine_memory_bench"
AT, SIZE, SPAN = 0x8000_0000, 4 << 20, 1 << 16
COUNT = 20
#: Python does not do less than this in one instruction of its own.
FASTEST = 1e-8
#: Two vectors of 64 bytes a cycle at 6 GHz.
FASTEST_BYTE = 1 / (128 * 6e9)
MIB, BLOCK = 1 << 20, 4096
NODES = Path("/sys/devices/system/node")
NOT_GATED = "another way of the same group stands for it in the gate"


def _machine(data: bytes) -> Any:
    """The memory of a machine that holds `data` at `AT`."""
    memory = hartwood.Machine("riscv64").mem
    memory.map(AT, SIZE)
    memory.write(AT, data)
    return memory


def _unicorn(data: bytes) -> Any:
    unicorn = _programs.unicorn()
    emulator = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
    emulator.mem_map(AT, SIZE)
    emulator.mem_write(AT, data)
    return emulator


def _numbers() -> list[dict[str, object]]:
    """Numbers of every width, and words that are not aligned or that are put together bytewise."""
    ways = [(bits, "aligned") for bits in (8, 16, 32, 64)] + [(64, "unaligned"), (64, "naive")]
    return [{"bits": bits, "way": way} for bits, way in ways]


def _gated(bits: int, way: str) -> bool:
    return bits == 64 and way == "aligned"


def _places(rng: random.Random, width: int, odd: bool = False) -> list[int]:
    return [AT + slot * width + odd for slot in rng.sample(range(SPAN // width - 1), COUNT)]


@workload(
    "machine/read/u{bits}/{way}", unit="reads", per_call=COUNT, component="memory", family=FAMILY,
    group="machine_reads", bound=FASTEST, params=_numbers(), gate=_gated, why=NOT_GATED,
)  # fmt: skip
def read(rng: random.Random, bits: int, way: str) -> tuple[Callable[[], list[int]], list[int]]:
    """Numbers at random places; `naive` takes a lock for each byte."""
    width, data = bits // 8, rng.randbytes(SPAN)
    places = _places(rng, width, way == "unaligned")
    memory, lock = _machine(data), threading.Lock()

    def naive(at: int) -> int:
        value = 0
        for n in range(width):
            with lock:
                value |= memory.read(at + n, 1)[0] << 8 * n
        return value

    one = naive if way == "naive" else getattr(memory, f"read_u{bits}")
    words = [data[at - AT : at - AT + width] for at in places]
    return lambda: [one(at) for at in places], [int.from_bytes(word, "little") for word in words]


def _verifier(data: bytes, words: list[tuple[int, bytes]], get: Any) -> Callable[[object], None]:
    """What sees whether memory is `data` with `words` written over it."""
    after = bytearray(data)
    for at, word in words:
        after[at - AT : at - AT + len(word)] = word

    def verify(count: object) -> None:
        assert count == len(words)
        assert get(AT, len(data)) == after

    return verify


@workload(
    "machine/write/u{bits}/{way}", unit="writes", per_call=COUNT, component="memory",
    family=FAMILY, group="machine_writes", bound=FASTEST, params=_numbers(), gate=_gated,
    why=NOT_GATED,
)  # fmt: skip
def write(
    rng: random.Random, bits: int, way: str
) -> tuple[Callable[[], int], Callable[[object], None]]:
    """Numbers to random places; `naive` takes a lock for each byte."""
    width, data, lock = bits // 8, rng.randbytes(SPAN), threading.Lock()
    words = [(at, rng.getrandbits(bits)) for at in _places(rng, width, way == "unaligned")]
    raw = [(at, value.to_bytes(width, "little")) for at, value in words]
    memory = _machine(data)
    put = getattr(memory, f"write_u{bits}")

    def call() -> int:
        for at, value in words:
            put(at, value)
        return len(words)

    def naive() -> int:
        for at, word in raw:
            for n in range(width):
                with lock:
                    memory.write(at + n, word[n : n + 1])
        return len(raw)

    return naive if way == "naive" else call, _verifier(data, raw, memory.read)


@workload(
    "machine/view/{size}", unit="views", per_call=COUNT, component="memory", family=FAMILY,
    group="machine_slices", bound=FASTEST, params=[{"size": 8}, {"size": SIZE // 2}],
    gate=lambda size: size == 8, why=NOT_GATED,
)  # fmt: skip
def view(rng: random.Random, size: int) -> tuple[Callable[[], list[memoryview]], object]:
    """Slices at random places: no copy, so their time should not depend on their size."""
    memory = _machine(data := rng.randbytes(SIZE))
    places = [AT + rng.randrange(SIZE - size) for _ in range(COUNT)]
    answer = [data[at - AT : at - AT + size] for at in places]
    return lambda: [memory[at : at + size] for at in places], answer


@workload(
    "machine/numa/{place}", unit="bytes", per_call=MIB, component="memory", family=FAMILY,
    group="machine_copies", bound=FASTEST_BYTE, gate=lambda place: place == "local",
    params=[{"place": place} for place in ("local", "remote", "interleaved")], why=NOT_GATED,
)  # fmt: skip
def numa(rng: random.Random, place: str) -> tuple[Callable[[], bytes], bytes]:
    """A mebibyte copied out by a processor of the first node, from memory of that node, of the
    last one, and of all by turns. Raises `Skip` where there is one node."""
    nodes = sorted(int(each.name[4:]) for each in NODES.glob("node[0-9]*"))
    home = [cpu for cpu in os.sched_getaffinity(0) if (NODES / f"node0/cpu{cpu}").exists()]
    if not home or (len(nodes) < 2 and place != "local"):
        raise Skip("this machine, or what of it is ours, has no second NUMA node")
    memory = hartwood.Machine("riscv64").mem
    memory.map(AT, MIB)
    memory.place(AT, MIB, {"local": nodes[:1], "remote": nodes[-1:]}.get(place, nodes))
    memory.write(AT, data := rng.randbytes(MIB))

    def call() -> bytes:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, home)
        answer: bytes = memory.read(AT, MIB)
        os.sched_setaffinity(0, before)
        return answer

    return call, data


#: What is done to a block: the call, and the same one byte at a time.
BLOCKS: dict[str, tuple[Callable[[Any], object], Callable[[Any], object]]] = {
    "compare": (
        lambda memory: memory.compare(AT, AT + SIZE // 2, BLOCK),
        lambda memory: any(
            memory.read_u8(AT + n) > memory.read_u8(AT + SIZE // 2 + n) for n in range(BLOCK)
        ),
    ),
    "fill": (
        lambda memory: memory.fill(AT, BLOCK, 0),
        lambda memory: [memory.write_u8(AT + n, 0) for n in range(BLOCK)] and None,
    ),
}


@workload(
    "machine/{what}/{way}", unit="bytes", per_call=BLOCK,
    component="memory", family=FAMILY, group="machine_blocks", bound=FASTEST_BYTE / 2,
    gate=lambda what, way: (what, way) == ("compare", "block"), why=NOT_GATED,
    params=[
        {"what": what, "way": way}
        for what in BLOCKS
        for way in ("block", "naive")
    ],
)  # fmt: skip
def block(
    rng: random.Random, what: str, way: str
) -> tuple[Callable[[], object], Callable[[object], None]]:
    """Comparing and filling, by the host's vectors and by single bytes: the byte that
    decides is the last."""
    memory = _machine(b"")
    memory.write_u8(AT + BLOCK - 1, 1)
    inner = BLOCKS[what][way == "naive"]
    expected = {"compare": 1, "fill": None}[what]

    def verify(answer: object) -> None:
        assert answer == expected
        assert memory.read_u8(AT + BLOCK - 1) == (what != "fill")

    return lambda: inner(memory), verify


#: Who does what, and how often a call does it.
PEERS = {
    "memory-read": (COUNT, ("hartwood", "unicorn")),
    "memory-write": (COUNT, ("hartwood", "unicorn")),
    "memory-copy": (MIB, ("hartwood", "unicorn", "memmove")),
}


@workload(
    "peer/{what}/{arm}", unit="operations", per_call=lambda what, arm: PEERS[what][0],
    component="memory", family="peer_bench", group="peers_{what}", bound=FASTEST_BYTE, gate=False,
    why="a peer's speed is not ours to defend", peer="{arm}",
    params=[{"what": what, "arm": arm} for what, (_, arms) in PEERS.items() for arm in arms],
)  # fmt: skip
def peer(rng: random.Random, what: str, arm: str) -> tuple[Callable[[], object], object]:
    """8 bytes at random places, a number with us and bytes with Unicorn as its calls have it, and
    a mebibyte, which memmove(3) copies within the host."""
    data = rng.randbytes(MIB)
    if arm == "memmove":
        source, target = ctypes.create_string_buffer(data, MIB), ctypes.create_string_buffer(MIB)
        return lambda: ctypes.memmove(target, source, MIB), lambda _: _equal(target.raw, data)
    memory = _machine(data) if arm == "hartwood" else _unicorn(data)
    get = memory.read if arm == "hartwood" else memory.mem_read
    if what == "memory-copy":
        return lambda: get(AT, MIB), data
    places = _places(rng, 8)
    raw = [data[at - AT : at - AT + 8] for at in places]
    if what == "memory-read":
        if arm == "unicorn":
            return lambda: [get(at, 8) for at in places], raw
        number = memory.read_u64
        return lambda: [number(at) for at in places], [int.from_bytes(w, "little") for w in raw]
    values = [rng.randbytes(8) for _ in places]
    put = memory.mem_write if arm == "unicorn" else memory.write_u64
    items: list[Any] = values if arm == "unicorn" else [int.from_bytes(v, "little") for v in values]
    given = list(zip(places, items, strict=True))

    def write() -> int:
        for at, item in given:
            put(at, item)
        return len(given)

    return write, _verifier(data, list(zip(places, values, strict=True)), get)


def _equal(left: object, right: object) -> None:
    assert left == right
