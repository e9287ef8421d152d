"""The disassembler against binutils' on random words of every encoding that binutils knows."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hartwood.isa import Encoding
from hartwood.isa.riscv import RISCV
from property.encodings import word_of

ARCH = "rv64gc_zba_zbb_zbs_zicsr_zifencei_zihintpause"
#: binutils 2.40 came before these.
LATER = ("zicond", "zcb")
KNOWN = [encoding for encoding in RISCV.encodings() if encoding.extension not in LATER]
#: binutils knows conversions that cannot round with rounding mode 0 only (2.40).
EXACT = ("fcvt.d.s", "fcvt.d.w", "fcvt.d.wu")


def comparable(encoding: Encoding, word: int) -> bool:
    """Whether binutils prints this word by the same rules as we do."""
    fields = encoding.row.decode(word)
    assert fields is not None
    if encoding.excluded and encoding.decoder(word) is None:
        # Reserved values: binutils prints some of them as if they were instructions.
        return False
    if encoding.name in EXACT:
        return fields["rm"] == 0
    if encoding.name.startswith("csr"):
        # It has names for CSRs that we leave as numbers.
        return fields["csr"] in RISCV.csrs
    # Its names for the hints with shift amount 0 are c.slli64 and so on.
    return not (encoding.name in ("c.slli", "c.srli", "c.srai") and fields["nzuimm"] == 0)


def normal(text: str) -> str:
    """Spacing, number base and comments evened out."""
    text = re.sub(r"\s*[#<].*", "", text).replace("\t", " ").strip().replace(", ", ",")
    number = re.compile(r"(?<![\w.])(-?)(0x[0-9a-f]+|\d+)\b")
    return number.sub(lambda found: found[1] + str(int(found[2], 0)), text)


def objdump(code: bytes, folder: Path, oracle: Callable[[str], str]) -> dict[int, str]:
    """Lines of binutils' disassembly by address."""
    prefix = "riscv64-linux-gnu-"
    source, target = folder / "code.s", folder / "code.o"
    source.write_text(".byte " + ",".join(map(str, code)) + "\n")
    command = [oracle(prefix + "as"), f"-march={ARCH}", "-o", str(target), str(source)]
    subprocess.run(command, check=True)
    # Without the symbols that mark data, objdump takes the bytes for code.
    subprocess.run([oracle(prefix + "objcopy"), "--strip-all", str(target)], check=True)
    dump = [oracle(prefix + "objdump"), "-M", "no-aliases", "-d", str(target)]
    output = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    found = re.findall(r"^\s*([0-9a-f]+):\t[0-9a-f]+\s+(.*)$", output, re.MULTILINE)
    return {int(at, 16): text for at, text in found}


# A failure names its word already; there is nothing to shrink.
@settings(max_examples=8, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 64))
def test_disassembly_is_that_of_objdump(
    tmp_path_factory, oracle: Callable[[str], str], seed: int
) -> None:
    random = Random(seed)
    picked = [(encoding, word_of(encoding, random.getrandbits(32))) for encoding in KNOWN * 10]
    chosen = [(encoding, word) for encoding, word in picked if comparable(encoding, word)]
    assert len(chosen) > 8 * len(KNOWN)
    code = b"".join(word.to_bytes(encoding.length, "little") for encoding, word in chosen)
    theirs = objdump(code, tmp_path_factory.mktemp("objdump"), oracle)
    for at, raw, text in RISCV.listing(code):
        assert normal(text) == normal(theirs[at]), raw[::-1].hex()
