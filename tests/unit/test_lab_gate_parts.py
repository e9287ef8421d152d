"""The parts of gate, bisect and self-test that need no process: search, blame, plants, figures."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.lab import LabError
from hartwood.lab.attribution import blame, components, grouped
from hartwood.lab.bisect import search
from hartwood.lab.checkout import Tree, changed, only_one, reverted
from hartwood.lab.evidence import (
    BLOCK,
    FIRST,
    SECOND,
    UNIT,
    Record,
    append,
    comparisons,
    figures,
    load,
    sides,
)
from hartwood.lab.gate import Settings
from hartwood.lab.planting import module_of, plant, slowed
from hartwood.lab.rivals import RULES as RIVALS
from hartwood.lab.rivals import blockers
from hartwood.lab.selftest import Scope
from hartwood.lab.verdict import Rules


@given(st.integers(1, 200), st.data())
def test_search_finds_the_first_slow_one_in_few_steps(count: int, data) -> None:
    guilty = data.draw(st.integers(0, count - 1))
    found, tried = search(count, lambda at: at >= guilty)
    assert found == guilty
    assert tried <= math.ceil(math.log2(count)) if count > 1 else tried == 0


@given(st.integers(2, 40), st.data())
def test_search_passes_over_what_cannot_be_judged_and_does_not_guess(count: int, data) -> None:
    guilty = data.draw(st.integers(0, count - 1))
    broken = data.draw(st.sets(st.integers(0, count - 2)))
    try:
        found, _ = search(count, lambda at: None if at in broken else at >= guilty)
    except LabError as error:
        assert broken & {guilty - 1, guilty}, "it was between two that could be judged"
        assert "cannot be judged" in str(error)
    else:
        assert found == guilty


def test_blame_names_one_or_none() -> None:
    assert blame({"decode": 0.97, "link": 0.04}).name == "decode"
    shared = blame({"decode": 0.45, "link": 0.4})
    assert shared.name == ""
    assert "no single component: decode has 45%" in shared.reason
    assert blame({}).name == ""


def test_changed_files_belong_to_components() -> None:
    known = {"decode": ["src/isa/*", "src/jit/decoder.py"], "jit": ["src/jit/*"]}
    files = ["src/isa/rows.py", "src/jit/decoder.py", "src/jit/lift.py", "README.py"]
    assert grouped(files, known) == {
        "decode": ["src/isa/rows.py", "src/jit/decoder.py"],
        "jit": ["src/jit/lift.py"],
        "README.py": ["README.py"],
    }


@pytest.mark.parametrize(
    "text", ["[tool", "[tool.hartwood]\ncomponents = 1", "[tool.hartwood.components]\na = 'b'"]
)
def test_a_bad_table_of_components_is_named(text: str, tmp_path: Path) -> None:
    assert components(tmp_path) == {}
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(LabError, match=r"pyproject\.toml"):
        components(tmp_path)


def test_reverted_is_the_head_with_some_files_of_the_base(tmp_path: Path) -> None:
    base, head = tmp_path / "base", tmp_path / "head"
    for tree, files in ((base, {"a": "1", "b": "1", "old": "1"}), (head, {"a": "2", "b": "2"})):
        (tree / "src").mkdir(parents=True)
        (tree / "__pycache__").mkdir()
        (tree / "__pycache__" / "x.py").write_text(str(tree))
        for name, text in files.items():
            (tree / "src" / f"{name}.py").write_text(text)
    (head / "src" / "new.py").write_text("2")
    names = ["src/a.py", "src/b.py", "src/new.py", "src/old.py"]
    assert changed(base, head) == names
    sides = [Tree(each, "r", Path("python"), (each / "src",)) for each in (base, head)]
    with reverted(sides[0], sides[1], ["src/a.py", "src/old.py", "src/new.py"]) as made:
        assert {path.name: path.read_text() for path in (made.path / "src").iterdir()} == {
            "a.py": "1", "b.py": "2", "old.py": "1",
        }  # fmt: skip
        assert made.paths == (made.path / "src",)
    assert not made.path.exists()
    assert (head / "src" / "a.py").read_text() == "2"


def test_one_gate_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with only_one(), pytest.raises(LabError, match="another gate"), only_one():
        pass
    with only_one():
        pass
    (lock,) = tmp_path.iterdir()
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LabError, match="cannot be had"), only_one():
        pass
    assert not (tmp_path / "elsewhere").exists(), "a stranger's link is not followed"


def test_settings_are_checked() -> None:
    for wrong in ({"block": "some"}, {"budget": -1.0}, {"budget": math.nan}):
        with pytest.raises(LabError):
            replace(Settings(), **wrong)


class Clock:
    """Goes on by a tick each time it is looked at, and by what calls cost."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 300
        return self.now

    def spend(self) -> int:
        self.now += 40_000
        return 5


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 1.0])
def test_a_plant_costs_its_share_and_leaves_the_answer(share: float) -> None:
    times = []
    for each in (0.0, share):
        clock = Clock()
        call = slowed(clock.spend, each, clock)
        for _ in range(500):
            assert call() == 5
        times.append(clock.now)
    assert times[1] / times[0] - 1 == pytest.approx(share, rel=0.02)


