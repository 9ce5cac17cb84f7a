"""Our own handlers keep the contract: called alone, on torchmar's worker, and on the one of the torchserve package."""

import importlib
import io
import json
import socket
import sys
import warnings
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image

import handlers
from handlers.tensors.codecs import write_npy, write_safetensors
from handlers.tensors.media_types import NPY, SAFETENSORS
from handlers.testing import HandlerContract, Reply, Request
from serving.protocol import Inference, Load, Parameter, encode_inference
from serving.protocol import Request as WireRequest
from serving.worker import __file__ as worker_file
from serving.worker.answering.replies import reply_to
from serving.worker.answering.service import Service
from serving.worker.loading import loader

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ts.protocol.otf_message_handler import retrieve_msg

METRICS = Path(worker_file).parent / "home" / "ts" / "configs" / "metrics.yaml"


def picture(colour, mode="RGB", form="PNG"):
    stream = io.BytesIO()
    Image.new(mode, (30, 20), colour).save(stream, form)
    return stream.getvalue()


def sound(level):
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(level.to_bytes(2, "little", signed=True) * 320)
    return stream.getvalue()


@dataclass(frozen=True)
class Kept:
    """A handler that keeps the contract, with what it needs.

    `forward` is the body of the model's method, whose arguments are `x` and `mask` and whose `layer` is seeded;
    `more` stands in the handler's class, and `record` in the manifest.
    """

    forward: str
    good: tuple[Any, ...]
    bad: tuple[Any, ...]
    layer: str = "nn.Linear(3, 4)"
    more: str = "pass"
    record: dict[str, Any] | None = None


