"""Classes of texts: as `pipeline` gives them, whatever comes together in a batch."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from handlers.errors import LoadError
from handlers.testing import FakeContext

from .conftest import near
from .models import make_bert, make_tokenizer, save

TEXTS = ["ada lives in rome", "rain", "the rain stopped the final , the rain of rome . " * 3, "a final in rome ."]
NLI = {
    "id2label": {0: "contradiction", 1: "neutral", 2: "entailment"},
    "label2id": {"contradiction": 0, "neutral": 1, "entailment": 2},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    labels = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
    model = make_bert("ForSequenceClassification", **labels)
    return save(tmp_path_factory.mktemp("classes"), model, make_tokenizer())


@pytest.fixture(scope="module")
def classes(serve, saved):
    return serve(saved)


def test_answers_are_those_of_the_pipeline(classes, saved, pipe):
    expected = pipe("text-classification", saved)(TEXTS, top_k=None)
    assert classes.ask(*TEXTS).replies == near(expected)
    assert classes.one({"inputs": TEXTS}) == near(expected)
    assert classes.one({"inputs": TEXTS[0]}) == near(expected[0])
    assert classes.one(TEXTS[0].encode()) == near(expected[0])
    assert classes.one({"text": TEXTS[0]}) == near(expected[0])
    assert len({str(one[0]["label"]) for one in expected} | {str(round(one[0]["score"], 3)) for one in expected}) > 2


@pytest.mark.parametrize(
    "parameters", [{"top_k": 1}, {"top_k": 2, "function_to_apply": "sigmoid"}, {"function_to_apply": "none"}]
)
def test_parameters(classes, saved, pipe, parameters):
    expected = pipe("text-classification", saved)(TEXTS[:2], **{"top_k": None, **parameters})
    assert classes.one({"inputs": TEXTS[:2], "parameters": parameters}) == near(expected)


def test_pairs(classes, saved, pipe):
    pair = {"text": TEXTS[0], "text_pair": TEXTS[3]}
    expected = pipe("text-classification", saved)(pair, top_k=None)
    assert classes.one({"inputs": pair}) == near(expected)
    assert classes.one({"inputs": [pair]}) == near([expected])


def test_each_request_fails_alone(classes):
    long = "rome " * 70
    bad = [
        long,
        "",
        {"inputs": []},
        {"inputs": TEXTS[0], "parameters": {"top_k": 0}},
        {"inputs": "a", "parameters": {"x": 1}},
        b"\xff",
    ]
    answered = classes.ask(TEXTS[0], *bad, TEXTS[1])
    assert answered.statuses == [200, 413, 400, 400, 400, 400, 400, 200]
    assert answered.replies[0] == near(classes.one(TEXTS[0]))
    assert "the text has 72 tokens, and the model takes 64" in answered.replies[1]["message"]
    assert "top_k is 0: send a whole number" in answered.replies[4]["message"]
    assert "'x' is no parameter" in answered.replies[5]["message"]
    assert classes.one({"inputs": long, "parameters": {"truncation": True}}) == near(classes.one("rome " * 62))


def test_a_text_of_megabytes_is_refused_or_cut_at_once(classes, monkeypatch):
    huge, read = "rome " * 500_000, []
    tokenizer = classes.handler.tokenizer
    inner = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer),
        "__call__",
        lambda self, *texts, **options: read.extend(texts) or inner(self, *texts, **options),
    )
    refused = classes.ask(huge)
    assert refused.statuses == [413]
    assert "the text has at least" in refused.replies[0]["message"]
    cut = classes.one({"inputs": huge, "parameters": {"truncation": True}})
    assert sum(map(len, read)) < 20_000
    assert cut == near(classes.one("rome " * 62))


def test_runs_hold_texts_of_like_lengths(classes, monkeypatch):
    shapes = []
    forward = classes.handler.forward
    monkeypatch.setattr(
        classes.handler,
        "forward",
        lambda features: shapes.append(tuple(features["input_ids"].shape)) or forward(features),
    )
    classes.ask(*TEXTS)
    assert shapes == [(1, 38), (3, 7)]  # 4 tokens of padding are cheaper than a third run


def test_batches_are_read_while_others_are_answered(classes, serve, tmp_path):
    """As a worker does, in two threads; texts are cut in some batches and not in others."""
    assert classes.handler.may_pipeline()
    folder = save(tmp_path / "net", make_bert("ForMaskedLM"), make_tokenizer())
    served = serve(folder)
    expected = served.ask("ada [MASK] rome").replies
    requests = [
        [{"inputs": "ada [MASK] rome", "parameters": {"truncation": bool(index % 2)}}] * 4 for index in range(20)
    ]
    contexts = [FakeContext(served.folder, manifest=served.context.manifest) for _ in requests]
    rows = [context.show(batch) for context, batch in zip(contexts, requests, strict=True)]
    with ThreadPoolExecutor(1) as other:
        prepared = [other.submit(served.handler.prepare, *pair) for pair in zip(rows, contexts, strict=True)]
        for one, context in zip(prepared, contexts, strict=True):
            assert served.handler.complete(one.result(), context) == near(expected * 4)


def test_several_labels_at_once(serve, tmp_path, pipe):
    model = make_bert("ForSequenceClassification", num_labels=3, problem_type="multi_label_classification")
    folder = save(tmp_path / "net", model, make_tokenizer())
    expected = pipe("text-classification", folder)(TEXTS, top_k=None)
    assert serve(folder).ask(*TEXTS).replies == near(expected)
    assert abs(sum(one["score"] for one in expected[0]) - 1) > 0.01


def test_settings_of_the_archive(serve, saved):
    assert serve(saved, {"handler": {"top_k": 1, "reply": "hub"}}).one(TEXTS[0]) == near(serve(saved).one(TEXTS[0])[:1])
    assert serve(saved, {"handler": {"reply": "torchserve"}}).one(TEXTS[0]) == serve(saved).one(TEXTS[0])[0]["label"]
    for setting, said in (({"top_k": "all"}, "top_k"), ({"reply": "xml"}, "reply"), ({"dtype": "int8"}, "dtype")):
        with pytest.raises(LoadError, match=f"handler.{said} in model-config.yaml"):
            serve(saved, {"handler": setting})


def test_optimize_holds(serve, saved):
    plain = serve(saved).ask(*TEXTS).replies
    fast = serve(saved, {"optimize": {"dtype": "bfloat16", "tolerance": 0.2}})
    for _ in range(2):  # the first call decides
        assert fast.ask(*TEXTS).replies == near(plain, 0.1)
    assert fast.handler.model.serving == "bfloat16"


def test_half_the_memory(serve, saved):
    import torch

    served = serve(saved, {"handler": {"dtype": "bfloat16"}})
    assert next(served.handler.model.parameters()).dtype is torch.bfloat16
    assert [one["label"] for one in served.one(TEXTS[0])]


def test_a_description(classes):
    described = classes.handler.describe_handle()
    assert described["task"] == "text-classification"
    assert described["labels"] == ["bad", "fair", "good"]
    assert described["architecture"] == "BertForSequenceClassification"


def test_explanations_as_in_torchserves_example(classes):
    pytest.importorskip("captum")
    from handlers.testing import Request

    request = Request({"body": {"text": TEXTS[0], "target": "good"}}, {"explain": "True"})
    found = classes.one(request)
    assert found["words"] == ["[CLS]", "ada", "lives", "in", "rome", "[SEP]"]
    assert len(found["importances"]) == 6
    assert sum(one * one for one in found["importances"]) == pytest.approx(1, abs=1e-4)
    assert found["importances"][0] == pytest.approx(0, abs=1e-6)  # the special tokens are the baseline's, too
    as_a_file = Request({"body": json.dumps(request.parameters["body"]).encode()}, {"explain": "True"})
    assert classes.one(as_a_file) == near(found)
    other = Request({"body": {"text": TEXTS[0], "target": 7}}, {"explain": "True"})
    answered = classes.ask(other, request, TEXTS[0])
    assert answered.statuses == [400, 200, 200]
    assert "the model has 3" in answered.replies[0]["message"]


@pytest.fixture(scope="module")
def judge(serve, tmp_path_factory):
    folder = save(tmp_path_factory.mktemp("nli"), make_bert("ForSequenceClassification", **NLI), make_tokenizer())
    return serve(folder), folder


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("labels", [["sport", "politics", "rain"], ["sport"], "sport, politics"])
def test_labels_of_the_requests_own(judge, pipe, labels, multi_label):
    served, folder = judge
    given = {"candidate_labels": labels, "multi_label": multi_label}
    expected = pipe("zero-shot-classification", folder)(TEXTS[0], **given)
    assert served.one({"inputs": TEXTS[0], "parameters": given}) == near(expected)


def test_templates_and_bad_labels(judge, pipe):
    served, folder = judge
    given = {"candidate_labels": ["sport", "rome"], "hypothesis_template": "the news is {} ."}
    expected = pipe("zero-shot-classification", folder)(TEXTS[:2], **given)
    assert served.one({"inputs": TEXTS[:2], "parameters": given}) == near(expected)
    bad = [
        TEXTS[0],
        {"inputs": TEXTS[0], "parameters": {"candidate_labels": []}},
        {"inputs": TEXTS[0], "parameters": {"candidate_labels": [1]}},
        {"inputs": TEXTS[0], "parameters": {"candidate_labels": ["a"], "hypothesis_template": "no gap"}},
    ]
    assert served.ask(*bad, {"inputs": TEXTS[0], "parameters": given}).statuses == [400, 400, 400, 400, 200]


def test_a_model_that_judges_nothing(serve, saved):
    with pytest.raises(LoadError, match="no label of the model says that a sentence follows: bad, fair, good"):
        serve(saved, task="zero-shot-classification")
