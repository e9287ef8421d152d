"""Judgements on disk: whole or refused, and the verdict on a suite from those on its benchmarks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.lab import LabError
from hartwood.lab.gate import _counters, conclude
from hartwood.lab.judgement import (
    EXIT_STATUS,
    SCHEMA,
    Judged,
    Judgement,
    judgement_from,
    judgement_json,
    load_judgement,
    save_judgement,
)
from hartwood.lab.results import now
from hartwood.lab.verdict import Rules


def judged(name: str, verdict: str = "pass", severity: str = "", **more: Any) -> Judged:
    more.setdefault("reason", "why" if verdict in ("inconclusive", "new", "skipped") else "")
    more.setdefault("trials", [[0.0] * 8])
    return Judged(name, verdict=verdict, severity=severity, **more)


def whole(*benchmarks: Judged, block: str = "any") -> Judgement:
    made = Judgement(created=now(), base="b", head="h", benchmarks=list(benchmarks))
    conclude(made, block)
    return made


def test_a_judgement_comes_back_as_it_was(tmp_path: Path) -> None:
    made = whole(
        judged("a"),
        judged("b", "regressed", "alert", ratio=1.2, interval=[1.1, 1.3], culprit="decode"),
    )
    path = tmp_path / "folder" / "j.json"
    save_judgement(made, path)
    assert load_judgement(path) == made
    data = json.loads(path.read_text())
    assert data["schema"] == SCHEMA == "hartwood-lab-gate/1"
    assert {"schema", "created", "base", "head", "verdict", "settings", "benchmarks"} <= set(data)
    wanted = "name family component verdict severity ratio interval trials mde reason".split()
    assert set(wanted) <= set(data["benchmarks"][0])


def _set(path: str, value: object):
    def change(data: dict[str, Any]) -> None:
        *way, last = path.split(".")
        target: Any = data
        for step in way:
            target = target[int(step)] if step.isdigit() else target[step]
        target[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (_set("schema", "hartwood-lab-gate/9"), "this version reads"),
        (_set("verdict", "green"), "verdict 'green' is unknown"),
        (_set("verdict", "regressed"), "verdict and blocked disagree"),
        (_set("verdict", 1), "verdict is not str"),
        (_set("blocked", ["ghost"]), "that is not there"),
        (_set("benchmarks", []), "judged without benchmarks"),
        (_set("created", "yesterday"), "no time with a zone"),
        (_set("surprise", 1), "unknown field surprise"),
        (_set("benchmarks.0.verdict", "fine"), "verdict 'fine' is none of"),
        (_set("benchmarks.0.trials", []), "passed without trials"),
        (_set("benchmarks.0.ratio", 0), "out of range"),
        (_set("benchmarks.0.mde", -0.1), "out of range"),
        (_set("benchmarks.0.p", 2), "out of range"),
        (_set("benchmarks.0.interval", [1.0]), "not a pair"),
        (_set("benchmarks.0.severity", "mild"), "severity 'mild'"),
        (_set("benchmarks.0.trials", [["x"]]), "trials"),
        (_set("benchmarks.0.name", ""), "name is empty"),
        (_set("benchmarks.1.name", "a"), "there twice"),
    ],
)
def test_damage_is_named(change, part: str) -> None:
    data = judgement_json(whole(judged("a"), judged("b")))
    change(data)
    with pytest.raises(LabError, match=part) as caught:
        judgement_from(data, "j.json")
    assert str(caught.value).startswith("j.json: ")
    assert "\n" not in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=True) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ),
    st.sampled_from(["verdict", "benchmarks", "blocked", "settings", "created", "seconds"]),
)
def test_whatever_is_read_is_sound_or_refused(value: object, where: str) -> None:
    data = judgement_json(whole(judged("a")))
    data[where] = value
    try:
        read = judgement_from(data, "j")
    except LabError:
        return
    assert read.verdict in EXIT_STATUS
    assert read.exit_status in (0, 1, 2)


def test_what_is_not_sound_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "j.json"
    save_judgement(whole(judged("a")), path)
    before = path.read_bytes()
    with pytest.raises(LabError):
        save_judgement(whole(judged("a", mde=math.nan)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


GOOD, SLOW = judged("good"), judged("slow", "regressed", "slight", ratio=1.03)
ALERT, LOST = judged("alert", "regressed", "alert", ratio=1.5), judged("lost", "inconclusive")
BETTER, NEW, SKIPPED = judged("better", "improved"), judged("new", "new"), judged("s", "skipped")


@pytest.mark.parametrize(
    ("benchmarks", "block", "verdict", "status"),
    [
        ([GOOD], "any", "pass", 0),
        ([GOOD, BETTER], "any", "improved", 0),
        ([GOOD, SLOW], "any", "regressed", 1),
        ([GOOD, SLOW], "warn", "pass", 0),
        ([GOOD, ALERT], "warn", "regressed", 1),
        ([GOOD, SLOW], "alert", "pass", 0),
        ([GOOD, ALERT], "alert", "regressed", 1),
        ([GOOD, LOST], "any", "inconclusive", 2),
        ([BETTER, LOST], "any", "inconclusive", 2),
        ([LOST, SLOW], "any", "regressed", 1),
        ([LOST, SLOW], "alert", "inconclusive", 2),
        ([GOOD, NEW, SKIPPED], "any", "pass", 0),
        ([NEW], "any", "inconclusive", 2),
        ([SKIPPED], "any", "inconclusive", 2),
        ([], "any", "inconclusive", 2),
    ],
)
def test_the_verdict_on_the_whole(benchmarks, block: str, verdict: str, status: int) -> None:
    made = whole(*benchmarks, block=block)
    assert (made.verdict, made.exit_status) == (verdict, status)
    assert bool(made.blocked) == (status == 1)
    assert made.reason or status == 0
    judgement_from(judgement_json(made), "j")


def test_every_mixture_with_something_unjudged_is_not_green() -> None:
    everything = [GOOD, BETTER, NEW, SKIPPED, SLOW, ALERT]
    for block in ("any", "warn", "alert"):
        for one in everything:
            assert whole(one, LOST, block=block).exit_status != 0


@pytest.mark.parametrize(
    ("grown", "label"), [(1.001, "slight"), (1.05, "warning"), (1.2, "alert"), (math.inf, "alert")]
)
def test_a_counter_that_grew_is_a_regression_whatever_the_clock_says(grown, label: str) -> None:
    one = judged("x")
    _counters(one, "allocations a call: 1 -> 2", grown, Rules())
    assert (one.verdict, one.severity) == ("regressed", label)
    assert one.reason == "allocations a call: 1 -> 2"


def test_a_counter_does_not_soften_what_the_clock_has_proven() -> None:
    one = judged("x", "regressed", "alert", reason="50.0% slower")
    _counters(one, "bytes a call: 100 -> 101", 1.01, Rules())
    assert (one.verdict, one.severity) == ("regressed", "alert")
    assert one.reason == "bytes a call: 100 -> 101; 50.0% slower"
    same = judged("y")
    _counters(same, "", 1.0, Rules())
    assert same.verdict == "pass"
