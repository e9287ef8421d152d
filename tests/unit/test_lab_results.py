"""Stored runs: a file is either sound or one clear line, and writing never leaves half of one."""

from __future__ import annotations

import copy
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.lab import LabError
from hartwood.lab.results import (
    SCHEMA,
    Benchmark,
    OutlierCounts,
    Outliers,
    Run,
    Warmup,
    baseline_path,
    load_run,
    now,
    parse_json,
    run_from,
    run_json,
    save_run,
    write_json,
)


def some_run() -> Run:
    return Run(
        created=now(),
        revision="91ab100",
        machine={"cpu": "some", "cores": 2, "virtual": True, "load": 0.5, "identity": "abc"},
        settings={"mode": "quick", "seed": 1},
        benchmarks=[
            Benchmark(
                name="read/u8", family="memory_read_bench", unit="reads", per_call=10,
                wall=[1e-6, 2e-6], cpu=[1e-6, 1.5e-6], counters={"instructions": 1 << 60},
                warmup=Warmup(0.2, 16, 0.001, True),
                outliers=OutlierCounts(Outliers(1, 0), Outliers(0, 1), {"steal": 1}),
            ),
            Benchmark(name="numa", status="skipped", reason="one node only"),
        ],
    )  # fmt: skip


def data() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(run_json(some_run())))
    return made


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.json"
    run = some_run()
    save_run(run, path)
    assert load_run(path) == run
    assert list(path.parent.iterdir()) == [path]
    assert json.loads(path.read_text())["schema"] == SCHEMA
    assert run.named("numa") is run.benchmarks[1]
    assert run.named("nothing") is None


def test_the_clock_of_a_benchmark_chooses_its_times() -> None:
    benchmark = some_run().benchmarks[0]
    assert benchmark.times == benchmark.cpu
    benchmark.clock = "wall"
    assert benchmark.times == benchmark.wall