def test_plants_keep_what_a_set_up_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    share = types.ModuleType(module_of("page walk"))
    share.SHARE = 0.0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plant_page_walk", share)
    call, expected = plant(lambda rng, n: (lambda: n, n), "page walk", True)(None, n=3)
    assert (call(), expected) == (3, 3)
    assert plant(lambda rng: lambda: 4, "page walk", False)(None)() == 4


def test_rivals_see_what_is_plain_and_not_what_is_not_there() -> None:
    rng = random.Random(2)
    base = [rng.gauss(1, 0.01) for _ in range(400)]
    assert set(blockers(base, [time * 1.5 for time in base])) == set(RIVALS)
    assert blockers(base, list(base)) == []
    assert blockers(base, [time / 1.5 for time in base]) == []
    assert "mean+10%" not in blockers(base, [time * 1.08 for time in base])


def blocks(name: str, planted: float, sigma: float, count: int, seed: int = 1) -> list[Record]:
    rng = random.Random(f"{name}{planted}{seed}")
    return [
        Record(
            "block", f"s{seed}", name, "c", planted,
            trials=[rng.gauss(math.log1p(planted), sigma) for _ in range(BLOCK)],
        )
        for _ in range(count)
    ]  # fmt: skip


def test_figures_of_a_sound_gate() -> None:
    made = [r for n in "abc" for p in (0.0, 0.05) for r in blocks(n, p, 0.015, 7)]
    made += [Record("swap", "s", "a", "c", 0.05, named=named) for named in ("c", "c", "d")]
    made += [Record("suite", "s", "a", "c", 0.0, blocked=["pyperf"], apart=["asv"])]
    found = figures(made, Rules(), 100, 1)
    assert (found.comparisons, found.trials, found.benchmarks) == (6, 168, 3)
    assert (found.false_drawn.hits, found.false_drawn.of) == (0, 100)
    assert (found.false_seen.hits, found.false_seen.of) == (0, 1)
    assert found.power["5%"].hits > 290
    assert (found.named.hits, found.named.of) == (2, 3)
    assert found.rivals["pyperf"]["0%"] == [1.0, 0.0]
    assert found.rivals["asv"]["0%"] == [0.0, 1.0]
    assert found.armed
    assert "A/A suites blocked, as recorded\t0 of 1 (0.0%)" in list(found.lines())


def crowd(name: str, shares: list[float], sigma: float, seed: int = 1) -> Record:
    """Arms that took turns: what two of them differ by is planted, and noise of either."""
    rng = random.Random(f"{name}{seed}")
    count = BLOCK * (FIRST + SECOND)
    arms = [[rng.gauss(math.log1p(share), sigma) for _ in range(count)] for share in shares]
    logs = [
        [round((h - b) / UNIT) for b, h in zip(arms[base], arms[head], strict=True)]
        for base, head in sides(shares)
    ]
    return Record("crowd", f"s{seed}", name, "c", shares=shares, logs=logs)


