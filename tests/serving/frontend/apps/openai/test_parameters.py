"""What requests may say, and what they get told otherwise."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.apps.openai import chat, completions, embeddings
from serving.frontend.apps.openai.errors import ParameterError

CHAT = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
TEXT = {"model": "m", "prompt": "a"}


@pytest.mark.parametrize(
    "more",
    [
        {"user": "u", "metadata": {}, "store": False, "service_tier": "auto", "safety_identifier": "s"},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "logit_bias": {}, "n": None},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "parallel_tool_calls": True, "modalities": ["text"]},
        {"stream": False, "stream_options": {"include_obfuscation": False}, "stop": [], "temperature": None},
    ],
)
def test_what_asks_for_nothing_is_let_pass(more: dict[str, Any]) -> None:
    assert chat.understand(CHAT | more) == chat.understand(CHAT)


@pytest.mark.parametrize(
    ("more", "param", "message"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "not supported here"),
        ({"tool_choice": "required"}, "tool_choice", "not supported here"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported here"),
        ({"logit_bias": {"50": 1}}, "logit_bias", "not supported here"),
        ({"n": 0}, "n", "from 1 to 64, not 0"),
        ({"n": True}, "n", "whole number"),
        ({"temperature": 3}, "temperature", "from 0 to 2, not 3"),
        ({"top_p": "x"}, "top_p", "from 0 to 1"),
        ({"max_tokens": 0}, "max_tokens", "from 1"),
        ({"seed": 2**70}, "seed", "whole number"),
        ({"stop": [""]}, "stop", "a text, or a list of texts"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": []}, "stream_options", "an object"),
        ({"stream_options": {"usage": True}}, "stream_options.usage", "did you mean stream_options.include_usage"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"logprobs": 2}, "logprobs", "true or false"),
        ({"messages": []}, "messages", "a list such as"),
        ({"messages": ["a"]}, "messages[0]", "an object with role and content"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "supported are system, developer"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "a text"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content",
            "type 'image_url': supported is text",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a", "tool_calls": []}]},
            "messages[0].tool_calls",
            "no parameter 'messages[0].tool_calls'",
        ),
    ],
)
def test_a_wrong_chat_is_refused_by_the_name_of_what_is_wrong(more: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(ParameterError) as raised:
        chat.understand(CHAT | more)
    assert raised.value.param == param
    assert message in raised.value.message


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": ["a"] * 33, "n": 2}, "n"),
        ({"logprobs": 6}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_a_wrong_completion_is_refused(more: dict[str, Any], param: str) -> None:
    with pytest.raises(ParameterError) as raised:
        completions.understand(TEXT | more)
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("more", "param"),
    [({"input": ["a"] * 2049}, "input"), ({"input": [None]}, "input"), ({"encoding_format": "hex"}, "encoding_format")],
)
def test_wrong_embeddings_are_refused(more: dict[str, Any], param: str) -> None:
    with pytest.raises(ParameterError) as raised:
        embeddings.understand({"model": "m", "input": "a"} | more)
    assert raised.value.param == param


def test_parts_of_a_message_are_joined() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    wanted = chat.understand(CHAT | {"messages": [{"role": "user", "content": parts, "name": "n"}]})
    assert wanted.prompts == [{"messages": [{"role": "user", "content": "a b"}]}]


@pytest.mark.parametrize(
    ("more", "parameters"),
    [
        ({"temperature": 0, "seed": 3}, {"do_sample": False, "seed": 3}),
        ({"top_p": 0}, {"do_sample": False}),
        ({"top_p": 0.5}, {"do_sample": True, "top_p": 0.5}),
        ({"presence_penalty": 0.5}, {"presence_penalty": 0.5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_new_tokens": 6}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"logprobs": True}, {"logprobs": True}),
    ],
)
def test_parameters_become_those_of_the_archives_form(more: dict[str, Any], parameters: dict[str, Any]) -> None:
    assert chat.understand(CHAT | more).parameters == parameters | {"details": True, "return_full_text": False}


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_NAMES = st.sampled_from(["messages", "prompt", "input", "n", "stop", "stream_options", "seed", "logprobs", "tools"])


@given(st.dictionaries(_NAMES | st.text(max_size=3), _JSON, max_size=4))
def test_any_document_is_understood_or_refused(more: dict[str, Any]) -> None:
    for read, usual in ((chat.understand, CHAT), (completions.understand, TEXT), (embeddings.understand, TEXT)):
        with contextlib.suppress(ParameterError):
            read(usual | more)
