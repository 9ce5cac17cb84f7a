"""Answers and failures on disk: what a kill leaves, and how a job goes on from it."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_tool.errors import InputError, TargetExistsError
from serving.batch.ledger import Ledger

JOB: dict[str, Any] = {"archive": ["a", 1], "inputs": ["x"]}


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(ledger: Ledger, number: int) -> None:
    if number % 3:
        ledger.answered("a.jsonl", number, 200, {"answer": number})
    else:
        ledger.failure("a.jsonl", number, 500, "bad", number)


def test_answers_and_failures_are_in_their_places_when_all_is_done(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    with Ledger(target, JOB) as ledger:
        ledger.answered("a", 1, 200, {"answer": {"é": "\ud800"}})
        ledger.answered("b.png", None, 200, {"answer_base64": "AA=="})
        ledger.failure("a", 2, None, "no JSON", "x")
        assert not target.exists()
        ledger.finish("d")
    assert lines(target) == [
        {"source": "a", "row": 1, "status": 200, "answer": {"é": "\ud800"}},
        {"source": "b.png", "row": None, "status": 200, "answer_base64": "AA=="},
    ]
    assert lines(ledger.failures) == [{"source": "a", "row": 2, "status": None, "error": "no JSON", "input": "x"}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.failures.jsonl"]


def test_without_failures_there_is_no_file_of_them(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    for failed in (True, False):
        with Ledger(target, JOB, force=True) as ledger:
            write(ledger, 0 if failed else 1)
            ledger.finish("d")
        assert ledger.failures.exists() == failed


def test_csv(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with Ledger(target, JOB) as ledger:
        ledger.answered("a", 1, 200, {"answer": 'say "hi",\nthere'})
        ledger.checkpoint("d")
    with Ledger(target, JOB) as ledger:
        ledger.answered("b", None, 200, {"answer": {"x": [1]}})
        ledger.answered("c\r", None, 200, {"answer": "of\rold\r\n"})
        ledger.finish("d")
    with target.open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["source", "row", "status", "answer"],
            ["a", "1", "200", 'say "hi",\nthere'],
            ["b", "", "200", '{"x": [1]}'],
            ["c\r", "", "200", "of\rold\r\n"],
        ]


@given(
    runs=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=6
    )
)
@settings(deadline=None, max_examples=60)
def test_whenever_it_is_killed_no_row_is_lost_and_none_is_there_twice(runs: list[tuple[int, int, int, int]]) -> None:
    """Each run writes rows, makes them certain, writes more, and is cut with a part of these on the disk."""
    folder = Path(tempfile.mkdtemp())
    try:
        target, number = folder / "out.jsonl", 0
        for certain, uncertain, answers, failures in runs:
            with Ledger(target, JOB) as ledger:
                assert ledger.rows >= number
                number = ledger.rows
                for _ in range(certain):
                    write(ledger, number)
                    number += 1
                ledger.checkpoint(f"after {number}")
                sizes = {name: (ledger.partial / name).stat().st_size for name in ("answers", "failures")}
                for more in range(uncertain):
                    write(ledger, number + more)
                kept = shutil.copytree(ledger.partial, folder / "kept")
                ledger._answers.flush()
                ledger._failures.flush()
                for name, most in (("answers", answers), ("failures", failures)):
                    written = (ledger.partial / name).read_bytes()
                    (kept / name).write_bytes(written[: sizes[name] + most])
            shutil.rmtree(ledger.partial, ignore_errors=True)
            kept.rename(ledger.partial)
        with Ledger(target, JOB) as ledger:
            assert ledger.rows == number
            assert ledger.digest in ("", f"after {number}")
            while number < 50:
                write(ledger, number)
                number += 1
            ledger.finish("all")
        rows = [*lines(target), *lines(ledger.failures)]
        assert sorted(row["row"] for row in rows) == list(range(max(50, number)))
        assert [row["row"] for row in lines(target)] == sorted(row["row"] for row in lines(target))
    finally:
        shutil.rmtree(folder)


def test_a_kill_while_the_results_are_moved(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    with Ledger(target, JOB) as ledger:
        write(ledger, 0)
        write(ledger, 1)
        ledger.checkpoint("d", finished=True)
        (ledger.partial / "failures").replace(ledger.failures)
    with Ledger(target, JOB) as ledger:
        assert (ledger.finished, ledger.rows, ledger.failed) == (True, 2, 1)
    assert (len(lines(target)), len(lines(ledger.failures))) == (1, 1)
    assert not ledger.partial.exists()


@pytest.mark.parametrize("gone", [True, False])
def test_a_kill_after_the_results_were_moved(tmp_path: Path, gone: bool) -> None:
    target = tmp_path / "out.jsonl"
    with Ledger(target, JOB) as ledger:
        write(ledger, 1)
        ledger.checkpoint("d", finished=True)
        (ledger.partial / "answers").replace(target)
    if gone:
        target.unlink()
    with Ledger(target, JOB) as ledger:
        assert (ledger.finished, ledger.rows) == ((False, 0) if gone else (True, 1))


def test_what_is_there_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("mine")
    with pytest.raises(TargetExistsError, match="exists already") as caught, Ledger(target, JOB):
        pass
    assert "--force" in str(caught.value.hint)
    with Ledger(target, JOB, force=True) as ledger:
        write(ledger, 1)
        assert target.read_text() == "mine"
        ledger.finish("d")
    assert len(lines(target)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_another_job_does_not_go_on_with_it(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    with Ledger(target, JOB) as ledger:
        write(ledger, 1)
        ledger.checkpoint("d")
    other = {**JOB, "archive": ["a", 2]}
    with pytest.raises(InputError, match="begin of another job: archive is not the same") as caught:
        Ledger(target, other).__enter__()
    assert "--restart" in str(caught.value.hint)
    with Ledger(target, other, restart=True) as ledger:
        assert ledger.rows == 0
        write(ledger, 2)
        ledger.finish("d")
    assert [row["row"] for row in lines(target)] == [2]


def test_two_jobs_do_not_write_the_same_at_once(tmp_path: Path) -> None:
    with Ledger(tmp_path / "out.jsonl", JOB), pytest.raises(InputError, match="another job writes"):
        Ledger(tmp_path / "out.jsonl", JOB).__enter__()


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"job": {"archive": ["a", 1], "inputs": ["x"]}}', "\0"])
def test_a_checkpoint_that_is_none(tmp_path: Path, damage: str) -> None:
    with Ledger(tmp_path / "out.jsonl", JOB) as ledger:
        write(ledger, 1)
        ledger.checkpoint("d")
    (ledger.partial / "checkpoint.json").write_text(damage)
    with pytest.raises(InputError) as caught:
        Ledger(tmp_path / "out.jsonl", JOB).__enter__()
    assert "--restart" in str(caught.value.hint)


def test_a_file_that_lost_what_was_certain(tmp_path: Path) -> None:
    with Ledger(tmp_path / "out.jsonl", JOB) as ledger:
        write(ledger, 1)
        ledger.checkpoint("d")
    (ledger.partial / "answers").write_text("")
    with pytest.raises(InputError, match="is shorter than"):
        Ledger(tmp_path / "out.jsonl", JOB).__enter__()


class Full:
    """A file on a disk that is full in the middle of a line, and has room again later."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.full = True

    def write(self, line: bytes) -> int:
        if self.full:
            self._stream.write(line[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._stream.write(line))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def test_a_line_that_a_full_disk_has_cut_is_none(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    with Ledger(target, JOB) as ledger:
        write(ledger, 1)
        ledger._answers = Full(ledger._answers)  # type: ignore[assignment]
        with pytest.raises(OSError, match="No space"):
            write(ledger, 2)
        ledger.checkpoint("d")
    with Ledger(target, JOB) as ledger:
        assert ledger.rows == 1
        write(ledger, 2)
        ledger.finish("d")
    assert [row["row"] for row in lines(target)] == [1, 2]


def test_a_place_that_is_not_ours_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial, mine = tmp_path / "out.jsonl.partial", tmp_path / "mine"
    for make in (partial.touch, lambda: partial.symlink_to(tmp_path)):
        make()
        with pytest.raises(InputError, match="no folder of yours"), Ledger(tmp_path / "out.jsonl", JOB):
            pass
        partial.unlink()
    mine.write_text("mine")
    partial.mkdir()
    (partial / "lock").symlink_to(mine)
    monkeypatch.setattr(os, "getuid", lambda: partial.stat().st_uid + 1)
    with pytest.raises(InputError, match="no folder of yours"), Ledger(tmp_path / "out.jsonl", JOB):
        pass
    assert mine.read_text() == "mine"


def test_a_job_that_wrote_no_row_leaves_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path / "out.jsonl", JOB) as ledger:
        ledger.uses(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_job_that_was_killed_is_removed_and_no_other(tmp_path: Path) -> None:
    ours, other = tmp_path / "torchmar-abc", tmp_path / "precious"
    for left in (ours, other):
        left.mkdir()
        with Ledger(tmp_path / "out.jsonl", JOB) as ledger:
            ledger.uses(left)
            ledger.uses(tmp_path / "torchmar-new")
    assert not ours.exists()
    assert other.exists()


@pytest.mark.parametrize("name", ["out", "out.txt", "out.parquet"])
def test_forms_of_answers(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"written as \.jsonl or \.ndjson or \.csv"):
        Ledger(tmp_path / name, JOB)
