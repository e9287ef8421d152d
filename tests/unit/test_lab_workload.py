"""The `@workload` decorator, the registry, files of benchmarks, selectors, and what they refuse."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hartwood.errors import Error
from hartwood.lab import LabError, Skip, black_box, workload
from hartwood.lab import workload as decorator
from hartwood.lab.workload import REGISTRY, Prepared, Registry, select


@pytest.fixture(autouse=True)
def empty_registry() -> Iterator[None]:
    kept = dict(REGISTRY.workloads)
    REGISTRY.workloads.clear()
    yield
    REGISTRY.workloads.clear()
    REGISTRY.workloads.update(kept)


def prepared(name: str, seed: int = 1) -> Prepared:
    return REGISTRY.workloads[name].prepare(seed)


def test_the_contract_s_example() -> None:
    @workload("sum/1000", unit="elements", per_call=1000)
    def sum_1000(rng: random.Random) -> Callable[[], float]:
        data = [rng.random() for _ in range(1000)]
        return lambda: sum(data)

    @sum_1000.check
    def _(answer: float) -> None:
        assert 0 < answer < 1000

    made = REGISTRY.workloads["sum/1000"]
    assert (made.unit, made.per_call, made.clock, made.gate) == ("elements", 1000, "cpu", True)
    assert (made.family, made.group) == ("test_lab_workload", "sum")
    ready = made.prepare(1)
    ready.check(ready.call())
    with pytest.raises(LabError, match=r"^sum/1000: wrong answer 2000"):
        ready.check(2000)


def test_the_package_gives_the_decorator_and_not_the_module() -> None:
    assert callable(decorator)
    assert issubclass(LabError, Error)
    assert LabError.exit_status == 2  # never what the gate means by "regressed"


def test_black_box_gives_back_what_it_was_given() -> None:
    thing = object()
    assert black_box(thing) is thing


def test_inputs_are_seeded_by_name_and_seed() -> None:
    seen: dict[str, list[int]] = {"a": [], "b": []}
    for name, values in seen.items():

        @workload(name, unit="calls")
        def _(rng: random.Random, values: list[int] = values) -> tuple[Callable[[], int], int]:
            values.append(rng.getrandbits(64))
            return lambda: 0, 0

    for seed in (1, 1, 2):
        for name in seen:
            prepared(name, seed)
    for first, again, other in seen.values():
        assert first == again != other
    assert seen["a"][0] != seen["b"][0]


def test_parameters_make_a_benchmark_each() -> None:
    @workload(
        "copy/{size}", unit="bytes", per_call=lambda size: size, group="copy_{size}",
        gate=lambda size: size < 100, why="too long", params=[{"size": 10}, {"size": 1000}],
    )  # fmt: skip
    def copy(rng: random.Random, size: int) -> Callable[[], bytes]:
        data = rng.randbytes(size)
        return lambda: bytes(data)

    @copy.check
    def _(answer: bytes, size: int) -> None:
        assert len(answer) == size

    small, large = REGISTRY.workloads["copy/10"], REGISTRY.workloads["copy/1000"]
    assert (small.per_call, small.gate, small.why, small.group) == (10, True, "", "copy_10")
    assert (large.per_call, large.gate, large.why) == (1000, False, "too long")
    ready = large.prepare(1)
    ready.check(ready.call())
    with pytest.raises(LabError, match="wrong answer"):
        ready.check(b"short")


def test_an_expected_answer_or_a_verifier_may_come_from_the_set_up() -> None:
    def verifier(answer: object) -> None:
        assert answer == 7, "it should be seven"

    for name, expected in (("value", 7), ("verifier", verifier)):

        @workload(name, unit="calls")
        def _(rng: random.Random, expected: Any = expected) -> tuple[Callable[[], int], Any]:
            return lambda: 7, expected

        prepared(name).check(7)
        with pytest.raises(LabError, match=f"^{name}: wrong answer 8: it should be (7|seven)"):
            prepared(name).check(8)


def test_without_a_check_there_is_no_verdict() -> None:
    @workload("unchecked", unit="calls")
    def _(rng: random.Random) -> Callable[[], int]:
        return lambda: 1

    with pytest.raises(LabError, match="unchecked: nothing checks its answer"):
        prepared("unchecked").check(1)


def test_a_set_up_without_a_callable_is_refused() -> None:
    @workload("nothing", unit="calls")
    def _(rng: random.Random) -> int:
        return 3

    with pytest.raises(LabError, match="nothing: its set-up returns no callable"):
        prepared("nothing")


def test_a_set_up_may_skip() -> None:
    @workload("numa", unit="calls")
    def _(rng: random.Random) -> None:
        raise Skip("one node only")

    with pytest.raises(Skip, match="one node"):
        prepared("numa")


def test_counters_are_what_the_definition_says() -> None:
    work = {"blocks": 0}

    @workload("counted", unit="calls")
    def counted(rng: random.Random) -> tuple[Callable[[], None], None]:
        return lambda: work.update(blocks=work["blocks"] + 3), None

    counted.counters(lambda: work)
    ready = prepared("counted")
    before = ready.counters()
    ready.call()
    assert ready.counters()["blocks"] - before["blocks"] == 3
    assert before["blocks"] == 0, "a snapshot does not change afterwards"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"name": ""}, "is no name"),
        ({"name": "has space"}, "is no name"),
        ({"name": "line\nbreak"}, "is no name"),
        ({"name": "-option"}, "is no name"),
        ({"clock": "cycles"}, "none of cpu, wall"),
        ({"per_call": 0}, "per_call is 0"),
        ({"bound": -1.0}, "bound is -1"),
        ({"bound": float("nan")}, "bound is nan"),
        ({"gate": False}, r"gate=False wants a reason"),
    ],
)
def test_definitions_out_of_range_are_refused(changes: dict[str, Any], part: str) -> None:
    given: dict[str, Any] = {"name": "x", "unit": "calls", **changes}
    with pytest.raises(LabError, match=part) as caught:
        workload(given.pop("name"), **given)(lambda rng: None)
    assert "\n" not in str(caught.value)
    assert not REGISTRY.workloads


def test_a_name_can_be_taken_once() -> None:
    workload("twice", unit="calls")(lambda rng: None)
    with pytest.raises(LabError, match="two benchmarks are called twice"):
        workload("twice", unit="calls")(lambda rng: None)


MINE = """
from hartwood.lab import workload
from beside import VALUE