def changed(path: str, value: object) -> dict[str, Any]:
    """The data of a sound run with one value replaced; `...` removes it."""
    whole = data()
    *steps, last = path.split(".")
    place: Any = whole
    for step in steps:
        place = place[int(step) if step.isdigit() else step]
    key: Any = int(last) if last.isdigit() else last
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return whole


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        ("schema", "hartwood-lab/2", "its schema is 'hartwood-lab/2', this version reads"),
        ("schema", ..., "its schema is 'None'"),
        ("schema", 1, "its schema is '1'"),
        ("created", "yesterday", "created is no time"),
        ("created", "2026-01-01T00:00:00", "created is no time with a zone"),
        ("created", 5, "created is not str"),
        ("surprise", 1, "unknown field surprise"),
        ("machine", [], "machine is not an object"),
        ("machine.cpu", None, "machine.cpu is not str or int or float or bool"),
        ("machine.load", {}, "machine.load is not"),
        ("benchmarks", {}, "benchmarks is not a list"),
        ("benchmarks.0", [], r"benchmarks\[0\] is not an object"),
        ("benchmarks.0.name", ..., r"benchmarks\[0\].name is missing"),
        ("benchmarks.0.name", "", "name is empty"),
        ("benchmarks.0.status", "fine", "read/u8: status 'fine' is none of"),
        ("benchmarks.0.status", "failed", "read/u8: failed without a reason"),
        ("benchmarks.0.clock", "cycles", "read/u8: clock"),
        ("benchmarks.0.per_call", 0, "per_call and loops are at least 1"),
        ("benchmarks.0.per_call", True, "per_call is not int"),
        ("benchmarks.0.per_call", 1.0, "per_call is not int"),
        ("benchmarks.0.loops", 0, "per_call and loops are at least 1"),
        ("benchmarks.0.wall", [], "read/u8: ok without samples"),
        ("benchmarks.0.wall", [1.0], "read/u8: wall and cpu have different lengths"),
        ("benchmarks.0.wall.1", 0.0, "read/u8: a time is zero or negative"),
        ("benchmarks.0.cpu.0", -1e-6, "read/u8: a time is zero or negative"),
        ("benchmarks.0.cpu.0", "1", r"cpu\[0\] is not float"),
        ("benchmarks.0.cpu.0", 10**400, r"cpu\[0\] is out of range"),
        ("benchmarks.0.counters.instructions", -1, "a count is negative"),
        ("benchmarks.0.counters.instructions", 0.5, "counters.instructions is not int"),
        ("benchmarks.0.outliers.wall.mild", -1, "a count is negative"),
        ("benchmarks.0.outliers.causes.steal", -1, "a count is negative"),
        ("benchmarks.0.retaken", -1, "a count is negative"),
        ("benchmarks.0.warmup.seconds", -0.1, "a warm-up time is negative"),
        ("benchmarks.0.warmup.steady", 1, "warmup.steady is not bool"),
        ("benchmarks.1.name", "read/u8", "read/u8 is there twice"),
        ("benchmarks.1.reason", "", "numa: skipped without a reason"),
    ],
)
def test_every_field_is_checked(path: str, value: object, part: str) -> None:
    with pytest.raises(LabError, match=part) as caught:
        run_from(changed(path, value), "results.json")
    assert str(caught.value).startswith("results.json: ")
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_times_too() -> None:
    run = run_from(changed("benchmarks.0.cpu.0", 1), "x")
    assert run.benchmarks[0].cpu[0] == 1.0
    assert isinstance(run.benchmarks[0].cpu[0], float)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "damaged JSON"),
        ("{", "damaged JSON"),
        ('{"a": NaN}', "NaN is not a number that JSON has"),
        ('{"a": -Infinity}', "-Infinity is not a number"),
        ('{"a": 1, "a": 2}', "a name is there twice in one object"),
        ("[" * 100_000, "damaged JSON"),
        ("1" * 5000, "damaged JSON"),
    ],
)
def test_damaged_json(text: str, part: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(LabError, match=part) as caught:
        load_run(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="No such file"):
        load_run(tmp_path / "absent.json")
    with pytest.raises(LabError, match="Is a directory"):
        load_run(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    with pytest.raises(LabError, match="not UTF-8"):
        load_run(tmp_path / "binary")


@given(st.data())
def test_a_value_of_another_kind_anywhere_is_an_error_or_a_sound_run(drawn: st.DataObject) -> None:
    whole = data()
    place: Any = whole
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = drawn.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and drawn.draw(st.booleans()):
            place = place[key]
            continue
        strange = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
        place[key] = drawn.draw(strange | st.just([]) | st.just({}))
        break
    try:
        run = run_from(whole, "x")
    except LabError as error:
        assert "\n" not in str(error)
        return
    assert run_from(run_json(run), "again") == run


@given(st.text(max_size=200))
def test_any_text_is_json_or_one_line(text: str) -> None:
    try:
        parse_json(text, "x")
    except LabError as error:
        assert "\n" not in str(error)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    save_run(some_run(), path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LabError, match=r"cannot be written: No space left on device"):
        save_run(Run(created=now()), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot be written: "):
        write_json(tmp_path / "file" / "run.json", {})
    with pytest.raises(LabError, match="cannot be written: "):
        write_json(tmp_path / "run.json", {"time": float("nan")})
    assert not (tmp_path / "run.json").exists()


def test_an_unsound_run_is_not_written(tmp_path: Path) -> None:
    run = copy.deepcopy(some_run())
    run.benchmarks[0].cpu[0] = 0.0
    with pytest.raises(LabError, match="zero or negative"):
        save_run(run, tmp_path / "run.json")
    assert not list(tmp_path.iterdir())


def test_baselines_have_names_not_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARTWOOD_BASELINES", str(tmp_path))
    assert baseline_path("v1.2-main") == tmp_path / "v1.2-main.json"
    for name in ("", "../x", "a/b", ".hidden", "x\n", "a b"):
        with pytest.raises(LabError, match="no name for a baseline"):
            baseline_path(name)
    monkeypatch.delenv("HARTWOOD_BASELINES")
    assert baseline_path("main") == Path(".hartwood/baselines/main.json")
