import json
import sys

import pytest
import torch
from torch import nn

from handlers import TextClassifier
from tests.later import Later

torchserves = Later("ts.torch_handler.text_classifier")  # imports captum

NET = """
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.EmbeddingBag(12, 8)
            self.layer = nn.Linear(8, 4)
        def forward(self, words, offsets): return self.layer(self.embedding(words, offsets))
"""
VOCABULARY = {
    name: index
    for index, name in enumerate(
        ["<unk>", "rain", "stops", "the", "final", "rain stops", "the final", "is", "not", "is not", "cafe", "over"]
    )
}
LABELS = {"0": "World", "1": "Sports", "2": "Business", "3": "Science"}
TEXTS = ["Rain stops the final!", "<b>The final isn't over</b>", "Café, the café", "rain"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(12, 8)
        self.layer = nn.Linear(8, 4)

    def forward(self, words, offsets):
        return self.layer(self.embedding(words, offsets))


@pytest.fixture
def folder(archives):
    torch.manual_seed(0)
    made = archives.make(model_file=NET, weights=Net().state_dict(), labels=LABELS)
    # TorchServe's handler asks for every pair of words: this dict has a number for each.
    torch.save(VOCABULARY, made / "source_vocab.pt")
    return made


@pytest.fixture
def handler(folder, make_context):
    made = TextClassifier()
    made.initialize(make_context(folder))
    return made


class Known(dict):
    """TorchServe's handler fails on a word that a plain dict lacks; torchtext's vocabulary has a default."""

    def __missing__(self, word):
        return self["<unk>"]


@pytest.mark.filterwarnings("ignore:Implicit dimension choice:UserWarning")  # the stock's softmax
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_the_answers_are_the_stocks(folder, handler, make_context, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    stock = type("Stock", (torchserves.TextClassifier,), {})()
    stock.initialize(make_context(folder))
    stock.source_vocab = Known(stock.source_vocab)
    context = make_context(requests=len(TEXTS))
    found = handler.handle([{"body": text.encode()} for text in TEXTS], context)
    for text, item in zip(TEXTS, found, strict=True):
        alone = make_context(requests=1)
        alone.metrics = type("Metrics", (), {"add_time": lambda *_: None})()
        (expected,) = stock.handle([{"data": bytearray(text.encode())}], alone)
        assert item == pytest.approx(expected)
        assert list(item) == list(expected)
        assert set(item) == set(LABELS.values())


def test_a_batch_gives_what_each_text_would_alone(handler, make_context):
    together = handler.handle([{"body": text} for text in TEXTS], make_context(requests=len(TEXTS)))
    for text, item in zip(TEXTS, together, strict=True):
        assert handler.handle([{"body": text}], make_context(requests=1))[0] == pytest.approx(item)
        assert sum(item.values()) == pytest.approx(1)


def test_half_precision_is_no_less_of_a_probability(handler):
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert handler.postprocess(logits.bfloat16()) == handler.postprocess(logits)


class Masked(nn.Module):
    """A model that sums what it attends to: two classes, of which the second likes high numbers."""

    def forward(self, ids, mask):
        total = (ids * mask).sum(dim=1).float()
        return {"logits": torch.stack([torch.zeros_like(total), total / 10], dim=1)}


def test_a_tokenizer(archives, make_context, make_tokenizer):
    folder = archives.make(model_file="from torch import nn\nclass Net(nn.Identity): pass\n", labels={"1": "high"})
    make_tokenizer(folder / "tokenizer.json", "low middle high")
    handler = TextClassifier()
    handler.initialize(make_context(folder))
    handler.model = Masked()
    first, second = handler.handle([{"body": "low"}, {"body": "low high high"}], make_context(requests=2))
    for item, total in ((first, 2 + 4 + 3), (second, 2 + 4 + 6 + 6 + 3)):
        expected = torch.tensor([0, total / 10]).softmax(dim=0).tolist()
        assert item == pytest.approx({"0": expected[0], "high": expected[1]})

    context = make_context(requests=1, headers={0: {"explain": "True"}})
    (item,) = handler.handle([{"body": "low high", "target": b"1"}], context)
    assert item["words"] == ["[CLS]", "low", "high", "[SEP]"]
    whole = torch.tensor([0, 15 / 10]).softmax(dim=0)[1]
    expected = [(whole - torch.tensor([0, (15 - part) / 10]).softmax(dim=0)[1]).item() for part in (2, 4, 6, 3)]
    assert item["importances"] == pytest.approx(expected, abs=1e-6)

    handler.input_names = ("input_ids",)
    handler.model = lambda ids: torch.stack([torch.zeros(len(ids)), ids.sum(dim=1).float() / 10], dim=1)
    (again,) = handler.handle([{"body": "low high", "target": b"1"}], context)
    assert again["importances"] == pytest.approx(expected, abs=1e-6)


def test_explanations(handler, make_context):
    """Each word counts as much as the probability falls without it and its pairs."""
    context = make_context(requests=2, headers={0: {"explain": "True"}, 1: {"explain": "True"}})
    data = [{"body": "rain stops the final", "target": "1"}, {"body": "rain"}]
    first, second = handler.handle(data, context)
    assert first["words"] == ["rain", "stops", "the", "final"]

    def sports(text):
        return handler.handle([{"body": text}], make_context(requests=1))[0]["Sports"]

    shorter = ["stops the final", "rain the final", "rain stops final", "rain stops the"]
    assert first["importances"] == pytest.approx([sports("rain stops the final") - sports(text) for text in shorter])
    assert second["words"] == ["rain"]
    assert len(second["importances"]) == 1
    json.dumps([first, second])


def test_explanations_of_long_texts(handler, make_context):
    context = make_context(requests=1, headers={0: {"explain": "True"}})
    (item,) = handler.handle([{"body": "rain stops " * 40}], context)
    assert len(item["words"]) == len(item["importances"]) == 80


@pytest.mark.parametrize("target", ["4", "-1", "cat"])
def test_a_target_that_is_no_class(handler, make_context, target):
    context = make_context(requests=1, headers={0: {"explain": "True"}})
    (item,) = handler.handle([{"body": "rain", "target": target}], context)
    assert item["code"] == 400
