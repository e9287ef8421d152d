"""Registers of a device that generated code reads, and writes to, without a call.

What a load of a byte gives while reading changes nothing is *shown*; stores of a byte that will
do nothing but follow those before it are *posted*: they wait until the device takes them, at the
latest when a hart comes out of native code. What is neither shown nor accepted is a call.
"""

from __future__ import annotations

from collections.abc import Callable

from hartwood.mem.hostmem import Buffer

#: Registers of a window, each a byte, at its beginning, and bytes that may wait.
REGISTERS, ROOM = 8, 4096
#: Words: the address; the register that takes stores; bytes put in and taken out, ever; then what
#: loads give. ASK, in place of a register or of a value, is the call.
AT, STORES, PUT, TAKEN, SHOWN = range(5)
ASK = (1 << 64) - 1
#: Where the bytes are that wait.
RING = (SHOWN + REGISTERS) * 8


class Posted:
    """The first registers of a device at guest-physical `at`. Its methods are called by one thread
    at a time; harts may run meanwhile."""

    def __init__(self, at: int, flush: Callable[[], None]) -> None:
        self._memory = Buffer(RING + ROOM)
        #: Where generated code finds it.
        self.host = self._memory.address
        #: Makes the device take what waits, and pass it on.
        self.flush = flush
        self._words = self._memory.view[:RING].cast("Q")
        self._ring = self._memory.view[RING:]
        self._words[AT], self._words[STORES] = at, ASK
        for register in range(REGISTERS):
            self.show(register, None)

    def show(self, register: int, value: int | None) -> None:
        """From now on a load of this register gives `value`; None: it is a call."""
        self._words[SHOWN + register] = ASK if value is None else value

    def accept(self, register: int | None) -> None:
        """From now on stores to this register wait, and to no other. What a hart was about to
        store when it ceased to be so may still come; it came before, then."""
        self._words[STORES] = ASK if register is None else register

    @property
    def waiting(self) -> bool:
        """Whether there is something to take."""
        return self._words[PUT] != self._words[TAKEN]

    def take(self) -> bytes:
        """What waits, in order."""
        put, taken = self._words[PUT], self._words[TAKEN]
        if put == taken:
            return b""
        first, last = taken % ROOM, put % ROOM
        data = bytes(
            self._ring[first:last] if first < last else self._ring[first:]
        ) + (b"" if first < last else bytes(self._ring[:last]))
        self._words[TAKEN] = put
        return data
