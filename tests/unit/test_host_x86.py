"""Every form of memory access the x86-64 text offers, run on real memory against Python ints."""

from __future__ import annotations

import ctypes
import struct
import threading
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.errors import HostError
from hartwood.jit import host_x86
from hartwood.jit.arena import CodeArena
from hartwood.jit.image import Image
from native_code import compile_image, compile_object

SIZES = (1, 2, 4, 8)
U64 = ctypes.c_uint64
Quad = ctypes.CFUNCTYPE(U64, U64, U64, U64)


def wrap(name: str, result: str, line: str, *, before: str = "", after: str = "%w = %v") -> str:
    """`i64 name(i64 address, i64 a, i64 b)` around one access; what faults gives all ones."""
    into = "" if result == "void" else "%v = "
    give = "ret i64 0" if result == "void" else f"{after}\n  ret i64 %w"
    return f"""
define i64 @{name}(i64 %address, i64 %a, i64 %b) nounwind {{
  %p = inttoptr i64 %address to ptr
  {before}
  {into}{line}
ok:
  {give}
flt:
  ret i64 -1
}}
"""


def _widen(kind: str) -> str:
    return "%w = or i64 %v, 0" if kind == "i64" else f"%w = zext {kind} %v to i64"


def forms() -> str:
    parts = []
    for size in SIZES:
        kind = f"i{8 * size}"
        narrow = "or i64 %{0}, 0" if size == 8 else f"trunc i64 %{{0}} to {kind}"
        before = f"%x = {narrow.format('a')}\n  %y = {narrow.format('b')}"
        for width in (32, 64):
            for signed in (False, True):
                if 8 * size > width:
                    continue
                line = host_x86.load(
                    size, "%p", "ok", "flt", guest=False, signed=signed, width=width
                )
                name = f"load{size}_{width}_{int(signed)}"
                parts.append(wrap(name, f"i{width}", line, after=_widen(f"i{width}")))
        line = host_x86.store(size, "%p", "%x", "ok", "flt", guest=False)
        parts.append(wrap(f"store{size}", "void", line, before=before))
        line = host_x86.compare_exchange(size, "%p", "%x", "%y", "ok", "flt", guest=False)
        parts.append(wrap(f"cas{size}", kind, line, before=before, after=_widen(kind)))
        if size >= 4:
            for op in host_x86.AMO_OPS:
                line = host_x86.amo(op, size, "%p", "%x", "ok", "flt", guest=False)
                parts.append(wrap(f"{op}{size}", kind, line, before=before, after=_widen(kind)))
            real = "double" if size == 8 else "float"
            for avx in (False, True):
                line = host_x86.load_double("%p", "ok", "flt", guest=False, size=size, avx=avx)
                back = f"%z = bitcast {real} %v to {kind}\n  "
                after = back + _widen(kind).replace("%v", "%z")
                parts.append(wrap(f"fload{size}_{int(avx)}", real, line, after=after))
                line = host_x86.store_double(
                    "%p", "%d", "ok", "flt", guest=False, size=size, avx=avx
                )
                cast = f"{before}\n  %d = bitcast {kind} %x to {real}"
                parts.append(wrap(f"fstore{size}_{int(avx)}", "void", line, before=cast))
    return "\n".join(parts)


@lru_cache
def code() -> tuple[int, Image]:
    image = compile_image(forms())
    return CodeArena(1 << 20).install(image), image


def call(name: str, address: int, a: int = 0, b: int = 0) -> int:
    base, image = code()
    return int(Quad(base + image.entries[name])(address, a & MASK, b & MASK))


MASK = (1 << 64) - 1
u64 = st.integers(0, MASK) | st.sampled_from([0, 1, 1 << 31, 1 << 63, MASK, (1 << 31) - 1])
sizes = st.sampled_from(SIZES)


def signed(value: int, size: int) -> int:
    value &= (1 << 8 * size) - 1
    return value - (1 << 8 * size) if value >> (8 * size - 1) else value


@given(sizes, u64, st.integers(0, 7))
def test_loads_extend_as_told(size: int, value: int, shift: int) -> None:
    memory = ctypes.create_string_buffer(b"\xa5" * shift + struct.pack("<Q", value) + b"\x5a" * 8)
    address = ctypes.addressof(memory) + shift
    low = value & ((1 << 8 * size) - 1)
    for width in (32, 64):
        if 8 * size <= width:
            assert call(f"load{size}_{width}_0", address) == low
            assert call(f"load{size}_{width}_1", address) == signed(low, size) & ((1 << width) - 1)


