"""Train a small GPT on a few old poems, serve it without a line of handler code, and watch it write."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from examples import demos  # noqa: E402

BEGINNING = "Shall I compare thee"
# What every training remembers; later lines differ with the processor's rounding.
KNOWN = " to a summer's day?\n"
TOKENS = 60
AS_JSON = ("-H", "Content-Type: application/json")


def build(work: Path, store: Path) -> None:
    """Train the model, and make an archive of the folder that it was saved in."""
    demos.run("python", str(HERE / "train.py"), str(work / "poet"))
    demos.run("torchmar", "build", "--pretrained", str(work / "poet"), "--export-path", str(store), "-f")


def ask(server: demos.Server, work: Path) -> None:  # noqa: ARG001
    """Stream a text to the terminal, and ask for the same one as OpenAI's clients do."""
    streamed = stream(server)
    demos.require(streamed.startswith(KNOWN), f"the poem does not go on with {KNOWN!r}")
    chat = {"model": "poet", "messages": [{"role": "user", "content": BEGINNING}], "max_tokens": TOKENS}
    answer = json.loads(demos.curl(*AS_JSON, "-d", json.dumps(chat), f"{server.inference}/v1/chat/completions"))
    usage, text = answer["usage"], answer["choices"][0]["message"]["content"]
    print(f"{usage['completion_tokens']} tokens that go on from {usage['prompt_tokens']}, and the same text")
    demos.require(text == streamed, f"the chat was answered with another text: {text}")


def stream(server: demos.Server) -> str:
    """Show a text while it is written, and return it."""
    asked = {"inputs": BEGINNING, "stream": True, "parameters": {"max_new_tokens": TOKENS}}
    options = ("-sSN", "--fail-with-body", *AS_JSON, "-H", "Accept: text/plain", "-d", json.dumps(asked))
    parts, times = [], [time.perf_counter()]
    for part in demos.follow("curl", *options, f"{server.inference}/predictions/poet"):
        print(part if parts else f"{BEGINNING}{part}", end="", flush=True)
        parts.append(part)
        times.append(time.perf_counter())
    first, last = (one - times[0] for one in (times[min(1, len(parts))], times[-1]))
    print(f"\n\nthe first words after {first:.2f} s, the last ones after {last:.2f} s")
    return "".join(parts)


DEMO = demos.Demo("gpt", ("poet",), build, ask, ("--frontend", "python"))

if __name__ == "__main__":
    sys.exit(demos.main(DEMO, __doc__))
