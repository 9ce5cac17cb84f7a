"""The whole path in one go: train, archive, start, predict, scale, stop. ``make demo`` runs it.

Every step is a command that you could type yourself; it is shown before it runs. Exit code 0 means that each of
them did what it should, and nothing is left running in any case.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from rich.columns import Columns
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BIN = Path(sys.executable).parent
SERVER = "mnist-demo"
SAMPLES = 20
# The model is right on more than 98 of 100 held-out digits; a single miss among the samples is no failure.
MIN_CORRECT = 0.9

console = Console(highlight=False)


class DemoError(Exception):
    """A step did not do what it should."""


def run(*command: str, capture: bool = False) -> str:
    """Show a command and run it.

    Raises:
        DemoError: it failed.
    """
    console.print(f"\n$ {shlex.join(command)}", style="bold", markup=False, soft_wrap=True)
    program = BIN / command[0]
    argv = [str(program) if program.exists() else command[0], *command[1:]]
    result = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE if capture else None, text=True, check=False)
    if result.returncode:
        raise DemoError(f"{shlex.join(command)} failed with exit code {result.returncode}")
    return result.stdout or ""


def build(store: Path, name: str, *model: str) -> None:
    """Build an archive with the example's handler; an older one of the name is replaced."""
    handler = ("--handler", "examples/mnist/mnist_handler.py")
    run("torchmar", "build", "--model-name", name, *model, *handler, "--export-path", str(store), "--force")


def samples() -> list[Path]:
    """Return held-out images, the digits in turn: 0, 1, 2, ..."""
    by_digit: dict[str, list[Path]] = {}
    for path in sorted((HERE / "samples").glob("*.png")):
        by_digit.setdefault(path.name.split("_")[0], []).append(path)
    rounds = max(len(paths) for paths in by_digit.values())
    turn = [paths[i] for i in range(rounds) for paths in by_digit.values() if i < len(paths)]
    return turn[:SAMPLES]


def picture(path: Path) -> str:
    """Draw a 28 x 28 image as 14 x 7 characters of 2 x 4 dots each."""
    dots = (
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
        (0, 3),
        (1, 3),
    )  # bit order of Unicode's braille block
    with Image.open(path) as image:
        pixels = image.convert("L").resize((28, 28)).load()
    assert pixels is not None
    lines = []
    for top in range(0, 28, 4):
        cells = (
            sum(1 << bit for bit, (x, y) in enumerate(dots) if pixels[left + x, top + y] > 96)
            for left in range(0, 28, 2)
        )
        lines.append("".join(chr(0x2800 + cell) for cell in cells))
    return "\n".join(lines)


def show(files: Sequence[Path], rows: Sequence[dict[str, Any]]) -> int:
    """Show each image with the expected and the predicted digit; return how many agree."""
    pictures, correct = [], 0
    for path, row in zip(files, rows, strict=True):
        expected = int(path.name.split("_")[0])
        good = row.get("answer") == expected
        correct += good
        told = f"\nexpected  {expected}\npredicted {row.get('answer')}\n{row['ms']:.1f} ms\n"
        pictures.append(Text(picture(path)).append(told, style="green" if good else "bold red"))
    console.print(Columns(pictures, padding=(0, 2)))
    return correct


def predict(model: str, files: Sequence[Path], *options: str) -> list[dict[str, Any]]:
    """Return the answers of a model, one row a file.

    Raises:
        DemoError: a request failed.
    """
    names = [str(path.relative_to(ROOT)) for path in files]
    command = ("torchmar", "predict", model, *names, *options, "--json", "--name", SERVER)
    rows = json.loads(run(*command, capture=True))
    if len(rows) != len(files):
        raise DemoError(f"{len(files)} images sent, {len(rows)} answers")
    return list(rows)


@contextmanager
def server(port: str, store: str) -> Iterator[None]:
    """Yield a running server with both archives; stop it whatever happens."""
    models = ("mnist=mnist.mar", "mnist_scripted=mnist_scripted.mar")
    try:
        run("torchmar", "start", "--models", *models, "--model-store", store, "--port", port, "--name", SERVER)
        yield
    except BaseException:
        stopped = subprocess.run(
            [BIN / "torchmar", "stop", "-q", "--name", SERVER], stderr=subprocess.PIPE, check=False
        )
        # Exit code 7: start had failed and cleaned up after itself.
        if stopped.returncode not in (0, 7):
            console.print(f"[red]the server could not be stopped: {stopped.stderr.decode()}[/red]")
        raise
    run("torchmar", "stop", "--name", SERVER)


def demo(port: str, work: Path, store: Path) -> None:
    """Run all steps.

    Raises:
        DemoError: one failed.
    """
    run("python", "examples/mnist/train.py", "--output-dir", str(work))
    build(store, "mnist", "--model-file", "model_defs/mnist.py", "--serialized-file", str(work / "mnist_sd.pt"))
    build(store, "mnist_scripted", "--serialized-file", str(work / "mnist_script.pt"))
    files = samples()
    with server(port, str(store)):
        rows = predict("mnist", files, "--parallel", "1")  # one after the other: the milliseconds of a request alone
        correct = show(files, rows)
        scripted = predict("mnist_scripted", files)
        if [row.get("answer") for row in scripted] != [row.get("answer") for row in rows]:
            raise DemoError("the eager and the TorchScript archive answer differently")
        console.print(f"{correct} of {len(files)} held-out digits are right; the TorchScript archive answers the same")
        if correct < MIN_CORRECT * len(files):
            raise DemoError("too many wrong answers")
        run("torchmar", "scale", "mnist", "--min-workers", "2", "--name", SERVER)
        run("torchmar", "models", "--name", SERVER)
        table = json.loads(run("torchmar", "models", "mnist", "--json", "--name", SERVER, capture=True))
        ready = sum(worker["status"] == "READY" for worker in table[0]["workers"])
        if ready != 2:
            raise DemoError(f"asked for 2 workers, {ready} are ready")


def main() -> int:
    """Run the demo; return 0 if everything worked."""
    parser = argparse.ArgumentParser(description="Train, archive, serve and query the MNIST example.")
    parser.add_argument("--port", default="8080", help="first of five ports, or 'auto' for free ones")
    parser.add_argument("--work", type=Path, default=Path("examples/mnist/build"), help="folder for the weights")
    parser.add_argument("--model-store", type=Path, default=Path("model_store"), help="folder for the archives")
    options = parser.parse_args()
    try:
        demo(options.port, options.work, options.model_store)
    except DemoError as error:
        console.print(f"\n[red bold]demo failed:[/red bold] {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    console.print("\n[green bold]demo passed[/green bold]: nothing is left running")
    return 0


if __name__ == "__main__":
    sys.exit(main())
