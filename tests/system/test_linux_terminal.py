"""A shell at a terminal: job control, interrupts, end of file, as a person meets them."""

from __future__ import annotations

import os
import pty
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest


class Terminal:
    """A program on a pseudo-terminal; `expect` waits for text and `send` types."""

    def __init__(self, command: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["PS1"] = "$ "
            os.execv(command[0], command)
        self.seen = b""

    def expect(self, text: bytes, timeout: float = 20) -> bytes:
        end = time.monotonic() + timeout
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self.seen[-500:]!r}"
            part = self.read()
            assert part, f"the end instead of {text!r}, after {self.seen[-500:]!r}"
            self.seen += part
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def read(self) -> bytes:
        try:
            return os.read(self.fd, 4096)
        except OSError:  # EIO: the other end is closed
            return b""

    def send(self, text: bytes) -> None:
        os.write(self.fd, text)

    def end(self) -> int:
        while self.read():
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def shell(guest: Callable[[str], Path], hartwood_command: list[str]) -> Terminal:
    root = str(guest("riscv64-sysroot"))
    shell = ["/usr/bin/bash", "--norc", "--noprofile", "-i"]
    terminal = Terminal([*hartwood_command, "run", "--root", root, *shell])
    terminal.expect(b"$ ")
    return terminal


def test_stop_continue_interrupt_and_end_of_file(shell: Terminal) -> None:
    shell.send(b"sleep 100\n")
    time.sleep(0.7)
    shell.send(b"\x1a")  # Ctrl-Z
    shell.expect(b"Stopped")
    shell.expect(b"$ ")
    shell.send(b"jobs\n")
    shell.expect(b"sleep 100")
    shell.expect(b"$ ")
    shell.send(b"bg\n")
    shell.expect(b"$ ")
    shell.send(b"fg\n")
    shell.expect(b"sleep 100")
    time.sleep(0.3)
    shell.send(b"\x03")  # Ctrl-C
    shell.expect(b"$ ")
    shell.send(b"echo status-$?\n")
    shell.expect(b"status-130")
    shell.expect(b"$ ")
    shell.send(b"cat\n")
    time.sleep(0.3)
    shell.send(b"typed\n")
    shell.expect(b"typed\r\ntyped")
    shell.send(b"\x04")  # Ctrl-D
    shell.expect(b"$ ")
    shell.send(b"exit 5\n")
    assert shell.end() == 5


def test_the_shell_itself_can_be_stopped_and_continued(shell: Terminal) -> None:
    shell.send(b"kill -STOP $$; echo going-$((1+1))\n")
    _, status = os.waitpid(shell.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert os.WSTOPSIG(status) == signal.SIGSTOP
    os.kill(shell.pid, signal.SIGCONT)
    shell.expect(b"going-2")
    shell.send(b"exit\n")
    assert shell.end() == 0


def hung_up(terminal: Terminal) -> int:
    """How a shell with a trap ends that is hung up while it waits for a line. It has to be
    waiting: bash itself misses a signal between printing its prompt and that."""
    terminal.send(b"trap 'exit 9' HUP; echo set-$((1+1))\n")
    terminal.expect(b"set-2")
    terminal.expect(b"$ ")
    time.sleep(1)
    os.kill(terminal.pid, signal.SIGHUP)
    return terminal.end()


def test_hanging_up_ends_the_shell_as_it_does_natively(shell: Terminal) -> None:
    native = Terminal(["/bin/bash", "--norc", "--noprofile", "-i"])
    native.expect(b"$ ")
    assert hung_up(shell) == hung_up(native)


def test_the_window_size_reaches_the_guest(shell: Terminal) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(shell.fd, termios.TIOCSWINSZ, struct.pack("<HHHH", 33, 77, 0, 0))
    shell.send(b"stty size\n")
    shell.expect(b"33 77")
    shell.send(b"exit\n")
    assert shell.end() == 0
