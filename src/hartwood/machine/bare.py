"""A bare machine: a hart and memory, no board and no operating system."""

from __future__ import annotations

from collections.abc import Callable

from hartwood.errors import Error
from hartwood.jit import sysabi
from hartwood.machine.gate import StateError
from hartwood.machine.life import Life
from hartwood.machine.processor import MODES, Processor, Stop
from hartwood.mem.bus import Bus
from hartwood.mem.ram import Ram

__all__ = ["Machine", "MachineError", "Processor", "StateError", "Stop", "new_bus"]


class MachineError(Error):
    """A machine that does not exist."""


def new_bus(capacity: int = 4 << 30) -> Bus:
    """An empty physical address space for harts, with room for `capacity` bytes of memory."""
    return Bus(Ram(capacity, sysabi.RECORDS_PER_PAGE))


class Machine(Life, Processor):
    """One hart of `architecture` ("riscv64") in M-mode at pc 0 with no memory.

    `mem.map(at, size)` and `mem.map_io(at, size, read, write)` say what is where,
    `mem[a:b] = code` writes; registers are attributes by their manual names. A reset leaves memory
    as it is. Raises `MachineError` for an architecture that is not there.
    """

    def __init__(
        self, architecture: str = "riscv64", *, mode: str = "auto", deterministic: bool = False
    ) -> None:
        if architecture != "riscv64":
            raise MachineError(f"there is no machine {architecture!r}; use 'riscv64'")
        if mode not in MODES:
            raise MachineError(f"there is no engine {mode!r}; use one of {', '.join(MODES)}")
        Processor.__init__(self, new_bus(), mode=mode, deterministic=deterministic)
        self.kind, self.harts = architecture, [self]
        self.born()

    @property
    def mem(self) -> Bus:
        """Guest-physical address space."""
        return self.bus

    def run(
        self,
        instructions: int | None = None,
        until: int | Callable[[], bool] | None = None,
        seconds: float | None = None,
    ) -> Stop:
        """See `Processor.run`. Raises `StateError` for a machine that runs or has stopped."""
        with self._running():
            return Processor.run(self, instructions, until, seconds)

    def step(self) -> Stop:
        """Execute one instruction, or take one interrupt. Raises `StateError`."""
        with self._stepping():
            return Processor.run(self, instructions=1)

    def _restart(self) -> None:
        self.power_on()

    def _go_on(self) -> None:
        self.run()
