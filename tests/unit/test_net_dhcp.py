"""The DHCP server, message by message (RFC 2131)."""

from __future__ import annotations

import struct
from random import Random

import pytest

from hartwood.net import dhcp

GUEST, SERVER, DNS = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2]), bytes([10, 0, 2, 3])
LEASE = dhcp.Lease(GUEST, bytes([255, 255, 255, 0]), SERVER, DNS, 1500, 3600)
MAC = b"\x52\x54\0\x12\x34\x56"
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)


def message(
    kind: int, *options: tuple[int, bytes], ciaddr: bytes = bytes(4), flags: int = 0
) -> bytes:
    """What a client sends."""
    head = struct.pack(
        "!BBBB4sHH4s4s4s4s16s64s128s", 1, 1, 6, 0, b"xid!", 3, flags, ciaddr, *[bytes(4)] * 3,
        MAC, b"", b"",
    )  # fmt: skip
    sent = b"".join(
        bytes([code, len(value)]) + value for code, value in ((53, bytes([kind])), *options)
    )
    return head + b"\x63\x82\x53\x63" + sent + b"\xff"


def read(reply: bytes | None) -> tuple[dict[str, bytes], dict[int, bytes]]:
    """Fields of a reply, and its options; each may be there once."""
    assert reply is not None
    names = "op htype hlen hops xid secs flags ciaddr yiaddr siaddr giaddr chaddr".split()
    sizes = (1, 1, 1, 1, 4, 2, 2, 4, 4, 4, 4, 16)
    fields, at = {}, 0
    for name, size in zip(names, sizes, strict=True):
        fields[name], at = reply[at : at + size], at + size
    assert reply[at : at + 192] == bytes(192)
    assert reply[236:240] == b"\x63\x82\x53\x63"
    options, at = {}, 240
    while reply[at] != 255:
        assert reply[at] not in options
        options[reply[at]] = reply[at + 2 : at + 2 + reply[at + 1]]
        at += 2 + reply[at + 1]
    assert not any(reply[at + 1 :])
    assert len(reply) >= 300
    return fields, options


@pytest.mark.parametrize(
    ("sent", "kind"),
    [(message(DISCOVER), OFFER), (message(DISCOVER, (50, bytes(4))), OFFER),
     (message(REQUEST, (50, GUEST), (54, SERVER)), ACK),  # SELECTING
     (message(REQUEST, (50, GUEST)), ACK),  # INIT-REBOOT
     (message(REQUEST, ciaddr=GUEST), ACK)],  # RENEWING
)  # fmt: skip
def test_a_lease(sent: bytes, kind: int) -> None:
    fields, options = read(dhcp.answer(sent, LEASE))
    assert fields["op"] == b"\2"
    assert fields["xid"] == b"xid!"
    assert fields["chaddr"] == MAC + bytes(10)
    assert fields["yiaddr"] == GUEST
    assert fields["ciaddr"] == (sent[12:16] if kind == ACK else bytes(4))
    assert options == {
        53: bytes([kind]), 54: SERVER, 1: b"\xff\xff\xff\0", 3: SERVER, 6: DNS, 26: b"\x05\xdc",
        51: struct.pack("!I", 3600),
    }  # fmt: skip


@pytest.mark.parametrize(
    "sent",
    [message(REQUEST, (50, bytes([192, 168, 1, 7]))), message(REQUEST),
     message(REQUEST, ciaddr=bytes([10, 0, 2, 16])), message(REQUEST, (50, GUEST[:3]))],
)  # fmt: skip
def test_another_address_is_refused(sent: bytes) -> None:
    fields, options = read(dhcp.answer(sent, LEASE))
    assert fields["yiaddr"] == bytes(4)
    assert options == {53: bytes([NAK]), 54: SERVER}


def test_who_has_an_address_is_told_the_rest() -> None:
    fields, options = read(dhcp.answer(message(INFORM, ciaddr=bytes([10, 0, 2, 99])), LEASE))
    assert fields["yiaddr"] == bytes(4)
    assert fields["ciaddr"] == bytes([10, 0, 2, 99])
    assert options[53] == bytes([ACK])
    assert options[3] == SERVER
    assert 51 not in options


def test_the_flag_for_broadcast_comes_back() -> None:
    fields, _ = read(dhcp.answer(message(DISCOVER, flags=0x8000), LEASE))
    assert fields["flags"] == b"\x80\0"


GOOD = message(DISCOVER)


@pytest.mark.parametrize(
    "sent",
    [b"", GOOD[:239], message(RELEASE), message(DECLINE), message(OFFER), message(0),
     message(REQUEST, (50, GUEST), (54, bytes([10, 0, 2, 7]))),  # to another server
     b"\2" + GOOD[1:], GOOD[:1] + b"\6" + GOOD[2:], GOOD[:2] + b"\x10" + GOOD[3:],
     GOOD[:236] + b"\0\0\0\0" + GOOD[240:], GOOD[:240] + b"\xff" + GOOD[240:],
     GOOD[:241], GOOD[:240] + b"\x35\x02\1", GOOD[:240] + b"\x35\0\xff"],
)  # fmt: skip
def test_what_gets_no_answer(sent: bytes) -> None:
    assert dhcp.answer(sent, LEASE) is None


def test_options_are_found_after_padding_and_before_what_is_cut_off() -> None:
    assert dhcp.answer(GOOD[:240] + b"\0\0\0" + GOOD[240:243] + b"\x3d\xff\1", LEASE) is not None


def test_random_options() -> None:
    random = Random(1)
    answered = 0
    for _ in range(3000):
        sent = bytearray(message(REQUEST, (50, GUEST), (54, SERVER)) + random.randbytes(9))
        for _ in range(random.randrange(4)):
            sent[random.randrange(236, len(sent))] = random.randrange(256)
        reply = dhcp.answer(bytes(sent[: random.randrange(230, len(sent))]), LEASE)
        if reply is not None:
            answered += 1
            read(reply)
    assert answered > 100
