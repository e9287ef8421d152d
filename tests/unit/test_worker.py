"""What the compile worker makes of a request, without a process around it."""

from __future__ import annotations

import marshal
import os

import pytest

from hartwood.isa.riscv import RISCV
from hartwood.jit import compile as compiler
from hartwood.jit import worker
from hartwood.jit.store import code_digest
from hartwood.jit.worker import Window, Worker, region_image

PAGE = 4096
LOOP = """
    addi a0, a0, 1
    addi a1, a1, -1
    bne a1, zero, 0xffc
    ecall
"""


def pages(code: bytes, at: int, ran: bool = True) -> list[tuple[int, bytes, bytes]]:
    """The request's parts: `code` at `at`, cut into pages, everything executed or nothing."""
    first = at & -PAGE
    whole = bytes(at - first) + code
    whole += bytes(-len(whole) % PAGE)
    flags = bytes([ran]) * (PAGE // 2)
    return [(first + i, whole[i : i + PAGE], flags) for i in range(0, len(whole), PAGE)]


def test_an_instruction_and_a_range_may_straddle_two_pages() -> None:
    code = bytes(range(1, 33))
    window = Window(pages(code, 0xFF0 + 2))
    assert window.read(0xFF2, 0x1012) == code
    word = window.fetch(0xFFE)
    assert word == int.from_bytes(code[12:16], "little")
    assert window.fetch(0x2000) is None
    assert window.read(0x1FF0, 0x2010) == b""


def test_a_region_over_a_page_boundary_depends_on_the_bytes_of_both() -> None:
    code = RISCV.assemble(LOOP, pc=0xFFC)
    image = region_image(RISCV, [0xFFC], pages(code, 0xFFC), 1)
    assert image is not None
    level, [(entries, size, ranges)] = marshal.loads(image.meta)
    assert (level, entries, size) == (1, [0xFFC], 3)
    [(start, end, digest)] = ranges
    assert start == 0xFFC
    assert start < 0x1000 < end
    assert digest == code_digest(code[: end - start])


def test_what_never_ran_is_left_out_but_the_entry_is_taken_on_trust() -> None:
    code = RISCV.assemble(LOOP, pc=0xFFC)
    image = region_image(RISCV, [0xFFC], pages(code, 0xFFC, ran=False), 1)
    assert image is not None
    _, [(entries, size, _)] = marshal.loads(image.meta)
    assert (entries, size) == ([0xFFC], 1)


def test_nothing_to_translate_gives_no_image() -> None:
    assert region_image(RISCV, [0x1000], pages(bytes(64), 0x1000), 1) is None
    assert region_image(RISCV, [0x5000], pages(b"\x13\0\0\0", 0x1000), 1) is None


def test_text_that_llvm_would_abort_for_is_an_error() -> None:
    """A value that is used where it need not have been made."""
    text = """define i64 @f(i1 %c) {
    br i1 %c, label %a, label %b
    a: %v = add i64 1, 2
    br label %b
    b: ret i64 %v
    }"""
    with pytest.raises(RuntimeError, match="dominate"):
        compiler.compile_object(text)


def test_what_llvm_refuses_has_an_empty_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("Instruction does not dominate all uses!")

    monkeypatch.setattr(worker, "region_image", refuse)
    (requests, asked), (answers, replies) = os.pipe(), os.pipe()
    served = Worker(requests, replies, "")
    served._region(7, [0x1000], pages(b"", 0x1000), 1, "key", [])
    size = int.from_bytes(os.read(answers, 8), "little")
    kind, number, data, _ = marshal.loads(os.read(answers, size))
    assert (kind, number, data) == ("region", 7, b"")
    for each in (served._source, served._sink):
        each.close()
    os.close(asked)
    os.close(answers)
