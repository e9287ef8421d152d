"""Debian's riscv64 programs, unmodified: what they print under `hartwood run` is what it must be.

The oracle is QEMU's user mode where it can run the case. It cannot start a guest program from
another (that takes the kernel's binfmt_misc), so scripts that do are compared with the same script
run by the machine's own shell and tools, or with a text worked out by hand.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import pty
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guests.build import HERE
from system.running import explain, qemu, run

Guest = Callable[[str], Path]
Oracle = Callable[[str], str]
QUIET = {"LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1", "TZ": "UTC"}


@pytest.fixture(scope="session")
def sysroot(guest: Guest) -> Path:
    return guest("riscv64-sysroot")


@pytest.fixture(scope="session")
def applets(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which every name is the static busybox, as an installed one has it."""
    busybox = guest("riscv64-busybox")
    folder = tmp_path_factory.mktemp("applets")
    listing = run(["qemu-riscv64", busybox, "--list"])
    for name in listing.out.decode().split():
        (folder / name).symlink_to(busybox)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tree of files to find, sort, hash and compress."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(40):
        path = folder / f"d{i % 5}" / f"e{i % 3}" / f"file{i:02}.{'txt' if i % 2 else 'dat'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{(i * 7919 + j * 104729) % 10007} line {j} of {i}\n" for j in range(50 + i * 10))
        path.write_text("".join(lines))
    text = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.txt")))
    (folder / "all.gz").write_bytes(gzip.compress(text * 5, mtime=0))
    return folder


SCRIPTS = {
    "loop": "i=0; s=0; while [ $i -lt 2000 ]; do s=$((s + i * i)); i=$((i + 1)); done; echo $s",
    "pipes": "find . -name '*.txt' | sort | xargs cat | sort -n | uniq -c | sort -k1nr -k2 | head",
    "find": "find . -type f -name 'file*' -size +1k | sort | sed 's/^/found /' | tail -n 7",
    "hash": "find . -name '*.dat' | sort | xargs sha256sum | md5sum",
    "gzip": "gzip -t all.gz && gzip -dc all.gz | wc -c && gzip -dc all.gz | sha1sum",
    "awk": "cat d1/*/*.txt | awk '{s[$5] += $1; n++} END {for (k in s) print k, s[k], n}' | sort",
    "cut": "cut -d' ' -f1,3 d0/e0/file00.dat | tr '0-9' 'a-j' | tail -n 5 | tac",
    "grep": "grep -rc '9[0-9]* line 1' d2 | sort; grep -E '^(1|2)0+' d0/e0/*.dat | head -n 3",
    "here": "cat <<X | rev\n$(expr 6 \\* 7) and `echo nested`\nX",
    "function": "f() { [ $1 -le 1 ] && echo 1 && return; echo $(($1 * $(f $(($1 - 1))))); }; f 8",
    "background": "for i in 1 2 3 4; do (exit $i) & done; wait; echo done; (exit 7); echo $?",
    "trap": "trap 'echo caught' USR1; kill -USR1 $$; trap 'echo bye' EXIT; echo before",
    "subshell": "x=1; (x=2; echo $x); echo $x; (echo a; echo b) | while read l; do echo $l; done",
    "case": "for f in d*/e0/*; do case $f in *.txt) echo t;; *0.dat) echo z;; *) :;; esac; done",
    "redirect": "exec 3>&1; echo to three >&3; echo lost 2>/dev/null >&2; ls missing 2>&1 | wc -l",
    "exec": "exec sh -c 'echo $0 $1; exit 5' name argument",
    "printf": "printf '%05d|%-6s|%x|%s\\n' 42 ab 255 end 7 c 16 last",
    "killed": "sh -c 'kill -9 $$'; echo $?; sh -c 'kill -TERM $$'; echo $?",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_busybox_shell(
    script: str, applets: Path, corpus: Path, hartwood_command: list[str]
) -> None:
    ours = run(
        [*hartwood_command, "run", applets / "sh", "-c", SCRIPTS[script]],
        env={**QUIET, "PATH": str(applets)},
        cwd=corpus,
    )
    expected = run(["sh", "-c", SCRIPTS[script]], env=QUIET, cwd=corpus)
    assert ours.seen == expected.seen, explain(ours, expected)


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_and_coreutils(
    script: str, sysroot: Path, corpus: Path, hartwood_command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "sh").symlink_to(sysroot / "usr/bin/bash")
    (tmp_path / "awk").symlink_to(sysroot / "usr/bin/gawk")
    # busybox stands in for what no package of the sysroot ships (rev).
    (tmp_path / "rev").symlink_to(sysroot / "usr/bin/busybox")
    ours = run(
        [*hartwood_command, "run", "--root", sysroot, tmp_path / "sh", "-c", SCRIPTS[script]],
        env={**QUIET, "PATH": f"{tmp_path}:{sysroot}/usr/bin"},
        cwd=corpus,
    )
    expected = run(["bash", "-c", SCRIPTS[script]], env=QUIET, cwd=corpus)
    assert ours.seen == expected.seen, explain(ours, expected)


def versus_qemu(command: list[str], sysroot: Path, words: list[str | Path], stdin: str) -> None:
    program = sysroot / "usr/bin" / words[0]
    expected = run([*qemu(sysroot), program, *words[1:]], stdin=stdin.encode(), env=QUIET)
    ours = run(
        [*command, "run", "--root", sysroot, program, *words[1:]], stdin=stdin.encode(), env=QUIET
    )
    assert ours.seen == expected.seen, explain(ours, expected)
    assert expected.out, expected.err  # an oracle that says nothing proves nothing


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("language.lua", ["lua5.4", "-"]),
        ("queries.sql", ["sqlite3", ":memory:"]),
        ("language.pl", ["perl", "-"]),
        ("data.py", ["python3", "-"]),
        ("arithmetic.py", ["python3", "-"]),
        ("language.py", ["python3", "-"]),
        ("threads.py", ["python3", "-"]),
    ],
)
def test_script(
    script: str, words: list[str], oracle: Oracle, sysroot: Path, hartwood_command: list[str]
) -> None:
    oracle("qemu-riscv64")
    program = sysroot / "usr/bin" / words[0]
    stdin = (HERE / "scripts" / script).read_bytes()
    expected = run([*qemu(sysroot), program, *words[1:]], stdin=stdin, env=QUIET)
    ours = run(
        [*hartwood_command, "run", "--root", sysroot, program, *words[1:]], stdin=stdin, env=QUIET
    )
    assert ours.seen == expected.seen, explain(ours, expected)
    assert expected.out, expected.err  # an oracle that says nothing proves nothing


