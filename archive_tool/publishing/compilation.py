"""A script that compiles the model of an unpacked archive ahead of time; `torchmar build --aot` starts it.

    python compilation.py FOLDER TASK REPORT

The archive's own handler loads the model and gets the archive's samples, one by one and together. The model is compiled
for the inputs with which the handler then calls it: a dimension that differs between calls may have any size.

TASK is JSON: {"handler": module, "sdk": class or null, "manifest": {...}, "config": {...}, "output": folder, "samples":
[{"name", "file", "contentType"}, ...]}. REPORT becomes {"compiled": {...}, "warnings": [...], "difference": ...}, where
"compiled" is what the manifest records, its path relative to the output; or {"error": {"message", "hint"}}.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from handlers.optimization.settings import Optimization

    Call = tuple[tuple[Any, ...], dict[str, Any]]

_ROOT = Path(__file__).resolve().parents[2]
_SHOWN = 300
_NOT_EXPORTED = (
    "rewrite what torch names so that it does not depend on the values of tensors (torch.cond, torch.where), or build "
    "without --aot: `optimize: {compile: true}` compiles when the model is loaded"
)

_NOT_COMPILED = "this is an error of torch's compiler; build without --aot, or with another version of torch"


def compile_archive(folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Do the task; return the report.

    Raises:
        BuildError: the model cannot be compiled.
    """
    import torch
    from torch import nn

    from archive_tool.errors import BuildError
    from handlers.optimization import aot
    from handlers.optimization.apply import cast_to

    handler, context, optimization = _load(folder, task)
    model = handler.model
    if not isinstance(model, nn.Module):
        raise BuildError(
            f"the handler's model is {type(model).__name__}, and only a module of torch can be compiled",
            hint="leave --aot out; a program that is compiled already, and ONNX, gain nothing from it",
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise BuildError(
            "the model is TorchScript, which torch.export does not take",
            hint="build from the eager model, its class with --model-file and its weights with --serialized-file, or "
            "from a program of torch.export",
        )
    calls, refused = _calls(handler, context, model, task["samples"])
    specs, shapes = _specs(calls)
    device = handler.device or torch.device("cpu")
    to_compile = _computing_in(model, cast_to(optimization), device)
    package, fixed = _compile(to_compile, calls, specs, shapes, Path(task["output"]))
    if fixed:
        specs = [{**spec, "shape": list(one.shape)} for spec, one in zip(specs, _flat(calls[0]), strict=True)]
    difference = _compare(package, model, calls, specs, device, optimization.limit)
    here = aot.machine(device)
    compiled = {"path": package.name, **here, "dtype": optimization.dtype, "inputs": specs}
    return {"compiled": compiled, "warnings": [one for one in (refused, fixed) if one], "difference": difference}


def _computing_in(model: Any, dtype: torch.dtype | None, device: torch.device) -> Any:
    """Return the model with the dtype that the section `optimize` asks for: its weights are cast at compilation."""
    if dtype is None:
        return model
    import torch
    from torch import nn

    from handlers.optimization.output_difference import widened

    class Autocast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any, **named: Any) -> Any:
            with torch.autocast(device.type, dtype):
                return widened(self.model(*inputs, **named))

    return Autocast()


# ---- what the handler calls the model with ---------------------------------------------------------------------------


def _load(folder: Path, task: dict[str, Any]) -> tuple[Any, Any, Optimization]:
    """Return the initialized handler, its context, and the section `optimize` of the archive's config."""
    import torch

    from archive_tool.errors import BuildError
    from archive_tool.publishing.replay import handler_class
    from handlers.base import BaseHandler
    from handlers.fake_context import FakeContext
    from handlers.optimization import settings as optimize

    try:
        if task["sdk"] is None:
            found = handler_class(task["handler"])
        else:
            import handlers

            found = getattr(handlers, task["sdk"])
    except Exception as error:  # the user's module may raise anything
        raise _failed("the archive's handler cannot be imported", error) from error
    if not (isinstance(found, type) and issubclass(found, BaseHandler)):
        raise BuildError(
            f"the handler {task['handler']} is not one of the SDK's, and would not load what is compiled",
            hint="derive it from handlers.BaseHandler, or leave --aot out",
        )
    config = task["config"] or {}
    # Optimizations that would be done at load time: the model is compiled here.
    plain = {key: value for key, value in config.items() if key not in ("pt2", optimize.SECTION)}
    gpu = 0 if config.get("deviceType") != "cpu" and torch.cuda.is_available() else None  # as TorchServe chooses
    context = FakeContext(folder, manifest=task["manifest"], config=plain, gpu_id=gpu)
    try:
        optimization = optimize.read(config) or optimize.Optimization()
        handler = found()
        handler.initialize(context)
    except Exception as error:
        raise _failed("the archive cannot be loaded", error) from error
    return handler, context, optimization


