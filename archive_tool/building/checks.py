"""Finds the mistakes that would only show when a server loads the archive. No code of the user is run.

Each check fails only where TorchServe is certain to fail; what merely looks odd is a warning.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any, Final

from archive_tool import files
from archive_tool.analysis import python_source, requirements
from archive_tool.building import handler_checks, import_checks
from archive_tool.weights.formats import LFS_MAX_BYTES, LFS_PREFIX, Format, sniff, sniff_file

if TYPE_CHECKING:
    from pathlib import Path

    from archive_tool.building.inputs import Inputs
    from archive_tool.building.report import Report
    from archive_tool.writing.plan import Plan

#: Built-in handlers that get their weights from elsewhere than the serialized file.
_NO_WEIGHTS: Final = frozenset({"vllm_handler", "trt_llm_handler"})
_LFS_HINT: Final = "fetch the real file with `git lfs pull`"


def check(inputs: Inputs, plan: Plan, report: Report) -> None:
    """Run every check on the inputs that could be found; what is wrong is noted in the report."""
    found = {member.source for member in plan.members}
    if inputs.serialized_file in found:
        check_serialized_file(inputs, report)
    if inputs.model_file in found and inputs.model_file and inputs.uses_python:
        check_model_file(inputs, report)
    if inputs.handler_file in found and inputs.handler_file and inputs.uses_python:
        handler_checks.check(inputs, report)
    if {inputs.serialized_file, inputs.model_file} <= found and inputs.uses_python:
        check_fit(inputs, report)
    if inputs.uses_python:
        import_checks.check(inputs, plan, report, imports_model_file=_loads_state_dicts(inputs))
    if inputs.requirements_file in found and inputs.requirements_file:
        check_requirements(inputs.requirements_file, report)
    if inputs.config_file in found and inputs.config_file:
        check_config(inputs.config_file, report)
    for member in plan.members:
        if member.source != inputs.serialized_file and not isinstance(member.source, bytes):
            _check_lfs(member.source, report)


def check_serialized_file(inputs: Inputs, report: Report) -> None:
    """Look into the serialized file: is it one, and does it go with the other inputs?"""
    path = inputs.serialized_file
    if path is None:
        return
    try:
        kind = sniff_file(path)
    except OSError as error:
        report.error(f"the serialized file cannot be read: {error.strerror}", where=str(path))
        return
    if kind is Format.EMPTY:
        report.error("the serialized file is empty", where=str(path), hint="save the model again")
    elif kind is Format.LFS_POINTER:
        report.error("the serialized file is a Git LFS pointer, not weights", where=str(path), hint=_LFS_HINT)
    elif kind is Format.TORCHSCRIPT and inputs.model_file:
        report.error(
            "the serialized file is TorchScript, which holds its own code, but a model file is given too",
            where=str(path),
            hint="leave --model-file out, or save weights: torch.save(model.state_dict(), ...); "
            "a module that the handler imports belongs into --extra-files",
        )
    elif kind is Format.AOT_LIBRARY:
        _check_library(path, inputs, report)
    elif _needs_model_file(inputs, kind):
        report.error(
            f"the serialized file holds no TorchScript but a {kind.value}, and {inputs.handler} cannot load it "
            "without the class of the model",
            where=str(path),
            hint="give the file with the class: --model-file, or save TorchScript: torch.jit.script(model).save(...)",
        )


def _check_library(path: Path, inputs: Inputs, report: Report) -> None:
    """Say what a library of AOTInductor, the older form, needs beside this torch and this kind of processor."""
    export = _config_section(inputs, "pt2").get("export")
    if inputs.built_in_handler and not (isinstance(export, dict) and export.get("aot_compile") is True):
        report.warning(
            "the serialized file is a compiled library, which TorchServe's own worker loads only if the config file "
            "says so; torchmar's does in any case",
            where=str(path),
            hint="write `pt2: {export: {aot_compile: true}}` there, or make a package (.pt2), which newer versions of "
            "torch go on loading: torch._inductor.aoti_compile_and_package",
        )


def _needs_model_file(inputs: Inputs, kind: Format) -> bool:
    return (
        kind in (Format.STATE_DICT, Format.SAFETENSORS)
        and not inputs.model_file
        and inputs.uses_python
        and inputs.built_in_handler
        and inputs.handler not in _NO_WEIGHTS
    )


def _check_lfs(path: Path, report: Report) -> None:
    try:
        if path.stat().st_size > LFS_MAX_BYTES:
            return
        with files.open_regular(path) as stream:
            is_pointer = stream.read(len(LFS_PREFIX)) == LFS_PREFIX
    except OSError as error:
        report.error(f"the file cannot be read: {error.strerror}", where=str(path))
        return
    if is_pointer:
        report.error("the file is a Git LFS pointer, not the file itself", where=str(path), hint=_LFS_HINT)


def check_model_file(inputs: Inputs, report: Report) -> None:
    """Check that the model file parses and defines a class."""
    path = inputs.model_file
    if path is None or (tree := handler_checks.parse(path, "model file", report)) is None:
        return
    from archive_tool.analysis import state_dict_match

    names = python_source.names(tree)
    if not names.classes and not names.dynamic:
        report.error(
            "the model file defines no class", where=str(path), hint="define the model's nn.Module class there"
        )
    elif len(names.certain_classes) > 1 and inputs.built_in_handler:
        listed = ", ".join(node.name for node in names.certain_classes)
        report.warning(
            f"the model file defines {len(names.certain_classes)} classes ({listed}); TorchServe's own handlers "
            "accept exactly one",
            where=str(path),
            hint="import the others from a module given with --extra-files",
        )
    elif (
        "__all__" not in names.bound and len(modules := state_dict_match.module_classes(tree)) > 1 and _uses_sdk(inputs)
    ):
        listed = ", ".join(node.name for node in modules)
        report.warning(
            f"the model file defines {len(modules)} subclasses of nn.Module ({listed}); the handler SDK serves one",
            where=str(path),
            hint="name it in the file's __all__, or move the others to a file of their own (--extra-files)",
        )


def check_fit(inputs: Inputs, report: Report) -> None:
    """Note tensors that surely do not go with the model's class, and weights that are more than tensors.

    Warnings only, and only where one of the handlers does the loading that load a state dict as it is.
    """
    path, model_file = inputs.serialized_file, inputs.model_file
    if path is None or model_file is None or not _loads_state_dicts(inputs):
        return
    from archive_tool.analysis import state_dict_match
    from archive_tool.weights import tensors

    try:
        with files.open_regular(path) as stream:
            weights = tensors.read(stream, sniff(stream))
        tree = python_source.parse(model_file)
    except (OSError, python_source.SourceError):
        return  # told already
    if weights is None:
        return
    if weights.needs and not _allows_code(inputs):
        report.warning(
            f"the serialized file is not only tensors: reading it needs {weights.needs[0]}, and could run code, which "
            "torch refuses from 2.6 on",
            where=str(path),
            hint="save the weights alone: torch.save(model.state_dict(), ...)",
        )
    keys = {tensor.name: tensor.shape for tensor in weights.tensors}
    for line, message, hint in state_dict_match.problems(tree, keys):
        report.warning(message, where=f"{model_file}:{line}", hint=hint)


def _handler_tree(inputs: Inputs) -> ast.Module | None:
    """The handler's syntax tree; None if there is none, which is told elsewhere."""
    path = inputs.handler_file
    try:
        return python_source.parse(path) if path else None
    except (OSError, python_source.SourceError):
        return None


