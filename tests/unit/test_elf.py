"""The ELF reader: what it takes, what it refuses with which words, and that nothing crashes it."""

from __future__ import annotations

import os
import struct
import tempfile
from errno import EACCES, EISDIR, ELIBBAD, ENOEXEC

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hartwood.errors import Error, LoadError
from hartwood.linux import load
from hartwood.linux.elf import is_elf, machine_of, read_program
from hartwood.mem.flat import LIMIT, FlatSpace
from unit.elf_files import CODE, PAGE, header, program, segment

SHARED = os.memfd_create("elf")


def read(data, path="prog"):
    os.ftruncate(SHARED, 0)
    os.pwrite(SHARED, data, 0)
    return read_program(SHARED, path, LIMIT)


def refusal(data):
    with pytest.raises(LoadError) as caught:
        read(data)
    error = caught.value
    assert str(error).startswith("prog: ")
    assert "\n" not in str(error)
    return error


def test_a_sound_program_is_described():
    found = read(program([segment(), segment(va=0x20000, flags=6, offset=0x1000, size=0x5000)]))
    assert found.entry == CODE + 0x200
    assert not found.position_independent
    assert [(s.va, s.size, s.offset, s.filled, s.prot) for s in found.segments] == [
        (CODE, 0x1000, 0, 0x1000, 5),
        (0x20000, 0x5000, 0x1000, 0x1000, 3),
    ]
    assert (found.low, found.high) == (CODE, 0x25000)
    assert found.headers == CODE + 64
    assert found.header_count == 2
    assert found.interpreter is None
    assert found.executable_stack  # as Linux: without PT_GNU_STACK


def test_interpreter_and_stack_are_read():
    stack = segment(kind=0x6474E551, flags=6, filled=0, va=0)
    found = read(program([segment(), stack], interpreter=b"/lib/ld.so\0", type=3))
    assert found.interpreter == b"/lib/ld.so"
    assert found.position_independent
    assert not found.executable_stack
    assert read(program([segment(), segment(kind=0x6474E551, flags=7)])).executable_stack


def test_headers_outside_every_segment_have_no_address():
    assert read(program([segment(offset=0x1000, va=CODE, filled=0x1000)])).headers == 0


@pytest.mark.parametrize(
    ("fields", "words", "errno"),
    [
        ({"magic": b"\x7fELG"}, "not an ELF file", ENOEXEC),
        ({"kind": 0}, "class 0", ELIBBAD),
        ({"kind": 1}, "32-bit RISC-V", ENOEXEC),
        ({"order": 2}, "big-endian", ENOEXEC),
        ({"order": 7}, "byte order 7", ELIBBAD),
        ({"version": 9}, "ELF version", ELIBBAD),
        ({"version2": 0}, "ELF version", ELIBBAD),
        ({"abi": 9}, "ABI 9", ENOEXEC),
        ({"type": 1}, "relocatable object", ENOEXEC),
        ({"type": 4}, "core dump", ENOEXEC),
        ({"type": 77}, "ELF type 77", ENOEXEC),
        ({"machine": 62}, "x86-64, not for riscv64", ENOEXEC),
        ({"machine": 183}, "AArch64", ENOEXEC),
        ({"machine": 9999}, "machine 9999", ENOEXEC),
        ({"flags": 0xD}, "RV64E", ENOEXEC),
        ({"flags": 6}, "quad-precision", ENOEXEC),
        ({"ehsize": 63}, "sizes 63", ELIBBAD),
        ({"phentsize": 32}, "and 32", ELIBBAD),
        ({"phnum": 0}, "0 program headers", ELIBBAD),
        ({"phnum": 0xFFFF}, "65535 program headers", ELIBBAD),
        ({"phoff": 0x1FF0}, "past its end", ELIBBAD),
        ({"phoff": 1 << 63}, "past its end", ELIBBAD),
        ({"phnum": 1000}, "past its end", ELIBBAD),
        ({"entry": 0}, "entry point 0x0", ENOEXEC),
        ({"entry": CODE + 0x1000}, "entry point", ENOEXEC),
        ({"entry": CODE + 1}, "entry point", ENOEXEC),
    ],
)
def test_bad_headers_are_refused_with_a_reason(fields, words, errno):
    error = refusal(program(**fields))
    assert words in error.reason
    assert error.errno == errno


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ([segment(filled=0x1000, size=0xFFF)], "0x1000 bytes of file"),
        ([segment(offset=0x1000, filled=0x1001)], "past the file's end"),
        ([segment(offset=(1 << 64) - PAGE)], "past the file's end"),
        ([segment(align=3)], "no power of two"),
        ([segment(va=CODE + 8)], "disagree"),
        ([segment(va=LIMIT)], "outside the address space"),
        ([segment(va=LIMIT - PAGE, filled=0x1000, size=0x2000)], "outside the address space"),
        ([segment(size=1 << 63)], "outside the address space"),
        ([segment(va=(1 << 64) - PAGE)], "outside the address space"),
        ([segment(), segment()], "overlaps"),
        ([segment(), segment(va=CODE - PAGE)], "overlaps"),
        ([segment(kind=6)], "nothing to load"),
        ([segment(filled=0)], "nothing to load"),
        ([segment(align=1 << 37)], "alignment of 0x2000000000"),
        ([segment(flags=6)], "not in executable code"),
        ([segment(), segment(kind=3, filled=1)], "interpreter's name"),
        ([segment(), segment(kind=3, filled=5000)], "interpreter's name"),
        ([segment(), segment(kind=3, offset=0x1FFF, filled=16)], "interpreter's name"),
        ([segment(), segment(kind=3, offset=0x1000, filled=16)], "interpreter's name"),
    ],
)
def test_bad_segments_are_refused_with_a_reason(segments, words):
    assert words in refusal(program(segments)).reason


