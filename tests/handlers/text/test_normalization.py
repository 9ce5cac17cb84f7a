import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers import BadInputError
from handlers.text.normalization import ngrams, read_text, words
from tests.later import Later

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ts.handler_utils.text_utils import ngrams_iterator
    from ts.torch_handler.contractions import CONTRACTION_MAP


torchserves = Later("ts.torch_handler.text_classifier")  # imports captum


def stock_words(text):
    handler = type("Stock", (torchserves.TextClassifier,), {})()
    text = handler._expand_contractions(handler._remove_html_tags(text).lower())
    return handler._tokenize(handler._remove_punctuation(handler._remove_accented_characters(text)))


@pytest.mark.parametrize("contraction", CONTRACTION_MAP)
def test_contractions_are_written_out_as_torchserve_does(contraction):
    for text in (contraction, contraction.upper(), f"x{contraction}y", contraction * 2, f"Well, {contraction}-ed!"):
        assert words(text) == stock_words(text)


PARTS = ["<b>", "</b>", "<", ">", "&nbsp;", "&#39;", "&#x2F;", "&amp", "é", "ß", "ﬁ", "’", "\n", "\t", "\u00a0", "日"]


@given(st.lists(st.sampled_from([*PARTS, *CONTRACTION_MAP]) | st.text(st.characters(max_codepoint=0x130))))
def test_words_are_torchserves(parts):
    """Of every text: the same words in the same order."""
    text = "".join(parts)
    assert words(text) == stock_words(text)


def test_words():
    text = "<b>Isn't it\ncafé?</b>&nbsp;It's 5 o'clock."
    assert " ".join(words(text)) == "is not it cafeit is 5 of the clock"
    assert words(" ") == []


@pytest.mark.parametrize("longest", [1, 2, 3, 9])
def test_ngrams_are_torchserves(longest):
    for tokens in ([], ["a"], list("abcd")):
        assert list(ngrams(tokens, longest)) == list(ngrams_iterator(tokens, longest))


@pytest.mark.parametrize(
    "value", ["tea é", "tea é".encode(), bytearray("tea é".encode()), memoryview("tea é".encode()), {"text": "tea é"}]
)
def test_texts_in_every_form(value):
    assert read_text(value) == "tea é"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "has no text"),
        (b"", "has no text"),
        ("", "has no text"),
        ({"text": ""}, "has no text"),
        (b"ab\xffc", "not UTF-8: byte 2 is 0xff"),
        ([1], "is list and no text"),
        ({"texts": "a"}, "is dict and no text"),
        ({"text": 1}, "is dict and no text"),
    ],
)
def test_what_is_no_text(value, reason):
    with pytest.raises(BadInputError, match=reason):
        read_text(value)
