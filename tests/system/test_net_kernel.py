"""The NAT against an oracle: the Linux kernel's own network stack is the guest, on a TAP device."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest

from hartwood.net import Forward, UserNet
from hartwood.net.nat import NAMESERVER
from system.tap_guest import KernelGuest

Lose = Callable[[str, int], bool]

DATA = Random(1).randbytes(20 << 20)
DIGEST = hashlib.sha256(DATA).hexdigest()
GET = """
import socket, hashlib
sock = socket.create_connection(("10.0.2.2", {port}))
digest, size = hashlib.sha256(), 0
while data := sock.recv(1 << 16):
    digest.update(data); size += len(data)
print(size, digest.hexdigest())
"""
PUT = """
import socket, random
sock = socket.create_connection(("10.0.2.2", {port}))
sock.sendall(random.Random(1).randbytes(20 << 20)[:{size}])
sock.shutdown(socket.SHUT_WR)
print(sock.recv(100).decode())
"""


@contextmanager
def server(handle: Callable[[socket.socket], None], connections: int = 1) -> Iterator[int]:
    """A TCP server on the loopback; its port. What its handlers raise fails the test."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=300)
    listener.settimeout(60)
    failures: list[BaseException] = []

    def serve(sock: socket.socket) -> None:
        try:
            with sock:
                sock.settimeout(60)
                handle(sock)
        except BaseException as error:
            failures.append(error)

    def accept() -> None:
        threads = []
        for _ in range(connections):
            try:
                sock = listener.accept()[0]
            except OSError:
                break
            threads.append(threading.Thread(target=serve, args=(sock,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        acceptor.join(60)
        listener.close()
    assert not failures, failures


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while part := sock.recv(1 << 16):
        data += part
    return bytes(data)


def send_data(sock: socket.socket) -> None:
    sock.sendall(DATA)


def digest_of_all(sock: socket.socket) -> None:
    """Half close: the answer comes after the end of what is asked."""
    data = read_all(sock)
    sock.sendall(f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode())


@contextmanager
def guest(
    *forwards: str, lose: Lose = lambda direction, number: False, mtu: int = 1500,
    restrict: bool = False, loopback: bool = True,
) -> Iterator[tuple[KernelGuest, UserNet]]:  # fmt: skip
    net = UserNet(
        [Forward.parse(each) for each in forwards], mtu=mtu, restrict=restrict, loopback=loopback
    )
    try:
        with KernelGuest(net, lose) as kernel:
            yield kernel, net
    finally:
        net.close()
    assert not net._connections
    assert not net._thread.is_alive()


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_much_data_both_ways(mtu: int) -> None:
    with guest(mtu=mtu) as (kernel, _net):
        with server(send_data) as port:
            assert kernel.python(GET.format(port=port)).split() == [str(len(DATA)), DIGEST]
        with server(digest_of_all) as port:
            assert kernel.python(PUT.format(port=port, size=len(DATA))).split()[1] == DIGEST


def test_curl_fetches_over_http() -> None:
    def answer(sock: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += sock.recv(4096)
        assert request.startswith(b"GET /file HTTP/1.1")
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20971520\r\n\r\n" + DATA)

    with guest() as (kernel, _net):
        if kernel.attempt("command -v curl")[0]:
            pytest.skip("missing: curl")
        with server(answer) as port:
            out = kernel.run(f"curl -s http://10.0.2.2:{port}/file | sha256sum")
        assert out.split()[0] == DIGEST


@pytest.mark.parametrize("share", [0.01, 0.08])
def test_frames_that_get_lost(share: float) -> None:
    random, lost = Random(7), []

    def lose(direction: str, number: int) -> bool:
        lost.append(random.random() < share)
        return lost[-1]

    size = 2 << 20
    with guest(lose=lose) as (kernel, _net):

        def send_some(sock: socket.socket) -> None:
            sock.sendall(DATA[:size])

        with server(send_some) as port:
            out = kernel.python(GET.format(port=port)).split()
        assert out == [str(size), hashlib.sha256(DATA[:size]).hexdigest()]
        with server(digest_of_all) as port:
            assert kernel.python(PUT.format(port=port, size=size)).split() == out
    assert sum(lost) > 10


def test_many_connections_at_once() -> None:
    """More than may be opening at a time: SYNs that find no room come again."""

    def echo(sock: socket.socket) -> None:
        sock.sendall(read_all(sock))

    count = 150
    program = f"""
import selectors, socket
chosen = selectors.DefaultSelector()
socks = []
for number in range({count}):
    sock = socket.socket(); sock.setblocking(False)
    sock.connect_ex(("10.0.2.2", PORT))
    chosen.register(sock, selectors.EVENT_WRITE, [number.to_bytes(2, "big") * 15_000, b""])
left = {count}
while left:
    for key, events in chosen.select():
        sock, (out, got) = key.fileobj, key.data
        if events & selectors.EVENT_WRITE:
            key.data[0] = out[sock.send(out):]
            if not key.data[0]:
                sock.shutdown(socket.SHUT_WR)
            chosen.modify(sock, selectors.EVENT_READ | (2 if key.data[0] else 0), key.data)
        if events & selectors.EVENT_READ:
            data = sock.recv(65536)
            key.data[1] += data
            if not data:
                number = key.data[1][:2]
                assert key.data[1] == number * 15_000 and not key.data[0], len(key.data[1])
                chosen.unregister(sock); sock.close(); left -= 1
print("all")
"""
    with guest() as (kernel, _net), server(echo, count) as port:
        assert kernel.python(program.replace("PORT", str(port))).strip() == "all"


def test_the_host_ends_first_and_the_guest_goes_on() -> None:
    got = []

    def half(sock: socket.socket) -> None:
        sock.sendall(b"that is all")
        sock.shutdown(socket.SHUT_WR)
        got.append(read_all(sock))

    program = """
import socket, time
sock = socket.create_connection(("10.0.2.2", {port}))
data = b""
while part := sock.recv(100):
    data += part
for _ in range(20):
    sock.sendall(b"more" * 500); time.sleep(0.005)
sock.close()
print(data.decode())
"""
    with guest() as (kernel, _net):
        with server(half) as port:
            assert kernel.python(program.format(port=port)).strip() == "that is all"
        assert got == [b"more" * 10_000]


def refused_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_refusals_and_resets_come_through() -> None:
    reset_seen = []

    def reset(sock: socket.socket) -> None:
        assert sock.recv(2) == b"hi"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def hear_reset(sock: socket.socket) -> None:
        try:
            sock.sendall(b"x")
            while sock.recv(100):
                pass
        except ConnectionResetError:
            reset_seen.append(True)

    program = """
import socket
try:
    sock = socket.create_connection(("10.0.2.2", {port}))
    sock.sendall(b"hi")
    print("end" if not sock.recv(10) else "data")
except OSError as error:
    print(type(error).__name__)
"""
    hard = """
import socket
sock = socket.create_connection(("10.0.2.2", {port}))
sock.recv(1)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
sock.close()
"""
    with guest() as (kernel, _net):
        out = kernel.python(program.format(port=refused_port()))
        assert out.strip() == "ConnectionRefusedError"
        with server(reset) as port:
            assert kernel.python(program.format(port=port)).strip() == "ConnectionResetError"
        with server(hear_reset) as port:
            kernel.python(hard.format(port=port))
        assert reset_seen == [True]


def test_a_slow_reader_holds_the_other_side_up_in_both_directions() -> None:
    """Windows close, are probed, and open again; buffers stay bounded."""
    most = []

    def send_until_full(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        sock.sendall(DATA[: 8 << 20])

    def read_late(sock: socket.socket) -> None:
        time.sleep(0.7)
        digest_of_all(sock)

    slow = GET.replace("digest, size", "import time; time.sleep(1.5)\ndigest, size")
    slow = slow.replace("import socket", "import socket", 1).replace(
        'sock = socket.create_connection(("10.0.2.2", {port}))',
        "sock = socket.socket()\n"
        "sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)\n"
        'sock.connect(("10.0.2.2", {port}))',
    )
    with guest() as (kernel, net):
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.01):
                for each in list(net._connections.values()):
                    most.append(max(len(each._out), len(each._in)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        with server(send_until_full) as port:
            _size, digest = kernel.python(slow.format(port=port)).split()
        assert digest == hashlib.sha256(DATA[: 8 << 20]).hexdigest()
        with server(read_late) as port:
            assert kernel.python(PUT.format(port=port, size=len(DATA))).split()[1] == DIGEST
        stop.set()
        watcher.join()
    assert 1 << 17 < max(most) <= 1 << 18


def test_a_guest_without_buffers_gets_everything_later() -> None:
    """The card says that it has no room every now and then, as a driver's queue does."""
    with guest() as (kernel, net):
        deliver, count, most = kernel._arrive, [0], [0]

        def arrive(frame: bytes) -> bool:
            count[0] += 1
            most[0] = max(most[0], len(net._waiting))
            if count[0] % 40 == 0:
                threading.Timer(0.002, net.resume).start()
                return False
            return deliver(frame)

        net.attach(arrive)
        with server(send_data) as port:
            assert kernel.python(GET.format(port=port)).split() == [str(len(DATA)), DIGEST]
        assert 0 < most[0] <= 128


def test_forwards_reach_the_guest() -> None:
    listener = """
import socket, threading
def tcp():
    for _ in range(2):
        one, who = server.accept()
        assert who[0] == "10.0.2.2"
        data = b""
        while part := one.recv(65536): data += part
        one.sendall(data[::-1]); one.close()
def udp():
    for _ in range(4):
        data, who = sock.recvfrom(65536)
        sock.sendto(data[::-1], who)
server = socket.create_server(("", 80))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.bind(("", 90))
socket.create_connection(("10.0.2.2", {ready})).close()
threads = [threading.Thread(target=each) for each in (tcp, udp)]
[each.start() for each in threads]; [each.join() for each in threads]
print("done")
"""
    with guest("tcp:0:80", "udp:0:90") as (kernel, net):
        ports = {each.kind: each.host for each in net.forwards}
        out: list[str] = []
        with server(lambda sock: None) as ready:
            program = listener.format(ready=ready)
            thread = threading.Thread(target=lambda: out.append(kernel.python(program)))
            thread.start()
        for size in (5, 3 << 20):
            with socket.create_connection(("127.0.0.1", ports["tcp"]), 30) as sock:
                sock.sendall(DATA[:size])
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock) == DATA[:size][::-1]
        for size in (3, 4000):  # two peers, each twice: the longer datagrams in fragments
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.settimeout(20)
                udp.connect(("127.0.0.1", ports["udp"]))
                for start in (0, 9):
                    part = DATA[start : start + min(size, 1400)]
                    udp.send(part)
                    assert udp.recv(65536) == part[::-1]
        thread.join()
        assert out == ["done\n"]


def test_a_forward_to_a_port_where_nobody_listens_is_reset() -> None:
    def ask(port: int) -> None:
        with socket.socket() as sock:
            sock.settimeout(30)
            sock.connect(("127.0.0.1", port))
            sock.recv(1)

    with guest("tcp:0:80") as (_kernel, net):
        for _ in range(100):
            with pytest.raises(ConnectionResetError):
                ask(net.forwards[0].host)


def test_datagrams_large_ones_and_a_port_that_is_not_there() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(30)

        def echo() -> None:
            for _ in range(3):
                data, who = sock.recvfrom(65536)
                sock.sendto(data * 40, who)

        thread = threading.Thread(target=echo)
        thread.start()
        program = f"""
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.settimeout(20)
sock.connect(("10.0.2.2", {sock.getsockname()[1]}))
for size in (0, 100, 1000):
    sock.send(b"x" * size)
    assert sock.recv(65536) == b"x" * size * 40
sock.connect(("10.0.2.2", {refused_port()}))
sock.send(b"anybody?")
for attempt in range(100):
    try:
        sock.send(b"anybody?"); sock.settimeout(0.1); sock.recv(10)
    except ConnectionRefusedError:
        print("refused"); break
    except TimeoutError:
        pass
"""
        with guest() as (kernel, _net):
            assert kernel.python(program).strip() == "refused"
        thread.join()


class WithServer(UserNet):
    """A name server of the test's own stands in for the host's."""

    server = ("", 0)

    def outside(self, target: bytes, port: int) -> tuple[str, int] | None:
        return self.server if (target, port) == (NAMESERVER, 53) else None


def test_questions_go_to_the_name_server_over_udp_and_tcp() -> None:
    program = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.settimeout(20)
sock.sendto(b"a question", ("10.0.2.3", 53))
print(*sock.recvfrom(100))
sock = socket.create_connection(("10.0.2.3", 53))
sock.sendall(b"a question"); print(sock.recv(100))
"""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        server(lambda sock: sock.sendall(sock.recv(100).upper())) as port,
    ):
        udp.bind(("127.0.0.1", port))
        udp.settimeout(30)
        net = WithServer()
        net.server = ("127.0.0.1", port)

        def answer() -> None:
            data, who = udp.recvfrom(100)
            udp.sendto(data.upper(), who)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with KernelGuest(net) as kernel:
                out = kernel.python(program).splitlines()
        finally:
            net.close()
        thread.join()
    assert out == ["b'A QUESTION' ('10.0.2.3', 53)", "b'A QUESTION'"]


def test_the_gateway_answers_pings_and_arp() -> None:
    program = """
import os, socket, struct
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP); sock.settimeout(20)
def words(data): return sum(word for (word,) in struct.iter_unpack("!H", data))
def ping(address, size):
    body = struct.pack("!HH", 77, size) + bytes(size)
    total = 0x800 + words(body)
    total = (total & 0xFFFF) + (total >> 16)
    sock.sendto(struct.pack("!BBH", 8, 0, ~(total + (total >> 16)) & 0xFFFF) + body, (address, 0))
    while True:
        got, who = sock.recvfrom(4000)
        if got[20] == 0 and got[24:] == body: return who[0]
print(ping("10.0.2.2", 56), ping("10.0.2.3", 1400), ping("10.0.2.2", 0))
"""
    with guest() as (kernel, _net):
        assert kernel.python(program).strip() == "10.0.2.2 10.0.2.3 10.0.2.2"
        neighbours = kernel.run("ip neigh show")
        assert neighbours.count("lladdr 52:55:0a:00:02:02") == 2
        kernel.attempt("exec 3<>/dev/udp/10.0.2.99/9 || true")
        assert "10.0.2.99 dev tap0 lladdr" not in kernel.run("ip neigh show")


REACH = """
import socket
for address in {addresses}:
    try:
        socket.create_connection((address, {port}), 5).close()
        print("reached")
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [((False, True), "reached"), ((False, False), "ConnectionRefusedError"),
     ((True, True), "ConnectionRefusedError")],
)  # fmt: skip
def test_what_the_guest_may_reach(options: tuple[bool, bool], expected: str) -> None:
    restrict, loopback = options
    with (
        guest(restrict=restrict, loopback=loopback) as (kernel, _net),
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        port = listener.getsockname()[1]
        out = kernel.python(REACH.format(addresses=["10.0.2.2"], port=port)).split()
        assert out == [expected]
        # Never by another name, which would be the host's own, everybody's or nobody's.
        kernel.run("ip route add 0.0.0.0/8 via 10.0.2.2 || true")
        addresses = ["10.0.2.3", "224.0.0.1", "240.0.0.1"]
        out = kernel.python(REACH.format(addresses=addresses, port=port)).split()
        assert "reached" not in out


def test_the_process_keeps_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with guest("tcp:0:80", "udp:0:80") as (kernel, _net), server(digest_of_all, 1) as port:
        kernel.python(PUT.format(port=port, size=10))
    assert len(os.listdir("/proc/self/fd")) == before
