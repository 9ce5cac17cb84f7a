"""Values of a JSON document: the right type, or an error with the path."""

import pytest

from archive_tool.errors import UnreadableArchiveError
from archive_tool.metadata import json_fields


@pytest.mark.parametrize(
    ("read", "good", "missing", "bad"),
    [
        (json_fields.optional_text, "", None, [0, False, [], {}]),
        (json_fields.text, "", UnreadableArchiveError, [0, False, [], {}]),
        (json_fields.whole_number, 0, UnreadableArchiveError, [-1, 0.0, True, "1", []]),
        (json_fields.mapping, {"a": 1}, {}, [0, "", [], [["a", 1]]]),
        (json_fields.sequence, [1], [], [0, "ab", {}, (1,)]),
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
    assert json_fields.shown("x" * 58) == '"' + "x" * 58 + '"'
    assert json_fields.shown("x" * 59) == '"' + "x" * 56 + "..."
    assert json_fields.shown({"a": {1}}) == '{"a": "{1}"}'
