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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hartwood.board import BoardError, RiscvVirt
from hartwood.errors import Error
from hartwood.machine.life import Kept
from hartwood.machine.snapshot import Snapshot
from hartwood.tools.attach import Attached
from hartwood.tools.stats import resources

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

    def __init__(self, board: RiscvVirt, save: Path | None) -> None:
        self._board, self._path = board, save
        self._saving: threading.Thread | None = None
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
        """Input: Ctrl-A x leaves, Ctrl-A s saves, Ctrl-A Ctrl-A is one Ctrl-A."""
        kept = bytearray()
        for at in range(len(data)):
            byte = data[at : at + 1]
            if self._escaped:
                self._escaped = False
                if byte in b"xX":
                    self._leave()
                elif byte in b"sS":
                    # Apart: a hart may be waiting for this thread to take its output.
                    self.saved()
                    self._saving = threading.Thread(target=self._save)
                    self._saving.start()
                elif byte == _ESCAPE:
                    kept += byte
            elif byte == _ESCAPE and self._terminal:
                self._escaped = True
            else:
                kept += byte
        if kept:
            self._board.feed(bytes(kept))

    def _save(self) -> None:
        try:
            if self._path is None:
                raise BoardError("nowhere to save; start with --save-snapshot FILE")
            self._board.snapshot().save(self._path)
            said = f"saved to {self._path}"
        except Error as error:
            said = str(error)
        sys.stderr.write(f"hartwood: {said}\r\n")

    def saved(self) -> None:
        """Wait for a snapshot that is being saved."""
        if self._saving is not None:
            self._saving.join()

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


@dataclass(frozen=True)
class Options:
    """What `hartwood boot` was asked for, by the names of its options (docs/machine.md)."""

    kernel: Path | None = None
    initrd: Path | None = None
    append: str = "console=ttyS0"
    memory: str = "512M"
    harts: int = 1
    bios: str = "builtin"
    disk: Sequence[str] | None = None
    net: str = "none"
    forward: Sequence[str] | None = None
    share: Sequence[str] | None = None
    engine: str = "auto"
    until: str | None = None
    timeout: float | None = None
    stats: Path | None = None
    save_snapshot: Path | None = None
    load_snapshot: Path | None = None
    deterministic: bool = False

    @property
    def attached(self) -> Attached:
        """What goes into the board's slots."""
        return Attached(
            tuple(self.disk or ()), self.net, tuple(self.forward or ()), tuple(self.share or ()),
            apart=self.save_snapshot is not None or self.load_snapshot is not None,
            workers=0 if self.deterministic else 4,
        )  # fmt: skip

    def board(self, cleanup: ExitStack) -> RiscvVirt:
        """The board that this describes, which ends with `cleanup`."""
        if self.deterministic and self.net == "user":
            raise BoardError(
                "--deterministic --net user: packets come when the host has them; leave one out"
            )
        snapshot = None if self.load_snapshot is None else Snapshot.load(self.load_snapshot)
        memory, harts = size(self.memory), self.harts
        if snapshot is not None:  # which has the memory and the harts that it has
            harts, memory = len(snapshot.harts), max((at[1] for at in snapshot.regions), default=0)
        kept: dict[str, Kept] = {}
        devices = list(self.attached.devices(cleanup, kept))
        return cleanup.enter_context(
            RiscvVirt(
                kernel=self.kernel, initrd=self.initrd, append=self.append, memory=memory,
                harts=harts, bios=self.bios, devices=devices, engine=self.engine,
                deterministic=self.deterministic, snapshot=snapshot, kept=kept,
            )
        )  # fmt: skip


def boot(options: Options) -> int:
    """Run a machine; its exit status: 0 when it powered off or `until` appeared, 1 when the guest
    failed, reset itself over and over or ran out of time, 128 and its number for a signal."""
    begin, timeout, until = time.perf_counter(), options.timeout, options.until
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise BoardError(f"--timeout {timeout}: a number of seconds above 0")
    if options.stats is not None:
        _write_stats(options.stats, {})  # what cannot be written is said before the guest runs
    for stream in (0, 1):  # who closed them gets none of our files in their place
        with suppress(OSError):
            os.fstat(stream)
            continue
        os.open(os.devnull, os.O_RDWR)
    with ExitStack() as cleanup:
        board = options.board(cleanup)
        console = Console(board, options.save_snapshot)
        wanted = board.uart.saw(os.fsencode(until)) if until else lambda: False
        panicked = board.uart.saw(_PANIC)
        with console.attached():
            ending = board.run(until=lambda: panicked() or wanted(), seconds=timeout)
        console.saved()
        saved = options.save_snapshot
        if saved is not None and ending.reason in ("until", "seconds") and not panicked():
            board.snapshot().save(saved)
        if options.stats is not None:
            _write_stats(options.stats, resources(board.stats(), begin))
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
