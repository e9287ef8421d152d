"""The compile worker: a process that turns guest code into images and never runs any.

It reads requests from one pipe and writes replies to another: a length, then a marshalled tuple.
"""

from __future__ import annotations

import marshal
import os
import time

from hartwood.isa.riscv import RISCV
from hartwood.jit import host_x86_signals
from hartwood.jit.compile import compile_image
from hartwood.jit.decoder import decoder_text
from hartwood.jit.entry import entry_text, shared_text
from hartwood.jit.flow import Explorer, FlowError
from hartwood.jit.interp import BANKS, bank_text, banks, numbering
from hartwood.jit.lift import region_text, transfer_target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.isa.insnset import InsnSet
    from hartwood.jit.image import Image

#: Guest instructions that one region may have.
REGION_LIMIT = 400


def bank_image(insns: InsnSet, bank: str) -> Image:
    """The image of one interpreter bank; the base bank carries the decoder and the entries. Its
    meta is one byte a handler number: the index of its bank in `BANKS`."""
    functions = [*bank_text(insns, bank), *shared_text()]
    meta = b""
    if bank == "base":
        numbers = numbering(insns)
        where = banks(insns)
        meta = bytes([0, *(BANKS.index(where[name]) for name, _ in numbers)])
        functions += [decoder_text(insns, numbers), *entry_text(), host_x86_signals.text()]
    return compile_image(functions, 1, meta)


class Window:
    """The guest code that a request carries: byte strings at guest addresses."""

    def __init__(self, parts: list[tuple[int, bytes]]) -> None:
        self._parts = parts

    def fetch(self, pc: int) -> int | None:
        """The instruction word at `pc`, as far as it is known."""
        for start, data in self._parts:
            at = pc - start
            if 0 <= at < len(data):
                word = int.from_bytes(data[at : at + 4], "little")
                size = 4 if word & 3 == 3 else 2
                return word if at + size <= len(data) else None
        return None


def region_images(
    insns: InsnSet, entries: list[int], parts: list[tuple[int, bytes]], level: int
) -> tuple[Image | None, list[tuple[int, list[tuple[int, int]], int]]]:
    """Translate the regions at `entries`; gives an image and for each region that could be
    translated its entry, the guest ranges it depends on, and its size in instructions."""
    window = Window(parts)

    def target(decoded: object, pc: int) -> int | None:
        return transfer_target(insns, decoded, pc)  # type: ignore[arg-type]

    explorer = Explorer(insns, window.fetch, target, REGION_LIMIT)
    texts, made = [], []
    for entry in entries:
        try:
            region = explorer.region(entry)
        except FlowError:
            continue
        texts.append(region_text(insns, region))
        made.append((entry, region.ranges, region.size))
    return (compile_image(texts, level) if texts else None), made


def main(requests: int, replies: int) -> None:
    """Serve until the guest's process closes its end."""
    with os.fdopen(requests, "rb") as source, os.fdopen(replies, "wb", 0) as sink:
        while head := source.read(8):
            request = marshal.loads(source.read(int.from_bytes(head, "little")))
            start = time.process_time()
            if request[0] == "bank":
                image: Image | None = bank_image(RISCV, request[1])
                reply = ("bank", request[1], image.dump() if image else b"")
            else:
                _, number, entries, parts, level = request
                image, made = region_images(RISCV, entries, parts, level)
                seconds = time.process_time() - start
                reply = ("region", number, image.dump() if image else b"", made, seconds)
            data = marshal.dumps(reply)
            sink.write(len(data).to_bytes(8, "little") + data)
            sink.flush()


