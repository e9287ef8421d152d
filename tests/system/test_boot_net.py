"""Debian's kernel with the network card: a lease, a file fetched, and a forward from outside."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from hartwood.board import RiscvVirt
from hartwood.dev.virtio.net import VirtioNet
from hartwood.guests.catalog import GUESTS
from hartwood.net import Forward, UserNet

FILE = Random(3).randbytes(300_000)
SCRIPT = """cat /sys/class/net/eth0/address; ip -4 addr show eth0; cat /etc/resolv.conf;
ping -c 1 -q 10.0.2.2 >/dev/null && echo answered;
wget -q -O - http://10.0.2.2:{port}/file | sha256sum;
nc -l -p 80 -e /bin/cat & while ! netstat -ltn | grep -q :80; do usleep 20000; done;
echo listening; wait; echo over"""


def serve(listener: socket.socket) -> None:
    """Answer one request."""
    sock, _ = listener.accept()
    with sock:
        request = b""
        while b"\r\n\r\n" not in request:
            request += sock.recv(4096)
        assert request.startswith(b"GET /file ")
        head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(FILE)}\r\n\r\n"
        sock.sendall(head.encode() + FILE)


def converse(port: int, heard: list[bytes]) -> None:
    """Say something through the forward, hear it again, and hang up."""
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        sock.sendall(b"from outside")
        while len(b"".join(heard)) < 12:
            heard.append(sock.recv(100))


def test_a_kernel_is_on_the_network(guest: Callable[[str], Path]) -> None:
    kernel, initrd = GUESTS["debian-riscv64"].paths(guest("debian-riscv64"))
    out, heard = bytearray(), list[bytes]()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(150)
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        net, card = UserNet([Forward("tcp", 0, 80)]), VirtioNet()
        command = SCRIPT.format(port=listener.getsockname()[1]).replace("\n", " ")
        # In quotes, because the kernel takes 32 words.
        append = f'quiet console=ttyS0 -- "{command}"'
        with RiscvVirt(
            kernel=kernel, initrd=initrd, append=append, memory=256 << 20, devices=[card]
        ) as board:
            card.connect(net)
            board.uart.tx = out.extend
            listening, panicked = board.uart.saw(b"listening"), board.uart.saw(b"panic")
            board.run(until=lambda: listening() or panicked(), seconds=150)
            assert listening(), out.decode()
            client = threading.Thread(target=converse, args=(net.forwards[0].host, heard))
            client.start()
            ending = board.run(seconds=60)
            client.join()
        server.join()
    lines = out.decode().replace("\r", "").splitlines()
    assert ending.reason == "poweroff", lines
    assert not card.trouble
    assert "52:54:00:12:34:56" in lines
    assert any("inet 10.0.2.15/24" in line for line in lines), lines
    assert "nameserver 10.0.2.3" in lines
    assert "answered" in lines
    assert f"{hashlib.sha256(FILE).hexdigest()}  -" in lines
    assert b"".join(heard) == b"from outside"
    assert "over" in lines
    assert not net._thread.is_alive()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--net", "bridge"], "--net bridge: user or none"),
        (["--forward", "tcp:8080:80"], "there is no network without --net user"),
        (["--net", "user", "--forward", "tcp:80"], "such as tcp:8080:80"),
        (["--net", "user", "--forward", "tcp:{taken}:80"], "in use; forward another one"),
    ],
)
def test_a_network_that_cannot_be(hartwood_command: list[str], words: list[str], says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [word.format(taken=taken.getsockname()[1]) for word in words]
        done = subprocess.run(
            [*hartwood_command, "boot", "--kernel", "/dev/null", *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
