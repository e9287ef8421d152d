"""The compile worker: a process that turns guest code into images and never runs any.

It reads requests from one pipe and writes replies to another: a length, then a marshalled tuple.
"""

from __future__ import annotations

import contextlib
import importlib.util
import marshal
import os
import sys
import time

from hartwood.isa.riscv import RISCV
from hartwood.jit import host_x86_signals
from hartwood.jit.compile import compile_image
from hartwood.jit.decoder import decoder_text
from hartwood.jit.entry import crossing_text, entry_text, shared_text
from hartwood.jit.flow import Explorer, FlowError
from hartwood.jit.image import join
from hartwood.jit.interp import BANKS, bank_text, banks, numbering
from hartwood.jit.lift import region_text, transfer_target
from hartwood.jit.stencil import stencil_image
from hartwood.jit.stitch import BANK as STENCILS
from hartwood.jit.store import Store, code_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from hartwood.isa.insn import Decoded
    from hartwood.isa.insnset import InsnSet
    from hartwood.jit.image import Image

#: Priority while a whole machine runs, which goes on at full speed meanwhile (nice(2)).
_NICE = 10
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
        meta = bytes([0, *(BANKS.index(where[key]) for key in numbers)])
        functions += [decoder_text(insns, numbers), *entry_text(), host_x86_signals.text()]
    # Handlers are a few instructions each: LLVM's optimiser takes four times as long and makes
    # them no faster that one could measure.
    image = compile_image(functions, 0, meta)
    if bank == "base":
        image = join(image, compile_image([*crossing_text(), *shared_text()], 2))
    return image


#: Guest code in a request; see `Window`.
Part = tuple[int, bytes, bytes]


