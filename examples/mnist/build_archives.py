"""Build two archives of the same weights, eager and TorchScript: `python examples/mnist/build_archives.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT)]  # run as a script, only this file's own folder is searched

import archive_tool  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Build `mnist.mar` and `mnist_scripted.mar` from the files that `train.py` wrote."""
    parser = argparse.ArgumentParser(description="Build mnist.mar (eager) and mnist_scripted.mar (TorchScript).")
    parser.add_argument("--weights-dir", type=Path, default=HERE / "build", help="default: %(default)s")
    parser.add_argument("--model-store", type=Path, default=ROOT / "model_store", help="default: %(default)s")
    options = parser.parse_args(arguments)
    if not (options.weights_dir / "mnist_sd.pt").is_file():
        print(f"There are no weights in {options.weights_dir}: run examples/mnist/train.py first.", file=sys.stderr)
        return 1

    options.model_store.mkdir(parents=True, exist_ok=True)
    models = {
        "mnist": {
            "model_file": ROOT / "model_defs" / "mnist.py",
            "serialized_file": options.weights_dir / "mnist_sd.pt",
        },
        "mnist_scripted": {"serialized_file": options.weights_dir / "mnist_script.pt"},
    }
    try:
        for name, files in models.items():
            result = archive_tool.build(
                model_name=name,
                version="1.0",
                handler=HERE / "mnist_handler.py",
                export_path=options.model_store,
                force=True,
                **files,
            )
            print(f"{result.path}: {result.size:,} bytes")
    except archive_tool.TorchmarError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
