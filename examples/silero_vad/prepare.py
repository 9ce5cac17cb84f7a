"""Fetch the model in both formats, and a recording: `python examples/silero_vad/prepare.py`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]  # run as a script, only this file's own folder is searched

from examples import downloads  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Put `silero_vad.jit`, `silero_vad.onnx`, their licence and `speech.wav` into a folder."""
    return downloads.command(
        downloads.SILERO_VAD,
        HERE / "build",
        arguments,
        about="Fetch Silero VAD as TorchScript and as ONNX, and a recording.",
        made="silero_vad.jit, silero_vad.onnx and speech.wav are",
    )


if __name__ == "__main__":
    sys.exit(main())
