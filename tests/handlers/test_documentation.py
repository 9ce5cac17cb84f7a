"""The replies that docs/handlers.md shows are those that the handlers give."""

import io
import json
import re
import time
import wave
from pathlib import Path

import pytest
import torch
from PIL import Image

import handlers
from handlers.loading.signature import Signature, Tensor
from handlers.testing import FakeContext, Request
from handlers.text.tokenizer import TextTokenizer
from handlers.text.vocabulary import Vocabulary

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "handlers.md").read_text(encoding="utf-8")


def section(name, text=TEXT):
    """Return the JSON blocks below a heading."""
    found = re.search(rf"^##+ {name}\n(.*?)^##", text + "##", re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)]


def sections():
    part = TEXT[TEXT.index("## Handlers that need no code") : TEXT.index("## Errors")]
    return re.findall(r"^\| `(\w+)` \| `(\w+)`", part, re.MULTILINE)


def test_the_handler_that_stops_early():
    (code,) = re.findall(r"^## Deadlines\n.*?^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    names = {}
    exec(code, names)
    names["MOST"] = 20_000
    handler, context = names["Pi"](), FakeContext()
    handler.initialize(context)
    now = time.monotonic()
    for deadline, darts in ((now - 1, {0}), (now + 60, {20_000}), (None, {20_000})):
        rows = context.show([Request({"body": b""}, deadline=deadline)] * 2)
        first, second = handler.handle(rows, context)
        assert first == second
        assert first["darts"] in darts
        assert first["pi"] is None if deadline == now - 1 else 3 < first["pi"] < 3.3


@pytest.fixture
def answer(make_context):
    """Answer one request with a handler whose model gives something fixed."""

    def run(handler, output, body):
        handler.device = torch.device("cpu")
        handler.model = lambda *_, **__: output
        (reply,) = handler.handle([{"body": body}], make_context(requests=1))
        return json.loads(json.dumps(reply))

    return run


@pytest.fixture
def cat():
    stream = io.BytesIO()
    Image.new("RGB", (320, 480)).save(stream, "JPEG")
    return stream.getvalue()


def test_every_handler_shows_its_replies():
    for name, kind in sections():
        assert issubclass(getattr(handlers, kind), handlers.BaseHandler)
        if name not in ("base_handler", "tensor_handler"):  # the first is any model's, the other has a page of its own
            assert section(name)


def test_text_classifier(answer, make_context):
    handler = handlers.TextClassifier()
    handler.source_vocab = Vocabulary(["rain", "final"])
    handler.mapping = {"0": "World", "1": "Sports", "2": "Business", "3": "Science"}
    prediction, explanation = section("text_classifier")
    assert answer(handler, torch.tensor([[0.1, 0.6, 0.2, 0.1]]).log(), "Rain") == pytest.approx(prediction)

    def model(words, offsets):
        """Let both known words speak for the class: 1/8 and 1/4 of its probability of 1/2."""
        sizes = torch.diff(offsets, append=torch.tensor([len(words)]))
        rows = words.split(sizes.tolist())
        share = torch.tensor([0.125 + 0.125 * (0 in row) + 0.25 * (1 in row) for row in rows])
        return torch.stack([share, 1 - share], dim=1).log()

    handler.model = model
    context = make_context(requests=1, headers={0: {"explain": "True"}})
    (found,) = handler.handle([{"body": "Rain stops the final", "target": "0"}], context)
    assert found["words"] == explanation["words"]
    assert found["importances"] == pytest.approx(explanation["importances"], abs=1e-6)


def test_text_embedder(answer):
    handler = handlers.TextEmbedder()
    handler.source_vocab = Vocabulary(["rain"])
    (shown,) = section("text_embedder")
    assert answer(handler, torch.tensor([[3.0, -4.0]]), "rain") == pytest.approx(shown)


def test_token_classifier(answer, make_tokenizer, tmp_path):
    handler = handlers.TokenClassifier()
    handler.tokenizer = TextTokenizer(make_tokenizer(tmp_path / "tokenizer.json", "ada lives in rome"))
    handler.mapping = {"0": "O", "1": "PER"}
    scores = torch.tensor([[1.0, 0.0], [0.25, 0.75], [1.0, 0.0], [1.0, 0.0]]).log()
    (shown,) = section("token_classifier")
    shown[0]["score"] = pytest.approx(shown[0]["score"])
    assert answer(handler, scores[None], "Ada lives") == shown


def test_text_generator(answer, make_tokenizer, tmp_path):
    handler = handlers.TextGenerator()
    handler.tokenizer = TextTokenizer(make_tokenizer(tmp_path / "tokenizer.json", "rain stops the final"))
    handler.ends = frozenset({3})
    following = [0, 1, 4, 3, 5, 6, 7, 3]
    handler.scores = lambda texts: torch.eye(8)[[following[ids[-1]] for ids in texts]]
    (shown,) = section("text_generator")
    assert answer(handler, None, "Rain stops") == shown


def test_audio_handler(answer):
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(b"\0" * 64)
    (shown,) = section("audio_handler")
    assert answer(handlers.AudioHandler(), torch.tensor([0.75]), stream.getvalue()) == shown


def test_image_classifier(answer, cat):
    handler = handlers.ImageClassifier()
    handler.mapping = {"0": "bird", "1": "cat", "2": "dog"}
    (shown,) = section("image_classifier")
    assert answer(handler, torch.tensor([[0.0, 3.0, 2.0]]), cat) == pytest.approx(shown)


def test_object_detector(answer, cat):
    handler = handlers.ObjectDetector()
    handler.mapping = {"1": "person", "3": "car"}
    boxes = [[167.5, 57.0, 301.25, 436.75], [87.5, 85.25, 249.0, 190.5], [0.0, 0.0, 1.0, 1.0]]
    found = {"boxes": torch.tensor(boxes), "labels": torch.tensor([1, 3, 1]), "scores": torch.tensor([0.75, 0.5, 0.25])}
    assert [answer(handler, [found], cat)] == section("object_detector")


def test_image_segmenter(answer, cat):
    log3 = torch.tensor(3.0).log().item()
    first = torch.tensor([[log3, 0.0], [log3, 0.0]])
    second = torch.tensor([[0.0, 1e-6], [0.0, log3]])
    reply = answer(handlers.ImageSegmenter(), {"out": torch.stack([first, second])[None]}, cat)
    (shown,) = section("image_segmenter")
    assert torch.allclose(torch.tensor(reply), torch.tensor(shown), atol=1e-6)


# ---- docs/publishing.md ----------------------------------------------------------------------------------------------


@pytest.fixture
def tensors(make_context):
    """Answer one JSON body with the tensor handler and a model whose one input is described."""

    def run(name, shape, forward, body):
        handler = handlers.TensorHandler()
        handler.device, handler.model = torch.device("cpu"), forward
        handler.manifest = {"model": {"modelName": "sums", "modelVersion": "1.0"}}
        outputs = (Tensor("y", shape=(None,)),)
        handler.signature = Signature((Tensor(name, shape=shape),), outputs)
        context = make_context(requests=1)
        context.model_name = "sums"
        (reply,) = handler.handle([{"body": body}], context)
        return json.loads(json.dumps(reply)), context.get_response_status(0)[0]

    return run


def test_what_a_published_model_answers(tensors):
    text = (DOCS / "publishing.md").read_text(encoding="utf-8")
    wrong = section("What it answers", text)
    assert [tensors("images", (None, 1, 28, 28), lambda x: x, {"tensor_input": [[1, 2]]})] == [(wrong[0], 400)]
    request, reply = section("The Open Inference Protocol", text)
    assert tensors("x", (None, 3), lambda x: x.sum(dim=1), request) == (reply, 200)
