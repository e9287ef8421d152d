"""`hartwood boot`: a whole machine with its console on this terminal."""

from __future__ import annotations

import json
import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hartwood.board import RiscvVirt
from hartwood.board.riscv_virt import BoardError

_ESCAPE = b"\x01"  # Ctrl-A
#: Texts on the console that mean the guest has given up.
_PANIC = b"Kernel panic - not syncing"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(text: str) -> int:
    """Bytes of "512M". Raises `BoardError`."""
    digits, unit = text.rstrip("KMGkmg"), text[len(text.rstrip("KMGkmg")) :].upper()
    if not digits.isdecimal() or unit not in _UNITS:
        raise BoardError(f"--memory {text}: a number with K, M or G, such as 512M")
    return int(digits) * _UNITS[unit]


class Console:
    """The guest's serial port on our standard streams."""

    def __init__(self, board: RiscvVirt) -> None:
        self._board = board
        self._out = bytearray()
        self._wake_read, self._wake_write = os.pipe()
        self._escaped = False
        board.uart.tx = self._out.extend
        self.left = False

    def flush(self) -> None:
        """Write what the guest has sent. A reader that has gone ends the machine."""
        data, self._out[:] = bytes(self._out), b""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(1, view) :]
        except BrokenPipeError:
            self._leave()

    def _leave(self) -> None:
        self.left = True
        self._board.request_stop()

    def _key(self, data: bytes) -> None:
        """Input: Ctrl-A x leaves, Ctrl-A Ctrl-A is one Ctrl-A."""
        kept = bytearray()
        for at in range(len(data)):
            byte = data[at : at + 1]
            if self._escaped:
                self._escaped = False
                if byte in b"xX":
                    self._leave()
                elif byte == _ESCAPE:
                    kept += byte
            elif byte == _ESCAPE and sys.stdin.isatty():
                self._escaped = True
            else:
                kept += byte
        if kept:
            self._board.uart.feed(bytes(kept))

    def _listen(self) -> None:
        while True:
            ready, _, _ = select.select([0, self._wake_read], [], [])
            if self._wake_read in ready:
                return
            data = os.read(0, 4096)
            if not data:
                return
            self._key(data)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While the guest has the terminal: raw where it is one, and restored whatever happens."""
        before = termios.tcgetattr(0) if os.isatty(0) else None
        listener = threading.Thread(target=self._listen, daemon=True)
        try:
            if before is not None:
                tty.setraw(0)
            listener.start()
            yield
        finally:
            os.write(self._wake_write, b"x")
            listener.join(1)
            if before is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, before)
            self.flush()


def boot(
    kernel: Path,
    initrd: Path | None,
    append: str,
    memory: str,
    harts: int,
    until: str | None,
    timeout: float | None,
    stats: Path | None,
) -> int:
    """Run a machine; its exit status: 0 when it powered off or `until` appeared, 1 when the guest
    failed, was reset or ran out of time."""
    begin = time.monotonic()
    with RiscvVirt(
        kernel=kernel, initrd=initrd, append=append, memory=size(memory), harts=harts
    ) as board:
        console = Console(board)
        wanted = board.uart.saw(until.encode()) if until else lambda: False
        panicked = board.uart.saw(_PANIC)

        def over() -> bool:
            console.flush()
            return console.left or panicked() or wanted()

        with console.attached():
            ending = board.run(until=over, seconds=timeout)
        if stats is not None:
            counters = {**board.stats(), "seconds": time.monotonic() - begin}
            stats.write_text(json.dumps(counters, indent=1) + "\n")
        if ending.reason == "poweroff" or console.left or (ending.reason == "until" and wanted()):
            return 0
        why = "the kernel panicked" if panicked() else _why(ending.reason, timeout)
        sys.stderr.write(f"hartwood: {why}\n")
        return 1


def _why(reason: str, timeout: float | None) -> str:
    if reason == "seconds":
        return f"not done after {timeout:g} s (--timeout)"
    if reason == "reset":
        return "the guest asked for a reset, which ends it here"
    return f"the guest ended: {reason}"
