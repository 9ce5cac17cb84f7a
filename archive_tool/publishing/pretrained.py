"""From a live model of transformers to an archive that has answered as it does."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

import handlers
from archive_tool import compare
from archive_tool.errors import BuildError
from archive_tool.issues import refuse_build
from archive_tool.pretrained import folder as saved_folder
from archive_tool.pretrained.task import given
from archive_tool.publishing import live, proof
from handlers.builtin import SDK_HANDLERS
from handlers.fake_context import FakeContext
from handlers.pretrained.tasks import IMAGE_PROCESSOR, PROCESSOR, TASKS

if TYPE_CHECKING:
    from torch import nn

    from archive_tool.files import StrPath
    from archive_tool.pretrained.folder import Found

_TEXT: Final = "The quick brown fox jumps over the lazy dog."


def save(folder: Path, model: Any, parts: Mapping[str, Any], task: str | None) -> Found:
    """Save a model and its parts into a folder, and read that as a build does.

    Args:
        folder: for the files.
        model: the live model.
        parts: what its inputs are made with, by the names of `publish`; None for what is not given.
        task: what it is for; None to find it.

    Raises:
        BuildError: one of them cannot be saved, which is said before any is, or something is missing.
    """
    if task is not None:
        given(task)
    all_parts = {name: part for name, part in {"model": model, **parts}.items() if part is not None}
    for name, part in all_parts.items():
        if not hasattr(part, "save_pretrained"):
            raise BuildError(
                f"{name} is {type(part).__name__}, which has no save_pretrained",
                hint="give a model and a tokenizer, or processor, of transformers; any other model without them",
            )
    for part in all_parts.values():
        part.save_pretrained(folder)
    found = saved_folder.read(folder, asked=task)
    refuse_build(replace(problem, where=None) for problem in found.problems)  # that folder will be gone
    return found


def example_of(task: str, parts: Mapping[str, Any]) -> Any:
    """Return a request that any model of a task answers."""
    if TASKS[task].needs == IMAGE_PROCESSOR:
        return {"inputs": base64.b64encode(_image()).decode()}
    if TASKS[task].needs == PROCESSOR:
        return {"inputs": base64.b64encode(_sound()).decode()}
    if task == "question-answering":
        return {"inputs": {"question": "Who jumps?", "context": _TEXT}}
    if task == "zero-shot-classification":
        return {"inputs": _TEXT, "parameters": {"candidate_labels": ["animals", "weather"]}}
    if task == "text-generation":  # of which the model may say that tokens are drawn
        return {"inputs": _TEXT, "parameters": {"do_sample": False, "max_new_tokens": 8}}
    if task == "fill-mask":
        return {"inputs": f"The quick brown {getattr(parts['tokenizer'], 'mask_token', None)} jumps."}
    return {"inputs": _TEXT}


def _image() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def _sound() -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 16_000))
    return stream.getvalue()


def answer(model: nn.Module, found: Found, request: Any, config_file: StrPath | None) -> Any:
    """Answer a request with the live model, by the handler that the archive gets.

    Raises:
        BuildError: it is refused, or fails.
    """
    device = live.device_of(model)
    record = {"path": ".", "task": found.task, "architecture": found.architecture or None}
    context = FakeContext(
        found.folder,
        manifest={"model": {}, "torchmar": {"pretrained": record}},
        config=yaml.safe_load(Path(config_file).read_bytes()) if config_file else {},
        gpu_id=(device.index or 0) if device.type == "cuda" else None,
    )
    handler = getattr(handlers, SDK_HANDLERS[found.handler])()
    # Everything but the model itself comes from the files, as in the archive.
    handler.load_model = lambda _: model
    with _as_it_was(model):
        handler.initialize(context)
        (reply,) = handler.handle(context.show([request]), context)
    status = context.get_response_status(0)[0]
    if status != 200:
        message = reply.get("message") if isinstance(reply, dict) else reply
        raise BuildError(f"the live model answers the example with {status}: {message}", hint="give example=...")
    return json.loads(json.dumps(reply))


@contextmanager
def _as_it_was(model: Any) -> Iterator[None]:
    """Give a model its mode and its settings back."""
    training, cache = model.training, getattr(model.config, "use_cache", None)
    try:
        yield
    finally:
        model.train(training)
        if cache is not None:
            model.config.use_cache = cache


def prove(archive: Path, handler: str, request: str, expected: Any, *, tolerance: float) -> None:
    """Answer a request with the archive, in another process, and compare it with the live model's answer.

    Raises:
        BuildError: the archive does not load, fails, or answers otherwise.
    """
    ((status, reply),) = proof.replies(archive, handler, [request])
    if status != 200:
        raise BuildError(f"the archive answers its own example with {status}: {reply}")
    if told := compare.json_difference(expected, reply, relative=tolerance, absolute=tolerance):
        raise BuildError(
            f"the archived model does not answer as the live one does: {told}",
            hint="is it random, or was it changed in a way that save_pretrained does not keep?",
        )
