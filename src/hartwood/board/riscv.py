"""What RISC-V boards have in common: memory, harts, devices by a table, a kernel to start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Self

from hartwood.board import loader
from hartwood.board.fdt import Node, flatten, wide
from hartwood.board.harts import Harts
from hartwood.board.sbi import Sbi
from hartwood.board.table import MOST_HARTS, Place, Placed, phandle, placed
from hartwood.dev.device import Device
from hartwood.dev.plic import Plic
from hartwood.dev.uart16550 import Uart16550
from hartwood.errors import Error
from hartwood.isa.riscv import profile
from hartwood.machine.bare import Processor, new_bus
from hartwood.machine.processor import FREQUENCY

_PAGE, _TREE, _MOST_MEMORY = 4096, 0x1_0000, 64 << 30
#: Resets in a row, without a byte of input between them, that are a loop.
_LOOP = 3


class BoardError(Error):
    """A board that cannot be built or run as asked."""

    exit_status = 2


@dataclass(frozen=True)
class Ending:
    """Why a run came back: "poweroff", "reset", "reset loop", "fail <code>", "halted" (no hart can
    ever run again), "lockup", "until", "seconds" or "stopped"."""

    reason: str


class RiscvBoard:
    """A board with a kernel in its memory and its first hart about to enter it.

    `memory` is in bytes; `devices` go into the slots of the board's table; without `reboot` a
    reset ends the machine. Raises `LoaderError` for files that cannot be used and `BoardError` for
    a board that cannot be.
    """

    model: ClassVar[str]
    compatible: ClassVar[str]
    #: Where memory begins.
    ram: ClassVar[int]
    plic: ClassVar[Place[Plic]]
    uart: ClassVar[Place[Uart16550]]

    def __init__(
        self,
        *,
        kernel: str | Path,
        initrd: str | Path | None = None,
        append: str = "",
        memory: int = 512 << 20,
        harts: int = 1,
        devices: Iterable[Device] = (),
        reboot: bool = True,
    ) -> None:
        if not 1 <= harts <= MOST_HARTS:
            raise BoardError(f"{harts} harts cannot be; this board has 1 to {MOST_HARTS}")
        if memory % _PAGE or not 0 < memory <= _MOST_MEMORY:
            raise BoardError(f"{memory} bytes of memory cannot be; whole pages up to 64 GiB can")
        self.memory, self.reboot = memory, reboot
        try:
            self.devices = list(placed(self, devices))
        except IndexError:
            raise BoardError("there are more devices than slots on this board") from None
        self._load(kernel, initrd, append, harts)
        self.bus = new_bus(memory)
        self.bus.map(self.ram, memory)
        self.harts = [Processor(self.bus, number) for number in range(harts)]
        self.states = Harts(self.harts, self._enter)
        self._sbi = Sbi(self)
        for each in self.devices:
            self._connect(each)
        self._resets, self._heard = 0, 0
        self._carried: dict[str, float] = {}
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What is where.
    def _load(self, kernel: str | Path, initrd: str | Path | None, append: str, harts: int) -> None:
        """Decide what lies in memory at every start: kernel low; device tree and archive high."""
        loaded = loader.load(Path(kernel), self.ram)
        archive = loader.read(Path(initrd), "initramfs") if initrd is not None else b""
        self._tree_at = self.ram + self.memory - _TREE
        archive_at = self._tree_at - len(archive) & -_PAGE
        if any(at < self.ram for at, _ in loaded.parts):
            raise BoardError(f"{kernel}: wants to lie below this board's memory at {self.ram:#x}")
        if loaded.end > archive_at:
            need = loaded.end - self.ram + len(archive) + 2 * _TREE
            raise BoardError(
                f"{self.memory >> 20} MiB are too little: this takes {(need >> 20) + 1} MiB"
            )
        chosen = Node("chosen", {"bootargs": append})
        if archive:
            chosen.properties["linux,initrd-start"] = wide(archive_at)
            chosen.properties["linux,initrd-end"] = wide(archive_at + len(archive))
        blob = flatten(self.tree(harts, chosen))
        if len(blob) > _TREE:
            raise BoardError(f"a command line of {len(append)} bytes is too long")
        self._entry = loaded.entry
        self._contents = [*loaded.parts, (archive_at, archive), (self._tree_at, blob)]

    def tree(self, harts: int, chosen: Node) -> Node:
        """The device tree: what the harts can do, memory, and a node of each device."""
        cells: dict[str, int] = {"#address-cells": 2, "#size-cells": 2}
        root = Node("", {**cells, "compatible": self.compatible, "model": self.model}, [chosen])
        memory = root.add(f"memory@{self.ram:x}", device_type="memory")
        memory.properties["reg"] = wide(self.ram, self.memory)
        cpus = root.add("cpus")
        cpus.properties |= {"#address-cells": 1, "#size-cells": 0}
        cpus.properties["timebase-frequency"] = FREQUENCY
        for number in range(harts):
            cpus.children.append(_cpu(number))
        soc = root.add("soc", compatible="simple-bus", ranges=None)
        soc.properties |= cells
        for each in self.devices:
            soc.children.append(each.node(harts))
            if each.device is self.uart:
                chosen.properties["stdout-path"] = f"/soc/{soc.children[-1].name}"
        return root

    def _connect(self, each: Placed) -> None:
        """Give a device its addresses, its wires, and by their names what else it asks for."""
        device = each.device
        self.bus.attach(each.at, device)
        if each.irq:
            device.irq = self.plic.line(each.irq)
        for number, hart in enumerate(self.harts):
            for place, bit in enumerate(device.hart_interrupts):
                output = number * len(device.hart_interrupts) + place
                device.outputs[output] = _wire(hart, bit)
        ports = {"ram": self.bus.ram, "ended": self.end}
        for port in fields(device):
            if port.metadata.get("host") and port.name in ports:
                setattr(device, port.name, ports[port.name])

    def _start(self) -> None:
        """Power on, or a reset: everything as it was, but for what the harts have counted."""
        for at, data in self._contents:
            self.bus.ram.write(at, data)
        for hart in self.harts:
            before = self._totals()
            hart.reset()
            hart.state.supervisor_calls, hart.supervisor_call = 1, self._sbi
            hart.state.time_offset = self.harts[0].state.time_offset
            now = self._totals()
            for name, value in before.items():
                self._carried[name] = self._carried.get(name, 0) + value - now[name]
        for each in self.devices:
            each.device.reset()
        self._enter(self.harts[0], self._entry, self._tree_at)
        self.states.reset({0})

    def _enter(self, hart: Processor, entry: int, opaque: int) -> None:
        hart.enter_supervisor(entry, self.harts.index(hart), opaque)

    # What firmware asks for (see `sbi.Host`), on the threads of harts.
    def end(self, reason: str) -> None:
        """The machine ends: every hart stops."""
        self.states.end(reason)

    def put(self, data: bytes) -> None:
        """Output of the debug console: the serial port's."""
        self.uart.send(data)

    def get(self, most: int) -> bytes:
        """Its input."""
        return self.uart.take(most)

    # Running.
    def run(self, until: Callable[[], bool] | None = None, seconds: float | None = None) -> Ending:
        """Run until the machine ends, `until` holds (asked every few milliseconds while a hart
        runs, by its thread), or `seconds` have passed. Only one thread at a time; raises
        `BoardError` after the machine has ended."""
        if self.states.reason:
            raise BoardError(f"this machine has ended ({self.states.reason}); build another one")
        if seconds is not None and not seconds >= 0:
            raise BoardError(f"{seconds} seconds cannot be; a number that is not negative can")
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            reason = self.states.run(until, left)
            if reason != "reset" or not self.reboot:
                return Ending(reason)
            quiet, self._heard = self._heard == self.uart.received, self.uart.received
            self._resets = self._resets + 1 if quiet else 1
            if self._resets >= _LOOP:
                self.states.reason = "reset loop"
                return Ending(self.states.reason)
            self.bus.ram.clear()
            self._start()

    def request_stop(self) -> None:
        """Make `run` return with "stopped"; from any thread."""
        self.states.request_stop()

    def _totals(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        for hart in self.harts:
            for name, value in hart.stats().items():
                assert isinstance(value, int | float)
                totals[name] = totals.get(name, 0) + value
        return totals

    def stats(self) -> dict[str, object]:
        """Counters of the run so far, under the names of `--stats`."""
        totals = self._totals()
        return {
            **{name: value + self._carried.get(name, 0) for name, value in totals.items()},
            "engine": "interp",
        }

    def close(self) -> None:
        """Give the memory back; the machine cannot run any more."""
        self.states.reason = self.states.reason or "closed"
        for each in self.devices:
            each.device.close()
        self.bus.ram.close()


def _cpu(number: int) -> Node:
    """A hart, by the names that its instruction set gives itself."""
    cpu = Node(f"cpu@{number}", {"device_type": "cpu", "reg": number, "compatible": "riscv"})
    cpu.properties |= {
        "status": "okay", "mmu-type": "riscv,sv57", "riscv,isa": profile.isa_string(),
        "riscv,isa-base": profile.BASE, "riscv,isa-extensions": list(profile.extensions()),
        "riscv,cbom-block-size": 64, "riscv,cboz-block-size": 64,
    }  # fmt: skip
    intc = cpu.add("interrupt-controller", compatible="riscv,cpu-intc", phandle=phandle(number))
    intc.properties |= {"#interrupt-cells": 1, "interrupt-controller": None}
    return cpu


def _wire(hart: Processor, bit: int) -> Callable[[bool], None]:
    return lambda level: hart.set_pending(bit, level)
