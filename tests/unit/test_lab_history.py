from __future__ import annotations

import multiprocessing
import os
import sqlite3
from pathlib import Path

import pytest

from hartwood.lab.history import History, Record, record_of, record_of_gate
from hartwood.lab.workload import LabError
from unit.lab_results import a_judgement, a_run


def _record(day: int, ratio: float = 1.0, release: bool = False) -> Record:
    created = f"2026-{1 + day // 28:02}-{1 + day % 28:02}T00:00:00+00:00"
    return Record(created, f"{day:040x}", "m", "ref", release, {"a": ratio}, {"a": ratio})


def test_what_is_added_is_there_once_and_in_order(tmp_path: Path) -> None:
    past = History(tmp_path / "new" / "folder")
    assert past.append(_record(2))
    assert past.append(_record(1))
    assert not past.append(_record(2))
    assert past.records() == [_record(1), _record(2)]


def test_half_a_line_costs_only_itself(tmp_path: Path) -> None:
    past = History(tmp_path)
    past.append(_record(1))
    whole = past.path.read_bytes()
    past.path.write_bytes(whole + whole[:40])
    past.append(_record(2))
    assert past.records() == [_record(1), _record(2)]
    assert len(past.damaged) == 1
    assert ":2: damaged JSON" in past.damaged[0]
    assert whole[:40] + b"\n" in past.path.read_bytes()


@pytest.mark.parametrize(
    "line",
    [b"[]", b"null", b"\xff", b'{"created": "x"}', b'{"created": NaN}', b"{" * 5000,
     b'{"created": "2026-01-01T00:00:00+00:00", "values": {"a": 0}}',
     b'{"created": "2026-01-01T00:00:00+00:00", "values": {"a": 1}, "schema": "other"}'],
)  # fmt: skip
def test_damaged_lines_are_said_and_stay(tmp_path: Path, line: bytes) -> None:
    past = History(tmp_path)
    past.path.write_bytes(line + b"\n")
    past.append(_record(1))
    assert past.records() == [_record(1)]
    assert len(past.damaged) == 1
    assert past.path.read_bytes().startswith(line)


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = History(tmp_path)
    past.append(_record(1))
    before, write = past.path.read_bytes(), os.write

    def full(file: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(file, data[: len(data) - 50])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LabError, match="No space left"):
        past.append(_record(2))
    assert past.path.read_bytes() == before


def _write_many(folder: Path, start: int) -> None:
    for day in range(start, start + 25):
        History(folder).append(_record(day))


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(tmp_path, n * 25)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    past = History(tmp_path)
    assert past.records() == [_record(day) for day in range(100)]
    assert past.damaged == []


def test_index_follows_the_lines_and_can_be_damaged(tmp_path: Path) -> None:
    past = History(tmp_path)
    with pytest.raises(LabError, match="no history yet"):
        past.index()
    for day in range(3):
        past.append(_record(day, 1 + day / 10))
        with sqlite3.connect(past.index()) as index:
            rows = index.execute("SELECT ratio FROM point ORDER BY created").fetchall()
        index.close()
        assert [ratio for (ratio,) in rows] == [1 + n / 10 for n in range(day + 1)]
    (tmp_path / "index.sqlite3").write_bytes(b"not a database at all" * 50)
    index = sqlite3.connect(past.index())
    assert index.execute("SELECT count(*) FROM point").fetchone() == (3,)
    index.close()


def test_trends_have_changes_and_creep(tmp_path: Path) -> None:
    past = History(tmp_path)
    for day in range(40):
        past.append(_record(day, 1.0 if day < 20 else 1.1, release=day == 10))
    (trend,) = past.trends()
    assert trend.ratio
    assert trend.against == "ref"
    assert [(change.at, round(change.ratio, 3)) for change in trend.changes] == [(20, 1.1)]
    assert trend.creep == pytest.approx(0.1)


def test_records_of_runs_and_judgements() -> None:
    record = record_of(a_run(1.1), a_run(revision="d" * 40))
    assert record.reference == "d" * 40
    assert record.ratios["boot"] == pytest.approx(1.1)
    assert "numa" not in record.values
    assert record_of_gate(a_judgement()).ratios == {"read/8": 1.05, "tlb/hit": 1.001}
    with pytest.raises(LabError, match="another machine"):
        record_of(a_run(), a_run(machine="other"))
    with pytest.raises(LabError, match="no revision"):
        record_of(a_run(), a_run(revision=""))
