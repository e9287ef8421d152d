"""The least that Linux boots on: memory, a serial port that only prints, firmware of six calls.

It tests the processor apart from the boards of the package.
"""

from __future__ import annotations

import struct
import threading
from pathlib import Path

from hartwood.machine import Processor, new_bus

BASE, MEMORY, UART = 0x8000_0000, 256 << 20, 0x1000_0000
_BASE, _TIME, _IPI, _RFENCE, _HSM, _RESET = (
    0x10, 0x54494D45, 0x735049, 0x52464E43, 0x48534D, 0x53525354,
)  # fmt: skip
_ISA = "rv64imafdc_zicbom_zicboz_zicntr_zicsr_zifencei_zihpm_zba_zbb_zbs_sstc_svinval_svnapot"
_U64 = (1 << 64) - 1


#: Properties of a node by name.
Properties = dict[str, "int | str | tuple[int, ...]"]


class Tree:
    """A flattened device tree (Devicetree Specification 5)."""

    def __init__(self) -> None:
        self._words, self._strings = b"", b""

    def begin(self, name: str, **properties: int | str | tuple[int, ...]) -> None:
        """A node; underscores in names of properties are hyphens, two a hash."""
        encoded = name.encode() + b"\0"
        self._words += struct.pack(">I", 1) + encoded + bytes(-len(encoded) % 4)
        for key, value in properties.items():
            spelled = key.replace("__", "#").replace("_", "-").replace("device-type", "device_type")
            if isinstance(value, str):
                data = value.encode() + b"\0"
            else:
                cells = value if isinstance(value, tuple) else (value,)
                data = struct.pack(f">{len(cells)}I", *cells)
            head = struct.pack(">3I", 3, len(data), len(self._strings))
            self._words += head + data + bytes(-len(data) % 4)
            self._strings += spelled.encode() + b"\0"

    def end(self) -> None:
        """The end of a node."""
        self._words += struct.pack(">I", 2)

    def blob(self) -> bytes:
        """The finished tree."""
        words = self._words + struct.pack(">I", 9)
        start, strings = 56, 56 + len(words)
        total = strings + len(self._strings)
        numbers = (0xD00DFEED, total, start, strings, 40, 17, 16, 0, len(self._strings), len(words))
        return struct.pack(">10I", *numbers) + bytes(16) + words + self._strings


class SmallBoard:
    """Harts in threads, started by the kernel itself."""

    def __init__(self, kernel: Path, initrd: Path, append: str, harts: int, mmu: str) -> None:
        self.out = bytearray()
        self.off = threading.Event()
        self.bus = new_bus(MEMORY)
        self.bus.map(BASE, MEMORY)
        self.bus.map_io(UART, 0x100, lambda at, width: 0x60 if at == 5 else 0, self._print)
        ram, archive = self.bus.ram, initrd.read_bytes()
        at = BASE + MEMORY - (len(archive) + 0x20_0000 & -4096)
        ram.write(at, archive)
        ram.write(BASE + 0x20_0000, kernel.read_bytes())
        tree = self._tree(append, harts, mmu, at, at + len(archive))
        ram.write(at - 0x1_0000, tree)
        self.harts = [Processor(self.bus, number) for number in range(harts)]
        self._starts = [threading.Event() for _ in self.harts]
        self._entries: dict[int, tuple[int, int]] = {0: (BASE + 0x20_0000, at - 0x1_0000)}
        self._starts[0].set()
        for hart in self.harts:
            hart.state.time_offset = self.harts[0].state.time_offset
            hart.state.supervisor_calls = 1
            hart.supervisor_call = self._call

    def _tree(self, append: str, harts: int, mmu: str, start: int, end: int) -> bytes:
        tree = Tree()
        two: Properties = {"__address_cells": 2, "__size_cells": 2}
        tree.begin("", compatible="riscv-virtio", model="small", **two)
        tree.begin(
            "chosen", bootargs=append, linux_initrd_start=(0, start), linux_initrd_end=(0, end)
        )
        tree.end()
        tree.begin("memory@80000000", device_type="memory", reg=(0, BASE, 0, MEMORY))
        tree.end()
        tree.begin("cpus", __address_cells=1, __size_cells=0, timebase_frequency=10_000_000)
        for number in range(harts):
            block: Properties = {"riscv,cbom_block_size": 64, "riscv,cboz_block_size": 64}
            names: Properties = {
                "riscv,isa": _ISA,
                "mmu_type": f"riscv,{mmu}",
                "compatible": "riscv",
            }
            tree.begin(f"cpu@{number}", device_type="cpu", reg=number, **names, **block)
            intc: Properties = {"interrupt_controller": (), "compatible": "riscv,cpu-intc"}
            tree.begin("interrupt-controller", __interrupt_cells=1, phandle=number + 1, **intc)
            tree.end()
            tree.end()
        tree.end()
        tree.begin("soc", compatible="simple-bus", ranges=(), **two)
        where: Properties = {"reg": (0, UART, 0, 0x100), "clock_frequency": 3_686_400}
        tree.begin("serial@10000000", compatible="ns16550a", **where)
        tree.end()
        tree.end()
        tree.end()
        return tree.blob().replace(b"linux-initrd", b"linux,initrd")

    def _print(self, at: int, width: int, value: int) -> None:
        if at == 0:
            self.out.append(value)

    def _named(self, mask: int, base: int) -> list[Processor]:
        if base == _U64:
            return self.harts
        return [hart for n, hart in enumerate(self.harts) if n >= base and mask >> n - base & 1]

    def _call(self, hart: Processor) -> None:
        """The calls of SBI 2.0 that Linux cannot do without."""
        extension, function, a = hart.a7, hart.a6, (hart.a0, hart.a1, hart.a2)
        error, value = 0, 0
        if extension == _BASE:
            known = a[0] in (_TIME, _IPI, _RFENCE, _HSM, _RESET)
            value = {0: 2 << 24, 3: int(known)}.get(function, 0)
        elif extension == _TIME:
            hart.set_timer(a[0])
        elif extension == _IPI:
            for other in self._named(a[0], a[1]):
                other.post(1)
        elif extension == _RFENCE:
            for other in self._named(a[0], a[1]):
                if other is hart:
                    hart.flush_local()
                else:
                    other.flush_remote()
        elif extension == _HSM and function == 0 and a[0] < len(self.harts):
            self._entries[a[0]] = a[1], a[2]
            self._starts[a[0]].set()
        elif extension == _HSM and function == 2:
            value = int(a[0] not in self._entries)
        elif extension == _RESET:
            self.off.set()
            for other in self.harts:
                other.request_stop()
            for start in self._starts:
                start.set()
        else:
            error = -2
        hart.a0, hart.a1 = error, value

    def _run(self, number: int, seconds: float) -> None:
        self._starts[number].wait(seconds)
        if number in self._entries and not self.off.is_set():
            entry, opaque = self._entries[number]
            self.harts[number].enter_supervisor(entry, number, opaque)
            self.harts[number].run(seconds=seconds, until=self.off.is_set)

    def run(self, seconds: float) -> str:
        """Run until the kernel powers off; gives what it printed."""
        threads = [
            threading.Thread(target=self._run, args=(number, seconds))
            for number in range(len(self.harts))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.out.decode(errors="replace").replace("\r", "")
