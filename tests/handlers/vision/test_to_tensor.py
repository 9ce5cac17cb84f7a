"""The end of a processing for a whole batch gives what torchvision gives for each image."""

import io
from functools import cache

import pytest
import torch
from PIL import Image

from handlers import ImageClassifier, VisionHandler
from handlers.vision.to_tensor import ending_of
from tests.later import Later

transforms = Later("torchvision.transforms")


@cache
def usual():
    return transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@cache
def grey():
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])


def handler_with(processing, mode=None, base=VisionHandler):
    handler = base()
    handler.device = torch.device("cpu")
    handler.image_processing, handler.image_mode = processing, mode
    return handler


def one_by_one(processing, contents, mode):
    opened = [Image.open(io.BytesIO(content)) for content in contents]
    return torch.stack([processing(image.convert(mode) if mode else image) for image in opened])


@pytest.fixture
def calls(monkeypatch):
    """Count the calls of Normalize and ToTensor."""
    counts = {"Normalize": 0, "ToTensor": 0}

    def count(kind, method):
        before = getattr(kind, method)

        def counted(self, value):
            counts[kind.__name__] += 1
            return before(self, value)

        monkeypatch.setattr(kind, method, counted)

    count(transforms.Normalize, "forward")
    count(transforms.ToTensor, "__call__")
    return counts


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (lambda: transforms.Compose([transforms.Resize((20, 30)), transforms.ToTensor(), usual()]), "RGB"),
        (lambda: transforms.Compose([transforms.CenterCrop(17), transforms.ToTensor()]), None),
        (lambda: transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.25)]), "RGB"),
        (lambda: transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], (1, 2, 3))]), "RGB"),
        (lambda: transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.1, 0.2, 0.3], [0.4])]), "RGB"),
        (grey, "L"),
    ],
)
def test_the_numbers_are_those_of_torchvision(picture, calls, make, mode, count):
    processing = make()
    contents = [picture(seed=seed) for seed in range(count)]
    expected = one_by_one(processing, contents, mode)
    calls.update(Normalize=0, ToTensor=0)
    found = handler_with(processing, mode).preprocess([{"body": content} for content in contents])
    assert torch.equal(found, expected)
    assert found.is_contiguous()
    assert found.dtype == expected.dtype
    assert calls["ToTensor"] == 0
    assert calls["Normalize"] <= 1
    if make is grey:
        assert calls["Normalize"] == 0


def test_more_pictures_than_are_computed_at_once(picture, calls):
    """The numbers of each, whether Normalize is ours or torchvision's; here 11 images at a time."""
    for last in (usual(), transforms.Normalize([0.5], (1, 2, 3))):
        processing = transforms.Compose([transforms.Resize((88, 90)), transforms.ToTensor(), last])
        contents = [picture(seed=seed) for seed in range(13)]
        expected = one_by_one(processing, contents, "RGB")
        calls.update(Normalize=0, ToTensor=0)
        found = handler_with(processing, "RGB").preprocess([{"body": content} for content in contents])
        assert torch.equal(found, expected)
        assert calls == {"Normalize": 0 if last is usual() else 2, "ToTensor": 0}


def test_a_picture_that_is_larger_than_what_is_computed_at_once(picture):
    processing = transforms.Compose([transforms.Resize((300, 310)), transforms.ToTensor(), usual()])
    contents = [picture(seed=seed) for seed in range(2)]
    found = handler_with(processing, "RGB").preprocess([{"body": content} for content in contents])
    assert torch.equal(found, one_by_one(processing, contents, "RGB"))


def test_the_default_of_the_classifier(picture):
    contents = [picture(seed=seed) for seed in range(2)]
    found = ImageClassifier().preprocess([{"body": content} for content in contents])
    assert torch.equal(found, one_by_one(ImageClassifier.image_processing, contents, "RGB"))


@pytest.mark.parametrize("mode", ["1", "I", "F", "RGBA", "CMYK", "P", "LA"])
def test_pictures_of_other_modes_go_through_torchvision(picture, calls, mode):
    processing = transforms.Compose([transforms.ToTensor()])
    handler = handler_with(processing, mode)
    image = Image.open(io.BytesIO(picture()))
    expected = processing(image.convert(mode))
    calls.update(ToTensor=0)
    assert torch.equal(handler.preprocess([{"body": picture()}])[0], expected)
    assert calls["ToTensor"] == 1


