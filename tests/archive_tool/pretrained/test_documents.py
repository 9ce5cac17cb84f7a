"""Documents of foreign folders: what they state, and how little they can cost."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archive_tool.errors import BuildError
from archive_tool.pretrained.documents import Card, read_card, read_json, read_object


def test_a_card_states_licence_base_and_task(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\nbase_model:\n- one/base\n- 7\npipeline_tag: translation\n---\nText\n---\n"
    )
    assert read_card(tmp_path) == (Card("mit", ("one/base",), "translation"), None)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: other\nlicense_name: llama3\n---\n", "llama3"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: [mit]\n---\n", None),
        ("---\n- a list\n---\n", None),
        ("---\nlicense: mit\n", None),  # the head does not end
        ("# A model\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_licences(tmp_path, text, licence):
    (tmp_path / "README.md").write_text(text)
    assert read_card(tmp_path) == (Card(licence), None)


def test_no_card_states_nothing(tmp_path):
    assert read_card(tmp_path) == (Card(), None)


@pytest.mark.parametrize("head", ["a: [", "a: &x [*x, *x]\nb: !!python/object:os.system {}", "a: \x00"])
def test_a_bad_head_is_told_and_no_reason_to_refuse(tmp_path, head):
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n")
    card, odd = read_card(tmp_path)
    assert card == Card()
    assert odd is None or odd.startswith("the head of the model card is not YAML")


def test_a_card_that_is_no_text(tmp_path):
    (tmp_path / "README.md").write_bytes(b"---\n\xff\n---\n")
    assert "cannot be read" in read_card(tmp_path)[1]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="-\n :[]{}&*!abc'\"#|>", max_size=60))
def test_any_card_is_read(tmp_path, text):
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n")
    card, odd = read_card(tmp_path)
    assert isinstance(card, Card)
    assert odd is None or isinstance(odd, str)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not JSON"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"\xff", "UTF-8"),
        (b"[" * 100_000, "is not JSON"),
        (json.dumps([[[]]]).encode(), "holds no JSON object"),
    ],
)
def test_bad_documents(tmp_path, content, said):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BuildError, match=said) as caught:
        read_object(path)
    assert str(path) in str(caught.value)


def test_a_pipe_is_no_document(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(BuildError, match="a pipe"):
        read_json(tmp_path / "config.json")