def _uses_sdk(inputs: Inputs) -> bool:
    tree = _handler_tree(inputs)
    return tree is not None and python_source.imports_package(tree, "handlers") and _loads_state_dicts(inputs)


def _loads_state_dicts(inputs: Inputs) -> bool:
    """Whether the handler is a stock one or one of our SDK, or extends one and leaves the loading to it."""
    if inputs.built_in_handler:
        return inputs.handler not in _NO_WEIGHTS
    tree = _handler_tree(inputs)
    if tree is None or not any(python_source.imports_package(tree, package) for package in ("handlers", "ts")):
        return False
    own = {getattr(part, "name", None) for node in tree.body if isinstance(node, ast.ClassDef) for part in node.body}
    return not own & {"initialize", "_load_pickled_model", "_load_model"}


def _allows_code(inputs: Inputs) -> bool:
    """Whether the config file has ``handler: {weights_only: false}``."""
    return _config_section(inputs, "handler").get("weights_only") is False


def _config_section(inputs: Inputs, name: str) -> dict[str, Any]:
    """A section of the config file; empty if there is none, or it cannot be read, which is told elsewhere."""
    if inputs.config_file is None:
        return {}
    from archive_tool.config import effective

    try:
        text = files.read_regular(inputs.config_file)
    except OSError:
        return {}
    section = effective.understand(text).document.get(name)
    return section if isinstance(section, dict) else {}


def check_requirements(path: Path, report: Report) -> None:
    """Check every line that pip would read as a requirement; options, paths and addresses are left to pip."""
    try:
        text = files.read_text(path, encoding="utf-8-sig")
    except UnicodeDecodeError:
        report.error("the requirements file is not UTF-8", where=str(path), hint="save it as UTF-8")
        return
    except OSError as error:
        report.error(f"the requirements file cannot be read: {error.strerror}", where=str(path))
        return
    for line in requirements.parse(text):
        if line.problem is not None:
            report.error(f"{line.text!r} is not a requirement: {line.problem}", where=f"{path}:{line.number}")


def check_config(path: Path, report: Report) -> None:
    """Check a model-config file; see `schema.validate`."""
    try:
        text = files.read_regular(path)
    except OSError as error:
        report.error(f"the config file cannot be read: {error.strerror}", where=str(path))
        return
    # Here, because most builds have no config file and can do without the YAML library.
    from archive_tool.config import schema

    for problem in schema.validate(text):
        where = f"{path}:{problem.line}" if problem.line else str(path)
        note = report.error if problem.severity == "error" else report.warning
        note(problem.message, where=where, hint=problem.hint)
