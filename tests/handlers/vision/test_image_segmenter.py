import io
import json
import sys

import pytest
import torch
from PIL import Image

from handlers import ImageClassifier, ImageSegmenter
from tests.later import Later

segmentation = Later("torchvision.models.segmentation")
transforms = Later("torchvision.transforms")
torchserves = Later("ts.torch_handler.image_segmenter")

NET = """
    from torch import nn
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
        def forward(self, pictures): return self.net(pictures)
"""


@pytest.fixture
def handler():
    """Return a handler of two classes of pixels: dark and bright ones."""
    made = ImageSegmenter()
    made.device = torch.device("cpu")
    made.image_processing = transforms.ToTensor()

    def model(pictures):
        grey = pictures.mean(dim=1)
        return {"out": torch.stack([1 - grey, grey], dim=1)}

    made.model = model
    return made


def png(*rows):
    image = Image.new("RGB", (len(rows[0]), len(rows)))
    image.putdata([(value, value, value) for row in rows for value in row])
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return bytearray(stream.getvalue())


def test_the_answers_of_torchvisions_model_are_the_stocks(archives, make_context, picture, monkeypatch):
    torch.manual_seed(0)
    net = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    folder = archives.make(model_file=NET, weights=weights)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    found = []
    plainly = {"optimize": {"channels_last": False}}
    for handler in (ImageSegmenter(), type("Stock", (torchserves.ImageSegmenter,), {})()):
        handler.initialize(make_context(folder, config=plainly))
        context = make_context(requests=2)
        context.metrics = type("Metrics", (), {"add_time": lambda *_: None})()
        data = [{"body": picture(size=(300, 260), seed=1)}, {"data": bytes(picture(size=(256, 400), seed=2))}]
        found.append(handler.handle(data, context))
    ours, stock = found
    assert ours == stock
    assert torch.tensor(ours).shape == (2, 224, 224, 2)
    json.dumps(ours[0])


def test_the_example_of_the_documentation(handler, make_context):
    context = make_context(requests=1)
    (rows,) = handler.handle([{"body": png((0, 255), (0, 0))}], context)
    sure = torch.softmax(torch.tensor([0.0, 1.0]), dim=0)[1].item()
    dark, bright = [0.0, sure], [1.0, sure]
    assert torch.allclose(torch.tensor(rows), torch.tensor([[dark, bright], [dark, dark]]))
    assert isinstance(rows[0][0][0], float)


def test_a_model_that_gives_the_tensor_alone(handler, make_context):
    inner = handler.model
    expected = handler.handle([{"body": png((0, 255))}], make_context(requests=1))
    handler.model = lambda pictures: inner(pictures)["out"]
    assert handler.handle([{"body": png((0, 255))}], make_context(requests=1)) == expected


def test_a_bad_picture_fails_alone(handler, make_context):
    context = make_context(requests=3)
    first, second, third = handler.handle([{"body": png((0,))}, {"body": b"text"}, {"body": png((255,))}], context)
    assert [context.get_response_status(index)[0] for index in range(3)] == [200, 400, 200]
    assert (first[0][0][0], third[0][0][0]) == (0.0, 1.0)
    assert second["type"] == "BadInputError"


def test_the_processing_is_that_of_the_classifier():
    assert ImageSegmenter.image_processing is ImageClassifier.image_processing


def test_segments_are_not_explained(handler, make_context):
    context = make_context(requests=1, headers={0: {"explain": "True"}})
    (item,) = handler.handle([{"body": png((0,))}], context)
    assert item["code"] == 501