@given(sizes, u64, st.integers(0, 7))
def test_stores_write_their_bytes_and_no_others(size: int, value: int, shift: int) -> None:
    memory = ctypes.create_string_buffer(b"\xa5" * 24, 24)
    assert call(f"store{size}", ctypes.addressof(memory) + shift, value) == 0
    expected = bytearray(b"\xa5" * 24)
    expected[shift : shift + size] = struct.pack("<Q", value)[:size]
    assert memory.raw == bytes(expected)


@given(sizes, u64, u64, u64, st.booleans())
def test_compare_exchange(size: int, held: int, expected: int, value: int, hit: bool) -> None:
    mask = (1 << 8 * size) - 1
    expected = held if hit else expected
    word = U64(held)
    old = call(f"cas{size}", ctypes.addressof(word), expected, value)
    assert old == held & mask
    swapped = (held & ~mask) | (value & mask)
    assert word.value == (swapped if (held ^ expected) & mask == 0 else held)


def combine(op: str, old: int, value: int, size: int) -> int:
    a, b = signed(old, size), signed(value, size)
    mask = (1 << 8 * size) - 1
    return {
        "swap": b,
        "add": a + b,
        "and": a & b,
        "or": a | b,
        "xor": a ^ b,
        "min": min(a, b),
        "max": max(a, b),
        "minu": min(a & mask, b & mask),
        "maxu": max(a & mask, b & mask),
    }[op] & mask


@given(st.sampled_from(host_x86.AMO_OPS), st.sampled_from((4, 8)), u64, u64)
def test_atomic_operations(op: str, size: int, held: int, value: int) -> None:
    mask = (1 << 8 * size) - 1
    word = U64(held)
    assert call(f"{op}{size}", ctypes.addressof(word), value) == held & mask
    assert word.value == (held & ~mask) | combine(op, held, value, size)


@given(st.sampled_from((4, 8)), st.booleans(), u64)
def test_floating_point_moves_keep_every_bit(size: int, avx: bool, value: int) -> None:
    """Signalling NaNs included: a move is not an operation (IEEE 754-2019, 6.2)."""
    mask = (1 << 8 * size) - 1
    word = U64(value)
    assert call(f"fload{size}_{int(avx)}", ctypes.addressof(word)) == value & mask
    target = U64(~value & MASK)
    call(f"fstore{size}_{int(avx)}", ctypes.addressof(target), value)
    assert target.value == (~value & MASK & ~mask) | (value & mask)


LOOP = """
define i64 @{name}(i64 %address, i64 %seed, i64 %count) nounwind {{
  %p = inttoptr i64 %address to ptr
  br label %loop
loop:
  %n = phi i64 [%count, %0], [%n1, %again]
  %s = phi i64 [0, %0], [%s1, %again]
  {before}
  %v = {line}
ok:
  %mine = and i64 %v, {take}
  %s1 = add i64 %s, %mine
  {after}
again:
  %n1 = sub i64 %n, 1
  %more = icmp ne i64 %n1, 0
  br i1 %more, label %loop, label %done
done:
  ret i64 %s1
flt:
  ret i64 -1
}}
"""
#: Enough to run for several time slices of the host: short loops would never meet.
COUNT = 2_000_001


