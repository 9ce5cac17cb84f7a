"""From a live model to an archive in a model store, in one call."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from archive_tool import compare
from archive_tool.building import builder
from archive_tool.building.checks import check_config
from archive_tool.building.files import check_file, sdk_handler_source
from archive_tool.building.looked import Contents
from archive_tool.building.options import BuildOptions
from archive_tool.building.report import Report
from archive_tool.building.samples import FOLDER, GivenSample
from archive_tool.errors import BuildError, TargetExistsError
from archive_tool.metadata import names, record
from archive_tool.progress import steps
from archive_tool.publishing import evaluation, exports, live, pretrained, proof
from archive_tool.publishing.result import Published
from archive_tool.publishing.source import NoSourceError
from archive_tool.publishing.versions import next_version
from handlers.builtin import SDK_HANDLERS
from handlers.tensors.handler import TensorHandler, TensorRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from archive_tool.files import StrPath

_HANDLER: Final = "tensor_handler"
_EAGER: Final = "eager"
_PRETRAINED: Final = "pretrained"
_ADDRESS: Final = "http://127.0.0.1:8080"
_ATTEMPTS: Final = 20  # publishers that take the same number at the same time


def publish(
    model: nn.Module,
    *,
    name: str,
    model_store: StrPath = "model_store",
    tokenizer: object = None,
    processor: object = None,
    task: str | None = None,
    source: object = None,
    example: object = None,
    format: str | None = None,  # noqa: A002 - the name that a user expects
    x_test: object = None,
    y_test: object = None,
    metrics: Mapping[str, evaluation.Metric] | None = None,
    version: str | None = None,
    description: str | None = None,
    licence: str | None = None,
    batch: bool = True,
    shapes: live.Shapes | None = None,
    tolerance: float | None = None,
    extra_files: StrPath | Sequence[StrPath] | None = None,
    requirements_file: StrPath | None = None,
    config_file: StrPath | None = None,
    address: str = _ADDRESS,
    progress: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> Published:
    """Write an archive that serves a model's tensors over HTTP, once it is proved to answer as the live model does.

    The archive holds the model, a handler that takes and returns tensors as JSON, and, as its sample, the first row of
    the example with the model's answer. Before it takes its place it is loaded in a separate process and answers the
    example; if anything differs, nothing is left. The model runs in eval mode and then gets its old mode back.

    Args:
        model: the live model; wrappers of DataParallel and torch.compile are removed.
        name: the model's name: letters, digits, ``_``, ``-``, ``.``.
        model_store: an existing directory; the archive is ``<name>-<version>.mar`` in it.
        tokenizer, processor: of a model of transformers. It is saved as ``save_pretrained`` does, and served by the
            handler of its task, which takes texts, images or sound; see docs/pretrained.md.
        task: what such a model is for, by the Hub's name; None to find it.
        source: what creates the model, for the format "eager": a class, or a function without arguments. Its file goes
            into the archive, with all modules of yours that it imports. None for the model's own class.
        example: inputs of the model: a tensor or array of rows, a tuple in the order of the arguments of `forward`, or
            a dict by their names. None for the first rows of `x_test`. For a model of transformers, a request as JSON
            has it; None for a text, an image or a sound that any model takes.
        format: "eager" (weights and source), "torchscript", "export" (torch.export), "aotinductor" or "onnx". None for
            eager, or for export where the model's class was typed into a session that keeps no source.
        x_test, y_test: a test set, to measure and record how well the model does; see `evaluation.evaluate`.
        metrics: functions (outputs, targets) -> number by name, instead of accuracy or error.
        version: None counts up: one more than the highest version of this model in the store, "1.0" at first.
        description, licence: for the manifest; the licence is preferably an SPDX expression.
        batch: False for a model that takes the example's number of rows and no other.
        shapes: sizes to record for inputs by name, None for any size: ``{"ids": (None, None)}`` for texts of any
            length.
        tolerance: the largest difference between the archive's answers and the live model's, relative above 1 and
            absolute below; the sample states it for `torchmar check`. None for 1e-4, or 0.02 for 16-bit outputs.
        extra_files, requirements_file, config_file: as for `archive_tool.build`.
        address: of the server that the result's `curl` and `snippet` name.
        progress: called with each step as it begins; None prints them to stderr, on a terminal or in a notebook.
        quiet: report and print no steps.

    Raises:
        BuildError: the model cannot be archived so that it answers as it does here.
        TargetExistsError: the version is given, and is in the store already.
    """
    start, store = time.perf_counter(), _store(model_store)
    _check(store, name, version, tolerance, {"--requirements-file": requirements_file, "--config-file": config_file})
    options = BuildOptions(
        model_name=name,
        extra_files=extra_files,
        requirements_file=requirements_file,
        config_file=config_file,
        export_path=store,
        description=description,
        licence=licence,
    )
    tell = steps(progress, quiet=quiet)
    asked = _Asked(live.unwrap(model), options, store, version, example, tolerance, address, start, tell)
    tensors = _OfTensors(source, format, x_test, y_test, metrics, shapes)
    if tokenizer is None and processor is None:
        return _publish_tensors(asked, tensors, batch=batch)
    if given := tensors.given():
        raise BuildError(f"{given[0]} is about a model of tensors, and this one has a tokenizer or processor")
    return _publish_pretrained(asked, {"tokenizer": tokenizer, "processor": processor}, task)


@dataclass(frozen=True)
class _Asked:
    """What is asked of `publish`, whatever kind of model it is."""

    model: nn.Module
    options: BuildOptions
    store: Path
    version: str | None
    example: object
    tolerance: float | None
    address: str
    start: float
    steps: Callable[[str], None]

    def tell(self, step: str) -> None:
        self.steps(f"{self.options.model_name}: {step}")

    def scratch(self) -> tempfile.TemporaryDirectory[str]:
        """Make a folder beside the archive, so that its parts are written to the same disk."""
        return tempfile.TemporaryDirectory(prefix=".torchmar-publish-", dir=self.store)

    def told(self, built: builder.BuildResult, version: str, request: str) -> dict[str, Any]:
        """Return what is told of every model that was published, by the names of `Published`."""
        return {
            "name": self.options.model_name,
            "version": version,
            "path": built.path,
            "size": built.size,
            "seconds": time.perf_counter() - self.start,
            "request": request,
            "sample": f"{FOLDER}/0/input.json",
            "address": self.address,
        }


@dataclass(frozen=True)
class _OfTensors:
    """What is said of a model of tensors alone; see `publish`."""

    source: object
    format: str | None
    x_test: object
    y_test: object
    metrics: Mapping[str, evaluation.Metric] | None
    shapes: live.Shapes | None

    def given(self) -> list[str]:
        """Return the names of those that are given."""
        return [one.name for one in fields(self) if getattr(self, one.name) is not None]


def _publish_tensors(asked: _Asked, of: _OfTensors, *, batch: bool) -> Published:
    """Publish a model that takes and returns tensors."""
    model, name = asked.model, of.format
    if name is not None and name not in exports.FORMATS:
        raise BuildError(f"{name!r} is no format", hint=f"choose one of {', '.join(exports.FORMATS)}")
    asked.tell("running the model on its example")
    studied = live.study(model, _example(model, asked.example, of.x_test), batch=batch, shapes=of.shapes)
    inputs, outputs = studied.input_specs(), studied.output_specs()
    if of.y_test is not None:
        asked.tell("measuring on the test set")
    measured = _measure(model, of.x_test, of.y_test, has_rows=studied.has_rows, metrics=of.metrics)
    request, reply = _sample(*studied.first())
    allowed = proof.tolerance_for(outputs) if asked.tolerance is None else asked.tolerance
    differences: list[float] = []

    def prove(archive: Path) -> None:
        asked.tell("loading the archive in another process, and comparing its answers with the model's")
        trials = [(request, studied.first()[1]), (_sample(studied.inputs, studied.outputs)[0], studied.outputs)]
        differences.append(proof.prove(archive, _HANDLER, trials, tolerance=allowed, gpu=_gpu(model, name)))

    with asked.scratch() as scratch:
        asked.tell(f"writing {'the weights and their source' if name in (None, 'eager') else f'as {name}'}")
        chosen, files = _write(name, model, studied, Path(scratch), of.source)
        handler = Path(scratch, f"{_HANDLER}.py")
        handler.write_bytes(sdk_handler_source(SDK_HANDLERS[_HANDLER]))
        options = replace(
            asked.options,
            handler=handler,
            serialized_file=files.serialized,
            model_file=files.model_file,
            extra_files=[*_listed(asked.options.extra_files), *([files.modules] if files.modules else [])],
            record=record.Record(inputs=inputs, outputs=outputs, metrics=measured),
            sample=[_given(request, reply, allowed)],
        )
        asked.tell("building the archive")
        built, version = _build(asked.store, asked.version, options, prove)
    return Published(
        **asked.told(built, version, request),
        format=chosen,
        inputs=inputs,
        outputs=outputs,
        metrics=measured,
        largest_difference=differences[-1],
        warnings=(*studied.warnings, *files.warnings, *built.warnings),
    )


def _publish_pretrained(asked: _Asked, parts: Mapping[str, object], task: str | None) -> Published:
    """Publish a model of transformers with what its inputs are made with, by the names of `publish`."""
    coarse = any(one.dtype in (torch.float16, torch.bfloat16) for one in asked.model.parameters())
    allowed = asked.tolerance if asked.tolerance is not None else compare.COARSE if coarse else compare.RELATIVE
    with asked.scratch() as scratch:
        folder = Path(scratch, "saved")
        asked.tell("saving the model, and what its inputs are made with")
        found = pretrained.save(folder, asked.model, parts, task)
        asked.tell("running the model on its example")
        example = pretrained.example_of(found.task, parts) if asked.example is None else asked.example
        request = json.dumps(example)
        reply = pretrained.answer(asked.model, found, example, asked.options.config_file)

        def prove(archive: Path) -> None:
            asked.tell("loading the archive in another process, and comparing its answer with the model's")
            pretrained.prove(archive, found.handler, request, reply, tolerance=allowed)

        asked.tell("building the archive")
        sample = _given(request, json.dumps(reply), allowed)
        options = replace(asked.options, task=task, pretrained=folder, sample=[sample])
        built, version = _build(asked.store, asked.version, options, prove)
    return Published(
        **asked.told(built, version, request),
        format=_PRETRAINED,
        inputs=found.inputs,
        outputs=found.outputs,
        metrics={},
        largest_difference=allowed,
        warnings=built.warnings,
    )


def _given(request: str, reply: str, allowed: float) -> GivenSample:
    """Make the archive's sample, which states by how much a reply may differ."""
    stated = min(allowed, sys.float_info.max)  # JSON has no infinity
    return GivenSample("input.json", request.encode(), reply.encode(), "application/json", stated)


