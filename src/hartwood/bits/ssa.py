"""The meaning of the words as LLVM text: every operation appends one line to a `Text`.

Constants fold through the reference meaning (`ints`), so an operand that is known when
translating costs nothing and cannot mean something else there than here.
"""

from __future__ import annotations

from collections.abc import Callable

from hartwood.bits.ints import Int
from hartwood.errors import Error


class SsaError(Error):
    """A definition used a word in a way that has no translation."""


class Text:
    """LLVM text of one function under construction."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.block = "entry"
        #: Called at the end for lines whose form the rest of the text was to decide.
        self.pending: list[Callable[[], None]] = []
        self._next = 0

    def body(self) -> str:
        """The finished lines."""
        for settle in self.pending:
            settle()
        self.pending.clear()
        return "\n".join(self.lines)

    def emit(self, line: str) -> None:
        """Append one instruction."""
        self.lines.append("  " + line)

    def fresh(self) -> str:
        """A new value name."""
        self._next += 1
        return f"%v{self._next}"

    def value(self, expression: str) -> str:
        """Append `name = expression` and give the name."""
        self._next += 1
        name = f"%v{self._next}"
        self.lines.append(f"  {name} = {expression}")
        return name

    def fresh_label(self, hint: str = "b") -> str:
        """A new block name."""
        self._next += 1
        return f"{hint}{self._next}"

    def label(self, name: str) -> None:
        """Begin block `name`; the block before must have ended."""
        self.lines.append(f"{name}:")
        self.block = name


class Val:
    """`Bits` as an LLVM value: a name or constant, or a floating-point value not yet cast."""

    __slots__ = ("_name", "canonical", "const", "fp", "offset", "raw", "root", "text", "width")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        text: Text,
        width: int,
        name: str | None = None,
        const: int | None = None,
        fp: str | None = None,
    ) -> None:
        self.text = text
        self.width = width
        self.const = const
        self._name = name
        self.fp = fp
        #: A floating-point result whose NaN is not the canonical one yet: good enough for further
        #: arithmetic; `canonical` makes the real value of it when somebody looks at the bits.
        self.raw: str | None = None
        self.canonical: Callable[[str], str] | None = None
        #: The value is `root` (a name, or None for its own) plus `offset`.
        self.root: str | None = None
        self.offset = 0

    @property
    def is_float(self) -> bool:
        """Whether the value is at hand in a floating-point register of the host."""
        return self.fp is not None or self.raw is not None

    @property
    def name(self) -> str:
        """The LLVM operand, as an integer of `width` bits."""
        if self._name is None:
            if self.const is not None:
                self._name = str(self.const)
            else:
                kind = "double" if self.width == 64 else "float"
                float_name = self.float_name
                self._name = self.text.value(f"bitcast {kind} {float_name} to i{self.width}")
        return self._name

    @property
    def float_name(self) -> str:
        """The same bits as an LLVM double or float operand."""
        if self.fp is None and self.raw is not None and self.canonical is not None:
            self.fp = self.canonical(self.raw)
        if self.fp is None:
            kind = "double" if self.width == 64 else "float"
            self.fp = self.text.value(f"bitcast i{self.width} {self.name} to {kind}")
        return self.fp

    @property
    def raw_name(self) -> str:
        """A double or float operand for arithmetic, where any NaN is as good as another."""
        return self.raw if self.fp is None and self.raw is not None else self.float_name

    def __bool__(self) -> bool:
        raise SsaError("a guest value has no truth: use select or branch")

    def coerce(self, other: Val | int) -> Val:
        """`other` as a value of this width."""
        if isinstance(other, Val):
            if other.width != self.width:
                raise SsaError(f"operands of {self.width} and {other.width} bits")
            return other
        return constant(self.text, other, self.width)

    def _fold(self, method: str, *operands: Val) -> Val | None:
        """The result by the reference meaning where everything is constant."""
        if self.const is None or any(v.const is None for v in operands):
            return None
        ints = [Int(v.const or 0, v.width) for v in operands]
        result = getattr(Int(self.const, self.width), method)(*ints)
        return constant(self.text, result.value, result.width)

    def _binary(self, method: str, opcode: str, other: Val | int) -> Val:
        rhs = self.coerce(other)
        folded = self._fold(method, rhs)
        if folded is not None:
            return folded
        w = self.width
        return Val(self.text, w, self.text.value(f"{opcode} i{w} {self.name}, {rhs.name}"))

    def _compare(self, method: str, predicate: str, other: Val | int) -> Val:
        rhs = self.coerce(other)
        folded = self._fold(method, rhs)
        if folded is not None:
            return folded
        line = f"icmp {predicate} i{self.width} {self.name}, {rhs.name}"
        return Val(self.text, 1, self.text.value(line))

    def __add__(self, other: Val | int) -> Val:
        rhs = self.coerce(other)
        if rhs.const == 0:
            return self
        if self.const == 0:
            return rhs
        total = self._binary("__add__", "add", rhs)
        for value, addend in ((self, rhs), (rhs, self)):
            if addend.const is not None and value.const is None:
                total.root = value.root or value.name
                half = 1 << (self.width - 1)
                total.offset = value.offset + (addend.const ^ half) - half
        return total

    __radd__ = __add__

    def __sub__(self, other: Val | int) -> Val:
        return self._binary("__sub__", "sub", other)

    def __rsub__(self, other: int) -> Val:
        return self.coerce(other) - self

    def __mul__(self, other: Val | int) -> Val:
        return self._binary("__mul__", "mul", other)

    def __and__(self, other: Val | int) -> Val:
        return self._binary("__and__", "and", other)

    __rand__ = __and__

    def __or__(self, other: Val | int) -> Val:
        return self._binary("__or__", "or", other)

    __ror__ = __or__

    def __xor__(self, other: Val | int) -> Val:
        if isinstance(other, int) and other == 1 << (self.width - 1) and self.is_float:
            # It stays in its register.
            kind = "double" if self.width == 64 else "float"
            name = self.text.value(f"fneg {kind} {self.float_name}")
            return Val(self.text, self.width, fp=name)
        return self._binary("__xor__", "xor", other)

    __rxor__ = __xor__

    def __invert__(self) -> Val:
        return self ^ ((1 << self.width) - 1)

    def __neg__(self) -> Val:
        return self.coerce(0) - self

    def __eq__(self, other: object) -> Val:  # type: ignore[override]
        return self._compare("__eq__", "eq", _operand(other))

    def __ne__(self, other: object) -> Val:  # type: ignore[override]
        return self._compare("__ne__", "ne", _operand(other))

    def lt_s(self, other: Val | int) -> Val:
        return self._compare("lt_s", "slt", other)

    def lt_u(self, other: Val | int) -> Val:
        return self._compare("lt_u", "ult", other)

    def _amount(self, amount: Val | int) -> Val:
        """A shift amount in this value's width; only its low bits count."""
        if isinstance(amount, Val) and amount.width != self.width:
            if amount.width > self.width:
                return amount.trunc(self.width)
            return amount.zext(self.width)
        return self.coerce(amount)

    def _shift(self, method: str, opcode: str, amount: Val | int) -> Val:
        # LLVM's shifts are poison from the width on; the word says modulo.
        return self._binary(method, opcode, self._amount(amount) & (self.width - 1))

    def shl(self, amount: Val | int) -> Val:
        return self._shift("shl", "shl", amount)

    def shr_u(self, amount: Val | int) -> Val:
        return self._shift("shr_u", "lshr", amount)

    def shr_s(self, amount: Val | int) -> Val:
        return self._shift("shr_s", "ashr", amount)

    def _rotate(self, method: str, intrinsic: str, amount: Val | int) -> Val:
        by = self._amount(amount)
        folded = self._fold(method, by)
        if folded is not None:
            return folded
        t = f"i{self.width}"
        args = f"{t} {self.name}, {t} {self.name}, {t} {by.name}"
        return Val(
            self.text, self.width, self.text.value(f"call {t} @llvm.{intrinsic}.{t}({args})")
        )

    def rotl(self, amount: Val | int) -> Val:
        return self._rotate("rotl", "fshl", amount)

    def rotr(self, amount: Val | int) -> Val:
        return self._rotate("rotr", "fshr", amount)

    def div_s(self, other: Val | int) -> Val:
        return self._binary("div_s", "sdiv", other)

    def div_u(self, other: Val | int) -> Val:
        return self._binary("div_u", "udiv", other)

    def rem_s(self, other: Val | int) -> Val:
        return self._binary("rem_s", "srem", other)

    def rem_u(self, other: Val | int) -> Val:
        return self._binary("rem_u", "urem", other)

    def _high(self, method: str, other: Val | int, sign_a: bool, sign_b: bool) -> Val:
        rhs = self.coerce(other)
        folded = self._fold(method, rhs)
        if folded is not None:
            return folded
        wide = 2 * self.width
        a = self.sext(wide) if sign_a else self.zext(wide)
        b = rhs.sext(wide) if sign_b else rhs.zext(wide)
        return (a * b).shr_u(self.width).trunc(self.width)

    def mulh_s(self, other: Val | int) -> Val:
        return self._high("mulh_s", other, True, True)

    def mulh_u(self, other: Val | int) -> Val:
        return self._high("mulh_u", other, False, False)

    def mulh_su(self, other: Val | int) -> Val:
        return self._high("mulh_su", other, True, False)

    def _resize(self, method: str, opcode: str, width: int) -> Val:
        if width == self.width:
            return self
        if self.const is not None:
            folded = getattr(Int(self.const, self.width), method)(width)
            return constant(self.text, folded.value, width)
        line = f"{opcode} i{self.width} {self.name} to i{width}"
        return Val(self.text, width, self.text.value(line))

    def sext(self, width: int) -> Val:
        return self._resize("sext", "sext", width)

    def zext(self, width: int) -> Val:
        return self._resize("zext", "zext", width)

    def trunc(self, width: int) -> Val:
        return self._resize("trunc", "trunc", width)

    def _unary(self, method: str, intrinsic: str, extra: str = "") -> Val:
        folded = self._fold(method)
        if folded is not None:
            return folded
        t = f"i{self.width}"
        line = f"call {t} @llvm.{intrinsic}.{t}({t} {self.name}{extra})"
        return Val(self.text, self.width, self.text.value(line))

    def clz(self) -> Val:
        return self._unary("clz", "ctlz", ", i1 false")

    def ctz(self) -> Val:
        return self._unary("ctz", "cttz", ", i1 false")

    def popcount(self) -> Val:
        return self._unary("popcount", "ctpop")

    def bswap(self) -> Val:
        return self._unary("bswap", "bswap")


