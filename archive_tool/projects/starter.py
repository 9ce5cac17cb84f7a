"""Writing a first project file, and a handler that fits the model, from what a folder holds: ``torchmar init``."""

from __future__ import annotations

import ast
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from archive_tool.analysis import python_source
from archive_tool.building.options import BuildOptions
from archive_tool.errors import BuildError, TargetExistsError
from archive_tool.issues import refuse_build
from archive_tool.metadata.names import name_of_folder
from archive_tool.pretrained import folder as pretrained
from archive_tool.projects import project_file as project
from archive_tool.weights.formats import Format, sniff_file
from handlers.builtin import SDK_HANDLERS

KINDS: Final = ("tensor", "image", "custom")
_HANDLER: Final = "handler.py"
_WEIGHTS: Final = (Format.STATE_DICT, Format.LEGACY_PICKLE, Format.SAFETENSORS)
_LABELS: Final = "index_to_name.json"
_METHODS: Final = frozenset({"handle", "preprocess", "postprocess", "initialize"})

_IMAGE: Final = '''\
"""Classifies images: PNG, JPEG or another format in, the most probable labels out."""

from handlers import ImageClassifier


class Handler(ImageClassifier):
    """As it stands: RGB, scaled and cut to 224 x 224 as for ImageNet; the five most probable labels."""

    topk = 5
    # For another size or other colours:
    # image_mode = "L"
    # image_processing = transforms.Compose([transforms.Resize((28, 28)), transforms.ToTensor()])
'''
_CUSTOM: Final = '''\
"""Answers requests with the model; change the two hooks to what your clients send and expect."""

from handlers import BadInputError, BaseHandler


class Handler(BaseHandler):
    """Loads the model by itself; a hook that you remove does what the SDK does."""

    def preprocess(self, data):
        """Turn a list of requests into the model's input, a tensor of as many rows."""
        for row in data:
            if isinstance(row.get("body"), dict):
                raise BadInputError("send a list of numbers")
        return super().preprocess(data)

    def postprocess(self, data):
        """Turn the model's output into a list with one reply for each request."""
        return [{"scores": row} for row in data.tolist()]
'''
_PRETRAINED: Final = '''\
"""Answers requests with the pretrained model; change the two hooks to what your clients send and expect."""

from handlers import {base}


class Handler({base}):
    """Loads the model by itself; a hook that you remove does what the SDK does."""

    def preprocess_one(self, data, context):
        """Read one request: a text, bytes, or parsed JSON."""
        return super().preprocess_one(data, context)

    def postprocess_one(self, output, context):
        """Turn what the model gives for one request into the reply."""
        return super().postprocess_one(output, context)
'''
_REMOTE_CODE: Final = (
    "# It runs code of its own, the Python files here. If you trust it:",
    "# trust-remote-code: true",
)
_SOURCES: Final = {"image": _IMAGE, "custom": _CUSTOM}


@dataclass(frozen=True)
class Started:
    """The files that were written.

    Attributes:
        project: the project file.
        written: all files, including the project file.
        kind: the kind of model that the handler is for; None for an existing handler.
    """

    project: Path
    written: tuple[Path, ...]
    kind: str | None


def start(folder: Path, *, kind: str | None = None, force: bool = False) -> Started:
    """Write ``torchmar.yaml`` for the model in a folder, and a handler if there is none. Nothing of it is run.

    Args:
        folder: existing.
        kind: "tensor", "image" or "custom"; None to choose by the files. A folder of ``save_pretrained`` needs none.
        force: replace a project file. A handler is never replaced.

    Raises:
        BuildError: there is no model in the folder, or it is not clear which of several files it is.
        TargetExistsError: there is a project file, and force is not set.
    """
    if kind is not None and kind not in KINDS:
        raise BuildError(f"{kind!r} is no kind of model", where="--kind", hint=f"choose one of {', '.join(KINDS)}")
    if not folder.is_dir():
        raise BuildError(f"{folder} is not a directory", hint=f"mkdir -p {folder}")
    target = folder / project.NAME
    if os.path.lexists(target) and not force:
        raise TargetExistsError(f"{target} exists already", hint="give --force (-f) to replace it")
    if pretrained.is_one(folder):
        return _start_pretrained(folder, target, kind)
    found = _look(folder)
    written = []
    handler = found["handler"]
    if handler is None or kind is not None:
        kind = kind or ("image" if found["extra_files"] else "tensor")
        handler = "tensor_handler"
        if kind in _SOURCES:
            handler = _free_name(folder, kind)
            path = folder / handler
            path.write_text(_SOURCES[kind], encoding="utf-8")
            written.append(path)
    options = BuildOptions(**found | {"model_name": name_of_folder(folder), "handler": handler})
    target.write_text(_project(options, kind), encoding="utf-8")
    return Started(target, (target, *written), kind)


def _start_pretrained(folder: Path, target: Path, kind: str | None) -> Started:
    """Write the project file of a folder of ``save_pretrained``, and a handler only if one is asked for."""
    if kind not in (None, "custom"):
        raise BuildError(
            f"a model of the kind {kind} has no handler in a folder of save_pretrained",
            where="--kind",
            hint="leave --kind out, which needs no code, or take custom",
        )
    found = pretrained.read(folder, trust_remote_code=True)  # whoever builds it is asked
    refuse_build(found.problems)
    _, handlers = _sources(sorted(folder.glob("*.py")))
    written, handler = [target], _one("handler", handlers, folder) or ""
    if kind is not None:
        handler = _free_name(folder, "pretrained")
        (folder / handler).write_text(_PRETRAINED.format(base=SDK_HANDLERS[found.handler]), encoding="utf-8")
        written.append(folder / handler)
    options = BuildOptions(
        model_name=name_of_folder(folder),
        handler=handler,
        pretrained=".",
        task=found.task,
        trust_remote_code=found.remote_code,
        requirements_file=_beside(folder, "requirements.txt"),
        config_file=_beside(folder, "model-config.yaml"),
    )
    target.write_text(_project(options, kind), encoding="utf-8")
    return Started(target, tuple(written), kind)