@workload("mine/{n}", unit="calls", params=[{"n": 1}, {"n": 2}])
def mine(rng, n):
    return lambda: VALUE + n, 40 + n
"""


def test_a_file_of_benchmarks_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 40")
    file = tmp_path / "bench_mine.py"
    file.write_text(MINE)
    REGISTRY.load_file(file)
    assert list(REGISTRY.workloads) == ["mine/1", "mine/2"]
    assert REGISTRY.workloads["mine/1"].family == "bench_mine"
    ready = prepared("mine/2")
    ready.check(ready.call())


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "no such file of benchmarks"),
        ("", "defines no benchmark"),
        ("import nothing_like_this", "ModuleNotFoundError: No module named"),
        ("def broken(:", "SyntaxError"),
        ("1/0", "ZeroDivisionError"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        (MINE.replace("from beside import VALUE", "VALUE = 0") * 2, "two benchmarks are called"),
    ],
)
def test_files_that_are_none_are_one_clear_line(
    text: str | None, part: str, tmp_path: Path
) -> None:
    file = tmp_path / "bench.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(LabError, match=part) as caught:
        REGISTRY.load_file(file)
    assert "\n" not in str(caught.value)


def test_a_module_of_ours_that_cannot_be_loaded_is_known_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "own_benchmarks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "good.py").write_text(MINE.replace("from beside import VALUE", "VALUE = 40"))
    (package / "half.py").write_text(
        MINE.replace("mine/", "half/").replace("from beside import VALUE", "") + "import absent"
    )
    (package / "_shared.py").write_text("raise SystemError('not a family')")
    monkeypatch.syspath_prepend(tmp_path)
    REGISTRY.broken.clear()
    REGISTRY.load_own("own_benchmarks")
    assert list(REGISTRY.workloads) == ["mine/1", "mine/2"], "half a family is none"
    assert REGISTRY.broken == {"half": "ModuleNotFoundError: No module named 'absent'"}
    REGISTRY.broken.clear()


@dataclass
class Thing:
    name: str
    family: str
    group: str


THINGS = [
    Thing("read/u8/sequential", "memory_read_bench", "memory_read_sizes"),
    Thing("read/u64/sequential", "memory_read_bench", "memory_read_sizes"),
    Thing("read/throughput/1MiB", "memory_read_bench", "read_throughput"),
    Thing("write/u8/sequential", "memory_write_bench", "memory_write_sizes"),
]


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ([], [0, 1, 2, 3]),
        (["memory_read_bench"], [0, 1, 2]),
        (["read_throughput"], [2]),
        (["read"], [0, 1, 2]),
        (["read/u8"], [0]),
        (["*/u8/*"], [0, 3]),
        (["write/u8/sequential", "read/u8/sequential"], [0, 3]),
        (["read/u8", "read/*"], [0, 1, 2]),
    ],
)
def test_selectors(selectors: list[str], expected: list[int]) -> None:
    assert select(THINGS, selectors) == [THINGS[index] for index in expected]


def test_selectors_that_mean_nothing_are_errors() -> None:
    for selectors in (["rea"], ["read", "nothing"], [""], ["[]"]):
        with pytest.raises(LabError, match="nothing is called"):
            select(THINGS, selectors)
    with pytest.raises(LabError, match="no benchmarks to choose from"):
        select([], [])


def test_registries_are_apart() -> None:
    assert not Registry().workloads
