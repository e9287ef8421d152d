"""The life of a machine: created, running, paused, stopped, and what may be asked in which state.

| | created | running | paused | stopped |
| --- | --- | --- | --- | --- |
| `run`, `step` | yes | no | yes | no |
| `pause` | no | yes | no | no |
| `resume` | no | no | yes | no |
| `snapshot`, `stop` | yes | yes | yes | no |
| `reset`, `restore` | yes | no | yes | yes |

What is not allowed raises `StateError` and changes nothing. After `close` only `close` is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

from hartwood.errors import Error
from hartwood.machine.gate import Gate, StateError
from hartwood.machine.snapshot import Snapshot, SnapshotError, State
from hartwood.mem.regiontable import Region, extents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hartwood.machine.processor import Processor
    from hartwood.mem.bus import Bus

CREATED, RUNNING, PAUSED, STOPPED = "created", "running", "paused", "stopped"


class Saved(Protocol):
    """What is kept of a device."""

    def save(self) -> State:
        """Its state."""
        ...

    def load(self, state: State) -> None:
        """Become that, or raise an `Error` with nothing changed."""
        ...


class Kept(Protocol):
    """What lies behind devices and goes back with the machine, such as a disk's overlay."""

    def save(self) -> bytes:
        """All of it."""
        ...

    def load(self, data: bytes, /) -> None:
        """Become that, or raise an `Error` with nothing changed."""
        ...


