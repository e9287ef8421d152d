"""The network behind a guest's card, on nothing but the host's sockets: no root, no interface.

The guest sees what QEMU's user network shows: 10.0.2.2 is the gateway, DHCP server and the host's
loopback, 10.0.2.3 the host's name server, and 10.0.2.15 is the guest. One thread does everything;
frames come in by `send` from any thread and go out by what `attach` was given.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from math import inf
from time import monotonic

from hartwood.errors import Error
from hartwood.net import dhcp, wire
from hartwood.net.flows import IDLE, MOST_FLOWS, Address, Flow, Flows, Key
from hartwood.net.tcp import Connection, Phase

GATEWAY, NAMESERVER, GUEST = bytes([10, 0, 2, 2]), bytes([10, 0, 2, 3]), bytes([10, 0, 2, 15])
_MASK, _EVERYBODY = bytes([255, 255, 255, 0]), b"\xff" * 4
_OURS = (GATEWAY, NAMESERVER)
#: Our end of the wire has this address (locally administered), the guest's card that one.
MAC, GUEST_MAC = b"\x52\x55\x0a\0\x02\x02", b"\x52\x54\0\x12\x34\x56"
#: Connections at most, and those among them that are not yet open.
MOST_CONNECTIONS, MOST_OPENING = 256, 64
#: Frames that wait for the guest's buffers before connections pause, and at most; frames of the
#: guest's that wait for us.
_PAUSE, _MOST_WAITING, _MOST_INBOX = 64, 512, 1024
_FIRST_PORT = 49_152
_MOST_UNHEARD = 16  # packets that are kept for a guest that was not heard yet
_BURST = 32  # datagrams or connections taken from one socket in a row
_DNS = 53


class NetError(Error):
    """A network that cannot be had as asked."""

    exit_status = 2


@dataclass(frozen=True)
class Forward:
    """What arrives at a port of the host's loopback goes to a port of the guest's. `kind` is "tcp"
    or "udp"; host port 0 is any free one."""

    kind: str
    host: int
    guest: int

    @classmethod
    def parse(cls, text: str) -> Forward:
        """Read "tcp:HOST:GUEST". Raises `NetError`."""
        kind, *ports = text.split(":")
        numbers = [int(port) if port.isdecimal() else -1 for port in ports]
        fits = len(numbers) == 2 and 0 <= numbers[0] < 1 << 16 and 0 < numbers[1] < 1 << 16
        if kind not in ("tcp", "udp") or not fits:
            raise NetError(f"--forward {text}: tcp or udp and two ports, such as tcp:8080:80")
        return cls(kind, *numbers)


def nameserver(path: str = "/etc/resolv.conf") -> str | None:
    """The first name server that the host uses, None where it names none."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            words = [line.split() for line in file]
    except OSError:
        return None
    named = (each[1] for each in words if each[:1] == ["nameserver"] and each[1:])
    return next((each for each in named if _is_address(each)), None)


