"""What the engine does to code before it runs: decode, lift, compile, load, link.

Selector: `jit_bench`. What takes a whole process (a cold start) is not for the gate.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from itertools import count

from hartwood.isa.riscv import RISCV
from hartwood.jit import (
    Explorer,
    Image,
    compile_object,
    flatten,
    module_text,
    region_image,
    region_text,
    transfer_target,
)
from hartwood.lab import workload
from hartwood.lab.workloads import _programs
from hartwood.lab.workloads._guest import CODE, PAGE, counters, guest
from hartwood.lab.workloads.execution import text_of

FAMILY = "jit_bench"
#: A dictionary look-up of Python's takes longer than this.
FASTEST = 1e-8
WORDS = 200
SMALL = "loop: ld a3, 0(a0); add a4, a4, a3; addi a0, a0, 8; bne a0, a1, loop; ret"
_LIMIT = 400
#: Code that is lifted and compiled: a loop of five instructions, and some thirty of two kinds.
KINDS = ("small", "branch", "float")
LARGE = "longer than a sample of the gate; the small one stands for it"
#: Major opcodes with immediates that make fresh words: lui, auipc, addi, addiw, ld.
_FORMATS = (0x37, 0x17, 0x13, 0x1B, 0x3003)


@workload(
    "decode/{state}", unit="instructions", per_call=WORDS, component="decode", family=FAMILY,
    group="decode", bound=FASTEST, params=[{"state": "fresh"}, {"state": "remembered"}],
    instructions=True,
)  # fmt: skip
def decode(rng: random.Random, state: str) -> tuple[Callable[[], int], int]:
    """Decoding words that were never seen, and words that were."""
    first = rng.getrandbits(20)
    words = count(first)

    def fresh() -> int:
        known = 0
        for _ in range(WORDS):
            number = next(words)
            word = (number & 0xFFFFF) << 12 | (number >> 20 & 31) << 7
            opcode = _FORMATS[number % 5]
            if opcode & 0x7F in (0x13, 0x1B, 0x03):
                word &= ~0x7000  # funct3
            known += RISCV.decode(word | opcode) is not None
        return known

    seen = [(first + i & 0xFFFFF) << 12 | 0x37 for i in range(WORDS)]

    def remembered() -> int:
        return sum(RISCV.decode(word) is not None for word in seen)

    return {"fresh": fresh, "remembered": remembered}[state], WORDS


def _explorer(code: bytes) -> Explorer:
    def fetch(pc: int) -> int | None:
        at = pc - CODE
        return int.from_bytes(code[at : at + 4], "little") if 0 <= at < len(code) else None

    return Explorer(RISCV, fetch, lambda decoded, pc: transfer_target(RISCV, decoded, pc), _LIMIT)


def _code(kind: str) -> bytes:
    return RISCV.assemble(SMALL if kind == "small" else text_of(kind), CODE)


def _size(kind: str, level: int = 0) -> int:
    return len(_code(kind)) // 4


def _lifted(kind: str, eager: bool) -> str:
    region = _explorer(_code(kind)).region(CODE, eager=eager)
    return region_text(RISCV, region, eager=eager)


@workload(
    "lift/{kind}/level-{level}", unit="instructions", per_call=_size,
    component="translate", family=FAMILY, group="lift", bound=FASTEST, instructions=True,
    params=[{"kind": kind, "level": level} for kind in KINDS for level in (1, 2)],
    gate=lambda kind, level: kind == "small", why=LARGE,
)  # fmt: skip
def lift(rng: random.Random, kind: str, level: int) -> tuple[Callable[[], str], object]:
    """Exploring a region and writing its LLVM text."""

    def verify(text: object) -> None:
        assert isinstance(text, str)
        assert text == _lifted(kind, level == 1), "lifting is not deterministic"
        made = flatten(compile_object(module_text([text]), 0))
        assert f"r_{CODE:x}" in made.entries

    return lambda: _lifted(kind, level == 1), verify


@workload(
    "compile/{kind}/level-{level}", unit="instructions", per_call=_size,
    component="compile", family=FAMILY, group="compile", bound=FASTEST, instructions=True,
    params=[{"kind": kind, "level": level} for kind in KINDS for level in (1, 2)],
    gate=lambda kind, level: kind == "small", why=LARGE,
)  # fmt: skip
def compile_(rng: random.Random, kind: str, level: int) -> tuple[Callable[[], bytes], object]:
    """LLVM's part: from text to an object."""
    text = module_text([_lifted(kind, level == 1)])

    def verify(made: object) -> None:
        assert isinstance(made, bytes)
        assert f"r_{CODE:x}" in flatten(made).entries

    return lambda: compile_object(text, level), verify


