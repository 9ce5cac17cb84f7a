"""The SDK on the machinery of the installed torchserve package: its loader, its service, its codec."""

import io
import os
import shutil
import struct
import subprocess
import sys
import textwrap
import warnings
import wave
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

import handlers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ts.handler_utils.micro_batching import MicroBatching
    from ts.model_service_worker import TorchModelServiceWorker

NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)
        def forward(self, x): return self.layer(x.mean(dim=(2, 3)))
"""
CLASSIFIER = """
    from handlers import ImageClassifier
    from torchvision import transforms

    class Classifier(ImageClassifier):
        topk = 2
        image_mode = "RGB"
        image_processing = transforms.ToTensor()

        def describe_handle(self):
            return {"classes": 4}
"""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x):
        return self.layer(x.mean(dim=(2, 3)))


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return Net().state_dict()


@pytest.fixture
def worker(archives, weights):
    return archives.serve(
        model_file=NET, weights=weights, handler=CLASSIFIER, labels={str(i): f"c{i}" for i in range(4)}
    )


def test_a_good_and_a_bad_picture_in_one_batch(worker, picture):
    reply = worker.predict(picture(seed=1), bytearray(b"no picture"), picture(seed=2))
    assert (reply.code, reply.message) == (200, "Prediction success")
    good, bad, other = reply.items
    assert (good.status, bad.status, other.status) == (200, 400, 200)
    assert (bad.phrase, bad.content_type) == ("Bad Request", "application/json")
    assert bad.json()["type"] == "BadInputError"
    assert "no picture" in bad.json()["message"]
    for item, seed in ((good, 1), (other, 2)):
        assert len(item.json()) == 2
        assert set(item.json()) <= {"c0", "c1", "c2", "c3"}
        assert item.json() == worker.predict(picture(seed=seed)).items[0].json()


HANDLERS = {
    "ImageClassifier": ("Pictures", "layer(x.mean(dim=(2, 3)))"),
    "ImageSegmenter": ("Pictures", "{'out': x}"),
    "ObjectDetector": (
        "Pictures",
        "[{'boxes': torch.ones(1, 4), 'labels': torch.ones(1, dtype=int), 'scores': p.max()[None]} for p in x]",
    ),
    "TextClassifier": ("Texts", "torch.ones(len(x), 2)"),
    "TextEmbedder": ("Texts", "torch.ones(len(x), 2)"),
    "TokenClassifier": ("Texts", "torch.ones(*x.shape, 2)"),
    "TextGenerator": ("Texts", "torch.eye(8)[(x + 1) % 8]"),
    "AudioHandler": ("Sounds", "x.mean(dim=2)"),
}


@pytest.mark.parametrize("kind", HANDLERS)
def test_each_handler_answers_one_bad_request_among_good_ones(archives, picture, make_tokenizer, kind):
    form, output = HANDLERS[kind]
    net = f"""
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3, 4)
            def forward(self, x, mask=None):
                layer = self.layer
                return {output}
    """
    make = archives.make

    def with_tokenizer(**parts):
        folder = make(**parts)
        make_tokenizer(folder / "tokenizer.json", "rain stops the final")
        return folder

    archives.make = with_tokenizer
    handler = f"from handlers import {kind}\nclass Handler({kind}):\n    pass\n"
    served = archives.serve(model_file=net, handler=handler)
    if form == "Sounds":
        stream = io.BytesIO()
        with wave.open(stream, "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(b"\1" * 640)
        good = bytearray(stream.getvalue())
    else:
        good = bytearray(b"rain the final") if form == "Texts" else picture()
    reply = served.predict(good, bytearray(b"\xff"), bytearray(), good)
    assert [item.status for item in reply.items] == [200, 400, 400, 200]
    first, last = reply.items[0].json(), reply.items[3].json()
    assert first == last == served.predict(good).items[0].json()
    assert [item.json()["type"] for item in reply.items[1:3]] == ["BadInputError"] * 2


def png_of(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return bytearray(
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (bytearray(b"a text file\n"), "not an image"),
        ("a text file\n", "no base64"),
        (bytearray(), "no body"),
        (png_of(30_000, 30_000), "900,000,000 pixels"),
        ({"a": "JSON object"}, "JSON without data"),
    ],
)
def test_wrong_inputs_have_a_status_and_a_reason_and_the_worker_lives_on(worker, picture, body, reason):
    (item,) = worker.predict(body).items
    assert item.status == 400
    assert reason in item.json()["message"]
    assert worker.predict(picture()).items[0].status == 200


def test_a_request_without_parameters(worker, ask):
    assert worker.predict(ask(0, parameters={})).items[0].status == 400


def test_explain_and_describe(worker, ask, picture):
    explained = ask(1, headers={"explain": "True"}, parameters={"data": picture(), "target": bytearray(b"3")})
    plain, insights = worker.predict(picture(), explained).items
    assert len(plain.json()) == 2
    assert torch.tensor(insights.json()).shape == (3, 30, 40)
    (described,) = worker.predict(ask(0, headers={"describe": "True"}, parameters={})).items
    assert described.json() == {"classes": 4}


def test_an_empty_batch(worker):
    assert worker.predict().code == 200


def test_out_of_memory_is_answered_by_the_worker(worker, picture, monkeypatch):
    def fail(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(worker.handler, "inference", fail)
    assert worker.predict(picture(), picture()).code == 507


def test_the_envelope_of_json_requests(archives, weights):
    handler = """
        from handlers import BaseHandler

        class Numbers(BaseHandler):
            pass
    """
    worker = archives.serve(model_file=NET, weights=weights, handler=handler, envelope="json")
    image = torch.zeros(3, 2, 2).tolist()
    (item,) = worker.predict({"instances": [image, image]}).items
    assert item.status == 200
    assert torch.tensor(item.json()["predictions"]).shape == (2, 4)
    (item,) = worker.predict({"instances": [image, "x"]}).items
    assert item.status == 400
    assert len(item.json()["predictions"][0]) == 4
    assert "not JSON" in item.json()["predictions"][1]["message"]


def test_the_envelope_of_bodies(archives, weights, picture):
    worker = archives.serve(model_file=NET, weights=weights, handler=CLASSIFIER, envelope="body")
    good, bad = worker.predict(picture(), bytearray(b"no picture")).items
    assert (good.status, bad.status) == (200, 400)


def test_micro_batching_drives_the_hooks(worker, picture):
    handler = worker.handler
    whole = [item.json() for item in worker.predict(*[picture(seed=seed) for seed in range(5)]).items]
    micro = MicroBatching(handler, micro_batch_size=2)
    try:
        worker.service._entry_point = micro
        assert [item.json() for item in worker.predict(*[picture(seed=s) for s in range(5)]).items] == whole
    finally:
        micro.shutdown()


def test_metrics_are_recorded(worker, picture, capsys, caplog):
    caplog.set_level("INFO")
    worker.predict(picture())
    assert "HandlerTime.Milliseconds" in caplog.text + capsys.readouterr().out


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"weights": {"other": torch.ones(1)}, "model_file": NET}, "missing keys: layer.weight, layer.bias"),
        ({"weights": {"other": torch.ones(1)}}, "--model-file"),
        ({"model_file": "import no_such_package"}, "no_such_package"),
        ({}, "neither a model file nor a serialized file"),
    ],
)
def test_a_model_that_does_not_load_is_answered_and_told(archives, monkeypatch, caplog, parts, text):
    import ts

    folder = archives.make(handler=CLASSIFIER, **parts)
    monkeypatch.syspath_prepend(str(folder))
    metrics = Path(ts.__file__).parent / "configs" / "metrics.yaml"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        worker = TorchModelServiceWorker("tcp", None, "127.0.0.1", 0, str(metrics))
    worker.sock.close()
    load = {"modelPath": str(folder), "modelName": "model", "handler": f"h_{folder.name}.py", "envelope": ""}
    service, message, code = worker.load_model({key: value.encode() for key, value in load.items()} | {"batchSize": 1})
    assert (service, message, code) == (None, "Unknown exception", 500)
    assert text in caplog.text
    assert "Hint: " in caplog.text


def test_an_archive_with_a_copy_of_the_sdk_runs_where_nothing_else_of_ours_is(archives, weights, picture, tmp_path):
    """And there its handlers, too, import no library but torch before they are used."""
    folder = archives.make(model_file=NET, weights=weights, handler=CLASSIFIER)
    shutil.copytree(Path(handlers.__file__).parent, folder / "handlers", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "digit.png").write_bytes(picture())
    script = f"""
        import sys, pathlib
        import handlers
        [getattr(handlers, name) for name in handlers.__all__]
        libraries = {{"torchvision", "PIL", "captum", "safetensors", "onnxruntime", "ts"}} & set(sys.modules)
        assert not libraries, libraries
        from ts.context import Context, RequestProcessor
        from h_{folder.name} import Classifier
        assert pathlib.Path(handlers.__file__).parent.parent == pathlib.Path({str(folder)!r})
        assert not {{"archive_tool", "serving", "model_defs"}} & set(sys.modules)
        manifest = {{"model": {{"modelFile": "net_{folder.name}.py", "serializedFile": "weights.pt"}}}}
        context = Context("model", {str(folder)!r}, manifest, 1, None, "0.12.0", model_yaml_config={{}})
        handler = Classifier()
        handler.initialize(context)
        context.request_processor = [RequestProcessor({{}})]
        print(handler.handle([{{"body": open({str(tmp_path / "digit.png")!r}, "rb").read()}}], context))
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("[{'")
