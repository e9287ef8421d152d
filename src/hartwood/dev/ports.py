"""What devices need from outside, as Protocols: a board hands in what fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from hartwood.dev.device import Line, Sink
from hartwood.errors import MemoryFault

__all__ = ["Disk", "DiskQueue", "Kind", "Line", "Net", "NoRam", "Posted", "Ram", "Request", "Sink"]

#: What can be asked of a disk.
Kind = Literal["read", "write", "flush", "discard", "zero"]


class Ram(Protocol):
    """Guest-physical memory. Every method raises `MemoryFault` for what is not all in memory."""

    def read(self, at: int, size: int) -> bytes:
        """A copy of `size` bytes."""
        ...

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        """Write, and forget code that was translated from there."""
        ...

    def view(self, at: int, size: int) -> memoryview:
        """The memory itself; who writes to it later calls `discard` after that."""
        ...

    def discard(self, at: int, size: int) -> None:
        """Forget code that was translated from these bytes."""
        ...


class Posted(Protocol):
    """Registers of a device that a hart accesses without calling it: loads that change nothing, and
    stores of bytes that only follow one another. Such a store raises a flag, which a load may
    lower."""

    raised: bool

    def close(self) -> None:
        """From now on no store waits and the flag stays as it is."""
        ...

    def show(self, register: int, value: int | None) -> None:
        """Loads of a register give `value` from now on; None: the device is asked."""
        ...

    def lower(self, register: int, low: int, high: int) -> None:
        """Loads of this register lower the flag from now on: `high` where it was raised."""
        ...

    def accept(self, register: int) -> None:
        """Stores to this register wait from now on."""
        ...

    @property
    def waiting(self) -> bool:
        """Whether there is something to take."""
        ...

    def take(self) -> bytes:
        """What was stored and waits, in order."""
        ...


class NoRam:
    """Memory of a device that nobody has wired: none."""

    def read(self, at: int, size: int) -> bytes:
        """See `Ram`."""
        raise MemoryFault(at, size, "read")

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        """See `Ram`."""
        raise MemoryFault(at, len(data), "write")

    def view(self, at: int, size: int) -> memoryview:
        """See `Ram`."""
        raise MemoryFault(at, size, "read")

    def discard(self, at: int, size: int) -> None:
        """See `Ram`."""
        raise MemoryFault(at, size, "write")


class Disk(Protocol):
    """What a block device says of the disk behind it; sizes in bytes."""

    @property
    def size(self) -> int:
        """Bytes, a multiple of `sector`."""
        ...

    @property
    def sector(self) -> int:
        """The smallest unit that can be read or written: 512 or 4096."""
        ...

    @property
    def readonly(self) -> bool:
        """Whether writes are refused."""
        ...

    @property
    def serial(self) -> str:
        """A name for the guest, of which 20 bytes are seen."""
        ...


@dataclass(slots=True)
class Request:
    """One operation on a disk: `at` and `size` are in bytes, `buffers` are the guest's memory
    itself. `done` is called once, from any thread, with 0 or an errno."""

    kind: Kind
    at: int
    buffers: list[memoryview]
    size: int
    done: Callable[[int], None]
    #: For "zero": the room may be given back.
    may_unmap: bool = False


class DiskQueue(Protocol):
    """Where requests go; returns before they are done, or after."""

    def submit(self, requests: Iterable[Request], /) -> None:
        """Begin all of them; neighbours may be merged, and the order is anyone's."""
        ...


class Net(Protocol):
    """The network behind a card."""

    @property
    def mac(self) -> bytes:
        """The card's address, six bytes."""
        ...

    @property
    def mtu(self) -> int:
        """The longest packet, without the Ethernet header."""
        ...

    def send(self, frame: bytes, /) -> None:
        """A frame from the guest, Ethernet header first and without checksum; does not wait."""
        ...

    def attach(self, receive: Callable[[bytes], bool], /) -> None:
        """What takes frames for the guest, on any thread; it returns False while there is no
        buffer for them, and `resume` follows."""
        ...

    def resume(self) -> None:
        """The guest has buffers again; does not wait."""
        ...

    def close(self) -> None:
        """Nothing more will be sent, and all that is under way ends."""
        ...
