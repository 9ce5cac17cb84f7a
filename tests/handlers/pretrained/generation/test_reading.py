"""What is asked for: every form, and what is said of one that is wrong."""

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.errors import BadInputError, LoadError, TooLargeError
from handlers.pretrained.generation import reading
from handlers.pretrained.generation.parameters import PARAMETERS, draws
from tests.handlers.pretrained.models import make_byte_tokenizer

tokenizer = cache(make_byte_tokenizer)
USER = {"role": "user", "content": "hi"}
LONG = "the rain, " * 200_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*PARAMETERS, "inputs", "messages", "parameters", "stream", "role"]), inner)
    ),
    max_leaves=12,
)


def read(data, **defaults):
    return reading.read(data, {"body": data}, defaults)


@pytest.mark.parametrize(
    "data", ["hi", b"hi", {"inputs": "hi"}, {"text": "hi"}, b'{"inputs": "hi", "parameters": null, "options": {}}']
)
def test_forms_of_one_text(data):
    found = read(data)
    assert (found.inputs, found.messages, found.single, found.stream) == (["hi"], None, True, False)


def test_lists_and_chats():
    assert not read({"inputs": ["a", "b"]}).single
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = read({"messages": [USER, {"role": "assistant", "content": parts}], "stream": True})
    assert [one["content"] for one in found.messages] == ["hi", "ab"]
    assert found.stream


def test_parameters_over_defaults_and_null_is_nothing():
    found = read({"inputs": "a", "parameters": {"top_k": 3, "seed": None}}, top_k=7, top_p=0.5, seed=None)
    assert found.parameters == {"top_k": 3, "top_p": 0.5}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"inputs": "a", "paramaters": {}}, "'paramaters' is no key of a request; there are inputs, messages"),
        ({"inputs": "a", "parameters": {"max_tokens": 3}}, "'max_tokens' is no parameter; there are max_new_tokens"),
        ({"inputs": "a", "parameters": {"temperature": -1}}, "temperature is -1: send a number from 0 on"),
        ({"inputs": "a", "parameters": {"stop": [""]}}, r"stop is \[''\]: send a text, or a list"),
        ({"inputs": "a", "parameters": {"sequence_bias": [[3, 1]]}}, "sequence_bias is"),
        ({"inputs": "a", "parameters": [1]}, "parameters is list: send an object"),
        ({"inputs": "a", "stream": "yes"}, "stream is 'yes': send true or false"),
        ({"inputs": "a", "messages": [USER]}, "inputs and messages: send one of them"),
        ({"inputs": ["a"], "stream": True}, "a stream is of one text"),
        ({"inputs": []}, "there are 0 inputs"),
        ({"messages": []}, "messages is no list of messages"),
        ({"messages": [{"content": "a"}]}, r"messages\[0\] has no role"),
        (
            {"messages": [USER, {"role": "user", "content": [{"type": "image_url"}]}]},
            r"messages\[1\].content is no text",
        ),
        ([1], "the body is a list"),
    ],
)
def test_what_is_wrong(data, said):
    with pytest.raises(BadInputError, match=said):
        read(data)


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_anything_is_read_or_refused(data):
    try:
        found = read(json.loads(json.dumps(data)))
    except BadInputError:
        return
    assert found.inputs or found.messages


