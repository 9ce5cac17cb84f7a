"""Scenario of MXNet Model Server's users, whole: train, archive, convert, serve, count, scale, stop.

Every step is a command that you could type yourself; it is shown before it runs. Exit code 0 means that each of them
did what it should, and nothing is left running in any case.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
SERVER = "fizbuz-demo"
NUMBERS = (1, 2, 4, 8, 14, 21, 29, 44)
# The net is right on more than nine of ten numbers; what it says must be what both archives say.
NEEDED = 6


class DemoError(Exception):
    """A step did not do what it should."""


def run(*command: str, capture: bool = False) -> str:
    """Show a command and run it.

    Raises:
        DemoError: it failed.
    """
    print(f"\n$ {shlex.join(command)}", flush=True)
    program = BIN / command[0]
    argv = [str(program) if program.exists() else command[0], *command[1:]]
    result = subprocess.run(argv, stdout=subprocess.PIPE if capture else None, text=True, check=False)
    if result.returncode:
        raise DemoError(f"{shlex.join(command)} failed with exit code {result.returncode}")
    return result.stdout or ""


def expected(number: int) -> str:
    """What comes after a number."""
    following = number + 1
    return "fizz" * (following % 3 == 0) + "buzz" * (following % 5 == 0) or str(following)


@contextmanager
def server(store: Path, port: str, *models: str) -> Iterator[dict[str, Any]]:
    """A running server with the models, described by its status; stopped whatever happens."""
    options = ("--model-store", str(store), "--port", port, "--name", SERVER)
    try:
        run("torchmar", "start", "--models", *models, *options)
        yield json.loads(run("torchmar", "status", "--json", "--name", SERVER, capture=True))
    finally:
        subprocess.run([BIN / "torchmar", "stop", "-q", "--name", SERVER], stderr=subprocess.DEVNULL, check=False)


def curl(*arguments: str) -> str:
    """What curl prints."""
    return run("curl", "-sS", "--fail-with-body", *arguments, capture=True).strip()


def play(inference: str, model: str) -> list[str]:
    """Ask a model what comes after each of the numbers."""
    answers = []
    for number in NUMBERS:
        body = json.dumps({"input.1": number})
        url = f"{inference}/predictions/{model}"
        answers.append(curl("-X", "POST", url, "-H", "Content-Type: application/json", "-d", body))
        print(f"{number} -> {answers[-1]}")
    return answers


def demo(port: str, work: Path, store: Path) -> None:
    """Run all steps.

    Raises:
        DemoError: one failed.
    """
    service = work / "service"
    run("python", str(HERE / "train.py"), "--output-dir", str(service))
    folder = ("--model-path", str(service), "--handler", "fizbuz_service", "--export-path", str(store), "-f")
    run("torchmar", "build", "--model-name", "fizbuz", *folder)
    old = work / "old.mar"
    run("python", str(HERE / "old_archive.py"), str(service), str(old))
    run("torchmar", "convert", str(old), "-o", str(store / "fizbuz_package.mar"), "-f")
    with server(store, port, "fizbuz=fizbuz.mar", "fizbuz_package=fizbuz_package.mar") as status:
        answers = play(status["inference"], "fizbuz_package")
        if play(status["inference"], "fizbuz") != answers:
            raise DemoError("the archive of the folder and the converted one do not agree")
        right = sum(answer == expected(number) for number, answer in zip(NUMBERS, answers, strict=True))
        if right < NEEDED:
            raise DemoError(f"only {right} of {len(NUMBERS)} answers are right")
        url = f"{status['management']}/models/fizbuz_package"
        # MXNet Model Server took max_worker alone; for TorchServe there must be as many at least.
        curl("-X", "PUT", f"{url}?min_worker=2&max_worker=2&synchronous=true")
        (state,) = json.loads(curl(url))
        ready = sum(worker["status"] == "READY" for worker in state["workers"])
        if ready != 2:
            raise DemoError(f"{ready} workers are ready, not 2")
        curl("-X", "PUT", f"{url}?max_worker=1&synchronous=true")
        (state,) = json.loads(curl(url))
        print(f"{len(state['workers'])} worker, {right} of {len(NUMBERS)} answers right")
    print("\ndemo passed: nothing is left running")


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="Train, archive, convert, serve and ask the fizz buzz net.")
    parser.add_argument("--port", default="8080", help="of the inference API, or auto; default: %(default)s")
    parser.add_argument("--work", type=Path, default=HERE / "build", help="default: %(default)s")
    parser.add_argument(
        "--model-store", type=Path, default=HERE.parents[1] / "model_store", help="default: %(default)s"
    )
    options = parser.parse_args()
    try:
        options.model_store.mkdir(parents=True, exist_ok=True)
        demo(options.port, options.work, options.model_store)
    except (DemoError, OSError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
