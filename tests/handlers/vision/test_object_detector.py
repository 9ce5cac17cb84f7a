import json
import sys
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from handlers import NotSupportedError, ObjectDetector
from tests.later import Later

detection = Later("torchvision.models.detection")
torchserves = Later("ts.torch_handler.object_detector")

NET = """
    from torch import nn
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = ssdlite320_mobilenet_v3_large(
                weights=None, weights_backbone=None, num_classes=4, detections_per_img=200
            )
        def forward(self, pictures): return self.net(pictures)
"""
LABELS = {"1": "cat", "2": "dog", "3": "bird"}


class Quadrants(nn.Module):
    """A model that finds the quarters of an image, as torchvision's do: the score is how bright a quarter is."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, ...]] = []

    def forward(self, pictures: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        self.batches.append(tuple(pictures.shape))
        found = []
        for picture in pictures:
            height, width = picture.shape[1] // 2, picture.shape[2] // 2
            places = [(x, y) for y in (0, height) for x in (0, width)]
            scores = torch.stack([picture[:, y : y + height, x : x + width].mean() for x, y in places])
            order = scores.argsort(descending=True)
            boxes = torch.tensor([[x, y, x + width, y + height] for x, y in places], dtype=torch.float32)
            found.append({"boxes": boxes[order], "labels": order + 1, "scores": scores[order]})
        return found


class Scripted(nn.Module):
    """A model with the signature that torchvision's models have as TorchScript."""

    def forward(
        self, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]] | None = None
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
        losses: dict[str, torch.Tensor] = {}
        found: list[dict[str, torch.Tensor]] = []
        for image in images:
            box = torch.tensor([[0.0, 0.0, float(image.shape[2]), float(image.shape[1])]])
            found.append({"boxes": box, "labels": torch.tensor([1]), "scores": image.max().reshape(1)})
        return losses, found


@pytest.fixture
def handler():
    made = ObjectDetector()
    made.device = torch.device("cpu")
    made.model = Quadrants()
    return made


def ask(handler: Any, context: Any, *bodies: Any) -> list[Any]:
    context.metrics = type("Metrics", (), {"add_time": lambda *_: None})()
    return handler.handle([{"body": body} for body in bodies], context)