def test_python_processes(sysroot: Path, hartwood_command: list[str]) -> None:
    program = sysroot / "usr/bin/python3"
    ours = run(
        [*hartwood_command, "run", "--root", sysroot, program, HERE / "scripts/processes.py"],
        env={**QUIET, "PATH": f"{sysroot}/usr/bin"},
    )
    expected = run([sys.executable, HERE / "scripts/processes.py"], env=QUIET)
    assert ours.seen == expected.seen, explain(ours, expected)


def test_vi_in_a_terminal(guest: Guest, hartwood_command: list[str], tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("one\ntwo\nthree\n")
    shown = in_terminal(
        [*hartwood_command, "run", str(guest("riscv64-busybox")), "vi", str(file)],
        [
            (b"three", b"dd"),
            (b"", b"Gofour lines\x1b"),
            (b"four lines", b":s/lines/words/\r"),
            (b":s/lines/words/", b":wq\r"),
        ],
    )
    assert file.read_text() == "two\nthree\nfour words\n", shown


def test_interrupt_from_the_terminal(guest: Guest, hartwood_command: list[str]) -> None:
    busybox = str(guest("riscv64-busybox"))
    script = "trap 'echo got it; exit 3' INT; echo ready; while :; do :; done"
    shown = in_terminal(
        [*hartwood_command, "run", busybox, "sh", "-c", script],
        [(b"ready", b"\x03"), (b"got it", b"")],
        status=3,
    )
    assert b"Traceback" not in shown


def in_terminal(
    command: list[str], talk: list[tuple[bytes, bytes]], *, status: int = 0, seconds: float = 60
) -> bytes:
    """Run `command` on a new terminal; await each text, then type its answer; return the screen."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(QUIET, TERM="vt100", LINES="24", COLUMNS="80")
        path = shutil.which(command[0])
        assert path is not None
        os.execv(path, command)
    shown = b""
    deadline = time.monotonic() + seconds
    try:
        for awaited, answer in talk:
            seen_from = len(shown)
            while awaited not in shown[seen_from:]:
                assert time.monotonic() < deadline, f"{awaited!r} never shown: {shown[-2000:]!r}"
                if select.select([terminal], [], [], 0.2)[0]:
                    try:
                        shown += os.read(terminal, 65536)
                    except OSError:  # EIO: the guest has left the terminal
                        assert awaited in shown[seen_from:], shown
            time.sleep(0.1)
            os.write(terminal, answer)
        while time.monotonic() < deadline:
            try:
                if select.select([terminal], [], [], 0.2)[0] and not os.read(terminal, 65536):
                    break
            except OSError:
                break
        ended, code = os.waitpid(child, 0 if time.monotonic() < deadline else os.WNOHANG)
        assert ended, "the guest did not end"
        assert os.waitstatus_to_exitcode(code) == status, shown
        child = 0
    finally:
        os.close(terminal)
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return shown


def test_large_pipeline(applets: Path, hartwood_command: list[str]) -> None:
    script = "head -c 8000000 /dev/zero | tr '\\0' 'x' | gzip -c | gzip -dc | sha256sum"
    ours = run(
        [*hartwood_command, "run", applets / "sh", "-c", script],
        env={**QUIET, "PATH": str(applets)},
    )
    wanted = f"{hashlib.sha256(b'x' * 8_000_000).hexdigest()}  -\n"
    assert (ours.status, ours.out.decode()) == (0, wanted), ours.err
