"""Encodings against other assemblers: binutils for all that it knows, LLVM for the rest.

The disassembly of a word has to assemble to that very word elsewhere too.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random

from hartwood.isa.riscv import RISCV
from property.encodings import legal_word_of

ARCH = "rv64gc_zba_zbb_zbs_zicsr_zifencei_zihintpause"
#: binutils 2.40 came before these.
LATER = ("zicond", "zcb")

#: LLVM compiles each of these to one instruction of `LATER` and a return.
FUNCTIONS = """
define i64 @eqz(i64 %a, i64 %b) { %c = icmp eq i64 %b, 0
  %r = select i1 %c, i64 0, i64 %a
  ret i64 %r }
define i64 @nez(i64 %a, i64 %b) { %c = icmp eq i64 %b, 0
  %r = select i1 %c, i64 %a, i64 0
  ret i64 %r }
define i64 @lbu(ptr %p) { %q = getelementptr i8, ptr %p, i64 3
  %v = load i8, ptr %q
  %r = zext i8 %v to i64
  ret i64 %r }
define i64 @lbu1(ptr %p) { %q = getelementptr i8, ptr %p, i64 1
  %v = load i8, ptr %q
  %r = zext i8 %v to i64
  ret i64 %r }
define i64 @lhu(ptr %p) { %q = getelementptr i8, ptr %p, i64 2
  %v = load i16, ptr %q
  %r = zext i16 %v to i64
  ret i64 %r }
define i64 @lh(ptr %p) { %q = getelementptr i8, ptr %p, i64 2
  %v = load i16, ptr %q
  %r = sext i16 %v to i64
  ret i64 %r }
define void @sb(ptr %p, i8 %v) { %q = getelementptr i8, ptr %p, i64 1
  store i8 %v, ptr %q
  ret void }
define void @sh(ptr %p, i16 %v) { %q = getelementptr i8, ptr %p, i64 2
  store i16 %v, ptr %q
  ret void }
define i64 @zextb(i64 %a) { %r = and i64 %a, 255
  ret i64 %r }
define i64 @zexth(i64 %a) { %r = and i64 %a, 65535
  ret i64 %r }
define i64 @zextw(i64 %a) { %r = and i64 %a, 4294967295
  ret i64 %r }
define i64 @sextb(i64 %a) { %t = trunc i64 %a to i8
  %r = sext i8 %t to i64
  ret i64 %r }
define i64 @sexth(i64 %a) { %t = trunc i64 %a to i16
  %r = sext i16 %t to i64
  ret i64 %r }
define i64 @not(i64 %a) { %r = xor i64 %a, -1
  ret i64 %r }
define i64 @mul(i64 %a, i64 %b) { %r = mul i64 %a, %b
  ret i64 %r }
"""


def test_binutils_assembles_what_we_print_to_the_same_words(
    tmp_path: Path, oracle: Callable[[str], str]
) -> None:
    random = Random("encodings")
    known = [encoding for encoding in RISCV.encodings() if encoding.extension not in LATER]
    words: list[bytes] = []
    lines: list[str] = []
    for encoding in known * 5:
        raw = legal_word_of(encoding, random).to_bytes(encoding.length, "little")
        text = RISCV.disassemble(raw, 4 * len(lines))
        if encoding.name in ("c.slli", "c.srli", "c.srai") and text.endswith(", 0"):
            # Hints, which it spells c.slli64 and so on.
            continue
        if encoding.name in ("fcvt.d.s", "fcvt.d.w", "fcvt.d.wu") and text.count(",") == 2:
            # Its conversions that cannot round take no rounding mode.
            continue
        if re.search(r"{\w+:pc}", encoding.asm):
            # Absolute targets would be relocations; the distance is what is encoded.
            target = int(text.split()[-1], 0)
            distance = (target - 4 * len(lines) + (1 << 63)) % (1 << 64) - (1 << 63)
            text = text.rsplit(maxsplit=1)[0] + f" .{distance:+d}"
        words.append((raw + b"\x01\x00")[:4])
        # Two-byte instructions are filled up so that addresses stay ours; the option keeps it from
        # compressing what we meant to be long.
        option = ".option rvc" if len(raw) == 2 else ".option norvc"
        lines.append(f"{option}\n{text}\n" + ("c.nop\n" if len(raw) == 2 else ""))
    source, linked = tmp_path / "code.s", tmp_path / "code.o"
    source.write_text(".option norelax\n" + "".join(lines))
    command = [oracle("riscv64-linux-gnu-as"), f"-march={ARCH}", "-mno-arch-attr"]
    subprocess.run([*command, "-o", str(linked), str(source)], check=True)
    extract = [oracle("riscv64-linux-gnu-objcopy"), "-O", "binary", "-j", ".text", str(linked)]
    subprocess.run([*extract, str(tmp_path / "code.bin")], check=True)
    theirs = (tmp_path / "code.bin").read_bytes()
    for number, (word, line) in enumerate(zip(words, lines, strict=True)):
        assert theirs[4 * number : 4 * number + 4] == word, line
    assert len(words) > 4.5 * len(known)


def test_llvm_makes_the_same_words_of_newer_instructions() -> None:
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = "riscv64-unknown-linux-gnu"
    features = "+m,+c,+zba,+zbb,+zicond,+zcb"
    target = llvm.Target.from_triple(triple)
    machine = target.create_target_machine(cpu="generic-rv64", features=features, opt=2)
    module = llvm.parse_assembly(f'target triple = "{triple}"\n' + FUNCTIONS)
    assembly = machine.emit_assembly(module)
    blob = machine.emit_object(module)
    printed = [
        line.strip().replace("\t", " ")
        for line in assembly.splitlines()
        if re.match(r"\t[a-z]", line)
    ]
    code = b"".join(_encode_like_llvm(line) for line in printed)
    # The text section holds the functions one after the other.
    assert code in blob
    spelled = {line.split()[0] for line in RISCV.disassemble(code).splitlines()}
    later = {encoding.name for encoding in RISCV.encodings() if encoding.extension in LATER}
    assert later <= spelled


def _encode_like_llvm(line: str) -> bytes:
    """LLVM prints the plain instruction and compresses while encoding: so do we, by asking which
    compressed form says the same."""
    word = RISCV.assemble(line)
    decoded = RISCV.decode(int.from_bytes(word, "little"))
    assert decoded is not None
    for encoding in RISCV.encodings():
        if encoding.insn is decoded.insn and encoding.length == 2:
            short = encoding.encode(decoded.fields)
            if short is not None:
                return short.to_bytes(2, "little")
    return word
