"""Hostile guests on the NAT: frames made with structure and then spoilt, floods, lies.

Whatever comes, the thread lives, memory is bounded, and a decent guest is served afterwards. No
frame reaches anything but one server of the test's own on the loopback.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartwood.net import Forward, NetError, UserNet, wire
from hartwood.net.flows import MOST_FLOWS
from hartwood.net.nat import GATEWAY, GUEST, MAC, MOST_CONNECTIONS, MOST_OPENING, NAMESERVER
from hartwood.net.nat import nameserver as first_nameserver
from hartwood.net.tcp import BUFFER

GUEST_MAC = b"\x52\x54\0\x12\x34\x56"


class Fenced(UserNet):
    """Every way out leads to `target`, wherever the guest wants to go."""

    target = ("127.0.0.1", 0)

    def outside(self, target: bytes, port: int) -> tuple[str, int] | None:
        return self.target if super().outside(target, port) else None


class Guest:
    """What a guest's card receives, on a network of its own."""

    def __init__(self, target: int = 0) -> None:
        self.net = Fenced()
        self.net.target = ("127.0.0.1", target)
        self.frames: list[bytes] = []
        self.came = threading.Condition()
        self.net.attach(self._take)

    def _take(self, frame: bytes) -> bool:
        with self.came:
            self.frames.append(frame)
            self.came.notify_all()
        return True

    def wait(self, wanted: bytes) -> bytes:
        """The first frame that has this in it."""
        with self.came:
            found = self.came.wait_for(
                lambda: next((each for each in self.frames if wanted in each), b""), 30
            )
        assert found, wanted
        return found

    def alive(self) -> None:
        """The gateway still answers: everything before this has been looked at."""
        self.frames.clear()
        asked = wire.Arp(1, GUEST_MAC, GUEST, bytes(6), GATEWAY).packed()
        deadline = time.monotonic() + 30
        while not self.frames or not any(each[12:14] == b"\x08\x06" for each in self.frames):
            self.net.send(wire.Frame(b"\xff" * 6, GUEST_MAC, wire.ARP, asked).packed())
            time.sleep(0.002)
            assert time.monotonic() < deadline
            assert self.net._thread.is_alive()


@contextmanager
def guest(target: int = 0) -> Iterator[Guest]:
    made = Guest(target)
    try:
        yield made
    finally:
        made.net.close()


def framed(packet: wire.Packet) -> bytes:
    payload = b"".join(wire.packets(packet, 1, 0xFFFF))
    return wire.Frame(MAC, GUEST_MAC, wire.IPV4, payload).packed()


addresses = st.sampled_from(
    [GATEWAY, GATEWAY, NAMESERVER, GUEST, bytes(4), b"\xff" * 4, b"\x7f\0\0\1", b"\xe0\0\0\1",
     bytes([10, 0, 2, 255]), bytes([192, 0, 2, 1])]
)  # fmt: skip
ports = st.sampled_from([0, 1, 53, 67, 68, 80, 0xFFFF])
numbers = st.sampled_from([0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF]) | st.integers(0, 2**32 - 1)
segments = st.builds(
    wire.Segment, ports, ports, numbers, numbers, st.integers(0, 63), st.integers(0, 0xFFFF),
    st.binary(max_size=40), st.sampled_from([0, 1, 1460, 0xFFFF]), st.integers(-1, 255),
    st.booleans(), st.lists(st.tuples(numbers, numbers), max_size=3).map(tuple),
)  # fmt: skip
datagrams = st.builds(wire.Datagram, ports, ports, st.binary(max_size=300))
sources = st.just(GUEST) | addresses


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """A frame whose layers are right, or nearly."""
    source, target = draw(sources), draw(addresses)
    kind = draw(st.sampled_from(["tcp", "tcp", "udp", "icmp", "other", "arp"]))
    if kind == "arp":
        asked = wire.Arp(draw(st.integers(0, 3)), GUEST_MAC, source, bytes(6), target)
        return wire.Frame(b"\xff" * 6, GUEST_MAC, wire.ARP, asked.packed()).packed()
    if kind == "tcp":
        packet = wire.tcp(source, target, draw(segments))
    elif kind == "udp":
        packet = wire.udp(source, target, draw(datagrams))
    else:
        body = draw(st.binary(max_size=40))
        packet = wire.Packet(
            source, target, 1 if kind == "icmp" else draw(st.integers(0, 255)), body
        )
        if kind == "icmp":
            check = struct.pack("!H", wire.checksum(b"\x08\0" + body))
            packet = packet._replace(payload=b"\x08\0" + check + body)
    return framed(packet)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """Such a frame, cut off, lengthened, or with bytes changed; often with its sums made right."""
    data = bytearray(draw(packets()))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    del data[draw(st.integers(0, len(data))) or len(data) :]
    if len(data) >= 34 and draw(st.booleans()):
        header = 14 + 4 * (data[14] & 15)
        data[24:26] = bytes(2)
        data[24:26] = struct.pack("!H", wire.checksum(bytes(data[14:header])))
    return bytes(data) + draw(st.binary(max_size=8))


@given(st.lists(packets() | spoilt() | st.binary(max_size=100), max_size=60))
@settings(max_examples=60)
def test_any_frames(frames: list[bytes]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, guest(listener.getsockname()[1]) as it:
        for frame in frames:
            it.net.send(frame)
        it.alive()


def syn(port: int, seq: int = 100) -> bytes:
    return framed(wire.tcp(GUEST, GATEWAY, wire.Segment(port, 80, seq, 0, wire.SYN, 0xFFFF)))


def test_a_flood_of_syns_takes_a_bounded_number_of_sockets() -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=1) as listener,
        guest(listener.getsockname()[1]) as it,
    ):
        for port in range(1, 5000):
            it.net.send(syn(port))
        it.alive()
        assert 0 < len(it.net._connections) <= MOST_OPENING


