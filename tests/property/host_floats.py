"""Compiles the text of `ssa_float` operations, so that tests can call them with patterns.

One function an operation and rounding mode: it reads operands from memory, does the operation in
an environment it was given, and writes back the result and the flags.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence

import llvmlite.binding as llvm

from hartwood.bits.ssa import Text
from hartwood.bits.ssa_float import KIND
from hartwood.bits.ssa_float_x86 import X86Float, fflags_of, mxcsr_of, outlined_functions
from hartwood.jit.arena import CodeArena
from hartwood.jit.image import flatten
from property.float_cases import Operation

#: Operands a, b, c; result; MXCSR on the way in and out; the host's own; the hart's slot and frm.
WORDS = 9


def _field(text: Text, index: int) -> str:
    return text.value(f"getelementptr i64, ptr %frame, i64 {index}")


def _mxcsr(text: Text, insn: str, index: int) -> None:
    where = _field(text, index)
    constraint = "=*m" if insn == "stmxcsr" else "*m"
    text.emit(f'call void asm sideeffect "{insn} $0", "{constraint}"(ptr elementtype(i32) {where})')


def operand(text: Text, index: int, kind: str) -> str:
    return text.value(f"load {kind}, ptr {_field(text, index)}")


def emit(host: X86Float, operation: Operation, rm: int, operands: Sequence[str]) -> str:
    """The operation by its name; gives an LLVM operand of the result's own type."""
    name, w, to = operation.name, operation.width, operation.result_width
    if name.startswith("to_int"):
        return host.to_int(operands[0], w, to, name.endswith("s"), rm)
    if name.startswith("from_int"):
        return host.from_int(operands[0], w, name.endswith("s"), to, rm)
    if name == "convert":
        return host.convert(operands[0], w, to, rm)
    method = getattr(host, name)
    takes_mode = name in ("add", "sub", "mul", "div", "sqrt", "fma")
    result = method(*operands, w, *((rm,) if takes_mode else ()))
    assert isinstance(result, str)
    return result


def result_kind(operation: Operation) -> str:
    integer = operation.result_width == 1 or operation.name.startswith("to_int")
    return f"i{operation.result_width}" if integer else KIND[operation.result_width]


def function_text(name: str, text: Text) -> str:
    return f"define void @{name}(ptr %frame) #0 {{\nentry:\n{text.body()}\n  ret void\n}}"


def begin(text: Text, outlined: bool = False) -> X86Float:
    """Enter the guest's environment; operands have been loaded."""
    _mxcsr(text, "stmxcsr", 6)
    _mxcsr(text, "ldmxcsr", 4)
    return X86Float(
        text, lambda: _field(text, 7), lambda: operand(text, 8, "i64"), outlined=outlined
    )


def end(text: Text) -> None:
    _mxcsr(text, "stmxcsr", 5)
    _mxcsr(text, "ldmxcsr", 6)


def store(text: Text, kind: str, value: str, index: int = 3) -> None:
    text.emit(f"store {kind} {value}, ptr {_field(text, index)}")


def operation_text(name: str, operation: Operation, rm: int, outlined: bool = False) -> str:
    text = Text()
    kind = f"i{operation.width}" if operation.takes_int else KIND[operation.width]
    operands = [operand(text, i, kind) for i in range(operation.operands)]
    host = begin(text, outlined)
    result = emit(host, operation, rm, operands)
    end(text)
    store(text, result_kind(operation), result)
    return function_text(name, text)


def module_text(functions: Sequence[str]) -> str:
    body = "\n\n".join(functions)
    body = "\n\n".join((body, *outlined_functions(body)))
    intrinsics = {}
    for result, name, arguments in re.findall(r"call (\S+) @(llvm\.[\w.]+)\(([^)]*)\)", body):
        kinds = ", ".join(argument.split()[0] for argument in arguments.split(", "))
        intrinsics[name] = f"declare {result} @{name}({kinds})"
    attributes = "attributes #0 = { nounwind strictfp }"
    unlikely = '!1 = !{!"branch_weights", i32 1, i32 2000}'
    return "\n".join((body, *intrinsics.values(), attributes, unlikely))


class Compiled:
    """Functions of module text, ready to call; keeps the code alive."""

    def __init__(self, functions: Sequence[str], level: int = 2) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        X86Float.require(llvm.get_host_cpu_features())
        self.machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=level,
            reloc="pic",
            codemodel="small",
        )
        module = llvm.parse_assembly(module_text(functions))
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=level)
        builder = llvm.create_pass_builder(self.machine, options)
        builder.getModulePassManager().run(module, builder)
        self.assembly = self.machine.emit_assembly(module)
        # One image, as always: LLVM's own loader spreads sections over the address space, and where
        # that is full of reservations they end up too far apart for the small code model.
        image = flatten(bytes(self.machine.emit_object(module)))
        self._arena = CodeArena(-(-len(image.code) // 4096) * 4096 + 4096)
        self._at = self._arena.install(image)
        self._entries = image.entries

    def function(self, name: str) -> Callable[[int], None]:
        code = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._at + self._entries[name])

        def run(frame: int) -> None:
            assert self._arena is not None  # lives as long as its functions
            code(frame)

        return run


def call(
    function: Callable[[int], None],
    values: Sequence[int],
    fflags: int,
    frm: int,
    *,
    keep_mode: bool = True,
) -> tuple[ctypes.Array[ctypes.c_uint64], int]:
    """Run with operands and an environment; the frame afterwards (result in word 3), and the
    flags."""
    frame = (ctypes.c_uint64 * WORDS)(*values[:3])
    frame[4], frame[8] = mxcsr_of(fflags, frm), frm
    function(ctypes.addressof(frame))
    assert not keep_mode or (frame[5] ^ frame[4]) >> 13 & 3 == 0, "the rounding mode changed"
    assert frame[5] & 0x1F80 == 0x1F80, "an exception was unmasked"
    assert not frame[5] & 0x8040, "denormals became zeros"
    return frame, fflags_of(frame[5] & 0xFFFF)
