"""A riscv64 board with QEMU's `virt` map, as far as there are devices: what stock kernels boot on.

with hartwood.board.RiscvVirt(kernel="Image", initrd="initrd", append="console=ttyS0") as m:
    m.run(until=m.uart.saw(b"login:"))
"""

from __future__ import annotations

from typing import ClassVar

from hartwood.board.riscv import BoardError, Ending, RiscvBoard
from hartwood.board.table import Place, Row
from hartwood.dev.finisher import Finisher
from hartwood.dev.plic import Plic
from hartwood.dev.uart16550 import Uart16550

__all__ = ["BoardError", "Ending", "RiscvVirt"]


class RiscvVirt(RiscvBoard):
    """The map of QEMU's hw/riscv/virt.c. What `devices` are given take virtio's slots in turn."""

    model: ClassVar[str] = "riscv-virtio,hartwood"
    compatible: ClassVar[str] = "riscv-virtio"
    ram: ClassVar[int] = 0x8000_0000
    finisher = Place(Finisher, at=0x10_0000)
    plic = Place(Plic, at=0x0C00_0000)
    uart = Place(Uart16550, at=0x1000_0000, irq=10)
    slots = Row(at=0x1000_1000, step=0x1000, count=8, irq=1)
