"""National 16550A: the subset that firmware and Linux use (PC16550D datasheet, 8)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hartwood.dev.device import Device, Property, Sink, host, reg, state, waiting
from hartwood.dev.ports import Posted

_READY, _IDLE = 0x01, 0x60
_RX, _TX = 0x01, 0x02  # interrupt enable bits
_DLAB, _LOOP = 0x80, 0x10
#: Bytes of input that wait at most; what comes beyond is lost, as on a wire.
_ROOM = 1 << 16
#: Bytes of output that wait at most until the hart that sent them comes out of native code.
_BATCH = 4096


class Watcher:
    """Looks for a text in what is sent."""

    def __init__(self, text: bytes) -> None:
        self._text, self._tail, self.found = text, b"", not text

    def take(self, data: bytes) -> None:
        """More was sent."""
        if not self.found:
            self._tail += data
            self.found = self._text in self._tail
            self._tail = self._tail[-len(self._text) :]


@dataclass
class Uart16550(Device):
    """A serial port; `tx` takes what the guest sends, `feed` is what it receives."""

    compatible: ClassVar[str] = "ns16550a"
    size: ClassVar[int] = 0x100
    node: ClassVar[str] = "serial"
    #: The divisor's input (table III): Linux wants to know, though bytes take no time here.
    properties: ClassVar[Mapping[str, Property]] = {"clock-frequency": 3_686_400}
    tx: Sink = host()
    #: What harts do without calling, whose flag is then `empty`. Where there is none bytes leave
    #: one by one.
    posted: Posted | None = field(
        default=None, metadata={"host": True}, repr=False, compare=False, kw_only=True
    )
    #: Whether an interrupt of this device is being served: until that is completed nobody looks at
    #: the wire.
    served: Callable[[], bool] = field(
        default=lambda: False, metadata={"host": True}, repr=False, compare=False, kw_only=True
    )
    ier: int = state(most=0x0F)
    lcr: int = state(most=0xFF)
    mcr: int = state(most=0x1F)
    scr: int = state(most=0xFF)
    fcr: int = state(most=0xC9)
    dll: int = state(most=0xFF)
    dlm: int = state(most=0xFF)
    #: The transmitter ran empty and nobody was told yet.
    empty: bool = False
    rx: bytearray = waiting(_ROOM)
    #: Bytes that arrived since it was made, for whoever wants to know whether somebody is there.
    received: int = field(default=0, metadata={"host": True}, repr=False, compare=False)
    watchers: list[Watcher] = field(
        default_factory=list, metadata={"host": True}, repr=False, compare=False
    )
    _leaving: bytearray = field(
        default_factory=bytearray, metadata={"host": True}, repr=False, compare=False
    )
    #: Held by whoever passes bytes on, so that they stay in order; taken before `lock`.
    _sending: threading.RLock = field(
        default_factory=threading.RLock, metadata={"host": True}, repr=False, compare=False
    )

    def feed(self, data: bytes) -> None:
        """Bytes arrive; from any thread."""
        with self.lock:
            self.rx += data[: _ROOM - len(self.rx)]
            self.received += len(data)
            self.settle()

    def take(self, most: int) -> bytes:
        """What arrived and was not read, at most so many bytes, for firmware to read."""
        with self.lock:
            data = bytes(self.rx[:most])
            del self.rx[:most]
            self.settle()
        return data

    def send(self, data: bytes) -> None:
        """Bytes leave, after those that wait. `tx` may take its time: nobody waits for the
        registers meanwhile."""
        with self._sending:
            with self.lock:
                self._gather()
                data, self._leaving[:] = bytes(self._leaving) + data, b""
                for watcher in self.watchers:
                    watcher.take(data)
            if data:
                self.tx(data)

    def flush(self) -> None:
        """What waits leaves."""
        if self._leaving or (self.posted is not None and self.posted.waiting):
            self.send(b"")

    def _gather(self) -> None:
        if self.posted is not None:
            self._leaving += self.posted.take()

    def write(self, offset: int, width: int, value: int) -> None:
        """See `Device.write`."""
        super().write(offset, width, value)
        if self.posted is None or len(self._leaving) >= _BATCH:
            self.flush()

    def saw(self, text: bytes) -> Callable[[], bool]:
        """A condition for `run(until=...)`: `text` was sent, from now on."""
        watcher = Watcher(text)
        self.flush()
        with self.lock:
            self.watchers.append(watcher)
        return lambda: watcher.found

    def settle(self) -> None:
        """See `Device.settle`."""
        if self.posted is not None:
            self.posted.close()
        cause = self._cause()
        if self.posted is not None:
            self._show(self.posted, cause)
        self.irq(cause != 1)

    def _show(self, posted: Posted, cause: int) -> None:
        """What harts may do by themselves: whatever changes nothing that somebody looks at."""
        asks, served = self.ier & _TX and cause != 4, self.served()
        fifo = 0xC0 if self.fcr & 1 else 0
        posted.show(2, None if cause == 2 else cause | fifo)
        posted.show(5, self.lsr())
        posted.show(6, self.msr())
        if asks and served:
            posted.lower(2, 1 | fifo, 2 | fifo)
        if (served or not asks or cause == 2) and not self.lcr & _DLAB and not self.mcr & _LOOP:
            posted.accept(0)

    def sync(self) -> None:
        """`served` may have changed."""
        with self.lock:
            self.settle()

    @property
    def _empty(self) -> bool:
        return self.empty if self.posted is None else self.posted.raised

    @_empty.setter
    def _empty(self, value: bool) -> None:
        self.empty = value
        if self.posted is not None:
            self.posted.raised = value

    def save(self) -> dict[str, Any]:
        """See `Device.save`."""
        with self.lock:
            self.empty = self._empty
            return super().save()

    def load(self, state: dict[str, Any]) -> None:
        """See `Device.load`."""
        with self.lock:
            self.empty = self._empty
            super().load(state)
            self._adopt()

    def reset(self) -> None:
        """See `Device.reset`."""
        with self.lock:
            super().reset()
            self._adopt()

    def _adopt(self) -> None:
        self._empty = self.empty
        self.settle()

    def _cause(self) -> int:
        """The interrupt identification: 1 where there is none (8.6)."""
        if self.ier & _RX and self.rx:
            return 4
        return 2 if self.ier & _TX and self._empty else 1

    @reg(0)
    def rbr(self) -> int:
        """Receiver buffer, or the divisor's low byte."""
        if self.lcr & _DLAB:
            return self.dll
        if not self.rx:
            return 0
        byte = self.rx.pop(0)
        self.settle()
        return byte

    @reg(0)
    def thr(self, value: int) -> None:
        """Transmitter holding register, or the divisor's low byte."""
        value &= 0xFF
        if self.lcr & _DLAB:
            self.dll = value
        elif self.mcr & _LOOP:
            self.rx += bytes([value])[: _ROOM - len(self.rx)]
            self.settle()
        else:
            self._gather()
            self._leaving.append(value)
            if not self._empty:
                self._empty = True
                self.settle()

    @reg(1)
    def ier_r(self) -> int:
        """Interrupt enable."""
        return self.dlm if self.lcr & _DLAB else self.ier

    @reg(1)
    def ier_w(self, value: int) -> None:
        """Interrupt enable: to ask for the transmitter's while it is empty raises it."""
        if self.lcr & _DLAB:
            self.dlm = value & 0xFF
            return
        if value & _TX and not self.ier & _TX:
            self._empty = True
        self.ier = value & 0x0F
        self.settle()

    @reg(2)
    def iir(self) -> int:
        """Interrupt identification; reading it answers the transmitter's."""
        cause = self._cause()
        if cause == 2:
            self._empty = False
            self.settle()
        return cause | (0xC0 if self.fcr & 1 else 0)

    @reg(2)
    def fcr_w(self, value: int) -> None:
        """FIFO control: bit 1 empties the receiver's."""
        if value & 2:
            self.rx.clear()
        self.fcr = value & 0xC9
        self.settle()

    @reg(3)
    def lcr_r(self) -> int:
        """Line control."""
        return self.lcr

    @reg(3)
    def lcr_w(self, value: int) -> None:
        """Line control."""
        self.lcr = value & 0xFF
        self.settle()

    @reg(4)
    def mcr_r(self) -> int:
        """Modem control."""
        return self.mcr

    @reg(4)
    def mcr_w(self, value: int) -> None:
        """Modem control."""
        self.mcr = value & 0x1F
        self.settle()

    @reg(5)
    def lsr(self) -> int:
        """Line status: the transmitter is always empty."""
        return _IDLE | (_READY if self.rx else 0)

    @reg(6)
    def msr(self) -> int:
        """Modem status: carrier, ready, clear to send; its own outputs in a loop (8.8)."""
        if not self.mcr & _LOOP:
            return 0xB0
        m = self.mcr
        return (m & 2) << 3 | (m & 1) << 5 | (m & 4) << 4 | (m & 8) << 4

    @reg(7)
    def scr_r(self) -> int:
        """Scratch."""
        return self.scr

    @reg(7)
    def scr_w(self, value: int) -> None:
        """Scratch."""
        self.scr = value & 0xFF
