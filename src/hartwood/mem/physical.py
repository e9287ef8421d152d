"""Guest-physical memory for Python: numbers, bytes, structures, views.

All of it is memory, never a device; numbers are little-endian. A call reaches over as many regions
as lie side by side. Where there is no memory it raises `MemoryFault` with the address of the first
byte that is missing, and `done` bytes before it were read or written. Code that was decoded from
what is written is forgotten. What is read-only is so for the guest alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from hartwood.errors import AccessError
from hartwood.mem import hostmem
from hartwood.mem.hostmem import PAGE_BITS
from hartwood.mem.ram import Ram

TYPE_CHECKING = False
if TYPE_CHECKING:
    import numpy

#: Bytes that are looked through at once.
_CHUNK = 1 << 20


def _struct(form: str) -> struct.Struct:
    """A format, little-endian and without padding unless it says otherwise."""
    try:
        return struct.Struct(form if form[:1] in tuple("@=<>!") else "<" + form)
    except (struct.error, TypeError) as reason:
        raise AccessError(f"{form!r} is no format of a structure: {reason}") from None


class Physical:
    """Access to the memory of `ram`."""

    def __init__(self, ram: Ram) -> None:
        self.ram = ram
        self.read_u8, self.write_u8 = self._number(1)
        self.read_u16, self.write_u16 = self._number(2)
        self.read_u32, self.write_u32 = self._number(4)
        self.read_u64, self.write_u64 = self._number(8)

    def _number(self, size: int) -> tuple[Callable[[int], int], Callable[[int, int], None]]:
        """`read(at)` and `write(at, value)` for unsigned numbers of so many bytes. They are
        functions that know all they need: a method would take twice the time."""
        ram, last = self.ram, self.ram.numbers[size]
        shift, odd, most = size.bit_length() - 1, size - 1, (1 << 8 * size) - 1

        def read(at: int) -> int:
            """An unsigned number. Raises `MemoryFault`."""
            start, views, _ = last[0]
            if at >= start:
                try:
                    return views[at & odd][at >> shift]
                except IndexError:
                    pass
            _, views, _ = ram.numbers_at(at, size)
            try:
                return views[at & odd][at >> shift]
            except IndexError:  # over the end, or not worth it yet
                return int.from_bytes(self.read(at, size), "little")

        def write(at: int, value: int) -> None:
            """Write an unsigned number. Raises `MemoryFault`, `AccessError` for another value."""
            start, views, flags = last[0]
            if at >= start and not at & odd:  # on one page
                try:
                    views[0][at >> shift] = value
                except (IndexError, ValueError):
                    pass
                else:
                    if flags[at >> PAGE_BITS]:
                        ram.discard(at, size)
                    return
            if not 0 <= value <= most:
                raise AccessError(f"{value:#x} is no unsigned number of {size} bytes")
            self.write(at, value.to_bytes(size, "little"))
            if not at & odd:
                ram.numbers_at(at, size)

        return read, write

    def read(self, at: int, size: int) -> bytes:
        """A copy of `size` bytes."""
        memory, near = self.ram.memory, self.ram.near
        if near[0] <= at and 0 <= size <= near[1] - at:
            return bytes(memory[at + near[2] : at + near[2] + size])
        pieces = list(self.ram.pieces(at, size, "read"))
        if len(pieces) == 1:  # likely to be asked for again
            self.ram.find(at, size)
        return b"".join([memory[start : start + length] for start, length, _ in pieces])

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes; those before a fault are written."""
        source = data if isinstance(data, bytes) else memoryview(data).cast("B")
        near = self.ram.near
        if near[0] <= at <= near[1] - len(source):
            self.ram.put(at + near[2], source)
            return
        for start, length, done in self.ram.pieces(at, len(source), "write"):
            self.ram.put(start, source[done : done + length])
        if source and self.ram.table.find(at) is self.ram.table.find(at + len(source) - 1):
            self.ram.find(at, len(source))

    def fill(self, at: int, size: int, byte: int) -> None:
        """Set `size` bytes to one value; those before a fault are set."""
        if not 0 <= byte < 256:
            raise AccessError(f"{byte} is no value of a byte")
        for start, length, _ in self.ram.pieces(at, size, "write"):
            hostmem.fill(self.ram.host + start, length, byte)
            self.ram.discard_at(start, length)

    def copy(self, to: int, source: int, size: int) -> None:
        """Write what is at `source` to `to`, as memmove(3) does; nothing where not all of it can
        be read."""
        self.write(to, self.read(source, size))

    def compare(self, at: int, other: int, size: int) -> int:
        """-1, 0 or 1: how bytes at `at` are to those at `other`, as in memcmp(3)."""
        left, right = self.read(at, size), self.read(other, size)
        return (left > right) - (left < right)

    def find(self, at: int, size: int, needle: bytes) -> int | None:
        """The address where `needle` is first within `size` bytes, None where it is not."""
        if not needle:
            raise AccessError("nothing to look for; give at least one byte")
        list(self.ram.pieces(at, size, "read"))  # all of it has to be memory
        more = len(needle) - 1
        for begin in range(0, size - more, _CHUNK):
            place = self.read(at + begin, min(_CHUNK + more, size - begin)).find(needle)
            if place >= 0:
                return at + begin + place
        return None

    def unpack(self, at: int, form: str) -> tuple[object, ...]:
        """A structure as `struct` has it; little-endian without padding unless `form` says
        otherwise. Raises `AccessError` for what is no format."""
        layout = _struct(form)
        return layout.unpack(self.read(at, layout.size))

    def pack(self, at: int, form: str, *values: object) -> None:
        """Write a structure. Raises `AccessError` for values that the format does not take."""
        layout = _struct(form)
        if layout.size > self.ram.capacity:
            raise AccessError(f"{form!r} is larger than all memory")
        try:
            data = layout.pack(*values)
        except struct.error as reason:
            raise AccessError(f"{form!r} does not take these values: {reason}") from None
        self.write(at, data)

    def view(self, at: int, size: int, writable: bool = False) -> memoryview:
        """Memory of one region itself. What was decoded from a `writable` one is forgotten now;
        whoever writes later, to code that has run meanwhile, calls `ram.discard`."""
        if writable:
            return self.ram.view(at, size)
        start = self.ram.find(at, size)
        return self.ram.frozen[start : start + size]

    def numpy(
        self, at: int, count: int, dtype: str = "u1", writable: bool = False
    ) -> numpy.ndarray[tuple[int], numpy.dtype[numpy.generic]]:
        """Memory of one region as an array of `count` items, without a copy; see `view`. Raises
        `AccessError` for a type that is none or holds objects, and without numpy."""
        try:
            import numpy
        except ImportError:
            raise AccessError("this needs numpy; install it: pip install numpy") from None
        try:
            kind = numpy.dtype(dtype)
        except (TypeError, ValueError) as reason:
            raise AccessError(f"{dtype!r} is no type of numpy: {reason}") from None
        if kind.hasobject or not kind.itemsize or count < 0:
            raise AccessError(f"memory cannot be {count} items of {dtype!r}")
        if not count:
            return numpy.empty(0, kind)
        return numpy.frombuffer(self.view(at, count * kind.itemsize, writable), kind)
