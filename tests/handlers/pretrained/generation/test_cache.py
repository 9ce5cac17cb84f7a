"""Rows over a cache: scores are those of each text read anew, whoever joins and leaves."""

import pytest
import torch

from handlers.errors import LoadError
from handlers.pretrained.generation.cache import Rows, check
from tests.handlers.pretrained.models import make_writer, transformers


@pytest.fixture(scope="module", params=["GPT2", "Llama", "Mistral"])
def model(request):
    settings = {"sliding_window": 6} if request.param == "Mistral" else {}
    return make_writer(request.param, **settings)[0]


def alone(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids]))["logits"][0, -1]


def test_rows_join_and_leave(model):
    rows = Rows(model, torch.device("cpu"), 0)
    texts = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21], [30, 31, 32]]
    scores = rows.begin(texts[:2])
    for step in range(70):  # beyond the room of a buffer
        if step == 3:
            scores = torch.cat([scores, rows.begin([texts[2]])])
        elif step == 6:
            rows.keep([1, 2])
            texts, scores = texts[1:], scores[1:]
        for text, row in zip(texts, scores, strict=False):
            torch.testing.assert_close(row, alone(model, text), rtol=1e-4, atol=1e-4)
        running = texts[: len(scores)]
        for text, row in zip(running, scores, strict=True):
            text.append(int(row.argmax()))
        scores = rows.step([text[-1] for text in running])
    assert rows.lengths == [len(text) for text in texts]
    rows.keep([])
    torch.testing.assert_close(rows.begin([[5, 6]])[0], alone(model, [5, 6]), rtol=1e-4, atol=1e-4)


def test_layers_begin_in_every_version_of_the_library(monkeypatch):
    """In transformers 4.57 the method of that name takes the keys alone."""

    def begun(self, key_states):
        raise AssertionError("called with what this version may not take")

    model = make_writer()[0]
    expected = alone(model, [5, 6])
    monkeypatch.setattr(transformers.cache_utils.DynamicLayer, "lazy_initialization", begun)
    torch.testing.assert_close(Rows(model, torch.device("cpu"), 0).begin([[5, 6]])[0], expected)


def test_models_with_another_kind_of_memory():
    config = transformers.MambaConfig(vocab_size=16, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(LoadError, match="keeps what it has read otherwise"):
        check(transformers.MambaForCausalLM(config))
