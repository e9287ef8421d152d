"""Short pieces of code with the states around them, for comparing executions of instructions.

A `Case` is what a hart looks like before; an `Outcome` what it looks like at the first exception.
Every case ends in one, because its code is surrounded by breakpoints.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from hartwood.bits.ints import IntHart, State, Trap, amo_result
from hartwood.isa import Encoding
from hartwood.isa.riscv import RISCV
from property.encodings import legal_word_of
from property.float_cases import SPECIALS

CODE = 0x4000_0000
CODE_SIZE = 4 << 20
SLOT = 64
DATA = 0x2000_0000
WINDOW = 64
#: Nothing is mapped within a few megabytes of this address.
NOWHERE = 0x1000_0000_0000
BREAK = 0x9002
U64 = (1 << 64) - 1
BOX = 0xFFFF_FFFF_0000_0000
LAYOUT = struct.Struct("<Q31Q32QQQ32s64s")

CORNERS = [
    0, 1, 2, 31, 32, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000,
    0xFFFF_FFFF, 1 << 32, (1 << 63) - 1, 1 << 63, U64, U64 - 1, U64 << 31 & U64, U64 << 32 & U64,
]  # fmt: skip


@dataclass
class Case:
    """Registers, code at `pc` and the memory window at `window`."""

    pc: int
    window: int
    x: list[int]
    f: list[int]
    fcsr: int
    code: bytes
    memory: bytes

    def pack(self) -> bytes:
        """The case as the oracle reads it."""
        code = self.code + BREAK.to_bytes(2, "little") * 16
        return LAYOUT.pack(self.pc, *self.x[1:], *self.f, self.fcsr, 0, code[:32], self.memory)


@dataclass
class Outcome:
    """A hart at its first exception; `stop` is the exception's kind."""

    stop: str
    pc: int
    x: list[int]
    f: list[int]
    fcsr: int
    memory: bytes
    #: Not compared: which definitions ran.
    ran: list[str] = field(default_factory=list, compare=False)

    @classmethod
    def unpack(cls, raw: bytes) -> Outcome:
        """What the oracle reports."""
        pc, *registers, _, memory = LAYOUT.unpack(raw)
        x, f, (fcsr, number) = [0, *registers[:31]], registers[31:63], registers[63:]
        kinds = {4: "illegal", 5: "break", 7: "misaligned", 11: "fault"}
        return cls(kinds.get(number, f"signal {number}"), pc, x, f, fcsr, memory)


def difference(case: Case, ours: Outcome, theirs: Outcome) -> str:
    """Where two outcomes of a case differ, in a few lines."""
    lines = [f"{case.code.hex()} at {case.pc:#x}:", RISCV.disassemble(case.code, case.pc)]
    pairs = [("stop", ours.stop, theirs.stop), ("pc", hex(ours.pc), hex(theirs.pc))]
    pairs += [
        ("fcsr", hex(ours.fcsr), hex(theirs.fcsr)),
        ("memory", ours.memory.hex(), theirs.memory.hex()),
    ]
    for kind, mine, other in (("x", ours.x, theirs.x), ("f", ours.f, theirs.f)):
        pairs += [(f"{kind}{n}", hex(mine[n]), hex(other[n])) for n in range(32)]
    lines += [
        f"{name}: {mine} but should be {other}" for name, mine, other in pairs if mine != other
    ]
    lines.append(f"from fcsr {case.fcsr:#x}, memory at {case.window:#x}: {case.memory.hex()}")
    lines += [
        f"x{n}={x:#x} f{n}={f:#x}" for n, (x, f) in enumerate(zip(case.x, case.f, strict=True))
    ]
    return "\n".join(lines)


class Window:
    """Memory of one case; anything outside faults."""

    def __init__(self, base: int, data: bytes) -> None:
        self.base = base
        self.data = bytearray(data)

    def _at(self, address: int, size: int, cause: int) -> slice:
        if not self.base <= address <= self.base + len(self.data) - size:
            raise Trap(cause, address)
        return slice(address - self.base, address - self.base + size)

    def load(self, address: int, size: int) -> int:
        return int.from_bytes(self.data[self._at(address, size, 5)], "little")

    def store(self, address: int, size: int, value: int) -> None:
        self.data[self._at(address, size, 7)] = value.to_bytes(size, "little")

    def amo(self, op: str, address: int, size: int, value: int) -> int:
        old = int.from_bytes(self.data[self._at(address, size, 7)], "little")
        self.store(address, size, amo_result(op, old, value, size))
        return old

    def compare_exchange(self, address: int, size: int, expected: int, value: int) -> bool:
        if int.from_bytes(self.data[self._at(address, size, 7)], "little") != expected:
            return False
        self.store(address, size, value)
        return True


STOPS = {
    1: "fault",
    2: "illegal",
    3: "break",
    4: "misaligned",
    5: "fault",
    6: "misaligned",
    7: "fault",
}


def run_reference(case: Case, limit: int = 100) -> Outcome:
    """Execute a case by the reference meaning until its first exception."""
    state = State([*case.x], [*case.f], case.pc, case.fcsr & 31, case.fcsr >> 5)
    memory = Window(case.window, case.memory)
    hart = IntHart(state, memory, RISCV.csrs)
    ran: list[str] = []
    stop = ""
    for _ in range(limit):
        offset = state.pc - case.pc
        inside = 0 <= offset < len(case.code)
        word = int.from_bytes(case.code[offset : offset + 4], "little") if inside else BREAK
        decoded = RISCV.decode(word)
        try:
            if not CODE <= state.pc < CODE + CODE_SIZE:
                raise Trap(1, state.pc)
            if decoded is None:
                raise Trap(2)
            ran.append(decoded.spelling)
            hart.step(decoded)
        except Trap as trap:
            stop = STOPS[trap.cause]
            break
    fcsr = state.frm << 5 | state.fflags
    return Outcome(stop, state.pc, list(state.x), list(state.f), fcsr, bytes(memory.data), ran)


