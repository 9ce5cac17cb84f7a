"""The setting default_answer, alone and beside others."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.config import default_answer
from archive_tool.config.default_answer import DefaultAnswer
from archive_tool.config.effective import FILE, understand
from archive_tool.config.schema import validate

GOOD = [
    ("default_answer: default.json", DefaultAnswer("default.json")),
    ("default_answer: answers/none.txt", DefaultAnswer("answers/none.txt")),
    (
        "default_answer: {file: labels, content_type: text/plain; charset=utf-8}",
        DefaultAnswer("labels", "text/plain; charset=utf-8"),
    ),
    ("default_answer: {file: a.json, content_type: null}", DefaultAnswer("a.json")),
]
WRONG = [
    ("default_answer:", "expected the name of a file in the archive, or {file: NAME, content_type: TYPE}, got nothing"),
    ("default_answer: ''", "got ''"),
    ("default_answer: 5", "got 5"),
    ("default_answer: [a.json]", "got ['a.json']"),
    ("default_answer: {content_type: text/plain}", "got nothing"),
    ("default_answer: {file: {}}", "got {}"),
    ("default_answer: {file: a.json, type: text/plain}", "has no setting 'type'"),
    ("default_answer: {file: a.json, content_type: json}", "a media type such as application/json, got 'json'"),
    ('default_answer: {file: a.json, content_type: "a/b\\r\\nx: y"}', "a media type"),
]


@pytest.mark.parametrize(("text", "answer"), GOOD)
def test_what_it_says(text, answer):
    assert validate(text) == []
    found = understand(text)
    assert default_answer.read(found.document) == answer
    assert [one.source for one in found.settings if one.key == "default_answer"] == [FILE]
    assert (found.for_handler, found.ignored) == ((), ())


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_what_it_cannot_say(text, message):
    (problem,) = validate(f"batchSize: 2\n{text}")
    assert (problem.severity, problem.key, problem.line) == ("error", "default_answer", 2)
    assert message in problem.message
    assert problem.hint == "write a line such as default_answer: default.json"
    found = understand(text)
    assert found.value("default_answer") is None
    assert [one.key for one in found.ignored] == ["default_answer"]


def test_nothing_said():
    assert default_answer.read({}) is None
    assert understand("batchSize: 1").value("default_answer") is None


@pytest.mark.parametrize("key", ["defaultAnswer", "default-answer", "default_answers"])
def test_a_key_that_was_meant_so(key):
    (problem,) = validate(f"{key}: a.json")
    assert (problem.severity, problem.key, problem.hint) == ("warning", key, "did you mean default_answer?")


@pytest.mark.parametrize("other", default_answer.WITHOUT)
def test_settings_beside_which_it_has_no_effect(other):
    text = f"default_answer: a.json\n{other}: true\nsequenceMaxIdleMSec: 1000\n"
    (problem,) = validate(text)
    assert (problem.severity, problem.message) == ("warning", f"default_answer has no effect with {other}")
    found = understand(text)
    assert found.value("default_answer") is None
    assert [one.reason for one in found.ignored] == [f"it has no effect with {other}"]


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"a.json": default_answer.MAX_BYTES, "b": 1}, None),
        ({}, "names 'a.json', which is no file of the archive"),
        ({"A.json": 1, "x/a.json": 1}, "which is no file of the archive"),
        ({"a.json": default_answer.MAX_BYTES + 1}, "has 1048577 bytes; a server keeps at most 1048576 in memory"),
    ],
)
def test_the_file_of_the_archive(sizes, problem):
    found = default_answer.file_problem(DefaultAnswer("a.json"), sizes)
    assert found is None if problem is None else problem in found


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda part: st.lists(part, max_size=2) | st.dictionaries(st.sampled_from(["file", "content_type", "x"]), part),
    max_leaves=4,
)


@given(VALUES)
def test_any_value_is_read_or_has_a_problem(value):
    """Who passes the check can be read, and nothing else is."""
    text = yaml.safe_dump({"default_answer": value})
    good = not validate(text)
    assert good == (default_answer.read(understand(text).document) is not None)
