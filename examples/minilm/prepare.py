"""Fetch the folder that sentence-transformers saved: `python examples/minilm/prepare.py`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from examples import downloads  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Put the model's weights, settings, tokenizer and card into a folder."""
    return downloads.command(
        downloads.MINILM,
        HERE / "build" / "minilm",
        arguments,
        about="Fetch all-MiniLM-L6-v2, as sentence-transformers saves models.",
        made="the model is",
    )


if __name__ == "__main__":
    sys.exit(main())
