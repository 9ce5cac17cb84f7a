"""Pillow beside torchvision, from the bytes of a JPEG to a model's input: ``python benchmarks/pictures.py``.

One photograph in many sizes and kinds of JPEG. The ways take turns in one thread of one process, and the medians of the
processor's time are compared, which others on the machine disturb less than the time that passes:

- TorchServe's: Pillow decodes, torchvision's four transforms for ImageNet follow. The answers to compare with;
- ours: `handlers.vision.decoding` and the default processing of `ImageClassifier`;
- tensors: torchvision decodes to a tensor, and scales and normalises that;
- draft: Pillow decodes to a half, a quarter or an eighth of the size where that is enough; then as ours.

Prints the tables in Markdown, with the share of pixel values that differ from TorchServe's before they are normalised,
the time of decoding alone, and whether each step lets other threads run.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision import transforms  # noqa: E402
from torchvision.io import ImageReadMode, decode_jpeg  # noqa: E402
from torchvision.transforms.v2 import functional  # noqa: E402

from benchmarks import machine  # noqa: E402
from handlers.vision import decoding as vision  # noqa: E402
from handlers.vision import imagenet  # noqa: E402

PHOTOGRAPH = Path(__file__).resolve().parent / "serving_bench" / "archives" / "coffee.jpg"
SIZES = ((224, 224), (500, 375), (375, 500), (1000, 667), (667, 1000), (1920, 1080), (4000, 3000), (3000, 4000))
KINDS: Mapping[str, Mapping[str, Any]] = {
    "progressive": {"progressive": True},
    "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
    "all colours kept": {"subsampling": 0},
    "turned by EXIF": {"turned": True},
}
KIND_SIZE = (1000, 667)
ORIENTATION = 0x112
OURS = imagenet.make_processing(transforms)
PLAIN = transforms.Compose(OURS.transforms)


def jpeg(
    photograph: Image.Image, size: tuple[int, int], *, mode: str = "RGB", turned: bool = False, **how: Any
) -> bytes:
    """Return the photograph as JPEG."""
    exif = Image.Exif()
    if turned:
        exif[ORIENTATION] = 6
    stream = io.BytesIO()
    picture = photograph.resize(size, Image.Resampling.BICUBIC).convert(mode)
    picture.save(stream, "JPEG", quality=85, exif=exif, **how)
    return stream.getvalue()


def cases(photograph: Image.Image, largest: int) -> dict[str, bytes]:
    """Return JPEGs by what is special about them; ``largest`` limits width and height."""
    sizes = [size for size in (*SIZES, *[KIND_SIZE] * len(KINDS)) if max(size) <= largest]
    found = {f"{width} x {height}": jpeg(photograph, (width, height)) for width, height in sizes}
    for name, options in KINDS.items() if max(KIND_SIZE) <= largest else ():
        found[f"{KIND_SIZE[0]} x {KIND_SIZE[1]}, {name}"] = jpeg(photograph, KIND_SIZE, **options)
    return found


def pillow(content: bytes) -> Image.Image:
    """Decode by Pillow, as TorchServe's handler does it."""
    return Image.open(io.BytesIO(content)).convert("RGB")


def ours(content: bytes) -> Image.Image:
    """Decode by our handlers."""
    return vision.convert(vision.decode_image(content), "RGB")


def torchvision(content: bytes) -> torch.Tensor:
    """Decode by torchvision: uint8 ``[3, height, width]``."""
    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)


def torchvision_to_pillow(content: bytes) -> Image.Image:
    """Decode by torchvision, and copy for Pillow to scale."""
    return Image.fromarray(torchvision(content).permute(1, 2, 0).numpy())


def draft(content: bytes) -> Image.Image:
    """Decode by Pillow to fewer pixels, but no fewer than the processing scales to."""
    picture = Image.open(io.BytesIO(content))
    picture.draft("RGB", (imagenet.SCALED, imagenet.SCALED))
    return picture.convert("RGB")


def scaled(decoded: Image.Image | torch.Tensor) -> torch.Tensor:
    """Return the 224 x 224 pixels that the model sees, before they are normalised: uint8 ``[3, height, width]``."""
    if isinstance(decoded, torch.Tensor):
        return functional.center_crop(functional.resize(decoded, [imagenet.SCALED], antialias=True), [imagenet.CUT])
    return torch.from_numpy(np.array(PLAIN.transforms[1](PLAIN.transforms[0](decoded)))).permute(2, 0, 1)


def _tensors(content: bytes) -> torch.Tensor:
    pixels = scaled(torchvision(content)).to(torch.float32).div_(255)
    return functional.normalize_image(pixels, imagenet.MEAN, imagenet.DEVIATION, inplace=True)


