"""Objects become flat images, images become files; damage to either is refused, never a crash."""

from __future__ import annotations

import random
import struct
import time
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.errors import Error, ImageError
from hartwood.jit import host_x86
from hartwood.jit.image import Image, flatten, join
from native_code import compile_image, compile_object

SAMPLE = f"""
@slot = hidden externally_initialized global i64 0, section ".hwslot"
@table = hidden constant [2 x i64] [i64 7, i64 9]
define i64 @lookup(i64 %i) nounwind {{
  %p = getelementptr [2 x i64], ptr @table, i64 0, i64 %i
  %v = load i64, ptr %p
  %s = load i64, ptr @slot
  %w = add i64 %v, %s
  ret i64 %w
}}
define i64 @other(i64 %i) nounwind noinline {{
  %w = mul i64 %i, %i
  ret i64 %w
}}
define double @half(double %a) nounwind {{
  %r = fmul double %a, 5.000000e-01
  ret double %r
}}
define i64 @switch(i64 %guest, i64 %n) nounwind {{
  %p = inttoptr i64 %guest to ptr
  %v = {host_x86.load(8, "%p", "ok", "flt")}
ok:
  switch i64 %n, label %d [i64 0, label %c0 i64 1, label %c1 i64 2, label %c2
                           i64 3, label %c3 i64 4, label %c4]
c0:
  %z0 = tail call i64 @other(i64 %v)
  ret i64 %z0
c1:
  %z1 = call i64 @lookup(i64 1)
  ret i64 %z1
c2:
  ret i64 ptrtoint (ptr @other to i64)
c3:
  %z3 = call i64 @llvm.ctpop.i64(i64 %v)
  ret i64 %z3
c4:
  ret i64 -4
d:
  ret i64 0
flt:
  ret i64 -1
}}
declare i64 @llvm.ctpop.i64(i64)
"""


@lru_cache
def sample_object() -> bytes:
    return compile_object(SAMPLE)


@lru_cache
def sample() -> Image:
    return flatten(sample_object(), b"meta")


def same(a: Image, b: Image) -> bool:
    return all(
        (bytes(a.code) == bytes(b.code), a.entries == b.entries, a.slots == b.slots,
         bytes(a.faults) == bytes(b.faults), a.meta == b.meta)
    )  # fmt: skip


def test_flatten_finds_entries_slots_and_faults() -> None:
    image = sample()
    assert {"lookup", "other", "half", "switch", "table"} == image.entries.keys()
    assert image.slots.keys() == {"slot"}
    assert image.meta == b"meta"
    ((insn, landing),) = image.fault_pairs
    assert image.code[insn] == 0x65  # the gs prefix: the entry is the access itself
    assert insn < landing < len(image.code)
    at = image.entries["table"]
    assert struct.unpack_from("<2Q", image.code, at) == (7, 9)


def test_instructions_come_before_constants() -> None:
    image = sample()
    table = image.entries["table"]
    assert all(offset < table for name, offset in image.entries.items() if name != "table")
    assert image.slots["slot"] > table
    assert image.slots["slot"] % 8 == 0


def test_a_file_gives_back_the_image() -> None:
    image = sample()
    assert same(Image.load(image.dump()), image)
    assert same(Image.load(memoryview(image.dump())), image)


def test_two_images_become_one() -> None:
    """Each part is as it was, and of two entries with one name the second is meant."""
    first, second = Image(b"\xc3" * 5, {"lookup": 1, "own": 2}, b"", {}, b"first"), sample()
    both = join(first, second)
    at = 64
    assert bytes(both.code) == b"\xc3" * 5 + b"\xcc" * 59 + bytes(second.code)
    assert both.entries == {"own": 2, **{n: at + where for n, where in second.entries.items()}}
    assert both.slots == {"slot": at + second.slots["slot"]}
    assert both.fault_pairs == [(at + insn, at + to) for insn, to in second.fault_pairs]
    assert both.meta == b"first"
    assert same(Image.load(both.dump()), both)


def test_an_image_may_be_empty() -> None:
    image = Image(b"", {})
    loaded = Image.load(image.dump())
    assert (bytes(loaded.code), loaded.entries, loaded.fault_pairs) == (b"", {}, [])


