"""Fetch the folder that sentence-transformers saved: `python examples/minilm/prepare.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from examples import downloads  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Put the model's weights, settings, tokenizer and card into a folder."""
    parser = argparse.ArgumentParser(description="Fetch all-MiniLM-L6-v2, as sentence-transformers saves models.")
    parser.add_argument("--output-dir", type=Path, default=HERE / "build" / "minilm", help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        downloads.copy(downloads.MINILM, options.output_dir)
    except downloads.DownloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"the model is in {options.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
