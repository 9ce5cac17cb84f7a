"""Serve a sentence embedder without a line of handler code, and look which sentences mean the same."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from examples import demos  # noqa: E402

# The first two of each row mean much the same, and the third one something else.
SENTENCES = (
    ("A kitten sleeps on the rug", "The cat is napping on the carpet", "Shares fell sharply on Wall Street"),
    ("How do I reset my password?", "I forgot my login and cannot sign in", "What time does the museum open?"),
    ("The match was cancelled because of rain", "Bad weather stopped the game", "She plays the violin in an orchestra"),
)
# Otherwise curl would say that it sends a form.
PLAIN = ("-H", "Content-Type: text/plain")


def build(work: Path, store: Path) -> None:
    """Fetch the vectors, and make an archive of a handler that needs no code."""
    demos.run("python", str(HERE / "prepare.py"), "--output-dir", str(work))
    demos.run(
        *("torchmar", "build", "--model-name", "sentence_embedder", "--handler", "text_embedder"),
        *("--model-file", str(HERE / "word_vectors.py"), "--serialized-file", f"{work}/vectors.safetensors"),
        *("--extra-files", f"{work}/tokenizer.json,{work}/LICENSE", "--licence", "MIT"),
        *("--config-file", str(HERE / "model-config.yaml"), "--export-path", str(store), "-f"),
    )


def ask(server: demos.Server, work: Path) -> None:  # noqa: ARG001
    """Compare sentences by the product of their vectors, which is the cosine between them."""
    for row in SENTENCES:
        first, near, far = (server.predict("sentence_embedder", *PLAIN, "--data-raw", text) for text in row)
        same, other = (sum(a * b for a, b in zip(first, one, strict=True)) for one in (near, far))
        print(f"{row[0]!r} is {same:.2f} like {row[1]!r}, and {other:.2f} like {row[2]!r}")
        demos.require(same > other + 0.1, "that makes no sense")


DEMO = demos.Demo("sentence_embedder", ("sentence_embedder",), build, ask)

if __name__ == "__main__":
    sys.exit(demos.main(DEMO, __doc__))
