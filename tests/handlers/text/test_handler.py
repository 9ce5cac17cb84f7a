import json
from types import SimpleNamespace

import pytest
import torch
from tokenizers import processors

from handlers import LoadError, TextHandler
from handlers.text.handler import tensor_of

NET = "from torch import nn\nclass Net(nn.Identity): pass\n"
SENTENCE = "rain stops the final"


@pytest.fixture
def load(archives, make_context, make_tokenizer):
    """Load a handler of an archive with a tokenizer or a vocabulary; its model keeps what it was called with."""

    def run(kind=TextHandler, *, tokenizer=None, vocabulary=None, config=None, record=None, **parts):
        folder = archives.make(model_file=NET, config=config, **parts)
        if tokenizer is not None:
            make_tokenizer(folder / "tokenizer.json", tokenizer)
        if vocabulary is not None:
            torch.save(vocabulary, folder / "source_vocab.pt")
        if record is not None:
            file = folder / "MAR-INF" / "MANIFEST.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | record))
        handler = kind()
        handler.initialize(make_context(folder, config=config or {}))
        handler.calls = []
        handler.model = lambda *inputs: handler.calls.append([one.tolist() for one in inputs]) or inputs[0]
        return handler

    return run


def rows(*texts):
    return [{"body": text} for text in texts]


def test_a_tokenizer_gives_ids_and_a_mask(load):
    handler = load(tokenizer=SENTENCE)
    texts = handler.preprocess(rows("Rain", b"the final"))
    handler.inference(texts)
    assert handler.calls == [[[[2, 4, 3, 0], [2, 6, 7, 3]], [[1, 1, 1, 0], [1, 1, 1, 1]]]]
    assert texts.mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("config", "recorded", "expected"),
    [
        ({"handler": {"inputs": ["input_ids"]}}, ["attention_mask"], ["input_ids"]),
        ({"handler": {"inputs": ["token_type_ids", "input_ids"]}}, None, ["token_type_ids", "input_ids"]),
        ({}, ["attention_mask", "input_ids"], ["attention_mask", "input_ids"]),
        ({}, ["x", "input_ids"], ["input_ids", "attention_mask"]),
    ],
)
def test_the_inputs_of_the_model(load, config, recorded, expected):
    record = recorded and {"torchmar": {"inputs": [{"name": name, "dtype": "int64"} for name in recorded]}}
    handler = load(tokenizer=SENTENCE, config=config, record=record)
    handler.inference(handler.preprocess(rows("rain")))
    values = {"input_ids": [[2, 4, 3]], "attention_mask": [[1, 1, 1]], "token_type_ids": [[0, 0, 0]]}
    assert handler.calls == [[values[name] for name in expected]]


@pytest.mark.parametrize("inputs", ["input_ids", [], ["input_ids", "ids"], [5]])
def test_wrong_inputs_in_the_configuration(load, inputs):
    with pytest.raises(LoadError, match=r"handler\.inputs"):
        load(tokenizer=SENTENCE, config={"handler": {"inputs": inputs}})


def test_a_vocabulary_gives_words_and_offsets(load):
    """As `nn.EmbeddingBag` takes them: all words, then all pairs of a text, one text after the other."""
    handler = load(vocabulary={"rain": 1, "stops": 2, "rain stops": 3, "<unk>": 0})
    handler.inference(handler.preprocess(rows("Rain stops!", "sun", "rain")))
    assert handler.calls == [[[1, 2, 3, 0, 1], [0, 3, 4]]]
    assert [len(load(vocabulary=["a", "a b", "a b c"]).preprocess(rows("a b c")).inputs[0])] == [2]


def test_longer_runs_of_words(load):
    class Three(TextHandler):
        ngrams = 3

    assert load(Three, vocabulary=["a", "a b", "a b c"]).preprocess(rows("a b c")).inputs[0].tolist() == [0, 1, 2]


def test_words_of_ones_own(load):
    class Letters(TextHandler):
        ngrams = 1

        def words(self, content):
            return list(content)

    handler = load(Letters, vocabulary=["a", "b"])
    assert handler.preprocess(rows("abA")).inputs[0].tolist() == [0, 1]
    assert TextHandler().may_pipeline()
    assert not handler.may_pipeline()


