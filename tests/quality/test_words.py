"""Words that must not be in the tree, and names that the house does not use."""

from __future__ import annotations

import re
import subprocess

from quality.size import ROOT, modules

NAMES = {"utils", "util", "helpers", "helper", "common", "core", "misc"}


def test_no_room_or_module_has_a_name_that_says_nothing() -> None:
    for path in modules("src"):
        parts = {part.removesuffix(".py") for part in path.parts}
        assert not parts & NAMES, path


def test_classes_say_what_they_are() -> None:
    pattern = re.compile(r"^class (\w*(?:Manager|Helper|Util|Utils)|Hartwood\w*)\b", re.MULTILINE)
    for path in modules("src"):
        assert not pattern.findall((ROOT / path).read_text()), path


def test_no_package_mirror_is_written_down() -> None:
    # A mirror is the machine's business: it is read from the machine's own sources.
    words = ["git", "grep", "-nIE", r"https?://[a-z0-9.-]*(debian\.org|pypi)", "--", "src"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_every_todo_has_a_reason() -> None:
    for folder in ("src", "tests", "scripts"):
        for path in modules(folder):
            for line in (ROOT / path).read_text().splitlines():
                if re.search(r"#\s*(TODO|FIXME|XXX)\b", line):
                    assert re.search(r"(TODO|FIXME|XXX)\b.*\bbecause\b", line), f"{path}: {line}"
