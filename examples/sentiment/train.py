"""Train the network on rated sentences, in seconds: `python examples/sentiment/train.py`."""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

import torch  # noqa: E402
from torch.nn import functional  # noqa: E402

from examples import downloads  # noqa: E402
from examples.sentiment.sentiment_model import WORDS, SentimentNet  # noqa: E402
from handlers.text import ngrams, words  # noqa: E402

LABELS = ("negative", "positive")
CLEAR = 0.5  # ratings go from -4 to 4; those nearer to 0 say little
HELD_OUT = 10  # every tenth sentence
NEEDED = 0.77
BATCH = 256
Row = tuple[list[str], int]


def read_sentences(archive: Path) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Read sentences from tweets, reviews and newspapers, with 1 for a positive rating and 0 for a negative one.

    Return those to train with and those held out.
    """
    rows: list[tuple[str, int]] = []
    with tarfile.open(archive) as opened:
        for name in sorted(opened.getnames()):
            if name.endswith("_GroundTruth.txt"):
                stream = opened.extractfile(name)
                assert stream is not None
                for line in stream.read().decode("utf-8", "replace").splitlines():
                    _, rating, text = line.split("\t", 2)
                    if abs(float(rating)) >= CLEAR:
                        rows.append((text, int(float(rating) > 0)))
    return [row for index, row in enumerate(rows) if index % HELD_OUT], rows[::HELD_OUT]


def vocabulary(rows: list[tuple[str, int]]) -> dict[str, int]:
    """Return numbers of the most frequent words and pairs of words, just as the handler will find them."""
    counts = Counter(one for text, _ in rows for one in ngrams(words(text), 2))
    return {word: index for index, (word, _) in enumerate(counts.most_common(WORDS))}


def numbers(text: str, known: dict[str, int]) -> list[int]:
    """Return a text as the network takes it; an unknown word is ignored, as by the handler."""
    return [known[one] for one in ngrams(words(text), 2) if one in known]


def bags(texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return texts as words and offsets."""
    ends = torch.tensor([0, *map(len, texts)]).cumsum(0)
    return torch.tensor([one for text in texts for one in text]), ends[:-1]


def train(rows: list[tuple[str, int]], known: dict[str, int], epochs: int, seed: int) -> SentimentNet:
    """Train a network."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # for matrices as small as these, threads only wait for each other
    net = SentimentNet()
    texts = [numbers(text, known) for text, _ in rows]
    classes = torch.tensor([label for _, label in rows])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.005)
    for _ in range(epochs):
        for chosen in torch.randperm(len(texts)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(net(*bags([texts[index] for index in chosen])), classes[chosen]).backward()
            optimizer.step()
    return net.eval()


def accuracy(net: SentimentNet, rows: list[tuple[str, int]], known: dict[str, int]) -> float:
    """Return the part of the sentences that the network gets right."""
    with torch.no_grad():
        found = net(*bags([numbers(text, known) for text, _ in rows])).argmax(dim=1)
    return float((found == torch.tensor([label for _, label in rows])).float().mean())


def main(arguments: list[str] | None = None) -> int:
    """Train, and write weights, vocabulary and names."""
    parser = argparse.ArgumentParser(description="Train a network that finds the sentiment of a text.")
    parser.add_argument("--output-dir", type=Path, default=HERE / "build", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        source = downloads.fetch(downloads.VADER_SENTENCES)
    except downloads.DownloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seen, held_out = read_sentences(source / "sentences.tar.gz")
    known = vocabulary(seen)
    net = train(seen, known, options.epochs, options.seed)
    right = accuracy(net, held_out, known)
    folder: Path = options.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), folder / "sentiment.pt")
    torch.save(known, folder / "source_vocab.pt")
    (folder / "index_to_name.json").write_text(json.dumps(dict(enumerate(LABELS))), encoding="utf-8")
    print(f"{len(seen)} sentences; {right:.1%} of {len(held_out)} others are right; files in {folder}")
    return 0 if right >= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
