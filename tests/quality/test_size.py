"""The size budgets of docs/design.md: a file, the package, the root, tests against code."""

from __future__ import annotations

from quality.size import (
    FILE_HARD,
    FILE_SOFT,
    LABORATORY,
    PACKAGE,
    ROOT_ENTRIES,
    lines_of_tests,
    modules,
    rooms,
    root_entries,
)


def test_no_module_is_past_the_hard_stop() -> None:
    for folder in ("src", "tests", "scripts"):
        large = {str(path): count for path, count in modules(folder).items() if count > FILE_HARD}
        assert not large


def test_modules_keep_to_the_soft_budget() -> None:
    large = {str(path): count for path, count in modules("src").items() if count > FILE_SOFT}
    # One in ten may pass it for a reason; more is a habit.
    assert len(large) <= len(modules("src")) // 10, large


def test_package_is_small() -> None:
    laboratory = rooms()["lab"]
    assert laboratory < LABORATORY
    assert sum(modules("src").values()) - laboratory < PACKAGE


def test_root_is_tidy() -> None:
    entries = root_entries()
    assert len(entries) <= ROOT_ENTRIES, sorted(entries)


def test_tests_are_at_least_as_long_as_the_code() -> None:
    # A workload of the laboratory is a test already: it checks its own answer, and is run by one.
    checked = {
        path: count for path, count in modules("src").items() if "workloads" not in path.parts
    }
    code, tests = sum(checked.values()), lines_of_tests()
    assert tests >= code, f"{tests} lines of tests for {code} of code"
