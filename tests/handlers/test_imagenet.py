import pytest
import torch
from PIL import Image
from torchvision import transforms

from handlers.imagenet import fit, make_processing

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