class _Recorder:
    """A stand-in for the model that records what the handler calls it with."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.calls: list[Call] = []
        self.refused: Exception | None = None

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        # Copies: the model may change its inputs. They are made here, outside of inference mode.
        call = tuple(map(_copied, inputs)), {name: _copied(one) for name, one in named.items()}
        try:
            output = self._model(*inputs, **named)
        except Exception as error:
            self.refused = error  # a handler of the SDK then asks request by request
            raise
        self.calls.append(call)
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _copied(value: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return value
    with torch.inference_mode(mode=False):
        return value.detach().clone(memory_format=torch.contiguous_format)


def _calls(handler: Any, context: Any, model: Any, samples: list[dict[str, Any]]) -> tuple[list[Call], str]:
    """Return the first call of the model for each sample alone, for the first one twice, and for all together.

    Return also a warning if the model takes no batch, and so is called for each request; else an empty text.
    """
    from archive_tool.errors import BuildError

    requests = [(one["name"], _request(one)) for one in samples]
    batches = [[one] for one in requests] + [[requests[0]] * 2]
    if len(requests) > 1:
        batches.append(requests)
    found: list[Call] = []
    refused = ""
    for batch in batches:
        recorder = _Recorder(model)
        handler.model = recorder
        name = batch[0][0]
        try:
            rows = context.show([request for _, request in batch])
            replies = handler.handle(rows, context)
        except Exception as error:
            raise _failed(f"the handler fails on the sample {name}", error) from error
        finally:
            handler.model = model
        for index, reply in enumerate(replies):
            if (status := context.get_response_status(index)[0]) >= 400:
                raise BuildError(
                    f"the handler answers the sample {batch[index][0]} with {status}: {str(reply)[:_SHOWN]}",
                    hint="--aot needs a sample that the model can answer",
                )
        if not recorder.calls:
            raise BuildError(
                f"the handler answers the sample {name} without calling its model",
                hint="--aot needs a handler that calls self.model, and a sample for which it does",
            )
        found.append(recorder.calls[0])
        if recorder.refused is not None:
            refused = (
                f"the model takes no batch of {len(batch)} samples, so it was compiled for those that it takes: "
                f"{_first_line(recorder.refused)}"
            )
    return found, refused


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:_SHOWN]


def _request(sample: dict[str, Any]) -> Any:
    """Make a request of a sample as the frontend and a worker make it."""
    from handlers.fake_context import Request

    body: Any = Path(sample["file"]).read_bytes()
    kind = sample["contentType"] or ""
    if kind == "application/json":
        body = json.loads(body)
    elif kind.startswith("text/"):
        body = body.decode()
    return Request({"body": body}, {"content-type": kind})


def _flat(call: Call) -> list[Any]:
    return [*call[0], *call[1].values()]


def _specs(calls: list[Call]) -> tuple[list[dict[str, Any]], list[tuple[int | None, ...]]]:
    """Return the inputs as the manifest records them, and their shapes; None is a size that varies between calls."""
    import torch

    from archive_tool.errors import BuildError
    from handlers.loading.signature import DTYPES

    names = [*map(str, range(len(calls[0][0]))), *calls[0][1]]
    for name, value in zip(names, _flat(calls[0]), strict=True):
        if not isinstance(value, torch.Tensor) or str(value.dtype).removeprefix("torch.") not in DTYPES:
            given = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise BuildError(
                f"the handler calls the model with {given} as its argument {name}; tensors of numbers can be compiled",
                hint="wrap the model in a module whose forward takes tensors only",
            )
    shapes = []
    for call in calls:
        if len(call[0]) != len(calls[0][0]) or call[1].keys() != calls[0][1].keys():
            raise BuildError("the handler calls the model with other arguments for other samples")
        # Named ones may come in another order.
        values = [*call[0], *(call[1][name] for name in calls[0][1])]
        if any(
            one.dtype != first.dtype or one.dim() != first.dim()
            for one, first in zip(values, _flat(calls[0]), strict=True)
        ):
            raise BuildError(
                "the handler calls the model with other types of tensors, or other numbers of dimensions, for other "
                "samples",
                hint="give samples of one kind",
            )
        shapes.append([tuple(one.shape) for one in values])
    free = [
        tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*several, strict=True))
        for several in zip(*shapes, strict=True)
    ]
    specs = [
        {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": list(shape)}
        for name, value, shape in zip(names, _flat(calls[0]), free, strict=True)
    ]
    return specs, free


# ---- compiling, and what comes of it ---------------------------------------------------------------------------------


def _compile(
    model: Any, calls: list[Call], specs: list[dict[str, Any]], shapes: list[tuple[int | None, ...]], output: Path
) -> tuple[Path, str]:
    """Compile the model into a folder; if its sizes cannot vary, for those of the first sample alone.

    Return the package, unpacked if this torch can load it so, and a warning, empty if the sizes may vary.
    """
    from archive_tool.errors import BuildError
    from archive_tool.publishing import exports
    from handlers.loading import unpacking

    path = output / "model.pt2"
    free = any(None in shape for shape in shapes)
    # The largest call: sizes of 0 and 1 would be taken for constants.
    example = max(calls, key=lambda call: sum(one.numel() for one in _flat(call))) if free else calls[0]
    fixed = ""
    with exports.quietly():
        try:
            program = _export(model, example, specs, shapes)
        except BuildError as error:
            if not free:
                raise
            program = _export(model, calls[0], specs, [tuple(one.shape) for one in _flat(calls[0])])
            shown = ", ".join(str(list(one.shape)) for one in _flat(calls[0]))
            fixed = (
                f"the model was compiled for inputs of {shown} alone, and the plain one answers all others, for "
                f"other sizes cannot be compiled: {error.message}"
            )
        exports.compile_program(program, path, settings=_settings(), hint=_NOT_COMPILED)
    if not unpacking.takes_folders():
        return path, fixed
    folder = output / "model"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    path.unlink()
    return folder, fixed


def _settings() -> dict[str, Any]:
    from torch._inductor import config

    settings: dict[str, Any] = {"freezing": True}  # the weights are constants, packed as the kernels need them
    if hasattr(config.aot_inductor, "precompile_headers"):
        settings["aot_inductor.precompile_headers"] = False  # pays off from the second compilation on
    return settings


def _export(
    model: Any, call: Call, specs: list[dict[str, Any]], shapes: list[tuple[int | None, ...]]
) -> torch.export.ExportedProgram:
    import torch

    from archive_tool.errors import BuildError
    from archive_tool.publishing import exports

    inputs, named = call
    free = torch.export.Dim.DYNAMIC
    dynamic = [{index: free for index, size in enumerate(shape) if size is None} for shape in shapes]
    by_name = dict(zip([spec["name"] for spec in specs[len(inputs) :]], dynamic[len(inputs) :], strict=True))
    try:
        # By the names of the arguments, as torch counts them: several may be one, such as *inputs.
        dims = dict(inspect.signature(model.forward).bind(*dynamic[: len(inputs)], **by_name).arguments)
    except (TypeError, ValueError) as error:
        raise BuildError(f"the model's forward cannot be read: {error}", hint=_NOT_EXPORTED) from error
    return exports.export_program(
        model,
        inputs,
        {name: named[name] for name in by_name},
        dynamic_shapes=dims,
        hint=_NOT_EXPORTED,
    )


def _compare(
    package: Path, model: Any, calls: list[Call], specs: list[dict[str, Any]], device: torch.device, limit: float
) -> float:
    """Run the compiled model as a worker will; return its largest difference from the plain model."""
    import torch

    from archive_tool.errors import BuildError
    from handlers.loading import programs, signature
    from handlers.optimization import aot
    from handlers.optimization.output_difference import compare
    from handlers.optimization.torch_compile import CompiledCodeError

    inputs = tuple(signature.read_tensor(spec) for spec in specs)
    compiled = aot.CompiledModel(programs.load_compiled(package, device), model, inputs)
    largest = 0.0
    for positional, named in calls:
        with torch.inference_mode():
            expected = model(*positional, **named)
            try:
                found = compiled(*positional, **named)
            except CompiledCodeError as error:
                shapes = ", ".join(str(list(one.shape)) for one in _flat((positional, named)))
                raise BuildError(f"the compiled model fails on inputs of {shapes}: {error}") from error
        largest = max(largest, compare(expected, found).size)
    if not largest <= limit:
        raise BuildError(
            f"the compiled model does not give what the plain one gives: they differ by {largest:.3g} of the largest "
            f"number, and {limit:g} is allowed",
            hint="if such answers are good enough, set optimize.tolerance in the config file; if the model is random, "
            "build it without --aot",
        )
    return largest


def _failed(what: str, error: Exception) -> Exception:
    from archive_tool.errors import BuildError

    text = getattr(error, "message", "") or str(error).strip() or type(error).__name__
    return BuildError(f"{what}: {type(error).__name__}: {text}", hint="torchmar check tries the archive without --aot")


# ---- the process -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _surroundings(folder: str) -> Iterator[None]:
    """Find the archive's modules first, as a worker does, and this package last."""
    sys.path[0] = folder  # in place of this script's folder, whose modules have common names
    sys.path.append(str(_ROOT))
    sys.dont_write_bytecode = True
    yield


def main(folder: str, task_file: str, report_file: str) -> None:
    """Do the task and write the report."""
    with _surroundings(folder):
        from archive_tool.errors import BuildError

        task = json.loads(Path(task_file).read_text(encoding="utf-8"))
        try:
            report = compile_archive(Path(folder), task)
        except BuildError as error:
            report = {"error": {"message": error.message, "hint": error.hint}}
        Path(report_file).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