class Window:
    """The guest code that a request carries: (address, bytes, executed), where `executed` has a
    byte for each halfword, 1 where an instruction that ran begins."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts: list[Part] = []
        for start, data, executed in sorted(parts):
            # Instructions and regions straddle pages.
            if self._parts and start == self._parts[-1][0] + len(self._parts[-1][1]):
                before, code, ran = self._parts.pop()
                start, data, executed = before, code + data, ran + executed
            self._parts.append((start, data, executed))

    def executed(self, pc: int) -> bool:
        """Whether the instruction at `pc` has run."""
        for start, data, executed in self._parts:
            if 0 <= pc - start < len(data):
                return bool(executed[(pc - start) // 2])
        return False

    def fetch(self, pc: int) -> int | None:
        """The instruction word at `pc`, as far as it is known."""
        for start, data, _ in self._parts:
            at = pc - start
            if 0 <= at < len(data):
                word = int.from_bytes(data[at : at + 4], "little")
                size = 4 if word & 3 == 3 else 2
                return word if at + size <= len(data) else None
        return None

    def read(self, start: int, end: int) -> bytes:
        """The bytes of a range that `fetch` showed."""
        for at, data, _ in self._parts:
            if at <= start and end <= at + len(data):
                return data[start - at : end - at]
        return b""


def region_image(
    insns: InsnSet, entries: list[int], parts: list[Part], level: int, known: Iterable[int] = ()
) -> Image | None:
    """Translate the regions at `entries`, those of them that can be translated. Level 2 is for
    those that have proved hot; at others a region ends where one of the entries `known` already
    begins, because going on there costs next to nothing.

    The image's meta is marshalled: the level, and for each region its entries, its size in
    instructions, and the guest ranges it depends on as (start, end, digest).
    """
    window = Window(parts)

    def target(decoded: Decoded, pc: int) -> int | None:
        return transfer_target(insns, decoded, pc)

    explorer = Explorer(
        insns,
        window.fetch,
        target,
        REGION_LIMIT,
        lambda pc: pc in entries or window.executed(pc),
    )
    texts, made = [], []
    done: set[int] = set()
    if level < 2:
        explorer.known.update(known)
    for entry in entries:
        if entry in done or entry in explorer.known:
            continue
        try:
            region = explorer.region(entry, eager=level < 2)
        except FlowError:
            continue
        done.update(region.entries)
        if level < 2:
            explorer.known.update(region.entries)
        texts.append(region_text(insns, region, eager=level < 2))
        ranges = [
            (start, end, code_digest(window.read(start, end))) for start, end in region.ranges
        ]
        made.append((region.entries, region.size, ranges))
    return compile_image(texts, level, marshal.dumps((level, made))) if texts else None


class Worker:
    """Serves one guest process."""

    def __init__(self, requests: int, replies: int, path: str) -> None:
        self._source = os.fdopen(requests, "rb", 0)
        self._sink = os.fdopen(replies, "wb", 0)
        self._store = Store(path) if path else None

    def _reply(self, *reply: Any) -> None:
        data = marshal.dumps(reply)
        view = memoryview(len(data).to_bytes(8, "little") + data)
        # The guest's process may have ended; what is stored serves the next one.
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[self._sink.write(view) :]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._source.read(size - len(data))
            if not chunk:
                break
            data += chunk
        return data

    def serve(self) -> None:
        """Answer until the guest's process closes its end."""
        while len(head := self._read(8)) == 8:
            request = marshal.loads(self._read(int.from_bytes(head, "little")))
            if request[0] == "bank":
                self._bank(request[1])
            elif request[0] == "page":
                self._page(*request[1:])
            else:
                self._region(*request[1:])
        if self._store is not None:
            self._store.trim()

    def _bank(self, name: str) -> None:
        if name.startswith("system-"):
            from hartwood.jit.sysbanks import system_image  # user mode never needs it

            image = system_image(name)
        elif name == STENCILS:
            image = stencil_image(RISCV)
        else:
            image = bank_image(RISCV, name)
        data = image.dump()
        self._reply("bank", name, data)
        if self._store is not None:
            self._store.put(f"bank-{name}", "image", data)

    def _region(
        self,
        number: int,
        entries: list[int],
        parts: list[Part],
        level: int,
        key: str,
        known: list[int],
    ) -> None:
        name = f"{level}-{entries[0]:x}"
        self._answer(number, lambda: region_image(RISCV, entries, parts, level, known), key, name)

    def _page(self, number: int, page: bytes, entries: list[int], key: str) -> None:
        from hartwood.jit import syslift  # user mode never needs it

        _stand_back()
        self._answer(number, lambda: syslift.region_image(page, entries), key, f"{entries[0]:x}")

    def _answer(self, number: int, make: Callable[[], Image | None], key: str, part: str) -> None:
        """Reply with the image of `make`, and store it; what LLVM refuses stays stitched."""
        start, image = time.process_time(), None
        with contextlib.suppress(RuntimeError):
            image = make()
        data = image.dump() if image else b""
        self._reply("region", number, data, time.process_time() - start)
        if self._store is not None and data:
            self._store.put(key, part, data)


def _stand_back() -> None:
    """Let the machine that runs meanwhile go first. Where sessions share a processor as groups
    (sched(7), "The autogroup feature") it is the group's niceness that counts."""
    if os.getpriority(os.PRIO_PROCESS, 0) >= _NICE:
        return
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
        group.write(str(_NICE))


def _load(module: str, file: str) -> None:
    """Run a file that registers instructions, under its own name but never as a program."""
    name = "outside" if module == "__main__" else module
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is not None and spec.loader is not None:
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[name] = loaded
        spec.loader.exec_module(loaded)


def main(requests: int, replies: int, path: str, outside: dict[str, str]) -> None:
    """Serve the process at the other end of two pipes; `path` is the cache folder or "", `outside`
    the files that define further instructions, by module name."""
    for module, file in outside.items():
        _load(module, file)
    with contextlib.suppress(KeyboardInterrupt):
        Worker(requests, replies, path).serve()
