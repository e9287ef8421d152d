"""Our side of TCP, with time and wire in the test's hands."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartwood.net.tcp import BUFFER, Connection, Phase, near
from hartwood.net.wire import ACK, FIN, PSH, RST, SYN, Segment

MSS = 1460


class End:
    """A connection with the application's side of its socket, and what it has sent."""

    def __init__(self, syn: Segment | None = None, mss: int = MSS) -> None:
        host, self.app = socket.socketpair()
        for sock in (host, self.app):
            sock.setblocking(False)
        self.now, self.sent = 100.0, list[Segment]()
        self.open = True
        self.first = 0
        self.tcp = Connection(host, 80, 1234, self.sent.append, lambda: self.open, mss, 100.0, syn)

    def close(self) -> None:
        self.app.close()
        self.tcp.sock.close()

    def step(self, seconds: float = 0) -> list[Segment]:
        """Time passes, and what the selector would do is done; what was sent meanwhile."""
        self.now += seconds
        if self.tcp.interest & 1:
            self.tcp.readable()
        if self.tcp.interest & 2:
            self.tcp.writable(self.now)
        if self.tcp.deadline <= self.now:
            self.tcp.tick(self.now)
        self.tcp.settle(self.now)
        if self.tcp.phase in (Phase.LINGER, Phase.CLOSED):
            self.tcp.sock.close()
        sent, self.sent[:] = self.sent[:], []
        return sent

    def give(self, seq: int, ack: int, flags: int = ACK, data: bytes = b"", window: int = 0xFFFF,
             mss: int = 0, scale: int = -1) -> list[Segment]:  # fmt: skip
        got = Segment(1234, 80, seq, ack, flags, window, data, mss, scale)
        self.tcp.receive(got, self.now)
        return self.step()

    def read(self) -> bytes:
        """What the application gets; `b"EOF"` for the end."""
        try:
            return self.app.recv(1 << 20) or b"EOF"
        except BlockingIOError:
            return b""


SYN_OF_LINUX = Segment(1234, 80, 5000, 0, SYN, 64_000, b"", MSS, 0, True)


@pytest.fixture
def end() -> Iterator[End]:
    """A connection that the guest has asked for and that is open; its numbers begin at 5001."""
    end = End(SYN_OF_LINUX)
    (answer,) = end.step()
    assert (answer.flags, answer.ack, answer.mss, answer.sack) == (SYN | ACK, 5001, MSS, True)
    end.first = answer.seq + 1
    assert end.give(5001, end.first) == []
    assert end.tcp.phase is Phase.OPEN
    yield end
    end.close()


def test_the_guest_asks_and_data_goes_both_ways(end: End) -> None:
    (answer,) = end.give(5001, end.first, ACK | PSH, b"question")
    assert (answer.seq, answer.ack, answer.flags) == (end.first, 5009, ACK)
    assert end.read() == b"question"
    end.app.send(b"answer")
    (sent,) = end.step()
    assert (sent.seq, sent.data, sent.flags) == (end.first, b"answer", ACK | PSH)
    assert end.give(5009, end.first + 6) == []
    assert end.tcp.deadline > end.now + 100  # nothing waits for an acknowledgement


def test_the_host_asks_and_is_refused_or_accepted() -> None:
    for accept in (True, False):
        end = End()
        (syn,) = end.step()
        assert (syn.flags, syn.mss, syn.scale, syn.sack) == (SYN, MSS, 3, True)
        (again,) = end.step(1.0)
        assert again == syn
        if accept:
            (ack,) = end.give(7000, syn.seq + 1, SYN | ACK, mss=500, scale=2)
            assert (ack.flags, ack.ack) == (ACK, 7001)
            end.app.send(bytes(800))
            assert [len(each.data) for each in end.step()] == [500, 300]
        else:
            (reset,) = end.give(7000, syn.seq + 2, ACK)
            assert (reset.flags & RST, reset.seq) == (RST, syn.seq + 2)
            assert end.give(0, syn.seq, RST | ACK) == []
            assert end.tcp.phase.name == "SYN_SENT"
            assert end.give(0, syn.seq + 1, RST | ACK) == []
            assert end.tcp.phase is Phase.CLOSED
        end.close()


def test_a_guest_that_never_answers_is_given_up() -> None:
    end, sent = End(), 0
    while end.tcp.phase is not Phase.CLOSED:
        sent += len(end.step(1.0))
        assert sent < 70
    assert sent == 62  # the first, sixty more, and a reset
    end.close()


