"""What tests of disk images share: QEMU as the oracle, patches to a header, an error looked at."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from conftest import unavailable
from hartwood.errors import DiskError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
#: Offsets and forms of header fields (docs/interop/qcow2.txt).
FIELDS = {
    "magic": (0, ">I"),
    "version": (4, ">I"),
    "backing_offset": (8, ">Q"),
    "backing_size": (16, ">I"),
    "cluster_bits": (20, ">I"),
    "size": (24, ">Q"),
    "crypt": (32, ">I"),
    "l1_size": (36, ">I"),
    "l1_offset": (40, ">Q"),
    "reftable_offset": (48, ">Q"),
    "reftable_clusters": (56, ">I"),
    "snapshots": (60, ">I"),
    "snapshots_offset": (64, ">Q"),
    "incompatible": (72, ">Q"),
    "compatible": (80, ">Q"),
    "autoclear": (88, ">Q"),
    "refcount_order": (96, ">I"),
    "header_length": (100, ">I"),
    "compression": (104, ">B"),
}


def run(*words: object, status: int | None = 0) -> str:
    """What a program of the machine's says; missing ones skip the test."""
    if shutil.which(str(words[0])) is None:
        unavailable(f"{words[0]} (scripts/oracles.sh installs it)")
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    if status is not None:
        assert done.returncode == status, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


def qemu_io(path: Path, *commands: str) -> str:
    """Commands on a qcow2 image, done by QEMU."""
    words = [part for command in commands for part in ("-c", command)]
    output = run("qemu-io", "-f", "qcow2", *words, path)
    assert "verification failed" not in output, output
    return output


def get(path: Path, name: str) -> int:
    """A header field of the file at `path`."""
    at, form = FIELDS[name]
    return int(struct.unpack_from(form, path.read_bytes()[:512], at)[0])


def put(path: Path, name: str | int, value: int, form: str = ">Q") -> None:
    """Change a header field, or a word anywhere."""
    at, form = FIELDS[name] if isinstance(name, str) else (name, form)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack(form, value))


def word(path: Path, at: int) -> int:
    """The big-endian 8-byte word at `at`."""
    with path.open("rb") as file:
        file.seek(at)
        return int.from_bytes(file.read(8), "big")


def refused(call, *arguments, **named) -> DiskError:
    """The error of a call that must fail in one line."""
    with pytest.raises(DiskError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return caught.value
