"""Serve one saved folder twice: by a handler of the kind that TorchServe's example has, and without one. Compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from examples import demos  # noqa: E402

TEXTS = ("what a lovely song", "the worst film of the day", "we had a boring time", "she was kind")
TOLERANCE = 1e-4
AS_JSON = ("-H", "Content-Type: application/json")
WEIGHTS = "model.safetensors"


def build(work: Path, store: Path) -> None:
    """Train a tiny classifier, and make an archive with the handler, and one without."""
    folder = work / "mood"
    demos.run("python", str(HERE.parent / "pretrained" / "train.py"), str(folder))
    others = [HERE / "setup_config.json", *sorted(one for one in folder.iterdir() if one.name != WEIGHTS)]
    demos.run(
        *("torchmar", "build", "--model-name", "mood_handler", "--handler", str(HERE / "classifier_handler.py")),
        *("--serialized-file", str(folder / WEIGHTS), "--extra-files", ",".join(map(str, others))),
        *("--config-file", str(HERE / "model-config.yaml"), "--export-path", str(store), "-f"),
    )
    demos.run("torchmar", "build", "--pretrained", str(folder), "--export-path", str(store), "-f")


def ask(server: demos.Server, work: Path) -> None:  # noqa: ARG001
    """Send both models the same texts, and have both explain one."""
    for text in TEXTS:
        body = json.dumps({"text": text})
        ours, without = (server.predict(name, *AS_JSON, "-d", body) for name in ("mood_handler", "mood"))
        print(f"{ours[0]['label']} ({ours[0]['score']:.3f})")
        require_same(ours, without)
    asked = (*AS_JSON, "-d", json.dumps({"text": TEXTS[0], "target": 0}))
    ours, without = (
        json.loads(demos.curl(*asked, f"{server.inference}/explanations/{name}")) for name in ("mood_handler", "mood")
    )
    print("  ".join(f"{word} {share:.2f}" for word, share in zip(ours["words"], ours["importances"], strict=True)))
    require_same(ours, without)


def require_same(one: Any, other: Any) -> None:
    """Check that two answers say the same, numbers to within the tolerance.

    Raises:
        DemoError: they differ.
    """
    demos.require(alike(one, other), f"the answers differ: {one} and {other}")


def alike(one: Any, other: Any) -> bool:
    """Return whether two answers say the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= TOLERANCE
    return bool(one == other)


DEMO = demos.Demo("huggingface_handler", ("mood_handler", "mood"), build, ask)

if __name__ == "__main__":
    sys.exit(demos.main(DEMO, __doc__))
