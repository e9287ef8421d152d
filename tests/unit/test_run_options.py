"""`hartwood run` reads its options by hand: every way to write one, and every way to err."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.errors import Error
from hartwood.tools import run
from hartwood.tools.run import UsageError, parse


def test_the_program_and_all_after_it_are_the_guests() -> None:
    options = parse(["a.out", "--root", "-x", "--engine=jit", "--"])
    assert options.program == "a.out"
    assert options.argv == ["a.out", "--root", "-x", "--engine=jit", "--"]
    assert (options.root, options.engine) == (None, "auto")


def test_every_option(tmp_path: Path) -> None:
    words = ["--root", str(tmp_path), "--engine", "interp", "--stats=s.json", "--trace"]
    words += ["--strace", "--env", "A=1=2", "--env=B=", "--argv0", "zero", "--", "-prog", "x"]
    options = parse(words)
    assert options.root == str(tmp_path)
    assert (options.engine, options.stats) == ("interp", "s.json")
    assert (options.trace, options.strace) == (True, True)
    assert options.env == {"A": "1=2", "B": ""}
    assert options.program == "-prog"
    assert options.argv == ["zero", "x"]


def test_an_empty_argv0_is_kept() -> None:
    assert parse(["--argv0", "", "p"]).argv == [""]


def test_a_later_option_wins() -> None:
    assert parse(["--engine", "jit", "--engine", "interp", "p"]).engine == "interp"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "no program named"),
        (["--trace"], "no program named"),
        (["--"], "no program named"),
        (["--bogus", "p"], "unknown option --bogus"),
        (["-x", "p"], "unknown option -x"),
        (["--engine"], "--engine needs a value"),
        (["--engine", "fast", "p"], "unknown engine 'fast'; there are auto"),
        (["--trace=yes", "p"], "--trace takes no value"),
        (["--env", "A", "p"], "--env needs KEY=VALUE, not 'A'"),
        (["--env", "=1", "p"], "--env needs KEY=VALUE"),
        (["--root", "/nonexistent/dir", "p"], "--root /nonexistent/dir: no such directory"),
    ],
)
def test_errors_name_the_part_at_fault(words: list[str], part: str) -> None:
    with pytest.raises(UsageError, match=r".") as caught:
        parse(words)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, Error)


def test_bad_usage_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--bogus"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("hartwood: unknown option --bogus")
    assert shown.err.count("\n") == 1


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for option in (*run._VALUED, *run._FLAGS, *run.ENGINES):
        assert option in shown


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_words_are_understood_or_refused(words: list[str]) -> None:
    try:
        options = parse(words)
    except UsageError as error:
        assert str(error)
    else:
        assert options.help or options.program in words
        assert options.help or len(options.argv) <= len(words)


@given(st.lists(st.text(max_size=8), max_size=5))
def test_what_follows_the_program_is_never_changed(words: list[str]) -> None:
    assert parse(["--strace", "program", *words]).argv == ["program", *words]