def _operand(value: object) -> Val | int:
    if isinstance(value, (Val, int)):
        return value
    raise SsaError(f"cannot compare a guest value with {type(value).__name__}")


def constant(text: Text, value: int, width: int) -> Val:
    """A known value of `width` bits."""
    return Val(text, width, const=value & ((1 << width) - 1))


def select(text: Text, condition: Val | int, if_true: Val | int, if_false: Val | int) -> Val:
    """`if_true` where the one-bit condition holds, else `if_false`."""
    if isinstance(if_true, Val):
        a, b = if_true, if_true.coerce(if_false)
    elif isinstance(if_false, Val):
        a, b = if_false.coerce(if_true), if_false
    else:
        a, b = constant(text, if_true, 64), constant(text, if_false, 64)
    if isinstance(condition, int) or condition.const is not None:
        known = condition if isinstance(condition, int) else condition.const
        return a if known else b
    t = f"i{a.width}"
    line = f"select i1 {condition.name}, {t} {a.name}, {t} {b.name}"
    return Val(text, a.width, text.value(line))


class SsaFile:
    """A register file reached through two functions; writes of numbers become constants."""

    def __init__(
        self,
        text: Text,
        width: int,
        read: Callable[[Val | int], Val],
        write: Callable[[Val | int, Val], None],
    ) -> None:
        self._text, self._width, self._read, self._write = text, width, read, write

    def __getitem__(self, index: Val | int) -> Val:
        return self._read(index)

    def __setitem__(self, index: Val | int, value: Val | int) -> None:
        if isinstance(value, int):
            value = constant(self._text, value, self._width)
        if value.width != self._width:
            raise SsaError(f"{value.width} bits written to a register of {self._width}")
        self._write(index, value)


