"""What is drawn of answers."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from serving.frontend.apps.console.shown.drawing import Drawn, cut, drawn, picture_of, shortened, timings


def picture(width: int = 100, height: int = 80) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height)).save(written, "PNG")
    return written.getvalue()


def of(answer: Any, sent: bytes = b"") -> Drawn:
    return drawn(json.dumps(answer).encode(), "application/json", sent)


@pytest.mark.parametrize(
    "answer",
    [
        {"dog": 0.25, "cat": 0.75},
        [{"label": "dog", "score": 0.25}, {"label": "cat", "score": 0.75}],
        {"sequence": "x", "labels": ["dog", "cat"], "scores": [0.25, 0.75]},
    ],
)
def test_classes_are_bars_the_best_first(answer: Any) -> None:
    assert of(answer).bars == (("cat", 0.75), ("dog", 0.25))


@pytest.mark.parametrize(
    "answer", [{"a": 2.0}, {"a": True}, {"a": "x"}, {}, [], 7, [{"label": "a"}], {"labels": [], "scores": []}]
)
def test_what_are_no_classes(answer: Any) -> None:
    assert not of(answer).bars


@pytest.mark.parametrize(
    "answer",
    [
        [{"person": [10.0, 20.0, 40.0, 60.0], "score": 0.9}],
        [{"score": 0.9, "label": "person", "box": {"xmin": 10, "ymin": 20, "xmax": 40, "ymax": 60}}],
    ],
)
def test_boxes_are_drawn_over_the_picture(answer: Any) -> None:
    found = of(answer, picture())
    (box,) = found.boxes
    assert (box.label, box.score, box.left, box.top, box.width, box.height) == ("person", 0.9, 10, 20, 30, 40)
    assert found.picture is not None
    assert (found.picture.width, found.picture.height) == (100, 80)


def test_a_box_without_four_numbers_is_none() -> None:
    assert not of([{"person": [1, 2, 3], "score": 0.9}]).boxes
    assert not of([{"person": [1, 2, 3, None], "score": 0.9}]).boxes
    assert not drawn(b'[{"person": [1, 2, 3, NaN], "score": 0.9}]', "").boxes


def test_a_mask_lies_over_the_picture() -> None:
    rows = [[[0.0, 0.9], [15.0, 0.8]], [[15.0, 0.9], [15.0, 0.8]]]
    mask = of(rows, picture(50, 50)).mask
    assert mask is not None
    assert (mask.left, mask.top, mask.width, mask.height) == (0, 0, 50, 50)
    assert [(label, share) for label, _, share in mask.shares] == [("15", 0.75), ("0", 0.25)]
    with Image.open(io.BytesIO(base64.b64decode(mask.url.partition(",")[2]))) as image:
        assert list(image.get_flattened_data() if hasattr(image, "get_flattened_data") else image.getdata()) == [
            0,
            15,
            15,
            15,
        ]
    # As for ImageNet: the middle of the shorter side.
    middle = of(rows, picture(256, 512)).mask
    assert middle is not None
    assert (middle.left, middle.top, middle.width) == (16.0, 144.0, 224.0)


def mask(*pixels: int) -> str:
    written = io.BytesIO()
    image = Image.new("L", (2, 2))
    image.putdata(pixels)
    image.save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def test_masks_with_labels_lie_over_the_picture() -> None:
    answer = [
        {"score": None, "label": "cat", "mask": mask(255, 0, 0, 0)},
        {"score": 0.9, "label": "sky", "mask": mask(0, 0, 255, 255)},
    ]
    found = of(answer, picture(50, 50)).mask
    assert found is not None
    assert (found.left, found.top, found.width, found.height) == (0, 0, 50, 50)
    assert [(label, share) for label, _, share in found.shares] == [("sky", 0.5), ("cat", 0.25)]
    with Image.open(io.BytesIO(base64.b64decode(found.url.partition(",")[2]))) as image:
        assert image.tobytes() == bytes([1, 0, 2, 2])


@pytest.mark.parametrize("other", [None, 1, "no", base64.b64encode(picture(3, 2)).decode(), "iVBORw0KGgo="])
def test_what_is_no_mask_is_not_drawn(other: Any) -> None:
    assert of([{"label": "a", "mask": mask(0, 0, 0, 0)}, {"label": "b", "mask": other}]).mask is None
    assert of([{"label": "a", "mask": mask(0, 0, 0, 0)}, "b"]).mask is None
    assert of([]).mask is None


def test_long_texts_within_an_answer_say_that_they_are_cut() -> None:
    assert shortened({"mask": "iVBORw0K" * 100})["mask"] == f"{('iVBORw0K' * 8)[:60]}... 740 more characters"
    assert shortened("two words " * 300).endswith("... 1000 more characters")
    assert shortened("a sentence of a few words") == "a sentence of a few words"


def test_what_is_long_is_shortened() -> None:
    found = of([0.123456789] * 384)
    assert found.numbers == 384
    assert json.loads(found.text)[-1] == "... 376 more"
    assert "0.123457" in found.text
    assert len(of("x" * 50_000).text) < 21_000
    assert cut("abc") == "abc"
    assert drawn(bytes(range(256)), "application/octet-stream").text.startswith("256 bytes: 00 01")


def test_deep_answers_end() -> None:
    value: Any = []
    for _ in range(500):
        value = [value]
    assert "..." in json.dumps(shortened(value))


_JSON = some.recursive(
    some.none() | some.booleans() | some.floats() | some.integers() | some.text(max_size=5),
    lambda inner: (
        some.lists(inner, max_size=5)
        | some.dictionaries(some.sampled_from(["label", "score", "box", "a"]), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(_JSON, some.binary(max_size=64))
def test_every_answer_is_drawn_somehow(answer: Any, sent: bytes) -> None:
    assert isinstance(drawn(json.dumps(answer).encode(), "", sent).text, str)
    assert isinstance(drawn(sent, "text/plain", sent).text, str)


def test_what_is_no_picture() -> None:
    assert picture_of(b"") is None
    assert picture_of(b"<svg onload='alert(1)'/>") is None
    assert picture_of(picture()[:30]) is None


def test_server_timing_is_read() -> None:
    assert timings("queue;dur=0.5, worker;dur=2, batch;desc=3") == [
        ("queue", 0.5, ""),
        ("worker", 2.0, ""),
        ("batch", None, "3"),
    ]
    assert timings("") == []
    assert timings("x;dur=y;desc") == [("x", None, "")]
