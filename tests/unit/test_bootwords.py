"""The plain words of `hartwood boot`, read without typer: the same as typer reads them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from hartwood.tools import boot, bootwords, cli

PLAIN = [
    ["--kernel", "Image", "--initrd=initrd", "--append", "quiet console=ttyS0 -- a=b"],
    ["--kernel", "x", "--memory", "2G", "--harts", "4", "--timeout", "1.5", "--deterministic"],
    ["--kernel=x", "--disk", "a.img,sector=4096", "--disk=b", "--forward", "tcp:1:2", "--net=user"],
    ["--load-snapshot", "s", "--save-snapshot", "t", "--stats", "-", "--until", "", "--share", "."],
    ["--kernel", "x", "--kernel", "y", "--bios", "none", "--engine", "interp", "--append", "--"],
]
ODD = [
    ["--help"], ["--kernel"], ["--kernel", "x", "more"], ["--harts", "two"], ["--timeout", "x"],
    ["--deterministic=1"], ["--load_snapshot", "x"], ["-k", "x"], ["--kernel", "x", "--", "y"],
    ["--no-such", "x"], ["--kern", "x"], ["", "x"], ["--"], ["--run=x"],
]  # fmt: skip


def by_typer(words: list[str], monkeypatch: pytest.MonkeyPatch) -> boot.Options:
    """What the command is called with when typer has read the words."""
    seen: list[boot.Options] = []

    def note(options: boot.Options) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(boot, "boot", note)
    assert cli.main(["boot", *words]) == 0
    return seen[0]


@pytest.mark.parametrize("words", PLAIN, ids=" ".join)
def test_the_same_as_typer(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: Any = bootwords.parse(words)
    assert arguments is not None
    ours, theirs = boot.Options(**arguments), by_typer(words, monkeypatch)
    assert ours.attached == theirs.attached
    for field in dataclasses.fields(boot.Options):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        assert mine == other or (mine is None and other == []), field.name


@pytest.mark.parametrize("words", ODD, ids=" ".join)
def test_what_is_odd_is_typers(words: list[str]) -> None:
    assert bootwords.parse(words) is None
    assert bootwords.main(words) is None


def test_no_words_are_typers() -> None:
    assert bootwords.main([]) is None


def test_every_option_is_known() -> None:
    command = typer.main.get_command(cli.app)
    parameters: Any = command.commands["boot"].params  # type: ignore[attr-defined]
    names = {parameter.name for parameter in parameters} - {"help"}
    assert names == {*bootwords.VALUES, *bootwords.LISTS, *bootwords.FLAGS}
    assert names == {field.name for field in dataclasses.fields(boot.Options)}


@pytest.mark.parametrize(
    ("kernel", "said", "status"),
    [(b"text", "not a kernel", 2), (b"\x6f\0\0\0" * 64, "others can write", 1)],
)
def test_a_cache_that_cannot_be_used_is_said_once_and_late(
    tmp_path: Path, kernel: bytes, said: str, status: int
) -> None:
    """Whoever begins to compile early keeps it to itself."""
    cache, image = tmp_path / "cache", tmp_path / "Image"
    cache.mkdir()
    cache.chmod(0o777)
    image.write_bytes(kernel)
    done = subprocess.run(
        [sys.executable, "-m", "hartwood", "boot", "--kernel", str(image)],
        env={**os.environ, "HARTWOOD_CACHE": str(cache)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert bootwords.main(["--kernel", str(tmp_path / "none")]) not in (0, None)
    out = capsys.readouterr()
    assert out.err.startswith("hartwood: ")
    assert out.err.count("\n") == 1
