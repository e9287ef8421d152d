"""`softfloat` against another emulator's floating point: results and flags, every rounding mode.

The oracle is one process that executes real instructions for as long as the tests run, see
softfloat_oracle.c.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from property.float_cases import (
    EDGES,
    MODES,
    OPERATIONS,
    SPECIALS,
    Operation,
    RandomDraw,
    cases,
    operands,
)

BOX = 0xFFFF_FFFF_0000_0000
BATCH = 512
SOAK = 50 if os.environ.get("HARTWOOD_SOAK") else 1

Case = tuple[int, tuple[int, ...]]


class Oracle:
    """Executes cases of an operation by number; a pipe to a riscv64 program."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, number: int, batch: Sequence[Case]) -> list[tuple[int, int]]:
        """`(result register, fflags)` of each case."""
        operation = OPERATIONS[number]
        box = 0 if operation.takes_int or operation.width == 64 else BOX
        data = [struct.pack("<Q", len(batch))]
        for rm, values in batch:
            data.append(struct.pack("<5Q", number, rm, *(box | v for v in values)))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"".join(data))
        self._process.stdin.flush()
        answer = self._process.stdout.read(16 * len(batch))
        assert len(answer) == 16 * len(batch), "the oracle died"
        return list(struct.iter_unpack("<2Q", answer))

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    compiler, emulator = map(shutil.which, ("riscv64-linux-gnu-gcc", "qemu-riscv64"))
    if compiler is None or emulator is None:
        reason = "needs riscv64-linux-gnu-gcc and qemu-riscv64"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    source = Path(__file__).with_name("softfloat_oracle.c")
    program = tmp_path_factory.mktemp("oracle") / "oracle"
    subprocess.run([compiler, "-O1", "-static", "-o", program, source], check=True)
    process = Oracle([emulator, str(program)])
    yield process
    process.close()


def check(operation: Operation, batch: Sequence[Case], answers: list[tuple[int, int]]) -> None:
    mask = (1 << operation.result_width) - 1
    for (rm, values), (register, flags) in zip(batch, answers, strict=True):
        assert operation.run(values, rm) == (register & mask, flags), (
            f"{operation.name}{operation.width} rm={rm} {[hex(v) for v in values]}"
        )


def each(*operand_counts: int) -> pytest.MarkDecorator:
    """Parametrize over the operations of so many float operands, or over all."""
    numbers = [
        number
        for number, operation in enumerate(OPERATIONS)
        if not operand_counts or (operation.operands in operand_counts and not operation.takes_int)
    ]
    ids = [f"{OPERATIONS[n].name}-{OPERATIONS[n].result_width}" for n in numbers]
    return pytest.mark.parametrize("number", numbers, ids=ids)


@each()
def test_random_operands_in_every_mode(oracle: Oracle, number: int) -> None:
    operation, draw = OPERATIONS[number], RandomDraw(random.Random(number))
    for _ in range(2 * SOAK):
        batch = [(rm, operands(draw, operation)) for rm in MODES for _ in range(100)]
        check(operation, batch, oracle.run(number, batch))


@each(2, 3)
def test_pairs_of_edges(oracle: Oracle, number: int) -> None:
    rng = random.Random(number)
    edges = EDGES[OPERATIONS[number].width]
    batch = [
        (rng.choice(MODES), (rng.choice(edges), rng.choice(edges), rng.choice(edges)))
        for _ in range(BATCH)
    ]
    check(OPERATIONS[number], batch, oracle.run(number, batch))


@each(2, 3)
def test_every_combination_of_special_operands(oracle: Oracle, number: int) -> None:
    operation = OPERATIONS[number]
    values = itertools.product(SPECIALS[operation.width], repeat=operation.operands)
    modes = itertools.cycle(MODES)
    batch = [(next(modes), (*v, 0)[:3]) for v in values]
    for at in range(0, len(batch), BATCH):
        part = batch[at : at + BATCH]
        check(operation, part, oracle.run(number, part))


@each(1)
def test_every_edge(oracle: Oracle, number: int) -> None:
    operation = OPERATIONS[number]
    batch = [(rm, (edge, 0, 0)) for edge in EDGES[operation.width] for rm in MODES]
    for at in range(0, len(batch), BATCH):
        part = batch[at : at + BATCH]
        check(operation, part, oracle.run(number, part))


@settings(max_examples=300 * SOAK, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_operation(oracle: Oracle, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(OPERATIONS) - 1))
    case = data.draw(cases(OPERATIONS[number]))
    check(OPERATIONS[number], [case], oracle.run(number, [case]))
