"""The guest process's end of the compile worker: start it when needed, ask, collect answers.

Nothing here blocks while a guest runs, except `bank`, without which it cannot run.
"""

from __future__ import annotations

import marshal
import os
import select
import sys

from hartwood.errors import Error

#: Our descriptors live above what a guest may use.
_HIGH_FD = 1 << 19


class WorkerError(Error):
    """The compile worker died or could not be started."""


def _raise_fd(fd: int) -> int:
    """The same file at a high descriptor number, so that the guest's own stay as on Linux."""
    import fcntl
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for floor in (_HIGH_FD, hard // 2, 64):
        try:
            high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor)
        except (OSError, ValueError, OverflowError):
            continue
        os.close(fd)
        return high
    return fd


class Client:
    """One worker process at most, started by the first request."""

    def __init__(self) -> None:
        self._pid = 0
        self._requests = self._replies = -1
        self._buffer = bytearray()
        #: Region requests that were sent and not answered.
        self.outstanding = 0
        self.compile_seconds = 0.0

    def start(self) -> None:
        """Start the worker unless it runs already. Raises `WorkerError`."""
        if self._pid:
            return
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        source = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
        code = (
            f"import sys; sys.path.insert(0, {source!r}); "
            f"from hartwood.jit.worker import main; main(3, 4)"
        )
        # In the child: 3 and 4 are the pipes, nothing of the guest's is open, and a Ctrl-C that
        # is meant for the guest does not reach it (own session).
        actions = [
            (os.POSIX_SPAWN_DUP2, theirs_in, 10),
            (os.POSIX_SPAWN_DUP2, theirs_out, 11),
            (os.POSIX_SPAWN_DUP2, 10, 3),
            (os.POSIX_SPAWN_DUP2, 11, 4),
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_RDWR, 0),
        ]
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-c", code],
                {k: v for k, v in os.environ.items() if k != "PYTHONSTARTUP"},
                file_actions=actions,
                setsigmask=[],
                setsid=True,
            )
        except OSError as reason:
            raise WorkerError(f"cannot start the compile worker: {reason}") from None
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self._requests, self._replies = _raise_fd(ours_out), _raise_fd(ours_in)
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Host descriptors in use here, which the guest must not see."""
        return (self._requests, self._replies) if self._pid else ()

    def _send(self, request: tuple[object, ...]) -> None:
        self.start()
        data = marshal.dumps(request)
        try:
            view = memoryview(len(data).to_bytes(8, "little") + data)
            while view:
                view = view[os.write(self._requests, view) :]
        except OSError as reason:
            raise WorkerError(f"the compile worker is gone: {reason}") from None

    def bank(self, name: str) -> bytes:
        """The image file of an interpreter bank; waits for it. Raises `WorkerError`."""
        self._send(("bank", name))
        kept: list[tuple[object, ...]] = []
        while True:
            reply = self._receive(None)
            if reply is None:
                raise WorkerError("the compile worker ended without an answer")
            if reply[0] == "bank":
                self._kept = kept
                return reply[2]  # type: ignore[return-value]
            kept.append(reply)

    _kept: list[tuple[object, ...]] = []

    def request(
        self, number: int, entries: list[int], parts: list[tuple[int, bytes]], level: int
    ) -> None:
        """Ask for translations of the regions at `entries`; `parts` is the guest code there."""
        self._send(("region", number, entries, parts, level))
        self.outstanding += 1

    def poll(self) -> tuple[int, bytes, list[tuple[int, list[tuple[int, int]], int]]] | None:
        """An answer to a region request, if one is there."""
        if not self._pid:
            return None
        reply = self._kept.pop(0) if self._kept else self._receive(0)
        if reply is None:
            return None
        _, number, image, made, seconds = reply
        self.outstanding -= 1
        self.compile_seconds += seconds  # type: ignore[operator]
        return number, image, made  # type: ignore[return-value]

    def _receive(self, timeout: float | None) -> tuple[object, ...] | None:
        """The next reply, or None when the time is over or the worker is gone."""
        while True:
            size = int.from_bytes(self._buffer[:8], "little") if len(self._buffer) >= 8 else None
            if size is not None and len(self._buffer) >= 8 + size:
                data = bytes(self._buffer[8 : 8 + size])
                del self._buffer[: 8 + size]
                return marshal.loads(data)  # type: ignore[no-any-return]
            if timeout is not None and not self._poll.poll(timeout * 1000):
                return None
            chunk = os.read(self._replies, 1 << 20)
            if not chunk:
                return None
            self._buffer += chunk

    def drop(self) -> None:
        """After a fork, in the child: the worker is the parent's."""
        if self._pid:
            os.close(self._requests)
            os.close(self._replies)
        self.__init__()  # type: ignore[misc]

    def close(self) -> None:
        """End the worker and wait for it."""
        if self._pid:
            os.close(self._requests)
            os.close(self._replies)
            import signal

            try:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
            except OSError:
                pass
            self._pid = 0
