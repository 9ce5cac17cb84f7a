import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from handlers.vision import imagenet
from handlers.vision.imagenet import fit, make_processing
from handlers.vision.to_tensor import ending_of
from tests.later import Later

transforms = Later("torchvision.transforms")

SIZES = [
    (256, 256),
    (224, 224),
    (257, 255),
    (1, 1),
    (3, 400),
    (400, 3),
    (256, 600),
    (600, 256),
    (300, 256),
    (225, 1000),
    (1001, 667),
    (640, 427),
    (427, 640),
]


def photograph(size, mode="RGB"):
    generator = torch.Generator().manual_seed(sum(size))
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = torch.randint(
        0, 256, (size[1] // 3 + 1, size[0] // 3 + 1, channels), generator=generator, dtype=torch.uint8
    )
    small = Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.numpy().tobytes())
    return small.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def torchvisions():
    return transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )


@pytest.fixture(scope="module")
def processing():
    return make_processing(transforms)


@pytest.mark.parametrize("size", SIZES)
def test_the_numbers_are_torchvisions(processing, torchvisions, size):
    picture = photograph(size)
    found, expected = processing(picture), torchvisions(picture)
    assert torch.equal(found, expected)
    assert (found.dtype, found.shape, found.is_contiguous()) == (torch.float32, (3, 224, 224), True)
    assert found.stride() == expected.stride()


def test_every_value_of_a_pixel(processing, torchvisions):
    picture = Image.radial_gradient("L")
    picture = Image.merge("RGB", (picture, picture.rotate(90), picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    assert len(set(picture.getchannel(0).tobytes())) == 256
    assert torch.equal(processing(picture), torchvisions(picture))


def test_a_picture_that_fits_already_is_only_cut(torchvisions):
    picture = photograph((256, 256))
    assert fit(picture).tobytes() == torchvisions.transforms[1](picture).tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "L"])
def test_other_pictures_go_through_torchvisions_transforms(processing, mode):
    with pytest.raises((RuntimeError, TypeError)):  # they want three channels
        processing(photograph((300, 300), mode))


def test_a_tensor_does_too(torchvisions):
    processing = make_processing(transforms)
    processing.transforms = [one for one in processing.transforms if not isinstance(one, transforms.ToTensor)]
    picture = torch.rand(3, 300, 400, generator=torch.Generator().manual_seed(0))
    assert processing(picture).shape == (3, 224, 224)


def test_a_list_of_transforms_that_was_changed_counts(torchvisions):
    processing = make_processing(transforms)
    picture = photograph((300, 400))
    processing.transforms[0] = transforms.Resize(230)
    expected = transforms.Compose([transforms.Resize(230), *torchvisions.transforms[1:]])(picture)
    assert torch.equal(processing(picture), expected)
    assert not torch.equal(processing(picture), torchvisions(picture))


# Whatever the sizes: the bytes that Pillow makes of the whole image, also where rows are left out before.
# From Pillow 13 on the columns of images more than twice as high as wide are scaled first.
@settings(deadline=None, max_examples=30)
@given(st.integers(150, 500), st.integers(150, 700))
@example(300, 600)
@example(300, 601)
def test_leaving_out_what_is_cut_off_changes_nothing(width, height):
    picture = photograph((width, height))
    whole = transforms.CenterCrop(224)(transforms.Resize(256)(picture))
    assert fit(picture).tobytes() == whole.tobytes()


def test_rows_of_which_nothing_is_kept_are_not_scaled(monkeypatch):
    high, broad, scaled = photograph((500, 1000)), photograph((1000, 500)), []
    resize = Image.Image.resize

    def counted(self, size, *args, **kwargs):
        scaled.append((self.size, size))
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", counted)
    fit(high)
    ((across, _), (down, _)) = scaled
    assert across[0] == 500
    assert 437 <= across[1] <= 446  # 224 of 512 rows, 1000 / 512 as far apart, and what the filter reaches
    assert down == (224, 1000)
    monkeypatch.setattr(imagenet, "_MOST_COPIED", 500 * across[1] - 1)
    scaled.clear()
    fit(high)  # the copy would be too large
    assert scaled[0] == ((500, 1000), (256, 1000))
    scaled.clear()
    fit(broad)  # most rows are kept: no copy is made to leave some out
    assert scaled[0] == ((1000, 500), (512, 500))


def test_a_batch_is_normalised_at_once_unless_the_transforms_were_changed(processing):
    assert ending_of(processing) is processing.ending is not None
    changed = make_processing(transforms)
    changed.transforms[1] = transforms.CenterCrop(32)
    assert changed.ending is None is ending_of(changed)
    mine = type("Mine", (type(processing),), {"__call__": lambda self, picture: torch.zeros(3)})()
    assert mine.ending is None is ending_of(mine)


def test_grey_pictures_in_a_batch_go_through_the_transforms(processing, torchvisions):
    grey = photograph((300, 400), "L")
    taken = processing.ending.begin(grey)
    assert taken.shape == (1, 224, 224)
    assert taken.content == torchvisions.transforms[1](torchvisions.transforms[0](grey)).tobytes()
