"""A lock that many may share or one may have alone, and a walk through a request's buffers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Condition


class SharedLock:
    """Whoever wants it alone goes before those who come to share it later. Not reentrant."""

    def __init__(self) -> None:
        self._change = Condition()
        self._sharing = 0
        self._alone = 0  # who has it alone, or waits to

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold it together with others."""
        with self._change:
            self._change.wait_for(lambda: not self._alone)
            self._sharing += 1
        try:
            yield
        finally:
            with self._change:
                self._sharing -= 1
                if not self._sharing:
                    self._change.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold it when nobody else does."""
        with self._change:
            self._alone += 1
            try:
                self._change.wait_for(lambda: self._sharing == 0)
                self._sharing = -1
            except BaseException:
                self._alone -= 1
                raise
        try:
            yield
        finally:
            with self._change:
                self._sharing = 0
                self._alone -= 1
                self._change.notify_all()


class Cursor:
    """Takes pieces of a request's buffers, one after the other."""

    def __init__(self, buffers: Sequence[memoryview]) -> None:
        self._left = [buffer for buffer in reversed(buffers) if buffer.nbytes]

    def take(self, size: int) -> list[memoryview]:
        """The next `size` bytes, as views."""
        pieces = []
        while size:
            buffer = self._left.pop()
            if buffer.nbytes > size:
                self._left.append(buffer[size:])
                buffer = buffer[:size]
            pieces.append(buffer)
            size -= buffer.nbytes
        return pieces


def fill(pieces: Sequence[memoryview], data: bytes | None = None) -> None:
    """Copy `data`, or zeros, into all of `pieces`."""
    at = 0
    for piece in pieces:
        piece[:] = bytes(piece.nbytes) if data is None else data[at : at + piece.nbytes]
        at += piece.nbytes
