"""JSON lines and CSV as a stream."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batch.lines import Found, Lines, csv_rows, json_lines
from serving.batch.rows import Columns, Content, RowError

MOST = 1000


def contents(found: list[Found]) -> list[tuple[int, Any]]:
    """Return number, and body or error, of each row."""
    return [(one.number, outcome(one)) for one in found]


def outcome(found: Found) -> Any:
    try:
        content: Content = found.content()
    except RowError as error:
        return error
    return json.loads(content.body) if content.content_type == "application/json" else content.body


def of_json(data: bytes, columns: Columns = Columns()) -> list[tuple[int, Any]]:  # noqa: B008
    return contents(list(json_lines(io.BytesIO(data), columns, MOST)))


def of_csv(data: bytes, columns: Columns = Columns(), most: int = MOST) -> list[tuple[int, Any]]:  # noqa: B008
    return contents(list(csv_rows(io.BytesIO(data), columns, most)))


# ---- lines -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line and not line.endswith(b"\r"))))
def test_lines_are_those_of_the_file_and_long_ones_are_cut(lines: list[bytes]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    reading = Lines(io.BytesIO(data), 20)
    found = []
    while (line := reading.next()) is not None:
        found.append(line)
    expected = [line.removeprefix(b"\xef\xbb\xbf") if n == 0 else line for n, line in enumerate(lines)]
    assert [whole for _, whole in found] == [len(line) <= 20 for line in expected]
    assert all(cut == line or not whole for (cut, whole), line in zip(found, expected, strict=True))
    assert (reading.number, reading.position) == (len(lines), len(data))


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + b"1" * 30, b"1" * 20 + b"\r\r2"])
def test_a_line_that_is_cut_is_never_taken_for_a_whole_one(data: bytes) -> None:
    reading = Lines(io.BytesIO(data + b"\n7\n"), 20)
    assert [reading.next(), reading.next(), reading.next()] == [
        (data[:22].lstrip(b"\xef\xbb\xbf").rstrip(b"\r"), False),
        (b"7", True),
        None,
    ]


class Endless(io.RawIOBase):
    """A file of one line, far larger than memory, that tells how much of it was asked for at once."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.most = 0

    def readline(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size > 0, "all of it"
        self.most = max(self.most, size)
        self.left, size = max(0, self.left - size), min(self.left, size)
        return b"x" * size


def test_a_line_without_end_is_one_failure_and_is_never_held() -> None:
    stream = Endless(1 << 33)
    ((number, error),) = contents(list(json_lines(stream, Columns(), MOST)))  # type: ignore[arg-type]
    assert (number, str(error)) == (1, f"the line has more than {MOST} bytes")
    assert len(error.raw) <= 2000
    assert stream.most <= 1 << 20


# ---- JSON lines ------------------------------------------------------------------------------------------------------


def test_json_lines_are_sent_as_they_stand() -> None:
    (row,) = json_lines(io.BytesIO(b'\xef\xbb\xbf {"a" :1.10}\r\n\n  \n'), Columns(), MOST)
    assert row.content() == Content(b'{"a" :1.10}', "application/json")
    assert (row.number, row.position) == (1, 17)


def test_what_is_no_json_fails_alone() -> None:
    found = of_json(b'1\nnope\n"\xff"\n\x00\n{"a":1,"a":2}\n' + b"9" * (MOST + 1) + b"\n" + b"[" * 900 + b"\n2")
    assert [number for number, one in found if not isinstance(one, RowError)] == [1, 8]
    said = [str(one) for _, one in found[1:-1]]
    assert said[1] == "the line is no JSON: it is not UTF-8"
    assert "there twice" in said[3]
    assert said[4] == "the line has more than 1000 bytes"


def test_columns_of_json_lines() -> None:
    line = b'{"text": "hi", "n": [1], "y": 3}\n'
    assert of_json(line, Columns(label="y")) == [(1, {"text": "hi", "n": [1]})]
    assert of_json(line, Columns("text", "y")) == [(1, b"hi")]
    assert of_json(line, Columns("n")) == [(1, [1])]
    ((_, error),) = of_json(line, Columns("x"))
    assert str(error) == "it has no column 'x', but 'text', 'n', 'y'"
    ((_, error),) = of_json(b"[1]\n", Columns("x"))
    assert str(error) == "the line is no JSON object, and so has no columns"
    (row,) = json_lines(io.BytesIO(line), Columns(label="y"), MOST)
    assert row.content().label == 3


@given(st.binary(max_size=300))
def test_whatever_comes_each_line_is_a_row_or_blank(data: bytes) -> None:
    found = of_json(data)
    lines = data.split(b"\n")
    blank = {n for n, line in enumerate(lines, 1) if not line.removeprefix(b"\xef\xbb\xbf" if n == 1 else b"").strip()}
    assert {number for number, _ in found} == set(range(1, len(lines) + 1)) - blank


# ---- CSV -------------------------------------------------------------------------------------------------------------


def test_numbers_of_csv_are_numbers_and_the_rest_is_text() -> None:
    ((_, row),) = of_csv(b"a,b,c,d,e,f,g\n1,-2.50,01,1e999,,NaN,true\n")
    assert row == {"a": 1, "b": -2.5, "c": "01", "d": "1e999", "e": "", "f": "NaN", "g": "true"}
    ((_, row),) = of_csv(b'a,b,c,d\n"x\ny","say ""hi""",1e3, 7\n')
    assert row == {"a": "x\ny", "b": 'say "hi"', "c": 1000.0, "d": " 7"}


def test_a_column_of_csv_is_text() -> None:
    (row,) = csv_rows(io.BytesIO(b"a,y\n007,1\n"), Columns("a", "y"), MOST)
    assert row.content() == Content(b"007", "text/plain", "1")
    (row,) = csv_rows(io.BytesIO(b"a,y\n007,\n"), Columns("a", "y"), MOST)
    assert row.content().label is None


def test_bad_rows_of_csv_fail_alone() -> None:
    data = b'a,b\n1,2\n1\n1,2,3\n\n"x"y,2\n1,\x00\n1,\xff\n5,6\n7,"open\n8,9\n'
    found = of_csv(data)
    assert [(number, one) for number, one in found if not isinstance(one, RowError)] == [
        (2, {"a": 1, "b": 2}),
        (9, {"a": 5, "b": 6}),
    ]
    said = {number: str(one) for number, one in found if isinstance(one, RowError)}
    assert said == {
        3: "it has 1 fields, but there are 2 columns",
        4: "it has 3 fields, but there are 2 columns",
        6: "it is no row of CSV: ',' expected after '\"'",
        7: "it is no row of CSV: it has a NUL",
        8: "it is no row of CSV: it is not UTF-8",
        10: "it is no row of CSV: unexpected end of data (lines 10 to 11)",
    }


def test_an_open_quotation_mark_takes_no_more_than_a_row_may_have() -> None:
    data = b'a,b\n1,"open\n' + b"1,2\n" * 100
    found = of_csv(data, most=40)
    number, error = found[0]
    assert (number, isinstance(error, RowError)) == (2, True)
    assert "perhaps a quotation mark is not closed (lines 2 to" in str(error)
    assert len(error.raw) <= 40
    # What is after that is read again.
    assert found[-1] == (102, {"a": 1, "b": 2})
    assert len(found) > 80


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"a,,b\n", "column 2 has no name"),
        (b"a,b,a\n", "two are called 'a'"),
        (b"a;b\n1;2\n", "names one column, 'a;b', divided by ','; say --delimiter ';'"),
        (b"a\tb\n1\t2\n", "names one column.* say --delimiter tab"),
        (b'"a\n', "cannot be read"),
        (b"\xff\n", "not UTF-8"),
        (b"b\n1\n", "no column 'x', but 'b'"),
    ],
)
def test_a_header_that_names_no_columns(data: bytes, why: str) -> None:
    with pytest.raises(RowError, match=why):
        list(csv_rows(io.BytesIO(data), Columns("x" if why.startswith("no column") else None), MOST))


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_marks_between_fields(mark: str) -> None:
    data = f'a{mark}b\n1{mark}"2{mark}3"\n'.encode()
    (row,) = csv_rows(io.BytesIO(data), Columns(), MOST, mark)
    assert json.loads(row.content().body) == {"a": 1, "b": f"2{mark}3"}


