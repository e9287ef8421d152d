"""Runs one guest under an engine and tells what a person would have seen."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 60  # seconds; the slowest guest needs two on a busy machine


class Outcome(NamedTuple):
    """What a finished guest leaves: its two streams and its status (minus the signal's number)."""

    status: int
    out: bytes
    err: bytes

    @property
    def seen(self) -> tuple[int, bytes]:
        """What engines are compared by: complaints on standard error are each engine's own."""
        return self.status, self.out


def run(
    command: Sequence[str | Path],
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = TIMEOUT,
) -> Outcome:
    """Run `command` to its end; at `timeout` its process group is killed and the test fails."""
    # Files, not pipes: a pipe has no end while anything that was left behind holds it.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        ) as process:
            late = False
            try:
                process.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                late = True
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        out.seek(0)
        err.seek(0)
        outcome = Outcome(process.returncode, out.read(), err.read())
    words = " ".join(str(word) for word in command)
    assert not late, f"no end after {timeout} s: {words}\n{explain(outcome, outcome)}"
    return outcome


def qemu(root: Path | None = None) -> list[str]:
    """The words that start a guest under QEMU's user mode."""
    return ["qemu-riscv64", *(["-L", str(root)] if root else [])]


def explain(ours: Outcome, expected: Outcome) -> str:
    """A failure's text: both outcomes in short, and where the output parts."""
    at = next(
        (i for i, (a, b) in enumerate(zip(ours.out, expected.out, strict=False)) if a != b),
        min(len(ours.out), len(expected.out)),
    )
    return (
        f"status {ours.status}, expected {expected.status}; output parts at byte {at}:\n"
        f"  ours     {ours.out[max(0, at - 80) : at + 120]!r}\n"
        f"  expected {expected.out[max(0, at - 80) : at + 120]!r}\n"
        f"  ours said {ours.err[-1500:].decode(errors='replace')}"
    )