PICTURES = (picture((250, 0, 0)), picture((0, 0, 250), form="JPEG"), picture(128, "L"))
NO_PICTURES = (b"no picture", "no base64 either", {"picture": "?"}, [], [[1, 2], [3]], picture((1, 2, 3))[:60])
SMALL = "image_mode = 'RGB'; image_processing = transforms.Compose([transforms.Resize((4, 4)), transforms.ToTensor()])"
TEXTS = ("rain", {"text": "the final stops"}, b"rain the final rain")
NO_TEXTS = (b"\xff", {"words": "rain"}, [1, 2], {"text": 3})
TENSOR = {"id": "a", "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
ROWS = torch.tensor([[1.0, 2, 3], [4, 5, 6]])

HANDLERS = {
    "BaseHandler": Kept("self.layer(x)", ([1, 2, 3], b"[4, 5, 6.5]", "[7, 8, 9]"), ({"a": 1}, "text", [[1, 2], [3]])),
    "ImageClassifier": Kept("self.layer(x.mean(dim=(2, 3)))", PICTURES, NO_PICTURES, more=f"topk = 3; {SMALL}"),
    "ImageSegmenter": Kept("{'out': self.layer(x)}", PICTURES, NO_PICTURES, "nn.Conv2d(3, 2, 1)", SMALL),
    "ObjectDetector": Kept(
        "[{'boxes': p.mean().repeat(1, 4), 'labels': torch.ones(1, dtype=int), 'scores': torch.ones(1)} for p in x]",
        PICTURES,
        NO_PICTURES,
    ),
    "TextClassifier": Kept("(self.layer(x) * mask[:, :, None]).sum(dim=1)", TEXTS, NO_TEXTS, "nn.Embedding(8, 4)"),
    "TextEmbedder": Kept("self.layer(x)", TEXTS, NO_TEXTS, "nn.Embedding(8, 4)"),
    "TokenClassifier": Kept("self.layer(x)", TEXTS, NO_TEXTS, "nn.Embedding(8, 4)"),
    "TextGenerator": Kept(
        "self.layer(x)",
        ("rain", {"text": "the", "max_new_tokens": 3}, {"prompt": "final", "temperature": 1, "seed": 1}),
        (*NO_TEXTS, {"text": "rain", "max_new_tokens": 0}),
        "nn.Embedding(8, 8)",
    ),
    "AudioHandler": Kept(
        "self.layer(x).mean(dim=2)",
        (sound(100), sound(-3000), [0.5] * 30),
        (b"no sound", {"a": 1}),
        "nn.Conv1d(1, 2, 3)",
    ),
    "TensorHandler": Kept(
        "x.sum(dim=1) * 2",
        (
            {"tensor_input": [[1, 2, 3]]},
            {"tensor_input": [[1, 2, 3], [4, 5, 6]]},
            {"instances": [[0, 0, 1]]},
            Request({"data": b"[[7, 7, 7]]"}),
            TENSOR,
            write_npy(ROWS),
            Request({"body": write_safetensors({"x": ROWS})}, {"content-type": SAFETENSORS, "accept": NPY}),
        ),
        (
            b"no json",
            "text",
            {"x": 1, "y": 2},
            {"tensor_input": [[1, 2]]},
            {"instances": []},
            [["a", "b", "c"]],
            None,
            write_npy(ROWS.double()),
            write_npy(ROWS)[:-1],
            {"inputs": [TENSOR["inputs"][0] | {"datatype": "BYTES"}]},
            Request({"body": write_npy(ROWS)}, {"accept": "text/html"}),
        ),
        record={
            "formatVersion": 1,
            "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 3]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [None]}],
        },
    ),
}


def test_every_handler_is_there():
    kinds = (getattr(handlers, name) for name in handlers.__all__)
    ours = {kind.__name__ for kind in kinds if isinstance(kind, type) and issubclass(kind, handlers.BaseHandler)}
    # Two answer nothing by themselves. Those of pretrained models are asked in the tests of their room.
    others = {"TextHandler", "VisionHandler", *(name for name in ours if name.startswith("Pretrained"))}
    assert ours - others == set(HANDLERS)


def archive(archives, name, make_tokenizer):
    """Write what the handler loads; return the folder."""
    kept = HANDLERS[name]
    net = f"""
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.layer = {kept.layer}
            def forward(self, x, mask=None):
                return {kept.forward}
    """
    handler = f"""
        from torchvision import transforms
        from handlers import {name}

        class Handler({name}):
            {kept.more}
    """
    folder = archives.make(model_file=net, handler=handler)
    make_tokenizer(folder / "tokenizer.json", "rain stops the final")
    if kept.record is not None:
        manifest = folder / "MAR-INF" / "MANIFEST.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"torchmar": kept.record}))
    return folder


# ---- workers -----------------------------------------------------------------------------------------------------


def on_the_wire(requests):
    """Return the message that the frontend would send."""
    found = []
    for number, one in enumerate(map(Request.of, requests)):
        kind = one.headers.get("content-type", "")
        parameters = []
        for name, value in one.parameters.items():
            if not isinstance(value, bytes):
                value = (value if isinstance(value, str) else json.dumps(value)).encode()
            parameters.append(Parameter(name, bytearray(value), kind))
        found.append(WireRequest(f"request-{number}", {"Host": "here", **one.headers}, tuple(parameters)))
    return found


def value_of(body):
    try:
        return json.loads(body)
    except ValueError:
        return bytes(body)


class Ours:
    """torchmar's worker behind its codec."""

    def __init__(self, folder, handler, archives):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchServe's package leaves a file open
            model = loader.load(Load("model", str(folder), 8, handler), str(METRICS))
        self.service = Service(model, self)
        self.streamed = set()

    def sendall(self, data):
        raise AssertionError("nothing is streamed here")

    def ask(self, requests):
        wire = on_the_wire(requests)
        reply = reply_to(wire, self.service.answer(wire))
        return reply.code, reply.message, reply.items


class Stock:
    """TorchServe's worker: its loader, its service and its codec."""

    def __init__(self, folder, handler, archives):
        self.worker = archives.load(folder)

    def ask(self, requests):
        here, there = socket.socketpair()
        with here, there:
            here.sendall(encode_inference(Inference(tuple(on_the_wire(requests)))))
            _, message = retrieve_msg(there)
        reply = self.worker.answer(message)
        return reply.code, reply.message, reply.items


WORKERS = {"alone": None, "ours": Ours, "stock": Stock}


@pytest.fixture(
    scope="class", params=[pytest.param((h, w), id=f"{h}-{w}") for h in HANDLERS for w in WORKERS], name="kept"
)
def serve(request, class_archives, make_tokenizer):
    name, worker = request.param
    folder = archive(class_archives, name, make_tokenizer)
    module = f"h_{folder.name}"
    sys.path.insert(0, str(folder))
    threads = torch.get_num_threads()
    cls, kept = request.cls, HANDLERS[name]
    cls.good, cls.bad, cls.folder, cls._loaded = kept.good, kept.bad, folder, None
    cls.handler = cls.worker = None
    if WORKERS[worker] is None:
        cls.handler = importlib.import_module(module).Handler
    else:
        cls.worker = WORKERS[worker](folder, f"{module}.py", class_archives)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("kept")
class TestContract(HandlerContract):
    batch_sizes: ClassVar = (1, 2, 5)
    worker: ClassVar[Any] = None

    def ask(self, *requests):
        if self.worker is None:
            return super().ask(*requests)
        code, message, items = self.worker.ask(requests)
        assert code == 200, f"{code} for the whole batch: {message}"
        assert [item.request_id for item in items] == [f"request-{number}" for number in range(len(requests))]
        return [Reply(value_of(item.body), item.status) for item in items]