def test_two_interpreters_are_one_too_many():
    data = program([segment(), segment(kind=3, offset=0x1000, filled=4)], interpreter=b"/ld\0")
    assert "two interpreters" in refusal(data).reason


@pytest.mark.parametrize("length", [1, 3, 4, 16, 63])
def test_truncated_headers(length):
    assert refusal(header(1)[:length]).errno in (ENOEXEC, ELIBBAD)


def test_empty_directory_device_and_fifo(tmp_path):
    assert "empty" in refusal(b"").reason
    for path, errno in ((str(tmp_path), EISDIR), ("/dev/null", EACCES)):
        fd = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises(LoadError) as caught:
                read_program(fd, path, LIMIT)
        finally:
            os.close(fd)
        assert caught.value.errno == errno
        assert caught.value.path == path


def test_machine_is_recognised_from_a_few_bytes():
    assert machine_of(header(1)) == 243
    assert machine_of(header(1, order=2, machine=0xF300)) == 243
    assert machine_of(b"#!/bin/sh") is None
    assert machine_of(header(1)[:18]) is None
    assert is_elf(b"\x7fELF")
    assert not is_elf(b"")


# Damage of every kind: the reader gives a description or a reason, and what it describes loads
# or is refused; nothing else ever comes out.
GOOD = program(
    [segment(), segment(va=0x20000, flags=6, offset=0x1000, size=0x5000)],
    interpreter=b"/lib/ld-linux.so.1\0",
    type=3,
)
SMALL = [0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFF, 0x1000, 0xFFFF, 1 << 31, (1 << 32) - 1]
LARGE = [1 << 37, LIMIT - 1, LIMIT, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - PAGE]
BOUNDARY = st.sampled_from([*SMALL, *LARGE, (1 << 64) - 1])
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 64 + 3 * 56 - 1),
        st.sampled_from([1, 2, 4, 8]),
        st.one_of(BOUNDARY, st.integers(0, (1 << 64) - 1)),
    ),
    min_size=1,
    max_size=6,
)


def no_interpreter(path):
    raise FileNotFoundError(2, "No such file or directory")


def survive(data):
    try:
        found = read(data)
    except LoadError as error:
        assert str(error)
        return
    assert found.segments
    assert 0 <= found.low < found.high <= LIMIT
    for part in found.segments:
        assert part.filled <= part.size
        assert part.offset + part.filled <= len(data)
    space = FlatSpace(commit_limit=1 << 32)
    try:
        link = load.open_link(found, no_interpreter, LIMIT)
        placed = load.load(space, SHARED, found, link)
        assert placed.brk % PAGE == 0
        for region in space.regions:
            assert 0 < region.start < region.end <= LIMIT
    except Error as error:
        assert str(error)
    finally:
        space.close()


