"""Train the digit classifier and write its weights: `python examples/mnist/train.py`.

Into the output folder go the same weights twice, `mnist_sd.pt` (a state dict, for an eager archive) and
`mnist_script.pt` (TorchScript), and copies of the model file and the handlers under the names that the tutorials
use, so that the folder holds all that an archiver asks for.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import warnings
from pathlib import Path

if __name__ == "__main__":
    # Threads that wait by spinning double the time on a busy machine; read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT)]  # run as a script, only this file's own folder is searched

from examples.mnist.data import Split, download_digits, load_digits, normalise  # noqa: E402
from model_defs.mnist import MNISTNet  # noqa: E402

LEAST_ACCURACY = 0.97
BATCH_SIZE = 100
PEAK_RATE = 0.003
SHIFT = 2  # pixels that a training image may move, in each direction


def main(arguments: list[str] | None = None) -> int:
    """Train, measure on the held-out digits, write the files; 0 if the accuracy suffices, else 1."""
    options = parse(arguments)
    console = Console()
    try:
        options.output_dir.mkdir(parents=True, exist_ok=True)  # known before the work is done
    except OSError as error:
        Console(stderr=True).print(f"The output folder cannot be made: {error}", markup=False)
        return 1
    try:
        digits = load_digits() if options.data == "bundled" else download_digits(options.output_dir / "data")
    except (OSError, RuntimeError) as error:
        Console(stderr=True).print(f"The {options.data} digits cannot be read: {error}", markup=False, soft_wrap=True)
        return 1

    begin = time.perf_counter()
    model = train(digits.train, epochs=options.epochs, seed=options.seed, console=console)
    accuracy = measure(model, digits.test)
    write(model, options.output_dir)
    console.print(
        f"held-out accuracy {accuracy:.2%} ({len(digits.test.labels):,} digits), "
        f"trained on {len(digits.train.labels):,} in {time.perf_counter() - begin:.0f} s; "
        f"files in {options.output_dir}",
        highlight=False,
        soft_wrap=True,
    )
    if accuracy < LEAST_ACCURACY:
        Console(stderr=True).print(f"The accuracy is below {LEAST_ACCURACY:.0%}: train for more epochs.")
        return 1
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the digit classifier and write its weights.")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the training digits (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds give equal weights (%(default)s)")
    parser.add_argument(
        "--data",
        choices=["bundled", "torchvision"],
        default="bundled",
        help="the 10,000 digits beside this script, or the full set, downloaded by torchvision (%(default)s)",
    )
    parser.add_argument("--output-dir", type=Path, default=HERE / "build", help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    return options


def train(digits: Split, *, epochs: int, seed: int, console: Console | None = None) -> MNISTNet:
    """Train a new model; the one-cycle schedule and the shifted images make few epochs enough."""
    torch.manual_seed(seed)
    model = MNISTNet().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    steps = -(-len(digits.labels) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=epochs * steps)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=epochs * steps)
        for epoch in range(epochs):
            for rows in torch.randperm(len(digits.labels)).split(BATCH_SIZE):
                optimizer.zero_grad(set_to_none=True)
                loss = functional.nll_loss(model(shift(normalise(digits.images[rows]))), digits.labels[rows])
                loss.backward()
                optimizer.step()
                schedule.step()
                description = f"epoch {epoch + 1} of {epochs}, loss {loss.item():.3f}"
                progress.update(task, advance=1, description=description)
    return model.eval()


def shift(images: torch.Tensor) -> torch.Tensor:
    """Move all images of a batch by one random step, filling with background."""
    size = images.shape[-1]
    across, down = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
    padded = functional.pad(images, (SHIFT, SHIFT, SHIFT, SHIFT), value=images.min().item())
    return padded[..., down : down + size, across : across + size]


def measure(model: torch.nn.Module, digits: Split) -> float:
    """Return the share of digits that the model names rightly."""
    with torch.inference_mode():
        found = torch.cat([model(normalise(part)).argmax(dim=1) for part in digits.images.split(500)])
    return (found == digits.labels).double().mean().item()


def write(model: MNISTNet, folder: Path) -> None:
    """Write the weights in both formats, and beside them the Python files of an archive."""
    torch.save(model.state_dict(), folder / "mnist_sd.pt")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit")  # torch announces its end; servers still take it
        torch.jit.script(model).save(str(folder / "mnist_script.pt"))
    shutil.copyfile(ROOT / "model_defs" / "mnist.py", folder / "mnist_model.py")
    for handler in ("mnist_handler.py", "mnist_handler_ts.py"):
        shutil.copyfile(HERE / handler, folder / handler)


if __name__ == "__main__":
    sys.exit(main())
