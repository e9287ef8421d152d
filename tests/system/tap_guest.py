"""A guest for the NAT that nobody here wrote: the host's own kernel, in a network namespace.

Run by `KernelGuest` under `unshare`: makes a TAP interface there, hands its descriptor out over the
socket it was given, and runs the commands that come in. Everything ends with the process.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hartwood.net import UserNet

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_STATIC = (
    "ip link set lo up; ip addr add 10.0.2.15/24 dev tap0; ip link set tap0 mtu {mtu} up;"
    "ip route add default via 10.0.2.2; sysctl -qw net.ipv6.conf.all.disable_ipv6=1 || true"
)


class KernelGuest:
    """A Linux kernel's network stack as the guest of `net`. `lose` says which frames get lost, by
    direction ("out" of the guest or "in") and number."""

    def __init__(
        self, net: UserNet, lose: Callable[[str, int], bool] = lambda direction, number: False
    ) -> None:
        self._net, self._lose = net, lose
        self._counts = {"in": 0, "out": 0}
        ours, theirs = socket.socketpair()
        self._control = ours
        words = ["unshare", *(["-r"] if os.geteuid() else []), "-n", "--", sys.executable]
        words += [str(Path(__file__).resolve()), str(theirs.fileno())]
        self._process = subprocess.Popen(
            words, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True
        )
        theirs.close()
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        if not fds:
            self._process.wait()
            why = (self._process.stderr.read().strip().splitlines() or ["no TAP device"])[-1]
            self._process.stderr.close()
            ours.close()
            net.close()
            pytest.skip(f"missing: a TAP device in a network namespace ({why})")
        self._tap = fds[0]
        self._lines = ours.makefile("rw")
        self._stop_read, self._stop_write = os.pipe()
        self._pump = threading.Thread(target=self._carry, daemon=True)
        self._pump.start()
        net.attach(self._arrive)
        self.run(_STATIC.format(mtu=net.mtu))

    def _lost(self, direction: str) -> bool:
        self._counts[direction] += 1
        return self._lose(direction, self._counts[direction])

    def _arrive(self, frame: bytes) -> bool:
        if not self._lost("in"):
            os.write(self._tap, frame)
        return True

    def _carry(self) -> None:
        import select

        while True:
            ready, _, _ = select.select([self._tap, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            frame = os.read(self._tap, 0x10000)
            if not self._lost("out"):
                self._net.send(frame)

    def run(self, script: str, timeout: float = 60) -> str:
        """What a shell script prints that runs in the guest; it has to succeed."""
        status, output = self.attempt(script, timeout)
        assert status == 0, output
        return output

    def attempt(self, script: str, timeout: float = 60) -> tuple[int, str]:
        """Exit status and output of a script."""
        self._lines.write(json.dumps([script, timeout]) + "\n")
        self._lines.flush()
        status, output = json.loads(self._lines.readline())
        return status, output

    def python(self, program: str, timeout: float = 60) -> str:
        """What a Python program prints that runs in the guest."""
        return self.run(f"exec {sys.executable} - <<'END'\n{program}\nEND", timeout)

    def close(self) -> None:
        """The guest is no more."""
        os.write(self._stop_write, b"x")
        self._pump.join()
        self._net.attach(lambda frame: True)
        self._lines.close()
        self._control.close()
        self._process.wait(20)
        self._process.stderr.close()
        for fd in (self._tap, self._stop_read, self._stop_write):
            os.close(fd)

    def __enter__(self) -> KernelGuest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main(fd: int) -> None:
    """What runs in the namespace."""
    control = socket.socket(fileno=fd)
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", b"tap0", _IFF_TAP | _IFF_NO_PI))
    socket.send_fds(control, [b"x"], [tap])
    lines = control.makefile("rw")
    for line in lines:
        script, timeout = json.loads(line)
        try:
            done = subprocess.run(
                ["sh", "-ec", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=timeout, check=False,
            )  # fmt: skip
            answer = [done.returncode, done.stdout.decode(errors="replace")]
        except subprocess.TimeoutExpired as error:
            answer = [124, (error.stdout or b"").decode(errors="replace") + "\ntimed out"]
        lines.write(json.dumps(answer) + "\n")
        lines.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
