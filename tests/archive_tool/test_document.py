"""Values of a JSON document: the right type, or an error with the path."""

import pytest

from archive_tool import document
from archive_tool.errors import UnreadableArchiveError


@pytest.mark.parametrize(
    ("read", "good", "missing", "bad"),
    [
        (document.optional_text, "", None, [0, False, [], {}]),
        (document.text, "", UnreadableArchiveError, [0, False, [], {}]),
        (document.whole_number, 0, UnreadableArchiveError, [-1, 0.0, True, "1", []]),
        (document.mapping, {"a": 1}, {}, [0, "", [], [["a", 1]]]),
        (document.sequence, [1], [], [0, "ab", {}, (1,)]),
    ],
)
def test_types(read, good, missing, bad):
    assert read(good, "a.b") == good
    if missing is UnreadableArchiveError:
        with pytest.raises(UnreadableArchiveError, match=r"a\.b is missing"):
            read(None, "a.b")
    else:
        assert read(None, "a.b") == missing
    for value in bad:
        with pytest.raises(UnreadableArchiveError, match=r"a\.b: expected "):
            read(value, "a.b")


def test_a_long_value_is_cut():
    assert document.shown("x" * 58) == '"' + "x" * 58 + '"'
    assert document.shown("x" * 59) == '"' + "x" * 56 + "..."
    assert document.shown({"a": {1}}) == '{"a": "{1}"}'
