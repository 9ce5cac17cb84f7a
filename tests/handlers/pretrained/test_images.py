"""What is on images, as `pipeline` says it."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from .conftest import near
from .models import make_segformer, make_vit, make_yolos, picture, png, save

PICTURES = [picture(0), picture(1, (64, 30)), picture(2)]


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return save(tmp_path_factory.mktemp("vit"), *make_vit())


def test_classes_are_those_of_the_pipeline(serve, classes, pipe):
    served = serve(classes)
    expected = pipe("image-classification", classes)(PICTURES)
    assert served.ask(*map(png, PICTURES)).replies == near(expected, 1e-3)
    encoded = base64.b64encode(png(PICTURES[0])).decode()
    for body in ({"inputs": encoded}, {"data": encoded}, {"body": encoded}):
        assert served.one(body) == near(expected[0], 1e-3)
    assert served.one({"inputs": [encoded], "parameters": {"top_k": 1}}) == near([expected[0][:1]], 1e-3)
    answered = served.ask(
        b"no image", png(PICTURES[1]), {"inputs": [[1, 2]]}, {"inputs": encoded, "parameters": {"top_k": 0}}
    )
    assert answered.statuses == [400, 200, 400, 400]


def test_objects_are_those_of_the_pipeline(serve, tmp_path, pipe):
    folder = save(tmp_path / "net", *make_yolos())
    served = serve(folder)
    line = pipe("object-detection", folder)
    expected = [line(one, threshold=0.1) for one in PICTURES]
    assert any(expected)
    images = [base64.b64encode(png(one)).decode() for one in PICTURES]
    requests = [{"inputs": one, "parameters": {"threshold": 0.1}} for one in images]
    assert served.ask(*requests).replies == near(expected, 1e-3)
    assert served.one({"inputs": images[0], "parameters": {"threshold": 1}}) == []


def test_masks_are_those_of_the_pipeline(serve, tmp_path, pipe):
    folder = save(tmp_path / "net", *make_segformer())
    served = serve(folder)
    expected = pipe("image-segmentation", folder)(PICTURES[0])
    found = served.one(png(PICTURES[0]))
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["mask"]))))
        assert mask.shape == (40, 48)
        assert (mask != np.asarray(other["mask"])).mean() < 0.01
        assert one["score"] is None
    encoded = base64.b64encode(png(PICTURES[0])).decode()
    refused = served.ask({"inputs": encoded, "parameters": {"subtask": "panoptic"}}, png(PICTURES[1]))
    assert refused.statuses == [400, 200]
    assert "no subtask panoptic" in refused.replies[0]["message"]
