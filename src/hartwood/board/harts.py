"""The harts of a board in time: a thread each, or by turns on one, their states (SBI 2.0, chapter
9), and what ends a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from hartwood.errors import Error
from hartwood.machine.bare import Processor, Stop
from hartwood.machine.snapshot import State

#: States of a hart (SBI 9, table 1).
STARTED, STOPPED, START_PENDING, STOP_PENDING, SUSPENDED = range(5)
#: Instructions that a deterministic hart has until the next one's turn, and that one alone has.
TURN, ALONE = 100_000, 1_000_000
_U64 = (1 << 64) - 1
#: States that a snapshot holds, and seconds between two looks at what a wait may end by.
_KEPT, _LOOK = (STARTED, STOPPED, START_PENDING), 0.05


class Enter(Protocol):
    """Puts a hart that was stopped into the state in which it starts."""

    def __call__(self, hart: Processor, entry: int, opaque: int, /) -> None:
        """At `entry`, with `opaque` for an argument."""
        ...


class HartsError(Error):
    """States of harts that cannot be."""


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
        #: What the first hart will have executed when the run is over.
        self._goal: int | None = None
        self._later: list[Callable[[], None]] = []
        #: Why the present run comes back, while the machine goes on; and whether somebody asked.
        self._pausing, self._asked = "", False
        self._failure: BaseException | None = None
        self._here = threading.local()
        for hart in processors:
            hart.alone = False

    @property
    def here(self) -> Processor:
        """The hart whose thread this is; elsewhere the first."""
        return self.all[getattr(self._here, "number", 0)]

    def reset(self, started: Iterable[int]) -> None:
        """The machine begins anew, with these harts running."""
        chosen = set(started)
        self._states = [STARTED if n in chosen else STOPPED for n in range(len(self.all))]
        self._stand_by("")

    def _stand_by(self, reason: str) -> None:
        """States are others now. Who waits in a run that is paused looks at them."""
        self.reason, self._asked = reason, False
        for hart in self.all:
            hart.request_stop()
        with self._changed:
            self._changed.notify_all()

    def save(self) -> State:
        """What a snapshot keeps."""
        states = [STOPPED if each == STOP_PENDING else each for each in self._states]
        entries = [list(each) for each in self._entries]
        return {"states": states, "entries": entries, "reason": self.reason}

    def load(self, state: State) -> None:
        """Become that. Raises `HartsError` with nothing changed."""
        states, entries, reason = (state.get(name) for name in ("states", "entries", "reason"))
        good = (
            state.keys() == {"states", "entries", "reason"} and isinstance(reason, str)
            and isinstance(states, list) and len(states) == len(self.all)
            and all(type(each) is int and each in _KEPT for each in states)
            and isinstance(entries, list) and len(entries) == len(self.all)
            and all(isinstance(each, list) and len(each) == 2 for each in entries)
            and all(type(n) is int and 0 <= n <= _U64 for each in entries for n in each)
        )  # fmt: skip
        if not good:
            raise HartsError("a snapshot with states of harts that cannot be")
        assert isinstance(states, list)
        assert isinstance(entries, list)
        assert isinstance(reason, str)
        self._states = list(states)
        self._entries = [(entry, opaque) for entry, opaque in entries]
        self._stand_by(reason)

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

    def later(self, what: Callable[[], None]) -> None:
        """Do it now, or, where harts take turns, before the next one."""
        if not self.all[0].deterministic:
            what()
            return
        with self._changed:
            self._later.append(what)
            self._changed.notify_all()

    # Running.
    def limit(self, seconds: float | None, instructions: int | None) -> None:
        """What the next run has, and what is left of it after a reset."""
        self._deadline = None if seconds is None else self._now() + seconds
        self._goal = None if instructions is None else self.all[0].executed + instructions

    def _now(self) -> float:
        """Seconds in which the machine was not paused."""
        return time.monotonic() - self.all[0].gate.seconds

    def run(self, until: Callable[[], bool] | None) -> str:
        """Let the harts run, the first one on this thread; gives the reason of coming back:
        `reason`, "until", "seconds", "instructions", "stopped" or "waiting"."""
        self._until, self._pausing = until, ""
        if self.all[0].deterministic:
            try:
                self._rotate()
            finally:
                self._asked = False
            return self.reason or self._pausing
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
        return None if self._deadline is None else max(self._deadline - self._now(), 0)

    def _live(self, number: int) -> None:
        """The thread of a hart. What goes wrong on it is raised by `run`."""
        self._here.number = number
        try:
            while not self._over():
                if self._awake(number):
                    stop = self.all[number].run(self._quota(number), self._over, self._left())
                    self._came_back(number, stop)
                elif self._left() == 0:
                    self._pause("seconds")
        except BaseException as failure:
            self._failure = self._failure or failure
            self._pause("stopped")

    def _awake(self, number: int) -> bool:
        """Whether this hart is to run. Where not, something has changed meanwhile, or time is
        up."""
        self._begin(number)
        with self._changed:
            if self._states[number] == STARTED:
                return True
            if not self._coming_back() and self._states[number] != START_PENDING:
                self._changed.wait(self._left())
        return False

    def _begin(self, number: int) -> None:
        """Start a hart that somebody has asked to, in a turn of its own."""
        hart = self.all[number]
        if self._states[number] == START_PENDING and hart.gate.enter(hart):
            with self._changed:
                if self._states[number] == START_PENDING:
                    self._enter(hart, *self._entries[number])
                    self._states[number] = STARTED
            hart.gate.leave()

    def _quota(self, number: int) -> int | None:
        """Instructions that a hart may execute."""
        return self._goal - self.all[0].executed if self._goal is not None and not number else None

    # By turns, where the same has to happen each time.
    def _rotate(self) -> None:
        """Harts run on this thread, one after the other. Their clocks are the same at the
        beginning of a round; where all wait, time is skipped."""
        while not self._over():
            with self._changed:
                due, self._later = self._later, []
            for what in due:
                what()
            if self._left() == 0:
                self._pause("seconds")
            elif not self._round() and not self._skip():
                with self._changed:  # nothing happens but by input
                    if not self._later and not self._coming_back():
                        self._changed.wait(min(self._left() or _LOOK, _LOOK))

    def _round(self) -> bool:
        """A turn for each hart; whether one of them did not end by waiting."""
        self._align(max(hart.clock for hart in self.all))
        busy = False
        for number, hart in enumerate(self.all):
            self._here.number = number
            self._begin(number)
            if self._states[number] == STARTED and not self._coming_back():
                stop = self._turn(number, hart)
                busy = busy or stop is None or stop.reason != "waiting"
                if stop is not None and stop.reason != "waiting":
                    self._came_back(number, stop)
        self._here.number = 0
        return busy

    def _turn(self, number: int, hart: Processor) -> Stop | None:
        count, quota = ALONE if len(self.all) == 1 else TURN, self._quota(number)
        if quota is None or quota > 2 * count:
            return hart.turn(count)
        return hart.run(instructions=quota)

    def _align(self, now: int) -> None:
        for hart in self.all:
            hart.shift_clock(now - hart.clock)

    def _skip(self) -> bool:
        """Go to the time that ends some hart's wait; False where nothing will."""
        running = [hart for n, hart in enumerate(self.all) if self._states[n] == STARTED]
        if any(hart.mip & hart.mie for hart in running):
            return True
        alarm = min((hart.alarm for hart in running), default=_U64)
        if alarm != _U64:
            self._align(max(alarm, self.all[0].clock))
        return alarm != _U64

    def step(self) -> str:
        """One instruction of each hart that runs; the reason where the machine has ended."""
        for number, hart in enumerate(self.all):
            self._here.number = number
            self._begin(number)
            if self._states[number] == STARTED and not self.reason:
                self._came_back(number, hart.run(instructions=1))
        self._here.number = 0
        self._asked, self._pausing = False, ""
        return self.reason or "instructions"

    def _came_back(self, number: int, stop: Stop) -> None:
        with self._changed:
            if self._states[number] == STOP_PENDING:
                self._states[number] = STOPPED
            halted = all(state == STOPPED for state in self._states)
        if halted:
            self.end("halted")
        elif stop.reason == "lockup":
            self.end("lockup")
        elif stop.reason in ("seconds", "waiting", "instructions"):
            self._pause(stop.reason)
