"""A live worker: a process that has benchmarks of one checkout loaded and times them on demand.

`run` drives one, the gate two in lockstep. `hartwood.lab.serve` is the other end of the pipes.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hartwood.lab.workload import LabError, Skip

SERVE = Path(__file__).with_name("serve.py")
#: Seconds without an answer after which a worker counts as hung.
PATIENCE = 120.0
_ERROR_TAIL = 2000


class WorkerLost(LabError):
    """The worker's process died or hung; `workload` is what it was at ("" before any)."""

    def __init__(self, text: str, workload: str) -> None:
        super().__init__(text)
        self.workload = workload


@dataclass(frozen=True)
class Entry:
    """A workload as a worker lists it; the fields are `Workload`'s."""

    name: str
    unit: str
    per_call: int
    family: str
    group: str
    component: str
    bound: float
    gate: bool
    why: str
    clock: str
    peer: str
    instructions: bool = False

    def implausible(self, seconds: float) -> str:
        """Why a call cannot have done its work in `seconds`, or nothing."""
        if seconds >= self.bound * self.per_call:
            return ""
        each = seconds / self.per_call
        return f"implausible: {each:.3g} s for one of its {self.unit}, at least {self.bound:.3g} s"


@dataclass(frozen=True)
class Sample:
    """`loops` calls: seconds of wall and CPU time for all of them together, counters over all of
    them, and what may have disturbed them: involuntary context switches of the process, stolen
    ticks of the machine, garbage collections; `pace` is what a fixed piece of work took around it,
    in seconds of CPU time."""

    loops: int
    wall: float
    cpu: float
    counters: dict[str, int] = field(default_factory=dict)
    switches: int = 0
    steal: int = 0
    collections: int = 0
    pace: float = 0.0


class Worker:
    """One process. Use it as a context manager; `label` names it in errors.

    `paths` go before everything else on its import path, `files` are benchmarks of a user's,
    `own` loads ours, `prefix` are words before the command (setarch, valgrind). Without `collect`
    Python's cyclic collector is off. Raises `LabError` where it cannot start or load a file.
    """

    def __init__(
        self,
        python: str | Path = sys.executable,
        *,
        paths: Iterable[Path] = (),
        files: Iterable[Path] = (),
        own: bool = True,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        collect: bool = True,
        hash_seed: int = 0,
        prefix: Sequence[str] = (),
        label: str = "worker",
        serve: Path = SERVE,
        patience: float = PATIENCE,
    ) -> None:
        self.label = label
        self.patience = patience
        #: Modules of our own benchmarks that this checkout cannot load, and why.
        self.broken: dict[str, str] = {}
        whole = {**os.environ, **(environment or {})}
        before = [str(path) for path in paths]
        if inherited := whole.get("PYTHONPATH"):
            before.append(inherited)
        # What a benchmark leaves in temporary files goes with the worker, however that ends.
        self._folder = tempfile.mkdtemp(prefix="hartwood-lab-")
        whole.update(
            PYTHONPATH=os.pathsep.join(before), PYTHONHASHSEED=str(hash_seed), TMPDIR=self._folder
        )
        self._buffer = b""
        self._errors = bytearray()
        self._over = ""
        try:
            # -P: the folder of serve.py must not be on its path; a session of its own: a terminal's
            # Ctrl-C is for us to handle.
            self._process = subprocess.Popen(
                [*prefix, str(python), "-P", str(serve)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env=whole,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise LabError(f"{label}: {python} cannot be started: {error.strerror}") from None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
        self._selector.register(self._process.stderr, selectors.EVENT_READ)  # type: ignore[arg-type]
        try:
            self._ask("load", own, [str(Path(file).resolve()) for file in files], collect)
        except BaseException:
            self.quit()
            raise

    def list(self) -> list[Entry]:
        """Everything it has; `broken` says what it could not load."""
        reply = self._ask("entries")
        self.broken = dict(reply["broken"])
        return [Entry(**fields) for fields in reply["workloads"]]

    def prepare(self, name: str, seed: int) -> float:
        """Set a workload up and check one call's answer; gives that call's seconds of wall time.

        Raises `Skip` with the reason where this machine cannot run it, else `LabError`.
        """
        return float(self._ask("prepare", name, seed)["wall"])

    def calibrate(self, name: str, target: float) -> int:
        """How many calls of a prepared workload take about `target` seconds."""
        return int(self._ask("calibrate", name, target))

    def sample(self, name: str, loops: int) -> Sample:
        """Time `loops` calls of a prepared workload."""
        return Sample(loops, **self._ask("sample", name, loops))

    def check(self, name: str) -> None:
        """Check the answer of the last timed call. Raises `LabError` where it is wrong."""
        self._ask("check", name)

    def release(self, name: str) -> None:
        """Let go of what was prepared."""
        self._ask("release", name)

    def pin(self, cpus: Iterable[int]) -> None:
        """Keep it on these processors."""
        self._ask("pin", sorted(cpus))

    def imported(self) -> dict[str, Path]:
        """Top-level modules that are not of Python's own, and the files they came from."""
        return {name: Path(file) for name, file in self._ask("imported").items()}

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def quit(self) -> None:
        """End it, and whatever it started; does nothing the second time."""
        if self._over:
            return
        self._over = f"the {self.label} has ended"
        if self._process.poll() is None and self._process.stdin is not None:
            try:
                self._process.stdin.write(b'["quit"]\n')
                self._process.stdin.close()
                self._process.wait(2)
            except (OSError, ValueError, subprocess.TimeoutExpired):
                pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self._process.wait()
        self._selector.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.quit()

    def _ask(self, method: str, *arguments: object) -> Any:
        workload = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        if self._over:
            raise WorkerLost(f"{workload or method}: {self._over}", workload)
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps([method, *arguments]).encode() + b"\n")
        except (OSError, ValueError):
            pass  # it is dead: reading says so, with what it had to say
        reply = json.loads(self._line(workload))
        if "skip" in reply:
            raise Skip(reply["skip"])
        if "error" in reply:
            raise LabError(f"{self.label}: {reply['error']}")
        return reply["ok"]

    def _line(self, workload: str) -> bytes:
        """The next line of answers; keeps the end of what goes to standard error meanwhile."""
        give_up = time.monotonic() + self.patience
        output, errors = self._process.stdout, self._process.stderr
        assert output is not None
        assert errors is not None
        while b"\n" not in self._buffer:
            ready = self._selector.select(max(0.0, give_up - time.monotonic()))
            if not ready:
                self._lost(workload, f"no answer for {self.patience:g} s")
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                if key.fileobj is errors:
                    self._errors = (self._errors + chunk)[-_ERROR_TAIL:]
                    if not chunk:
                        self._selector.unregister(errors)
                elif chunk:
                    self._buffer += chunk
                else:
                    self._lost(workload, "it ended")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _lost(self, workload: str, how: str) -> None:
        if how == "it ended":
            try:
                status = self._process.wait(5)
                how = (
                    f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
                )
            except (subprocess.TimeoutExpired, ValueError):
                pass
        said = bytes(self._errors).decode(errors="replace").strip().splitlines()
        self.quit()
        at = f"{workload}: " if workload else ""
        last = f": {said[-1].strip()[:200]}" if said else ""
        self._over = f"the {self.label} is lost ({how}){last}"
        raise WorkerLost(f"{at}{self._over}", workload)
