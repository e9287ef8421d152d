"""Every instruction by itself, from random states and the edges, on every engine.

What the reference does is held against another emulator in `test_reference_vs_qemu`; here the
interpreter and the translation have to do the same, with every register, flag and byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import pytest

from hartwood.bits.softfloat import FORMATS
from hartwood.isa import Encoding
from hartwood.isa.riscv import RISCV
from property.encodings import legal_word_of
from property.engines import Engines, Outcome, difference, machine_of
from property.programs import DATA, EXEC, PAGE, READ, TOP, WRITE, Area, Start
from property.step_cases import number, pattern

SOAK = 20 if os.environ.get("HARTWOOD_SOAK") else 1
CODE = 0x4010_0000
#: Bytes between two instructions; a jump of up to half of it hits breakpoints.
SLOT = 256
BREAK = (0x9002).to_bytes(2, "little")
U64 = (1 << 64) - 1
#: A CSR that can be written, one that cannot, and one that is not there.
CSRS = [1, 2, 3, 1, 2, 3, 0xC02, 0x300]


@dataclass
class Word:
    """An instruction at its place."""

    encoding: Encoding
    word: int
    pc: int


def words_of(encoding: Encoding, random: Random, count: int) -> Iterator[int]:
    """Words of an encoding: each rounding mode, the zero register, one register twice."""
    modes = encoding.insn.variants.get("rm", (0,))
    for index in range(max(count, len(modes))):
        word = legal_word_of(encoding, random)
        fields = encoding.row.fields
        if "rm" in fields:
            word = word & ~fields["rm"].bits | fields["rm"].insert(modes[index % len(modes)])
        if "csr" in fields:
            csr = CSRS[index % len(CSRS)]
            # The time is another one each time; what is counted is the same in every engine.
            word = word & ~fields["csr"].bits | fields["csr"].insert(csr)
        for name, other in (("rd", "rs1"), ("rs1", "rs2"), ("rd", "rs2")):
            if name in fields and other in fields and random.random() < 0.15:
                value = fields[name].extract(word)
                word = word & ~fields[other].bits | fields[other].insert(value)
        if "rd" in fields and random.random() < 0.1:
            word &= ~fields["rd"].bits
        if encoding.decoder(word) is not None:
            yield word


def place(words: Sequence[tuple[Encoding, int]]) -> tuple[list[Word], Area]:
    """The instructions in slots of their own, breakpoints between them."""
    size = -(-(SLOT * (len(words) + 2)) // PAGE) * PAGE
    data = bytearray(BREAK * (size // 2))
    placed = []
    for index, (encoding, word) in enumerate(words):
        at = SLOT * (index + 1)
        data[at : at + encoding.length] = word.to_bytes(encoding.length, "little")
        placed.append(Word(encoding, word, CODE + at))
    return placed, Area(CODE, bytes(data), READ | EXEC)


def start_of(item: Word, code: Area, random: Random) -> Start:
    """A state to execute one instruction from."""
    decoded = RISCV.decode(item.word)
    assert decoded is not None
    fields = decoded.fields
    p = RISCV.properties(decoded.insn, fields)
    x = [0, *(number(random) for _ in range(31))]
    base, offset = fields.get("rs1", 0), fields.get("imm", 0)
    if p.accesses_memory and base:
        at = DATA + random.choice([8, 512, 0, PAGE - 8, PAGE - 3, 2 * PAGE - 16])
        at += random.choice([0, 0, 0, 1, 2, 4, 7])
        if p.atomics and random.random() < 0.8:
            at &= -8
        if random.random() < 0.15:
            at = random.choice([TOP + PAGE - 4, 1 << 63, U64 - 3, 0, DATA - 4])
        x[base] = at - offset & U64
    elif p.indirect and base:
        near = item.pc + random.randrange(-SLOT // 4, SLOT // 4, 1)
        x[base] = random.choice([near, near, near, 1 << 38, U64, 0]) - offset & U64
    mode = random.choice([0, 0, 1, 2, 3, 4, 5, 7])
    areas = [code, Area(DATA, random.randbytes(2 * PAGE), READ | WRITE)]
    return Start(
        pc=item.pc,
        end=0,
        resume=CODE,
        x=x,
        f=[pattern(random) for _ in range(32)],
        fcsr=mode << 5 | random.getrandbits(5) & random.getrandbits(5),
        areas=areas,
        entries=[item.pc],
    )


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    yield from machine_of(tmp_path_factory)


def once(engines: Engines, start: Start, engine: str) -> Outcome:
    """Run until the first exception; the code is mapped, and translated, already."""
    engines.space.write(DATA, start.areas[1].data)
    engines.prepare(start)
    engines.use(engine)
    stop = engines.hart.run()
    while stop.cause == "slice":
        stop = engines.hart.run()
    return Outcome((engines.moment(stop),), ((DATA, engines.space.read(DATA, 2 * PAGE)),))


def compare(
    engines: Engines, words: Sequence[tuple[Encoding, int]], random: Random, states: int
) -> int:
    """Run instructions from several states each on every engine; how many did not trap."""
    completed = translated = stitched = 0
    for at in range(0, len(words), 8 * PAGE // SLOT - 8):
        placed, code = place(words[at : at + 8 * PAGE // SLOT - 8])
        cases = [start_of(item, code, random) for item in placed for _ in range(states)]
        outcomes: dict[str, list[Outcome]] = {}
        for engine in ("reference", "interp", "stitch", "jit"):
            if engine != "stitch":  # which works from what the interpreter decoded
                engines.load(cases[0])
            if engine == "jit":
                engines.machine.engine.translate([item.pc for item in placed])
            outcomes[engine] = []
            for case in cases:
                if engine == "stitch":
                    engines.use(engine)
                    stitched += engines.machine.engine.stitches.unit(case.pc) != 0
                outcomes[engine].append(once(engines, case, engine))
                translated += engines.translated
        for index, case in enumerate(cases):
            reference = outcomes["reference"][index]
            item = placed[index // states]
            completed += reference.moments[0].pc != item.pc
            for engine in ("interp", "stitch", "jit"):
                wrong = difference(outcomes[engine][index], reference)
                if wrong:
                    text = RISCV.disassemble(item.word.to_bytes(4, "little"), item.pc)
                    registers = " ".join(f"x{n}={v:#x}" for n, v in enumerate(case.x))
                    floats = " ".join(f"f{n}={v:#x}" for n, v in enumerate(case.f))
                    pytest.fail(
                        f"{engine}, {text}\n{wrong}\nfrom fcsr {case.fcsr:#x} {registers} {floats}",
                        pytrace=False,
                    )
    # Not everything has a stencil: rounding modes that C does not use, atomics, control registers.
    assert stitched > completed * 0.3 or words[0][0].extension in ("zicsr", "zifencei", "a")
    assert translated > completed * 0.7 or words[0][0].extension in ("zicsr", "zifencei")
    return completed


EXTENSIONS = sorted({encoding.extension for encoding in RISCV.encodings()})


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_instruction(engines: Engines, extension: str) -> None:
    for seed in range(SOAK):
        random = Random(f"single {extension} {seed}")
        words = [
            (encoding, word)
            for encoding in RISCV.encodings()
            if encoding.extension == extension
            for word in words_of(encoding, random, 3)
        ]
        completed = compare(engines, words, random, 12)
        assert completed > len(words) or extension == "zifencei"


def test_arithmetic_on_edges_raises_the_right_flags(engines: Engines) -> None:
    """Operands at every boundary of the formats, against each other, in every rounding mode."""
    random = Random("edges")
    arithmetic = ("fadd", "fsub", "fmul", "fdiv", "fsqrt", "fmadd", "fnmsub", "fcvt", "fmin", "feq")
    words = [
        (encoding, word)
        for encoding in RISCV.encodings()
        if encoding.extension in ("f", "d") and encoding.name.startswith(arithmetic)
        for word in words_of(encoding, random, 5 * SOAK)
    ]
    compare(engines, words, random, 20 * SOAK)


@pytest.mark.parametrize("width", sorted(FORMATS))
def test_values_that_are_not_boxed_are_nans(engines: Engines, width: int) -> None:
    """A register whose upper half is not all ones holds no single (Unpriv. 21.2)."""
    random = Random("boxes")
    suffix = {32: ".s", 64: ".d"}[width]
    words = [
        (encoding, word)
        for encoding in RISCV.encodings()
        if encoding.extension in ("f", "d") and suffix in encoding.name
        for word in words_of(encoding, random, 1)
    ]
    placed, code = place(words[:100])
    for item in placed:
        case = start_of(item, code, random)
        case.f = [random.getrandbits(63) for _ in range(32)]
        outcomes = {}
        for engine in ("reference", "interp", "jit"):
            engines.load(case)
            if engine == "jit":
                engines.machine.engine.translate([item.pc])
            outcomes[engine] = once(engines, case, engine)
        assert outcomes["interp"] == outcomes["reference"]
        assert outcomes["jit"] == outcomes["reference"]


def test_words_without_a_meaning_are_illegal(engines: Engines) -> None:
    random = Random("illegal")
    words: list[tuple[Encoding, int]] = []
    any_long = next(e for e in RISCV.encodings() if e.length == 4)
    any_short = next(e for e in RISCV.encodings() if e.length == 2)
    while len(words) < 300:
        word = random.getrandbits(32)
        if len(words) % 3 == 0:
            opcode = random.choice([0x33, 0x3B, 0x13, 0x1B, 0x53, 0x73, 0x2F, 0x03, 0x23, 0x63])
            word = word & ~0x7F | opcode
        short = word & 3 != 3
        if RISCV.decode(word) is None:
            words.append((any_short, word & 0xFFFF) if short else (any_long, word))
    placed, code = place(words[:100])
    for item in placed:
        case = Start(
            item.pc, 0, CODE, [7] * 32, [9] * 32, 0, [code, Area(DATA, bytes(PAGE), 3)], []
        )
        for engine in ("reference", "interp"):
            engines.load(case)
            engines.use(engine)
            stop = engines.hart.run()
            assert (stop.cause, engines.hart.pc) == ("illegal", item.pc), hex(item.word)
            assert list(engines.hart.x) == [0, *[7] * 31]


def test_reserved_rounding_modes_are_illegal_where_they_are_used(engines: Engines) -> None:
    for text, uses in (
        ("fadd.d fa0, fa1, fa2", True),
        ("fcvt.d.w fa0, a0, dyn", True),
        ("fcvt.d.s fa0, fa1, dyn", True),
        ("fsqrt.s fa0, fa1", True),
        ("fmadd.s fa0, fa1, fa2, fa3", True),
        ("fadd.d fa0, fa1, fa2, rtz", False),
        ("fsgnj.d fa0, fa1, fa2", False),
        ("fmin.d fa0, fa1, fa2", False),
        ("feq.s a0, fa1, fa2", False),
        ("fclass.d a0, fa1", False),
    ):
        code = RISCV.assemble(f"{text}\nebreak", CODE)
        area = Area(CODE, code + bytes(PAGE - len(code)), READ | EXEC)
        data = Area(DATA, bytes(2 * PAGE), READ | WRITE)
        for frm in range(8):
            case = Start(CODE, 0, CODE, [0] * 32, [0] * 32, frm << 5, [area, data], [])
            outcomes = []
            for engine in ("reference", "interp", "jit"):
                engines.load(case)
                if engine == "jit":
                    engines.machine.engine.translate([CODE])
                outcomes.append(once(engines, case, engine))
            wanted = "illegal" if uses and frm > 4 else "ebreak"
            assert outcomes[0].moments[0].cause == wanted, (text, frm)
            assert outcomes[0] == outcomes[1] == outcomes[2], (text, frm)
