"""Models of transformers without a server, in a process of their own: what their users write to see how fast they are.

``python loops.py KIND FOLDER --many 1,8 --seconds 3 body.txt ...`` prints one line of JSON: the figures of each
number of inputs that are taken at once. The kinds:

- ``classify``: `transformers.pipeline("text-classification")`
- ``embed``: tokenizer, model, and the mean of the tokens' vectors, as the model's card has it
- ``write``: `generate`, for so many ``--tokens``
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this script's own folder

from benchmarks.pretrained_bench import written  # noqa: E402

Loop = Callable[[list[str]], float | None]
"""Answers some texts at once; says when the first token was there, where that means anything."""


def measure(
    kind: str, folder: Path, bodies: Sequence[Path], many: Sequence[int], seconds: float, warm_up: float, tokens: int
) -> dict[int, written.Figures]:
    """Measure in a process of its own, by the number of inputs that are taken at once.

    Raises:
        RuntimeError: the process failed.
    """
    numbers = {"many": ",".join(map(str, many)), "seconds": seconds, "warm-up": warm_up, "tokens": tokens}
    options = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, __file__, kind, str(folder), *options, *map(str, bodies)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the loop without a server failed: {done.stderr[-800:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {int(count): written.Figures(**one) for count, one in found.items()}


def classify(folder: str, _: int) -> Loop:
    """Return the loop over a pipeline."""
    import transformers

    pipeline: Any = transformers.pipeline("text-classification", model=folder, device="cpu", top_k=None)
    return lambda texts: pipeline(texts, batch_size=len(texts)) and None


def embed(folder: str, _: int) -> Loop:
    """Return the loop that makes vectors."""
    import torch
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def run(texts: list[str]) -> None:
        given = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        vectors, mask = model(**given).last_hidden_state, given["attention_mask"][:, :, None]
        torch.nn.functional.normalize((vectors * mask).sum(dim=1) / mask.sum(dim=1), dim=1).tolist()

    return run


def write(folder: str, tokens: int) -> Loop:
    """Return the loop that has texts written on, padded on the left to the longest of them."""
    import transformers
    from transformers.generation.streamers import BaseStreamer

    class First(BaseStreamer):
        """Notes when the first token came, which follows the prompts."""

        def __init__(self) -> None:
            self.puts: list[float] = []

        def put(self, _: Any) -> None:
            self.puts.append(time.perf_counter())

        def end(self) -> None:
            """Do nothing."""

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()

    def run(texts: list[str]) -> float:
        given, first = tokenizer(texts, padding=True, return_tensors="pt"), First()
        found = model.generate(
            given["input_ids"],
            attention_mask=given["attention_mask"],
            max_new_tokens=tokens,
            do_sample=False,
            streamer=first,
        )
        new = found[:, given["input_ids"].shape[1] :]
        assert new.shape[1] == tokens
        tokenizer.batch_decode(new)
        return first.puts[1]

    return run


def rate(loop: Loop, texts: Sequence[str], many: int, seconds: float) -> written.Figures:
    """Return the figures of so many inputs at once, for so many seconds, and for one call at least."""
    turn = itertools.cycle(texts)
    taken: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while not taken or time.perf_counter() < begin + seconds:
        sent = time.perf_counter()
        first = loop([next(turn) for _ in range(many)])
        took = time.perf_counter() - sent
        taken += [(took if first is None else first - sent, took)] * many
    return written.figures(taken, time.perf_counter() - begin, 0)


def main() -> int:
    """Print the figures."""
    kinds: dict[str, Callable[[str, int], Loop]] = {"classify": classify, "embed": embed, "write": write}
    parser = argparse.ArgumentParser(description="A model of transformers without a server.")
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("folder")
    parser.add_argument("--many", default="1,8,32", help="inputs that are taken at once (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each of these (%(default)s)")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before each (%(default)s)")
    parser.add_argument("--tokens", type=int, default=0, help="to write")
    parser.add_argument("files", nargs="+", type=Path, help="texts")
    options = parser.parse_args()
    texts = [path.read_text(encoding="utf-8") for path in options.files]
    loop = kinds[options.kind](options.folder, options.tokens)
    found = {}
    for many in map(int, options.many.split(",")):
        rate(loop, texts, many, options.warm_up)
        found[many] = asdict(rate(loop, texts, many, options.seconds))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