class UserNet:
    """User-mode NAT. `mtu` is the wire's (576 to 65,535); the guest learns it by DHCP.

    `restrict` leaves the guest alone with its forwards; without `loopback` it reaches everything
    but the host's loopback. Raises `NetError` for a port that cannot be had.
    """

    def __init__(
        self,
        forwards: Iterable[Forward] = (),
        *,
        restrict: bool = False,
        loopback: bool = True,
        mtu: int = 1500,
    ) -> None:
        if not 576 <= mtu <= 0xFFFF:
            raise NetError(f"an MTU of {mtu} cannot be; 576 to 65535 can")
        self.mac, self.mtu = GUEST_MAC, mtu
        self._restrict, self._loopback = restrict, loopback
        #: Whose frames are the guest's: its card's, as far as we know, until it was heard; and what
        #: it was sent before that.
        self._guest_mac, self._heard = self.mac, False
        self._unheard: deque[bytes] = deque(maxlen=_MOST_UNHEARD)
        self._receive: Callable[[bytes], bool] = lambda _: False
        self._inbox: deque[bytes] = deque()
        self._waiting: deque[bytes] = deque()
        self._connections: dict[Key, Connection] = {}
        self._flows = Flows()
        #: Connections that something has happened to in this turn, and those refused room.
        self._touched: dict[Key, None] = {}
        self._starved: dict[Key, None] = {}
        self._now, self._due, self._ident, self._port = monotonic(), inf, 0, 0
        self._selector = selectors.DefaultSelector()
        self._waker, woken = socket.socketpair()
        self._awake = self._closing = False
        self._watch(woken, selectors.EVENT_READ, lambda _: woken.recv(1))
        #: The forwards with the ports that they really have.
        self.forwards: list[Forward] = []
        self._listeners = [woken, self._waker]
        try:
            for forward in forwards:
                self._listen(forward)
        except NetError:
            self._release()
            raise
        self._thread = threading.Thread(target=self._run, name="hartwood-net", daemon=True)
        self._thread.start()

    # The card's side, from any thread.
    def send(self, frame: bytes) -> None:
        """The guest sends; what is longer than the wire takes or finds no room is lost."""
        fits = len(frame) <= wire.ETHERNET_HEADER + self.mtu
        if fits and len(self._inbox) < _MOST_INBOX:
            self._inbox.append(frame)
            self._wake()

    def attach(self, receive: Callable[[bytes], bool]) -> None:
        """What to call, on the network's thread, with each frame for the guest. It returns False
        when the guest has no buffer: frames wait then until `resume`."""
        self._receive = receive
        self._wake()

    def resume(self) -> None:
        """The guest has buffers again."""
        self._wake()

    def close(self) -> None:
        """End all connections, forwards and the thread."""
        self._closing = True
        self._awake = False
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            try:
                self._waker.send(b"x")
            except OSError:
                pass  # closed

    # The thread.
    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        finally:
            self._release()

    def _turn(self) -> None:
        wait = max(self._due - monotonic(), 0) if self._due < inf else None
        ready = self._selector.select(wait)
        self._awake = False  # from here on a frame that comes ends the next wait
        self._now = monotonic()
        for key, events in ready:
            key.data(events)
        for _ in range(len(self._inbox)):
            self._frame(self._inbox.popleft())
        self._deliver()
        if self._now >= self._due:
            self._tick()
        touched, self._touched = self._touched, {}
        for each in touched:
            self._settle(each)

    def _tick(self) -> None:
        self._due = inf
        for key, connection in self._connections.items():
            if connection.deadline <= self._now:
                connection.tick(self._now)
                self._touched[key] = None
            self._due = min(self._due, connection.deadline)
        for flow in self._flows:
            if flow.used + IDLE <= self._now:
                self._end(flow)
            else:
                self._due = min(self._due, flow.used + IDLE)

    def _settle(self, key: Key) -> None:
        connection = self._connections.get(key)
        if connection is None:
            return
        connection.settle(self._now)
        self._due = min(self._due, connection.deadline)
        if connection.sock.fileno() >= 0:
            self._watch(connection.sock, connection.interest, partial(self._event, key))
            if connection.phase in (Phase.LINGER, Phase.CLOSED):
                connection.sock.close()
        if connection.phase is Phase.CLOSED:
            del self._connections[key]

    def _watch(self, file: socket.socket | int, events: int, call: Callable[[int], object]) -> None:
        """Have `call` called when one of `events` comes, from now on; never with none."""
        known = self._selector.get_map().get(file)
        if known is None:
            if events:
                self._selector.register(file, events, call)
        elif not events:
            self._selector.unregister(file)
        elif known.events != events:
            self._selector.modify(file, events, call)

    def _event(self, key: Key, events: int) -> None:
        connection = self._connections.get(key)
        if connection is not None:
            if events & selectors.EVENT_READ:
                connection.readable()
            if events & selectors.EVENT_WRITE:
                connection.writable(self._now)
            self._touched[key] = None

    def _release(self) -> None:
        for connection in self._connections.values():
            connection.abort()
            connection.sock.close()
        self._connections.clear()
        for flow in self._flows:
            flow.sock.close()
        for listener in self._listeners:
            listener.close()
        self._selector.close()

    # Towards the guest.
    def _put(self, packet: wire.Packet) -> None:
        self._ident = self._ident + 1 & 0xFFFF
        for data in wire.packets(packet, self._ident, self.mtu):
            self._put_frame(wire.IPV4, data)

    def _put_frame(self, kind: int, payload: bytes, target: bytes = b"") -> None:
        if not self._heard and kind == wire.IPV4:  # it may have given its card another address
            self._unheard.append(payload)
            asked = wire.Arp(1, MAC, GATEWAY, bytes(6), GUEST)
            self._put_frame(wire.ARP, asked.packed(), wire.BROADCAST)
        frame = wire.Frame(target or self._guest_mac, MAC, kind, payload).packed()
        if (self._waiting or not self._receive(frame)) and len(self._waiting) < _MOST_WAITING:
            self._waiting.append(frame)

    def _deliver(self) -> None:
        """Hand over what waits, and let those go on who were refused room."""
        while self._waiting and self._receive(self._waiting[0]):
            self._waiting.popleft()
        if self._starved and len(self._waiting) < _PAUSE:
            self._touched |= self._starved
            self._starved = {}

    def _room(self, key: Key) -> bool:
        if len(self._waiting) < _PAUSE:
            return True
        self._starved[key] = None
        return False

    # What the guest sends.
    def _frame(self, data: bytes) -> None:
        frame = wire.frame(data)
        if frame is None or frame.source[0] & 1 or not (frame.target == MAC or frame.target[0] & 1):
            return
        before, self._guest_mac, self._heard = self._guest_mac, frame.source, True
        while self._unheard:
            payload = self._unheard.popleft()
            if frame.source != before:
                self._put_frame(wire.IPV4, payload)
        if frame.kind == wire.ARP:
            self._arp(frame.payload)
        elif frame.kind == wire.IPV4:
            packet = wire.packet(frame.payload)
            if packet is not None:
                self._packet(packet)

    def _arp(self, payload: bytes) -> None:
        asked = wire.arp(payload)
        if asked is not None and asked.operation == 1 and asked.target in _OURS:
            reply = wire.Arp(2, MAC, asked.target, asked.sender_mac, asked.sender)
            self._put_frame(wire.ARP, reply.packed(), asked.sender_mac)

    def _packet(self, packet: wire.Packet) -> None:
        if packet.protocol == wire.UDP:
            sent = wire.datagram(packet)
            if sent is None:
                return
            if sent.target == dhcp.SERVER_PORT and packet.target in (GATEWAY, _EVERYBODY):
                self._dhcp(sent.data)
                return
        if packet.source[:3] != GATEWAY[:3] or packet.source in _OURS:
            return
        if packet.protocol == wire.UDP:
            assert sent is not None
            self._udp(packet, sent)
        elif packet.protocol == wire.TCP:
            segment = wire.segment(packet)
            if segment is not None:
                self._tcp(packet, segment)
        elif packet.protocol == wire.ICMP and packet.target in _OURS:
            reply = wire.echo_reply(packet.payload)
            if reply is not None:
                self._put(wire.Packet(packet.target, packet.source, wire.ICMP, reply))

    def _dhcp(self, message: bytes) -> None:
        lease = dhcp.Lease(GUEST, _MASK, GATEWAY, NAMESERVER, self.mtu)
        reply = dhcp.answer(message, lease)
        if reply is not None:  # to everybody: the guest has no address yet (RFC 2131, 4.1)
            sent = wire.Datagram(dhcp.SERVER_PORT, dhcp.CLIENT_PORT, reply)
            self._put(wire.udp(GATEWAY, _EVERYBODY, sent))

    def outside(self, target: bytes, port: int) -> Address | None:
        """Where on the host's network an address of the guest's leads; None where it must not."""
        if self._restrict:
            return None
        if target == GATEWAY:
            return ("127.0.0.1", port) if self._loopback else None
        if target == NAMESERVER:
            server = nameserver()
            return (server, port) if server is not None and port == _DNS else None
        # This network, "this host", loopback, multicast and what is reserved (RFC 6890).
        if target[:3] == GATEWAY[:3] or target[0] in (0, 127) or target[0] >= 224:
            return None
        return socket.inet_ntoa(target), port

    # UDP.
    def _udp(self, packet: wire.Packet, sent: wire.Datagram) -> None:
        key = (packet.source, sent.source, packet.target, sent.target)
        flow = self._flows.find(key, self._now)
        if flow is None:
            address = self.outside(packet.target, sent.target)
            if address is None:
                if packet.target[3] != 0xFF and packet.target[0] < 224:
                    self._unreachable(13, packet)
                return
            flow = self._begin(key, address)
        if flow is not None:
            self._try(flow, lambda: flow.send(sent.data))

    def _begin(self, key: Key, address: Address) -> Flow | None:
        """A flow of its own socket; None where the host has none."""
        try:
            sock = socket.socket(_family(address), socket.SOCK_DGRAM)
        except OSError:
            return None
        sock.setblocking(False)
        flow = Flow(key, sock, None, self._now)
        if sock.connect_ex(address):
            sock.close()
            return None
        self._add(flow)
        self._watch(sock, selectors.EVENT_READ, lambda _: self._datagrams(flow))
        return flow

    def _add(self, flow: Flow) -> None:
        oldest = self._flows.oldest()
        if oldest is not None and len(self._flows) >= MOST_FLOWS:
            self._end(oldest)
        self._flows.add(flow)
        self._due = min(self._due, self._now + IDLE)

    def _end(self, flow: Flow) -> None:
        self._flows.remove(flow)
        if flow.peer is None:
            self._watch(flow.sock, 0, bool)
            flow.sock.close()

    def _try(self, flow: Flow, call: Callable[[], object]) -> bool:
        """Do something with a flow's socket; the guest hears when the port is not there."""
        try:
            call()
        except ConnectionRefusedError:
            guest, guest_port, remote, port = flow.key
            cause = wire.udp(guest, remote, wire.Datagram(guest_port, port, b""))
            self._unreachable(3, cause)
            return False
        except OSError:
            return False
        return True

    def _unreachable(self, code: int, cause: wire.Packet) -> None:
        message = wire.unreachable(code, cause)
        self._put(wire.Packet(GATEWAY, cause.source, wire.ICMP, message))

    def _datagrams(self, flow: Flow) -> None:
        """A flow's socket has something."""
        for _ in range(_BURST):
            if flow.key not in self._flows or not self._try(flow, lambda: self._datagram(flow)):
                return

    def _datagram(self, flow: Flow) -> None:
        self._to_guest(flow, flow.sock.recv(0xFFFF))

    def _to_guest(self, flow: Flow, data: bytes) -> None:
        guest, guest_port, remote, port = flow.key
        self._flows.find(flow.key, self._now)
        self._put(wire.udp(remote, guest, wire.Datagram(port, guest_port, data)))

    # TCP.
    def _tcp(self, packet: wire.Packet, got: wire.Segment) -> None:
        key = (packet.source, got.source, packet.target, got.target)
        connection = self._connections.get(key)
        opens = got.flags & (wire.SYN | wire.ACK | wire.RST) == wire.SYN
        if connection is not None and not (opens and connection.phase is Phase.LINGER):
            connection.receive(got, self._now)
            if connection.phase is Phase.CLOSED:
                self._settle(key)  # now: the next frame may open another one
            else:
                self._touched[key] = None
        elif opens:
            self._connect(key, packet, got)
        elif not got.flags & wire.RST:
            self._refuse(packet, got)

    def _refuse(self, packet: wire.Packet, got: wire.Segment) -> None:
        """Reset what there is no connection for (RFC 9293, 3.10.7.1)."""
        if got.flags & wire.ACK:
            seq, ack, flags = got.ack, 0, wire.RST
        else:
            length = len(got.data) + bool(got.flags & wire.SYN) + bool(got.flags & wire.FIN)
            seq, ack, flags = 0, got.seq + length, wire.RST | wire.ACK
        reply = wire.Segment(got.target, got.source, seq, ack, flags, 0)
        self._put(wire.tcp(packet.target, packet.source, reply))

    def _full(self) -> bool:
        """Whether there may be no further connection now; a SYN that is ignored comes again."""
        phases = [each.phase for each in self._connections.values()]
        opening = sum(phase not in (Phase.OPEN, Phase.LINGER) for phase in phases)
        return opening >= MOST_OPENING or len(phases) >= MOST_CONNECTIONS

    def _connect(self, key: Key, packet: wire.Packet, syn: wire.Segment) -> None:
        address = self.outside(packet.target, syn.target)
        if address is None:
            self._refuse(packet, syn)
            return
        if self._full():
            return
        try:
            sock = socket.socket(_family(address), socket.SOCK_STREAM)
        except OSError:
            return
        sock.setblocking(False)
        if sock.connect_ex(address) not in (0, errno.EINPROGRESS):
            sock.close()
            self._refuse(packet, syn)
            return
        self._bridge(key, sock, syn)

    def _bridge(self, key: Key, sock: socket.socket, syn: wire.Segment | None) -> None:
        guest, guest_port, remote, port = key
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def emit(segment: wire.Segment) -> None:
            self._put(wire.tcp(remote, guest, segment))

        mss = self.mtu - wire.IPV4_HEADER - wire.TCP_HEADER
        self._connections[key] = Connection(
            sock, port, guest_port, emit, partial(self._room, key), mss, self._now, syn
        )
        self._touched[key] = None

    # Forwards.
    def _listen(self, forward: Forward) -> None:
        stream = forward.kind == "tcp"
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        self._listeners.append(sock)
        sock.setblocking(False)
        try:
            if stream:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", forward.host))
            if stream:
                sock.listen(128)
        except OSError as error:
            raise NetError(
                f"port {forward.host} of 127.0.0.1 ({forward.kind}): {error.strerror}; "
                "forward another one"
            ) from None
        self.forwards.append(Forward(forward.kind, sock.getsockname()[1], forward.guest))
        take = self._accept if stream else self._take
        self._watch(sock, selectors.EVENT_READ, lambda _: take(sock, forward.guest))

    def _new_key(self, guest_port: int) -> Key:
        """The ends of a forwarded conversation: the gateway's port is one that is free."""
        while True:
            self._port = (self._port + 1) % (0x1_0000 - _FIRST_PORT)
            key = (GUEST, guest_port, GATEWAY, _FIRST_PORT + self._port)
            if key not in self._connections and key not in self._flows:
                return key

    def _accept(self, listener: socket.socket, guest_port: int) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if self._full():
            sock.close()
            return
        sock.setblocking(False)
        self._bridge(self._new_key(guest_port), sock, None)

    def _take(self, listener: socket.socket, guest_port: int) -> None:
        for _ in range(_BURST):
            try:
                data, peer = listener.recvfrom(0xFFFF)
            except OSError:
                return
            flow = self._flows.find_peer(listener, peer, self._now)
            if flow is None:
                flow = Flow(self._new_key(guest_port), listener, peer, self._now)
                self._add(flow)
            self._to_guest(flow, data)


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
