from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartwood.lab.exchange import FORMATS, export, parse, read
from hartwood.lab.results import load_run, save_run
from hartwood.lab.workload import LabError
from unit.lab_results import a_run

GOOGLE = '{"benchmarks": [{"name": "a", "real_time": 2, "cpu_time": 2, "time_unit": "us"}, %s]}'
SAMPLES = {
    "go": "goos: linux\nBenchmarkA-8 \t 1000\t 12.5 ns/op\t 0 B/op\nBenchmarkA-8 10 13 ns/op\nPASS",
    "hyperfine": '{"results": [{"command": "sleep 1", "mean": 1.5, "times": [1, 2]}]}',
    "google-benchmark": GOOGLE % '{"name": "a_mean", "run_type": "aggregate", "real_time": 9}',
    "criterion": '{"g/f": {"sampling_mode": "Linear", "iters": [1, 2], "times": [10, 30]}}',
}
EXPECTED = {
    "go": ("BenchmarkA", [1.25e-8, 1.3e-8]),
    "hyperfine": ("sleep 1", [1, 2]),
    "google-benchmark": ("a", [2e-6]),
    "criterion": ("g/f", [1e-8, 1.5e-8]),
}


@pytest.mark.parametrize("kind", [name for name, each in FORMATS.items() if each.write])
def test_round_trip(kind: str, tmp_path: Path) -> None:
    run = a_run()
    back = parse(json.dumps(export(run, kind)), kind, "it")
    for each in run.benchmarks:
        if each.status == "ok":
            assert median(back.named(each.name).wall) == pytest.approx(median(each.times))
    save_run(back, tmp_path / "run.json")
    assert load_run(tmp_path / "run.json") == back


@pytest.mark.parametrize("kind", SAMPLES)
def test_read_what_others_write(kind: str) -> None:
    (each,) = parse(SAMPLES[kind], kind, "it").benchmarks
    name, times = EXPECTED[kind]
    assert each.name == name
    assert each.wall == pytest.approx(times)


def test_every_format_has_a_test() -> None:
    assert set(SAMPLES) | {name for name, each in FORMATS.items() if each.write} == set(FORMATS)


def test_criterions_folder(tmp_path: Path) -> None:
    new = tmp_path / "g" / "f" / "new"
    new.mkdir(parents=True)
    (new / "benchmark.json").write_text('{"full_id": "g/f"}')
    with pytest.raises(LabError, match="No such file"):
        read(tmp_path, "criterion")
    (new / "sample.json").write_text('{"iters": [1, 2], "times": [10, 30]}')
    assert read(tmp_path, "criterion").benchmarks[0].wall == pytest.approx([1e-8, 1.5e-8])
    with pytest.raises(LabError, match="directory"):
        read(tmp_path, "go")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from("benchmarks results stats name value data times runs command".split()),
        inner),
)  # fmt: skip


@given(kind=st.sampled_from(sorted(FORMATS)), value=JSON)
def test_anything_else_is_one_line(kind: str, value: object) -> None:
    try:
        parse(json.dumps(value), kind, "it")
    except LabError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("kind", sorted(FORMATS))
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"benchmarks": []}', "nonsense"])
def test_nothing_is_not_a_run(kind: str, text: str) -> None:
    with pytest.raises(LabError, match="it"):
        parse(text, kind, "it")


def test_failed_and_impossible_times_are_refused() -> None:
    failed = '{"name": "b", "error_occurred": true, "error_message": "went wrong"}'
    with pytest.raises(LabError, match="went wrong"):
        parse(GOOGLE % failed, "google-benchmark", "it")
    for bad in ("0", "-1", '"1"', "true", "1e999"):
        with pytest.raises(LabError):
            parse(SAMPLES["hyperfine"].replace("[1, 2]", f"[{bad}]"), "hyperfine", "it")
    with pytest.raises(LabError, match="no format"):
        export(a_run(), "go")
    with pytest.raises(LabError, match="no format"):
        parse("", "odd", "it")