def _store(path: StrPath) -> Path:
    store = Path(path)
    if not store.is_dir():
        raise BuildError(f"the model store {store} is no directory", where="model_store", hint=f"mkdir -p {store}")
    return store.resolve()


def _check(
    store: Path, name: str, version: str | None, tolerance: float | None, files: Mapping[str, StrPath | None]
) -> None:
    """Refuse what cannot be published, before the model runs.

    Args:
        store, name, version, tolerance: see `publish`.
        files: for the archive, by the options of a build.

    Raises:
        BuildError: one of them cannot be used.
        TargetExistsError: the version is in the store already.
    """
    names.check_model_name(name)
    if version is not None and os.path.lexists(target := _target(store, name, version)):
        raise TargetExistsError(f"{target} exists already", hint="give another version=..., or None to count up")
    if tolerance is not None and not tolerance >= 0:
        raise BuildError(f"the tolerance is a number from 0 up, not {tolerance}")
    report = Report()
    for option, path in files.items():
        if path and check_file(Path(path), option, report) and option == "--config-file":
            check_config(Path(path), Contents(), report)
    report.raise_errors()


def _target(store: Path, name: str, version: str) -> Path:
    archive_name = f"{name}-{version}"
    names.check_model_name(archive_name)
    return store / (archive_name + names.SUFFIXES["default"])


