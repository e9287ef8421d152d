"""Random programs with loops, calls, wild jumps, memory accesses, floating point and faults.

A program is a list of pieces, each made from its kind and a seed alone, so that leaving a piece
out keeps the others as they are: that is what lets a failing program shrink. Every backward
transfer costs fuel, so every program ends, whatever its pieces are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random

from hartwood.isa import Encoding
from hartwood.isa.riscv import RISCV
from property.encodings import legal_word_of
from property.step_cases import number, pattern

PAGE = 4096
LIMIT = 1 << 38
CODE = 0x4010_0000
DATA = 0x2000_0000
DATA_PAGES = 3
#: Read-only memory follows the data, then nothing.
FIXED = DATA + DATA_PAGES * PAGE
STACK = 0x3000_0000
STACK_PAGES = 2
TOP = LIMIT - PAGE
U64 = (1 << 64) - 1

#: Registers that pieces leave alone: sp, the table of labels, the middle of the data, the fuel.
SP, LABELS, BASE, FUEL = 2, 25, 26, 27
RESERVED = {SP, LABELS, BASE, FUEL}
#: Where a pair (sp, pc) is kept for jumps out of nested calls, from BASE.
JUMP_BUFFER = 1024
#: Extensions that the emulator of Debian 12 does not know.
LATER = ("zicond", "zcb")

READ, WRITE, EXEC = 1, 2, 4


@dataclass
class Area:
    """Guest memory: whole pages, with Linux's protection bits."""

    start: int
    data: bytes
    prot: int

    @property
    def end(self) -> int:
        return self.start + len(self.data)


@dataclass
class Start:
    """Everything that a run depends on."""

    pc: int
    #: The breakpoint that ends the run.
    end: int
    #: Where a run goes on after a jump to nowhere.
    resume: int
    x: list[int]
    f: list[int]
    fcsr: int
    areas: list[Area]
    #: Where translations may begin.
    entries: list[int]


@cache
def encodings(kind: str, later: bool) -> tuple[Encoding, ...]:
    """Encodings of one kind: "integer", "float", "memory" or "amo"."""
    found = []
    for encoding in RISCV.encodings():
        p = RISCV.properties(encoding.insn, next(iter(encoding.insn.cases())))
        if encoding.extension in LATER and not later:
            continue
        if p.ends_block or p.csr or p.counters or p.fence:
            continue
        if p.atomics:
            wanted = "amo" if p.atomics[0] not in ("lr", "sc") else ""
        elif p.accesses_memory:
            wanted = "memory"
        else:
            wanted = "float" if p.floating else "integer"
        # The emulator looks beyond the word when ctzw's operand is zero.
        if wanted == kind and (later or encoding.name != "ctzw"):
            found.append(encoding)
    return tuple(found)


def data_word(word: int, length: int) -> str:
    return f".{length}byte {word:#x}"


def random_word(kind: str, random: Random, later: bool) -> tuple[str, dict[str, int]]:
    """An instruction of a kind that spares the reserved registers: its line and its fields."""
    while True:
        encoding = random.choice(encodings(kind, later))
        word = legal_word_of(encoding, random)
        decoded = RISCV.decode(word)
        if decoded is None:
            continue
        fields = decoded.fields
        p = RISCV.properties(decoded.insn, fields)
        written = {w if isinstance(w, int) else fields[w] for w in p.x_writes}
        if not written & RESERVED:
            return data_word(word, encoding.length), fields


