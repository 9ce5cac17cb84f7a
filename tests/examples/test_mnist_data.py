import hashlib
import re

import numpy as np
import pytest
import torch
from PIL import Image

from examples.mnist import data


@pytest.fixture(scope="module")
def digits():
    return data.load_digits()


def test_ten_thousand_digits_a_tenth_of_them_held_out(digits):
    for split, count in ((digits.train, 9_000), (digits.test, 1_000)):
        assert split.images.shape == (count, 28, 28)
        assert split.images.dtype == torch.uint8
        assert split.labels.shape == (count,)
        assert split.labels.dtype == torch.int64
    assert digits.test.labels.bincount().tolist() == [data.HELD_OUT] * 10
    assert (digits.train.labels.bincount() + data.HELD_OUT).tolist() == [
        1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978
    ]  # fmt: skip


def test_no_held_out_digit_is_trained_with(digits):
    train, test = ({image.numpy().tobytes() for image in split.images} for split in digits)
    assert not train & test


def test_the_pixels_are_those_of_mnist(digits):
    pixels = torch.cat([digits.train.images, digits.test.images]).double() / 255
    assert pixels.max() == 1
    assert pixels.mean().item() == pytest.approx(data.MEAN, abs=0.002)
    assert pixels.std().item() == pytest.approx(data.DEVIATION, abs=0.002)


def test_normalised_images_are_the_models_input(digits):
    images = data.normalise(digits.test.images[:3])
    assert images.shape == (3, 1, 28, 28)
    assert images.dtype == torch.float32
    assert images.min().item() == pytest.approx(-0.1307 / 0.3081)


def test_the_file_is_small_and_is_the_one_that_the_licence_page_describes():
    content = data.DIGITS_FILE.read_bytes()
    assert len(content) < 2_500_000
    page = data.DIGITS_FILE.with_name("LICENSE-digits.md").read_text()
    assert re.findall(r"\b[0-9a-f]{64}\b", page) == [hashlib.sha256(content).hexdigest()]
    for part in ("MIT", "CC BY-SA 3.0", "Juan Cazala", "LeCun", "Cortes", "Burges"):
        assert part in page


def test_the_samples_are_held_out_digits(digits):
    samples = sorted((data.DIGITS_FILE.parent / "samples").glob("*.png"))
    assert len(samples) >= 30
    pixels = (image.numpy().tobytes() for image in digits.test.images)
    held_out = set(zip(pixels, digits.test.labels.tolist(), strict=True))
    counts = [0] * 10
    for path in samples:
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (28, 28))
            label = int(path.stem.partition("_")[0])
            assert (np.asarray(image).tobytes(), label) in held_out
        counts[label] += 1
    assert min(counts) >= 3


def test_the_full_set_comes_from_torchvision(monkeypatch, tmp_path):
    import torchvision.datasets

    asked = []

    class Fake:
        def __init__(self, root, train, download):
            asked.append((root, train, download))
            self.data, self.targets = torch.zeros(2, 28, 28, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)

    monkeypatch.setattr(torchvision.datasets, "MNIST", Fake)
    digits = data.download_digits(tmp_path)
    assert asked == [(str(tmp_path), True, True), (str(tmp_path), False, True)]
    assert digits.test.images.shape == (2, 28, 28)
