"""One way to run a model, in a process of its own; `serving.local.contest` starts it and asks over a socket.

    python trial.py DESCRIPTOR

Questions and answers are lines of JSON. A question is {"do": name, ...}, an answer an object, or {"error": text}. The
process ends when the socket does, so it does not outlive the process that started it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]
_MOST = 2000  # runs of a measurement
_SHOWN = 500


# Modules of the SDK: their names today, and in the copies that archives of before carry.
_SDK: Final = {
    "aot": ("optimization.aot", "ahead_of_time"),
    "base": ("base",),
    "cache": ("optimization.compile_cache", "compile_cache"),
    "compare": ("optimization.output_difference", "numeric_guard"),
    "folding": ("optimization.folding", "folding"),
    "optimized": ("optimization.optimized_model", "optimized"),
}


def _sdk(what: str) -> Any:
    """Import a module of the SDK that the archive runs with.

    Raises:
        ImportError: that SDK has none of this kind.
    """
    for name in _SDK[what]:
        full = f"handlers.{name}"
        with contextlib.suppress(ModuleNotFoundError):  # its package is missing, too
            if importlib.util.find_spec(full):
                return importlib.import_module(full)
    raise ImportError(f"the SDK of the archive has no module {' or '.join(_SDK[what])}")


class Trial:
    """A model that is loaded, and the inputs for it."""

    def __init__(self, folder: Path, device: str, batch: int, inputs: Sequence[Sequence[str]]) -> None:
        from serving.check import Input
        from serving.check.run import device_index
        from serving.local.model import LocalModel
        from serving.local.profile import Stopwatch
        from serving.local.run import Runner, RunOptions, opened
        from serving.local.surroundings import surroundings
        from serving.protocol import Load

        self.warnings = _Warnings()
        logging.getLogger().addHandler(self.warnings)
        self._stack = contextlib.ExitStack()
        place, manifest, config = self._stack.enter_context(opened(folder))
        handler = manifest.model.handler or ""
        self._stack.enter_context(surroundings(place, handler.partition(":")[0].rpartition("/")[0]))
        load = Load(
            model_name=manifest.model.model_name,
            model_path=str(place),
            batch_size=max(batch, int(config.value("batchSize") or 1)),
            handler=manifest.model.handler,
            gpu_id=device_index(device),
        )
        model = LocalModel(load, self._adapt)
        given = tuple(Input(name, Path(file).read_bytes(), kind) for name, file, kind in inputs)
        self._inputs = given
        self._runner = Runner(RunOptions(folder, given, device=device, batch=batch), config, model, Stopwatch())

    def _adapt(self, model: Any) -> None:
        self.handler = model.handler
        self._outputs: list[Any] = []
        self._keeping = False
        inference = getattr(self.handler, "inference", None)
        if inference is None:
            return

        def kept(*inputs: Any, **named: Any) -> Any:
            output = inference(*inputs, **named)
            if self._keeping:
                self._outputs.append(output)
            return output

        self.handler.inference = kept

    def facts(self) -> dict[str, Any]:
        """Return what there is to try for this model on this machine."""
        import torch
        from torch import nn

        try:
            optimized, base = _sdk("optimized"), _sdk("base")
            capability = _sdk("aot").capability
        except (ImportError, AttributeError):  # the archive's own copy of the SDK is older than `optimize`
            return {"sdk": False, "old": True}
        served = getattr(self.handler, "model", None)
        model = optimized.original(served)
        script = isinstance(model, torch.jit.ScriptModule)
        pairs = []
        # What is saved as a program has operators in place of layers; an older copy of the SDK folds nothing.
        if isinstance(model, nn.Module) and not script:
            with contextlib.suppress(ImportError):
                pairs = _sdk("folding").pairs(model)
        device = getattr(self.handler, "device", None) or torch.device("cpu")
        return {
            "sdk": isinstance(self.handler, base.BaseHandler),
            "old": False,
            "kind": type(model).__name__,
            "module": isinstance(model, nn.Module),
            "script": script,
            # Without a compiler, freezing is to fold batch normalizations into the convolutions before them.
            "folds": bool(pairs),
            # Asked of the plain model only, whose config file has no such section.
            "unasked": isinstance(served, optimized.OptimizedModel),
            "pictures": isinstance(model, nn.Module) and any(one.dim() == 4 for one in model.parameters()),
            "device": device.type,
            "capability": capability(device),
            "threads": torch.get_num_threads(),
        }

    def answer(self) -> dict[str, Any]:
        """Send each input alone; return the first error message, if there is one."""
        for number, one in enumerate(self._inputs):
            request = self._runner.request(number)
            answers, _ = self._runner.send([request])
            found = answers[request.request_id]
            if not 200 <= found.status < 400:
                return {"refused": f"{one.name}: status {found.status}: {found.as_sent()[0][:_SHOWN]!r}"}
        return {}

    def warm(self, batch: int, seconds: float, least: int) -> dict[str, Any]:
        """Run batches until the model has seen their size several times, for as long as the worker tries threads."""
        begin = time.monotonic()
        for count in range(_MOST):
            self._send(batch)
            if count >= least and time.monotonic() - begin > seconds:
                break
        return {}

    def measure(self, batch: int, seconds: float, least: int) -> dict[str, Any]:
        """Return the seconds of batches, as many as there is time for, but at least the number given."""
        found: list[float] = []
        begin = time.monotonic()
        while len(found) < least or (time.monotonic() - begin < seconds and len(found) < _MOST):
            found.append(self._send(batch))
        return {"seconds": found}

    def _send(self, batch: int) -> float:
        seconds: float = self._runner.send([self._runner.request(number) for number in range(batch)])[1][0]
        return seconds

    def outputs(self, file: str) -> dict[str, Any]:
        """Write what the model gives for each input."""
        import torch

        try:
            torch.save(self._collect(), file)
        except Exception as error:  # what a handler's own class raises that cannot be written
            logger.info("the outputs cannot be kept to be compared: %s", error)
            torch.save([], file)
        return {}

    def compare(self, file: str) -> dict[str, Any]:
        """Compare what the model gives for each input with what another one wrote."""
        import torch

        compare = _sdk("compare").compare
        expected = torch.load(file, weights_only=False)  # our own, of this run
        found = self._collect()
        if not expected or len(expected) != len(found):
            return {"difference": None, "agreement": None}
        pairs = list(zip(expected, found, strict=True))
        agreements = [agreement for one, other in pairs if (agreement := _agreement(one, other)) is not None]
        return {
            "difference": max(compare(one, other).size for one, other in pairs),
            "agreement": sum(agreements) / len(agreements) if agreements else None,
        }

    def _collect(self) -> list[Any]:
        self._outputs, self._keeping = [], True
        try:
            for number in range(len(self._inputs)):
                self._runner.send([self._runner.request(number)])
        finally:
            self._keeping = False
        return self._outputs

    def state(self) -> dict[str, Any]:
        """Return how the model is served now, and what the log warned of."""
        model = getattr(self.handler, "model", None)
        return {"serving": getattr(model, "serving", None), "warnings": self.warnings.messages}

    def save(self, file: str) -> dict[str, Any]:
        """Write what was compiled to a file; return its record for the manifest."""
        return {"record": _sdk("cache").save(Path(file), getattr(self.handler, "device", None))}


def _agreement(expected: Any, found: Any) -> float | None:
    """Return the part of rows whose largest number is in the same place; None if the output has no scores in rows."""
    import torch

    while isinstance(expected, tuple | list) and len(expected) == 1:
        expected, found = expected[0], found[0]
    if not isinstance(expected, torch.Tensor) or expected.dim() != 2 or expected.shape[1] < 2:
        return None
    if not expected.is_floating_point() or found.shape != expected.shape:
        return None
    return float((expected.argmax(1) == found.argmax(1)).double().mean())


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def main(descriptor: int) -> None:
    """Answer questions until the socket ends."""
    sys.path[0] = str(_ROOT)  # instead of this script's folder, whose modules have common names
    from archive_tool.errors import TorchmarError

    trial: Trial | None = None
    with socket.socket(fileno=descriptor) as sock, sock.makefile("rw", encoding="utf-8") as stream:
        for line in stream:
            question = json.loads(line)
            do = question.pop("do")
            try:
                if do == "load":
                    question["folder"] = Path(question["folder"])
                    trial = Trial(**question)
                    answer: dict[str, Any] = {}
                else:
                    answer = getattr(trial, do)(**question)
            except (Exception, SystemExit) as error:  # of the handler, or of a compiler
                message = error.message if isinstance(error, TorchmarError) else f"{type(error).__name__}: {error}"
                answer = {"error": message[:_SHOWN]}
            stream.write(json.dumps(answer) + "\n")
            stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
