"""Writing a live model in each of the formats that an archive may hold."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch

from archive_tool.errors import BuildError
from archive_tool.publishing import live, source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import nn

#: The model file of an eager model; no user's module has this name.
MODEL_FILE: Final = "published_model.py"
_EXPECTED: Final = frozenset({"torch", "torchvision", "numpy"})


@dataclass(frozen=True)
class Files:
    """The files that a format wrote into its folder.

    Attributes:
        serialized: the weights or the program.
        model_file: the Python file with the model's class, for weights.
        modules: a folder with the user's own modules, for weights.
        warnings: probable mistakes.
    """

    serialized: Path
    model_file: Path | None = None
    modules: Path | None = None
    warnings: tuple[str, ...] = field(default=())


def write_eager(model: nn.Module, example: live.Example, folder: Path, origin: object) -> Files:  # noqa: ARG001
    """Write the state dict, and the source that creates the model.

    Raises:
        BuildError: the source cannot be put into an archive.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise BuildError("the model is TorchScript, which has its own code", hint='publish(..., format="torchscript")')
    taken = source.take(type(model) if origin is None else origin)
    if origin is None:
        _check_no_arguments(model)
    model_file = folder / MODEL_FILE
    model_file.write_text(_model_file(taken), encoding="utf-8")
    modules = folder / "modules"
    modules.mkdir()
    for name, content in taken.files.items():
        path = modules / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    serialized = folder / "model.pt"
    torch.save(_on_cpu(model.state_dict()), serialized)
    needed = sorted(taken.packages - _EXPECTED)
    notes = (
        (f"the model's source imports {', '.join(needed)}, which must be installed where the server runs",)
        if needed
        else ()
    )
    return Files(serialized, model_file, modules, notes)


def _check_no_arguments(model: nn.Module) -> None:
    import inspect

    kinds = inspect.Parameter
    needed = [
        name
        for name, one in inspect.signature(type(model)).parameters.items()
        if one.default is kinds.empty and one.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    ]
    if needed:
        kind = type(model).__name__
        raise BuildError(
            f"{kind}() needs {', '.join(needed)}, which the archive would not know",
            hint=f"write a function without arguments that returns {kind}(...), and give it: source=create_net",
        )


def _model_file(taken: source.Source) -> str:
    first = taken.name.partition(".")[0]
    return (
        f'"""Creates the model that was published: {taken.name}() of the module {taken.module}."""\n\n'
        f"from torch import nn\n\n"
        f"from {taken.module} import {first}\n\n\n"
        f"class PublishedModel(nn.Module):\n"
        f'    """Gives what {taken.name}() gives: creating this class creates that."""\n\n'
        f"    def __new__(cls):\n"
        f"        return {taken.name}()\n"
    )


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    moved = copy.copy(state)  # with its attribute `_metadata`, which loading asks for
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            moved[name] = value.detach().cpu()
    return moved


def write_torchscript(model: nn.Module, example: live.Example, folder: Path) -> Files:
    """Write TorchScript: the model's code with its control flow or, if that cannot be compiled, a trace."""
    path = folder / "model.pt"
    if isinstance(model, torch.jit.ScriptModule):
        torch.jit.save(model, path)
        return Files(path)
    notes: tuple[str, ...] = ()
    with quietly(), live.evaluating(model):
        try:
            module = torch.jit.script(model)
        except Exception as refused:  # the compiler may raise anything
            inputs = _inputs(model, example)
            module = _exported("TorchScript", lambda: torch.jit.trace(model, inputs, strict=False))  # type: ignore[no-untyped-call]
            notes = (
                f"torch.jit.script cannot compile the model ({_first_line(refused)}), so it was traced: what its code "
                "decides by an input's values is fixed to what it decided for the example",
            )
        torch.jit.save(module, path)
    return Files(path, warnings=notes)


