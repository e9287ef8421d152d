"""Where harts wait while their machine is held still."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hartwood.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.machine.processor import Processor


class StateError(Error):
    """A call that a machine's state does not allow; nothing was changed."""


class Gate:
    """Harts pass one by one between two pieces of running; `hold` and `close` stop them there.

    One for all harts of a machine. `changed` guards what is said here about the machine.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        #: The hart that each thread is running, and the thread that holds the machine.
        self._inside: dict[int, Processor] = {}
        self._holder, self._depth = 0, 0
        self._closed = self._ended = False
        self._since = self._before = 0.0

    @property
    def wanted(self) -> bool:
        """Somebody waits for the harts to stand still."""
        return self._closed or self._holder != 0

    @property
    def seconds(self) -> float:
        """How long the gate was closed so far."""
        return self._before + (time.monotonic() - self._since if self._since else 0)

    def enter(self, hart: Processor) -> bool:
        """Wait until nobody holds the machine; False where this hart may never run again."""
        me = threading.get_ident()
        with self.changed:
            while self.wanted and self._holder != me and not self._ended:
                self.changed.wait()
            if self._ended:
                return False
            self._inside[me] = hart
        return True

    def leave(self) -> None:
        """The hart that the calling thread runs has come back."""
        with self.changed:
            del self._inside[threading.get_ident()]
            if self.wanted:
                self.changed.notify_all()

    def _empty(self) -> None:
        """Wait until no hart is inside. What one does meanwhile it will have done."""
        for hart in self._inside.values():
            hart.kick()
        while self._inside:
            self.changed.wait()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """No hart runs inside the block, but what the block itself runs. Within a hart's own turn,
        or a block of the same thread, it is held already."""
        me = threading.get_ident()
        with self.changed:
            held = me in self._inside or self._holder == me
            if not held:
                while self._holder:
                    self.changed.wait()
                self._holder = me
                self._empty()
        try:
            yield
        finally:
            if not held:
                with self.changed:
                    self._holder = 0
                    self.changed.notify_all()

    def in_turn(self) -> bool:
        """Whether the calling thread is inside: this is a device or firmware that a hart called."""
        return threading.get_ident() in self._inside

    def close(self) -> None:
        """Hold the machine until `open`. For who holds it."""
        with self.changed:
            self._closed, self._since = True, time.monotonic()

    def open(self) -> None:
        """Let the harts run again."""
        with self.changed:
            self._before, self._since, self._closed = self.seconds, 0.0, False
            self.changed.notify_all()

    def end(self, ended: bool = True) -> None:
        """Whether harts that come are turned away."""
        with self.changed:
            self._ended = ended
            self.changed.notify_all()
