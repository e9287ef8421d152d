"""What RISC-V boards have in common: memory, harts, devices by a table, and what starts them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Self

from hartwood.board.fdt import Node, flatten, wide
from hartwood.board.harts import Harts
from hartwood.board.loader import OFFSET, Kernel, load, read
from hartwood.board.sbi import Sbi
from hartwood.board.table import MOST_HARTS, Place, Placed, phandle, placed
from hartwood.dev.device import Device
from hartwood.dev.plic import Plic
from hartwood.dev.uart16550 import Uart16550
from hartwood.errors import Error
from hartwood.isa.riscv import profile
from hartwood.machine.bare import Processor, new_bus
from hartwood.machine.life import Kept, Life
from hartwood.machine.processor import FREQUENCY
from hartwood.machine.snapshot import Snapshot, State

_PAGE, _TREE, _MOST_MEMORY = 4096, 0x1_0000, 64 << 30
#: Resets in a row, without a byte of input between them, that are a loop.
_LOOP = 3
#: When a deterministic machine begins, in nanoseconds since 1970: 1 January 2026.
_EPOCH = 1_767_225_600 * 10**9
#: Modes of processors by the names of engines.
_ENGINES = {"auto": "auto", "interp": "interp", "jit": "stitch"}
#: The name of our own firmware, in place of a file's.
BUILTIN = "builtin"
#: Where what OpenSBI's fw_dynamic wants to know lies: in QEMU's boot ROM too.
_INFO = 0x1000


class BoardError(Error):
    """A board that cannot be built or run as asked."""

    exit_status = 2


@dataclass(frozen=True)
class Ending:
    """Why a run came back: "poweroff", "reset", "reset loop", "fail <code>", "halted" (no hart can
    ever run again), "lockup", "until", "seconds" or "stopped"."""

    reason: str


class RiscvBoard(Life):
    """A board with a kernel in its memory and its first hart about to enter it in S-mode, firmware
    being our own; or, with a file for `bios`, all harts about to enter that in M-mode.

    `memory` is in bytes; `devices` go into the slots of the board's table; without `reboot` a
    reset ends the machine. `engine` is "auto", "interp" or "jit" (translate at once). With
    `deterministic` guest time is the instruction count and harts take turns. A `snapshot` is
    restored at once, and needs no kernel; `kept` is what snapshots hold beside the machine.
    Raises `LoaderError` for files that cannot be used and `BoardError` for a board that cannot be.
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
        kernel: str | Path | None = None,
        initrd: str | Path | None = None,
        append: str = "",
        memory: int = 512 << 20,
        harts: int = 1,
        bios: str | Path = BUILTIN,
        devices: Iterable[Device] = (),
        reboot: bool = True,
        engine: str = "auto",
        deterministic: bool = False,
        snapshot: Snapshot | None = None,
        kept: Mapping[str, Kept] = MappingProxyType({}),
    ) -> None:
        if not 1 <= harts <= MOST_HARTS:
            raise BoardError(f"{harts} harts cannot be; this board has 1 to {MOST_HARTS}")
        if engine not in _ENGINES:
            raise BoardError(f"there is no engine {engine}; use one of {', '.join(_ENGINES)}")
        if memory % _PAGE or not 0 < memory <= _MOST_MEMORY:
            raise BoardError(f"{memory} bytes of memory cannot be; whole pages up to 64 GiB can")
        self.memory, self.reboot = memory, reboot
        try:
            self.devices = list(placed(self, devices))
        except IndexError:
            raise BoardError("there are more devices than slots on this board") from None
        self._nothing = kernel is None and bios == BUILTIN
        if self._nothing and snapshot is None:
            raise BoardError("there is nothing to run; give a kernel, or firmware as bios")
        low = self._load_code(kernel, bios)
        self._load_data(low, initrd, append, harts)
        self.bus = new_bus(memory + _PAGE)
        self.bus.map(self.ram, memory)
        if self._firmware is not None:
            self.bus.map(_INFO, _PAGE)
        self.harts = [
            Processor(self.bus, number, mode=_ENGINES[engine], deterministic=deterministic)
            for number in range(harts)
        ]
        self.states = Harts(self.harts, self._enter)
        self._sbi = Sbi(self)
        for each in self.devices:
            self._connect(each)
        self._resets, self._heard = 0, 0
        self._carried: dict[str, float] = {}
        self._start()
        self.kind = type(self).__name__
        self.born()
        self.kept |= kept
        if snapshot is not None:
            try:
                self.restore(snapshot)
            except Error:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What is where.
    def _load_code(self, kernel: str | Path | None, bios: str | Path) -> int:
        """Decide where firmware and kernel lie; gives where the memory that they take ends."""
        images: list[tuple[str | Path, Kernel]] = []
        self._firmware: int | None = None
        self._contents: list[tuple[int, bytes]] = []
        if bios != BUILTIN:
            images.append((bios, load(Path(bios), self.ram, 0, "firmware")))
            self._firmware = images[0][1].entry
        self._entry = self.ram + OFFSET
        if kernel is not None:
            images.append((kernel, load(Path(kernel), self.ram)))
            self._entry = images[-1][1].entry
        if not images:
            return self.ram
        for file, image in images:
            if image.start < self.ram:
                raise BoardError(f"{file}: wants to lie below this board's memory, {self.ram:#x}")
            self._contents += image.parts
        (file, last), first = images[-1], images[0][1]
        if len(images) > 1 and last.start < first.end and first.start < last.end:
            raise BoardError(f"{file}: wants to lie at {last.start:#x}, where the firmware is")
        if self._firmware is not None:
            self._contents.append((_INFO, _dynamic_info(self._entry)))
        return max(image.end for _, image in images)

    def _load_data(self, low: int, initrd: str | Path | None, append: str, harts: int) -> None:
        """Put device tree and archive at the end of memory, above `low`."""
        archive = read(Path(initrd), "initramfs") if initrd is not None else b""
        self._tree_at = self.ram + self.memory - _TREE
        archive_at = self._tree_at - len(archive) & -_PAGE
        if low > archive_at:
            need = low - self.ram + len(archive) + 2 * _TREE
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
        self._contents += [(archive_at, archive), (self._tree_at, blob)]

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
        ports = {
            "ram": self.bus.ram, "ended": self.end, "clock": lambda: self.states.here.clock,
            "set_clock": self._set_clock, "set_timer": self._set_timer,
        }  # fmt: skip
        if self.harts[0].deterministic:
            ports["wall"] = lambda: _EPOCH + self.states.here.clock * 10**9 // FREQUENCY
        for port in fields(device):
            if port.metadata.get("host") and port.name in ports:
                setattr(device, port.name, ports[port.name])
        if isinstance(device, Plic):
            device.post(lambda offset, width: self.bus.post(each.at + offset, width))
        if isinstance(device, Uart16550):
            device.posted = self.bus.post(each.at, 1)
            device.settle()
            self.bus.flushes.append(device.flush)
            self.plic.watch(each.irq, device.sync)
            device.served = partial(self.plic.serves, each.irq)

    def _set_clock(self, now: int) -> None:
        jump = now - self.states.here.clock
        for hart in self.harts:
            hart.shift_clock(jump)

    def _set_timer(self, number: int, when: int) -> None:
        if number < len(self.harts):
            self.harts[number].set_machine_timer(when)

    def _start(self) -> None:
        """Power on, or a reset: everything as it was, but for what the harts have counted."""
        for at, data in self._contents:
            self.bus.ram.write(at, data)
        for hart in self.harts:
            before = self._totals()
            hart.power_on()
            hart.state.supervisor_calls = int(self._firmware is None)
            hart.supervisor_call = self._sbi if self._firmware is None else None
            hart.state.time_offset = self.harts[0].state.time_offset
            now = self._totals()
            for name, value in before.items():
                self._carried[name] = self._carried.get(name, 0) + value - now[name]
        for each in self.devices:
            each.device.reset()
        if self._firmware is None:
            self._enter(self.harts[0], self._entry, self._tree_at)
            self.states.reset({0})
            return
        for number, hart in enumerate(self.harts):
            hart.pc, hart.a0, hart.a1, hart.a2 = self._firmware, number, self._tree_at, _INFO
        self.states.reset(range(len(self.harts)))

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

    # Life (see `machine.life`).
    def _restart(self) -> None:
        if self._nothing:
            raise BoardError("this machine is a snapshot's; without a kernel it cannot be reset")
        self._resets = 0
        self.bus.ram.clear()
        self._start()

    def _has_ended(self) -> str:
        return self.states.reason

    def _ask_stop(self) -> None:
        self.states.request_stop()

    def _save_more(self) -> State:
        return self.states.save()

    def _load_more(self, state: State) -> None:
        self.states.load(state)

    def run(
        self,
        until: Callable[[], bool] | None = None,
        seconds: float | None = None,
        instructions: int | None = None,
    ) -> Ending:
        """Run until the machine ends, `until` holds (asked every few milliseconds while a hart
        runs, by its thread), `seconds` have passed in which it was not paused, or the first hart
        has executed `instructions`. Raises `StateError` where the machine runs or has ended."""
        if seconds is not None and not seconds >= 0:
            raise BoardError(f"{seconds} seconds cannot be; a number that is not negative can")
        with self._running():
            self.states.limit(seconds, instructions)
            while True:
                reason = self.states.run(until)
                if reason != "reset" or not self.reboot:
                    return Ending(reason)
                quiet, self._heard = self._heard == self.uart.received, self.uart.received
                resets = self._resets + 1 if quiet else 1
                if resets >= _LOOP:
                    self.states.reason = "reset loop"
                    return Ending(self.states.reason)
                with self.life.hold():
                    self._restart()
                self._resets = resets

    def _go_on(self) -> None:
        self.run()

    def step(self) -> Ending:
        """Execute one instruction of each hart that runs, in turn. Raises `StateError`."""
        with self._stepping():
            return Ending(self.states.step())

    def feed(self, data: bytes) -> None:
        """Input for the serial port; a deterministic machine that runs takes it between turns."""
        self.states.later(lambda: self.uart.feed(data))

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
            **self.harts[0].code.stats(),
            "engine": self.harts[0].mode,
            "regions": self.harts[0].regions,
        }

    def _give_back(self) -> None:
        for each in self.devices:
            each.device.close()
        self.bus.ram.close()


def _dynamic_info(entry: int) -> bytes:
    """struct fw_dynamic_info of OpenSBI (include/sbi/fw_dynamic.h), version 2: the next stage is
    entered in S-mode, on hart 0."""
    return struct.pack("<6Q", 0x4942534F, 2, entry, 1, 0, 0)


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
