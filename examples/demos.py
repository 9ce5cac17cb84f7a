"""The examples' common demo: commands that are shown and run, a server, and one way through it all.

Every step is a command that you could type yourself. Exit code 0 means that each of them did what it should, and
nothing is left running in any case.
"""

from __future__ import annotations

import argparse
import codecs
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


class DemoError(Exception):
    """A step did not do what it should."""


@dataclass(frozen=True)
class Demo:
    """An example from its beginning to its end.

    Attributes:
        name: of the example's folder; the server is called so, too.
        archives: what `build` puts into the model store, the models of these names.
        build: makes the archives, given a folder to work in and the model store.
        ask: asks the models and raises a `DemoError` for wrong answers, given the server and the same folder.
        start: options of `torchmar start`.
    """

    name: str
    archives: Sequence[str]
    build: Callable[[Path, Path], None]
    ask: Callable[[Server, Path], None]
    start: Sequence[str] = ()


@dataclass(frozen=True)
class Server:
    """Addresses of a running server."""

    inference: str
    management: str

    def predict(self, model: str, *options: str) -> Any:
        """Return what a model answers to a request that curl sends with these options; JSON is parsed."""
        found = curl(*options, f"{self.inference}/predictions/{model}")
        try:
            return json.loads(found)
        except ValueError:
            return found


def run(*command: str, capture: bool = False) -> str:
    """Show a command, and run it in the root of the repository.

    Raises:
        DemoError: it failed.
    """
    argv = _told(command)
    try:
        result = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE if capture else None, text=True, check=False)
    except FileNotFoundError as error:
        raise DemoError(f"{command[0]} is not installed here") from error
    if result.returncode:
        raise DemoError(f"{shlex.join(command)} failed with exit code {result.returncode}: {result.stdout or ''}")
    return result.stdout or ""


def follow(*command: str) -> Iterator[str]:
    """Show a command, run it in the root of the repository, and yield what it prints as it comes.

    Raises:
        DemoError: it failed.
    """
    argv = _told(command)
    try:
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
    except FileNotFoundError as error:
        raise DemoError(f"{command[0]} is not installed here") from error
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with process:
        assert process.stdout is not None
        while part := os.read(process.stdout.fileno(), 1 << 16):
            yield decoder.decode(part)
    if process.returncode:
        raise DemoError(f"{shlex.join(command)} failed with exit code {process.returncode}")


def _told(command: Sequence[str]) -> list[str]:
    """Show a command; return it with the path of its program."""
    print(f"\n$ {shlex.join(map(_shown, command))}", flush=True)
    program = BIN / command[0]
    return [str(program) if program.exists() else command[0], *command[1:]]


def _shown(part: str) -> str:
    return part.replace(f"{ROOT}/", "")


def curl(*arguments: str) -> str:
    """Return what curl prints."""
    return run("curl", "-sS", "--fail-with-body", *arguments, capture=True).strip()


def require(condition: bool, what: str) -> None:
    """Check a condition.

    Raises:
        DemoError: the condition does not hold; says what is wrong.
    """
    if not condition:
        raise DemoError(what)


@contextmanager
def server(demo: Demo, store: Path, port: str) -> Iterator[Server]:
    """Yield a running server with the example's models; stop it whatever happens."""
    name = f"{demo.name.replace('_', '-')}-demo"
    models = [f"{model}={model}.mar" for model in demo.archives]
    try:
        place = ("--model-store", str(store), "--port", port, "--name", name)
        run("torchmar", "start", "--models", *models, *place, *demo.start)
        status = json.loads(run("torchmar", "status", "--json", "--name", name, capture=True))
        yield Server(status["inference"], status["management"])
    finally:
        subprocess.run([BIN / "torchmar", "stop", "-q", "--name", name], stderr=subprocess.DEVNULL, check=False)


def main(demo: Demo, description: str) -> int:
    """Run an example: build its archives, serve and ask them. Return the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", default="8080", help="of the inference API, or auto; default: %(default)s")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "examples" / demo.name / "build", help="for weights; default: %(default)s"
    )
    parser.add_argument("--model-store", type=Path, default=ROOT / "model_store", help="default: %(default)s")
    options = parser.parse_args()
    work, store = options.work.absolute(), options.model_store.absolute()
    try:
        work.mkdir(parents=True, exist_ok=True)
        store.mkdir(parents=True, exist_ok=True)
        demo.build(work, store)
        with server(demo, store, options.port) as running:
            demo.ask(running, work)
    except (DemoError, OSError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\ndemo passed: nothing is left running")
    return 0
