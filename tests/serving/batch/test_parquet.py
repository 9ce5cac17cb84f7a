"""Parquet as rows."""

from __future__ import annotations

import datetime
import decimal
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from archive_tool.cli import entry
from archive_tool.errors import InputError
from serving.batch import parquet
from serving.batch.inputs import Reading, Rows, Taken
from serving.batch.rows import Columns


def written(path: Path, columns: dict[str, list[Any]], **options: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def taken(path: Path, columns: Columns = Columns()) -> list[Taken]:  # noqa: B008
    rows = Rows(Reading((path,), columns=columns))
    try:
        return [one for some in iter(lambda: rows.take(7), []) for one in some]
    finally:
        rows.close()


def test_rows_are_objects_and_their_numbers_go_on_over_row_groups(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"x": list(range(200)), "s": ["é"] * 200}, row_group_size=30)
    found = taken(path)
    assert [one.row.number for one in found] == list(range(1, 201))
    assert json.loads(found[99].content.body) == {"x": 99, "s": "é"}  # type: ignore[union-attr]
    assert found[-1].row.position == path.stat().st_size


def test_values_that_json_does_not_have(tmp_path: Path) -> None:
    values = {"d": [datetime.date(2024, 2, 29)], "n": [decimal.Decimal("1.10")], "l": [[1, None]], "e": [None]}
    (one,) = taken(written(tmp_path / "a.parquet", values))
    assert json.loads(one.content.body) == {"d": "2024-02-29", "n": "1.10", "l": [1, None], "e": None}  # type: ignore[union-attr]


def test_bytes_are_a_request_of_their_own(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"picture": [b"\x89PNG"], "y": [3]})
    (one,) = taken(path, Columns("picture", "y"))
    assert one.content is not None
    assert (one.content.body, one.content.content_type, one.label) == (b"\x89PNG", "application/octet-stream", 3)
    (one,) = taken(path)
    assert "--column names the one" in str(one.error)


def test_a_column_that_is_not_there_fails_once(tmp_path: Path) -> None:
    (one,) = taken(written(tmp_path / "a.parquet", {"a": [1, 2, 3]}), Columns("b"))
    assert (str(one.error), one.row.number) == ("it has no column 'b', but 'a'", None)


def test_a_label_that_is_no_column_fails_once(tmp_path: Path) -> None:
    (one,) = taken(written(tmp_path / "a.parquet", {"a": [1, 2, 3]}), Columns(label="b"))
    assert (str(one.error), one.row.number) == ("it has no column 'b', but 'a'", None)


@pytest.mark.parametrize("cut", [0, 3, 50, -20])
def test_a_damaged_file_is_a_failure_of_its_own(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "a.parquet", {"a": list(range(1000))})
    path.write_bytes(path.read_bytes()[:cut])
    (one,) = taken(path)
    assert str(one.error).startswith("it cannot be read as Parquet: ")


def test_damage_within_keeps_the_rows_before_it(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"a": [f"{n:050}" for n in range(1000)]}, row_group_size=100)
    data = bytearray(path.read_bytes())
    middle = pyarrow.parquet.ParquetFile(path).metadata.row_group(5).column(0)
    data[middle.dictionary_page_offset : middle.data_page_offset + 30] = b"\xff" * (
        middle.data_page_offset + 30 - middle.dictionary_page_offset
    )
    path.write_bytes(data)
    *good, last = taken(path)
    assert last.error is not None
    assert all(one.error is None for one in good)
    assert 0 < len(good) <= 500


def test_without_pyarrow_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "a.parquet", {"a": [1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="read by pyarrow"):
        parquet.check_installed()
    (tmp_path / "m.mar").touch()
    assert entry.main(["batch", str(tmp_path / "m.mar"), str(path), "--output", str(tmp_path / "o.jsonl")]) == 1
    assert "pip install 'torchmar[parquet]'" in capsys.readouterr().err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.parquet", "m.mar"]