def _build(
    store: Path, version: str | None, options: BuildOptions, before_publish: Callable[[Path], None]
) -> tuple[builder.BuildResult, str]:
    """Build with the given version, or with the next one that no other publisher takes meanwhile."""
    name = options.model_name
    for _ in range(_ATTEMPTS):
        number = version or next_version(store, name)
        archive_name = _target(store, name, number).name.removesuffix(names.SUFFIXES["default"])
        try:
            numbered = replace(options, version=number, archive_name=archive_name)
            return builder.build_archive(numbered, before_publish=before_publish), number
        except TargetExistsError as error:
            if version is not None or next_version(store, name) == number:
                raise TargetExistsError(error.message, hint="give another version=...") from error
    raise BuildError(f"others publish {name} in {store} all the time", hint="give the version yourself")


def _example(model: nn.Module, example: object, x_test: object) -> object:
    if example is not None:
        return example
    if x_test is None:
        raise BuildError("there is neither an example nor a test set", hint="give example=inputs, or x_test=...")
    rows = live.read_inputs(model, x_test)
    live.rows_of(rows)
    return tuple(one[: live.ROWS] for one in rows.values())  # by position: further arguments have no names


def _measure(
    model: nn.Module,
    x_test: object,
    y_test: object,
    *,
    has_rows: bool,
    metrics: Mapping[str, evaluation.Metric] | None,
) -> dict[str, float]:
    if y_test is None:
        if metrics:
            raise BuildError("metrics need a test set", hint="give x_test=... and y_test=...")
        return {}
    if x_test is None:
        raise BuildError("there is y_test, and no x_test", hint="give x_test=... too")
    return evaluation.evaluate(model, x_test, y_test, has_rows=has_rows, metrics=metrics)


