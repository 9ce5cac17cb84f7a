"""Fetch word vectors and their tokenizer: `python examples/sentence_embedder/prepare.py`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from examples import downloads  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Put `vectors.safetensors`, `tokenizer.json` and their licence into a folder."""
    return downloads.command(
        downloads.WORDLLAMA,
        HERE / "build",
        arguments,
        about="Fetch the word vectors of WordLlama and their tokenizer.",
        made="vectors.safetensors and tokenizer.json are",
    )


if __name__ == "__main__":
    sys.exit(main())
