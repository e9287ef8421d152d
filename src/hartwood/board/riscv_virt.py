"""A riscv64 board with QEMU's `virt` map, as far as there are devices: what stock kernels boot on.

with hartwood.board.RiscvVirt(kernel="Image", initrd="initrd", append="console=ttyS0") as m:
    m.run(until=m.uart.saw(b"login:"))
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hartwood.board import loader
from hartwood.board.fdt import Node, flatten, wide
from hartwood.board.sbi import ALREADY, SUCCESS, Sbi
from hartwood.dev.device import Device
from hartwood.dev.finisher import Finisher
from hartwood.dev.plic import SOURCES, Plic
from hartwood.dev.uart16550 import Uart16550
from hartwood.errors import Error
from hartwood.machine import Processor, new_bus

RAM, PLIC, UART, FINISHER = 0x8000_0000, 0x0C00_0000, 0x1000_0000, 0x10_0000
UART_IRQ = 10
#: Ticks of guest time a second, and harts at most.
FREQUENCY, MOST_HARTS = 10_000_000, 8
ISA = "rv64imafdc_zicbom_zicboz_zicntr_zicsr_zifencei_zihpm_zba_zbb_zbs_sstc_svinval_svnapot_svpbmt"
_PAGE, _TREE = 4096, 0x1_0000


class BoardError(Error):
    """A board that cannot be built or run as asked."""

    exit_status = 2


@dataclass(frozen=True)
class Ending:
    """Why a run came back: "poweroff", "reset", "fail <code>", "until", "seconds" or "stopped"."""

    reason: str


class RiscvVirt:
    """The board, with a kernel in its memory and its first hart about to enter it.

    `memory` is in bytes. Raises `LoaderError` for files that cannot be used and `BoardError` for a
    board that cannot be.
    """

    def __init__(
        self,
        *,
        kernel: str | Path,
        initrd: str | Path | None = None,
        append: str = "",
        memory: int = 512 << 20,
        harts: int = 1,
    ) -> None:
        if not 1 <= harts <= MOST_HARTS:
            raise BoardError(f"{harts} harts cannot be; this board has 1 to {MOST_HARTS}")
        if memory % _PAGE or memory > 64 << 30:
            raise BoardError(f"{memory} bytes of memory cannot be; whole pages up to 64 GiB can")
        loaded = loader.load(Path(kernel), RAM)
        archive = loader.read(Path(initrd), "initramfs") if initrd is not None else b""
        tree_at = RAM + memory - _TREE
        archive_at = tree_at - len(archive) & -_PAGE
        if loaded.end > archive_at:
            need = loaded.end - RAM + len(archive) + 2 * _TREE
            raise BoardError(
                f"{memory >> 20} MiB are too little: this takes {(need >> 20) + 1} MiB"
            )
        if any(at < RAM for at, _ in loaded.parts):
            raise BoardError(f"{kernel}: wants to lie below this board's memory at {RAM:#x}")
        self.memory = memory
        self.plic, self.uart, self.finisher = Plic(), Uart16550(), Finisher()
        self.uart.irq = self.plic.line(UART_IRQ)
        self.finisher.ended = self.end
        self.bus = new_bus(memory)
        self.bus.map(RAM, memory)
        devices: tuple[tuple[int, Device], ...] = (
            (PLIC, self.plic), (UART, self.uart), (FINISHER, self.finisher),
        )  # fmt: skip
        for at, device in devices:
            self.bus.attach(at, device)
        for at, data in loaded.parts:
            self.bus.ram.write(at, data)
        if archive:
            self.bus.ram.write(archive_at, archive)
        blob = flatten(self._tree(harts, append, archive_at, len(archive)))
        if len(blob) > _TREE:
            raise BoardError(f"a command line of {len(append)} bytes is too long")
        self.bus.ram.write(tree_at, blob)
        self._sbi = Sbi(self)
        self.harts: list[Processor] = []
        for number in range(harts):
            self.harts.append(self._hart(number))
        self._lock = threading.Lock()
        #: Harts that were started and did not stop, and why the machine ended.
        self._started = {0}
        self._reason = ""
        self._running: dict[int, threading.Thread] | None = None
        self.harts[0].enter_supervisor(loaded.entry, 0, tree_at)

    def __enter__(self) -> RiscvVirt:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hart(self, number: int) -> Processor:
        hart = Processor(self.bus, number)
        hart.state.supervisor_calls = 1
        hart.supervisor_call = self._sbi
        if number:
            hart.state.time_offset = self.harts[0].state.time_offset
        for level, bit in ((0, 11), (1, 9)):  # M and S external (Priv. 3.1.9)
            self.plic.outputs[2 * number + level] = _wire(hart, bit)
        return hart

    # The device tree.
    def _tree(self, harts: int, append: str, archive_at: int, archive: int) -> Node:
        cells: dict[str, int] = {"#address-cells": 2, "#size-cells": 2}
        root = Node("", {**cells, "compatible": "riscv-virtio", "model": "riscv-virtio,hartwood"})
        chosen = root.add("chosen", bootargs=append)
        chosen.properties["stdout-path"] = f"/soc/serial@{UART:x}"
        if archive:
            chosen.properties["linux,initrd-start"] = wide(archive_at)
            chosen.properties["linux,initrd-end"] = wide(archive_at + archive)
        root.add(f"memory@{RAM:x}", device_type="memory", reg=wide(RAM, self.memory))
        cpus = root.add("cpus")
        cpus.properties |= {
            "#address-cells": 1, "#size-cells": 0, "timebase-frequency": FREQUENCY
        }  # fmt: skip
        for number in range(harts):
            cpu = cpus.add(f"cpu@{number}", device_type="cpu", reg=number, compatible="riscv")
            cpu.properties |= {
                "status": "okay", "riscv,isa": ISA, "mmu-type": "riscv,sv57",
                "riscv,cbom-block-size": 64, "riscv,cboz-block-size": 64,
            }  # fmt: skip
            intc = cpu.add("interrupt-controller", compatible="riscv,cpu-intc", phandle=number + 1)
            intc.properties |= {"#interrupt-cells": 1, "interrupt-controller": None}
        self._soc(root, harts)
        return root

    def _soc(self, root: Node, harts: int) -> None:
        soc = root.add("soc", compatible="simple-bus", ranges=None)
        soc.properties |= {"#address-cells": 2, "#size-cells": 2}
        controller = MOST_HARTS + 1
        lines = [cell for n in range(harts) for bit in (11, 9) for cell in (n + 1, bit)]
        plic = soc.add(f"plic@{PLIC:x}", reg=wide(PLIC, Plic.size), phandle=controller)
        plic.properties |= {
            "compatible": ["sifive,plic-1.0.0", Plic.compatible], "interrupt-controller": None,
            "#interrupt-cells": 1, "#address-cells": 0, "riscv,ndev": SOURCES - 1,
            "interrupts-extended": tuple(lines),
        }  # fmt: skip
        uart = soc.add(f"serial@{UART:x}", compatible=Uart16550.compatible)
        uart.properties |= {
            "reg": wide(UART, Uart16550.size), "interrupts": UART_IRQ,
            "interrupt-parent": controller, "clock-frequency": 3_686_400,
        }  # fmt: skip
        test = soc.add(f"test@{FINISHER:x}", reg=wide(FINISHER, Finisher.size))
        test.properties["compatible"] = [Finisher.compatible, "sifive,test0", "syscon"]

    # What the firmware asks for (see `sbi.Host`), on the threads of harts.
    def start(self, number: int, entry: int, opaque: int) -> int:
        """Start a hart in S-mode at `entry`."""
        with self._lock:
            if number in self._started:
                return ALREADY
            self._started.add(number)
            self.harts[number].enter_supervisor(entry, number, opaque)
            if self._running is not None:
                self._go(number)
        return SUCCESS

    def stop(self, number: int) -> None:
        """The calling hart stops until it is started again."""
        with self._lock:
            self._started.discard(number)
        self.harts[number].request_stop()

    def state(self, number: int) -> int:
        """0 where a hart runs, 1 where it is stopped."""
        return int(number not in self._started)

    def end(self, reason: str) -> None:
        """The machine ends: every hart stops."""
        self._reason = self._reason or reason
        for hart in self.harts:
            hart.request_stop()

    def put(self, data: bytes) -> None:
        """Output of the debug console: the serial port's."""
        self.uart.send(data)

    def get(self, most: int) -> bytes:
        """Its input."""
        data = bytes(self.uart.rx[:most])
        del self.uart.rx[:most]
        return data

    # Running.
    def _go(self, number: int) -> None:
        assert self._running is not None
        thread = threading.Thread(target=self._run_hart, args=(number,), daemon=True)
        self._running[number] = thread
        thread.start()

    def _run_hart(self, number: int) -> None:
        self.harts[number].run(until=self._is_over)

    def _is_over(self) -> bool:
        return bool(self._reason) or self._running is None

    def run(self, until: Callable[[], bool] | None = None, seconds: float | None = None) -> Ending:
        """Run until the machine ends, `until` holds (asked every few milliseconds), or `seconds`
        have passed. Only one thread at a time; raises `BoardError` after the machine has ended."""
        if self._why():
            raise BoardError(f"this machine has ended ({self._why()}); build another one")
        met = [False]

        def over() -> bool:
            met[0] = until is not None and until()
            return met[0] or self._is_over()

        with self._lock:
            self._running = {}
            for number in self._started - {0}:
                self._go(number)
        try:
            stop = self.harts[0].run(until=over, seconds=seconds)
        finally:
            self._pause()
        return Ending(self._why() or ("until" if met[0] else stop.reason))

    def _why(self) -> str:
        return self._reason

    def _pause(self) -> None:
        """The first hart has come back: the others' threads end too."""
        with self._lock:
            threads, self._running = self._running or {}, None
        for hart in self.harts[1:]:
            hart.request_stop()
        for thread in threads.values():
            thread.join()

    def request_stop(self) -> None:
        """Make `run` return with "stopped"; from any thread."""
        self.harts[0].request_stop()

    def stats(self) -> dict[str, object]:
        """Counters of the run so far, under the names of `--stats`."""
        totals: dict[str, object] = {}
        for hart in self.harts:
            for name, value in hart.stats().items():
                assert isinstance(value, int | float)
                totals[name] = totals.get(name, 0) + value  # type: ignore[operator]
        return {**totals, "engine": "interp"}

    def close(self) -> None:
        """Give the memory back; the machine cannot run any more."""
        self._reason = self._reason or "closed"
        self.bus.ram.close()


def _wire(hart: Processor, bit: int) -> Callable[[bool], None]:
    return lambda level: hart.set_pending(bit, level)