def test_loading_is_quick() -> None:
    faults = b"".join(struct.pack("<II", 20 * n, n) for n in range(4000))
    data = Image(bytes(100_000), {f"entry{n}": n for n in range(300)}, faults).dump()
    best = min(_timed(lambda: Image.load(data)) for _ in range(20))
    assert best < 0.005  # about 0.3 ms on a quiet machine


def _timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("declare void @gone()\ndefine void @f() { call void @gone()\n ret void }", "'gone'"),
        ("@g = global i64 5\ndefine i64 @f() { %v = load i64, ptr @g\n ret i64 %v }", "writable"),
        ("@g = global i64 0\ndefine ptr @f() { ret ptr @g }", "generated code"),
        (
            "@t = constant [1 x ptr] [ptr @f]\ndefine ptr @f(i64 %i) {\n"
            "%p = getelementptr [1 x ptr], ptr @t, i64 0, i64 %i\n"
            "%v = load ptr, ptr %p\nret ptr %v }",
            "not position independent",
        ),
        ("@t = thread_local global i64 0\ndefine ptr @f() { ret ptr @t }", "section like"),
        ("define double @f(double %a) {\n%r = frem double %a, 3.0\nret double %r }", "'fmod'"),
    ],
    ids=["undefined", "data", "bss", "absolute", "tls", "library"],
)
def test_code_that_needs_more_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        compile_image(text)


@pytest.mark.parametrize(
    ("insn", "opcodes"),
    [
        ("movq there@GOTPCREL(%rip), %rax", b"\x48\x8d\x05"),  # lea there(%rip), %rax
        ("callq *there@GOTPCREL(%rip)", b"\x67\xe8"),  # addr32 call there
        ("jmpq *there@GOTPCREL(%rip)", b"\xe9"),  # jmp there
    ],
)
def test_an_access_through_the_global_offset_table_becomes_direct(insn, opcodes) -> None:
    text = f'module asm ".globl there"\nmodule asm ".globl user"\nmodule asm "user: {insn}"\n'
    image = compile_image(text + 'module asm "nop"\nmodule asm "there: hlt"')
    at = image.entries["user"]
    assert image.code[at : at + len(opcodes)] == opcodes
    field = at + len(opcodes)
    (distance,) = struct.unpack_from("<i", image.code, field)
    assert field + 4 + distance == image.entries["there"]
    if opcodes == b"\xe9":
        assert image.code[field + 4] == 0x90


def test_a_table_access_that_cannot_become_direct_is_refused() -> None:
    text = 'module asm ".globl there"\nmodule asm "addq there@GOTPCREL(%rip), %rax"\n'
    with pytest.raises(ImageError, match="global offset table"):
        compile_image(text + 'module asm "there: hlt"')


def test_one_instruction_cannot_land_in_two_places() -> None:
    lines = [
        "1: nop", "2: nop", ".pushsection .hwfault,\\22a\\22", ".long 1b - ., 2b - .",
        ".long 1b - ., 1b - .", ".popsection",
    ]  # fmt: skip
    with pytest.raises(ImageError, match="two places"):
        compile_image("\n".join(f'module asm "{line}"' for line in lines))


def test_a_fault_table_of_plain_numbers_is_refused() -> None:
    lines = ["nop", ".pushsection .hwfault,\\22a\\22", ".long 1, 2", ".popsection"]
    with pytest.raises(ImageError, match="fault table"):
        compile_image("\n".join(f'module asm "{line}"' for line in lines))


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"not an object at all" * 20, bytes(64)])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        flatten(data)


def test_an_object_for_another_machine_is_refused() -> None:
    damaged = bytearray(sample_object())
    damaged[18:20] = struct.pack("<H", 243)
    with pytest.raises(ImageError, match="machine 243"):
        flatten(bytes(damaged))


def test_every_truncation_of_an_object_is_refused() -> None:
    data = sample_object()
    for size in range(0, len(data), 7):
        with pytest.raises(ImageError):
            flatten(data[:size])