def _image(at: int, code: bytes) -> bytes:
    page = code.ljust(PAGE, b"\0")
    made = region_image(RISCV, [at], [(at, page, b"\1" * (PAGE // 2))], 2)
    assert made is not None
    return made.dump()


@workload(
    "image/load", unit="images", component="link", family=FAMILY, group="image", bound=FASTEST,
    instructions=True,
)  # fmt: skip
def image_load(rng: random.Random) -> tuple[Callable[[], Image], object]:
    """What a cached image costs when it is found: checksum, names, tables."""
    data = _image(CODE, RISCV.assemble(text_of("float"), CODE))

    def verify(image: object) -> None:
        assert isinstance(image, Image)
        assert image.dump() == data

    return lambda: Image.load(data), verify


@workload(
    "image/flatten", unit="images", component="link", family=FAMILY, group="image", bound=FASTEST,
    instructions=True,
)  # fmt: skip
def image_flatten(rng: random.Random) -> tuple[Callable[[], Image], object]:
    """From an object to a blob with nothing left to relocate."""
    made = compile_object(module_text([_lifted("float", False)]), 2)

    def verify(image: object) -> None:
        assert isinstance(image, Image)
        assert f"r_{CODE:x}" in image.entries

    return lambda: flatten(made), verify


LINKED = "li a0, 0; loop: add a0, a0, a1; addi a1, a1, -1; bnez a1, loop; ebreak"


@workload(
    "link/page", unit="regions", component="link", family=FAMILY, group="link", bound=FASTEST,
    instructions=True,
)  # fmt: skip
def link(rng: random.Random) -> tuple[Callable[[], int], object]:
    """A page of code changes: unlink what is there, look at the page, install and link anew."""
    here = guest()
    engine = here.machine.engine
    run = here.runner(LINKED, {11: 1000})
    at = here.program(LINKED, 2)
    data = _image(at, RISCV.assemble(LINKED, at))

    def call() -> int:
        if engine.translations.full:  # as the engine does between two slices
            engine.translations.reset()
            engine.arena.reset()
        engine.code_changed(at, at + PAGE)
        engine.translations.take(("region", 0, data, 0.0))
        return engine.translations.installed

    def verify(installed: object) -> None:
        assert isinstance(installed, int)
        assert at in engine.translations.at
        before = here.counters()["translated"]
        assert run() == 500_500
        assert here.counters()["translated"] - before > 3000

    return call, verify


link.counters(counters)


@workload(
    "decode/page", unit="pages", component="decode", family=FAMILY, group="decode", bound=FASTEST,
)  # fmt: skip
def decode_page(rng: random.Random) -> tuple[Callable[[], int], int]:
    """A page of a thousand instructions that is seen for the first time, decoded natively."""
    here = guest()
    text = "; ".join(["addi a0, a0, 1"] * 1000) + "; ebreak"
    at = here.program(text, 0)
    inner = here.runner(text, {10: 0}, 0)

    def call() -> int:
        here.machine.engine.code_changed(at, at + PAGE)
        return inner()

    return call, 1000


decode_page.counters(counters)
NOT_A_SAMPLE = "starts processes: longer than a sample of the gate"


@workload(
    "start/{state}", unit="runs", component="compile", family=FAMILY, group="start", bound=1e-3,
    clock="wall", gate=False, why=NOT_A_SAMPLE,
    params=[{"state": state} for state in ("cold", "warm")],
)  # fmt: skip
def start(rng: random.Random, state: str) -> tuple[Callable[[], int], int]:
    """`hartwood run` of a program that ends at once, with an empty and with a full code cache."""
    program = _programs.program("exit", "li a0, 42; li a7, 93; ecall")
    kept = _programs.folder() / "warm"

    def call() -> int:
        if state == "warm":
            return _programs.hartwood(program, kept)
        with tempfile.TemporaryDirectory(dir=_programs.folder()) as fresh:
            return _programs.hartwood(program, fresh)

    return call, 42


@workload(
    "syscall/guest", unit="calls", per_call=_programs.CALLS, component="system call",
    family="trap_bench", group="system_calls", bound=5e-8, clock="wall", gate=False,
    why=NOT_A_SAMPLE,
)  # fmt: skip
def guest_calls(rng: random.Random) -> tuple[Callable[[], int], int]:
    """A user-mode program that asks for its parent's number again and again."""
    program = _programs.program("calls", _programs.GETPPID)
    kept = _programs.folder() / "warm"
    return lambda: _programs.hartwood(program, kept), 42