class SsaHart:
    """The part of `words.Hart` that all translations share; where registers live, what memory is
    and how control leaves are the business of the subclasses in `jit`.
    """

    def __init__(self, text: Text) -> None:
        self.text = text
        self.x = SsaFile(text, 64, self.read_x, self.write_x)
        self.f64 = SsaFile(text, 64, self.read_f, self.write_f)
        self.f32 = SsaFile(text, 32, self._read_f32, self._write_f32)

    def read_x(self, index: Val | int) -> Val:
        """Integer register `index`."""
        raise NotImplementedError

    def write_x(self, index: Val | int, value: Val) -> None:
        """Write integer register `index`."""
        raise NotImplementedError

    def read_f(self, index: Val | int) -> Val:
        """Floating-point register `index`, 64 bits."""
        raise NotImplementedError

    def write_f(self, index: Val | int, value: Val) -> None:
        """Write floating-point register `index`."""
        raise NotImplementedError

    def _read_f32(self, index: Val | int) -> Val:
        """The narrow value in register `index`, unboxed."""
        raise NotImplementedError

    def _write_f32(self, index: Val | int, value: Val) -> None:
        """Write a narrow value, boxed."""
        raise NotImplementedError

    def const(self, value: Val | int, width: int = 64) -> Val:
        """A number with a width; a value stays what it is."""
        return value if isinstance(value, Val) else constant(self.text, value, width)

    def select(self, condition: Val | int, if_true: Val | int, if_false: Val | int) -> Val:
        """See `words.Hart.select`. The width of two numbers is 64."""
        return select(self.text, condition, if_true, if_false)
