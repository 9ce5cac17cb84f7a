"""The common part of the image handlers; the images themselves are in test_image_classifier.py and test_decoding.py."""

import io

import pytest
import torch
from PIL import Image
from torch import nn

from handlers import ImageClassifier, LoadError, ObjectDetector, VisionHandler
from tests.later import Later

transforms = Later("torchvision.transforms")


class Brightness(VisionHandler):
    """A model that returns the mean of each image."""

    def inference(self, data):
        return data.mean(dim=(1, 2, 3))

    def postprocess_one(self, output, context):
        return {"mean": round(output.item(), 4)}


def test_a_handler_of_ones_own(make_context, picture):
    context = make_context(requests=3)
    data = [{"body": picture(seed=1)}, {"body": b"text"}, {"data": picture(seed=2)}]
    first, second, third = Brightness().handle(data, context)
    for item, row in ((first, data[0]), (third, data[2])):
        image = transforms.ToTensor()(Image.open(io.BytesIO(next(iter(row.values())))))
        assert item == {"mean": round(image.mean().item(), 4)}
    assert second["code"] == 400


def test_the_default_is_the_whole_picture_as_rgb(picture):
    (tensor,) = VisionHandler().preprocess([{"body": picture("RGBA")}])
    expected = Image.open(io.BytesIO(picture("RGBA"))).convert("RGB")
    assert torch.equal(tensor, transforms.ToTensor()(expected))
    assert VisionHandler.image_processing is ObjectDetector.image_processing is not ImageClassifier.image_processing


def test_explanations_of_a_model_that_gives_a_number_for_each_class(make_context, picture):
    handler = VisionHandler()
    handler.device = torch.device("cpu")
    handler.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 30 * 40, 2)).eval()
    context = make_context(requests=1, headers={0: {"explain": "True"}})
    (item,) = handler.handle([{"body": picture(), "target": bytearray(b"1")}], context)
    expected = handler.preprocess([{"body": picture()}])[0] * handler.model[1].weight[1].detach().reshape(3, 30, 40)
    assert torch.allclose(torch.tensor(item), expected, atol=1e-4)


@pytest.mark.parametrize("value", [None, True])
def test_batches_may_overlap_but_for_a_processing_that_is_a_method(value):
    class Method(VisionHandler):
        def image_processing(self, image):
            self.size = image.size
            return transforms.ToTensor()(image)

    assert VisionHandler().may_pipeline(value)
    assert Method().may_pipeline(value) is (value is True)


def turned(picture, orientation, form="JPEG"):
    """Return a photograph with the orientation of EXIF; 6 is turned by a quarter."""
    image = Image.open(io.BytesIO(picture(size=(40, 30))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, form, exif=exif)
    return stream.getvalue()


class Upright(VisionHandler):
    apply_exif_orientation = True


def test_the_orientation_of_exif_counts_only_where_it_is_asked_for(archives, make_context, picture):
    content = turned(picture, 6)
    stored = VisionHandler().preprocess([{"body": content}])
    assert stored.shape == (1, 3, 30, 40)  # as on TorchServe
    assert torch.equal(Upright().preprocess([{"body": content}]), stored.rot90(-1, (2, 3)))
    assert torch.equal(Upright().preprocess([{"body": turned(picture, 1)}]), stored)
    assert Upright().preprocess([{"body": picture()}]).shape == (1, 3, 30, 40)  # no EXIF at all
    own = Upright()
    own.image_processing = lambda image: transforms.ToTensor()(image)
    assert own.preprocess([{"body": content}]).shape == (1, 3, 40, 30)

    model = "from torch import nn\n\n\nclass Net(nn.Identity):\n    pass\n"
    for given, shape in ((True, (1, 3, 40, 30)), (False, (1, 3, 30, 40))):
        config = {"handler": {"apply_exif_orientation": given}}
        handler = Upright()
        handler.initialize(make_context(archives.make(model_file=model, config=config), config=config))
        assert handler.preprocess([{"body": content}]).shape == shape
    config = {"handler": {"apply_exif_orientation": "yes"}}
    with pytest.raises(LoadError, match=r"handler\.apply_exif_orientation in model-config.yaml is 'yes'"):
        Upright().initialize(make_context(archives.make(model_file=model, config=config), config=config))
