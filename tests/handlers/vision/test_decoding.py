import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from handlers import BadInputError
from handlers.vision.decoding import convert, decode_image, readable_formats, upright


def png_header(width, height):
    """Return a PNG that promises a size and holds no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_common_formats(picture, form, kind):
    image = decode_image(kind(picture(form=form)))
    assert (image.format, image.size) == (form, (40, 30))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the body is empty"),
        (b"hello, I am a text", r"not an image, it begins with 'hello, I am a text'; PNG, JPEG"),
        (b"\x00\x01\x02", r"begins with '\\x00\\x01\\x02'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
    ],
)
def test_what_is_no_picture(content, reason):
    with pytest.raises(BadInputError, match=reason):
        decode_image(content)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_cut_short(picture, form):
    content = picture(form=form, size=(200, 200))
    with pytest.raises(BadInputError, match="damaged"):
        decode_image(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("width", "height", "shown"),
    [(30_000, 30_000, "900,000,000 pixels"), (10_000, 10_000, "10000 x 10000, 100,000,000 pixels")],
)
def test_too_many_pixels_are_refused_before_they_take_memory(width, height, shown):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadInputError, match=f"too large .{shown}.: the limit is 89,478,485"):
            decode_image(png_header(width, height))


def test_the_limit_is_pils_own(monkeypatch, picture):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadInputError, match=r"40 x 30, 1,200 pixels.: the limit is 1,000"):
        decode_image(picture())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1200)
    decode_image(picture())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    decode_image(picture())
    with pytest.raises(BadInputError, match="damaged"):
        decode_image(png_header(300, 300))


# Whatever bytes a client sends: an image, or an error that says what is wrong; nothing else.
@settings(deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
)
def test_any_damage_gives_a_picture_or_a_reason(form, damage):
    stream = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 30)).save(stream, form)
    content = bytearray(stream.getvalue())
    for place, value in damage:
        content[place % len(content)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PIL's, about odd metadata
        with contextlib.suppress(BadInputError):
            decode_image(content)


def test_sixteen_bits_are_scaled_and_not_clipped():
    image = Image.fromarray(np.array([[0, 128, 32768, 65535]], dtype=np.uint16))
    assert list(convert(image, "L").tobytes()) == [0, 0, 128, 255]
    assert convert(image, "RGB").mode == "RGB"
    assert list(convert(Image.fromarray(np.array([[0, 200]], dtype=np.int32)), "L").tobytes()) == [0, 200]


def of_pixels(values, kind):
    """Return an image as a client's TIFF gives it."""
    stream = io.BytesIO()
    Image.fromarray(np.array([values], dtype=kind)).save(stream, "TIFF")
    return decode_image(stream.getvalue())


@pytest.mark.parametrize(
    ("values", "kind", "mode", "expected"),
    [
        ([0, 0.25, 0.5, 1], np.float32, "F", [0, 64, 128, 255]),
        ([0, 0.25, 127.9, 255], np.float32, "F", [0, 0, 127, 255]),
        ([0, 128, 32768, 65535], np.uint16, "I;16", [0, 0, 128, 255]),
        ([0, 128, 32768, 65535], ">u2", "I;16B", [0, 0, 128, 255]),
        ([0, 128, 32768, 65535], np.int32, "I", [0, 0, 128, 255]),
        ([0, 128, 255, 200], np.int32, "I", [0, 128, 255, 200]),
    ],
)
def test_grey_of_more_bits_is_scaled_to_eight(values, kind, mode, expected):
    image = of_pixels(values, kind)
    assert image.mode == mode
    assert list(convert(image, "L").tobytes()) == expected
    assert list(convert(image, "RGB").tobytes()) == [one for one in expected for _ in range(3)]


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        ([-1, 0.5], np.float32, "32-bit numbers from -1 to 0.5, which does not tell which number is white"),
        ([280.5, 310], np.float32, "from 280.5 to 310"),
        ([0.5, float("nan"), 1], np.float32, "from nan to nan"),
        ([0, float("inf")], np.float32, "from 0 to inf"),
        ([0, 65536], np.int32, "from 0 to 65536"),
        ([-5, 200], np.int32, "from -5 to 200"),
    ],
)
def test_numbers_that_do_not_tell_what_is_white_are_refused(values, kind, reason):
    with pytest.raises(BadInputError, match=reason):
        convert(of_pixels(values, kind), "RGB")


def test_a_mode_as_wide_keeps_the_numbers():
    assert list(np.asarray(convert(of_pixels([1, 65535], np.uint16), "F"))[0]) == [1, 65535]
    assert list(np.asarray(convert(of_pixels([1, 65535], ">u2"), "I"))[0]) == [1, 65535]
    assert list(np.asarray(convert(of_pixels([-1, 300.5], np.float32), "F"))[0]) == [-1, 300.5]


def test_a_mode_that_pil_does_not_convert_is_the_clients_error():
    with pytest.raises(BadInputError, match="the image is La, which is not converted to RGB"):
        convert(Image.new("La", (2, 2)), "RGB")


def test_damaged_exif_data_turns_nothing(monkeypatch, picture):
    image = decode_image(picture())

    def damaged(_):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", damaged)
    assert upright(image) is image


def test_a_mode_that_fits_is_left_alone(picture):
    image = decode_image(picture("L"))
    assert convert(image, "L") is image


def test_formats_that_a_plugin_adds_later_are_read(monkeypatch):
    before = readable_formats()
    assert readable_formats() is before  # the list is made once
    monkeypatch.setitem(Image.OPEN, "MINE", (lambda stream, name: None, None))
    assert readable_formats() == (*before, "MINE")
    monkeypatch.undo()
    assert readable_formats() == before
