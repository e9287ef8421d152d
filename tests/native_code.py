"""Compile LLVM text for the tests of the native runtime: the whole O2 pipeline, as for hot code."""

from __future__ import annotations

from functools import lru_cache

from hartwood.jit import host_x86_signals
from hartwood.jit.image import Image, flatten


def compile_object(text: str, level: int = 2) -> bytes:
    """The ELF object LLVM emits for `text` (x86-64, position independent, this host's CPU)."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    machine = llvm.Target.from_default_triple().create_target_machine(
        opt=level,
        reloc="pic",
        codemodel="small",
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
    )
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


def compile_image(text: str, level: int = 2) -> Image:
    return flatten(compile_object(text, level))


@lru_cache
def runtime_object() -> bytes:
    """The signal handlers' object."""
    return compile_object(host_x86_signals.text())
