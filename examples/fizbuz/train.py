"""Train a net that plays fizz buzz, and put it as ONNX beside its service: `python examples/fizbuz/train.py`."""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
BITS = 10
HELD_OUT = range(1, 101)  # nobody trains with the numbers that the game is played with
NEEDED = 0.9


def category(number: int) -> int:
    """0: the number itself, 1: fizz, 2: buzz, 3: fizzbuzz."""
    return (number % 3 == 0) + 2 * (number % 5 == 0)


def encode(numbers: range) -> tuple[torch.Tensor, torch.Tensor]:
    """The bits of numbers, float32 `[count, 10]`, and their classes, int64 `[count]`."""
    bits = [[number >> bit & 1 for bit in range(BITS)] for number in numbers]
    return torch.tensor(bits, dtype=torch.float32), torch.tensor([category(number) for number in numbers])


def train(steps: int, seed: int) -> tuple[nn.Module, float]:
    """Train on 101 to 1023; give the net and the part of 1 to 100 that it gets right."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # for matrices as small as these, threads only wait for each other
    net = nn.Sequential(nn.Linear(BITS, 150), nn.ReLU(), nn.Linear(150, 4))
    bits, classes = encode(range(HELD_OUT.stop, 1 << BITS))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(net(bits), classes).backward()
        optimizer.step()
    net.eval()
    bits, classes = encode(HELD_OUT)
    with torch.no_grad():
        return net, float((net(bits).argmax(1) == classes).float().mean())


def export(net: nn.Module, path: Path) -> None:
    """Write the net as ONNX, for any number of rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter says of its own future
        torch.onnx.export(
            net,
            (torch.zeros(2, BITS),),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            input_names=["input.1"],
            output_names=["scores"],
            external_data=False,
            verbose=False,
        )


def main(arguments: list[str] | None = None) -> int:
    """Train, export, and copy the service beside the model."""
    parser = argparse.ArgumentParser(description="Train a net that plays fizz buzz and export it as ONNX.")
    parser.add_argument("--output-dir", type=Path, default=HERE / "build", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args(arguments)
    net, accuracy = train(options.steps, options.seed)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    export(net, options.output_dir / "fizbuz.onnx")
    for name in ("fizbuz_service.py", "signature.json"):
        shutil.copy(HERE / "service" / name, options.output_dir)
    print(f"{accuracy:.0%} of the numbers from 1 to 100 are right, which it never saw; files in {options.output_dir}")
    return 0 if accuracy >= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
