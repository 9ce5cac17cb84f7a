"""Train a text classifier on real sentences in seconds, serve it, and ask it what it never saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from examples import demos  # noqa: E402

TEXTS = {
    "What a lovely film, I enjoyed every minute!": "positive",
    "The battery died after two days. Terrible.": "negative",
}
# Otherwise curl would say that it sends a form.
PLAIN = ("-H", "Content-Type: text/plain")


def build(work: Path, store: Path) -> None:
    """Train, and make an archive of a handler that needs no code."""
    demos.run("python", str(HERE / "train.py"), "--output-dir", str(work))
    demos.run(
        *("torchmar", "build", "--model-name", "sentiment", "--handler", "text_classifier"),
        *("--model-file", str(HERE / "sentiment_model.py"), "--serialized-file", f"{work}/sentiment.pt"),
        *("--extra-files", f"{work}/source_vocab.pt,{work}/index_to_name.json"),
        *("--export-path", str(store), "-f"),
    )


def ask(server: demos.Server, work: Path) -> None:  # noqa: ARG001
    """Send sentences, and look at what is found in them."""
    for text, expected in TEXTS.items():
        answer = server.predict("sentiment", *PLAIN, "--data-raw", text)
        print({label: round(probability, 3) for label, probability in answer.items()})
        demos.require(answer[expected] > 0.5, f"this is {expected}")
    words = f"data={next(iter(TEXTS))}"
    explained = json.loads(demos.curl("-F", words, "-F", "target=1", f"{server.inference}/explanations/sentiment"))
    print({word: round(one, 3) for word, one in zip(explained["words"], explained["importances"], strict=True)})
    best = max(zip(explained["importances"], explained["words"], strict=True))[1]
    demos.require(best in {"lovely", "enjoyed"}, f"{best} does not make it positive")


DEMO = demos.Demo("sentiment", ("sentiment",), build, ask)

if __name__ == "__main__":
    sys.exit(demos.main(DEMO, __doc__))