def test_a_header_with_commas_where_another_mark_was_said() -> None:
    with pytest.raises(RowError, match=r"'a,b', divided by ';'; say --delimiter ','"):
        list(csv_rows(io.BytesIO(b"a,b\n1,2\n"), Columns(), MOST, ";"))


def test_a_label_that_is_no_column_is_said_before_any_row() -> None:
    with pytest.raises(RowError, match="no column 'price', but 'a', 'b'"):
        list(csv_rows(io.BytesIO(b"a,b\n1,2\n"), Columns(label="price"), MOST))


def test_a_csv_without_anything_has_no_rows() -> None:
    assert of_csv(b"") == of_csv(b"\n\n") == of_csv(b"a,b\n") == []


_CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


@given(st.lists(st.lists(_CELLS, min_size=3, max_size=3).filter(lambda row: row != ["", "", ""])))
def test_what_csv_writes_is_what_is_read(rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["a", "b", "c"], *rows])
    found = of_csv(text.getvalue().encode(), Columns("b"), most=10_000)
    assert [one for _, one in found] == [row[1].encode() for row in rows]


@given(st.binary(max_size=300))
def test_whatever_comes_csv_gives_rows_in_the_order_of_lines(data: bytes) -> None:
    try:
        found = of_csv(b"a,b\n" + data, most=50)
    except RowError as error:
        raise AssertionError from error
    numbers = [number for number, _ in found]
    assert numbers == sorted(set(numbers))
    for _, one in found:
        assert isinstance(one, (dict, RowError))
