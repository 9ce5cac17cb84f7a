"""The common part of the checks of model-config.yaml; the rest is tested through them."""

import pytest

from archive_tool.config.entries import Entry, entries_of, is_int, near_miss, own_section, shown, unknown_key
from archive_tool.config.safe_yaml import compose, construct


def opened(text, name="optimize"):
    root = compose(text)
    return own_section(root, entries_of(root, construct(root)), name, "dtype: bfloat16")


def test_the_settings_of_a_section_with_their_lines():
    settings, problems = opened("a: 1\noptimize:\n  dtype: float16\n  2: x\n")
    assert settings == {"dtype": Entry("float16", 3), "2": Entry("x", 2)}
    assert problems == []


@pytest.mark.parametrize(
    ("text", "severity", "line", "hint"),
    [
        ("a: 1\noptimize: 3\n", "error", 2, "write an indented line such as dtype: bfloat16"),
        ("Optimise: {}\n", "warning", 1, "did you mean optimize?"),
    ],
)
def test_a_section_that_is_none(text, severity, line, hint):
    settings, (problem,) = opened(text)
    assert settings == {}
    assert (problem.severity, problem.line, problem.hint) == (severity, line, hint)


def test_no_section():
    assert opened("a: 1\n") == ({}, [])


def test_a_key_that_is_not_known():
    problem = unknown_key("optimize", "dtpe", Entry(1, 7), ["dtype", "compile"])
    assert (problem.key, problem.line, problem.hint) == ("optimize.dtpe", 7, "did you mean optimize.dtype?")
    assert unknown_key("backend", "x", Entry(1, 7), ["mode"]).hint == "the settings are mode"


def test_near_misses():
    assert near_miss("batch_size", {"batchSize": "count"}) == "batchSize"
    assert near_miss("size", {"batchSize": "count"}) is None


@pytest.mark.parametrize(("value", "whole"), [(1, True), (True, False), (1.0, False), (2**31, False), (-(2**31), True)])
def test_integers_of_java(value, whole):
    assert is_int(value) is whole


@pytest.mark.parametrize(("value", "words"), [(None, "nothing"), (True, "true"), ("x", "'x'")])
def test_values_in_messages(value, words):
    assert shown(value) == words


def test_a_number_that_python_does_not_print():
    assert shown(16**5000) == "a number out of all bounds"