def test_a_bad_text_fails_alone(load, make_context):
    class Counted(TextHandler):
        def postprocess_one(self, output, context):
            return output.tolist()

    handler = load(Counted, vocabulary=["rain"])
    handler.model = lambda numbers, offsets: offsets
    context = make_context(requests=4)
    output = handler.handle(rows("rain", b"\xff", "sun", "rain rain"), context)
    assert [context.get_response_status(index)[0] for index in range(4)] == [200, 400, 400, 200]
    assert (output[0], output[3]) == (0, 1)
    assert "no word of the text" in output[2]["message"]


@pytest.mark.parametrize(("given", "expected"), [(True, [2, 4, 3]), (False, [4])])
def test_tokens_that_the_tokenizer_puts_around_a_text(load, given, expected):
    handler = load(tokenizer=SENTENCE, config={"handler": {"special_tokens": given}})
    assert handler.preprocess(rows("rain")).inputs[0].tolist() == [expected]

    class Own(TextHandler):
        special_tokens = given

    assert load(Own, tokenizer=SENTENCE).preprocess(rows("rain")).inputs[0].tolist() == [expected]
    with pytest.raises(LoadError, match=r"handler\.special_tokens"):
        load(tokenizer=SENTENCE, config={"handler": {"special_tokens": "no"}})


def test_a_text_without_tokens(load, make_context):
    handler = load(tokenizer=SENTENCE)
    handler.tokenizer.tokenizer.post_processor = processors.TemplateProcessing("$A", None, [])
    context = make_context(requests=2)
    output = handler.handle(rows(" ", "rain"), context)
    assert (output[0]["message"], context.get_response_status(0)[0]) == ("the text holds no token", 400)
    assert output[1] == [4]


def test_a_text_is_cut_at_a_length(load):
    class Short(TextHandler):
        max_length = 3

    for handler in (load(Short, tokenizer="a"), load(tokenizer="a", config={"handler": {"max_length": 3}})):
        assert handler.preprocess(rows("a a a a")).inputs[0].shape == (1, 3)
    for wrong in (0, "3", True):
        with pytest.raises(LoadError, match="max_length"):
            load(tokenizer="a", config={"handler": {"max_length": wrong}})


def test_the_tokenizer_comes_before_the_vocabulary(load):
    handler = load(tokenizer="a", vocabulary=["a"])
    assert handler.tokenizer is not None
    assert handler.source_vocab is None


def test_neither(load):
    with pytest.raises(LoadError, match=r"neither a tokenizer\.json nor a source_vocab\.pt"):
        load()


def test_torchserves_older_name_of_the_vocabulary(load, archives, make_context):
    folder = archives.make(model_file=NET)
    torch.save(["old"], folder / "words.pt")
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
    manifest["model"]["sourceVocab"] = "../elsewhere/words.pt"
    handler, context = TextHandler(), make_context(folder)
    context.manifest = manifest
    handler.initialize(context)
    assert handler.source_vocab.numbers(["old"]) == [0]


def test_an_own_preprocess_may_give_a_tensor(load):
    class Own(TextHandler):
        def preprocess(self, data):
            return torch.tensor([[1.0]])

    handler = load(Own, vocabulary=["a"])
    assert handler.inference(handler.preprocess(rows("a"))).tolist() == [[1.0]]


def test_without_initialize():
    with pytest.raises(RuntimeError, match="no vocabulary"):
        TextHandler().encode("a")


def test_a_tensor_out_of_every_form_of_output():
    one = torch.ones(1)
    forms = [one, (one, None), [one], {"logits": one}, SimpleNamespace(logits=one), {"last": 0, "logits": one}]
    assert all(tensor_of(form, "logits") is one for form in forms)
    assert tensor_of({"a": one, "b": torch.zeros(1)}, "c", "a") is one
    for wrong in (5, {}, (), {"loss": one}, (None, one), {"logits": [1]}):
        with pytest.raises(TypeError, match="without a tensor logits"):
            tensor_of(wrong, "logits")
