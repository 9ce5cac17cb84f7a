"""The replies that docs/handlers.md shows are those that the handlers give."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import handlers

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "handlers.md").read_text(encoding="utf-8")


def section(name):
    """The JSON blocks below a heading."""
    found = re.search(rf"^### {name}\n(.*?)^##", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)]


def sections():
    part = TEXT[TEXT.index("## Handlers that need no code") : TEXT.index("## Errors")]
    return re.findall(r"^\| `(\w+)` \| `(\w+)`", part, re.MULTILINE)


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
