import base64
import io
import json
import sys

import pytest
import torch
from PIL import Image
from torch import nn

from handlers import BadInputError, ImageClassifier, NotSupportedError
from tests.later import Later

models = Later("torchvision.models")
transforms = Later("torchvision.transforms")
torchserves = Later("ts.torch_handler.image_classifier")

LABELS = {str(index): [f"n{index:08}", f"label {index}"] for index in range(1000)}


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return models.resnet18(num_classes=1000).eval()


@pytest.fixture
def folder(archives, resnet):
    source = """
        from torchvision.models.resnet import BasicBlock, ResNet

        class Net(ResNet):
            def __init__(self):
                super().__init__(BasicBlock, [2, 2, 2, 2])
    """
    return archives.make(model_file=source, weights=resnet.state_dict(), labels=LABELS)


@pytest.fixture
def handler():
    """Return a classifier of three classes, without an archive."""
    made = ImageClassifier()
    made.device = torch.device("cpu")
    torch.manual_seed(0)
    made.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 3)).eval()
    return made


@pytest.mark.parametrize("config", [{"optimize": {"channels_last": False}}, {}])
def test_the_answers_are_the_stocks(folder, make_context, picture, monkeypatch, config):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    ours, stock = ImageClassifier(), type("Stock", (torchserves.ImageClassifier,), {})()
    ours.initialize(make_context(folder, config=config))
    stock.initialize(make_context(folder))
    tensor = transforms.ToTensor()(Image.open(io.BytesIO(picture(size=(224, 224))))).tolist()
    data = [
        {"body": picture(size=(300, 200), seed=1)},
        {"data": bytes(picture(size=(64, 500), form="JPEG", seed=2))},
        {"body": base64.b64encode(picture(size=(256, 256), seed=3)).decode()},
        {"data": tensor},
    ]
    assert torch.equal(ours.preprocess(data), stock.preprocess(data))
    context = make_context(requests=len(data))
    context.metrics = type("Metrics", (), {"add_time": lambda *_: None})()
    found, expected = ours.handle(data, context), stock.handle(data, context)
    # Unless configured otherwise, our handler runs a CNN with the channels last: sums have another order.
    assert found == (expected if config else [pytest.approx(one, rel=1e-4) for one in expected])
    assert list(found[0]) == list(expected[0])
    assert len(found[0]) == 5
    assert next(iter(found[0])).startswith("label ")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA", "1"])
def test_pictures_that_are_not_rgb_are_read_as_rgb(handler, picture, mode):
    content = picture(mode, form="TIFF" if mode == "CMYK" else "PNG")
    found = handler.preprocess([{"body": content}])
    image = Image.open(io.BytesIO(content)).convert("RGB")
    assert torch.equal(found[0], ImageClassifier.image_processing(image))


def test_a_processing_of_ones_own_gets_the_picture_as_decoded(picture):
    class Grey(ImageClassifier):
        image_processing = transforms.Compose([transforms.ToTensor()])

    for handler in (Grey(), ImageClassifier()):
        handler.image_processing = Grey.image_processing
        assert handler.preprocess([{"body": picture("L")}]).shape == (1, 1, 30, 40)
        assert handler.preprocess([{"body": picture("RGBA")}]).shape == (1, 4, 30, 40)
    assert Grey().preprocess([{"body": picture("L")}]).shape == (1, 1, 30, 40)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_mode_is_forced(picture, mode, channels):
    class Forced(ImageClassifier):
        image_mode = mode
        image_processing = transforms.ToTensor()

    assert Forced().preprocess([{"body": picture("RGBA")}]).shape == (1, channels, 30, 40)


def test_the_default_processing_is_one_object():
    class Sub(ImageClassifier):
        pass

    assert ImageClassifier.image_processing is ImageClassifier.image_processing
    assert Sub().image_processing is ImageClassifier.image_processing
    assert isinstance(Sub.image_processing, transforms.Compose)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "has no body"),
        (b"", "has no body"),
        (b"just a text file\n", "not an image and no base64 of one, it begins with 'just a text file"),
        ("just a text file\n", "no base64 of one, it begins with 'just a text file"),
        (base64.b64encode(b"no picture").decode(), "base64 of no image but of bytes that begin with"),
        ("hello", "no base64"),
        ({"instances": []}, "JSON without data, it has 'instances'"),
        (5, "the body is a number"),
        ([], "the list is empty"),
        ([["a"]], r"element \[0\]\[0\] is the text 'a'"),
    ],
)
def test_what_is_wrong_is_named(handler, body, reason):
    with pytest.raises(BadInputError, match=reason):
        handler.preprocess([{"body": body}])


def test_pictures_of_different_sizes_are_answered_apart(handler, make_context, picture):
    handler.image_processing = transforms.ToTensor()
    handler.model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    context = make_context(requests=3)
    output = handler.handle(
        [{"body": picture(size=(10, 10))}, {"body": picture(size=(20, 20))}, {"body": b"no picture"}], context
    )
    assert [context.get_response_status(index)[0] for index in range(3)] == [200, 200, 400]
    assert all(len(output[index]) == 3 for index in range(2))


def test_fewer_classes_than_topk(handler):
    (answer,) = handler.postprocess(torch.tensor([[1.0, 3.0, 2.0]]))
    assert list(answer) == ["1", "2", "0"]
    assert sum(answer.values()) == pytest.approx(1)
    handler.set_max_result_classes(1)
    assert handler.get_max_result_classes() == 1
    handler.mapping = {"1": "one"}
    assert list(handler.postprocess(torch.tensor([[1.0, 3.0, 2.0]]))[0]) == ["one"]


@pytest.mark.parametrize(("limit", "lifted"), [(True, False), (False, True), (None, False)])
def test_pils_limit_is_lifted_only_if_the_server_says_so(folder, make_context, monkeypatch, limit, lifted):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    context = make_context(folder)
    if limit is None:
        del context.system_properties["limit_max_image_pixels"]
    else:
        context.system_properties["limit_max_image_pixels"] = limit
    ImageClassifier().initialize(context)
    assert (Image.MAX_IMAGE_PIXELS is None) is lifted


def test_explanations(handler, make_context, picture):
    context = make_context(requests=2, headers={0: {"explain": "True"}, 1: {"explain": "True"}})
    handler.image_processing = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor()])
    data = [{"body": picture()}, {"body": picture(), "target": bytearray(b"2")}]
    output = handler.handle(data, context)
    inputs = handler.preprocess(data)
    for item, image, target in zip(output, inputs, (0, 2), strict=True):
        found = torch.tensor(item)
        assert found.shape == (3, 224, 224)
        # The model is linear, so the attribution is the input times the weight.
        expected = image * handler.model[1].weight[target].detach().reshape(3, 224, 224)
        assert torch.allclose(found, expected, atol=1e-4)
    json.dumps(output)


@pytest.mark.parametrize("target", ["cat", b"1.5", None])
def test_a_target_that_is_no_class(handler, target):
    with pytest.raises(BadInputError, match="not the index of a class"):
        handler.get_insights(torch.ones(1, 3), None, target)


def test_explanations_without_captum(handler, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(NotSupportedError, match="captum"):
        handler.get_insights(torch.ones(1, 3, 224, 224), None, 0)
