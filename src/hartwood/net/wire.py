"""What is on the wire: Ethernet, ARP, IPv4, ICMP, UDP and TCP, read and made.

Whatever reads gives None for what is malformed: too short, lengths that contradict each other, a
wrong checksum. Addresses are bytes, as they are sent: six of Ethernet's, four of IPv4's.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, pack
from typing import NamedTuple

ARP, IPV4 = 0x0806, 0x0800
ICMP, TCP, UDP = 1, 6, 17
BROADCAST = b"\xff" * 6
#: The control bits of a segment (RFC 9293, 3.1).
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
ETHERNET_HEADER, IPV4_HEADER, UDP_HEADER, TCP_HEADER = 14, 20, 8, 20

_ETHERNET = Struct("!6s6sH")
_ARP = Struct("!HHBBH6s4s6s4s")
_IPV4 = Struct("!BBHHHBBH4s4s")
_UDP = Struct("!HHHH")
_TCP = Struct("!HHIIBBHHH")
_MORE, _OFFSET = 0x2000, 0x1FFF
_TTL = 64


def checksum(data: bytes, extra: int = 0) -> int:
    """The internet checksum (RFC 1071) of `data` and a sum of further 16-bit words; 0 over what
    contains its own right checksum. A sum in ones' complement is one modulo 2^16 - 1, and a long
    integer's remainder is the fastest way to it."""
    number = int.from_bytes(data, "big") << 8 * (len(data) & 1)
    return -(number + extra) % 0xFFFF


class Frame(NamedTuple):
    """An Ethernet II frame without its check sequence."""

    target: bytes
    source: bytes
    kind: int
    payload: bytes

    def packed(self) -> bytes:
        """The frame as it is sent."""
        return _ETHERNET.pack(self.target, self.source, self.kind) + self.payload


def frame(data: bytes) -> Frame | None:
    """Read a frame."""
    if len(data) < ETHERNET_HEADER:
        return None
    target, source, kind = _ETHERNET.unpack_from(data)
    return Frame(target, source, kind, data[ETHERNET_HEADER:])


class Arp(NamedTuple):
    """A request (1) or reply (2) of address resolution for IPv4 on Ethernet (RFC 826)."""

    operation: int
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes

    def packed(self) -> bytes:
        """The packet as it is sent."""
        return _ARP.pack(1, IPV4, 6, 4, *self)


def arp(data: bytes) -> Arp | None:
    """Read an ARP packet."""
    if len(data) < _ARP.size:
        return None
    hardware, protocol, hardware_size, protocol_size, *rest = _ARP.unpack_from(data)
    known = (hardware, protocol, hardware_size, protocol_size) == (1, IPV4, 6, 4)
    return Arp(*rest) if known else None


class Packet(NamedTuple):
    """A whole IPv4 packet (RFC 791); options are dropped."""

    source: bytes
    target: bytes
    protocol: int
    payload: bytes


def packet(data: bytes) -> Packet | None:
    """Read an IPv4 packet. Fragments are None too: nobody here puts them together."""
    if len(data) < IPV4_HEADER:
        return None
    first, _, total, _, offset, _, protocol, _, source, target = _IPV4.unpack_from(data)
    header = 4 * (first & 15)
    if first >> 4 != 4 or not IPV4_HEADER <= header <= total <= len(data):
        return None
    if offset & (_MORE | _OFFSET) or checksum(data[:header]):
        return None
    return Packet(source, target, protocol, data[header:total])


def packets(sent: Packet, ident: int, mtu: int) -> Iterator[bytes]:
    """The packet as it is sent: in fragments where it does not fit into `mtu` bytes."""
    room = mtu - IPV4_HEADER & -8
    payload = sent.payload
    whole = len(payload) + IPV4_HEADER <= mtu
    for at in range(0, len(payload) or 1, len(payload) or 1 if whole else room):
        part = payload if whole else payload[at : at + room]
        more = _MORE if at + len(part) < len(payload) else 0
        words = (0x45, 0, IPV4_HEADER + len(part), ident, more | at >> 3, _TTL, sent.protocol)
        addresses = (sent.source, sent.target)
        head = _IPV4.pack(*words, checksum(_IPV4.pack(*words, 0, *addresses)), *addresses)
        yield head + part


def _pseudo(source: bytes, target: bytes, protocol: int, size: int) -> int:
    """The sum over the pseudo header (RFC 9293, 3.1)."""
    return int.from_bytes(source, "big") + int.from_bytes(target, "big") + protocol + size


class Datagram(NamedTuple):
    """A UDP datagram (RFC 768)."""

    source: int
    target: int
    data: bytes


