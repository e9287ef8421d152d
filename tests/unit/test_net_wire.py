"""What is on the wire: round trips, real packets, and what must not be believed."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.net import wire

HERE, THERE = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])
ports = st.integers(0, 0xFFFF)
words = st.integers(0, 0xFFFF_FFFF)


def reference_checksum(data: bytes) -> int:
    """RFC 1071, 4.1, word by word."""
    total = 0
    for (word,) in struct.iter_unpack("!H", data + bytes(len(data) & 1)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(min_size=1, max_size=300).filter(any))
def test_the_checksum_is_the_rfcs(data: bytes) -> None:
    assert wire.checksum(data) == reference_checksum(data)


def test_the_checksum_of_the_rfcs_example() -> None:
    assert wire.checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


def test_frames() -> None:
    sent = wire.Frame(b"\1" * 6, b"\2" * 6, wire.ARP, b"payload")
    assert sent.packed() == b"\1" * 6 + b"\2" * 6 + b"\x08\x06payload"
    assert wire.frame(sent.packed()) == sent
    for size in range(14):
        assert wire.frame(sent.packed()[:size]) is None


def test_arp() -> None:
    sent = wire.Arp(1, b"\1" * 6, HERE, bytes(6), THERE)
    data = sent.packed()
    assert data[:8] == bytes.fromhex("0001080006040001")
    assert wire.arp(data + bytes(18)) == sent  # Ethernet pads to 60 bytes
    assert wire.arp(data[:-1]) is None
    for at in (1, 3, 4, 5):  # another hardware, protocol, or size of their addresses
        assert wire.arp(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None


@given(st.binary(max_size=4000), st.integers(576, 2000), st.integers(0, 0xFFFF))
def test_packets_are_read_as_they_were_made_and_fragments_add_up(
    payload: bytes, mtu: int, ident: int
) -> None:
    sent = wire.Packet(HERE, THERE, wire.UDP, payload)
    parts = list(wire.packets(sent, ident, mtu))
    assert all(len(part) <= mtu and wire.checksum(part[:20]) == 0 for part in parts)
    if len(parts) == 1:
        assert wire.packet(parts[0] + bytes(7)) == sent
        return
    together = b""
    for part in parts:
        total, got, offset = struct.unpack_from("!HHH", part, 2)
        assert (total, got) == (len(part), ident)
        assert 8 * (offset & 0x1FFF) == len(together)
        assert bool(offset & 0x2000) == (part is not parts[-1])
        assert wire.packet(part) is None
        together += part[20:]
    assert together == payload


def with_checksum(header: bytes) -> bytes:
    bare = header[:10] + bytes(2) + header[12:]
    return bare[:10] + struct.pack("!H", wire.checksum(bare)) + bare[12:]


@pytest.mark.parametrize(
    ("what", "at", "value"),
    [
        ("version 6", 0, 0x65), ("no header", 0, 0x44), ("a header beyond the packet", 0, 0x4F),
        ("longer than the frame", 2, 0xFF), ("shorter than the header", 3, 19),
        ("more fragments", 6, 0x20), ("a fragment", 7, 1),
    ],
)  # fmt: skip
def test_packets_that_contradict_themselves(what: str, at: int, value: int) -> None:
    data = bytearray(next(wire.packets(wire.Packet(HERE, THERE, 6, bytes(8)), 0, 1500)))
    data[at] = value
    if what == "shorter than the header":
        data[2] = 0
    assert wire.packet(with_checksum(bytes(data))) is None, what


def test_a_packet_with_options_and_one_with_a_wrong_sum() -> None:
    head = struct.pack("!BBHHHBBH4s4s4s", 0x46, 0, 26, 1, 0, 64, 17, 0, HERE, THERE, b"\1\1\1\0")
    data = head[:10] + struct.pack("!H", wire.checksum(head)) + head[12:] + b"ab"
    assert wire.packet(data) == wire.Packet(HERE, THERE, 17, b"ab")
    assert wire.packet(data[:8] + b"\xff" + data[9:]) is None


@given(ports, ports, st.binary(max_size=100))
def test_datagrams(source: int, target: int, data: bytes) -> None:
    sent = wire.Datagram(source, target, data)
    packet = wire.udp(HERE, THERE, sent)
    assert wire.datagram(packet) == sent
    longer = packet._replace(payload=packet.payload + b"pad")
    assert wire.datagram(longer) == sent
    assert packet.payload[6:8] != b"\0\0"
    unsummed = packet.payload[:6] + bytes(2) + packet.payload[8:]
    assert wire.datagram(packet._replace(payload=unsummed)) == sent
    for size in range(8):
        assert wire.datagram(packet._replace(payload=packet.payload[:size])) is None
    for size in (0, 7, len(packet.payload) + 1):
        lying = packet.payload[:4] + struct.pack("!HH", size, 0) + packet.payload[8:]
        assert wire.datagram(packet._replace(payload=lying)) is None
    assert wire.datagram(packet._replace(source=THERE[::-1])) is None


def test_a_datagram_whose_sum_is_zero_says_so_in_ones() -> None:
    for port in range(0x1_0000):
        packet = wire.udp(HERE, THERE, wire.Datagram(port, 1, b""))
        if packet.payload[6:8] == b"\xff\xff":
            assert wire.datagram(packet) == wire.Datagram(port, 1, b"")
            return
    raise AssertionError("no port has this sum")


blocks = st.lists(st.tuples(words, words), max_size=4).map(tuple)


@given(ports, ports, words, words, st.integers(0, 0x3F), ports, st.binary(max_size=50), blocks)
def test_segments(source, target, seq, ack, flags, window, data, edges) -> None:
    sent = wire.Segment(source, target, seq, ack, flags & ~wire.SYN, window, data, blocks=edges)
    packet = wire.tcp(HERE, THERE, sent)
    header = 4 * (packet.payload[12] >> 4)
    assert header == 20 + (4 + 8 * len(edges) if edges else 0)
    assert wire.segment(packet) == sent._replace(blocks=())  # which are not read
    for at in range(len(packet.payload)):
        if at % 7 == 0:
            spoilt = bytearray(packet.payload)
            spoilt[at] ^= 0x10
            assert wire.segment(packet._replace(payload=bytes(spoilt))) is None


@given(ports.filter(bool), st.integers(-1, 14), st.booleans())
def test_options_of_a_syn(mss: int, scale: int, sack: bool) -> None:
    sent = wire.Segment(1, 2, 3, 0, wire.SYN, 5, b"", mss, scale, sack)
    assert wire.segment(wire.tcp(HERE, THERE, sent)) == sent


def syn_with(options: bytes) -> wire.Segment | None:
    """A SYN with these options, padded, and a right checksum."""
    options += bytes(-len(options) % 4)
    head = struct.pack("!HHIIBBHHH", 1, 2, 3, 0, 20 + len(options) << 2, wire.SYN, 5, 0, 0)
    pseudo = int.from_bytes(HERE, "big") + int.from_bytes(THERE, "big") + 6 + 20 + len(options)
    check = wire.checksum(head + options, pseudo)
    payload = head[:16] + struct.pack("!H", check) + head[18:] + options
    return wire.segment(wire.Packet(HERE, THERE, wire.TCP, payload))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (b"\2\4\5\xb4\4\2\x08\x0a12345678\1\3\3\7", (1460, 7, True)),  # as Linux sends them
        (b"\1\1\1\2\4\0\1", (1, -1, False)),
        (b"\3\3\xff", (0, 14, False)),  # RFC 7323, 2.3
        (b"\2\0\2\4\1\1", (0, -1, False)),  # of length 0: it would go on for ever
        (b"\2\1\2\4\1\1", (0, -1, False)),
        (b"\2\4\1", (0x100, -1, False)),  # with the padding
        (b"\x08\xff\2\4\1\1", (0, -1, False)),  # longer than the header
        (b"\2\3\1\3\3\2", (0, 2, False)),  # of another length than it has
        (b"\0\2\4\5\xb4", (0, -1, False)),  # after the end
        (b"", (0, -1, False)),
        (b"\1" * 39 + b"\2", (0, -1, False)),
    ],
)
def test_options_that_real_and_hostile_guests_send(
    options: bytes, found: tuple[int, int, bool]
) -> None:
    got = syn_with(options)
    assert (got.mss, got.scale, got.sack) == found


@given(st.binary(max_size=40))
def test_any_options_end(options: bytes) -> None:
    assert syn_with(options[:40]) is not None


def test_segments_whose_header_does_not_fit() -> None:
    packet = wire.tcp(HERE, THERE, wire.Segment(1, 2, 3, 4, wire.ACK, 5))
    for offset in (0, 0x40, 0x60, 0xF0):
        payload = bytearray(packet.payload)
        payload[12] = offset
        assert wire.segment(packet._replace(payload=bytes(payload))) is None
    assert wire.segment(packet._replace(payload=packet.payload[:19])) is None


def test_echo() -> None:
    request = b"\x08\0" + struct.pack("!H", 0) + b"\x12\x34\0\1payload"
    request = request[:2] + struct.pack("!H", wire.checksum(request)) + request[4:]
    reply = wire.echo_reply(request)
    assert reply is not None
    assert reply[:2] == b"\0\0"
    assert reply[4:] == request[4:]
    assert wire.checksum(reply) == 0
    assert wire.echo_reply(reply) is None
    assert wire.echo_reply(request[:7]) is None
    assert wire.echo_reply(request[:-1] + b"D") is None


def test_unreachable_quotes_what_was_sent() -> None:
    cause = wire.udp(HERE, THERE, wire.Datagram(1234, 53, b"a question"))
    message = wire.unreachable(3, cause)
    assert message[:2] == b"\3\3"
    assert wire.checksum(message) == 0
    assert message[8 + 12 : 8 + 20] == HERE + THERE
    assert message[28:36] == cause.payload[:8]
    assert len(message) == 36


def test_random_bytes_are_nothing_or_something() -> None:
    random = Random(5)
    for _ in range(3000):
        data = random.randbytes(random.randrange(80))
        packet = wire.Packet(HERE, THERE, 6, data)
        for read in (wire.frame, wire.arp, wire.packet, wire.echo_reply):
            read(data)
        assert wire.segment(packet) is None or len(data) >= 20
        assert wire.datagram(packet) is None or len(data) >= 8
