"""Fetch word vectors and their tokenizer: `python examples/sentence_embedder/prepare.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from examples import downloads  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Put `vectors.safetensors`, `tokenizer.json` and their licence into a folder."""
    parser = argparse.ArgumentParser(description="Fetch the word vectors of WordLlama and their tokenizer.")
    parser.add_argument("--output-dir", type=Path, default=HERE / "build", help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        downloads.copy(downloads.WORDLLAMA, options.output_dir)
    except downloads.DownloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"vectors.safetensors and tokenizer.json are in {options.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