def test_prompts_are_cut_only_if_asked():
    def prompts(longest, **parameters):
        return reading.prompts_of(tokenizer(), read({"inputs": "abcdef", "parameters": parameters}), longest)

    whole = tokenizer()("abcdef")["input_ids"]
    assert prompts(None) == prompts(7) == [whole]
    assert prompts(7, truncate=2) == [whole[-2:]]
    with pytest.raises(TooLargeError, match="has 6 tokens, and the model takes 6"):
        prompts(6)


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        ({"inputs": LONG}, True),
        ({"inputs": LONG, "parameters": {"truncate": 7}}, False),
        ({"inputs": LONG, "parameters": {"truncate": 2000}}, True),
        ({"messages": [{"role": "user", "content": LONG}]}, True),
    ],
)
def test_what_is_far_too_long_is_refused_before_it_is_read(data, refused):
    longest, read_of = 128, []

    class Counting:
        chat_template = tokenizer().chat_template

        def __call__(self, text, **options):
            read_of.append(len(text))
            return tokenizer()(text, **options)

    if refused:
        with pytest.raises(TooLargeError, match=r"2000000 characters.* more than 128 tokens, and the model takes 128"):
            reading.prompts_of(Counting(), read(data), longest)
    else:
        (prompt,) = reading.prompts_of(Counting(), read(data), longest)
        assert prompt == tokenizer()(LONG[-100:])["input_ids"][-7:]
    assert 0 < sum(read_of) < 20_000


def test_chats_are_written_by_the_models_template():
    def chat(*messages):
        return tokenizer().decode(reading.prompt_of_chat(tokenizer(), messages))

    assert chat(USER) == "user: hi\nassistant: "
    assert chat(USER, {"role": "assistant", "content": "Well"}) == "user: hi\nassistant: Well"
    with pytest.raises(BadInputError, match="refuses the messages: no tools"):
        chat({"role": "tool", "content": "x"})
    plain = make_byte_tokenizer()
    plain.chat_template = None
    with pytest.raises(BadInputError, match="has no chat template"):
        reading.prompt_of_chat(plain, [USER])
    hostile = make_byte_tokenizer()
    hostile.chat_template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(BadInputError, match="refuses the messages"):
        reading.prompt_of_chat(hostile, [USER])


def test_how_many_tokens():
    def most(longest=100, stated=20, **given):
        return reading.most(
            [1] * 10, given, longest, {**reading.LIMITS, "most_new_tokens": 50, "most_tokens": 55}, stated
        )

    assert most() == 20
    assert most(longest=15) == 5
    assert most(stated=500, longest=45) == 35
    assert most(max_new_tokens=7) == 7
    assert most(max_length=12) == 2
    for asked, said in (
        ({"max_new_tokens": 51}, "at most 50 are written"),
        ({"min_new_tokens": 51}, "at most 50 are written"),
        ({"max_new_tokens": 6, "longest": 15}, "the model takes 15 together"),
        ({"max_length": 10}, "max_length is 10, and the text has 10 tokens"),
    ):
        with pytest.raises(BadInputError, match=said):
            most(**asked)


def test_limits():
    assert reading.limits_of({"most_sequences": 2})["most_sequences"] == 2
    with pytest.raises(LoadError, match=r"handler\.most_tokens in model-config.yaml is 'x'"):
        reading.limits_of({"most_tokens": "x"})


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, None),
        ({"temperature": 0.5}, True),
        ({"temperature": 0, "top_p": 0.5}, False),
        ({"temperature": 1e-40, "do_sample": True}, False),
        ({"top_k": 5, "do_sample": False}, False),
        ({"do_sample": True}, True),
    ],
)
def test_who_wants_tokens_to_be_drawn(given, found):
    assert draws(given) is found


@pytest.mark.parametrize(
    "data",
    [
        {"inputs": "a\ud800"},
        {"messages": [{"role": "user", "content": "\udfff"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud83d"}]}]},
    ],
)
def test_half_a_character_is_refused_before_a_tokenizer_fails_at_it(data):
    with pytest.raises(BadInputError, match="half a character"):
        read(json.dumps(data).encode())


@pytest.mark.parametrize("bias", [10**400, 1e308, float("inf"), float("nan")], ids=["whole", "large", "inf", "nan"])
def test_a_bias_is_a_number_that_scores_can_have(bias):
    with pytest.raises(BadInputError, match="sequence_bias"):
        read({"inputs": "hi", "parameters": {"sequence_bias": [[[1], bias]]}})
