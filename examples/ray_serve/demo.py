"""Two nodes on one machine, MNIST and a sentence embedder on Ray Serve, 8 clients: what is lost when something dies?

``make demo-ray`` runs it. Every step is a command that you could type yourself. Exit code 0 means that nothing was lost
but what ran where something was killed, and that nothing is left running.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT)]

from examples import demos  # noqa: E402
from examples.ray_serve import proof  # noqa: E402
from examples.ray_serve.load import Question  # noqa: E402
from examples.sentence_embedder import demo as embedder  # noqa: E402

NAME = "ray-demo"
_MNIST = ("--model-file", "model_defs/mnist.py", "--handler", "examples/mnist/mnist_handler.py")
_TEXTS = ("A kitten sleeps on the rug", "The museum opens at ten")


def build(work: Path, store: Path) -> None:
    """Train a small model for a short time, and make archives: two versions of one, and the embedder's."""
    weights = ROOT / "examples" / "mnist" / "build" / "mnist_sd.pt"
    if not weights.is_file():
        demos.run("python", "examples/mnist/train.py")
    for version, folder in (("1.0", store), ("2.0", work / "newer")):
        folder.mkdir(parents=True, exist_ok=True)
        demos.run(
            *("torchmar", "build", "--model-name", "mnist", "--version", version, *_MNIST),
            *("--serialized-file", str(weights), "--export-path", str(folder), "-f", "-q"),
        )
    (work / "newer" / "mnist.mar").replace(store / "mnist_v2.mar")
    embedder.build(work, store)


def questions(key: str) -> Sequence[Question]:
    """Return what clients ask: digits, and sentences."""
    headers = {"Authorization": f"Bearer {key}"}

    def digit(path: Path) -> Question:
        # One of a hundred digits may be read wrong; an answer it is all the same.
        return Question("/predictions/mnist", path.read_bytes(), headers, lambda body: body.strip().isdigit())

    def text(words: str) -> Question:
        plain = {**headers, "Content-Type": "text/plain"}
        return Question(
            "/predictions/sentence_embedder", words.encode(), plain, lambda body: len(json.loads(body)) > 10
        )

    samples = sorted((ROOT / "examples" / "mnist" / "samples").glob("*.png"))[:10]
    return [*map(digit, samples), *map(text, _TEXTS)]


def main() -> int:
    """Run it all. Return the exit code."""

    def torchmar(*arguments: str) -> str:
        return demos.run("torchmar", *arguments, capture=True)

    work = Path(tempfile.mkdtemp(prefix="tmray-"))
    store, private = work / "store", work / "h"
    try:
        store.mkdir()
        private.mkdir(mode=0o700)
        build(work, store)
        archives = ["mnist.mar", "sentence_embedder.mar", "--model-store", str(store)]
        with proof.two_nodes(torchmar, NAME, private) as nodes:
            try:
                proof.prove(nodes, archives, "mnist_v2.mar", questions, lambda text: print(f"-- {text}", flush=True))
            finally:
                subprocess.run([demos.BIN / "torchmar", "stop", "-q", "--name", NAME], check=False)
    except (demos.DemoError, proof.ProofError, OSError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("\ndemo passed: nothing is left running")
    return 0


if __name__ == "__main__":
    sys.exit(main())