def test_segments_out_of_order_twice_and_overlapping(end: End) -> None:
    data = bytes(range(100))
    (first,) = end.give(5021, end.first, data=data[20:40])
    assert (first.ack, first.blocks) == (5001, ((5021, 5041),))
    (second,) = end.give(5061, end.first, data=data[60:80])
    assert second.blocks == ((5061, 5081), (5021, 5041))
    (third,) = end.give(5031, end.first, data=data[30:50])
    assert third.blocks == ((5021, 5051), (5061, 5081))
    assert end.read() == b""
    (fourth,) = end.give(5001, end.first, data=data[:25])
    assert (fourth.ack, fourth.blocks) == (5051, ((5061, 5081),))
    (fifth,) = end.give(4990, end.first, data=bytes(11) + data[:10])  # of before
    assert fifth.ack == 5051
    (sixth,) = end.give(5045, end.first, data=data[44:100])
    assert (sixth.ack, sixth.blocks) == (5101, ())
    assert end.read() == data


def test_the_guests_end_waits_for_what_came_before_it(end: End) -> None:
    end.give(5003, end.first, ACK | FIN, b"cd")
    assert end.read() == b""
    (answer,) = end.give(5001, end.first, data=b"ab")
    assert answer.ack == 5006
    assert end.read() == b"abcd"
    assert end.read() == b"EOF"
    end.give(5006, end.first, data=b"more")  # after the end: nothing
    assert end.read() == b"EOF"
    end.app.send(b"late")
    end.app.shutdown(socket.SHUT_WR)
    sent = end.step()
    sent += end.step()
    assert b"".join(each.data for each in sent) == b"late"
    assert sent[-1].flags & FIN
    end.give(5006, end.first + 5)
    assert end.tcp.phase.name == "LINGER"
    (again,) = end.give(5005, end.first + 5, ACK | FIN)  # our last acknowledgement was lost
    assert again.ack == 5006
    end.step(2.0)
    assert end.tcp.phase is Phase.CLOSED


def test_a_lost_segment_is_sent_again_after_three_hints_or_a_while(end: End) -> None:
    end.app.send(bytes(10 * MSS))
    sent = end.step()
    assert len(sent) == 10
    assert end.give(5001, end.first) == end.give(5001, end.first) == []
    (again,) = end.give(5001, end.first)
    assert again.seq == end.first
    assert len(again.data) == MSS
    assert end.give(5001, end.first) == []  # once is enough
    (hole,) = end.give(5001, end.first + 4 * MSS)  # another one is missing (RFC 6582)
    assert hole.seq == end.first + 4 * MSS & 0xFFFF_FFFF
    late = end.step(3.0)
    assert [each.seq for each in late] == [each.seq for each in sent[4:]]
    later = end.tcp.deadline - end.now
    end.step(later)
    assert end.tcp.deadline - end.now == pytest.approx(2 * later)
    assert end.give(5001, end.first + 10 * MSS) == []


def test_nobody_acknowledges_for_long(end: End) -> None:
    end.app.send(b"anybody?")
    end.step()
    for _ in range(40):
        last = end.step(31)
        if end.tcp.phase is Phase.CLOSED:
            break
    assert last[-1].flags & RST
    assert end.read() == b"EOF"  # a socket pair has no resets


def test_a_shut_window_is_probed_and_opens(end: End) -> None:
    assert end.give(5001, end.first, window=0) == []
    end.app.send(b"waiting")
    assert end.step() == []
    for _ in range(30):  # for as long as the guest answers
        (probe,) = end.step(end.tcp.deadline - end.now)
        assert (probe.seq, probe.data) == (end.first, b"w")
        end.give(5001, end.first, window=0)
    (rest,) = end.give(5001, end.first + 1, window=100)
    assert (rest.seq, rest.data) == (end.first + 1 & 0xFFFF_FFFF, b"aiting")


def test_a_small_window_is_filled_and_not_with_crumbs(end: End) -> None:
    end.give(5001, end.first, window=2000)
    end.app.send(bytes(9000))
    assert [len(each.data) for each in end.step()] == [MSS]
    sent = end.give(5001, end.first + MSS, window=2000)
    assert [len(each.data) for each in sent] == [MSS]


def test_the_window_shrinks_with_what_the_host_does_not_take(end: End) -> None:
    end.tcp.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    seq = 5001
    for _ in range(1000):
        sent = end.give(seq & 0xFFFF_FFFF, end.first, data=bytes(MSS))
        assert sent[-1].window << 3 <= BUFFER
        if sent[-1].ack != seq + MSS & 0xFFFF_FFFF:
            break
        seq += MSS
    else:
        pytest.fail("the window never closed")
    assert sent[-1].window << 3 < MSS
    assert len(end.tcp._in) <= BUFFER
    total = updates = 0
    for _ in range(1000):
        total += len(end.read())
        updates += len(end.step())
    assert total == sent[-1].ack - 5001
    assert updates >= 1


