"""Serve all-MiniLM-L6-v2 from its folder, without a line of handler code, and search sentences by what they mean."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from examples import demos  # noqa: E402

SENTENCES = (
    "A new password can be set on the page of your account.",
    "We refund orders that were returned within thirty days.",
    "The museum is closed on Mondays.",
    "The orchestra opened the evening with a piece by Haydn.",
    "Bread needs flour, water, salt, yeast and time.",
    "Heavy rain has flooded several streets near the river.",
    "The vaccine protects most children against measles.",
    "Interest rates rose for the third time this year.",
)
# What somebody looks for, and the sentence that is about it. They share hardly a word.
QUESTIONS = {
    "I forgot my login and cannot sign in": 0,
    "How do I get my money back?": 1,
    "What can I bake at home?": 4,
    "Bad weather and its damage": 5,
    "Is it dearer to borrow money now?": 7,
}
AS_JSON = ("-H", "Content-Type: application/json")
AS_TEXT = ("-H", "Content-Type: text/plain")


def build(work: Path, store: Path) -> None:
    """Fetch the model's folder, and make an archive of it."""
    demos.run("python", str(HERE / "prepare.py"), "--output-dir", f"{work}/minilm")
    demos.run("torchmar", "build", "--pretrained", f"{work}/minilm", "--export-path", str(store), "-f")


def ask(server: demos.Server, work: Path) -> None:
    """Get the vectors of all sentences in one request, and look for the one that is nearest to each question."""
    body = work / "sentences.json"
    body.write_text(json.dumps({"inputs": SENTENCES}, indent=1), encoding="utf-8")
    vectors = server.predict("minilm", *AS_JSON, "--data-binary", f"@{body}")
    for question, expected in QUESTIONS.items():
        asked = server.predict("minilm", *AS_TEXT, "--data-raw", question)
        # The vectors are of length 1, so this is the cosine between them.
        scores = [sum(a * b for a, b in zip(asked, vector, strict=True)) for vector in vectors]
        best = max(range(len(SENTENCES)), key=scores.__getitem__)
        print(f"{scores[best]:.2f}  {SENTENCES[best]}")
        demos.require(best == expected, f"that is not the answer to {question!r}")


DEMO = demos.Demo("minilm", ("minilm",), build, ask)

if __name__ == "__main__":
    sys.exit(demos.main(DEMO, __doc__))
