"""Labelled words, as `pipeline` gives them."""

import pytest

from handlers.errors import LoadError

from .conftest import near
from .models import make_bert, make_tokenizer, save

LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
TEXTS = ["Ada Lovelace lives in Rome, the rain stopped.", "rain", "who lives where ? Xyz .", "the final in rome " * 6]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    names = {"id2label": LABELS, "label2id": {label: index for index, label in LABELS.items()}}
    return save(tmp_path_factory.mktemp("names"), make_bert("ForTokenClassification", **names), make_tokenizer())


@pytest.fixture(scope="module")
def names(serve, saved):
    return serve(saved)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_answers_are_those_of_the_pipeline(names, saved, pipe, strategy):
    expected = pipe("token-classification", saved, aggregation_strategy=strategy)(TEXTS)
    requests = [{"inputs": text, "parameters": {"aggregation_strategy": strategy}} for text in TEXTS]
    assert names.ask(*requests).replies == near(expected)
    assert sum(map(len, expected)) > len(TEXTS)


def test_labels_to_leave_out(names, saved, pipe):
    expected = pipe("token-classification", saved, aggregation_strategy="simple", ignore_labels=["O", "PER"])(TEXTS[0])
    assert names.one({"inputs": TEXTS[0], "parameters": {"ignore_labels": ["O", "PER"]}}) == near(expected)
    everything = names.one({"inputs": TEXTS[0], "parameters": {"ignore_labels": [], "aggregation_strategy": "none"}})
    assert len(everything) == 12


def test_the_form_of_torchserves_example(serve, saved):
    found = serve(saved, {"handler": {"reply": "torchserve"}}).one("ada lives")
    assert [word for word, _ in found] == ["[CLS]", "ada", "lives", "[SEP]"]
    assert {label for _, label in found} <= set(LABELS.values())


def test_bad_requests_fail_alone(names):
    bad = {"inputs": TEXTS[0], "parameters": {"aggregation_strategy": "best"}}
    answered = names.ask(bad, TEXTS[0], {"inputs": 7})
    assert answered.statuses == [400, 200, 400]
    assert "one of none, simple, first, average, max" in answered.replies[0]["message"]


def test_a_tokenizer_without_places(names, monkeypatch):
    monkeypatch.setattr(type(names.handler.tokenizer), "is_fast", property(lambda _: False))
    with pytest.raises(LoadError, match="does not tell where its tokens are"):
        names.handler.initialize(names.context)
