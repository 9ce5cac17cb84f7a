"""The example's handlers, ours and TorchServe's own, on one set of weights."""

import io
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from examples.mnist import data
from model_defs.mnist import MNISTNet
from tests.later import Later

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the torchserve package uses what Python deprecates
    from ts.context import Context, RequestProcessor

mnist_handler = Later("examples.mnist.mnist_handler")
mnist_handler_ts = Later("examples.mnist.mnist_handler_ts")
EXAMPLE = Path(data.__file__).parent
SAMPLES = sorted((EXAMPLE / "samples").glob("*.png"))


@pytest.fixture(params=["eager", "scripted"])
def folder(request, tmp_path, monkeypatch):
    """Yield an archive's files, as `train.py` writes them."""
    torch.manual_seed(0)
    model = MNISTNet().eval()
    entry = {"modelName": "mnist", "serializedFile": "mnist_sd.pt", "modelFile": "mnist_model.py"}
    if request.param == "eager":
        torch.save(model.state_dict(), tmp_path / "mnist_sd.pt")
        (tmp_path / "mnist_model.py").write_text((EXAMPLE.parents[1] / "model_defs" / "mnist.py").read_text())
    else:
        torch.jit.script(model).save(str(tmp_path / "mnist_script.pt"))
        entry = {"modelName": "mnist", "serializedFile": "mnist_script.pt"}
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"model": entry}))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("mnist_model", None)


def serve(handler, folder, bodies):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    metrics = SimpleNamespace(add_time=lambda *_: None)
    context = Context("mnist", str(folder), manifest, 8, None, "0.12.0", True, metrics, {})
    handler.initialize(context)
    context.request_processor = [RequestProcessor({}) for _ in bodies]
    output = handler.handle([{"body": body} for body in bodies], context)
    return output, [context.get_response_status(index)[0] for index in range(len(bodies))]


def test_ours_and_the_stock_handler_give_the_same_digits(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    bodies = [bytearray(path.read_bytes()) for path in SAMPLES]
    ours, _ = serve(mnist_handler.MNISTDigitClassifier(), folder, bodies)
    sys.modules.pop("mnist_model", None)
    stock, _ = serve(mnist_handler_ts.MNISTDigitClassifier(), folder, bodies)
    assert ours == stock
    assert all(isinstance(digit, int) for digit in ours)
    assert len(set(ours)) > 1


def test_a_picture_is_read_as_the_training_digits_were(folder):
    handler = mnist_handler.MNISTDigitClassifier()
    label = int(SAMPLES[0].stem[0])
    digits = data.load_digits().test
    first = digits.images[digits.labels == label][0]
    assert torch.allclose(handler.preprocess([{"body": SAMPLES[0].read_bytes()}]), data.normalise(first[None]))


def test_coloured_and_larger_pictures_are_read_too(folder):
    with Image.open(SAMPLES[0]) as image:
        stream = io.BytesIO()
        image.convert("RGBA").resize((280, 280)).save(stream, "PNG")
    output, statuses = serve(mnist_handler.MNISTDigitClassifier(), folder, [stream.getvalue(), b"no picture"])
    assert statuses == [200, 400]
    assert isinstance(output[0], int)


def test_the_stock_handler_is_the_tutorials(folder):
    handler = mnist_handler_ts.MNISTDigitClassifier()
    assert set(handler.profiler_args) == {"activities", "record_shapes"}
