"""UDP through the NAT: who talks to whom, on which host socket, and for how long."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

#: Guest's address and port, the remote side's address and port, as the guest sees them.
Key = tuple[bytes, int, bytes, int]
Address = tuple[str, int]
#: Flows at most (the one idle for longest goes), and seconds without a datagram that end one.
MOST_FLOWS, IDLE = 256, 60.0


@dataclass
class Flow:
    """Datagrams between two ends. `peer` is whom the host's socket, a forward's, sends to; None
    where the socket is the flow's own, and connected."""

    key: Key
    sock: socket.socket
    peer: Address | None
    used: float

    def send(self, data: bytes) -> None:
        """From the guest to the host's network. Raises `OSError` as sockets do."""
        if self.peer is None:
            self.sock.send(data)
        else:
            self.sock.sendto(data, self.peer)


class Flows:
    """The table of flows, in the order in which they were used."""

    def __init__(self) -> None:
        self._by_key: dict[Key, Flow] = {}
        self._by_peer: dict[tuple[int, Address], Flow] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Flow]:
        return iter(list(self._by_key.values()))

    def __contains__(self, key: Key) -> bool:
        return key in self._by_key

    def find(self, key: Key, now: float) -> Flow | None:
        """The flow of these two ends, which is being used."""
        return self._use(self._by_key.get(key), now)

    def find_peer(self, sock: socket.socket, peer: Address, now: float) -> Flow | None:
        """The flow of somebody who sent to a forward's socket; it is being used."""
        return self._use(self._by_peer.get((sock.fileno(), peer)), now)

    def _use(self, flow: Flow | None, now: float) -> Flow | None:
        if flow is not None:
            flow.used = now
            self._by_key[flow.key] = self._by_key.pop(flow.key)
        return flow

    def add(self, flow: Flow) -> None:
        """A flow begins; there is room (`oldest`)."""
        self._by_key[flow.key] = flow
        if flow.peer is not None:
            self._by_peer[flow.sock.fileno(), flow.peer] = flow

    def oldest(self) -> Flow | None:
        """The flow that was not used for longest."""
        return next(iter(self._by_key.values()), None)

    def remove(self, flow: Flow) -> None:
        """A flow has ended."""
        del self._by_key[flow.key]
        if flow.peer is not None:
            del self._by_peer[flow.sock.fileno(), flow.peer]
