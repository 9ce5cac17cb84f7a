"""The grammar of metrics' lines, which anything may be written in."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.frontend.metering import lines
from serving.frontend.metering.lines import Entry, entry_of, java_double, logged, parse

LINE = "HandlerTime.ms:4.5|#ModelName:mnist,Level:Model|#type:GAUGE|#hostname:box,1795950681,a-1,b-2"
WORD = st.text("abcXYZ_019", min_size=1, max_size=12)


def test_an_entry_is_understood() -> None:
    dimensions = (("ModelName", "mnist"), ("Level", "Model"))
    found = parse(LINE)
    assert found == Entry("HandlerTime", "ms", 4.5, dimensions, "GAUGE", "box", "a-1,b-2")
    assert found.values == ("mnist", "Model", "box")


def test_the_collectors_lines_have_no_type_and_no_ids() -> None:
    found = parse("CPUUtilization.Percent:12.500|#Level:Host|#hostname:box,1795950681")
    assert found == Entry("CPUUtilization", "Percent", 12.5, (("Level", "Host"),), "", "box", "")


@pytest.mark.parametrize("mark", ["[METRICS]", "INFO > [METRICS]"])
def test_a_workers_line_is_marked(mark: str) -> None:
    assert entry_of(mark + LINE) == LINE


@pytest.mark.parametrize("line", ["", LINE, " [METRICS]" + LINE, "WARN > [METRICS]x", "[METRIC]", "[metrics]" + LINE])
def test_other_lines_are_no_metrics(line: str) -> None:
    assert entry_of(line) is None


@pytest.mark.parametrize(
    ("dimensions", "found"),
    [
        ("", ()),
        ("a:b", (("a", "b"),)),
        ("a:b,c", (("a", "b"),)),
        ("a:b:c,d:e", (("d", "e"),)),
        ("a:,b:c,,", (("b", "c"),)),
        ("a:b:", (("a", "b"),)),  # Java's split drops what is empty at the end
        (":b", (("", "b"),)),
        ('a:"b c"', (("a", '"b c"'),)),
    ],
)
def test_dimensions_with_one_colon_count(dimensions: str, found: tuple[tuple[str, str], ...]) -> None:
    entry = parse(f"x.ms:1|#{dimensions}|#type:GAUGE|#hostname:h,1")
    assert entry is not None
    assert entry.dimensions == found


@pytest.mark.parametrize("number", ["1", "-5", "1.5", "1e5", "1e-05", ".5"])
def test_a_number(number: str) -> None:
    entry = parse(f"x.ms:{number}|#|#hostname:h,1")
    assert entry is not None
    assert entry.value == float(number)


@pytest.mark.parametrize("number", ["", "1e+16", "inf", "nan", "1,2", "1-2", "e", "1e999", "1_0", "0x1", "1 "])
def test_no_number(number: str) -> None:
    assert parse(f"x.ms:{number}|#|#hostname:h,1") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Failed to update metric with name:x",
        "x.m/s:1|#|#hostname:h,1",
        "x-y.ms:1|#|#hostname:h,1",
        "x.ms:1|#|#hostname:h",
        "x.ms:1|#|#type:GAUGE",
        "x.ms:1|#a:b|c|#hostname:h,1",
        "x.ms:1|#a:\x1b[31mb|#hostname:h,1",
        "x.ms:1|#a:b\n2026-11-29 - forged.Count:1|#hostname:h,1",
        "x.ms:1|#a:b|#hostname:h,1,id\u2028forged",
        "x.ms:1|#" + ",".join(["a:b"] * (lines.MAX_DIMENSIONS + 1)) + "|#hostname:h,1",
        "x.ms:1|#a:" + "b" * (lines.MAX_TEXT + 1) + "|#hostname:h,1",
        "x.ms:1|#|#hostname:h,1," + "b" * lines.MAX_LINE,
    ],
)
def test_what_is_no_entry(text: str) -> None:
    assert parse(text) is None


@given(st.text() | st.text("[METRICS].:|#,typehosnamCOUNTER 0123456789e-\t_", max_size=300))
@example("." * 100)
@example("x.ms:1|#:|#hostname: , ")
def test_any_text_is_an_entry_within_the_bounds_or_none(text: str) -> None:
    """Whatever a line holds, reading it never raises, and what comes of it is bounded and can be logged in one line."""
    entry_of(text)
    entry = parse(text)
    if entry is not None:
        assert len(entry.dimensions) <= lines.MAX_DIMENSIONS
        assert all(len(value) <= lines.MAX_TEXT for value in (entry.name, entry.unit, entry.kind, *entry.values))
        line = logged(entry.name, entry.unit, entry.value, entry.dimensions, entry.host, entry.request_ids)
        assert line.isprintable()


@given(
    WORD, WORD, st.floats(-1e15, 1e15).filter(lambda n: "+" not in repr(n)), st.lists(st.tuples(WORD, WORD), max_size=6)
)
def test_what_a_worker_writes_is_read_back(name: str, unit: str, value: float, pairs: list[tuple[str, str]]) -> None:
    dimensions = ",".join(f"{key}:{text}" for key, text in pairs)
    assert parse(f"{name}.{unit}:{value}|#{dimensions}|#type:COUNTER|#hostname:h,1,id") == Entry(
        name, unit, value, tuple(pairs), "COUNTER", "h", "id"
    )


@pytest.mark.parametrize(
    "text",
    [" " * 65000, "x " * 32000, "x." * 32000, "x.y:" * 16000, "x.ms:1|#" + ",:" * 32000, "x.ms:1|#" + "|#type:" * 9000],
)
def test_the_longest_line_takes_no_time(text: str) -> None:
    began = time.process_time()
    assert parse(text) is None
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5.0"),
        (0.0, "0.0"),
        (-5.25, "-5.25"),
        (0.001, "0.001"),
        (0.00099, "9.9E-4"),
        (0.00000012, "1.2E-7"),
        (1e-5, "1.0E-5"),
        (9999999, "9999999.0"),
        (1e7, "1.0E7"),
        (123456789, "1.23456789E8"),
        (-1.5e300, "-1.5E300"),
        (1e16, "1.0E16"),
    ],
)
def test_numbers_are_written_as_java_writes_them(value: float, text: str) -> None:
    assert java_double(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_written_as_java_does_is_the_same_number(value: float) -> None:
    assert float(java_double(value)) == value


def test_a_logged_line_has_torchserves_form() -> None:
    before = int(time.time())
    line = logged("HandlerTime", "ms", 5, [("ModelName", "a"), ("Level", "Model")], "box", "abc")
    head, _, stamp = line.rpartition(":")
    assert head == "HandlerTime.ms:5.0|#ModelName:a,Level:Model|#hostname:box,requestID:abc,timestamp"
    assert before <= int(stamp) <= time.time()
    assert logged("x", "ms", 5, [], "box", "").startswith("x.ms:5.0|#|#hostname:box,requestID:null,timestamp:")
    assert logged("x", "ms", 5, [], "box").startswith("x.ms:5.0|#|#hostname:box,timestamp:")
