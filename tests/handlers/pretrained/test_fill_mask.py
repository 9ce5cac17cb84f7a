"""Words for gaps, as `pipeline` gives them."""

import pytest

from handlers.errors import LoadError

from .conftest import near
from .models import make_bert, make_tokenizer, save

TEXTS = ["ada lives in [MASK] .", "[MASK]", "the rain stopped the final in rome , [MASK] lives in rome . " * 1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("gaps"), make_bert("ForMaskedLM"), make_tokenizer())


@pytest.fixture(scope="module")
def gaps(serve, saved):
    return serve(saved)


def test_answers_are_those_of_the_pipeline(gaps, saved, pipe):
    fill = pipe("fill-mask", saved)
    assert gaps.ask(*TEXTS).replies == near([fill(text) for text in TEXTS])
    assert gaps.one({"inputs": TEXTS[0], "parameters": {"top_k": 2}}) == near(fill(TEXTS[0], top_k=2))
    several = "[MASK] lives in [MASK]"
    assert gaps.one(several) == near(fill(several))


def test_targets(gaps, saved, pipe):
    fill = pipe("fill-mask", saved)
    for targets in (["rome", "rain"], "rome"):
        given = {"targets": targets}
        expected = fill(TEXTS[0], **given)
        assert gaps.one({"inputs": TEXTS[0], "parameters": given}) == near(expected)


def test_bad_requests_fail_alone(gaps):
    bad = [
        {"inputs": TEXTS[0], "parameters": {"targets": [""]}},
        "no gap",
        {"inputs": TEXTS[0], "parameters": {"targets": " "}},
    ]
    answered = gaps.ask(*bad, TEXTS[0])
    assert answered.statuses == [400, 400, 400, 200]
    assert "write [MASK] where a word is to be found" in answered.replies[1]["message"]


def test_tied_weights_are_loaded(gaps, saved):
    model = gaps.handler.model
    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_no_mask(serve, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.mask_token = None
    folder = save(tmp_path / "net", make_bert("ForMaskedLM"), tokenizer)
    with pytest.raises(LoadError, match="the tokenizer has no mask token"):
        serve(folder)
