"""Two servers over the same archives, one with TorchServe's worker and one with ours: what they answer is compared."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.serving.worker.frontend import ONLY_TENSORS

from .conftest import OPEN, Sandbox, Server, close, make_sandbox, usual_frontend
from .support import Answer, at_once, model_log, predict

_OF_PROXIES = frozenset({"connection", "date", "server"})
MODELS = Path(__file__).parent / "models"


def light_sandbox(java_options: str) -> Sandbox:
    """Return a sandbox for models without torch, whose import takes each of TorchServe's workers seconds.

    Our workers fork from a process that has imported it once.
    """
    box = make_sandbox(java_options, ["torchvision"])
    for name, text in ONLY_TENSORS.items():
        box.file(f"tensors/{name}", textwrap.dedent(text))
    return box


@dataclass(frozen=True)
class Pair:
    """The two servers."""

    stock: Server
    ours: Server

    def both(self, call: Any) -> tuple[Any, Any]:
        """Return the result of a call on TorchServe's worker, and on ours."""
        stock, ours = at_once([lambda: call(self.stock), lambda: call(self.ours)])
        return (_by_any_proxy(stock), _by_any_proxy(ours)) if usual_frontend() == "ray" else (stock, ours)

    def same(self, call: Any) -> Any:
        """Return the result of a call, which must be the same on both."""
        stock, ours = self.both(call)
        assert ours == stock, f"DIFF\n{ours}\n{stock}"
        return ours

    def run(self, code: str) -> Answer:
        """Return the answer of a handler that runs this code, the same on both."""
        answer = self.same(lambda server: run(server, code))
        assert isinstance(answer, Answer)
        return answer


def _by_any_proxy(found: Any) -> Any:
    """Return an answer without what a proxy adds or takes away, HAProxy before Ray Serve's replicas."""
    if not isinstance(found, Answer):
        return found
    kept = ((name.lower(), value) for name, value in found.headers)
    return replace(found, headers=tuple(sorted(pair for pair in kept if pair[0] not in _OF_PROXIES)))


def run(server: Server, code: str) -> Answer:
    return predict(server, "everything", X_Do=quote(code))


def source(name: str) -> dict[str, str]:
    return {f"{name}.py": (MODELS / f"{name}.py").read_text()}


@contextmanager
def servers(box: Sandbox, request: pytest.FixtureRequest, archives: list[str], config: Path) -> Iterator[Pair]:
    """Yield a server with each worker, over the same archives."""
    before = request.session.testsfailed
    tensors = box.root / "tensors"
    env = {"PYTHONPATH": str(tensors)} if tensors.exists() else {}
    what = (*archives, "--model-store", box.store, "--port", "auto", "--timeout", "400", "-q")
    on_ray = usual_frontend() == "ray"
    keyless = box.file("keyless.properties", config.read_text() + "disable_token_authorization=true\n")
    # With --stock-worker it is TorchServe's, whatever the configuration names.
    other = box.file("other.properties", config.read_text() + "vmargs=-Dmodel_server_home=nowhere\n")
    stocks = ("start", *what, "--name", "stock", "--stock-worker", "--ts-config", other, *OPEN)
    ours = ("start", *what, "--name", "ours", "--ts-config", config, *OPEN)
    if on_ray:  # TorchServe's worker is never there
        stocks += ("--frontend", "python")
        ours = ("deploy", "ray", *what, "--name", "ours", "--ts-config", keyless, "--cpus", "0.1")
    try:
        at_once(
            [
                lambda: box.run("torchmar", *stocks, env=env, timeout=420).ok(),
                lambda: box.run("torchmar", *ours, timeout=420).ok(),
            ]
        )
        pair = Pair(box.server("stock"), box.server("ours"))
        assert (pair.stock.record["worker"], pair.ours.record["worker"]) == ("torchserve", "torchmar")
        yield pair
        at_once([lambda name=name: box.torchmar("stop", "--name", name).ok() for name in ("stock", "ours")])
    finally:
        close(box, failed=request.session.testsfailed > before)


def logged(server: Server, mark: str) -> list[str]:
    """Return the lines with a mark, without their time and the number of the worker."""
    lines = [line for line in model_log(server).splitlines() if mark in line]
    return [re.sub(r"W-\d+", "W", line.split(" ", 1)[1]) for line in lines]


def without_id(answer: Answer) -> Answer:
    """Return the answer without the id of an error, and what depends on it."""
    if answer.status != 503:
        return answer
    body = re.sub(rb" The server's log has the reason under the id [0-9a-f]{8}\.", b"", answer.body)
    kept = tuple(pair for pair in answer.headers if pair[0] != "content-length")
    return replace(answer, body=body.replace(b"failed.", b"failed"), headers=kept)
