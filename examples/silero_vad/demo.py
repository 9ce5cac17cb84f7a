"""Serve one model as TorchScript and as ONNX, and let both listen to a minute of speech."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from examples import demos  # noqa: E402

FORMATS = {"silero_vad": "silero_vad.jit", "silero_vad_onnx": "silero_vad.onnx"}
TOLERANCE = 1e-4


def build(work: Path, store: Path) -> None:
    """Fetch the model, and make an archive of each of its formats."""
    demos.run("python", str(HERE / "prepare.py"), "--output-dir", str(work))
    for name, weights in FORMATS.items():
        demos.run(
            *("torchmar", "build", "--model-name", name, "--serialized-file", str(work / weights)),
            *("--handler", str(HERE / "speech_handler.py"), "--config-file", str(HERE / "model-config.yaml")),
            *("--extra-files", str(work / "LICENSE"), "--licence", "MIT", "--export-path", str(store), "-f"),
        )


def ask(server: demos.Server, work: Path) -> None:
    """Send the recording to both, and compare what they say."""
    sound = ("-T", str(work / "speech.wav"))
    plain = server.predict("silero_vad", *sound)
    for segment in plain["speech"]:
        print(f"{segment['start']:6.2f} s to {segment['end']:6.2f} s")
    spoken = sum(segment["end"] - segment["start"] for segment in plain["speech"])
    print(f"{spoken:.1f} s of speech in {plain['seconds']:.1f} s")
    demos.require(plain["seconds"] == 60.0 and len(plain["speech"]) >= 5, "the speech was not heard")
    demos.require(0.3 * 60 < spoken < 60, "these are not the segments of speech")
    answers = [server.predict(name, *sound, "-H", "X-Probabilities: true") for name in FORMATS]
    scripted, onnx = (answer["probabilities"] for answer in answers)
    apart = max(abs(one - other) for one, other in zip(scripted, onnx, strict=True))
    print(f"{len(scripted)} chunks; TorchScript and ONNX differ by at most {apart:.1e}")
    demos.require(apart <= TOLERANCE and answers[0]["speech"] == answers[1]["speech"], "the formats do not agree")


DEMO = demos.Demo("silero_vad", tuple(FORMATS), build, ask)

if __name__ == "__main__":
    sys.exit(demos.main(DEMO, __doc__))