def test_the_dtype_is_torchs_default(picture):
    torch.set_default_dtype(torch.float64)
    try:
        found = handler_with(grey(), "L").preprocess([{"body": picture()}])
        assert torch.equal(found, one_by_one(grey(), [picture()], "L"))
        assert found.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_numbers_beside_pictures(picture):
    handler = handler_with(grey(), "L")
    width, height = Image.open(io.BytesIO(picture())).size
    numbers = torch.arange(width * height, dtype=torch.float32).reshape(1, height, width)
    found = handler.preprocess([{"body": picture()}, {"body": numbers.tolist()}])
    assert torch.equal(found[0], one_by_one(grey(), [picture()], "L")[0])
    assert torch.equal(found[1], numbers)


def test_pictures_of_different_sizes_are_answered_each(picture, make_context):
    class Mean(VisionHandler):
        image_processing = grey()
        image_mode = "L"

        def inference(self, data):
            return data.mean(dim=(1, 2, 3))

    small = io.BytesIO()
    Image.new("L", (3, 5), 7).save(small, "PNG")
    contents = [picture(), small.getvalue()]
    found = Mean().handle([{"body": content} for content in contents], make_context(requests=2))
    assert found == pytest.approx([grey()(Image.open(io.BytesIO(one)).convert("L")).mean().item() for one in contents])


def test_a_picture_that_is_none_fails_alone(picture, make_context):
    class Mean(VisionHandler):
        image_processing = grey()
        image_mode = "L"

        def inference(self, data):
            return data.mean(dim=(1, 2, 3))

    rows = [{"body": picture()}, {"body": b"no picture"}, {"body": b""}, {"body": picture(seed=1)}]
    found = Mean().handle(rows, make_context(requests=4))
    assert [item["code"] if isinstance(item, dict) else 200 for item in found] == [200, 400, 400, 200]
    assert found[2]["message"] == "the request has no body: send an image"


def test_what_torchvision_refuses_is_refused(picture):
    for mean, deviation, message in [([0.5], [0.0], "zero"), ([0.1, 0.2], [0.5], "shape")]:
        processing = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, deviation)])
        with pytest.raises((ValueError, RuntimeError), match=message):
            handler_with(processing, "L").preprocess([{"body": picture()}])


@pytest.mark.parametrize("hook", ["preprocess_one", "_process", "collate"])
def test_a_hook_of_ones_own_gets_and_gives_whole_tensors(picture, calls, hook):
    seen = []

    def own(self, *args):
        result = getattr(VisionHandler, hook)(self, *args)
        seen.append(result)
        return result

    handler = type("Own", (VisionHandler,), {hook: own})()
    handler.device, handler.image_processing, handler.image_mode = torch.device("cpu"), grey(), "L"
    found = handler.preprocess([{"body": picture(seed=seed)} for seed in range(2)])
    assert torch.equal(found, one_by_one(grey(), [picture(seed=seed) for seed in range(2)], "L"))
    assert all(isinstance(one, torch.Tensor) for one in seen)
    assert seen


@pytest.mark.parametrize(
    "make",
    [
        lambda: transforms.ToTensor(),
        lambda: lambda image: transforms.ToTensor()(image),
        lambda: transforms.Compose([transforms.PILToTensor()]),
        lambda: transforms.Compose([usual()]),
        lambda: transforms.Compose([transforms.ToTensor(), usual(), usual()]),
        lambda: transforms.Compose([transforms.ToTensor(), transforms.RandomErasing()]),
        lambda: transforms.Compose([transforms.ToTensor(), type("Mine", (transforms.Normalize,), {})(0.5, 0.5)]),
        lambda: transforms.Compose([type("Mine", (transforms.ToTensor,), {})()]),
        lambda: type("Mine", (transforms.Compose,), {})([transforms.ToTensor()]),
        lambda: transforms.Compose([]),
    ],
)
def test_another_processing_stays_whole(make):
    assert ending_of(make()) is None


def test_the_steps_are_those_of_now(picture):
    processing = transforms.Compose([transforms.ToTensor()])
    handler = handler_with(processing, "RGB")
    handler.preprocess([{"body": picture()}])
    processing.transforms.append(usual())
    assert torch.equal(handler.preprocess([{"body": picture()}]), one_by_one(processing, [picture()], "RGB"))
