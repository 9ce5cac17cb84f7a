import pytest
import torch
from torch import nn
from torch.nn import functional

from handlers import TextEmbedder

NET = "from torch import nn\nclass Net(nn.Identity): pass\n"


class Vectors(nn.Module):
    """A model that gives a vector for each token, whatever the mask says."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(10, 3)

    def forward(self, ids, mask):
        return {"last_hidden_state": self.table(ids)}


@pytest.fixture
def handler(archives, make_context, make_tokenizer):
    folder = archives.make(model_file=NET)
    make_tokenizer(folder / "tokenizer.json", "rain stops the final")
    made = TextEmbedder()
    made.initialize(make_context(folder))
    made.model = Vectors().eval()
    return made


def rows(*texts):
    return [{"body": text} for text in texts]


def mean(handler, *numbers):
    return handler.model.table(torch.tensor(numbers)).mean(dim=0)


def test_the_mean_of_the_tokens_without_padding(handler, make_context):
    long, short = handler.handle(rows("rain stops the final", "rain"), make_context(requests=2))
    for found, numbers in ((long, (2, 4, 5, 6, 7, 3)), (short, (2, 4, 3))):
        expected = functional.normalize(mean(handler, *numbers), dim=0)
        torch.testing.assert_close(torch.tensor(found), expected)
        assert torch.tensor(found).norm().item() == pytest.approx(1)
    assert handler.handle(rows("rain"), make_context(requests=1))[0] == pytest.approx(short)


def test_vectors_as_long_as_they_are(handler, make_context):
    handler.normalise = False
    (found,) = handler.handle(rows("rain"), make_context(requests=1))
    torch.testing.assert_close(torch.tensor(found), mean(handler, 2, 4, 3))


@pytest.mark.parametrize("form", ["tensor", "sentence_embedding"])
def test_a_model_that_gives_one_vector_for_each_text(handler, make_context, form):
    vector = torch.tensor([3.0, 4.0])

    def model(ids, mask):
        vectors = vector.repeat(len(ids), 1)
        # Many models give the tokens, too.
        return vectors if form == "tensor" else {"last_hidden_state": torch.ones(1), "sentence_embedding": vectors}

    handler.model = model
    assert handler.handle(rows("rain", "the"), make_context(requests=2)) == [pytest.approx([0.6, 0.8])] * 2


def test_a_vector_of_zeros_stays_one(handler, make_context):
    handler.model = lambda ids, mask: torch.zeros(len(ids), 2)
    assert handler.handle(rows("rain"), make_context(requests=1)) == [[0.0, 0.0]]


def test_half_precision_is_averaged_in_single(handler, make_context):
    handler.model = lambda ids, mask: torch.full((*ids.shape, 2), 60000.0, dtype=torch.float16)
    assert handler.handle(rows("rain the"), make_context(requests=1)) == [pytest.approx([2**-0.5] * 2)]


def test_a_vocabulary(archives, make_context):
    folder = archives.make(model_file=NET)
    torch.save(["rain", "stops"], folder / "source_vocab.pt")
    handler = TextEmbedder()
    handler.initialize(make_context(folder))
    torch.manual_seed(0)
    handler.model = nn.EmbeddingBag(2, 3)
    first, second = handler.handle(rows("rain", "rain stops"), make_context(requests=2))
    table = handler.model.weight.detach()
    torch.testing.assert_close(torch.tensor(first), functional.normalize(table[0], dim=0))
    torch.testing.assert_close(torch.tensor(second), functional.normalize(table.mean(dim=0), dim=0))


def test_a_model_of_another_shape(handler, make_context, caplog):
    handler.model = lambda ids, mask: torch.ones(3)
    (item,) = handler.handle(rows("rain"), make_context(requests=1))
    assert item["code"] == 503
    assert "in the shape [3]" in caplog.text
