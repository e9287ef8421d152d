"""The guest process's end of the compile worker: start it when needed, ask, collect answers.

Nothing here blocks while a guest runs, except `bank`, without which it cannot run.
"""

from __future__ import annotations

import _signal  # `signal` itself costs milliseconds of enumerations
import fcntl
import marshal
import os
import select
import sys

from hartwood.errors import Error
from hartwood.mem import descriptors
from hartwood.mem.child import spawn_unseen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    #: A message of the worker's: its kind, then what belongs to it.
    Reply: TypeAlias = tuple[Any, ...]

_F_SETPIPE_SZ, _PIPE = 1031, 1 << 20
_SIGPIPE = 13

_GONE = "the compile worker ended without an answer"


class WorkerError(Error):
    """The compile worker died or could not be started."""


def _with_site(code: str) -> str:
    """`code` with our own module path: cheaper than what `site` does at start-up."""
    return f"import sys; sys.path[:] = {sys.path!r}; {code}"


class Client:
    """One worker process at most, started by the first request.

    `path` is the cache folder of this configuration that the worker writes to, or ""; `outside`
    are the files with instructions of the user's that it has to load, by module name.
    """

    def __init__(self, path: str = "", outside: dict[str, str] | None = None) -> None:
        self._path = path
        self._outside = outside or {}
        self._pid = 0
        self._requests = self._replies = -1
        self._buffer = bytearray()
        self._kept: list[Reply] = []
        #: Numbers of requests without an answer yet.
        self._open: set[int] = set()
        self.compile_seconds = 0.0

    def start(self) -> None:
        """Start the worker unless it runs already. Raises `WorkerError`."""
        if self._pid:
            return
        with descriptors.Room():
            theirs_in, ours_out = os.pipe()
            ours_in, theirs_out = os.pipe()
        source = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
        code = (
            f"import sys; sys.path.insert(0, {source!r}); "
            f"from hartwood.jit.worker import main; main(3, 4, {self._path!r}, {self._outside!r})"
        )
        # In the child 3 and 4 are the pipes. A Ctrl-C that is meant for the guest does not reach
        # it (a session of its own), and the guest's wait does not find it.
        try:
            self._pid = spawn_unseen(
                [sys.executable, "-S", "-c", _with_site(code)],
                os.environ,
                {3: theirs_in, 4: theirs_out},
            )
        except OSError as reason:
            os.close(ours_out)
            os.close(ours_in)
            raise WorkerError(f"cannot start the compile worker: {reason}") from None
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        fcntl.fcntl(ours_out, _F_SETPIPE_SZ, _PIPE)  # a request never waits for the worker
        self._requests = descriptors.hide(ours_out)
        self._replies = descriptors.hide(ours_in)
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Host descriptors in use here, which the guest must not see."""
        return (self._requests, self._replies) if self._pid else ()

    def _send(self, request: Reply) -> None:
        data = marshal.dumps(request)
        message = len(data).to_bytes(8, "little") + data
        for again in (True, False):
            self.start()
            try:
                self._write(message)
                return
            except OSError as reason:
                # Killed, perhaps, since we last heard of it: another one then.
                self._lose()
                if not again:
                    raise WorkerError(f"the compile worker is gone: {reason}") from None

    def _write(self, message: bytes) -> None:
        """Write to the worker; a dead one is `BrokenPipeError`, never the signal that goes with
        it, because what SIGPIPE does is the guest's choice."""
        before = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_SIGPIPE,))
        try:
            view = memoryview(message)
            while view:
                view = view[os.write(self._requests, view) :]
        except BrokenPipeError:
            _signal.sigtimedwait((_SIGPIPE,), 0)  # sent to this thread, so it is there already
            raise
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)

    def bank(self, name: str) -> bytes:
        """The image file of an interpreter bank; waits for it. Raises `WorkerError`."""
        # Without it the guest cannot go on: where the worker was killed, another has to do.
        for _ in range(2):
            self._send(("bank", name))
            while (reply := self._receive(None)) is not None:
                if reply[0] == "bank" and reply[1] == name:
                    return reply[2]  # type: ignore[no-any-return]
                self._kept.append(reply)
        raise WorkerError(_GONE)

    def ask_bank(self, name: str) -> None:
        """Ask for a bank; `poll` gives it when it is there: ("bank", name, image)."""
        self._send(("bank", name))

    def request(
        self,
        number: int,
        entries: list[int],
        parts: list[tuple[int, bytes, bytes]],
        level: int,
        key: str,
        known: list[int],
    ) -> None:
        """Ask for translations of the regions at `entries`; `parts` is the guest code there,
        `key` the name to store them under, `known` what is translated already near there."""
        self._send(("region", number, entries, parts, level, key, known))
        self._open.add(number)

    def request_page(self, number: int, page: bytes, entries: list[int], key: str) -> None:
        """The same for offsets into a page of a whole machine's memory."""
        self._send(("page", number, page, entries, key))
        self._open.add(number)

    def poll(self) -> Reply | None:
        """An answer to a request, if one is there: ("region", number, image, seconds)."""
        if not self._kept and self._pid and (reply := self._receive(0)) is not None:
            return self._counted(reply)
        return self._counted(self._kept.pop(0)) if self._kept else None

    def wait(self) -> Reply:
        """The next answer, whenever it comes. Raises `WorkerError`."""
        if self._kept:
            return self._counted(self._kept.pop(0))
        reply = self._receive(None) if self._pid else None
        if reply is None:
            raise WorkerError(_GONE)
        return self._counted(reply)

    def _counted(self, reply: Reply) -> Reply:
        if reply[0] == "region":
            self.compile_seconds += reply[3]
            self._open.discard(reply[1])
        return reply

    def _lose(self) -> None:
        """The worker is gone. Whatever it was asked for has an empty answer, so that nobody waits
        for it, and nobody asks again for what it may have died of; another request starts another
        worker."""
        lost = sorted(self._open)
        kept = self._kept
        self.close()
        self._kept = kept + [("region", number, b"", 0.0) for number in lost]

    def _receive(self, timeout: float | None) -> Reply | None:
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
                self._lose()
                return None
            self._buffer += chunk

    def drop(self) -> None:
        """After a fork, in the child: the worker is the parent's."""
        if self._pid:
            descriptors.close(self._requests)
            descriptors.close(self._replies)
        self._forget()

    def close(self) -> None:
        """Let the worker go: it ends by itself when it has stored what it is at."""
        if self._pid:
            descriptors.close(self._requests)
            descriptors.close(self._replies)
        self._forget()

    def _forget(self) -> None:
        # Half a reply may have come: it is not the beginning of another worker's.
        self._pid, self._buffer, self._kept = 0, bytearray(), []
        self._open.clear()
