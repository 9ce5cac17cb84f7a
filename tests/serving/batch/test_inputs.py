"""Files and folders as rows."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from serving.batch.inputs import Reading, Rows, Taken
from serving.batch.rows import Columns, Content


def taken(reading: Reading, most: int = 1000) -> list[Taken]:
    rows = Rows(reading)
    try:
        found: list[Taken] = []
        while some := rows.take(most):
            assert len(some) <= most
            found += some
        return found
    finally:
        rows.close()


def write(folder: Path, **contents: str | bytes) -> None:
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_a_folder_is_read_by_name_and_each_file_by_its_ending(tmp_path: Path) -> None:
    write(tmp_path, b_png=b"\x89PNG", a__z_txt="z", a__c_csv="x\n1\n", d_jsonl="1\n2\n", e_json="{}", _hidden="no")
    found = taken(Reading((tmp_path,)), most=2)
    assert [(one.row.source.removeprefix(f"{tmp_path}/"), one.row.number) for one in found] == [
        ("a/c.csv", 2),
        ("a/z.txt", None),
        ("b.png", None),
        ("d.jsonl", 1),
        ("d.jsonl", 2),
        ("e.json", None),
    ]
    assert [one.content and (one.content.body, one.content.content_type) for one in found] == [
        (b'{"x": 1}', "application/json"),
        (b"z", "text/plain"),
        (b"\x89PNG", "image/png"),
        (b"1", "application/json"),
        (b"2", "application/json"),
        (b"{}", "application/json"),
    ]
    assert (
        [one.row.position for one in found] == [4, 5, 9, 11, 13, 15] == [4, 5, 9, 11, 13, Reading((tmp_path,)).size()]
    )


def test_a_format_for_all(tmp_path: Path) -> None:
    write(tmp_path, a_csv="x\n1\n")
    (one,) = taken(Reading((tmp_path / "a.csv",), "file"))
    assert one.content is not None
    assert (one.content.body, one.content.content_type) == (b"x\n1\n", "text/csv")
    assert [one.error is None for one in taken(Reading((tmp_path / "a.csv",), "jsonl"))] == [False, True]


def test_what_cannot_be_read_is_a_failure_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, a_bin=b"x" * 11, c_csv="x,x\n1,2\n", e_jsonl="1\n")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere")
    paths = tuple(tmp_path / name for name in ("a.bin", "c.csv", "pipe.jsonl", "gone.csv", "e.jsonl"))
    found = taken(Reading(paths, most=10))
    assert [str(one.error) if one.error else one.content and one.content.body for one in found] == [
        "it cannot be read: it is longer than 10 bytes",
        "the first row must name the columns: two are called 'x'",
        "it cannot be read: it is a pipe, and not a regular file",
        "it cannot be read: No such file or directory",
        b"1",
    ]
    assert all(one.row.number is None for one in found[:-1])


def test_what_cannot_be_read_in_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path, a__x_txt="x", z_txt="z")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.csv").symlink_to(tmp_path / "nowhere")
    (tmp_path / "d").symlink_to(tmp_path, target_is_directory=True)
    found = taken(Reading((tmp_path,)))
    assert [str(one.error) if one.error else one.content and one.content.body for one in found] == [
        b"x",
        "it cannot be read: it is a pipe, and not a regular file",
        "it cannot be read: No such file or directory",
        "it is a link to a folder, which is not followed; it can be an input of its own",
        b"z",
    ]


def test_a_folder_that_goes_while_it_is_read_is_a_failure_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, a__x_txt="x", b__y_txt="y", c__z_txt="z")
    with closing(Rows(Reading((tmp_path,)))) as rows:
        (first,) = rows.take(1)
        (tmp_path / "b").rename(tmp_path.with_name("elsewhere"))
        gone, last = rows.take(3)
    assert first.content == Content(b"x", "text/plain")
    assert (gone.row.source, str(gone.error)) == (
        str(tmp_path / "b"),
        "it cannot be read: No such file or directory",
    )
    assert last.content == Content(b"z", "text/plain")


def test_folders_may_be_deeper_than_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    monkeypatch.chdir(folder)
    try:
        for _ in range(1100):  # step by step: all of it may be longer than a path can be
            Path("d").mkdir()
            os.chdir("d")
        Path("x.txt").write_text("x")
        monkeypatch.chdir(tmp_path)
        (one,) = taken(Reading((folder,)))
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)  # shutil's is not deep enough
    assert one.error is None or "too long" in str(one.error)


def test_labels_of_a_file_go_with_the_rows(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl="1\nbad\n3\n4\n", labels_txt="one\n\nthree\n")
    reading = Reading((tmp_path / "a.jsonl",), labels=tmp_path / "labels.txt")
    assert [one.label for one in taken(reading)] == ["one", None, "three", None]
    rows = Rows(reading)
    assert len(list(rows.skip(2))) == 2
    assert [one.label for one in rows.take(9)] == ["three", None]
    rows.close()


@pytest.mark.parametrize(
    ("labels", "unlabelled", "left"), [("1\n\n", 0, False), ("1\n", 1, False), ("1\n2\n\n3\n", 0, True)]
)
def test_labels_that_are_not_as_many_as_the_rows_are_noticed(
    tmp_path: Path, labels: str, unlabelled: int, left: bool
) -> None:
    write(tmp_path, a_jsonl="1\n2\n", labels_txt=labels)
    with closing(Rows(Reading((tmp_path / "a.jsonl",), labels=tmp_path / "labels.txt"))) as rows:
        assert len(list(rows.skip(1))) == 1
        assert len(rows.take(9)) == 1
        assert rows.take(9) == []
        assert (rows.unlabelled, rows.left) == (unlabelled, left)


def test_labels_of_a_column_are_no_part_of_the_request(tmp_path: Path) -> None:
    write(tmp_path, a_csv="x,y\n1,2\n")
    (one,) = taken(Reading((tmp_path / "a.csv",), columns=Columns(label="y")))
    assert (one.label, one.content and one.content.body) == ("2", b'{"x": 1}')


def test_rows_that_are_skipped_are_not_read_and_known_again(tmp_path: Path) -> None:
    write(tmp_path, a_jsonl="1\nbad\n", b_txt="b")
    reading = Reading((tmp_path,))
    first, again = (list(Rows(reading).skip(9)) for _ in range(2))
    assert first == again
    assert len(set(first)) == 3
    (tmp_path / "b.txt").write_text("another b")
    assert list(Rows(reading).skip(9)) == first  # a whole file is known by its name
    (tmp_path / "a.jsonl").write_text("1\nbad\n3\n")
    assert not set(list(Rows(reading).skip(9))[:2]) & set(first[:2])


def test_large_rows_are_taken_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, a_jsonl="111\n222\n333\n444\n555\n")
    monkeypatch.setattr("serving.batch.inputs._MOST_BYTES", 6)
    rows = Rows(Reading((tmp_path / "a.jsonl",)))
    assert [len(rows.take(100)) for _ in range(4)] == [2, 2, 1, 0]


def test_a_row_that_becomes_too_large_fails(tmp_path: Path) -> None:
    write(tmp_path, a_csv="a_long_name\n1\n")
    (one,) = taken(Reading((tmp_path / "a.csv",), most=12))
    assert str(one.error) == "it has more than 12 bytes"
