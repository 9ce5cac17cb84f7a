"""Serve a network with real weights eager, traced, exported and, with `--aot`, compiled; show photographs to each."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from examples import demos  # noqa: E402

FILES = {
    "eager": "efficientnet-lite0.pth",
    "traced": "lite0_traced.pt",
    "exported": "lite0_exported.pt2",
    "aot": "lite0_aot.pt2",
}
# What is on the photographs, in ImageNet's words.
SEEN = {"coffee.png": {"espresso"}, "chelsea.png": {"Egyptian cat", "tabby", "tiger cat"}, "rocket.jpg": {"missile"}}
TOLERANCE = 1e-4


def build_formats(work: Path, store: Path, *formats: str) -> None:
    """Write the formats, and make an archive of each, `lite0_FORMAT.mar`."""
    demos.run("python", str(HERE / "export.py"), "--formats", *formats, "--output-dir", str(work))
    for name in formats:
        # Only the eager network needs its code in the archive; the others are programs.
        code = [f"{work}/efficientnet_lite_pytorch=efficientnet_lite_pytorch"] if name == "eager" else []
        model_file = ["--model-file", str(HERE / "lite0_model.py")] if name == "eager" else []
        extra = ",".join([f"{work}/index_to_name.json", f"{work}/LICENSE", *code])
        demos.run(
            *("torchmar", "build", "--model-name", f"lite0_{name}", "--serialized-file", f"{work}/{FILES[name]}"),
            *(*model_file, "--handler", str(HERE / "lite0_handler.py"), "--extra-files", extra),
            *("--licence", "Apache-2.0", "--export-path", str(store), "-f"),
        )


def ask_formats(server: demos.Server, work: Path, *formats: str) -> None:
    """Show the photographs to each, and compare what they say."""
    for picture, expected in SEEN.items():
        answers = {name: server.predict(f"lite0_{name}", "-T", f"{work}/{picture}") for name in formats}
        first = answers[formats[0]]
        best = max(first, key=first.get)
        apart = max(abs(first[label] - one.get(label, 0.0)) for one in answers.values() for label in first)
        print(f"{picture}: {best} {first[best]:.2f}; {' and '.join(formats)} differ by at most {apart:.1e}")
        demos.require(best in expected, f"there is no {best} on {picture}")
        demos.require(apart <= TOLERANCE, "the formats do not agree")


def demo(*formats: str) -> demos.Demo:
    """Run the example with some of the formats."""
    return demos.Demo(
        "efficientnet_lite0",
        [f"lite0_{name}" for name in formats],
        lambda work, store: build_formats(work, store, *formats),
        lambda server, work: ask_formats(server, work, *formats),
    )


DEMO = demo("eager", "traced", "exported")

if __name__ == "__main__":
    with_aot = "--aot" in sys.argv
    sys.argv = [one for one in sys.argv if one != "--aot"]
    sys.exit(demos.main(demo(*FILES) if with_aot else DEMO, __doc__))
