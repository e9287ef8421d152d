"""The TCP that a guest talks to (RFC 9293): one connection, bridged onto a host's socket.

The wire to the guest is ours alone: what does not fit waits (`room`), so there is no congestion to
control; what is lost all the same is sent again (RFC 6298, RFC 6582). Sequence numbers are counted
without end and cut to 32 bits on the wire.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from enum import Enum, auto
from math import inf
from selectors import EVENT_READ, EVENT_WRITE
from struct import pack

from hartwood.net.wire import ACK, FIN, PSH, RST, SYN, Segment

#: Bytes that wait at most in each direction, and the scale of the window that says so.
BUFFER, _SHIFT = 1 << 18, 3
#: Segments that wait at most because one before them is missing.
_EARLY = 128
_LEAST_MSS, _DEFAULT_MSS = 64, 536  # RFC 9293, 3.7.1
_FIRST_RTO, _LEAST_RTO, _MOST_RTO = 1.0, 0.2, 30.0
_TRIES, _SHUT_TRIES = 12, 4
_OPENING_TRIES = 60  # a guest that still boots is asked once a second
_CONNECTING, _IDLE, _PROBE, _PROBES, _LINGER = 30.0, 300.0, 75.0, 8, 2.0
_READ = 1 << 16


class Phase(Enum):
    """How far a connection is."""

    CONNECTING = auto()  # the guest has asked, the host's socket is not connected yet
    SYN_RECEIVED = auto()
    SYN_SENT = auto()  # the host has asked
    OPEN = auto()  # until both have sent and acknowledged everything
    LINGER = auto()  # answers what is repeated (TIME-WAIT)
    CLOSED = auto()


def near(reference: int, number: int) -> int:
    """The endless sequence number next to `reference` whose low 32 bits are `number`."""
    return reference + ((number - reference + 0x8000_0000) & 0xFFFF_FFFF) - 0x8000_0000


class Connection:
    """One connection, between `port` of the remote side that we play and `guest_port`.

    With `syn` the guest has asked for it and `sock` is being connected; without, the host has, and
    the guest is asked. `emit` takes what is sent to the guest; `room` says whether it would wait.
    All calls come from one thread, each with the time in seconds; `settle` has to follow them. The
    socket is the caller's to close, once the phase is LINGER or CLOSED.
    """

    def __init__(
        self,
        sock: socket.socket,
        port: int,
        guest_port: int,
        emit: Callable[[Segment], None],
        room: Callable[[], bool],
        mss: int,
        now: float,
        syn: Segment | None = None,
    ) -> None:
        self.sock = sock
        self._ports = (port, guest_port)
        self._emit, self._room = emit, room
        self._our_mss = self._mss = mss
        #: Towards the guest: the first byte that is not acknowledged, where `_out` begins; the next
        #: to send; the end of what was ever sent; where the host's end of file is.
        self._una = self._next = self._top = int.from_bytes(os.urandom(4), "big") + 1
        self._out = bytearray()
        self._fin: int | None = None
        self._window, self._scale = 0, 0
        self._updated = (-inf, -inf)
        self._duplicates, self._recover = 0, self._una
        #: From the guest: the next byte expected, what the host has not taken, what came early.
        self._expected, self._shift, self._most = 0, 0, 0xFFFF
        self._in = bytearray()
        self._early: dict[int, bytes] = {}
        self._latest, self._sack = 0, False
        self._guest_fin: int | None = None
        self._guest_done = self._shut = False
        self._edge, self._owes = 0, False
        #: Timers (RFC 6298): round trip, its variation, the byte that is timed and since when.
        self._trip, self._variation, self._rto = 0.0, 0.0, _FIRST_RTO
        self._timed: tuple[int, float] | None = None
        self._tries, self._probes = 0, 0
        self._resend_at, self._idle_at = inf, now + _CONNECTING
        if syn is not None:
            self.phase = Phase.CONNECTING
            self._learn(syn)
        else:
            self.phase = Phase.SYN_SENT
            self._idle_at = inf
            self._open(now)

    # What the selector asks.
    @property
    def interest(self) -> int:
        """The events that the host's socket is to be watched for."""
        if self.phase is Phase.CONNECTING:
            return EVENT_WRITE
        if self.phase is not Phase.OPEN:
            return 0
        reads = self._fin is None and len(self._out) < BUFFER
        return (EVENT_READ if reads else 0) | (EVENT_WRITE if self._in else 0)

    @property
    def deadline(self) -> float:
        """When `tick` is due."""
        return min(self._resend_at, self._idle_at)

    # What the host does.
    def writable(self, now: float) -> None:
        """The host's socket is connected, or could not be, or takes more."""
        if self.phase is not Phase.CONNECTING:
            return
        if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.reset()
            return
        self.phase, self._idle_at = Phase.SYN_RECEIVED, inf
        self._open(now)

    def readable(self) -> None:
        """The host's socket has data or an end."""
        if self.phase is not Phase.OPEN or self._fin is not None:
            return
        try:
            data = self.sock.recv(min(_READ, BUFFER - len(self._out)) or 1)
        except BlockingIOError:
            return
        except OSError:
            self.reset()
            return
        self._out += data
        if not data:
            self._fin = self._una + len(self._out)

    def settle(self, now: float) -> None:
        """Pass on what can be, to both sides, and acknowledge what is owed."""
        self._flush()
        if self.phase is Phase.OPEN:
            self._push(now)
            freed = self._expected + self._free() - self._edge
            if self._owes or freed >= self._most // 2:
                self._send(0, self._next)
            done = self._fin is not None and self._una > self._fin
            if done and self._guest_done and not self._in:
                self.phase = Phase.LINGER
                self._resend_at, self._idle_at = inf, now + _LINGER
        elif self._owes and self.phase is Phase.LINGER:
            self._send(0, self._next)

    def reset(self) -> None:
        """Tell the guest that the connection is broken, and end it."""
        if self.phase is not Phase.CLOSED:
            self._send(RST, self._next)
            self.abort()

    def abort(self) -> None:
        """End the connection; the host's peer hears that it is broken unless it was over."""
        if self.phase in (Phase.OPEN, Phase.SYN_SENT, Phase.SYN_RECEIVED):
            linger = pack("ii", 1, 0)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.phase, self._resend_at, self._idle_at = Phase.CLOSED, inf, inf
        self._owes = False

    def tick(self, now: float) -> None:
        """A deadline may have passed."""
        if now >= self._resend_at:
            self._late(now)
        elif now >= self._idle_at:
            self._idle(now)

    # What the guest does (RFC 9293, 3.10.7).
    def receive(self, got: Segment, now: float) -> None:
        """A segment has arrived."""
        if self.phase is Phase.CONNECTING:
            if got.flags & RST and near(self._expected, got.seq) == self._expected:
                self.abort()
        elif self.phase is Phase.SYN_SENT:
            self._answered(got, now)
        elif self.phase is Phase.LINGER:
            self._owes = bool(got.data or got.flags & FIN) and not got.flags & RST
        elif self.phase is not Phase.CLOSED:
            self._synchronised(got, now)

    def _answered(self, got: Segment, now: float) -> None:
        """The reply to our SYN."""
        right = got.flags & ACK and near(self._una, got.ack) == self._una
        if got.flags & RST:
            if right:
                self.abort()
        elif not right:
            if got.flags & ACK:
                self._send(RST, got.ack)
        elif got.flags & SYN:
            self._learn(got)
            self._opened(now)
            self._window, self._owes = got.window, True

    def _synchronised(self, got: Segment, now: float) -> None:
        seq, free = near(self._expected, got.seq), self._free()
        length = len(got.data) + bool(got.flags & FIN)
        last = seq + max(length - 1, 0)
        acceptable = last >= self._expected and seq <= self._expected + free
        if not acceptable:
            self._owes = self._owes or not got.flags & RST
        elif got.flags & RST:
            if seq == self._expected:
                self.abort()
            else:
                self._owes = True  # RFC 5961, 3.2
        elif got.flags & SYN:
            self._owes = True  # RFC 5961, 4.2
        elif got.flags & ACK and self._acknowledge(got, seq, now):
            self._probes, self._idle_at = 0, now + _IDLE
            self._take(got, seq, free)

    def _acknowledge(self, got: Segment, seq: int, now: float) -> bool:
        """Look at the acknowledgement; whether the rest of the segment may be looked at too."""
        ack = near(self._una, got.ack)
        if self.phase is Phase.SYN_RECEIVED:
            if ack != self._una:
                self._send(RST, got.ack)
                return False
            self._opened(now)
        if ack > self._top:
            self._owes = True
            return False
        window = got.window << self._scale
        if ack > self._una:
            self._advance(ack, now)
        elif ack == self._una < self._top and window == self._window and not got.data:
            self._duplicates += 1
            if self._duplicates == 3 and self._recover <= ack:
                self._recover = self._top
                self._again()
        if ack >= self._una and (seq, ack) >= self._updated:
            self._updated, self._window = (seq, ack), window
            if not window:
                self._tries = min(self._tries, _SHUT_TRIES)  # may keep us waiting for ever
        return True

    def _advance(self, ack: int, now: float) -> None:
        del self._out[: ack - self._una]
        self._una, self._next = ack, max(self._next, ack)
        self._tries, self._duplicates, self._resend_at = 0, 0, inf
        if self._timed is not None and ack >= self._timed[0]:
            self._measured(now - self._timed[1])
            self._timed = None
        if ack < self._recover:  # a partial acknowledgement (RFC 6582, 3.2)
            self._again()

    def _take(self, got: Segment, seq: int, free: int) -> None:
        """Data and FIN, in any order, as far as they lie within the window."""
        end = seq + len(got.data)
        if got.flags & FIN and self._guest_fin is None:
            self._guest_fin = end
        self._owes = self._owes or bool(got.data) or bool(got.flags & FIN)
        limit = self._expected + free
        if self._guest_fin is not None:
            limit = min(limit, self._guest_fin)
        data = got.data[max(self._expected - seq, 0) : max(limit - seq, 0)]
        seq = max(seq, self._expected)
        if seq > self._expected and data:
            if len(self._early) < _EARLY and len(data) > len(self._early.get(seq, b"")):
                self._early[seq] = data
                self._latest = seq
            # At once and each time, with the same window: the guest counts them (RFC 5681, 2).
            self._flush()
            self._send(0, self._next)
        elif data:
            self._in += data
            self._expected += len(data)
        while self._early and (first := min(self._early)) <= self._expected:
            data = self._early.pop(first)[self._expected - first :]
            self._in += data
            self._expected += len(data)
        if self._expected == self._guest_fin and not self._guest_done:
            self._expected += 1
            self._guest_done = True

    def _flush(self) -> None:
        """Give the host what the guest has sent."""
        if self.phase is not Phase.OPEN:
            return
        try:
            while self._in:
                del self._in[: self.sock.send(self._in)]
            if self._guest_done and not self._shut:
                self._shut = True
                self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self.reset()

    def _free(self) -> int:
        return self._most - len(self._in)

    # What the guest is sent.
    def _learn(self, syn: Segment) -> None:
        self._expected = syn.seq + 1
        self._mss = max(min(syn.mss or _DEFAULT_MSS, self._our_mss), _LEAST_MSS)
        self._sack = syn.sack
        if syn.scale >= 0:
            self._scale, self._shift, self._most = syn.scale, _SHIFT, BUFFER

    def _open(self, now: float) -> None:
        """Send the first segment, or send it again."""
        asks = self.phase is Phase.SYN_SENT
        scale = _SHIFT if asks or self._shift else -1
        flags, ack = (SYN, 0) if asks else (SYN | ACK, self._expected)
        self._emit(
            Segment(
                *self._ports, self._una - 1, ack, flags, min(self._free(), 0xFFFF), b"",
                self._our_mss, scale, asks or self._sack,
            )
        )  # fmt: skip
        self._resend_at = now + _FIRST_RTO

    def _opened(self, now: float) -> None:
        self.phase, self._tries = Phase.OPEN, 0
        self._resend_at, self._idle_at = inf, now + _IDLE
        self._edge = self._expected + self._free()

    def _send(self, flags: int, seq: int, data: bytes = b"") -> None:
        window = min(self._free() >> self._shift, 0xFFFF)
        blocks = self._blocks() if self._early and self._sack and not data else ()
        self._emit(
            Segment(*self._ports, seq, self._expected, flags | ACK, window, data, blocks=blocks)
        )
        self._edge, self._owes = self._expected + (window << self._shift), False

    def _blocks(self) -> tuple[tuple[int, int], ...]:
        """What came early, joined; first what came last (RFC 2018, 4)."""
        joined: list[tuple[int, int]] = []
        for seq in sorted(self._early):
            start, end = seq, seq + len(self._early[seq])
            if joined and seq <= joined[-1][1]:
                start, last = joined.pop()
                end = max(end, last)
            joined.append((start, end))
        joined.sort(key=lambda block: not block[0] <= self._latest < block[1])
        return tuple(joined[:4])

    def _push(self, now: float) -> None:
        """Send what the guest's window and the wire have room for."""
        end = self._una + len(self._out)
        while self._next <= end and self._room():
            left = end - self._next
            size = max(min(self._mss, left, self._una + self._window - self._next), 0)
            if size < min(self._mss, left) and self._next > self._una:
                break  # no silly windows (RFC 9293, 3.8.6.2.1)
            fin = self._next + size == self._fin
            if not size and not fin:
                break
            if self._timed is None and self._next == self._top:
                self._timed = (self._next + size + fin, now)
            self._data(self._next, size, fin)
        waits = self._top > self._una or (self._next < end and not self._window)
        if not waits:
            self._resend_at = inf
        elif self._resend_at == inf:
            self._resend_at = now + min(self._rto * (1 << self._tries), _MOST_RTO)

    def _data(self, seq: int, size: int, fin: bool) -> None:
        at = seq - self._una
        flags = (FIN if fin else 0) | (PSH if size and at + size == len(self._out) else 0)
        self._send(flags, seq, bytes(self._out[at : at + size]))
        self._next = max(self._next, seq + size + fin)
        self._top = max(self._top, self._next)

    def _again(self) -> None:
        """Repeat the first segment that is not acknowledged."""
        size = min(self._mss, len(self._out))
        self._timed = None
        self._data(self._una, size, self._una + size == self._fin)

    def _measured(self, trip: float) -> None:
        """A round trip took so long (RFC 6298, 2)."""
        if self._trip:
            self._variation += (abs(self._trip - trip) - self._variation) / 4
            self._trip += (trip - self._trip) / 8
        else:
            self._trip, self._variation = trip, trip / 2
        self._rto = min(max(self._trip + 4 * self._variation, _LEAST_RTO), _MOST_RTO)

    def _late(self, now: float) -> None:
        """No acknowledgement came in time, or the window has been shut for long."""
        self._resend_at = inf
        if self.phase is Phase.OPEN and not self._room():
            self._push(now)  # still on its way
            return
        self._tries += 1
        if self._tries > (_TRIES if self.phase is Phase.OPEN else _OPENING_TRIES):
            self.reset()
        elif self.phase is not Phase.OPEN:
            self._open(now)
        else:
            self._timed, self._duplicates, self._recover = None, 0, self._una
            self._next = self._una
            if self._window:
                self._push(now)
            else:
                self._data(self._una, min(len(self._out), 1), self._una == self._fin)
                self._next = self._una
                self._push(now)

    def _idle(self, now: float) -> None:
        """Nothing was heard for long."""
        self._probes += 1
        if self.phase is Phase.LINGER:
            self.abort()
        elif self.phase is Phase.CONNECTING or self._probes > _PROBES:
            self.reset()
        else:
            self._send(0, self._next - 1)  # a keep-alive (RFC 9293, 3.8.4)
            self._idle_at = now + _PROBE
