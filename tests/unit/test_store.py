"""The code cache: private, bounded, and never a reason for a guest to go wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guests.build import build
from hartwood.errors import ImageError
from hartwood.jit import store
from hartwood.jit.image import Image
from hartwood.jit.store import Store, StoreError, configuration, folder, page_key
from system.running import Outcome, run

CODE = b"\x13\0\0\0" * 8


def fill(path: Path, count: int = 3) -> Store:
    """A store whose files are a day apart in age, the first the oldest."""
    made = Store(str(path))
    for number in range(count):
        made.put(f"key{number}", "1-10000", bytes(1000))
        when = time.time() - (count - number) * 86_400
        os.utime(path / f"key{number}.1-10000", (when, when))
    return made


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


# Keeping and finding.
def test_what_was_put_is_found_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "code" / "configuration"
    first = Store(str(path))
    first.put("key", "1-10000", b"one")
    first.put("key", "2-10000", b"two")
    first.put("other", "1-20000", b"three")
    assert first.get("key") == []  # looked at once, when the process began
    second = Store(str(path))
    assert second.get("key") == [b"one", b"two"]
    assert second.get("other") == [b"three"]
    assert second.get("none") == []
    assert (second.hits, second.misses) == (2, 1)


def test_unfinished_files_are_not_found(tmp_path: Path) -> None:
    path = tmp_path / "code" / "configuration"
    Store(str(path))
    (path / "key.1-10000.77.new").write_bytes(b"half")
    assert Store(str(path)).get("key") == []


def test_a_file_that_is_gone_is_a_miss(tmp_path: Path) -> None:
    path = tmp_path / "code" / "configuration"
    fill(path)
    found = Store(str(path))
    (path / "key0.1-10000").unlink()
    assert found.get("key0") == []
    assert found.misses == 1


def test_what_is_discarded_is_gone_for_good(tmp_path: Path) -> None:
    path = tmp_path / "code" / "configuration"
    fill(path)
    found = Store(str(path))
    found.discard("key1")
    found.discard("key1")
    assert found.get("key1") == []
    assert names(path) == ["key0.1-10000", "key2.1-10000"]


def test_a_page_has_a_name_by_place_and_content() -> None:
    keys = {page_key(0x1000, CODE), page_key(0x2000, CODE), page_key(0x1000, CODE[:-1] + b"\1")}
    assert len(keys) == 3
    assert page_key(0x1000, CODE) == page_key(0x1000, bytes(CODE))


# Where it is, and whose.
def test_the_folder_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARTWOOD_CACHE", "/somewhere")
    assert folder() == "/somewhere"
    monkeypatch.setenv("HARTWOOD_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert folder() == "/xdg/hartwood/code"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert folder() == "/home/me/.cache/hartwood/code"


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002, 0])
def test_a_new_folder_is_private_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "cache" / "code" / "configuration"
    before = os.umask(mask)
    try:
        assert Store(str(path)).path
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o700
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(StoreError, match="chmod 700"):
        Store(str(tmp_path / "configuration"))


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    euid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: euid + 1)
    with pytest.raises(StoreError, match="HARTWOOD_CACHE"):
        Store(str(tmp_path / "configuration"))


def test_without_a_folder_everything_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    made = Store(str(tmp_path / "file" / "configuration"))
    assert made.path == ""
    made.put("key", "1-10000", b"one")
    made.discard("key")
    made.trim()
    assert made.get("key") == []


# Trouble.
def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_means_only_not_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "code" / "configuration"
    made = Store(str(path))
    monkeypatch.setattr(store, "open", no_space, raising=False)
    made.put("key", "1-10000", b"one")
    assert names(path) == []


def test_no_half_file_stays_where_its_name_cannot_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "code" / "configuration"
    made = Store(str(path))
    monkeypatch.setattr(os, "replace", no_space)
    made.put("key", "1-10000", b"one")
    assert names(path) == []


def test_a_folder_that_vanishes_means_only_not_warm(tmp_path: Path) -> None:
    path = tmp_path / "code" / "configuration"
    made = fill(path)
    shutil.rmtree(tmp_path / "code")
    made.put("key", "1-10000", b"one")
    made.trim(0)
    assert not path.exists()


# The bound.
def test_trim_removes_the_oldest_until_it_fits(tmp_path: Path) -> None:
    path = tmp_path / "code" / "configuration"
    made = fill(path, 5)
    made.trim(5000)
    assert len(names(path)) == 5
    made.trim(2500)
    assert names(path) == ["key3.1-10000", "key4.1-10000"]
    made.trim(0)
    assert names(path) == []


def test_what_was_read_lately_stays(tmp_path: Path) -> None:
    path = tmp_path / "code" / "configuration"
    made = fill(path)
    oldest = path / "key0.1-10000"
    os.utime(oldest, (time.time(), oldest.stat().st_mtime))
    made.trim(1000)
    assert names(path) == [oldest.name]


def test_trim_looks_at_every_configuration_and_nothing_else(tmp_path: Path) -> None:
    top = tmp_path / "code"
    fill(top / "older")
    made = fill(top / "newer", 1)
    beside = tmp_path / "beside"
    beside.write_bytes(bytes(5000))
    os.utime(beside, (0, 0))
    made.trim(2000)
    assert names(top / "newer") == ["key0.1-10000"]
    assert names(top / "older") == ["key2.1-10000"]
    assert beside.exists()


# The configuration.
def test_a_changed_definition_is_another_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(store.__file__).parents[1]
    for room in store._SOURCES:
        shutil.copytree(
            package / room,
            tmp_path / room,
            ignore=shutil.ignore_patterns("__pycache__"),
            dirs_exist_ok=True,
        )
    monkeypatch.setattr(store, "__file__", str(tmp_path / "jit" / "store.py"))
    before = configuration()
    assert before == configuration()
    assert len(before) == 24
    definition = next((tmp_path / "isa" / "riscv").glob("*.py"))
    info = definition.stat()
    os.utime(definition, ns=(info.st_atime_ns, info.st_mtime_ns + 1))
    touched = configuration()
    definition.write_text(definition.read_text() + "\n")
    os.utime(definition, ns=(info.st_atime_ns, info.st_mtime_ns + 1))
    longer = configuration()
    (tmp_path / "isa" / "riscv" / "another.py").write_text("")
    assert len({before, touched, longer, configuration()}) == 4
    (tmp_path / "isa" / "notes.txt").write_text("not code")
    unchanged = configuration()
    assert unchanged == configuration()


def test_instructions_of_the_users_are_part_of_it(tmp_path: Path) -> None:
    outside = tmp_path / "own.py"
    outside.write_text("one")
    first = configuration([str(outside)])
    outside.write_text("two")
    assert len({first, configuration([str(outside)]), configuration()}) == 3


# Through whole runs.
Oracle = Callable[[str], str]
Guest = Callable[..., Outcome]


def workers(cache: Path) -> list[int]:
    """Process ids of the compile workers that write to `cache`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if b"hartwood.jit.worker" in words and str(cache).encode() in words:
                found.append(int(process.name))
    return found


