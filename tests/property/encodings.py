"""Words of a given encoding, all of them or only those that are legal."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

from hartwood.isa import Encoding
from hartwood.isa.riscv import RISCV


def word_of(encoding: Encoding, noise: int) -> int:
    """A word of the encoding's row with its fields taken from `noise`; it may be excluded."""
    row = encoding.row
    return noise & (1 << 8 * row.length) - 1 & ~row.mask | row.match


def legal_word_of(encoding: Encoding, random: Random) -> int:
    """A random word that decodes to the encoding."""
    word = word_of(encoding, random.getrandbits(32))
    for name, values in encoding.excluded.items():
        spec = encoding.row.fields[name]
        if spec.extract(word) in values:
            allowed = [value for value in spec.range if value not in values]
            word = word & ~spec.bits | spec.insert(random.choice(allowed))
    return word


#: An encoding and a word of its row.
words = st.builds(
    lambda encoding, noise: (encoding, word_of(encoding, noise)),
    st.sampled_from(list(RISCV.encodings())),
    st.integers(0, (1 << 32) - 1),
)
