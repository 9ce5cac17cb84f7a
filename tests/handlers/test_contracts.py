"""Our own handlers keep the contract."""

import io
from typing import ClassVar

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from handlers import ImageClassifier, TensorHandler
from handlers.testing import HandlerContract, Request

CLASSIFIER = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 6))
"""
SUMS = """
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return x.sum(dim=1) * 2
"""


def picture(colour, mode="RGB", form="PNG"):
    stream = io.BytesIO()
    Image.new(mode, (30, 20), colour).save(stream, form)
    return stream.getvalue()


@pytest.fixture(scope="class")
def folder(request, tmp_path_factory):
    """Writes what the handlers load."""
    made = tmp_path_factory.mktemp("model")
    (made / "contract_net.py").write_text(CLASSIFIER)
    (made / "contract_sums.py").write_text(SUMS)
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(192, 6)).state_dict(), made / "w.pt")
    request.cls.folder = made


class Classifier(ImageClassifier):
    image_processing = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])
    image_mode = "RGB"
    topk = 6


@pytest.mark.usefixtures("folder")
class TestImageClassifier(HandlerContract):
    handler = Classifier
    manifest: ClassVar = {"model": {"modelName": "m", "modelFile": "contract_net.py", "serializedFile": "w.pt"}}
    good = (picture((250, 0, 0)), picture((0, 0, 250), form="JPEG"), picture(128, "L"))
    bad = (b"no picture", "no base64 either", {"picture": "?"}, [], [[1, 2], [3]], picture((1, 2, 3))[:60])


@pytest.mark.usefixtures("folder")
class TestTensorHandler(HandlerContract):
    handler = TensorHandler
    manifest: ClassVar = {
        "model": {"modelName": "m", "modelFile": "contract_sums.py"},
        "torchmar": {
            "formatVersion": 1,
            "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 3]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [None]}],
        },
    }
    good = (
        {"tensor_input": [[1, 2, 3]]},
        {"tensor_input": [[1, 2, 3], [4, 5, 6]]},
        {"instances": [[0, 0, 1]]},
        Request({"data": b"[[7, 7, 7]]"}),
    )
    bad = (b"no json", "text", {"x": 1, "y": 2}, {"tensor_input": [[1, 2]]}, {"instances": []}, [["a", "b", "c"]], None)
