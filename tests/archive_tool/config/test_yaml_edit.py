"""One setting changes, and nothing else."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.config.safe_yaml import NotYamlError
from archive_tool.config.yaml_edit import with_section

NEW = {"dtype": "bfloat16", "compile": True}
BLOCK = "optimize:\n  dtype: bfloat16\n  compile: true\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", BLOCK),
        ("# nothing yet\n", f"# nothing yet\n{BLOCK}"),
        ("batchSize: 3", f"batchSize: 3\n{BLOCK}"),
        ("a: 1  # one\n# end\n", f"a: 1  # one\n# end\n{BLOCK}"),
        ("optimize: {dtype: float16}\na: 1\n", f"{BLOCK}a: 1\n"),
        (
            "a: 1\noptimize:\n  dtype: float16\n  # inner\n\n# of b\nb: [1,\n  2]\n",
            f"a: 1\n{BLOCK}  # inner\n\n# of b\nb: [1,\n  2]\n",
        ),
        ("optimize:\n- 1\n- x: |\n    text\nb: 2\n", f"{BLOCK}b: 2\n"),
        ("optimize:\nb: 2\n", f"{BLOCK}b: 2\n"),
        ("---\na: 1\n...\n", f"---\na: 1\n{BLOCK}...\n"),
        ("a: |\n  text\n  more\n", f"a: |\n  text\n  more\n{BLOCK}"),
        ("'optimize': 3 # x\n", BLOCK),
    ],
)
def test_the_other_lines_stay(before, after):
    assert with_section(before, "optimize", NEW) == after


def test_settings_in_braces_are_written_anew():
    changed = with_section("{a: 1, optimize: {}}", "optimize", NEW)
    assert yaml.safe_load(changed) == {"a": 1, "optimize": NEW}


def test_a_setting_that_is_so_already_changes_nothing():
    text = "optimize: {dtype: bfloat16,   compile: yes}\n"
    assert with_section(text, "optimize", NEW) == text


def test_a_setting_is_removed():
    assert with_section(f"a: 1\n{BLOCK}# b\nb: 2\n", "optimize", None) == "a: 1\n# b\nb: 2\n"
    assert with_section(BLOCK, "optimize", None) == ""
    assert with_section("a: 1\n", "optimize", None) == "a: 1\n"


@pytest.mark.parametrize("text", ["- 1\n", "word", "a: [", "!!python/object:x.Y {}"])
def test_what_is_no_document_of_settings(text):
    with pytest.raises(NotYamlError):
        with_section(text, "optimize", NEW)


names = st.sampled_from(["a", "optimize", "b"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(names, values), values.filter(lambda value: value is not None), st.none() | st.booleans())
def test_whatever_the_document_it_says_the_new_and_the_old(document, value, flow):
    # Whatever is written, reading it back gives the old settings and the new one.
    text = yaml.safe_dump(document, default_flow_style=flow, sort_keys=False)
    assert yaml.safe_load(with_section(text, "optimize", value)) == {**document, "optimize": value}