@given(CHANGES)
@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck))
def test_changed_fields_never_crash(changes):
    data = bytearray(GOOD)
    for at, size, value in changes:
        data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    survive(bytes(data))


@given(st.binary(max_size=300), st.integers(0, 80))
@settings(max_examples=1000, deadline=None)
def test_garbage_never_crashes(data, kept):
    survive(GOOD[:kept] + data)


@given(st.integers(0, len(GOOD)))
@settings(max_examples=500, deadline=None)
def test_truncation_never_crashes(length):
    survive(GOOD[:length])


def test_random_bits_flipped(tmp_path):
    import random

    rng = random.Random(7)
    for _ in range(1500):
        data = bytearray(GOOD)
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(0, 64 + 3 * 56)] ^= 1 << rng.randrange(8)
        survive(bytes(data))


# What a good file becomes in memory.
@pytest.fixture
def space():
    made = FlatSpace()
    yield made
    made.close()


def place(space, data, interpreter=None):
    found = read(data)
    link = None
    if interpreter is not None:
        with tempfile.TemporaryFile() as file:
            file.write(interpreter)
            file.flush()
            link = load.open_link(found, lambda path: os.dup(file.fileno()), LIMIT)
    try:
        return load.load(space, SHARED, found, link)
    finally:
        if link:
            os.close(link.fd)


def test_contents_and_the_zeros_behind_them(space):
    data = program(
        [segment(), segment(va=0x20000, flags=6, offset=0x1000, filled=0x10, size=0x5000)]
    )
    placed = place(space, data)
    assert space.read(CODE, 0x1000) == data[:0x1000]
    assert space.read(0x20000, 0x10) == data[0x1000:0x1010]
    assert space.read(0x20010, 0x4FF0) == bytes(0x4FF0)
    assert placed.start == placed.entry == CODE + 0x200
    assert placed.brk == 0x25000
    assert [r.prot for r in space.regions] == [5, 3, 3]


def test_zeros_behind_a_read_only_segment_are_there_too(space):
    data = program([segment(), segment(va=0x20000, flags=4, offset=0x1000, filled=0x10, size=0x20)])
    place(space, data)
    assert space.read(0x20010, 0xFF0) == bytes(0xFF0)
    assert [r.prot for r in space.regions][-1] == 1


def test_position_independent_programs_have_a_fixed_place(space):
    placed = place(space, program([segment(va=0)], type=3, entry=0x200))
    assert placed.entry == load.DYNAMIC_BASE + 0x200
    assert placed.headers == load.DYNAMIC_BASE + 64
    assert space.read(placed.headers - 64, 4) == b"\x7fELF"


def test_large_alignment_is_honoured(space):
    placed = place(space, program([segment(va=0, align=1 << 21)], type=3, entry=0x200))
    assert (placed.entry - 0x200) % (1 << 21) == 0


def test_the_linker_starts_and_the_program_is_announced(space):
    linker = program([segment(va=0)], type=3, entry=0x300)
    data = program([segment(va=0)], type=3, entry=0x200, interpreter=b"/ld.so\0")
    placed = place(space, data, linker)
    assert placed.link_base > placed.entry
    assert placed.start == placed.link_base + 0x300
    assert space.read(placed.link_base, 4) == b"\x7fELF"


def test_a_missing_linker_is_named():
    found = read(program(interpreter=b"/lib/ld-missing.so\0"))
    with pytest.raises(LoadError, match=r"/lib/ld-missing\.so cannot be opened.*--root"):
        load.open_link(found, no_interpreter, LIMIT)


def test_a_damaged_linker_is_named():
    found = read(program(interpreter=b"/lib/ld.so\0"))
    with tempfile.TemporaryFile() as file:
        file.write(struct.pack("<20s", b"\x7fELF"))
        file.flush()
        with pytest.raises(LoadError, match=r"/lib/ld\.so: truncated") as caught:
            load.open_link(found, lambda path: os.dup(file.fileno()), LIMIT)
    assert caught.value.errno == ELIBBAD


def test_address_zero_is_nobodys(space):
    with pytest.raises(LoadError, match="address 0"):
        place(space, program([segment(va=0)], entry=0x200))


def test_no_room_is_said(space):
    space.mmap_top = CODE
    with pytest.raises(LoadError, match="too large"):
        place(space, program())