def datagram(read: Packet) -> Datagram | None:
    """Read the datagram that a packet holds; a checksum of 0 says that there is none."""
    payload = read.payload
    if len(payload) < UDP_HEADER:
        return None
    source, target, size, check = _UDP.unpack_from(payload)
    if not UDP_HEADER <= size <= len(payload):
        return None
    payload = payload[:size]
    if check and checksum(payload, _pseudo(read.source, read.target, UDP, size)):
        return None
    return Datagram(source, target, payload[UDP_HEADER:])


def udp(source: bytes, target: bytes, sent: Datagram) -> Packet:
    """The packet that takes a datagram from one address to another."""
    size = UDP_HEADER + len(sent.data)
    head = _UDP.pack(sent.source, sent.target, size, 0)
    check = checksum(head + sent.data, _pseudo(source, target, UDP, size)) or 0xFFFF
    head = _UDP.pack(sent.source, sent.target, size, check)
    return Packet(source, target, UDP, head + sent.data)


class Segment(NamedTuple):
    """A TCP segment (RFC 9293). `mss` is 0 and `scale` -1 where it has no such option; `sack` says
    that selective acknowledgements are understood, `blocks` are their edges (RFC 2018), which are
    sent and not read. Other options are dropped."""

    source: int
    target: int
    seq: int
    ack: int
    flags: int
    window: int
    data: bytes = b""
    mss: int = 0
    scale: int = -1
    sack: bool = False
    blocks: tuple[tuple[int, int], ...] = ()


def segment(read: Packet) -> Segment | None:
    """Read the segment that a packet holds."""
    payload = read.payload
    if len(payload) < TCP_HEADER:
        return None
    source, target, seq, ack, offset, flags, window, _, _ = _TCP.unpack_from(payload)
    header = offset >> 4 << 2
    if not TCP_HEADER <= header <= len(payload):
        return None
    if checksum(payload, _pseudo(read.source, read.target, TCP, len(payload))):
        return None
    found = _options(payload[TCP_HEADER:header]) if flags & SYN else (0, -1, False)
    return Segment(source, target, seq, ack, flags & 0x3F, window, payload[header:], *found)


def _options(data: bytes) -> tuple[int, int, bool]:
    """Maximum segment size, window scale, SACK permitted (RFC 9293, 3.2; RFC 7323, 2.2)."""
    mss, scale, sack, at = 0, -1, False, 0
    while at < len(data) and data[at]:
        if data[at] == 1:  # padding
            at += 1
            continue
        size = data[at + 1] if at + 1 < len(data) else 0
        value = data[at + 2 : at + size]
        if size < 2 or len(value) != size - 2:
            break
        if data[at] == 2 and size == 4:
            mss = int.from_bytes(value, "big")
        elif data[at] == 3 and size == 3:
            scale = min(value[0], 14)
        elif data[at] == 4 and size == 2:
            sack = True
        at += size
    return mss, scale, sack


def tcp(source: bytes, target: bytes, sent: Segment) -> Packet:
    """The packet that takes a segment from one address to another."""
    options = pack("!BBH", 2, 4, sent.mss) if sent.mss else b""
    if sent.scale >= 0:
        options += pack("!BBBB", 1, 3, 3, sent.scale)
    if sent.sack:
        options += b"\1\1\4\2"
    if sent.blocks:
        options += pack("!BBBB", 1, 1, 5, 2 + 8 * len(sent.blocks))
        for edges in sent.blocks:
            options += pack("!II", *(edge & 0xFFFF_FFFF for edge in edges))
    numbers = (sent.seq & 0xFFFF_FFFF, sent.ack & 0xFFFF_FFFF)
    offset = TCP_HEADER + len(options) << 2
    fields = (sent.source, sent.target, *numbers, offset, sent.flags, sent.window)
    rest = options + sent.data
    head = _TCP.pack(*fields, 0, 0)
    pseudo = _pseudo(source, target, TCP, len(head) + len(rest))
    head = _TCP.pack(*fields, checksum(head + rest, pseudo), 0)
    return Packet(source, target, TCP, head + rest)


def echo_reply(request: bytes) -> bytes | None:
    """The ICMP message that answers an echo request (RFC 792), None for any other message."""
    if len(request) < 8 or request[:2] != b"\x08\0" or checksum(request):
        return None
    return _icmp(b"\0\0", request[4:])


def unreachable(code: int, cause: Packet) -> bytes:
    """An ICMP message that `cause` did not arrive: 3 for a port, 13 for what is forbidden."""
    original = next(packets(cause, 0, 0xFFFF))
    return _icmp(pack("!BB", 3, code), bytes(4) + original[: IPV4_HEADER + 8])


def _icmp(kind: bytes, rest: bytes) -> bytes:
    check = checksum(kind + rest)
    return kind + pack("!H", check) + rest