def number(random: Random) -> int:
    """A 64-bit number, often an interesting one."""
    kind = random.random()
    if kind < 0.3:
        return random.choice(CORNERS)
    if kind < 0.5:
        return random.getrandbits(random.randint(1, 64))
    if kind < 0.6:
        return -random.getrandbits(random.randint(1, 32)) & U64
    return random.getrandbits(64)


def pattern(random: Random) -> int:
    """A 64-bit pattern for a floating-point register: boxed, double, or neither."""
    kind = random.random()
    if kind < 0.3:
        return BOX | random.choice(SPECIALS[32])
    if kind < 0.55:
        return random.choice(SPECIALS[64])
    if kind < 0.65:
        return BOX | random.getrandbits(32)
    if kind < 0.8:
        # Numbers of like size, so that sums round and cancel.
        return random.choice([0x3FF, 0x400, 0xBFF]) << 52 | random.getrandbits(52)
    if kind < 0.95:
        return BOX | random.choice([0x7F, 0x80, 0x17F]) << 23 | random.getrandbits(23)
    return random.getrandbits(64)


def blank(index: int, random: Random) -> Case:
    """Case `index` of a batch with random registers and no code. Code slots are in the middle of
    the breakpoints so that any jump of a megabyte stays among them."""
    fcsr = random.choice([0, 0, random.randrange(5), random.randrange(8)]) << 5
    return Case(
        pc=CODE + CODE_SIZE // 2 + SLOT * index + SLOT // 2,
        window=DATA + WINDOW * index,
        x=[0] + [number(random) for _ in range(31)],
        f=[pattern(random) for _ in range(32)],
        fcsr=fcsr | random.getrandbits(5) & random.getrandbits(5),
        code=b"",
        memory=random.randbytes(WINDOW),
    )


def single(index: int, encoding: Encoding, random: Random) -> Case:
    """A case of one random instruction, aimed so that most of its accesses hit the window and its
    jumps the breakpoints."""
    case = blank(index, random)
    word = legal_word_of(encoding, random)
    if encoding.extension == "zicsr" and encoding.length == 4:
        # The user-mode CSRs whose values an oracle can share, and a read-only one.
        spec = encoding.row.fields["csr"]
        word = word & ~spec.bits | spec.insert(random.choice([1, 2, 3, 1, 2, 3, 0xC00]))
        if word >> 20 == 0xC00 and encoding.name in ("csrrs", "csrrsi", "csrrc", "csrrci"):
            # The count itself differs from one execution to the next: let it be a write.
            # The oracle takes writing through a register that holds zero for no write.
            word |= 1 << 15
            case.x[word >> 15 & 31] |= 1
    case.code = word.to_bytes(encoding.length, "little")
    decoded = RISCV.decode(word)
    assert decoded is not None
    fields = decoded.fields
    properties = RISCV.properties(decoded.insn, fields)
    base, offset = fields.get("rs1", 0), fields.get("imm", 0)
    if properties.accesses_memory and base:
        step = random.choice([1, 4, 8]) if properties.loads or properties.stores else 8
        if properties.atomics and properties.atomics != ("sc",) and random.random() < 0.2:
            step = 1
        at = case.window + 8 + random.randrange(0, 40, step)
        # The oracle does not look at the address of an SC that fails.
        if random.random() < 0.1 and properties.atomics != ("sc",):
            at = random.choice([NOWHERE, 1 << 63]) + random.getrandbits(20)
        case.x[base] = at - offset & U64
    # Jumps go to breakpoints: those of the slot, or those before all slots.
    near = random.choice([*range(-SLOT // 2, 0, 2), *range(4, SLOT // 2, 2)])
    far = CODE + CODE_SIZE // 2 - case.pc - random.randrange(2, 1 << 20, 2)
    if properties.indirect:
        case.x[base] = case.pc - offset + random.choice([near, far]) & U64 if base else 0
    elif properties.control in ("jump", "branch"):
        source = encoding.bind["imm"]
        assert isinstance(source, tuple)
        spec = encoding.row.fields[source[0]]
        word = word & ~spec.bits | spec.insert(far if far in spec.range else near)
        case.code = word.to_bytes(encoding.length, "little")
    if decoded.insn.name == "ctzw" and base:
        # The oracle (QEMU 7.2) looks beyond the word when the word is zero.
        case.x[base] |= 1 << random.randrange(32)
    return case


def sequence(index: int, encodings: Sequence[Encoding], random: Random) -> Case:
    """A case of several instructions that neither jump nor access memory."""
    case = blank(index, random)
    code = b""
    while True:
        encoding = random.choice(encodings)
        word = legal_word_of(encoding, random)
        if len(code) + encoding.length > 30:
            break
        code += word.to_bytes(encoding.length, "little")
    case.code = code
    return case


def reservation(index: int, random: Random) -> Case:
    """Load-reserved and store-conditional, to the same place or not, something between."""
    case = blank(index, random)
    # Whether an SC of another size succeeds is the implementation's business.
    kind = random.choice("wd")
    between = random.choice(["addi a5, a5, 1", "sw a5, 8(a0)", "sd a6, 16(a0)", "lw a5, 0(a0)"])
    base = random.choice(["a0", "a0", "a0", "a1"])
    case.x[10] = case.window + 8
    case.x[11] = case.window + 16
    text = f"lr.{kind} a2, (a0); {between}; sc.{kind} a3, a4, ({base}); sc.{kind} t0, a4, (a0)"
    case.code = RISCV.assemble(text)
    return case
