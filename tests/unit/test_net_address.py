"""Whom the NAT's frames go to, before and after the guest was heard."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hartwood.net import Forward, UserNet, wire
from hartwood.net.nat import GATEWAY, GUEST, GUEST_MAC, MAC

OTHER = b"\x02\0\0\0\0\x07"


class Cable:
    """The guest's end of the wire."""

    def __init__(self, net: UserNet) -> None:
        self.net, self._frames = net, queue.Queue[bytes]()
        net.attach(self._arrive)

    def _arrive(self, frame: bytes) -> bool:
        self._frames.put(frame)
        return True

    def next(self) -> wire.Frame:
        """The next frame for the guest."""
        frame = wire.frame(self._frames.get(timeout=60))
        assert frame is not None
        assert frame.source == MAC
        return frame

    def arp(self, source: bytes, operation: int) -> None:
        """The guest says where it is, or asks for the gateway."""
        packet = wire.Arp(operation, source, GUEST, MAC, GATEWAY)
        self.net.send(wire.Frame(MAC, source, wire.ARP, packet.packed()).packed())

    def nothing_more(self) -> bool:
        """Whether everything was looked at."""
        return self._frames.empty()


def syn(frame: wire.Frame) -> wire.Segment:
    """What a frame holds, which has to be a SYN for the forward's port."""
    assert frame.kind == wire.IPV4
    packet = wire.packet(frame.payload)
    assert packet is not None
    assert (packet.source, packet.target) == (GATEWAY, GUEST)
    segment = wire.segment(packet)
    assert segment is not None
    assert (segment.flags, segment.target) == (wire.SYN, 80)
    return segment


@contextmanager
def asked() -> Iterator[tuple[Cable, socket.socket]]:
    """A network whose forward somebody has connected to."""
    net = UserNet([Forward.parse("tcp:0:80")])
    try:
        cable = Cable(net)
        with socket.create_connection(("127.0.0.1", net.forwards[0].host), 60) as sock:
            sock.settimeout(60)
            yield cable, sock
    finally:
        net.close()


def test_a_guest_that_was_not_heard_is_asked_for() -> None:
    """By a broadcast; meanwhile the frame goes to the address that its card was made with."""
    with asked() as (cable, _):
        question, first = cable.next(), cable.next()
        assert (question.target, question.kind) == (wire.BROADCAST, wire.ARP)
        arp = wire.arp(question.payload)
        assert arp is not None
        assert (arp.operation, arp.sender_mac, arp.sender, arp.target) == (1, MAC, GATEWAY, GUEST)
        assert first.target == GUEST_MAC
        syn(first)


def test_what_it_was_sent_before_comes_again_at_another_address() -> None:
    """At once, not when the connection asks again a second later; and it may be refused then."""
    with asked() as (cable, sock):
        cable.next()
        first = syn(cable.next())
        cable.arp(OTHER, 2)
        again = cable.next()
        while again.target != OTHER:  # a second has passed after all
            again = cable.next()
        assert syn(again).seq == first.seq
        reply = wire.Segment(80, first.source, 0, first.seq + 1, wire.RST | wire.ACK, 0)
        for data in wire.packets(wire.tcp(GUEST, GATEWAY, reply), 1, 1500):
            cable.net.send(wire.Frame(MAC, OTHER, wire.IPV4, data).packed())
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_who_is_where_it_was_thought_to_be_gets_nothing_twice() -> None:
    with asked() as (cable, _):
        cable.next()
        first = syn(cable.next())
        cable.arp(GUEST_MAC, 1)
        answer = cable.next()
        while answer.kind != wire.ARP:
            assert syn(answer).seq == first.seq
            answer = cable.next()
        arp = wire.arp(answer.payload)
        assert arp is not None
        assert (arp.operation, answer.target) == (2, GUEST_MAC)


def test_little_is_kept_for_who_is_never_heard() -> None:
    net = UserNet([Forward.parse("udp:0:53")])
    try:
        cable = Cable(net)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", net.forwards[0].host))
            for number in range(100):
                sock.send(bytes([number]))
                assert cable.next().kind == wire.ARP
                assert cable.next().kind == wire.IPV4
            cable.arp(OTHER, 2)
            kept = [cable.next() for _ in range(16)]
            assert {each.target for each in kept} == {OTHER}
            sock.send(b"last")
            last = cable.next()
        assert (last.target, last.kind) == (OTHER, wire.IPV4)
        assert last.payload.endswith(b"last")
        assert cable.nothing_more()
    finally:
        net.close()
