"""A DHCP server with one lease (RFC 2131, options of RFC 2132)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, pack

SERVER_PORT, CLIENT_PORT = 67, 68
_DISCOVER, _OFFER, _REQUEST, _ACK, _NAK, _INFORM = 1, 2, 3, 5, 6, 8
_MASK, _ROUTER, _DNS, _MTU, _REQUESTED, _LEASE, _KIND, _SERVER, _END = (
    1,
    3,
    6,
    26,
    50,
    51,
    53,
    54,
    255,
)
# op htype hlen hops xid secs flags ciaddr yiaddr siaddr giaddr chaddr; sname and file; the cookie.
_MESSAGE = Struct("!BBBB4sHH4s4s4s4s16s192x4s")
_COOKIE = b"\x63\x82\x53\x63"
_NOBODY = bytes(4)
_LEAST = 300  # what BOOTP's relays and old clients want a message to have (RFC 1542, 2.1)


@dataclass(frozen=True)
class Lease:
    """What a guest is told."""

    guest: bytes
    mask: bytes
    server: bytes
    nameserver: bytes
    mtu: int
    seconds: int = 86_400


def answer(message: bytes, lease: Lease) -> bytes | None:
    """The reply to a client's message, None where it gets none."""
    if len(message) < _MESSAGE.size:
        return None
    op, htype, hlen, _, xid, _, flags, ciaddr, _, _, _, chaddr, cookie = _MESSAGE.unpack_from(
        message
    )
    if (op, htype, hlen, cookie) != (1, 1, 6, _COOKIE):
        return None
    options = _read(message[_MESSAGE.size :])
    kind = _reply_to(options, ciaddr, lease)
    if kind is None:
        return None
    given = lease.guest if options[_KIND] != bytes([_INFORM]) and kind != _NAK else _NOBODY
    sent = _option(_KIND, bytes([kind])) + _option(_SERVER, lease.server)
    if kind != _NAK:
        sent += _option(_MASK, lease.mask) + _option(_ROUTER, lease.server)
        sent += _option(_DNS, lease.nameserver) + _option(_MTU, pack("!H", lease.mtu))
    if given != _NOBODY:
        sent += _option(_LEASE, pack("!I", lease.seconds))
    ciaddr = ciaddr if kind == _ACK else _NOBODY
    head = _MESSAGE.pack(
        2, 1, 6, 0, xid, 0, flags, ciaddr, given, lease.server, _NOBODY, chaddr, _COOKIE
    )
    return (head + sent + bytes([_END])).ljust(_LEAST, b"\0")


def _reply_to(options: dict[int, bytes], ciaddr: bytes, lease: Lease) -> int | None:
    """The kind of the reply (RFC 2131, 4.3)."""
    kind = options.get(_KIND)
    if kind == bytes([_DISCOVER]):
        return _OFFER
    if kind == bytes([_INFORM]):
        return _ACK
    if kind != bytes([_REQUEST]) or options.get(_SERVER, lease.server) != lease.server:
        return None
    return _ACK if options.get(_REQUESTED, ciaddr) == lease.guest else _NAK


def _option(code: int, value: bytes) -> bytes:
    return bytes([code, len(value)]) + value


def _read(data: bytes) -> dict[int, bytes]:
    """Options by code; what is cut off counts as not there."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 1 < len(data) and data[at] != _END:
        if not data[at]:  # padding
            at += 1
            continue
        value = data[at + 2 : at + 2 + data[at + 1]]
        if len(value) == data[at + 1]:
            found[data[at]] = value
        at += 2 + data[at + 1]
    return found
