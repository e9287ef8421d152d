"""The same micro-guests under other programs that run riscv64 code: `bench run --peers`.

Selector: `peer_bench`. QEMU and Hartwood run them as programs, process start included; Unicorn runs
them in this process.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import cache

from hartwood.isa.riscv import RISCV
from hartwood.lab import Skip, workload
from hartwood.lab.workloads import _programs
from hartwood.lab.workloads._guest import guest
from hartwood.lab.workloads.execution import CALLS, FASTEST, text_of

FAMILY = "peer_bench"
KINDS = ("alu", "branch", "float", "recursive")
ARMS = ("hartwood", "qemu", "unicorn")
ROUNDS = {"alu": 1 << 22, "branch": 1 << 21, "float": 1 << 21, "recursive": 1 << 16}
#: What the programs expect in registers; see `execution`.
START = "li a0, 12345; li a3, 777; li a4, 10; li a5, 3; li a6, 5; li a7, 7"
_END = "andi a0, a0, 127; li a7, 93; ecall"
_CODE, _STACK, _PAGE = 0x10000, 0x200000, 4096


def _text(kind: str) -> str:
    body = CALLS[kind] if kind == "recursive" else text_of(kind)
    return f"{START}; fcvt.d.l fa0, a4; fcvt.d.l fa1, a5; li a2, {ROUNDS[kind]}\n{body}"


@cache
def _expected(kind: str) -> int:
    """What this process's own machine makes of it, translated."""
    start = len(RISCV.assemble(_text(kind).partition("\n")[0], _CODE))
    stack = guest().area("peers", b"", _PAGE) + _PAGE
    return guest().runner(_text(kind), {2: stack}, 2, (0, start + 4))()


@workload(
    "peer/{kind}/{arm}", unit="rounds", per_call=lambda kind, arm: ROUNDS[kind],
    component="execute", family=FAMILY, group="peers_{kind}", bound=FASTEST, clock="wall",
    gate=False, why="a peer's speed is not ours to defend, and a call takes a second",
    peer="{arm}", params=[{"kind": kind, "arm": arm} for kind in KINDS for arm in ARMS],
)  # fmt: skip
def peer(rng: random.Random, kind: str, arm: str) -> tuple[Callable[[], int], int]:
    """One program under one arm. Raises `Skip` where that is not installed."""
    expected = _expected(kind)
    if arm == "unicorn":
        return _unicorn(_text(kind)), expected
    program = _programs.program(f"peer-{kind}", _text(kind).replace("ebreak", _END))
    if arm == "hartwood":
        kept = _programs.folder() / "peers"
        return lambda: _programs.hartwood(program, kept), expected & 127
    qemu = shutil.which("qemu-riscv64")
    if qemu is None:
        raise Skip("qemu-riscv64 is not installed (scripts/oracles.sh installs it)")
    return lambda: _programs.run([qemu, str(program)]), expected & 127


def _unicorn(text: str) -> Callable[[], int]:
    unicorn = _programs.unicorn()
    constants = unicorn.riscv_const
    code = RISCV.assemble(text, _CODE)
    end = _CODE + len(code) - 4
    emulator = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
    emulator.mem_map(_CODE, len(code) + _PAGE & -_PAGE)
    emulator.mem_map(_STACK, _PAGE)
    emulator.mem_write(_CODE, code)
    # mstatus.FS: without it floating point is illegal (Priv. 3.1.6.6).
    emulator.reg_write(constants.UC_RISCV_REG_MSTATUS, 0x6000)

    def call() -> int:
        emulator.reg_write(constants.UC_RISCV_REG_SP, _STACK + _PAGE)
        emulator.emu_start(_CODE, end)
        answer: int = emulator.reg_read(constants.UC_RISCV_REG_A0)
        return answer

    return call