def settle(cache: Path) -> None:
    """Wait until whatever stores there has finished."""
    end = time.monotonic() + 60
    while workers(cache):
        assert time.monotonic() < end, "a worker does not end"
        time.sleep(0.02)


@pytest.fixture
def hello(oracle: Oracle, hartwood_command: list[str], tmp_path: Path) -> Guest:
    """Runs the smallest guest with a cache folder; `stats` of the run lie in "stats"."""
    oracle("riscv64-linux-gnu-gcc")
    program = build("freestanding/hello.c", ("-O1", "-nostdlib", "-ffreestanding"))

    def go(cache: Path | str) -> Outcome:
        words = ["run", "--engine", "jit", "--stats", str(tmp_path / "stats"), str(program)]
        done = run([*hartwood_command, *words], env={"HARTWOOD_CACHE": str(cache)})
        settle(Path(cache))
        return done

    return go


def counters(tmp_path: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((tmp_path / "stats").read_text())
    return found


def images(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


SEEN = (6, b"hello\n")


def test_a_second_run_is_warm(hello: Guest, tmp_path: Path) -> None:
    cache = tmp_path / "code"
    assert hello(cache).seen == SEEN
    assert counters(tmp_path)["cache_hits"] == 0
    kept = images(cache)
    assert any(path.name.startswith("bank-base") for path in kept)
    assert any(not path.name.startswith("bank-") for path in kept)
    assert all(Image.load(path.read_bytes()) for path in kept)
    assert hello(cache).seen == SEEN
    assert counters(tmp_path)["cache_hits"] >= 2
    assert counters(tmp_path)["regions"] >= 1


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign", "longer"])
def test_damaged_files_are_ignored_and_made_anew(hello: Guest, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "code"
    hello(cache)
    kept = images(cache)
    for path in kept:
        data = bytearray(path.read_bytes())
        if damage == "empty":
            data.clear()
        elif damage == "cut":
            del data[len(data) // 2 :]
        elif damage == "flipped":
            data[len(data) // 2] ^= 0x40
        elif damage == "foreign":
            data = bytearray(b"\x7fELF" + bytes(5000))
        else:
            data += bytes(100)
        path.write_bytes(data)
        with pytest.raises(ImageError):
            Image.load(bytes(data))
    done = hello(cache)
    assert done.seen == SEEN
    assert done.err == b""
    again = images(cache)
    assert any(path.name.startswith("bank-base") for path in again)
    assert all(Image.load(path.read_bytes()) for path in again)


def test_two_cold_runs_at_once(
    oracle: Oracle, hartwood_command: list[str], hello: Guest, tmp_path: Path
) -> None:
    cache = tmp_path / "code"
    oracle("riscv64-linux-gnu-gcc")
    program = build("freestanding/hello.c", ("-O1", "-nostdlib", "-ffreestanding"))
    words = [*hartwood_command, "run", "--engine", "jit", str(program)]
    both = [
        subprocess.Popen(
            words,
            env={**os.environ, "HARTWOOD_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (6, b"hello\n", b"")
    settle(cache)
    kept = images(cache)
    assert kept
    assert not [path for path in kept if path.name.endswith(".new")]
    assert all(Image.load(path.read_bytes()) for path in kept)
    assert hello(cache).seen == SEEN


def test_a_run_outlives_its_worker(
    oracle: Oracle, hartwood_command: list[str], tmp_path: Path
) -> None:
    """Killed as soon as the first thing that it made is there, in the middle of the rest."""
    oracle("riscv64-linux-gnu-gcc")
    cache = tmp_path / "code"
    words = [*hartwood_command, "run", "--engine", "jit", str(build("c/recursion.c", ("-O1",)))]
    environment = {**os.environ, "HARTWOOD_CACHE": str(cache)}
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    end, killed = time.monotonic() + 60, 0
    while not killed and process.poll() is None and time.monotonic() < end:
        if any(path.name == "bank-base.image" for path in cache.rglob("*")):
            for worker in workers(cache):
                os.kill(worker, signal.SIGKILL)
                killed += 1
        time.sleep(0.005)
    out, err = process.communicate(timeout=60)
    assert killed == 1
    settle(cache)
    again = run(words, env={"HARTWOOD_CACHE": str(cache)})
    assert (process.returncode, out, err) == (0, again.out, b"")
    assert again.status == 0
    settle(cache)


def test_a_run_without_a_usable_folder_is_cold_and_right(hello: Guest) -> None:
    done = hello("/dev/null/code")
    assert done.seen == SEEN
    assert done.err == b""


def test_a_run_refuses_a_folder_that_others_may_write_to(hello: Guest, tmp_path: Path) -> None:
    cache = tmp_path / "code"
    cache.mkdir()
    cache.chmod(0o777)
    done = hello(cache)
    assert done.out == b""
    assert done.status not in (0, 6)
    assert b"chmod 700" in done.err
    assert b"Traceback" not in done.err
