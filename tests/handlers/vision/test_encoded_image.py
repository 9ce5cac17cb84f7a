"""Images as text, and what the errors say of a body that holds none."""

import base64
import json
import urllib.parse

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from handlers import BadInputError, ImageClassifier, ImageSegmenter, ObjectDetector, VisionHandler
from handlers.vision.encoded_image import read_image


@pytest.fixture(params=["PNG", "JPEG"])
def content(request, picture):
    return bytes(picture(form=request.param))


def encoded(content):
    return base64.b64encode(content).decode()


FORMS = {
    "text": encoded,
    "text in bytes": lambda content: bytearray(base64.b64encode(content)),
    "lines": lambda content: base64.encodebytes(content).decode().replace("\n", "\r\n"),
    "quotes": lambda content: f"'{encoded(content)}'\n",
    "JSON text": lambda content: json.dumps(encoded(content)).replace("/", "\\/"),
    "data URL": lambda content: f"data:image/png;base64,{encoded(content)}",
    "charset": lambda content: f"data:image/png;charset=utf-8;base64,{encoded(content)}",
    "parameters": lambda content: f'DATA:image/png;name="a,b;c.png";Base64, {encoded(content)}',
    "no type": lambda content: f"data:;base64,{encoded(content)}",
    "escaped URL": lambda content: f"data:image/png;base64,{urllib.parse.quote(encoded(content), safe='')}",
    "JSON": lambda content: {"data": encoded(content)},
    "JSON body": lambda content: {"body": encoded(content), "target": 1},
    "JSON data URL": lambda content: {"data": f"data:image/jpeg;charset=utf-8;base64,{encoded(content)}"},
    "JSON in bytes": lambda content: bytearray(json.dumps({"data": encoded(content)}).encode()),
    "JSON in a text": lambda content: json.dumps({"data": encoded(content)}, indent=2),
}


@pytest.mark.parametrize("handler", [ImageClassifier, ObjectDetector, ImageSegmenter, VisionHandler])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("field", ["body", "data"])
def test_every_handler_takes_every_form(handler, form, field, picture):
    content = bytes(picture(form="PNG"))
    made = handler()
    made.device = torch.device("cpu")
    assert torch.equal(made.preprocess([{field: FORMS[form](content)}]), made.preprocess([{"body": content}]))


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_an_image(form, content):
    assert read_image(FORMS[form](content)).size == (40, 30)


def test_numbers_in_place_of_an_image():
    assert read_image([[1, 2]]) == read_image({"data": [[1, 2]]}) == read_image(bytearray(b" [[1, 2]]")) == [[1, 2]]


def test_a_plus_that_a_form_made_a_blank_is_one_again(make_context, content):
    assert b"+" in base64.b64encode(content)
    value = bytearray(base64.b64encode(content).replace(b"+", b" "))
    handler = VisionHandler()
    form = make_context(requests=1, headers={0: {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}})
    handler.context = form
    assert torch.equal(handler.preprocess([{"data": value}]), VisionHandler().preprocess([{"body": content}]))
    with pytest.raises(BadInputError, match=r"is damaged or cut short"):
        VisionHandler().preprocess([{"data": value}])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<!DOCTYPE html>\n<html></html>", "not an image, it looks like an HTML page|looks like an HTML page"),
        ("<html><body>504</body></html>", "the body looks like an HTML page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing, which is not read"),
        ({"image": "iVBORw0KGgo="}, "the body is JSON without data, it has 'image': send an image"),
        (b'{"instances": [1], "b": 2}', "JSON without data, it has 'instances', 'b'"),
        ({}, "JSON without data, it has no keys"),
        ({"data": ""}, "'data' of the JSON is empty"),
        ({"data": {"b64": "eA=="}}, "'data' of the JSON is an object"),
        ({"data": 5}, "the body is a number: send an image"),
        (b'{"data": "iVBOR', "looks like JSON that cannot be read"),
        ("https://example.com/cat.png", "looks like a URL, which is not fetched"),
        ("/data/pets/cat.png\n", "a path or a name of a file, which is not opened: send its bytes"),
        (b"@cat.jpg", "a path or a name of a file"),
        (r"C:\pets\my cat.JPG", "a path or a name of a file"),
        ("/data/pets", "a path or a name of a file"),
        (encoded(b"%PDF-1.7\n..."), "the body is base64 of no image but of a PDF document"),
        (encoded(b"<html></html>"), "base64 of no image but of an HTML page"),
        (
            encoded(b"some text, long enough"),
            "base64 of no image but of bytes that begin with 'some text, long enough'",
        ),
        ("data:text/plain;charset=utf-8;base64," + encoded(b"hello"), "base64 of no image but of bytes that begin"),
        ("data:image/png,%89PNG", "a data URL that is not base64"),
        (f"b'{encoded(b'x' * 20)}'", r"what Python prints of bytes, b'...': decode\(\) base64 to a text"),
        (b"%PDF-1.7\n%\xe2\xe3", "not an image, it looks like a PDF document"),
        (b"PK\x03\x04\xff", "not an image, it looks like a zip file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "looks like a HEIC image, which is not read here"),
        (b"\0\x01\xff", r"not an image, it begins with '\\x00\\x01\\xff'; PNG, JPEG"),
        ("--frontier\r\nContent-Disposition: form-data", "a multipart form without its Content-Type and boundary"),
        ("four of five words", "not an image and no base64 of one, it begins with 'four of five words'; PNG, JPEG"),
        ("\u00fcn\u00efcode", "no base64"),
        (True, "the body is true or false"),
        (5.5, "the body is a number"),
    ],
)
def test_an_error_says_what_the_body_looks_like(body, reason):
    with pytest.raises(BadInputError, match=reason):
        read_image(body)


def test_base64_that_was_cut_or_damaged_is_not_decoded_as_far_as_it_goes(content):
    text = encoded(content)
    for damaged in (text[:-1], text[:101], text[:50] + "*" + text[51:], text + "=="):
        with pytest.raises(BadInputError, match=r"a (PNG|JPEG) image in base64 that is damaged or cut short"):
            read_image(damaged)
    with pytest.raises(BadInputError, match=r"the body is base64, and the .* image is damaged or cut short"):
        read_image(text[: len(text) // 8 * 4])


def test_the_bound_of_pixels_holds_for_base64_too(monkeypatch, content):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadInputError, match="the limit is 1,000"):
        read_image({"data": encoded(content)})


# Whatever a client sends: an image, a list, or an error that says what is wrong; nothing else.
@settings(deadline=None)
@given(
    st.one_of(
        st.binary(),
        st.text(),
        st.binary().map(encoded),
        st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda one: st.dictionaries(st.text(), one)),
        st.text().map(lambda text: {"data": text}),
        st.tuples(st.sampled_from(["data:", "data:;base64,", '{"data":', "b'", "@", "/", "<", "--"]), st.text()).map(
            "".join
        ),
    )
)
def test_any_body_gives_an_image_a_list_or_a_reason(body):
    try:
        found = read_image(body)
    except BadInputError:
        return
    assert isinstance(found, list | Image.Image)
