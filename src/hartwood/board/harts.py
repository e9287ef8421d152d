"""The harts of a board in time: a thread each, their states (SBI 2.0, chapter 9), and what ends
a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from hartwood.machine.bare import Processor, Stop

#: States of a hart (SBI 9, table 1).
STARTED, STOPPED, START_PENDING, STOP_PENDING, SUSPENDED = range(5)


class Enter(Protocol):
    """Puts a hart that was stopped into the state in which it starts."""

    def __call__(self, hart: Processor, entry: int, opaque: int, /) -> None:
        """At `entry`, with `opaque` for an argument."""
        ...


class Harts:
    """All harts of a machine. Methods but `run` and `reset` may be called from any thread."""

    def __init__(self, processors: list[Processor], enter: Enter) -> None:
        self.all = processors
        #: Why the machine ended, once it has.
        self.reason = ""
        self._enter = enter
        self._states = [STOPPED] * len(processors)
        self._entries = [(0, 0)] * len(processors)
        self._changed = threading.Condition()
        self._polling = threading.RLock()
        self._until: Callable[[], bool] | None = None
        self._deadline: float | None = None
        #: Why the present run comes back, while the machine goes on; and whether somebody asked.
        self._pausing, self._asked = "", False
        self._failure: BaseException | None = None

    def reset(self, started: Iterable[int]) -> None:
        """The machine begins anew, with these harts running."""
        chosen = set(started)
        self._states = [STARTED if n in chosen else STOPPED for n in range(len(self.all))]
        self.reason = ""

    # What firmware asks for, on the threads of harts.
    def start(self, number: int, entry: int, opaque: int) -> bool:
        """Start a hart; False where it is not stopped."""
        with self._changed:
            if self._states[number] != STOPPED:
                return False
            self._entries[number] = entry, opaque
            self._states[number] = START_PENDING
            self._changed.notify_all()
        return True

    def stop(self, number: int) -> None:
        """The calling hart stops until it is started again."""
        self._states[number] = STOP_PENDING
        self.all[number].request_stop()

    def suspend(self, number: int) -> None:
        """The calling hart waits for an interrupt that it has enabled, or for the run's end."""
        self._states[number] = SUSPENDED
        self.all[number].wait()
        self._states[number] = STARTED

    def state(self, number: int) -> int:
        """See above."""
        return self._states[number]

    # What ends a run.
    def end(self, reason: str) -> None:
        """The machine ends; the first reason counts."""
        self.reason = self.reason or reason
        self._pause(reason)

    def request_stop(self) -> None:
        """The present run comes back with "stopped"; where there is none the next one does."""
        self._asked = True
        self._pause("stopped")

    def _pause(self, reason: str) -> None:
        self._pausing = self._pausing or reason
        for hart in self.all:
            hart.request_stop()
        with self._changed:
            self._changed.notify_all()

    def _over(self) -> bool:
        """Asked by every hart between two slices."""
        if self._until is not None and not self._coming_back():
            with self._polling:
                if self._until():
                    self._pause("until")
        return self._coming_back()

    def _coming_back(self) -> bool:
        return bool(self._pausing or self._asked or self.reason)

    # Running.
    def run(self, until: Callable[[], bool] | None, seconds: float | None) -> str:
        """Let the harts run, the first one on this thread; gives the reason of coming back:
        `reason`, "until", "seconds", "stopped" or "waiting"."""
        self._until, self._pausing = until, ""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._live, args=(number,), daemon=True)
            for number in range(1, len(self.all))
        ]
        try:
            for thread in threads:
                thread.start()
            self._live(0)
        finally:
            self._pause("stopped")
            for thread in threads:
                thread.join()
        self._asked = False
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self.reason or self._pausing

    def _left(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0)

    def _live(self, number: int) -> None:
        """The thread of a hart. What goes wrong on it is raised by `run`."""
        try:
            while not self._over():
                if self._awake(number):
                    stop = self.all[number].run(until=self._over, seconds=self._left())
                    self._came_back(number, stop)
                elif self._left() == 0:
                    self._pause("seconds")
        except BaseException as failure:
            self._failure = self._failure or failure
            self._pause("stopped")

    def _awake(self, number: int) -> bool:
        """Whether this hart is to run. Where not, something has changed meanwhile, or time is
        up."""
        with self._changed:
            if self._states[number] == START_PENDING:
                self._enter(self.all[number], *self._entries[number])
                self._states[number] = STARTED
            if self._states[number] == STARTED:
                return True
            if not self._coming_back():
                self._changed.wait(self._left())
        return False

    def _came_back(self, number: int, stop: Stop) -> None:
        with self._changed:
            if self._states[number] == STOP_PENDING:
                self._states[number] = STOPPED
            halted = all(state == STOPPED for state in self._states)
        if halted:
            self.end("halted")
        elif stop.reason == "lockup":
            self.end("lockup")
        elif stop.reason in ("seconds", "waiting"):
            self._pause(stop.reason)