def test_no_room_on_the_wire_is_no_loss(end: End) -> None:
    end.open = False
    end.app.send(b"later")
    assert end.step() == []
    assert end.step(200) == []
    end.open = True
    (sent,) = end.step()
    assert sent.data == b"later"


@pytest.mark.parametrize(
    ("flags", "seq", "ack", "answers"),
    [
        (RST, 5002, 0, [ACK]), (RST, 4999, 0, []), (RST, 5001 + (1 << 20), 0, []),  # RFC 5961
        (SYN, 5001, 0, [ACK]), (SYN | ACK, 4000, 0, [ACK]), (0, 5001, 0, []),
        (ACK, 5001, 1 << 20, [ACK]), (ACK, 5001 + (1 << 19), 0, [ACK]), (ACK, 5001, -5, []),
        (FIN, 5001, 0, []),
    ],
)  # fmt: skip
def test_what_does_not_belong_to_the_connection(
    end: End, flags: int, seq: int, ack: int, answers: list[int]
) -> None:
    sent = end.give(seq, end.first + ack & 0xFFFF_FFFF, flags)
    assert [each.flags for each in sent] == answers
    assert end.tcp.phase is Phase.OPEN
    assert end.read() == b""
    assert end.give(5001, end.first, data=b"still")[0].ack == 5006


def test_a_reset_that_is_right(end: End) -> None:
    end.give(5001, 0, RST)
    assert end.tcp.phase is Phase.CLOSED
    assert end.tcp.deadline == float("inf")


def test_the_silent_are_asked_and_then_given_up(end: End) -> None:
    for _ in range(3):
        (probe,) = end.step(300)
        assert (probe.seq, probe.data) == (end.first - 1 & 0xFFFF_FFFF, b"")
        end.give(5001, end.first)
    sent = [each for _ in range(20) for each in end.step(300)]
    assert len(sent) == 9
    assert sent[-1].flags & RST


def test_an_attempt_that_takes_too_long() -> None:
    end = End(SYN_OF_LINUX)
    end.tcp.tick(end.now + 30)
    (sent,) = end.step()
    assert sent.flags & RST
    assert sent.ack == 5001
    end.close()


@given(st.integers(0, 1 << 40), st.integers(-(1 << 30), 1 << 30))
def test_numbers_near_to_a_number(reference: int, offset: int) -> None:
    assert near(reference, reference + offset & 0xFFFF_FFFF) == reference + offset


@given(
    st.integers(0, 2**32 - 1), st.floats(0, 0.3), st.integers(64, 1460), st.booleans(),
    st.integers(0, 30_000), st.integers(0, 30_000),
)  # fmt: skip
@settings(max_examples=25)
def test_two_of_us_over_a_wire_that_loses_repeats_and_reorders(
    seed: int, loss: float, mss: int, delay_ends: bool, forth: int, back: int
) -> None:
    """Everything arrives, once and in order, and both end; in the test's own time."""
    random = Random(seed)
    left = End(None, mss)
    (syn,) = left.sent
    right = End(syn, 1460)
    ends = (left, right)
    out = [random.randbytes(forth), random.randbytes(back)]
    got, sent, wire = [b"", b""], [0, 0], list[tuple[float, int, Segment]]()
    left.sent.clear()
    shut = [False, False]
    for _ in range(20_000):
        now = min(
            [end.tcp.deadline for end in ends] + [at for at, _, _ in wire] + [left.now + 0.01]
        )
        for side, end in enumerate(ends):
            end.now = max(now, end.now)
            if sent[side] < len(out[side]):
                try:
                    part = out[side][sent[side] : sent[side] + random.randrange(1, 9000)]
                    sent[side] += end.app.send(part)
                except BlockingIOError:
                    pass
            elif not shut[side] and not (delay_ends and side and not shut[0]):
                shut[side] = True
                end.app.shutdown(socket.SHUT_WR)
            for at, to, segment in [each for each in wire if each[0] <= now and each[1] == side]:
                wire.remove((at, to, segment))
                end.tcp.receive(segment, end.now)
            for segment in end.step():
                for _ in range((random.random() >= loss) + (random.random() < 0.05)):
                    wire.append((now + random.random() * 0.03, 1 - side, segment))
            got[side] += end.read().replace(b"EOF", b"")
        if all(end.tcp.phase in (Phase.LINGER, Phase.CLOSED) for end in ends):
            break
    for side, end in enumerate(ends):
        end.tcp.sock.close()
        while (part := end.read()) not in (b"", b"EOF"):
            got[side] += part
        end.close()
    assert [got[1] == out[0], got[0] == out[1]] == [True, True]