def test_each_two_arms_of_a_crowd_are_a_comparison() -> None:
    shares = [0.0, 0.0, 0.0, 0.05]
    assert sides(shares) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert sides([0.0, 0.02, 0.05]) == [(0, 1), (0, 2)], "planted arms are no base"
    made = [crowd(name, shares, 0.01) for name in "ab"]
    found = comparisons(made)
    assert len(found) == 12
    assert sorted(each.planted for each in found) == [0.0] * 6 + [0.05] * 6
    assert {each.suite for each in found if not each.planted} == {"s1 0-1", "s1 0-2", "s1 1-2"}
    assert all(len(each.blocks) == FIRST + SECOND for each in found)
    numbers = figures(made, Rules(), 50, 1)
    assert (numbers.same.of, numbers.false_seen.of, numbers.comparisons) == (6, 3, 12)
    assert (numbers.same.hits, numbers.false_seen.hits, numbers.called_faster.hits) == (0, 0, 0)
    assert (numbers.power_seen["5%"].hits, numbers.power_seen["5%"].of) == (6, 6)
    assert numbers.armed


def test_a_crowd_in_which_arms_differ_by_themselves_disarms() -> None:
    made = [crowd("a", [0.0, 0.0], 0.001)]
    made[0].logs = [[round(math.log(1.04) / UNIT) + at % 3 for at in range(28)]]
    slower = figures(made, Rules(), 50, 1)
    assert (slower.false_seen.hits, slower.called_faster.hits, slower.armed) == (1, 0, False)
    made[0].logs = [[-log for log in made[0].logs[0]]]
    faster = figures(made, Rules(), 50, 1)
    assert (faster.false_seen.hits, faster.called_faster.hits) == (0, 1)


def test_a_suite_that_was_broken_off_is_not_judged() -> None:
    made = blocks("a", 0.0, 0.01, 7) + blocks("b", 0.0, 0.01, 6)
    assert [each.name for each in comparisons(made)] == ["a"]


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"suites": -1}, "0 or more"),
        ({"noise": -1}, "0 or more"),
        ({"shares": (0.0,)}, "--plant"),
        ({"shares": (math.nan,)}, "--plant"),
        ({"arms": 1}, "2 to 32 arms"),
        ({"arms": 0, "shares": (0.05, 0.1)}, "one of them at least is not planted"),
        ({"arms": 33}, "2 to 32 arms"),
        ({"swaps": 1}, "--swaps wants something planted"),
    ],
)
def test_a_self_test_of_nothing_is_refused(wrong: dict[str, object], part: str) -> None:
    with pytest.raises(LabError, match=part):
        Scope(**wrong)  # type: ignore[arg-type]


def test_a_gate_that_blocks_identical_code_disarms_itself() -> None:
    bad = [replace(record, planted=0.0) for record in blocks("a", 0.08, 0.01, 7)]
    found = figures(bad + blocks("b", 0.0, 0.01, 7), Rules(), 50, 1)
    assert not found.armed
    assert found.why.startswith("identical code was blocked: 1 of 1")
    assert not figures([], Rules(), 50, 1).armed, "nothing recorded is nothing proven"


def test_records_add_up_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first, second = blocks("a", 0.0, 0.01, 2), blocks("b", 0.05, 0.01, 1)
    append(path, first)
    append(path, second)
    assert load(path) == first + second
    assert load(tmp_path / "absent") == []
    whole = path.read_text()
    for line, part in (
        ('{"kind": "block", "session": "s", "name": "a", "trials": [1.0]}', "a block is 4 trials"),
        ('{"kind": "other", "session": "s", "name": "a"}', "kind 'other'"),
        ('{"kind": "swap", "session": "s", "name": "a", "planted": NaN}', "damaged JSON"),
        ("[", "damaged JSON"),
        ('{"kind": "crowd", "session": "s", "name": "a", "shares": [0, 0]}', "arms are missing"),
        (
            '{"kind": "crowd", "session": "s", "name": "a", "shares": [0, 0], "logs": [[1]]}',
            "an arm has not 28 trials",
        ),
        (
            '{"kind": "crowd", "session": "s", "name": "a", "shares": [0, -1], "logs": [[1]]}',
            "a share is out of range",
        ),
    ):
        path.write_text(whole + line)
        with pytest.raises(LabError, match=part) as caught:
            load(path)
        assert "r.jsonl:4" in str(caught.value)


def test_a_full_disk_takes_nothing_from_the_record() -> None:
    with pytest.raises(LabError, match="cannot be written"):
        append(Path("/dev/full"), blocks("a", 0.0, 0.01, 1))