def _beside(folder: Path, name: str) -> str | None:
    return name if (folder / name).is_file() else None


def _look(folder: Path) -> dict[str, Any]:
    """Find the files that are options of a build; None for missing ones."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    kinds = {path.name: sniff_file(path) for path in files if path.suffix != ".py"}
    programs = [name for name, kind in kinds.items() if kind.is_program]
    weights = [name for name, kind in kinds.items() if kind in _WEIGHTS]
    models, handlers = _sources([path for path in files if path.suffix == ".py"])
    serialized = _one("model", programs or weights, folder)
    model_file = None
    if not programs:
        model_file = _one("class of a model", models, folder)
        if weights and model_file is None:
            raise BuildError(
                f"{serialized} holds weights, and no Python file in {folder} defines a subclass of nn.Module",
                hint="put the file with the model's class there, or TorchScript: torch.jit.script(model).save(...)",
            )
        if model_file is None:
            raise BuildError(
                f"there is no model in {folder}",
                hint="put the weights there with the Python file of the model's class, or TorchScript, ONNX or .pt2",
            )
    names = {path.name for path in files}
    return {
        "serialized_file": serialized,
        "model_file": model_file,
        "handler": _one("handler", handlers, folder),
        "extra_files": _LABELS if _LABELS in names else None,
        "requirements_file": _beside(folder, "requirements.txt"),
        "config_file": _beside(folder, "model-config.yaml"),
    }


def _one(what: str, names: list[str], folder: Path) -> str | None:
    if len(names) > 1:
        raise BuildError(
            f"{folder} holds more than one {what}: {', '.join(names)}",
            hint=f"move the others away, or write {project.NAME} by hand",
        )
    return names[0] if names else None


def _sources(paths: list[Path]) -> tuple[list[str], list[str]]:
    """Separate the files that define a model's class from those that define a handler."""
    models, handlers = [], []
    for path in paths:
        try:
            tree = python_source.parse(path)
        except (python_source.SourceError, OSError):
            continue
        classes = python_source.names(tree).classes
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if "handle" in functions or any(_is_handler(node) for node in classes):
            handlers.append(path.name)
        elif any(_is_module(node) for node in classes):
            models.append(path.name)
    return models, handlers


def _is_handler(node: ast.ClassDef) -> bool:
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    return any(
        base.endswith(("Handler", "Classifier", "Detector", "Segmenter", "Embedder")) or base.startswith("Pretrained")
        for base in bases
    ) or bool("handle" in methods and methods & _METHODS - {"handle"})


def _is_module(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base) in ("nn.Module", "torch.nn.Module", "Module") for base in node.bases)


def _free_name(folder: Path, kind: str) -> str:
    for name in (_HANDLER, f"{kind}_handler.py"):
        if not os.path.lexists(folder / name):
            return name
    raise TargetExistsError(
        f"{folder / _HANDLER} exists already, and it is no handler that is known",
        hint=f"rename it, or write it into {project.NAME} yourself",
    )


def _project(options: BuildOptions, kind: str | None) -> str:
    comments = {
        None: "The handler that was here.",
        "tensor": 'Numbers in, numbers out: {"tensor_input": [[...]]}; no code is needed.',
    }
    comment = comments.get(kind, "Change it to what your clients send and expect.")
    extra = options.extra_files
    if options.pretrained:
        model = [
            "# The folder that save_pretrained wrote, and what the model is for. No handler is needed.",
            f"pretrained: {_quoted(str(options.pretrained))}",
            f"task: {options.task}",
            *_REMOTE_CODE[: 2 * options.trust_remote_code],
            f"handler: {_quoted(str(options.handler))}" if options.handler else "# handler: handler.py",
        ]
    else:
        model = [
            f"# {comment}",
            f"handler: {_quoted(str(options.handler))}",
            "",
            _line(options, "serialized_file", "model.pt    # weights, TorchScript, ONNX or .pt2"),
            _line(options, "model_file", "model.py    # the class of the model, for weights"),
        ]
    lines = [
        "# What the archive of this model is. Build it:  torchmar build --from torchmar.yaml",
        "# Paths are relative to this file. Options of the command line win.",
        "",
        f"model-name: {_quoted(options.model_name)}",
        f'version: "{options.version}"',
        "",
        *model,
        "",
        "# Further files. FILE=PLACE names a place in the archive, keep-folders keeps folders.",
        f"extra-files: [{extra}]" if extra else "# extra-files: [labels.txt, words=texts]",
        "# keep-folders: true",
        "",
        "# pip requirements of this model; workers, batch size and timeouts.",
        _line(options, "requirements_file", "requirements.txt"),
        _line(options, "config_file", "model-config.yaml"),
        "",
        "# A request to try it with and the expected answer; checked before the archive takes its place.",
        "# sample: [request.json=answer.json]",
        "# check: true",
        "",
        "# description: What the model is for.",
        "# licence: Apache-2.0",
        "# export-path: ../model_store",
    ]
    return "\n".join(lines) + "\n"


def _line(options: BuildOptions, name: str, example: str) -> str:
    key, value = name.replace("_", "-"), getattr(options, name)
    return f"# {key}: {example}" if value is None else f"{key}: {_quoted(value)}"


def _quoted(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", text) and yaml.safe_load(text) == text  # null is no text
    return text if plain else json.dumps(text)  # whose texts are YAML's, too
