"""The parts of a YAML document that are not plain settings."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_tool.config import safe_yaml


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
    assert safe_yaml.foreign_tags(text)


def test_a_tag_and_its_line():
    assert safe_yaml.foreign_tags("a: 1\nb: !!java.net.URL x\n") == [(2, "tag:yaml.org,2002:java.net.URL")]


@pytest.mark.parametrize("text", ["a: 1\n", "", "a: !!int 1\nb: !!str x\nc: ! x\nd: !!set {a}\n", "{", "\0"])
def test_no_tags(text):
    assert safe_yaml.foreign_tags(text) == []


def test_texts():
    assert texts("a: {b: [x, 1]}\nc: y\n") == [("a.b", "1"), ("a.b", "x"), ("c", "y")]
    assert texts("") == []
    assert texts("? [a]\n: x\n") == [("?", "x")]
    with pytest.raises(ValueError, match="not YAML: "):
        texts("a: [")


def test_aliases_do_not_multiply():
    levels = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
    assert [value for _, value in texts("a0: &a0 x\n" + levels)] == ["x"]
    assert safe_yaml.foreign_tags("a0: &a0 x\n" + levels) == []


def texts(text):
    return safe_yaml.texts(safe_yaml.compose(text))


def load(text):
    return safe_yaml.construct(safe_yaml.compose(text))


def test_values():
    assert load("a: &a {x: 1}\nb: [*a, {<<: *a, y: 2}]\n") == {"a": {"x": 1}, "b": [{"x": 1}, {"x": 1, "y": 2}]}
    assert load("") is None


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: [1\nb: 2\n", 2, "expected ',' or ']'"),
        ("a: 1\n---\nb: 2\n", 2, "but found another document"),
        ("a: 1\nb: *c\n", 2, "undefined alias"),
        ("a: 1\nb: !!python/object/apply:os.system [x]\n", 2, "could not determine a constructor"),
        ("a: 1\n<<: 2\n", 2, "expected a mapping"),
        ('a: !!int ""\n', None, "index out of range"),
        ("[" * 1000, 1, "more than 50 parts within each other"),
        ("a: \x01\n", None, "special characters are not allowed"),
    ],
)
def test_what_is_no_yaml(text, line, reason):
    with pytest.raises(safe_yaml.NotYamlError, match=r"^not YAML: ") as raised:
        load(text)
    assert raised.value.line == line
    assert reason in raised.value.reason


def test_a_long_document():
    text = "#" * safe_yaml.MAX_BYTES
    assert safe_yaml.compose(text) is None
    for longer in (text + "#", text.encode() + b"#"):
        with pytest.raises(safe_yaml.NotYamlError, match=f"more than {safe_yaml.MAX_BYTES} bytes"):
            safe_yaml.compose(longer)


def merging(count):
    """Return mappings that merge one of a thousand settings, line by line from the second on."""
    return f"- &a {{{', '.join(f'k{n}: 1' for n in range(1000))}}}\n" + "- {<<: *a}\n" * count


def test_merge_keys_are_counted_together():
    """No mapping is large by itself; 4,000 such lines of five thousand settings took 600 MB and half a minute."""
    most = safe_yaml.MAX_MERGED // 1000
    assert len(load(merging(most))[-1]) == 1000
    with pytest.raises(safe_yaml.NotYamlError, match="merge keys make too many settings") as raised:
        load(merging(most + 1))
    assert raised.value.line == most + 2


def test_merge_keys_of_merge_keys():
    """Each mapping merges the one before nine times: PyYAML would copy 9**12 settings."""
    lines = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 13)]
    for text in ("\n".join(lines), "a: &a {<<: *a}", "a: &a {<<: [*a]}", "a: &a {b: &b {<<: *a}, <<: *b}"):
        with pytest.raises(safe_yaml.NotYamlError, match="merge keys make too many settings"):
            load(text)


def test_many_settings_without_merge_keys(monkeypatch):
    monkeypatch.setattr(safe_yaml, "MAX_MERGED", 10)
    text = "".join(f"k{n}: 1\n" for n in range(4000))
    assert len(load(text)) == 4000


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab!:-[]{}&*\n \"'%#|>,?<=1", max_size=60) | st.binary(max_size=60))
def test_any_text_has_an_answer(text):
    """What tags, texts and values a text has, or that it is not YAML; nothing else is raised."""
    safe_yaml.foreign_tags(text)
    for reader in (texts, load):
        with contextlib.suppress(safe_yaml.NotYamlError):
            reader(text)
