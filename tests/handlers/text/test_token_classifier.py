import pytest
import torch

from handlers import LoadError, TokenClassifier

NET = "from torch import nn\nclass Net(nn.Identity): pass\n"
LABELS = {"0": "O", "1": "PER", "2": "LOC"}


@pytest.fixture
def handler(archives, make_context, make_tokenizer):
    folder = archives.make(model_file=NET, labels=LABELS)
    make_tokenizer(folder / "tokenizer.json", "ada rome lives in")
    made = TokenClassifier()
    made.initialize(make_context(folder))

    def model(ids, mask):
        """Return a model for which Ada is a person, Rome and all that is not a word a place."""
        kinds = torch.where(ids == 4, 1, torch.where((ids == 5) | (ids < 4), 2, 0))
        return {"logits": 2 * torch.nn.functional.one_hot(kinds, 3).float()}

    made.model = model
    return made


def ask(handler, make_context, *texts):
    return handler.handle([{"body": text} for text in texts], make_context(requests=len(texts)))


def test_tokens_with_their_labels_and_places(handler, make_context):
    score = torch.tensor([2.0, 0.0, 0.0]).softmax(dim=0)[0].item()
    first, second = ask(handler, make_context, "Ada lives in  Rome", "in Rome")
    assert first == [
        {"entity": "PER", "score": pytest.approx(score), "index": 1, "word": "ada", "start": 0, "end": 3},
        {"entity": "LOC", "score": pytest.approx(score), "index": 4, "word": "rome", "start": 14, "end": 18},
    ]
    assert [(one["index"], one["start"], one["end"]) for one in second] == [(2, 3, 7)]


def test_places_count_characters(handler, make_context):
    (items,) = ask(handler, make_context, "lives in \U0001f600 Ada")
    item = items[-1]
    assert (item["start"], item["end"]) == (11, 14)


def test_labels_that_are_left_out(handler, make_context):
    handler.ignored = frozenset({"LOC"})
    assert [one["entity"] for one in ask(handler, make_context, "Ada in Rome")[0]] == ["PER", "O"]
    handler.ignored = frozenset()
    assert [one["entity"] for one in ask(handler, make_context, "Ada in Rome")[0]] == ["PER", "O", "LOC"]


def test_a_bad_text_fails_alone(handler, make_context):
    first, second, third = ask(handler, make_context, "Ada", b"\xff", "Rome")
    assert (first[0]["entity"], second["code"], third[0]["entity"]) == ("PER", 400, "LOC")


def test_a_class_without_a_label_goes_by_its_index(handler, make_context):
    handler.mapping = None
    assert [one["entity"] for one in ask(handler, make_context, "Ada in")[0]] == ["1", "0"]


def test_there_must_be_a_tokenizer(archives, make_context):
    folder = archives.make(model_file=NET)
    torch.save(["a"], folder / "source_vocab.pt")
    with pytest.raises(LoadError, match=r"no tokenizer\.json"):
        TokenClassifier().initialize(make_context(folder))
