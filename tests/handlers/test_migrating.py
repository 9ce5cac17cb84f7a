"""docs/migrating.md: each of its handlers gives the same replies with either import, and what differs does so.

Both forms run on TorchServe's own loader and service.
"""

from __future__ import annotations

import base64
import re
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ts.handler_utils.micro_batching import MicroBatching

pytestmark = [
    pytest.mark.filterwarnings("ignore:Implicit dimension choice:UserWarning"),  # the stock's softmax
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
]

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "migrating.md").read_text(encoding="utf-8")
KINDS = {
    "base_handler": "BaseHandler",
    "vision_handler": "VisionHandler",
    "image_classifier": "ImageClassifier",
    "object_detector": "ObjectDetector",
    "image_segmenter": "ImageSegmenter",
    "text_classifier": "TextClassifier",
    "text_handler": "TextHandler",
}


def section(name: str) -> str:
    found = re.search(rf"^### {name}\n(.*?)(?=^##)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def forms(name: str) -> tuple[str, str]:
    """Return the handler that a section shows: before the change, and after it."""
    (block,) = re.findall(r"^```diff\n(.*?)^```", section(name), re.MULTILINE | re.DOTALL)
    lines = block.splitlines()
    before, after = ("\n".join(line[1:] for line in lines if line[:1] != other) + "\n" for other in "+-")
    return before, after


def differences(name: str) -> list[str]:
    """Return the first column of a section's table."""
    rows = re.findall(r"^\| (.*?) \|", section(name), re.MULTILINE)
    return [row for row in rows if not row.startswith(("|", "---"))]


# ---- the same answers ------------------------------------------------------------------------------------------------

LINEAR = """
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear({size}, {classes})
        def forward(self, x): return self.layer(x.flatten(1))
"""
BAG = """
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.{name} = nn.EmbeddingBag(12, 4)
        def forward(self, words, offsets): return self.{name}(words, offsets)
"""
MEANS = """
    from torch import nn

    class Net(nn.Module):
        def forward(self, x): return x.mean(dim=(2, 3))
"""
BOXES = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def forward(self, x):
            scores = [torch.stack([one.max(), one.mean(), one.min()]) for one in x]
            boxes = torch.arange(12.0).reshape(3, 4)
            return [{"boxes": boxes, "labels": torch.tensor([1, 2, 1]), "scores": one} for one in scores]
"""
CLASSES = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def forward(self, x): return {"out": torch.cat([x, 1 - x], dim=1)}
"""
VOCABULARY = {
    word: number
    for number, word in enumerate(
        ["rain", "stops", "the", "final", "rain stops", "stops the", "the final", "is", "not", "cafe", "over", "it"]
    )
}
LABELS = {"0": "World", "1": "Sports", "2": "Business", "3": "Science"}
NUMBERS = [b"[90, 0, 0, 0]", b"[0, -90, 0, 0]", b"[-90, 0, 0, 0]", b"[0, 90, 0, 0]", b"[0, 0, 90, 0]", b"[0, 0, 0, 90]"]
TEXTS = [b"<b>It isn't the final</b>", "Caf\u00e9? The caf\u00e9 stops!".encode(), b"rain"]


@pytest.fixture
def linear() -> Callable[[int, int], dict[str, Any]]:
    """Make the weights of LINEAR."""

    def make(size: int, classes: int) -> dict[str, Any]:
        torch.manual_seed(0)
        layer = nn.Linear(size, classes)
        return {
            "model_file": LINEAR.format(size=size, classes=classes),
            "weights": {f"layer.{name}": value for name, value in layer.state_dict().items()},
        }

    return make


def bag(name: str = "embedding") -> dict[str, Any]:
    torch.manual_seed(0)
    weights = {f"{name}.weight": torch.randn(12, 4)}
    return {"model_file": BAG.format(name=name), "weights": weights, "labels": LABELS, "vocabulary": VOCABULARY}


@pytest.fixture
def shown(linear, picture) -> dict[str, tuple[dict[str, Any], list[list[Any]]]]:
    """Return for each section the parts of an archive, and batches of requests."""
    pictures = [picture(seed=seed) for seed in range(3)]
    encoded = base64.b64encode(bytes(pictures[0])).decode()
    digits = [picture("L", (28, 28), seed=seed) for seed in range(3)]
    return {
        "base_handler": (linear(4, 3), [NUMBERS, NUMBERS[:1]]),
        "vision_handler": ({"model_file": MEANS}, [[*pictures, encoded, torch.rand(3, 8, 8).tolist()], pictures[:1]]),
        "image_classifier": (linear(784, 10), [digits, digits[:1]]),
        "object_detector": ({"model_file": BOXES, "labels": {"1": "cat", "2": "dog"}}, [pictures, pictures[:1]]),
        "image_segmenter": ({"model_file": CLASSES}, [pictures, pictures[:1]]),
        "text_classifier": (bag(), [[text] for text in TEXTS]),
        "text_handler": (bag(), [TEXTS, TEXTS[:1]]),
        "Micro-batching": (linear(784, 10), [[*digits, *digits], digits[:1]]),
    }


def test_the_sections_are_those_of_the_handlers():
    assert set(re.findall(r"^### (\w+)$", DOCUMENT, re.MULTILINE)) == set(KINDS)


@pytest.mark.parametrize("name", [*KINDS, "Micro-batching"])
def test_a_handler_needs_another_import_and_nothing_else(archives, shown, name):
    before, after = forms(name)
    assert [line for line in before.splitlines() if line not in after.splitlines()] == re.findall(
        r"^from ts\.torch_handler\..*$", before, re.MULTILINE
    )
    parts, batches = shown[name]
    replies = []
    for handler in (before, after):
        worker = archives.serve(handler=handler, **parts)
        try:
            replies.append([worker.predict(*map(body_of, batch)) for batch in batches])
        finally:
            entry = worker.service._entry_point
            if isinstance(entry, MicroBatching):
                entry.shutdown()
    assert replies[0] == replies[1]
    for reply, batch in zip(replies[1], batches, strict=True):
        assert reply.code == 200
        assert [item.status for item in reply.items] == [200] * len(batch)
    answers = [item.body for reply in replies[1] for item in reply.items]
    assert len(set(answers)) > 1, "the requests are too much alike to tell anything"


def body_of(value: Any) -> Any:
    return bytearray(value) if isinstance(value, bytes) else value


# ---- what differs ----------------------------------------------------------------------------------------------------

PLAIN = "class Handler({kind}):\n    pass\n"
REFUSING = """
    import torch
    from ts.service import PredictionException

    class Handler(BaseHandler):
        def preprocess(self, data):
            if any(row["body"] == b"x" for row in data):
                raise PredictionException("not for you", 402)
            return torch.ones(len(data), 4)
"""
EXPLAINING = """
    import torch

    class Handler(BaseHandler):
        def preprocess(self, data):
            return torch.ones(len(data), 4)
        def get_insights(self, tensor_data, raw_data, target):
            return [{"target": int(target)}]
"""
TWO_CLASSES = """
    from torch import nn

    class Layer(nn.Module):
        def forward(self, x): return 2 * x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Layer()
        def forward(self, x): return self.layer(x)

    __all__ = ["Net"]
"""
IDENTITY = "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x): return x\n"


@dataclass
class Difference:
    """One row of a table.

    Attributes:
        stock: code of TorchServe's reply to the batch, the statuses of its items, or None: the model does not load.
        ours: statuses of our items.
        text: part of the reply to the last request that our form refuses, or else of the last one.
        handler: with the import left out; by default the class as it is. `SHOWN` is the document's.
    """

    row: str
    requests: list[Any]
    stock: int | list[int] | None
    ours: list[int]
    text: str = ""
    handler: str = PLAIN
    parts: dict[str, Any] = field(default_factory=dict)


SHOWN = "SHOWN"
EXPLAIN = {"explain": "True"}


@pytest.fixture
def observed(linear, picture, ask) -> dict[str, list[Difference]]:
    """Return the rows that are shown by running them, by section."""
    cat, grey, small = picture(), picture("L"), picture(size=(20, 20))
    explained = ask(0, headers=EXPLAIN, parameters={"data": cat, "target": bytearray(b"1")})
    text, nobody = "data:image/png;base64," + base64.b64encode(bytes(cat)).decode(), ask(0, parameters={})
    encoded = base64.b64encode(bytes(cat))
    one_field = ask(0, parameters={"a": bytearray(NUMBERS[0])})
    two_fields = ask(1, parameters={"a": bytearray(NUMBERS[0]), "b": bytearray(b"1")})
    tensor = "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x): return x[:, :, :4, :4]\n"
    scripted = torch.jit.trace(nn.Linear(4, 3), torch.ones(1, 4))
    second = ask(1, headers=EXPLAIN, parameters={"body": b"y", "target": b"2"})
    return {
        "base_handler": [
            Difference(
                "one request of a batch that makes a hook fail",
                [NUMBERS[0], b"x", NUMBERS[1]],
                503,
                [200, 503, 200],
                handler=SHOWN,
                parts=linear(4, 3),
            ),
            Difference(
                "an exception with `message`", [b"y", b"x"], 402, [200, 402], "not for you", REFUSING, linear(4, 3)
            ),
            Difference(
                "explanations in a batch",
                [b"y", second],
                [200, 200],
                [200, 200],
                '"target": 2',
                EXPLAINING,
                linear(4, 3),
            ),
            Difference("JSON numbers as the plain body", [NUMBERS[0]], 503, [200], parts=linear(4, 3)),
            Difference("no body at all", [nobody], 503, [400], "no body", parts=linear(4, 3)),
            Difference("a form without", [one_field, two_fields], 503, [200, 400], "'a', 'b'", parts=linear(4, 3)),
            Difference(
                "TorchScript in a file that is not called `.pt`",
                [NUMBERS[0]],
                None,
                [200],
                parts={"weights": scripted, "serialized": "weights.pth"},
            ),
            Difference(
                "a model file with several classes", [b"[2.5]"], None, [200], "5.0", parts={"model_file": TWO_CLASSES}
            ),
            Difference(
                "`pt2: {compile: {...}}` without `enable`",
                [],
                None,
                [],
                parts={"model_file": IDENTITY, "config": {"pt2": {"compile": {"backend": "eager"}}}},
            ),
        ],
        "vision_handler": [
            Difference(
                "a body that is no image",
                [cat, b"no picture", cat],
                503,
                [200, 400, 200],
                "not an image",
                SHOWN,
                {"model_file": MEANS},
            ),
            Difference(
                "a text that is no base64", ["no base64!"], 503, [400], "no base64", SHOWN, {"model_file": MEANS}
            ),
            Difference("base64 with the head of a data URL", [text], 503, [200], "", SHOWN, {"model_file": MEANS}),
            Difference("base64 in bytes", [encoded], 503, [200], "", SHOWN, {"model_file": MEANS}),
            Difference("JSON with base64", [{"data": encoded.decode()}], 503, [200], "", SHOWN, {"model_file": MEANS}),
            Difference(
                "a handler without `image_processing`",
                [cat],
                503,
                [200],
                handler=PLAIN + "    postprocess = lambda self, data: data.tolist()\n",
                parts={"model_file": MEANS},
            ),
            Difference("`target` of an explanation", [explained], 503, [200], "0.0", SHOWN, {"model_file": MEANS}),
        ],
        "image_classifier": [
            Difference(
                "gray, palette and transparent images",
                [grey, picture("P"), picture("RGBA")],
                503,
                [200, 200, 200],
                handler=PLAIN + "    topk = 3\n",
                parts={"model_file": MEANS},
            ),
            Difference("`topk` above the number of classes", [cat], 503, [200], '"2": 0.', parts={"model_file": MEANS}),
            Difference(
                "a class that the labels do not name",
                [cat],
                503,
                [200],
                '"1": 0.',
                PLAIN + "    topk = 3\n",
                {"model_file": MEANS, "labels": {"0": "cat"}},
            ),
        ],
        "object_detector": [
            Difference(
                "images of several sizes in a batch", [cat, small], 503, [200, 200], parts={"model_file": BOXES}
            ),
            Difference(
                "a class that the labels do not name",
                [cat],
                503,
                [200],
                '"1": [',
                parts={"model_file": BOXES, "labels": {"2": "dog"}},
            ),
            Difference("explanations", [explained], 503, [501], "does not explain", parts={"model_file": BOXES}),
        ],
        "image_segmenter": [
            Difference("a model that gives a tensor", [cat], 503, [200], parts={"model_file": tensor}),
            Difference("explanations", [explained], 503, [501], "does not explain", parts={"model_file": CLASSES}),
        ],
        "text_classifier": [
            Difference("texts in a batch", TEXTS, 503, [200] * 3, '"Science": 0.', SHOWN, bag()),
            Difference("a word that the vocabulary lacks", [b"rain never stops"], 503, [200], parts=bag()),
            Difference("JSON, `{", [{"text": "rain"}], 503, [200], parts=bag()),
            Difference("a body that is no UTF-8", [b"\xff", b"never"], 503, [400, 400], "no word", parts=bag()),
            Difference("a model without a layer `embedding`", [b"rain"], None, [200], parts=bag("bag")),
        ],
        "text_handler": [
            Difference("an archive without a vocabulary", [], None, [], parts={"model_file": IDENTITY}),
        ],
    }


# Rows that would need other hardware or packages, seconds of compiling, or another version of torch; or about how
# something is done, not what comes of it. Most have a test where the module that does it is tested.
TOLD = {
    "base_handler": [
        "programs of torch.export",
        "a compiled library",
        "ONNX",
        "threads of ONNX Runtime",
        "checkpoints",
        "a checkpoint that holds code",
        "a backend of `torch.compile`",
        "float32 products on NVIDIA GPUs",
        "PyTorch/XLA",
        "`ENABLE_TORCH_PROFILER`",
        "import",
    ],
    "vision_handler": ["EPS images", "PIL's limit of pixels", "`self.ig`"],
    "image_classifier": [],
    "object_detector": ["torchvision's detection models as TorchScript"],
    "image_segmenter": [],
    "text_classifier": ["a pickled `torchtext` vocabulary", "`tokenizer.json`", "explanations"],
    "text_handler": ["`self.tokenizer`", "`self.source_vocab`", "`self.lig`"],
}


@pytest.mark.parametrize("name", KINDS)
def test_every_difference_in_the_tables_is_known(observed, name):
    known = [one.row for one in observed[name]] + TOLD[name]
    rows = differences(name)
    assert len(known) == len(rows)
    for row in rows:
        assert len([one for one in known if row.startswith(one)]) == 1, row


@pytest.mark.parametrize("name", KINDS)
def test_what_differs_does_so(archives, observed, name):
    kind = KINDS[name]
    for one in observed[name]:
        shown = forms(name)
        plain = textwrap.dedent(one.handler.replace("{kind}", kind))
        stocks, ours = (
            shown
            if one.handler == SHOWN
            else (f"from {package} import {kind}\n{plain}" for package in (f"ts.torch_handler.{name}", "handlers"))
        )
        requests = [body_of(request) for request in one.requests]
        if one.stock is None:
            with pytest.raises(Exception):  # noqa: B017, PT011 (each of its own kind, or of none)
                archives.serve(handler=stocks, **one.parts)
        else:
            reply = archives.serve(handler=stocks, **one.parts).predict(*requests)
            found = [item.status for item in reply.items] if isinstance(one.stock, list) else reply.code
            assert found == one.stock, one.row
        if name == "text_handler" and not requests:
            with pytest.raises(Exception, match="--extra-files"):
                archives.serve(handler=ours, **one.parts)
            continue
        worker = archives.serve(handler=ours, **one.parts)
        items = worker.predict(*requests).items
        assert [item.status for item in items] == one.ours, one.row
        if one.text:
            told = [item for item in items if item.status != 200] or items
            assert one.text in told[-1].body.decode(), one.row