class Life:
    """What machines have in common in time. Methods may be called from any thread; those that
    change the machine hold its harts meanwhile."""

    #: The kind of machine, by which its snapshots are known.
    kind: str
    bus: Bus
    harts: list[Processor]

    def born(self) -> None:
        """The machine is complete, and its guest time stands at the beginning."""
        self.life = Gate()
        #: By name, what snapshots hold beside the machine itself; whoever adds a disk adds it.
        self.kept: dict[str, Kept] = {}
        self._status = CREATED
        #: The thread inside `run`, how many runs there were, and whether `stop` or `close` was
        #: called.
        self._runner, self._runs, self._cut, self._gone = 0, 0, False, False
        for hart in self.harts:
            hart.gate = self.life
        self._freeze(0)

    # What a kind of machine has of its own.
    def _saved(self) -> dict[str, Saved]:
        """Devices by name."""
        return {f"{at:x}": cast("Saved", each) for at, each in self.bus.devices.items()}

    def _save_more(self) -> State:
        """What else a snapshot needs."""
        return {}

    def _load_more(self, state: State) -> None:
        """Become that. Raises an `Error` with nothing changed."""
        if state:
            raise SnapshotError(f"a snapshot with more than this machine has: {sorted(state)}")

    def _restart(self) -> None:
        """Power on."""
        raise NotImplementedError

    def _has_ended(self) -> str:
        """Why the guest has ended, if it has."""
        return ""

    def _ask_stop(self) -> None:
        """Make `run` come back soon."""
        for hart in self.harts:
            hart.request_stop()

    # States.
    @property
    def status(self) -> str:
        """ "created", "running", "paused" or "stopped"."""
        return STOPPED if self._has_ended() and self._status != RUNNING else self._status

    def _check(self, call: str, *allowed: str) -> None:
        """Raises `StateError` unless the state is one of these."""
        if self._gone:
            raise StateError(f"{call}: this machine was closed; make another one")
        status = self.status
        if status not in allowed:
            mend = {
                CREATED: "run() it first", RUNNING: "pause() it first",
                PAUSED: "it stands already", STOPPED: "reset() it or restore() a snapshot",
            }[status]  # fmt: skip
            why = f" ({self._has_ended()})" if status == STOPPED and self._has_ended() else ""
            raise StateError(f"{call}: this machine is {status}{why}; {mend}")

    @contextmanager
    def _held(self, call: str, *allowed: str) -> Iterator[None]:
        """The block has the machine, which stands still. Raises `StateError`."""
        if self.life.in_turn():
            raise StateError(f"{call}: not from within a device; ask from outside, or in `until`")
        self._check(call, *allowed)
        with self.life.hold():
            self._check(call, *allowed)
            yield

    def _freeze(self, at: int | None = None) -> None:
        """Guest time stands, where it is or `at` a number of ticks."""
        for hart in self.harts:
            hart.freeze()
            hart.clock = hart.clock if at is None else at

    def _thaw(self) -> None:
        """Guest time goes on, the same for all harts."""
        for hart in self.harts:
            hart.thaw()
            if not hart.deterministic:
                hart.state.time_offset = self.harts[0].state.time_offset

    def _stand(self) -> None:
        """The state of a machine that does not run."""
        if not self._gone:
            self._freeze()
            self._status = STOPPED if self._cut or self._has_ended() else PAUSED

    @contextmanager
    def _running(self) -> Iterator[None]:
        """The block is one run by the calling thread. Raises `StateError`."""
        with self._held("run", CREATED, PAUSED):
            if self._runner:
                raise StateError("run: a run is paused here; resume() it, or step()")
            self._runner, self._status = threading.get_ident(), RUNNING
            self._runs += 1
            self._thaw()
        try:
            yield
        finally:
            with self.life.hold():
                self._runner = 0
                self._stand()
                self.life.open()

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        """The block runs harts for a step. Raises `StateError`."""
        with self._held("step", CREATED, PAUSED):
            self._thaw()
            try:
                yield
            finally:
                self._stand()

    def pause(self) -> None:
        """Hold the machine until `resume`; its harts and its guest time stand when this returns.
        What called `run` stays there. Raises `StateError`."""
        with self._held("pause", RUNNING):
            self.life.close()
            self._freeze()
            self._status = PAUSED

    def resume(self) -> None:
        """Go on after `pause`; where no `run` waits, on a thread of the machine's own until it is
        paused, stopped or ends. Raises `StateError`."""
        with self._held("resume", PAUSED):
            runs = self._runs
            if self._runner:
                self._status = RUNNING
                self._thaw()
                self.life.open()
                return
        threading.Thread(target=self._go_on, daemon=True).start()
        with self.life.changed:
            while self._runs == runs:
                self.life.changed.wait()

    def _go_on(self) -> None:
        """Run until something ends it."""
        raise NotImplementedError

    def _leave(self) -> None:
        """Make a run come back, paused or not, and wait for it unless it is the caller's own."""
        with self.life.changed:
            self.life.end()
            if self._runner:
                self._ask_stop()
            while self._runner not in (0, threading.get_ident()):
                self.life.changed.wait()

    def stop(self) -> None:
        """The machine is stopped, like one whose power is cut; a run comes back with "stopped".
        Raises `StateError`."""
        with self._held("stop", CREATED, RUNNING, PAUSED):
            self._cut = True
        self._leave()
        if not self._runner:
            self._status = STOPPED

    def reset(self) -> None:
        """As after power-on; guest time begins again. Raises `StateError`."""
        with self._held("reset", CREATED, PAUSED, STOPPED):
            self._restart()
            self._begin(0)

    def _begin(self, at: int | None = None) -> None:
        """Life begins again."""
        self._freeze(at)
        self._cut = False
        self.life.end(False)
        self._status = PAUSED if self._runner else CREATED

    # Snapshots.
    def snapshot(self) -> Snapshot:
        """The whole machine as it is now: harts, memory, devices. One that runs is held for as
        long as it takes. Raises `StateError`, and `VersionError` where the host has no room."""
        with self._held("snapshot", CREATED, RUNNING, PAUSED):
            running = self._status == RUNNING
            if running:
                self._freeze()
            try:
                return self._take()
            finally:
                if running:
                    self._thaw()

    def _take(self) -> Snapshot:
        ram = self.bus.ram
        self._quiesce()
        harts, devices, more = self._small()
        regions = tuple((each.at, each.size, each.offset, each.readonly) for each in ram.regions)
        return Snapshot(self.kind, regions, ram.snapshot(), harts, devices, more)

    def _quiesce(self) -> None:
        """Wait for what devices have under way, which writes to memory."""
        for device in self.bus.devices.values():
            getattr(device, "quiesce", _nothing)()

    def _small(self) -> tuple[tuple[State, ...], dict[str, State], State]:
        """All state but memory."""
        harts: tuple[State, ...] = tuple({**hart.save_hart()} for hart in self.harts)
        devices = {name: device.save() for name, device in self._saved().items()}
        devices |= {f"kept {name}": {"data": each.save()} for name, each in self.kept.items()}
        return harts, devices, self._save_more()

    def restore(self, snapshot: Snapshot | str | Path) -> None:
        """Become what a snapshot holds, of this machine or one of the same kind and make. Raises
        `StateError`, and `SnapshotError` or another `Error` for a snapshot that cannot be used,
        with nothing changed."""
        self._check("restore", CREATED, PAUSED, STOPPED)
        if not isinstance(snapshot, Snapshot):
            snapshot = Snapshot.load(snapshot)
        with self._held("restore", CREATED, PAUSED, STOPPED):
            self._fits(snapshot)
            self._quiesce()
            before = self._small()
            try:
                self._become(snapshot.harts, snapshot.devices, snapshot.more, snapshot.foreign)
                self.bus.ram.restore(snapshot.memory)
                for name, device in self._saved().items():  # which may look at memory
                    device.load(snapshot.devices[name])
            except Error:
                self._become(*before)
                raise
            self.bus.ram.adopt(_regions(snapshot))
            self._begin()
            self._status = PAUSED

    def _fits(self, snapshot: Snapshot) -> None:
        """Raises `SnapshotError` where the snapshot is of a machine of another make."""
        ram = self.bus.ram
        regions = list(extents(ram.regions))
        theirs = list(extents(sorted(_regions(snapshot), key=lambda each: each.at)))
        for what, ours, its in (
            ("machine", self.kind, snapshot.machine),
            ("number of harts", len(self.harts), len(snapshot.harts)),
            ("amount of memory", ram.pages, snapshot.memory.store.pages),
            ("set of devices", self._names(), sorted(snapshot.devices)),
            ("memory", regions or theirs, theirs),
        ):
            if ours != its:
                raise SnapshotError(f"a snapshot with another {what}: {its}, where this has {ours}")
        self.bus.check(_regions(snapshot))

    def _names(self) -> list[str]:
        return sorted([*self._saved(), *(f"kept {name}" for name in self.kept)])

    def _become(
        self,
        harts: tuple[State, ...],
        devices: dict[str, State],
        more: State,
        foreign: bool = False,
    ) -> None:
        for number, (hart, state) in enumerate(zip(self.harts, harts, strict=True)):
            if state.get("mhartid") != number:
                raise SnapshotError(f"a snapshot whose hart {number} has another number")
            hart.load_hart(state, foreign=foreign)  # type: ignore[arg-type]  # which it checks
        self._load_more(more)
        for name, each in self.kept.items():
            data = devices[f"kept {name}"].get("data")
            if not isinstance(data, bytes):
                raise SnapshotError(f"a snapshot whose {name} cannot be")
            each.load(data)
        for name, device in self._saved().items():
            device.load(devices[name])

    def close(self) -> None:
        """Give the memory back; a run comes back. The machine cannot be used any more, its
        snapshots can."""
        if self._gone:
            return
        self._gone, self._status = True, STOPPED
        self._leave()
        with self.life.hold():
            self._give_back()

    def _give_back(self) -> None:
        self.bus.ram.close()


def _regions(snapshot: Snapshot) -> list[Region]:
    return [Region(*each) for each in snapshot.regions]


def _nothing() -> None:
    """What a device does that has nothing under way."""