def corner(size=(40, 30), quarter=3):
    """Return a black image with one white quarter."""
    width, height = size[0] // 2, size[1] // 2
    image = Image.new("RGB", (2 * width, 2 * height))
    image.paste((255, 255, 255), (quarter % 2 * width, quarter // 2 * height, *_end(quarter, width, height)))
    import io

    stream = io.BytesIO()
    image.save(stream, "PNG")
    return bytearray(stream.getvalue())


def _end(quarter, width, height):
    return (quarter % 2 + 1) * width, (quarter // 2 + 1) * height


@pytest.mark.slow  # a large model, twice
def test_the_answers_of_torchvisions_model_are_the_stocks(archives, make_context, picture, monkeypatch):
    torch.manual_seed(0)
    ssd = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4, detections_per_img=200
    )
    ssd.eval()
    for module in ssd.head.classification_head.module_list:
        nn.init.normal_(module[1].bias)  # else all scores are equal
    weights = {f"net.{name}": tensor for name, tensor in ssd.state_dict().items()}
    folder = archives.make(model_file=NET, weights=weights, labels=LABELS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    ours, stock = ObjectDetector(), type("Stock", (torchserves.ObjectDetector,), {})()
    ours.initialize(make_context(folder))
    stock.initialize(make_context(folder))
    bodies = [picture(size=(64, 48), seed=1), bytes(picture(size=(64, 48), form="JPEG", seed=2))]
    with torch.inference_mode():
        direct = ssd(ours.preprocess([{"body": body} for body in bodies]))
    ours.threshold = stock.threshold = torch.cat([one["scores"] for one in direct]).median().item()
    found, expected = (ask(one, make_context(requests=2), *bodies) for one in (ours, stock))
    assert found == expected
    assert [len(item) for item in found] == [int((one["scores"] >= ours.threshold).sum()) for one in direct]
    assert 0 < len(found[0]) < 200
    assert {*found[0][0]} & {*LABELS.values()}
    assert len(next(iter(found[0][0].values()))) == 4
    json.dumps(found)


def test_the_example_of_the_documentation(handler, make_context):
    handler.mapping = {"1": "top left", "4": "bottom right"}
    (item,) = ask(handler, make_context(requests=1), corner())
    assert item == [{"bottom right": [20.0, 15.0, 40.0, 30.0], "score": 1.0}]


def test_the_threshold(handler, make_context, picture):
    class Bright(ObjectDetector):
        threshold = 0.0

    low, high = Bright(), handler
    low.device, low.model = torch.device("cpu"), Quadrants()
    assert [round(one["score"]) for one in ask(low, make_context(requests=1), corner())[0]] == [1, 0, 0, 0]
    assert ObjectDetector.threshold == 0.5
    high.threshold = 1.0
    assert len(ask(high, make_context(requests=1), corner())[0]) == 1  # a score that equals it counts
    high.threshold = 1.1
    assert ask(high, make_context(requests=1), corner()) == [[]]


def test_a_class_without_a_label_goes_by_its_index(handler, make_context):
    assert [*ask(handler, make_context(requests=1), corner(quarter=2))[0][0]] == ["3", "score"]


def test_pictures_of_several_sizes_in_one_batch(handler, make_context):
    """Those of one size run together; the answers are in order, and those that each would have alone."""
    bodies = [corner((40, 30), 0), corner((20, 20), 1), b"no picture", corner((40, 30), 2)]
    context = make_context(requests=4)
    output = ask(handler, context, *bodies)
    assert [context.get_response_status(index)[0] for index in range(4)] == [200, 200, 400, 200]
    assert handler.model.batches == [(2, 3, 30, 40), (1, 3, 20, 20)]
    for index in (0, 1, 3):
        assert output[index] == ask(handler, make_context(requests=1), bodies[index])[0]
    assert [next(iter(output[index][0])) for index in (0, 1, 3)] == ["1", "2", "3"]


def test_pictures_of_one_size_run_together(handler, make_context):
    ask(handler, make_context(requests=3), corner(), corner(), corner())
    assert handler.model.batches == [(3, 3, 30, 40)]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_modes_become_rgb(handler, make_context, picture, mode):
    ask(handler, make_context(requests=1), picture(mode))
    assert handler.model.batches == [(1, 3, 30, 40)]


def test_torchvisions_models_as_torchscript(archives, make_context):
    """They take lists alone, and give the losses of training, too."""
    handler = ObjectDetector()
    handler.initialize(make_context(archives.make(weights=torch.jit.script(Scripted()), labels=LABELS)))
    first, second = ask(handler, make_context(requests=2), corner((40, 30)), corner((20, 20)))
    assert first == [{"cat": [0.0, 0.0, 40.0, 30.0], "score": 1.0}]
    assert second == [{"cat": [0.0, 0.0, 20.0, 20.0], "score": 1.0}]


def test_any_model_as_torchscript_that_gives_the_list_alone(archives, make_context):
    class Alone(Scripted):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            return [{"boxes": torch.zeros(1, 4), "labels": torch.tensor([2]), "scores": torch.ones(1)} for _ in images]

    handler = ObjectDetector()
    handler.initialize(make_context(archives.make(weights=torch.jit.script(Alone()), labels=LABELS)))
    assert ask(handler, make_context(requests=1), corner()) == [[{"dog": [0.0] * 4, "score": 1.0}]]


def test_detections_are_not_explained(handler, make_context):
    context = make_context(requests=1, headers={0: {"explain": "True"}})
    (item,) = ask(handler, context, corner())
    assert (item["code"], item["type"]) == (501, NotSupportedError.__name__)
