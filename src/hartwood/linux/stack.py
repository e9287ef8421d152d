"""The initial stack of a program: strings, auxiliary vector, environment, arguments.

Layout by the RISC-V psABI and Linux's create_elf_tables(): argc at sp (16-byte aligned), argv,
envp and the auxiliary vector above it, the strings at the top.
"""

from __future__ import annotations

import struct
from errno import E2BIG

from hartwood.errors import LoadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from hartwood.mem.flat import FlatSpace

AT_NULL, AT_PHDR, AT_PHENT, AT_PHNUM, AT_PAGESZ, AT_BASE = 0, 3, 4, 5, 6, 7
AT_FLAGS, AT_ENTRY, AT_UID, AT_EUID, AT_GID, AT_EGID = 8, 9, 11, 12, 13, 14
AT_HWCAP, AT_CLKTCK, AT_SECURE, AT_RANDOM, AT_EXECFN, AT_MINSIGSTKSZ = 16, 17, 23, 25, 31, 51

#: Longest single argument (MAX_ARG_STRLEN) and longest sum of them that Linux accepts.
MAX_STRING = 131072
MAX_STRINGS = 6 << 20


def build(
    space: FlatSpace,
    top: int,
    argv: Sequence[bytes],
    env: Sequence[bytes],
    path: bytes,
    auxv: Sequence[tuple[int, int]],
    seed: bytes,
    room: int,
) -> tuple[int, bytes]:
    """Write the initial stack below `top`; its sp and the auxiliary vector's bytes.

    `auxv` holds the entries whose values are no stack addresses, `seed` the 16 bytes of AT_RANDOM,
    `room` the stack's size in bytes. Raises `LoadError` (E2BIG) where the arguments are too long.
    """
    name = path.decode(errors="replace")
    strings = sum(map(len, argv)) + sum(map(len, env)) + len(argv) + len(env) + len(path) + 1
    pointers = 8 * (len(argv) + len(env))
    if strings + pointers > min(room // 4, MAX_STRINGS):
        raise LoadError(name, "the arguments and environment are too long", E2BIG)
    if any(len(text) >= MAX_STRING for text in (*argv, *env)):
        raise LoadError(name, "an argument or environment string is too long", E2BIG)
    # From the top down: a null word, the program's path, environment, arguments.
    blob = bytearray()
    strings_at = top - 8 - strings
    arguments = _append(blob, argv, strings_at)
    environment = _append(blob, env, strings_at)
    path_at = strings_at + len(blob)
    blob += path + bytes(9)
    seed_at = strings_at - 16 & -16
    vector = [*auxv, (AT_RANDOM, seed_at), (AT_EXECFN, path_at), (AT_NULL, 0)]
    words = [len(argv), *arguments, 0, *environment, 0]
    auxv_bytes = struct.pack(f"<{2 * len(vector)}Q", *(word for pair in vector for word in pair))
    table = struct.pack(f"<{len(words)}Q", *words) + auxv_bytes
    sp = seed_at - len(table) & -16
    space.write(sp, table)
    space.write(seed_at, seed)
    space.write(strings_at, blob)
    return sp, auxv_bytes


def _append(blob: bytearray, strings: Sequence[bytes], at: int) -> list[int]:
    places = []
    for text in strings:
        places.append(at + len(blob))
        blob += text
        blob.append(0)
    return places