def test_connections_that_are_opened_and_left() -> None:
    """More than there may be: those beyond are not answered, and one that ends makes room."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=400) as listener,
        guest(listener.getsockname()[1]) as it,
    ):
        for port in range(1, 400):
            it.net.send(syn(port))
            ports = struct.pack("!HH", 80, port)
            if port <= MOST_CONNECTIONS:
                answer = it.wait(GATEWAY + GUEST + ports)
                (seq,) = struct.unpack("!I", answer[38:42])
                ack = wire.Segment(port, 80, 101, seq + 1, wire.ACK, 0)
                it.net.send(framed(wire.tcp(GUEST, GATEWAY, ack)))
        it.alive()
        assert len(it.net._connections) == MOST_CONNECTIONS
        reset = wire.Segment(7, 80, 101, 0, wire.RST, 0)
        it.net.send(framed(wire.tcp(GUEST, GATEWAY, reset)))
        it.net.send(syn(7, 900))
        it.wait(GATEWAY + GUEST + struct.pack("!HH", 80, 7))


def test_early_segments_are_bounded() -> None:
    """One byte missing for ever, and everything after it sent in every way."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        guest(listener.getsockname()[1]) as it,
    ):
        it.net.send(syn(5))
        answer = it.wait(GATEWAY + GUEST + struct.pack("!HH", 80, 5))
        (seq,) = struct.unpack("!I", answer[38:42])
        for offset in range(1, 60_000, 7):
            early = wire.Segment(5, 80, 101 + offset, seq + 1, wire.ACK, 99, b"x" * 1400)
            it.net.send(framed(wire.tcp(GUEST, GATEWAY, early)))
            if offset % 500 == 1:
                it.alive()
        it.alive()
        (connection,) = it.net._connections.values()
        assert sum(len(each) for each in connection._early.values()) <= BUFFER
        assert connection._in == b""


def test_a_flood_of_flows_ends_the_oldest() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        with guest(server.getsockname()[1]) as it:
            for port in range(1, 1000):
                it.net.send(framed(wire.udp(GUEST, GATEWAY, wire.Datagram(port, 9, b"x"))))
                if port % 500 == 0:
                    it.alive()
            it.alive()
            assert len(it.net._flows) == MOST_FLOWS
            assert (GUEST, 1, GATEWAY, 9) not in it.net._flows


def test_flows_end_when_nobody_uses_them() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        with guest(server.getsockname()[1]) as it:
            it.net.send(framed(wire.udp(GUEST, GATEWAY, wire.Datagram(5, 9, b"x"))))
            it.alive()
            (flow,) = it.net._flows
            flow.used -= 60
            it.net._due = 0
            it.alive()
            assert len(it.net._flows) == 0
            assert flow.sock.fileno() == -1


def test_more_than_the_inbox_holds_is_lost_and_nothing_else() -> None:
    with guest() as it:
        for _ in range(20_000):
            it.net.send(bytes(1514))
        assert len(it.net._inbox) <= 1024
        it.net.send(bytes(1515))  # longer than the wire takes
        it.alive()


def test_frames_for_a_guest_that_takes_none_are_bounded() -> None:
    with guest() as it:
        it.net.attach(lambda frame: False)
        echo = b"\x08\0" + struct.pack("!H", wire.checksum(b"\x08\0abcd")) + b"abcd"
        for _ in range(40):
            for _ in range(100):
                it.net.send(framed(wire.Packet(GUEST, GATEWAY, 1, echo)))
            time.sleep(0.002)
        assert len(it.net._waiting) <= 512
        it.net.attach(it._take)
        it.alive()


@pytest.mark.parametrize(
    "text",
    ["", "tcp", "tcp:1", "tcp:1:2:3", "icmp:1:2", "tcp:x:2", "tcp:65536:2", "tcp:1:0", "tcp:-1:2",
     "tcp:1:65536", "TCP:1:2", "tcp:²:1"],
)  # fmt: skip
def test_forwards_that_cannot_be(text: str) -> None:
    with pytest.raises(NetError, match="such as tcp:8080:80"):
        Forward.parse(text)


def test_a_forward() -> None:
    assert Forward.parse("udp:0:53") == Forward("udp", 0, 53)
    with network("tcp:0:80") as net, pytest.raises(NetError, match="in use; forward another"):
        UserNet([Forward("tcp", 0, 1), Forward("tcp", net.forwards[0].host, 80)])


@contextmanager
def network(text: str) -> Iterator[UserNet]:
    net = UserNet([Forward.parse(text)])
    try:
        yield net
    finally:
        net.close()


@pytest.mark.parametrize("mtu", [0, 575, 65536])
def test_an_mtu_that_cannot_be(mtu: int) -> None:
    with pytest.raises(NetError, match="576 to 65535"):
        UserNet(mtu=mtu)


@pytest.mark.parametrize(
    ("text", "found"),
    [("nameserver 192.0.2.1\nnameserver 192.0.2.2\n", "192.0.2.1"), ("", None),
     ("# nameserver 192.0.2.1\n;x\nsearch a\nnameserver\nnameserver abc\n", None),
     ("nameserver example.invalid\n nameserver 2001:db8::1 # ours\n", "2001:db8::1")],
)  # fmt: skip
def test_the_hosts_name_server(tmp_path, text: str, found: str | None) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    assert first_nameserver(str(path)) == found
    assert first_nameserver(str(tmp_path / "none")) is None


def test_after_the_end_frames_are_lost() -> None:
    net = UserNet()
    net.close()
    net.send(bytes(60))
    net.resume()
    net.close()
