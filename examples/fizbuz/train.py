"""Train a network that plays fizz buzz, and write it in three formats: `python examples/fizbuz/train.py`."""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]  # run as a script, only this file's own folder is searched

import torch  # noqa: E402
from torch.nn import functional  # noqa: E402

from examples.fizbuz.fizbuz_net import BITS, FizbuzNet  # noqa: E402

HELD_OUT = range(1, 101)  # not in the training: the numbers that the game is played with
NEEDED = 0.9


def category(number: int) -> int:
    """Return the category, 0: the number itself, 1: fizz, 2: buzz, 3: fizzbuzz."""
    return (number % 3 == 0) + 2 * (number % 5 == 0)


def tensors(numbers: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Return numbers and their classes, both int64 `[count]`."""
    return torch.tensor(list(numbers)), torch.tensor([category(number) for number in numbers])


def train(steps: int, seed: int) -> tuple[FizbuzNet, float]:
    """Train on 101 to 1023; return the network and the part of 1 to 100 that it gets right."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # for matrices as small as these, threads only wait for each other
    net = FizbuzNet()
    numbers, classes = tensors(range(HELD_OUT.stop, 1 << BITS))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(net(numbers), classes).backward()
        optimizer.step()
    net.eval()
    numbers, classes = tensors(HELD_OUT)
    with torch.no_grad():
        return net, float((net(numbers).argmax(1) == classes).float().mean())


def export(net: FizbuzNet, path: Path) -> None:
    """Write the layers as ONNX, for any number of rows of bits: the exporter does not take the loop before them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter says of its own future
        torch.onnx.export(
            net.layers,
            (torch.zeros(2, BITS),),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            input_names=["input.1"],
            output_names=["scores"],
            external_data=False,
            verbose=False,
        )


def script(net: FizbuzNet, path: Path) -> None:
    """Write the network as TorchScript, with its loop and its branches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        torch.jit.script(net).save(str(path))


def main(arguments: list[str] | None = None) -> int:
    """Train, and write the state dict, TorchScript, and in a folder `service` ONNX beside its service."""
    parser = argparse.ArgumentParser(description="Train a network that plays fizz buzz and write it in three formats.")
    parser.add_argument("--output-dir", type=Path, default=HERE / "build", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args(arguments)
    net, accuracy = train(options.steps, options.seed)
    service: Path = options.output_dir / "service"
    service.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), options.output_dir / "fizbuz_sd.pt")
    script(net, options.output_dir / "fizbuz_script.pt")
    export(net, service / "fizbuz.onnx")
    for name in ("fizbuz_service.py", "signature.json"):
        shutil.copy(HERE / "service" / name, service)
    print(f"{accuracy:.0%} of the numbers from 1 to 100 are right, which it never saw; files in {options.output_dir}")
    return 0 if accuracy >= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
