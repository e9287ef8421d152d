"""What every test may ask for: oracles (programs of the machine's), guests, the command itself.

A missing oracle skips the test with one line that says what is missing; with CI=true it fails,
since there the set-up must have installed it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from hartwood.guests import GuestError, fetch

# A shell that starts us in the background leaves SIGINT and SIGQUIT ignored, and what is ignored is
# inherited: guests would rightly not hear what tests send them.
for _signo in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_signo) is signal.SIG_IGN:
        _default = signal.default_int_handler if _signo == signal.SIGINT else signal.SIG_DFL
        signal.signal(_signo, _default)

settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile(
    "ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("soak", deadline=None, max_examples=5000)
settings.load_profile(
    "soak" if os.environ.get("HARTWOOD_SOAK") else "ci" if os.environ.get("CI") else "default"
)


def unavailable(what: str) -> None:
    """Skip the test for want of `what`, or fail it with CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing in CI: {what}", pytrace=False)
    pytest.skip(f"missing: {what}")


@pytest.fixture(scope="session")
def oracle() -> Callable[[str], str]:
    """`oracle("qemu-riscv64")` is the path of that program of the machine's."""

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is None:
            unavailable(f"{program} (scripts/oracles.sh installs it)")
        assert path is not None
        return path

    return find


@pytest.fixture(scope="session")
def guest() -> Callable[[str], Path]:
    """`guest("riscv64-sysroot")` is the path of that guest, fetched when it is not here."""

    def get(name: str) -> Path:
        try:
            return fetch(name)
        except GuestError as error:
            unavailable(f"guest {name}: {error}")
            raise

    return get


@pytest.fixture(scope="session")
def hartwood_command() -> list[str]:
    """The words that start `hartwood` with the interpreter that runs the tests."""
    script = Path(sys.executable).parent / "hartwood"
    return [str(script)] if script.exists() else [sys.executable, "-m", "hartwood"]
