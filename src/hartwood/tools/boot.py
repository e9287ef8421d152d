"""`hartwood boot`: a whole machine with its console on this terminal."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hartwood.board import BoardError, RiscvVirt
from hartwood.dev.virtio.net import VirtioNet
from hartwood.net import Forward, UserNet

_ESCAPE = b"\x01"  # Ctrl-A
#: Texts on the console that mean the guest has given up.
_PANIC = b"Kernel panic - not syncing"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
#: Signals that stop the machine as Ctrl-A x does.
_STOPS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
#: What else is written to the console's pipe: that there is output, that it is over.
_OUTPUT, _OVER = 0x80, 0x81
#: Output that waits at most before harts wait for it, and that is written at once.
_ROOM, _PIECE = 1 << 20, 4096


def size(text: str) -> int:
    """Bytes of "512M". Raises `BoardError`."""
    digits, unit = text.rstrip("KMGkmg"), text[len(text.rstrip("KMGkmg")) :].upper()
    if not digits.isdecimal() or unit not in _UNITS or len(digits) > 15:
        raise BoardError(f"--memory {text:.30}: a number with K, M or G, such as 512M")
    return int(digits) * _UNITS[unit]


class Console:
    """The guest's serial port on our standard streams, served by a thread of its own. Signals
    come to it through a pipe, since a handler must not touch what it interrupts."""

    def __init__(self, board: RiscvVirt) -> None:
        for stream in (0, 1):  # who closed them gets none of our pipes in their place
            with suppress(OSError):
                os.fstat(stream)
                continue
            os.open(os.devnull, os.O_RDWR)
        self._board = board
        self._out, self._lock = bytearray(), threading.Lock()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._terminal = os.isatty(0)
        self._escaped = False
        board.uart.tx = self._send
        self.left = False
        #: The signal that stopped it, or 0.
        self.signal = 0

    def _send(self, data: bytes) -> None:
        """The guest's output, on the thread of a hart, which waits where the reader is slow."""
        with self._lock:
            first = not self._out
            self._out += data
        if first:
            self._wake(_OUTPUT)
        while len(self._out) > _ROOM and not self.left:
            time.sleep(0.001)

    def _wake(self, why: int) -> None:
        with suppress(BlockingIOError):  # full: it is awake
            os.write(self._wake_write, bytes([why]))

    def _write(self) -> None:
        """Write some of what waits. A reader that has gone ends the machine."""
        try:
            done = os.write(1, self._out[:_PIECE])
        except OSError:
            done = len(self._out)
            self._leave()
        with self._lock:
            del self._out[:done]

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
            elif byte == _ESCAPE and self._terminal:
                self._escaped = True
            else:
                kept += byte
        if kept:
            self._board.uart.feed(bytes(kept))

    def _serve(self) -> None:
        inputs = [self._wake_read, 0]
        while True:
            ready, writable, _ = select.select(inputs, [1] if self._out else [], [])
            if writable:
                self._write()
            if 0 in ready and not self._typed():
                inputs.remove(0)
            if self._wake_read in ready:
                for why in os.read(self._wake_read, 4096):
                    if why == _OVER:
                        return
                    if why in _STOPS:
                        self.signal = self.signal or why
                        self._leave()

    def _typed(self) -> bool:
        """Take input; False at its end, a terminal's hang-up included."""
        try:
            data = os.read(0, 4096)
        except OSError:
            return False
        self._key(data)
        return bool(data)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While the guest has the terminal: raw where it is one, and restored whatever happens."""
        before = termios.tcgetattr(0) if self._terminal else None
        server = threading.Thread(target=self._serve, daemon=True)
        with _signals_to(self._wake_write):
            try:
                if before is not None:
                    tty.setraw(0)
                server.start()
                yield
            finally:
                self._wake(_OVER)
                server.join()
                if before is not None:
                    with suppress(termios.error):  # it may have hung up
                        termios.tcsetattr(0, termios.TCSADRAIN, before)
        # Nobody who was asked to stop waits for a reader.
        while self._out and (not self.signal or select.select([], [1], [], 0)[1]):
            self._write()


@contextmanager
def _signals_to(pipe: int) -> Iterator[None]:
    """While it lasts, signals that stop arrive as bytes in a pipe. Those ignored stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [each for each in _STOPS if signal.getsignal(each) is not signal.SIG_IGN]
    pipe_before = signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
    handlers = [signal.signal(each, lambda number, frame: None) for each in heard]
    try:
        yield
    finally:
        for each, handler in zip(heard, handlers, strict=True):
            signal.signal(each, handler)
        signal.set_wakeup_fd(pipe_before)


def cards(net: str, forwards: list[str]) -> Iterator[VirtioNet]:
    """The card that --net asks for, on its network. Raises `BoardError`, `NetError`."""
    if net not in ("user", "none"):
        raise BoardError(f"--net {net:.30}: user or none")
    if net == "none" and forwards:
        raise BoardError(f"--forward {forwards[0]:.30}: there is no network without --net user")
    if net == "user":
        card = VirtioNet()
        card.connect(UserNet([Forward.parse(each) for each in forwards]))
        yield card


def boot(
    kernel: Path,
    initrd: Path | None,
    append: str,
    memory: str,
    harts: int,
    network: tuple[str, list[str]],
    until: str | None,
    timeout: float | None,
    stats: Path | None,
) -> int:
    """Run a machine; `network` is what --net and --forward say. Its exit status: 0 when it powered
    off or `until` appeared, 1 when the guest failed, reset itself over and over or ran out of time,
    128 and its number for a signal."""
    begin = time.monotonic()
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise BoardError(f"--timeout {timeout}: a number of seconds above 0")
    if stats is not None:
        _write_stats(stats, {})  # what cannot be written is said before the guest runs
    devices = list(cards(*network))
    with RiscvVirt(
        kernel=kernel, initrd=initrd, append=append, memory=size(memory), harts=harts,
        devices=devices,
    ) as board:  # fmt: skip
        console = Console(board)
        wanted = board.uart.saw(os.fsencode(until)) if until else lambda: False
        panicked = board.uart.saw(_PANIC)
        with console.attached():
            ending = board.run(until=lambda: panicked() or wanted(), seconds=timeout)
        if stats is not None:
            _write_stats(stats, {**board.stats(), "seconds": time.monotonic() - begin})
        if console.signal:
            sys.stderr.write(f"hartwood: stopped by {signal.Signals(console.signal).name}\n")
            return 128 + console.signal
        if ending.reason == "poweroff" or console.left or (ending.reason == "until" and wanted()):
            return 0
        why = "the kernel panicked" if panicked() else _why(ending.reason, timeout)
        sys.stderr.write(f"hartwood: {why}\n")
        return 1


def _write_stats(path: Path, counters: dict[str, object]) -> None:
    try:
        path.write_text(json.dumps(counters, indent=1) + "\n")
    except OSError as error:
        raise BoardError(f"--stats {path}: cannot write it: {error.strerror}") from None


def _why(reason: str, timeout: float | None) -> str:
    reasons = {
        "seconds": f"not done after {timeout:g} s (--timeout)" if timeout else "",
        "reset loop": "the guest resets itself over and over",
        "halted": "the guest has stopped all its harts, and nothing can start one again",
        "lockup": "the guest's trap handler cannot be executed, so a hart can do nothing more",
    }
    return reasons.get(reason) or f"the guest ended: {reason}"