def test_overlapping_sections_cannot_cost_more_than_the_file() -> None:
    """Thousands of headers over the same bytes: refused before anything is copied."""
    sample = sample_object()
    header = bytearray(sample[:64])
    (shoff,) = struct.unpack_from("<Q", sample, 40)
    rows = sample[shoff:]
    payload = bytes(100_000)
    row = struct.pack("<IIQQQQIIQQ", 0, 1, 2, 0, 64, len(payload), 0, 0, 1, 0)
    header[40:48] = struct.pack("<Q", 64 + len(payload))
    header[60:64] = struct.pack("<HH", 60_001, 0)
    start = time.perf_counter()
    with pytest.raises(ImageError, match="overlapping"):
        flatten(bytes(header) + payload + rows[:64] + row * 60_000)
    assert time.perf_counter() - start < 5


def mutate(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(changed))
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            size = min(rng.choice((4, 8)), len(changed) - at)
            changed[at : at + size] = rng.choice((b"\xff", b"\0", b"\x80")) * size
        else:
            del changed[at : at + rng.randrange(1, 9)]
            changed = changed or bytearray(b"\0")
    return bytes(changed)


def test_mutated_objects_never_crash() -> None:
    """The header tables are where damage hurts, so they get most of it."""
    data = sample_object()
    (shoff,) = struct.unpack_from("<Q", data, 40)
    rng = random.Random(20)
    refused = 0
    for _ in range(4000):
        if rng.random() < 0.5:
            damaged = data[:shoff] + mutate(data[shoff:], rng)
        else:
            damaged = mutate(data, rng)
        try:
            image = flatten(damaged)
        except Error:
            refused += 1
            continue
        assert all(0 <= offset < len(image.code) for offset in image.entries.values())
        assert all(0 <= offset <= len(image.code) - 8 for offset in image.slots.values())
        assert all(max(pair) < len(image.code) for pair in image.fault_pairs)
        assert image.fault_pairs == sorted(image.fault_pairs)
    assert refused > 500


def test_every_changed_bit_of_a_file_is_noticed() -> None:
    data = sample().dump()
    rng = random.Random(1)
    for at in [*range(80), *rng.sample(range(len(data)), 300)]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        with pytest.raises(ImageError):
            Image.load(bytes(damaged))


def test_truncated_and_extended_files_are_refused() -> None:
    data = sample().dump()
    for size in range(0, len(data), 5):
        with pytest.raises(ImageError):
            Image.load(data[:size])
    with pytest.raises(ImageError):
        Image.load(data + b"\0")


@pytest.mark.parametrize(
    "image",
    [
        Image(b"1234", {"late": 4}),
        Image(b"1234", {}, struct.pack("<II", 4, 0)),
        Image(b"1234", {}, struct.pack("<II", 0, 9)),
        Image(b"1234", {}, struct.pack("<IIII", 2, 0, 1, 0)),
        Image(b"1234", {}, b"torn"),
        Image(b"12345678", {}, slots={"straddles": 1}),
    ],
)
def test_a_file_with_a_right_checksum_is_still_checked(image: Image) -> None:
    with pytest.raises(ImageError):
        Image.load(image.dump())


@pytest.mark.parametrize("entries", [{"": 0}, {"a\0b": 0}, {"big": 1 << 32}, {"less": -1}])
def test_an_image_that_no_file_can_hold_is_refused(entries: dict[str, int]) -> None:
    with pytest.raises(ImageError):
        Image(b"12345678", entries).dump()


@given(
    st.binary(max_size=300),
    st.dictionaries(
        st.text(min_size=1).filter(lambda t: "\0" not in t), st.integers(0), max_size=9
    ),
    st.sets(st.integers(0), max_size=9),
    st.binary(max_size=20),
)
def test_any_image_survives_its_file(code, entries, faults, meta) -> None:
    size = len(code)
    entries = {name: n % size for name, n in entries.items()} if size else {}
    keys = sorted({n % size for n in faults}) if size else []
    pairs = b"".join(struct.pack("<II", key, size - 1 - key) for key in keys)
    image = Image(code, entries, pairs, meta=meta)
    assert same(Image.load(image.dump()), image)