@dataclass
class Maker:
    """Makes the lines of pieces. `count` is how many pieces there are."""

    count: int
    #: Whether instructions may be used that an outside oracle does not know or does differently.
    later: bool = True
    #: Labels used so far inside pieces.
    local: int = field(default=0)

    def near(self, index: int, random: Random) -> int:
        return min(max(index + random.randint(-5, 7), 0), self.count)

    def slot(self, label: int) -> int:
        """Where the table has a label, as an offset that a load can have."""
        return max(min(8 * (label - (self.count + 1) // 2), 2040), -2048)

    def fresh(self) -> str:
        self.local += 1
        return f"S{self.local}"

    def spend(self) -> list[str]:
        """Use fuel; without any the program ends."""
        return ["addi s11, s11, -1", "bge s11, zero, pc+8", f"jal zero, L{self.count}"]

    def straight(self, kind: str, random: Random, most: int = 6) -> list[str]:
        return [random_word(kind, random, self.later)[0] for _ in range(random.randint(1, most))]

    def address(self, register: int, offset: int, random: Random) -> list[str]:
        """Make BASE + offset, or (half the time) something near it that depends on the data."""
        if random.random() < 0.5:
            return [f"addi x{register}, s10, {offset}"]
        source = random.randrange(32)
        step = random.choice([7, 3, 1, 0])
        return [
            f"andi x{register}, x{source}, {random.choice([0x3F8, 0x7F0]) | step}",
            f"add x{register}, x{register}, s10",
        ]

    def memory(self, random: Random) -> list[str]:
        while True:
            line, fields = random_word("memory", random, self.later)
            base = fields["rs1"]
            if base == SP:
                return [line]
            if base not in RESERVED and base != 0:
                break
        return [*self.address(base, random.randint(-2048, 2047), random), line]

    def atomic(self, random: Random) -> list[str]:
        while True:
            line, fields = random_word("amo", random, self.later)
            base = fields["rs1"]
            if base not in RESERVED and base != 0:
                break
        return [f"addi x{base}, s10, {random.randrange(-2048, 2040, 8)}", line]

    def reserve(self, random: Random) -> list[str]:
        """Load-reserved and store-conditional, matched or not."""
        base, got, won = random.sample([5, 6, 7, 12, 13, 28, 29, 30], 3)
        kind = random.choice("wd")
        lines = [f"addi x{base}, s10, {random.randrange(-2048, 2000, 8)}"]
        lines.append(f"lr.{kind} x{got}, (x{base})")
        lines += random.choice(
            [
                [f"addi x{got}, x{got}, 1"],
                [f"sb x{got}, 1(x{base})"],
                [f"fmv.x.d x{got}, fa3"],
                [f"addi x{base}, x{base}, 8"],
                [],
            ]
        )
        # Whether an SC of another size succeeds is the implementation's business; ours agree.
        other = random.choice("wd") if self.later else kind
        lines.append(f"sc.{other} x{won}, x{got}, (x{base})")
        lines.append(f"sc.{kind} x{won}, x{got}, (x{base})")
        lines.append(f"add x{got}, x{got}, x{won}")
        return lines

    def csr(self, random: Random) -> list[str]:
        number = random.choice(["fflags", "frm", "fcsr"])
        name = random.choice(["csrrw", "csrrs", "csrrc"])
        target = random.choice([0, 5, 10, 14, 31])
        if random.random() < 0.5:
            line = f"{name}i x{target}, {number}, {random.randrange(32)}"
        else:
            line = f"{name} x{target}, {number}, x{random.randrange(32)}"
        # Most often the rounding mode is valid again soon: reserved ones trap at every use.
        tail = [f"fsrmi_{random.randrange(5)}"] if random.random() < 0.8 else []
        tail = [f"csrrwi zero, frm, {item[-1]}" for item in tail]
        return [line, *self.straight("float", random, 2), *tail]

    def skip(self, random: Random) -> list[str]:
        """A conditional branch over a few instructions."""
        label = self.fresh()
        first = random.choice([f"x{random.randrange(32)}", "a0", "s0"])
        if random.random() < 0.4:
            line = f"c.{random.choice(['beqz', 'bnez'])} x{random.randrange(8, 16)}, {label}"
        else:
            name = random.choice(["beq", "bne", "blt", "bge", "bltu", "bgeu"])
            line = f"{name} {first}, x{random.randrange(32)}, {label}"
        return [line, *self.straight("integer", random, 4), f"{label}:"]

    def branch(self, index: int, random: Random) -> list[str]:
        goal = self.near(index, random)
        name = random.choice(["beq", "bne", "blt", "bge", "bltu", "bgeu"])
        line = f"{name} x{random.randrange(32)}, x{random.randrange(32)}, L{goal}"
        return [*(self.spend() if goal <= index else []), line]

    def loop(self, random: Random) -> list[str]:
        """Straight code that is repeated until some bits of some register are zero."""
        label, source = self.fresh(), random.randrange(32)
        body = self.straight("integer", random, 4) + self.memory(random)
        return [f"{label}:", *body, *self.spend(), f"andi x5, x{source}, 3", f"bnez x5, {label}"]

    def call(self, index: int, random: Random) -> list[str]:
        goal = f"L{self.near(index, random)}"
        link = random.choice(["ra", "ra", "ra", "ra", "t0", "s3"])
        if random.random() < 0.6:
            return [*self.spend(), f"jal {link}, {goal}"]
        pointer = random.choice(["t1", "t2", "ra", "t0"])
        at = self.slot(self.near(index, random))
        return [*self.spend(), f"ld {pointer}, {at}(s9)", f"jalr {link}, 0({pointer})"]

    def function(self, random: Random) -> list[str]:
        """The end of one function and the beginning of the next."""
        size = random.choice([16, 32])
        back = random.choice(["ret", "ret", "c.jr ra"])
        return [
            f"ld ra, {size - 8}(sp)", f"addi sp, sp, {size}", *self.spend(), back,
            f"addi sp, sp, -{size}", f"sd ra, {size - 8}(sp)",
        ]  # fmt: skip

    def wild(self, index: int, random: Random) -> list[str]:
        """Control transfers that do not nest."""
        at = self.slot(self.near(index, random))
        kind = random.choice(["tail", "tail", "jump", "elsewhere", "set", "long", "through"])
        pointer = random.choice(["t1", "t2", "a5"])
        load = f"ld {pointer}, {at}(s9)"
        if kind == "tail":
            return [*self.spend(), load, f"jr {pointer}"]
        if kind == "jump":
            return [*self.spend(), f"j L{self.near(index, random)}"]
        if kind == "elsewhere":
            return [*self.spend(), f"ld ra, {at}(s9)", "ret"]
        if kind == "through":
            return [*self.spend(), f"ld t0, {at}(s9)", "jalr zero, 0(t0)"]
        if kind == "set":
            return [load, f"sd sp, {JUMP_BUFFER}(s10)", f"sd {pointer}, {JUMP_BUFFER + 8}(s10)"]
        return [
            *self.spend(), f"ld sp, {JUMP_BUFFER}(s10)",
            f"ld {pointer}, {JUMP_BUFFER + 8}(s10)", f"jr {pointer}",
        ]  # fmt: skip

    def odd(self, random: Random) -> list[str]:
        """What the rest of the machine is asked about, in the middle of everything."""
        plain = ["ebreak", "c.ebreak", ".4byte 0xffffffff", ".2byte 0", "fence", "fence.i"]
        if self.later:
            plain += ["ecall", "rdinstret a4", "csrrw a0, instret, a1", "csrrw a0, 0x300, a1"]
        return [random.choice(plain)]

    def fault(self, random: Random) -> list[str]:
        """An access, aligned as it has to be, or a jump, to a place that is not good for it."""
        base, value = random.sample([5, 6, 7, 13, 14, 15, 28, 31], 2)
        ends = [DATA, FIXED, FIXED + PAGE, STACK, STACK + STACK_PAGES * PAGE]
        if self.later:
            ends += [LIMIT, LIMIT - PAGE, 1 << 63, 0, 1 << 39, (1 << 64) - (1 << 38)]
        at = random.choice(ends) + random.choice([0, -1, -2, -3, -4, -7, -8, 4, 8, -4096, 1 << 24])
        offset = random.choice([0, 0, random.randint(-2048, 2047)])
        name = random.choice(
            ["lb", "lh", "lw", "ld", "lwu", "sb", "sh", "sw", "sd", "flw", "fld", "fsw", "fsd",
             "amoadd.w", "amoswap.d", "amomax.d", "lr.w", "lr.d", "jalr", "jalr", "jalr"]
        )  # fmt: skip
        if "." in name:
            lines = [f"li x{base}, {at & -8 & U64}"]
            operand = "" if name.startswith("lr") else f"x{value}, "
            return [*lines, f"{name} x{value}, {operand}(x{base})"]
        lines = [f"li x{base}, {at - offset & U64}"]
        if name == "jalr":
            goal = random.choice([at & U64, random.getrandbits(64)])
            if not self.later:
                # The emulator finds memory of its own at many places.
                goal = random.choice([STACK - 2 * PAGE, 0x2800_0001, 1 << 60])
            return [*self.spend(), f"li x{base}, {goal}", f"jalr ra, 0(x{base})"]
        letter = "f" if name.startswith("f") else "x"
        return [*lines, f"{name} {letter}{value}, {offset}(x{base})"]

    def piece(self, kind: str, seed: int, index: int) -> list[str]:
        """The lines of one piece."""
        random = Random(seed)
        makers: dict[str, Callable[[], list[str]]] = {
            "integer": lambda: self.straight("integer", random),
            "float": lambda: self.straight("float", random),
            "memory": lambda: self.memory(random),
            "atomic": lambda: self.atomic(random),
            "reserve": lambda: self.reserve(random),
            "csr": lambda: self.csr(random),
            "skip": lambda: self.skip(random),
            "branch": lambda: self.branch(index, random),
            "loop": lambda: self.loop(random),
            "call": lambda: self.call(index, random),
            "function": lambda: self.function(random),
            "wild": lambda: self.wild(index, random),
            "odd": lambda: self.odd(random),
            "fault": lambda: self.fault(random),
        }
        return makers[kind]()


#: How often each kind of piece is drawn.
WEIGHTS = {
    "integer": 24, "float": 16, "memory": 22, "atomic": 5, "reserve": 3, "csr": 2, "skip": 8,
    "branch": 8, "loop": 4, "call": 8, "function": 6, "wild": 4, "odd": 1, "fault": 1,
}  # fmt: skip

Piece = tuple[str, int]


def draw_pieces(random: Random, count: int, weights: dict[str, int] = WEIGHTS) -> list[Piece]:
    kinds = random.choices(list(weights), list(weights.values()), k=count)
    return [(kind, random.getrandbits(48)) for kind in kinds]


def text_of(pieces: Sequence[Piece], later: bool = True) -> str:
    """The program in assembly, with a table of the labels at its end."""
    maker = Maker(len(pieces), later)
    lines = []
    for index, (kind, seed) in enumerate(pieces):
        lines.append(f"L{index}:  # {kind}")
        lines += maker.piece(kind, seed, index)
    lines += [f"L{len(pieces)}:", "ebreak"]
    lines += [f".dword L{index}" for index in range(len(pieces) + 1)]
    return "\n".join(lines)


def start_of(pieces: Sequence[Piece], seed: int, later: bool = True) -> Start:
    """A program with the state that it begins in, both made from `seed`."""
    random = Random(seed)
    # Where in its page the code begins is random: instructions that straddle pages are wanted.
    pc = CODE + PAGE + random.choice([0, PAGE - 64, random.randrange(0, PAGE, 2)])
    code = RISCV.assemble(text_of(pieces, later), pc)
    count = len(pieces) + 1
    table = pc + len(code) - 8 * count
    labels = [
        int.from_bytes(code[at : at + 8], "little")
        for at in range(len(code) - 8 * count, len(code), 8)
    ]
    first = pc & -PAGE
    room = -(-(pc + len(code) - first) // PAGE) * PAGE
    data = bytearray(random.randbytes(DATA_PAGES * PAGE))
    middle = DATA_PAGES * PAGE // 2
    stack_pointer = STACK + STACK_PAGES * PAGE - 1024
    buffer = stack_pointer.to_bytes(8, "little") + random.choice(labels).to_bytes(8, "little")
    data[middle + JUMP_BUFFER : middle + JUMP_BUFFER + 16] = buffer
    goals = random.choices(labels, k=STACK_PAGES * PAGE // 8)
    stack = b"".join(goal.to_bytes(8, "little") for goal in goals)
    x = [0, *(number(random) for _ in range(31))]
    # Offsets from here reach as many labels as there are on both sides.
    x[LABELS] = table + 8 * (count // 2)
    x[1], x[SP], x[BASE] = labels[-1], stack_pointer, DATA + middle
    x[FUEL] = random.randrange(10, 150)
    modes = [0, 0, 0, 1, 2, 3, 4]
    areas = [
        Area(first, bytes(pc - first) + code + bytes(room - len(code) - pc + first), READ | EXEC),
        Area(DATA, bytes(data), READ | WRITE),
        Area(FIXED, random.randbytes(PAGE), READ),
        Area(STACK, stack, READ | WRITE),
    ]
    if later:
        areas.append(Area(TOP, random.randbytes(PAGE), READ | WRITE))
    return Start(
        pc=pc,
        end=labels[-1],
        resume=random.choice(labels),
        x=x,
        f=[pattern(random) for _ in range(32)],
        fcsr=random.choice(modes) << 5 | random.getrandbits(5) & random.getrandbits(5),
        areas=areas,
        entries=labels[:-1],
    )
