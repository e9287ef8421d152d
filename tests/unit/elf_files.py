"""ELF program files made for tests, field by field."""

from __future__ import annotations

import struct

PAGE = 4096
CODE = 0x10000


def segment(kind=1, flags=5, offset=0, va=CODE, filled=0x1000, size=None, align=PAGE):
    """One program header as a tuple."""
    return (kind, flags, offset, va, va, filled, filled if size is None else size, align)


def header(count, **fields):
    """An ELF header; `fields` replace the sound values by name."""
    values = {
        "magic": b"\x7fELF",
        "kind": 2,
        "order": 1,
        "version": 1,
        "abi": 0,
        "type": 2,
        "machine": 243,
        "version2": 1,
        "entry": CODE + 0x200,
        "phoff": 64,
        "shoff": 0,
        "flags": 5,
        "ehsize": 64,
        "phentsize": 56,
        "phnum": count,
        **fields,
    }
    v = values
    return struct.pack(
        "<4sBBBBB7xHHIQQQIHHHHHH",
        v["magic"], v["kind"], v["order"], v["version"], v["abi"], 0, v["type"], v["machine"],
        v["version2"], v["entry"], v["phoff"], v["shoff"], v["flags"], v["ehsize"],
        v["phentsize"], v["phnum"], 0, 0, 0,
    )  # fmt: skip


def program(segments=None, *, body=b"", size=0x2000, interpreter=None, **fields):
    """A whole file: header, program headers, then `body` at 0x200 (the entry point)."""
    segments = list(segments if segments is not None else [segment()])
    tail = b""
    if interpreter is not None:
        segments.append(segment(kind=3, offset=0x1000, filled=len(interpreter)))
        tail = interpreter
    data = header(len(segments), **fields)
    data += b"".join(struct.pack("<IIQQQQQQ", *entry) for entry in segments)
    data = data.ljust(0x200, b"\0") + body
    data = data.ljust(0x1000, b"\xcc") + tail
    return data.ljust(size, b"\xdd")
