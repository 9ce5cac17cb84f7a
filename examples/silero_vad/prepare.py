"""Fetch the model in both formats, and a recording: `python examples/silero_vad/prepare.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]  # run as a script, only this file's own folder is searched

from examples import downloads  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Put `silero_vad.jit`, `silero_vad.onnx`, their licence and `speech.wav` into a folder."""
    parser = argparse.ArgumentParser(description="Fetch Silero VAD as TorchScript and as ONNX, and a recording.")
    parser.add_argument("--output-dir", type=Path, default=HERE / "build", help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        downloads.copy(downloads.SILERO_VAD, options.output_dir)
    except downloads.DownloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"silero_vad.jit, silero_vad.onnx and speech.wav are in {options.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
