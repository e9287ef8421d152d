"""The reference meaning against another emulator: instructions from random states, with every
register, flag, memory byte and exception compared."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest

from hartwood.isa import Encoding
from hartwood.isa.riscv import RISCV
from property.step_cases import (
    LAYOUT,
    Case,
    Outcome,
    difference,
    reservation,
    run_reference,
    sequence,
    single,
)

SOAK = 20 if os.environ.get("HARTWOOD_SOAK") else 1
#: The emulator of Debian 12 came before these; ecall would be a system call of the oracle's.
LATER = ("zicond", "zcb")
KNOWN = [
    encoding
    for encoding in RISCV.encodings()
    if encoding.extension not in LATER and encoding.name != "ecall"
]


def straight(encoding: Encoding) -> bool:
    """Whether an instruction neither transfers control nor touches memory or CSRs."""
    properties = [RISCV.properties(encoding.insn, case) for case in encoding.insn.cases()]
    return not any(p.ends_block or p.accesses_memory or p.csr for p in properties)


class Oracle:
    """Runs batches of cases in the emulator."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = command
        self._folder = folder

    def run(self, cases: Sequence[Case]) -> list[Outcome]:
        source, target = self._folder / "cases", self._folder / "results"
        source.write_bytes(b"".join(case.pack() for case in cases))
        subprocess.run([*self._command, str(source), str(target)], check=True, timeout=60)
        raw = target.read_bytes()
        size = LAYOUT.size
        return [Outcome.unpack(raw[at : at + size]) for at in range(0, len(raw), size)]


@pytest.fixture(scope="module")
def steps(tmp_path_factory, oracle: Callable[[str], str]) -> Oracle:
    folder = tmp_path_factory.mktemp("steps")
    program = folder / "step_oracle"
    source = Path(__file__).with_name("step_oracle.c")
    # gp and tp are the cases' own, so nothing may be addressed through them.
    options = ["-O2", "-static", "-fno-stack-protector", "-mno-relax", "-Wl,--no-relax"]
    compiler = oracle("riscv64-linux-gnu-gcc")
    subprocess.run([compiler, *options, "-o", str(program), str(source)], check=True)
    return Oracle([oracle("qemu-riscv64"), "-cpu", "rv64", str(program)], folder)


def compare(steps: Oracle, cases: Sequence[Case]) -> list[Outcome]:
    """Run cases both ways; the reference's outcomes."""
    ours = []
    for case, theirs in zip(cases, steps.run(cases), strict=True):
        mine = run_reference(case)
        ours.append(mine)
        if mine != theirs:
            pytest.fail(difference(case, mine, theirs), pytrace=False)
    return ours


@pytest.mark.parametrize("extension", sorted({encoding.extension for encoding in KNOWN}))
def test_single_instructions(steps: Oracle, extension: str) -> None:
    encodings = [encoding for encoding in KNOWN if encoding.extension == extension]
    for seed in range(SOAK):
        random = Random(f"{extension} {seed}")
        picked = [encoding for encoding in encodings for _ in range(60)]
        cases = [single(index, encoding, random) for index, encoding in enumerate(picked)]
        outcomes = compare(steps, cases)
        names = {name for outcome in outcomes for name in outcome.ran}
        assert {encoding.name for encoding in encodings} <= names


def test_sequences(steps: Oracle) -> None:
    encodings = [encoding for encoding in KNOWN if straight(encoding) and encoding.name != "ctzw"]
    for seed in range(SOAK):
        random = Random(f"sequence {seed}")
        outcomes = compare(steps, [sequence(index, encodings, random) for index in range(1500)])
        assert sum(outcome.stop == "break" for outcome in outcomes) > 600


def test_reservations(steps: Oracle) -> None:
    random = Random("reservations")
    outcomes = compare(steps, [reservation(index, random) for index in range(300)])
    assert {0, 1} == {outcome.x[13] for outcome in outcomes}


def test_words_without_a_meaning_are_illegal(steps: Oracle) -> None:
    """Random words that nothing decodes: the emulator has to refuse them too."""
    random = Random("illegal")
    cases: list[Case] = []
    while len(cases) < 1000:
        case = sequence(len(cases), KNOWN[:1], random)
        opcode = random.choice([0x33, 0x3B, 0x13, 0x1B, 0x53, 0x03, 0x23, 0x63, 0x67, 0x2F])
        word = random.getrandbits(25) << 7 | opcode
        # Extensions that the emulator has and we do not: half precision, Zbc.
        half = opcode in (0x53, 0x43, 0x47, 0x4B, 0x4F) and word >> 25 & 3 == 2
        carryless = opcode == 0x33 and word >> 25 == 5
        if RISCV.decode(word) is None and not half and not carryless:
            case.code = word.to_bytes(4, "little")
            cases.append(case)
    outcomes = compare(steps, cases)
    assert {outcome.stop for outcome in outcomes} == {"illegal"}