def write_exported(model: nn.Module, example: live.Example, folder: Path) -> Files:
    """Write a program of torch.export."""
    path = folder / "model.pt2"
    with quietly():
        torch.export.save(_program(model, example), path)
    return Files(path)


def write_aotinductor(model: nn.Module, example: live.Example, folder: Path) -> Files:
    """Compile a program of torch.export into an AOTInductor package, for the model's device."""
    path = folder / "model.pt2"
    with quietly():
        compile_program(_program(model, example), path)
    device = live.device_of(model).type
    note = f"the package is native code for this kind of {device} and this version of torch, and runs on no other"
    return Files(path, warnings=(note,))


def compile_program(
    program: torch.export.ExportedProgram,
    path: Path,
    *,
    settings: dict[str, Any] | None = None,
    hint: str | None = None,
) -> None:
    """Compile a program into an AOTInductor package; `path` ends in .pt2, `settings` are inductor's.

    Raises:
        BuildError: it cannot be compiled.
    """
    from torch._inductor import aoti_compile_and_package

    # By default the code is for the current number of threads of this process.
    configs = {"cpp.dynamic_threads": True, **(settings or {})}
    with torch.no_grad():  # else nothing is frozen
        _exported(
            "AOTInductor",
            lambda: aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs),
            hint=hint,
        )


def write_onnx(model: nn.Module, example: live.Example, folder: Path) -> Files:
    """Write an ONNX model, as one file."""
    _check_onnx()
    path = folder / "model.onnx"
    with quietly(), live.evaluating(model):
        _exported(
            "ONNX",
            lambda: torch.onnx.export(
                model,
                _inputs(model, example),
                path,
                dynamo=True,
                dynamic_shapes=_dynamic(example),
                input_names=list(example.inputs),
                output_names=list(example.outputs),
                external_data=False,
                verbose=False,
            ),
        )
    return Files(path)


def _check_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BuildError(
            f"publishing as ONNX needs the package {error.name}", hint="pip install 'torchmar[onnx]'"
        ) from error


FORMATS: Final[dict[str, Callable[[nn.Module, live.Example, Path], Files] | None]] = {
    "eager": None,  # the one that needs a source
    "torchscript": write_torchscript,
    "export": write_exported,
    "aotinductor": write_aotinductor,
    "onnx": write_onnx,
}


def _program(model: nn.Module, example: live.Example) -> torch.export.ExportedProgram:
    return export_program(model, _inputs(model, example), dynamic_shapes=_dynamic(example))


def export_program(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    named: dict[str, torch.Tensor] | None = None,
    *,
    dynamic_shapes: Any,
    hint: str | None = None,
) -> torch.export.ExportedProgram:
    """Make a program of torch.export from the model in eval mode.

    Raises:
        BuildError: torch cannot export it; the message has the first line of torch's error.
    """
    with live.evaluating(model):
        program: torch.export.ExportedProgram = _exported(
            "torch.export",
            lambda: torch.export.export(model, inputs, named or None, dynamic_shapes=dynamic_shapes),
            hint=hint,
        )
    return program


def _inputs(model: nn.Module, example: live.Example) -> tuple[torch.Tensor, ...]:
    device = live.device_of(model)
    return tuple(one.to(device) for one in example.inputs.values())


def _dynamic(example: live.Example) -> tuple[dict[int, Any], ...]:
    """Return which dimensions of each input may have any size."""
    free = torch.export.Dim.DYNAMIC
    return tuple(
        {index: free for index, size in enumerate(example.shapes[name]) if size is None} for name in example.inputs
    )


def _exported(what: str, export: Callable[[], Any], *, hint: str | None = None) -> Any:
    try:
        return export()
    except Exception as error:  # exporters may raise anything
        raise BuildError(
            f"the model cannot be exported by {what}: {type(error).__name__}: {_first_line(error)}",
            hint=hint
            or 'publish it in another format, such as "eager"; or, if it takes one number of rows only, with '
            "batch=False",
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress the messages of exporters about their own future and their names for things."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
