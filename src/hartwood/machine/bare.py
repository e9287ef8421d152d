"""A bare machine: a hart and memory, no board and no operating system."""

from __future__ import annotations

from hartwood.errors import Error
from hartwood.jit import sysabi
from hartwood.machine.processor import MODES, Processor, Stop
from hartwood.mem.bus import Bus
from hartwood.mem.ram import Ram

__all__ = ["Machine", "MachineError", "Processor", "Stop", "new_bus"]


class MachineError(Error):
    """A machine that does not exist, or one that was closed."""


def new_bus(capacity: int = 4 << 30) -> Bus:
    """An empty physical address space for harts, with room for `capacity` bytes of memory."""
    return Bus(Ram(capacity, sysabi.RECORDS_PER_PAGE))


class Machine(Processor):
    """One hart of `architecture` ("riscv64") in M-mode at pc 0 with no memory.

    `mem.map(at, size)` and `mem.map_io(at, size, read, write)` say what is where,
    `mem[a:b] = code` writes; registers are attributes by their manual names. Raises
    `MachineError` for an architecture that is not there.
    """

    def __init__(
        self, architecture: str = "riscv64", *, mode: str = "auto", deterministic: bool = False
    ) -> None:
        if architecture != "riscv64":
            raise MachineError(f"there is no machine {architecture!r}; use 'riscv64'")
        if mode not in MODES:
            raise MachineError(f"there is no engine {mode!r}; use one of {', '.join(MODES)}")
        super().__init__(new_bus(), mode=mode, deterministic=deterministic)

    @property
    def mem(self) -> Bus:
        """Guest-physical address space."""
        return self.bus

    def close(self) -> None:
        """Give the memory back; the machine cannot run any more."""
        self.bus.ram.close()