@pytest.fixture(scope="module")
def race():
    """race(name, seeds): run a loop in a thread for each seed, all at once on one word that
    starts at 0; gives the word and the sum of the old values."""
    parts = [
        LOOP.format(
            name=op,
            take="%seed" if op == "xor" else "-1",
            before="",
            line=host_x86.amo(op, 8, "%p", "%seed", "ok", "flt", guest=False),
            after="br label %again",
        )
        for op in ("add", "xor", "swap")
    ]
    parts.append(
        LOOP.format(  # an addition by hand: tried again until nobody came between
            name="exchange",
            take="-1",
            before="br label %retry\nretry:\n%e = load volatile i64, ptr %p\n"
            "%x = add i64 %e, %seed",
            line=host_x86.compare_exchange(8, "%p", "%e", "%x", "ok", "flt", guest=False),
            after="%same = icmp eq i64 %v, %e\nbr i1 %same, label %again, label %retry",
        )
    )
    image = compile_image("\n".join(parts))
    arena = CodeArena(1 << 20)
    base = arena.install(image)

    def run(name: str, seeds: list[int]) -> tuple[int, int]:
        word, results = U64(0), []
        function = Quad(base + image.entries[name])
        start = threading.Barrier(len(seeds))

        def one(seed: int) -> None:
            start.wait()
            results.append(function(ctypes.addressof(word), seed, COUNT))

        threads = [threading.Thread(target=one, args=(seed,)) for seed in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return word.value, sum(results)

    yield run
    arena.close()


@pytest.mark.parametrize("name", ["add", "exchange"])
def test_no_addition_is_lost_between_threads(race, name: str) -> None:
    assert race(name, [1, 2, 3, 5])[0] == 11 * COUNT


def test_no_toggle_is_lost_between_threads(race) -> None:
    """Each thread toggles bits of its own an odd number of times, and finds them set at every
    second time."""
    seeds = [0xFFFF << 16 * n for n in range(4)]
    left, seen = race("xor", seeds)
    assert (left, seen & MASK) == (MASK, MASK * (COUNT // 2) & MASK)


def test_swaps_give_back_what_was_put_in(race) -> None:
    seeds = [1, 1 << 20, 1 << 40, 3]
    left, seen = race("swap", seeds)
    assert (seen + left) & MASK == sum(seeds) * COUNT & MASK


def test_llvm_folds_the_whole_address_into_the_instruction() -> None:
    text = f"""
define i64 @f(i64 %a, i64 %i) nounwind {{
  %s = shl i64 %i, 3
  %t = add i64 %a, %s
  %u = add i64 %t, 2040
  %p = inttoptr i64 %u to ptr
  %v = {host_x86.load(8, "%p", "ok", "flt")}
ok:
  ret i64 %v
flt:
  ret i64 0
}}
"""
    image = compile_image(text)
    # mov rax, gs:[rdi + rsi*8 + 2040] and ret
    assert bytes(image.code[:10]) == b"\x65\x48\x8b\x84\xf7\xf8\x07\x00\x00\xc3"


def test_state_stays_in_registers_across_guest_accesses() -> None:
    """A store that every path overwrites is dead, whatever guest accesses are in between."""
    text = f"""
define i64 @f(ptr noalias %s, i64 %a) nounwind {{
  %x = load i64, ptr %s
  %p = inttoptr i64 %a to ptr
  %v = {host_x86.load(8, "%p", "ok", "flt")}
ok:
  %y = load i64, ptr %s
  %same = sub i64 %x, %y
  %r = add i64 %v, %same
  ret i64 %r
flt:
  ret i64 0
}}
"""
    object_file = compile_object(text)
    assert b"\x65\x48\x8b\x06\xc3" in object_file  # mov rax, gs:[rsi]; ret - and no other load


@pytest.mark.parametrize("constant", [-1, 127, 128, 255, 1 << 31, (1 << 63) - 1, -(1 << 63)])
@pytest.mark.parametrize("size", SIZES)
def test_constants_of_any_size_can_be_stored(size: int, constant: int) -> None:
    value = signed(constant, size)
    line = host_x86.store(size, "%p", str(value), "ok", "flt", guest=False)
    image = compile_image(wrap("f", "void", line))
    arena = CodeArena(1 << 20)
    word = U64(0x5A5A5A5A5A5A5A5A)
    Quad(arena.install(image) + image.entries["f"])(ctypes.addressof(word), 0, 0)
    assert struct.pack("<Q", word.value)[:size] == struct.pack("<q", value)[:size]
    arena.close()


def test_only_fences_from_writes_to_reads_cost_an_instruction() -> None:
    def body(line: str) -> bytes:
        image = compile_image(f"define void @f() nounwind {{\n  {line}\n  ret void\n}}")
        return bytes(image.code[:1])

    ret = b"\xc3"
    cheap = [("r", "rw"), ("w", "w"), ("r", "r"), ("rw", "w"), ("i", "io"), ("", "rw")]
    dear = [("rw", "rw"), ("w", "r"), ("o", "i"), ("iorw", "iorw")]
    assert all(body(host_x86.fence(*pair)) == ret for pair in cheap)
    assert all(body(host_x86.fence(*pair)) != ret for pair in dear)


def test_the_floating_point_control_word_can_be_read_and_written() -> None:
    text = f"""
define i64 @f(ptr %new, ptr %old) nounwind {{
  {host_x86.store_mxcsr("%old")}
  {host_x86.load_mxcsr("%new")}
  {host_x86.store_mxcsr("%new")}
  {host_x86.load_mxcsr("%old")}
  ret i64 0
}}
"""
    image = compile_image(text)
    arena = CodeArena(1 << 20)
    new, old = ctypes.c_uint32(0x7F80), ctypes.c_uint32(0)
    function = ctypes.CFUNCTYPE(U64, ctypes.c_void_p, ctypes.c_void_p)(arena.install(image))
    function(ctypes.addressof(new), ctypes.addressof(old))
    assert new.value == 0x7F80  # rounding toward zero, nothing raised
    assert old.value & 0x7F80 == 0x1F80  # Python's: round to nearest, everything masked
    arena.close()


def test_the_thread_pointer_tells_threads_apart() -> None:
    text = f"define i64 @f() nounwind {{\n %t = {host_x86.thread_pointer()}\n ret i64 %t\n}}"
    image = compile_image(text)
    arena = CodeArena(1 << 20)
    function = ctypes.CFUNCTYPE(U64)(arena.install(image))
    seen: list[tuple[int, int]] = []
    threads = [
        threading.Thread(target=lambda: seen.append((function(), threading.get_ident())))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(pointer == ident for pointer, ident in seen)
    assert function() == threading.get_ident()
    arena.close()


AT_HWCAP2 = 26


def auxiliary(kind: int) -> int:
    """getauxval(3)."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
    return int(getauxval(kind))


def test_both_ways_to_say_where_guest_memory_is() -> None:
    """In a thread of its own, so that no other test runs with a base that was left over."""
    text = f"""
define i64 @set(i64 %base) nounwind {{
  {host_x86.set_gs_base("%base")}
  ret i64 0
}}
define i64 @get(i64 %at) nounwind {{
  %p = inttoptr i64 %at to ptr
  %v = {host_x86.load(8, "%p", "ok", "flt")}
ok:
  ret i64 %v
flt:
  ret i64 -1
}}
"""
    image = compile_image(text)
    arena = CodeArena(1 << 20)
    base = arena.install(image)
    unary = ctypes.CFUNCTYPE(U64, U64)
    one, two = (U64 * 4)(10, 11, 12, 13), (U64 * 4)(20, 21, 22, 23)
    seen: list[int] = []

    def run() -> None:
        get, set_base = (unary(base + image.entries[name]) for name in ("get", "set"))
        host_x86.use_guest_memory(ctypes.addressof(one))
        seen.extend(get(8 * n) for n in range(4))
        if auxiliary(AT_HWCAP2) & host_x86.HWCAP2_FSGSBASE:
            set_base(ctypes.addressof(two))
        else:
            host_x86.use_guest_memory(ctypes.addressof(two))
        seen.extend(get(8 * n) for n in range(4))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [10, 11, 12, 13, 20, 21, 22, 23]
    arena.close()


def test_guest_memory_cannot_be_where_no_address_is() -> None:
    with pytest.raises(HostError, match="no guest memory at host address 0x8000000000000000"):
        host_x86.use_guest_memory(1 << 63)


@pytest.mark.parametrize(
    "make",
    [
        lambda: host_x86.load(3, "%p", "ok", "flt"),
        lambda: host_x86.load(8, "%p", "ok", "flt", width=32),
        lambda: host_x86.load(4, "%p", "ok", "flt", width=16),
        lambda: host_x86.store(16, "%p", "%x", "ok", "flt"),
        lambda: host_x86.load_double("%p", "ok", "flt", size=2),
        lambda: host_x86.amo("nand", 8, "%p", "%x", "ok", "flt"),
        lambda: host_x86.amo("add", 2, "%p", "%x", "ok", "flt"),
        lambda: host_x86.compare_exchange(5, "%p", "%x", "%y", "ok", "flt"),
    ],
)
def test_what_the_host_cannot_do_is_refused(make) -> None:
    with pytest.raises(HostError, match="no host"):
        make()