DECODERS: Mapping[str, Callable[[bytes], Any]] = {
    "Pillow": pillow,
    "ours": ours,
    "torchvision": torchvision,
    "torchvision, then Pillow's image": torchvision_to_pillow,
}
WAYS: Mapping[str, Callable[[bytes], Any]] = {
    "TorchServe's": lambda content: PLAIN(pillow(content)),
    "ours": lambda content: OURS(ours(content)),
    "tensors": _tensors,
    "draft": lambda content: OURS(draft(content)),
}


def medians(calls: Mapping[str, Callable[[bytes], Any]], content: bytes, rounds: int) -> dict[str, float]:
    """Return the milliseconds of the processor for each call; they take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-1, rounds):  # the first is to warm up
        for name, call in calls.items():
            begin = time.thread_time()
            call(content)
            if turn >= 0:
                found[name].append((time.thread_time() - begin) * 1e3)
    return {name: statistics.median(times) for name, times in found.items()}


def difference(one: torch.Tensor, other: torch.Tensor) -> tuple[float, int]:
    """Return the share of values that differ, and by how much at most."""
    apart = (one.to(torch.int16) - other).abs()
    return float((apart > 0).double().mean()), int(apart.max())


def lets_others_run(call: Callable[[], object], tries: int = 5) -> bool:
    """Return whether a call releases the GIL by itself; one try that shows it is enough."""
    return any(_lets_others_run(call) for _ in range(tries))


def _lets_others_run(call: Callable[[], object]) -> bool:
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        call()
        ended.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(3600.0)  # no thread is made to release it
    thread = threading.Thread(target=work)
    try:
        thread.start()
        begun.wait()  # goes on when the call releases the GIL, or has ended
        return not ended.is_set()
    finally:
        thread.join()
        sys.setswitchinterval(interval)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as Markdown; the first row is the head."""
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, f"|---|{'---:|' * (len(rows[0]) - 1)}", *others])


def report(contents: Mapping[str, bytes], rounds: int) -> str:
    """Measure everything. Return Markdown.

    Raises:
        RuntimeError: our numbers are not torchvision's.
    """
    whole = [["whole, ms", *WAYS, "ours / TorchServe's", "tensors / ours", "tensors differ", "draft differs"]]
    decoding = [["decoding, ms", *DECODERS, "torchvision / Pillow", "same pixels"]]
    for name, content in contents.items():
        times = medians(WAYS, content, rounds)
        right = scaled(pillow(content))
        if not torch.equal(OURS(ours(content)), PLAIN(pillow(content))):
            raise RuntimeError(f"our numbers are not torchvision's: {name}")
        apart = [difference(scaled(one), right) for one in (torchvision(content), draft(content))]
        ratios = [times["ours"] / times["TorchServe's"], times["tensors"] / times["ours"]]
        shown = [f"{share:.2%}, by {most}" if share else "no" for share, most in apart]
        whole.append([name, *(f"{one:.2f}" for one in (*times.values(), *ratios)), *shown])
        times = medians(DECODERS, content, rounds)
        same = np.array_equal(np.asarray(pillow(content)), torchvision(content).permute(1, 2, 0).numpy())
        ratio = times["torchvision"] / times["Pillow"]
        decoding.append([name, *(f"{one:.2f}" for one in (*times.values(), ratio)), "yes" if same else "no"])
    return f"{table(whole)}\n\n{table(decoding)}\n\n{table(_locks(contents))}\n"


def _locks(contents: Mapping[str, bytes]) -> list[list[str]]:
    content = max(contents.values(), key=len)
    picture, tensor = ours(content), torchvision(content)
    steps = {
        "Pillow decodes": lambda: ours(content),
        "torchvision decodes": lambda: torchvision(content),
        "Pillow scales": lambda: imagenet.fit(picture),
        "torchvision scales": lambda: scaled(tensor),
    }
    return [["step", "lets other threads run"], *([name, _yes(lets_others_run(call))] for name, call in steps.items())]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21, help="turns that each way gets (default: 21)")
    parser.add_argument("--largest", type=int, default=4000, help="images of at most so many pixels a side")
    parser.add_argument("--photograph", type=Path, default=PHOTOGRAPH, help="an image to make the JPEGs of")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    contents = cases(Image.open(options.photograph).convert("RGB"), options.largest)
    if not contents:
        parser.error(f"--largest must be at least {min(map(max, SIZES))}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    print(f"{machine.describe()}; {machine.versions('pillow', 'torch', 'torchvision')}\n")
    print(report(contents, options.rounds))


if __name__ == "__main__":
    main()
