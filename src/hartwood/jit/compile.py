"""From LLVM text to an image: pass lists, tiers, and the declarations that the text leaves out.

The only module that imports llvmlite (with the worker that calls it); never loaded by the process
that runs guests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import llvmlite.binding as llvm

from hartwood.bits.ssa_float_x86 import outlined_functions
from hartwood.jit.image import Image, flatten

#: Branch weights: `!0` for a likely first target, `!1` for an unlikely one.
_METADATA = """
!0 = !{!"branch_weights", i32 2000, i32 1}
!1 = !{!"branch_weights", i32 1, i32 2000}
!2 = !{!"rsp"}
!3 = !{}
!4 = !{i64 -2147483648, i64 2147483648}
!5 = !{i64 274877906944, i64 549755813888}
"""
_ATTRIBUTES = """
attributes #0 = { nounwind strictfp }
attributes #1 = { nounwind strictfp optsize }
"""
_INTRINSIC = re.compile(r"call (\S+) @(llvm\.[\w.]+)\(([^)]*)\)")

_ready = False
_machines: dict[tuple[int, str], llvm.TargetMachine] = {}


def _initialise() -> None:
    global _ready
    if not _ready:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        # Loop strength reduction trades a guest's one counter for several of its own.
        llvm.set_option("", "-disable-lsr")
        _ready = True


def _machine(level: int, reloc: str = "pic") -> llvm.TargetMachine:
    if (level, reloc) not in _machines:
        _initialise()
        target = llvm.Target.from_default_triple()
        _machines[level, reloc] = target.create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=level,
            reloc=reloc,
            codemodel="small",
        )
    return _machines[level, reloc]


def _declarations(text: str) -> str:
    """`declare` lines for the intrinsics that the text calls."""
    seen: dict[str, str] = {}
    for result, name, arguments in _INTRINSIC.findall(text):
        if name not in seen:
            kinds = ", ".join(part.split()[0] for part in arguments.split(",") if part.strip())
            seen[name] = f"declare {result} @{name}({kinds})"
    return "\n".join(seen.values())


def module_text(functions: Iterable[str]) -> str:
    """A whole module from function definitions; `#0` is their attribute group, `#1` that of
    stencils, which makes a conditional jump of a conditional tail call."""
    body = "\n\n".join(functions)
    body += "\n" + "\n".join(outlined_functions(body))
    return f"{body}\n\n{_declarations(body)}\n{_ATTRIBUTES}\n{_METADATA}"


#: Passes that pay, by measurement (docs/design.md): the back end takes four fifths of the time,
#: so what makes its input smaller is nearly free.
_PASSES = ("sroa", "instruction_combine", "simplify_cfg")


def compile_object(text: str, level: int = 2, reloc: str = "pic") -> bytes:
    """An ELF object from module text. `level` 0 to 3 is LLVM's; 0 optimises nothing. `reloc` is
    "pic", or "static" for stencils, whose holes are absolute. Raises `RuntimeError` for text that
    LLVM would abort the process for: to look costs a hundredth of compiling."""
    machine = _machine(level, reloc)
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    builder = llvm.create_pass_builder(machine, options)
    passes = llvm.create_new_module_pass_manager()
    for name in _PASSES if level else ():
        getattr(passes, f"add_{name}_pass")()
    passes.run(module, builder)
    return bytes(machine.emit_object(module))


def compile_image(functions: Iterable[str], level: int = 2, meta: bytes = b"") -> Image:
    """Compile function definitions to one image."""
    return flatten(compile_object(module_text(functions), level), meta)
