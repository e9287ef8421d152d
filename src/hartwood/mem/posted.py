"""Registers of a device that generated code reads, and writes to, without a call.

What a load gives while it changes nothing is *shown*. Stores of a byte that do nothing but follow
those before them are *posted*: they wait until the device takes them, at the latest when a hart
comes out of native code. A posted store also *raises* a flag, and a load may give one value where
it is raised, and lower it, and another where it is not. What is neither shown nor accepted is a
call.
"""

from __future__ import annotations

from hartwood.mem.hostmem import Buffer

#: Registers of a window, and bytes that may wait.
REGISTERS, ROOM = 8, 4096
#: Words: the address, the binary logarithm of a register's bytes; the register that takes stores;
#: bytes put in and taken out, ever; a lock, held by a hart that posts or lowers the flag;
#: the flag, the register that lowers it, what that gives where it is lowered and raised; then what
#: loads give. ASK, in place of a register or of a value, is the call.
AT, SHIFT, STORES, PUT, TAKEN, LOCK, RAISED, LOWERS, LOW, HIGH, SHOWN = range(11)
ASK = (1 << 64) - 1
#: Where the bytes are that wait.
RING = (SHOWN + REGISTERS) * 8


class Posted:
    """Registers of `width` bytes at guest-physical `at`. Its methods are called by one thread at a
    time; harts may run meanwhile."""

    def __init__(self, at: int, width: int = 1) -> None:
        self._memory = Buffer(RING + ROOM)
        #: Where generated code finds it.
        self.host = self._memory.address
        self._words = self._memory.view[:RING].cast("Q")
        self._ring = self._memory.view[RING:]
        self._words[AT], self._words[SHIFT] = at, width.bit_length() - 1
        self.close()
        for register in range(REGISTERS):
            self.show(register, None)

    def close(self) -> None:
        """From now on no store waits and the flag stays as it is."""
        self._words[STORES] = self._words[LOWERS] = ASK
        while self._words[LOCK]:  # a hart that has looked before
            pass

    def show(self, register: int, value: int | None) -> None:
        """From now on a load of this register gives `value`; None: it is a call."""
        self._words[SHOWN + register] = ASK if value is None else value

    def lower(self, register: int, low: int, high: int) -> None:
        """From now on a load of this register lowers the flag, and gives `high` where that was
        raised, `low` where not."""
        self._words[LOW], self._words[HIGH] = low, high
        self._words[LOWERS] = register

    def accept(self, register: int) -> None:
        """From now on stores of a byte to this register wait."""
        self._words[STORES] = register

    @property
    def raised(self) -> bool:
        """The flag."""
        return bool(self._words[RAISED])

    @raised.setter
    def raised(self, value: bool) -> None:
        self._words[RAISED] = value

    @property
    def waiting(self) -> bool:
        """Whether there is something to take."""
        return self._words[PUT] != self._words[TAKEN]

    def take(self) -> bytes:
        """What waits, in order."""
        put, taken = self._words[PUT], self._words[TAKEN]
        first, size = taken % ROOM, put - taken
        data = bytes(self._ring[first : first + size])
        data += bytes(self._ring[: size - len(data)])
        self._words[TAKEN] = put
        return data
