"""What a YAML document holds that is no plain setting."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_tool import yaml_nodes


@pytest.mark.parametrize(
    "text",
    [
        "a: !!javax.script.ScriptEngineManager [x]\n",
        "a: 1\n? !java.net.URL x\n: 2\n",
        "a: [1, {b: !!python/object/apply:os.system [x]}]\n",
        "%TAG !j! tag:yaml.org,2002:java.\n---\na: !j!net.URL x\n",
        "a: !!java.net.URL x\nb: [broken\n",
        "a: !<tag:yaml.org,2002:java.net.URL> x\n",
        "- 1\n--- \n!!java.net.URL x\n",
    ],
)
def test_tags(text):
    assert yaml_nodes.foreign_tags(text)


def test_a_tag_and_its_line():
    assert yaml_nodes.foreign_tags("a: 1\nb: !!java.net.URL x\n") == [(2, "tag:yaml.org,2002:java.net.URL")]


@pytest.mark.parametrize("text", ["a: 1\n", "", "a: !!int 1\nb: !!str x\nc: ! x\nd: !!set {a}\n", "{", "\0"])
def test_no_tags(text):
    assert yaml_nodes.foreign_tags(text) == []


def test_texts():
    assert yaml_nodes.texts("a: {b: [x, 1]}\nc: y\n") == [("a.b", "1"), ("a.b", "x"), ("c", "y")]
    assert yaml_nodes.texts("") == []
    assert yaml_nodes.texts("? [a]\n: x\n") == [("?", "x")]
    with pytest.raises(ValueError, match="not YAML: "):
        yaml_nodes.texts("a: [")


def test_aliases_do_not_multiply():
    levels = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
    assert [value for _, value in yaml_nodes.texts("a0: &a0 x\n" + levels)] == ["x"]
    assert yaml_nodes.foreign_tags("a0: &a0 x\n" + levels) == []


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="a!:-[]{}&*\n \"'%#|>,?", max_size=60) | st.binary(max_size=60))
def test_any_text_has_an_answer(text):
    yaml_nodes.foreign_tags(text)
    with contextlib.suppress(ValueError):
        yaml_nodes.texts(text)