def _sample(inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> tuple[str, str]:
    """Return a request, and the reply that the handler must give to it."""
    values = {name: one.tolist() for name, one in inputs.items()}
    document = {"tensor_input": values if len(values) > 1 else next(iter(values.values()))}
    try:
        request = json.dumps(document, allow_nan=False)
    except ValueError as error:
        raise BuildError("the example holds NaN or infinity, which JSON does not", hint="give another one") from error
    (reply,) = TensorHandler().postprocess([(TensorRequest(tuple(inputs.values())), dict(outputs))])
    return request, json.dumps(reply)


def _write(
    format_name: str | None, model: nn.Module, example: live.Example, folder: Path, source: object
) -> tuple[str, exports.Files]:
    """Write the model; return the chosen format, too."""
    chosen = format_name or _EAGER
    if write := exports.FORMATS[chosen]:
        return chosen, write(model, example, folder)
    try:
        return chosen, exports.write_eager(model, example, folder, source)
    except NoSourceError as error:
        if format_name is not None or source is not None:
            raise
        return _write_without_source(model, example, folder, error)


def _write_without_source(
    model: nn.Module, example: live.Example, folder: Path, missing: NoSourceError
) -> tuple[str, exports.Files]:
    try:
        files = exports.write_exported(model, example, folder)
    except BuildError as error:
        raise BuildError(f"{missing.message}; {error.message}", hint=missing.hint) from error
    note = f"{missing.message}; the archive holds a program of torch.export ({missing.hint})"
    return "export", replace(files, warnings=(note, *files.warnings))


def _gpu(model: nn.Module, format_name: str | None) -> int | None:
    """Return which GPU the proof needs: native code runs only on the device that it was compiled for."""
    device = live.device_of(model)
    return (device.index or 0) if device.type == "cuda" and format_name == "aotinductor" else None


def _listed(files: StrPath | Sequence[StrPath] | None) -> list[StrPath]:
    if files is None:
        return []
    return [files] if isinstance(files, str | os.PathLike) else list(files)
