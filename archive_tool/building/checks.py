"""Finding mistakes that would only show when a server loads the archive. No code of the user is run.

A check fails only where TorchServe is certain to fail; what merely looks odd is a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from archive_tool.analysis import python_source, requirements
from archive_tool.building import handler_checks, import_checks
from archive_tool.building.looked import NO_WEIGHTS
from archive_tool.weights.formats import LFS_MAX_BYTES, LFS_PREFIX, Format

if TYPE_CHECKING:
    from pathlib import Path

    from archive_tool.building.inputs import Inputs
    from archive_tool.building.looked import Contents, Looked
    from archive_tool.building.report import Report

_MODULE: Final = "torch.nn.Module"
_LFS_HINT: Final = "fetch the real file with `git lfs pull`"


def check(looked: Looked, report: Report) -> None:
    """Run every check on the inputs that were found; problems go to the report."""
    inputs, found = looked.inputs, looked.found
    if inputs.serialized_file in found:
        check_serialized_file(looked, report)
    if inputs.model_file in found and inputs.model_file and inputs.uses_python:
        check_model_file(looked, report)
    if inputs.handler_file in found and inputs.handler_file and inputs.uses_python:
        handler_checks.check(looked, report)
    if {inputs.serialized_file, inputs.model_file} <= found and inputs.uses_python:
        check_only_tensors(looked, report)
    if inputs.uses_python:
        import_checks.check(looked, report)
    if inputs.requirements_file in found and inputs.requirements_file:
        check_requirements(inputs.requirements_file, looked.contents, report)
    if inputs.config_file in found and inputs.config_file:
        check_config(inputs.config_file, looked.contents, report)
        check_default_answer(inputs.config_file, looked, report)
    for member in looked.plan.members:
        if member.source != inputs.serialized_file and not isinstance(member.source, bytes):
            _check_lfs(member.source, looked.contents, report)


def check_serialized_file(looked: Looked, report: Report) -> None:
    """Check the serialized file: its format, and whether it fits the other inputs."""
    inputs = looked.inputs
    path = inputs.serialized_file
    try:
        weights = looked.weights
    except OSError as error:
        report.error(f"the serialized file cannot be read: {error.strerror}", where=str(path))
        return
    if path is None or weights is None:
        return
    kind = weights.kind
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
        _check_library(path, looked, report)
    elif _needs_model_file(inputs, kind):
        report.error(
            f"the serialized file holds no TorchScript but a {kind.value}, and {inputs.handler} cannot load it "
            "without the class of the model",
            where=str(path),
            hint="give the file with the class: --model-file, or save TorchScript: torch.jit.script(model).save(...)",
        )


def _check_library(path: Path, looked: Looked, report: Report) -> None:
    """Say what a library of AOTInductor, the older form, needs besides this torch and this kind of processor."""
    export = _config_section(looked, "pt2").get("export")
    if looked.inputs.built_in_handler and not (isinstance(export, dict) and export.get("aot_compile") is True):
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
        and inputs.handler not in NO_WEIGHTS
    )


def _check_lfs(path: Path, contents: Contents, report: Report) -> None:
    try:
        if path.stat().st_size > LFS_MAX_BYTES:
            return
        is_pointer = contents.read(path).startswith(LFS_PREFIX)
    except OSError as error:
        report.error(f"the file cannot be read: {error.strerror}", where=str(path))
        return
    if is_pointer:
        report.error("the file is a Git LFS pointer, not the file itself", where=str(path), hint=_LFS_HINT)


def check_model_file(looked: Looked, report: Report) -> None:
    """Check that the model file parses and defines a class."""
    path = looked.inputs.model_file
    if path is None or (tree := handler_checks.parse(path, "model file", looked.contents, report)) is None:
        return
    names = python_source.names(tree)
    if not names.classes and not names.dynamic:
        report.error(
            "the model file defines no class", where=str(path), hint="define the model's nn.Module class there"
        )
    elif len(names.certain_classes) > 1 and looked.inputs.built_in_handler:
        listed = ", ".join(node.name for node in names.certain_classes)
        report.warning(
            f"the model file defines {len(names.certain_classes)} classes ({listed}); TorchServe's own handlers "
            "accept exactly one",
            where=str(path),
            hint="import the others from a module given with --extra-files",
        )
    elif (
        "__all__" not in names.bound and len(modules := python_source.subclasses(tree, _MODULE)) > 1 and looked.uses_sdk
    ):
        listed = ", ".join(node.name for node in modules)
        report.warning(
            f"the model file defines {len(modules)} subclasses of nn.Module ({listed}); the handler SDK serves one",
            where=str(path),
            hint="name it in the file's __all__, or move the others to a file of their own (--extra-files)",
        )


def check_only_tensors(looked: Looked, report: Report) -> None:
    """Report weights that are more than tensors, where the handler loads a state dict as it is."""
    try:
        weights = looked.weights
    except OSError:
        return  # already reported
    if weights is None or weights.tensors is None or not weights.tensors.needs or _allows_code(looked):
        return
    report.warning(
        f"the serialized file is not only tensors: reading it needs {weights.tensors.needs[0]}, and could run "
        "code, which torch refuses from 2.6 on",
        where=str(looked.inputs.serialized_file),
        hint="save the weights alone: torch.save(model.state_dict(), ...)",
    )


def _allows_code(looked: Looked) -> bool:
    """Return whether the config file has ``handler: {weights_only: false}``."""
    return _config_section(looked, "handler").get("weights_only") is False


def _config_section(looked: Looked, name: str) -> dict[str, Any]:
    """Return a section of the config file; empty if there is none, or if it cannot be read (reported elsewhere)."""
    section = looked.config.document.get(name) if looked.config else None
    return section if isinstance(section, dict) else {}


def check_requirements(path: Path, contents: Contents, report: Report) -> None:
    """Check every line that pip would read as a requirement; options, paths and addresses are left to pip."""
    try:
        text = contents.read(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        report.error("the requirements file is not UTF-8", where=str(path), hint="save it as UTF-8")
        return
    except OSError as error:
        report.error(f"the requirements file cannot be read: {error.strerror}", where=str(path))
        return
    for line in requirements.parse(text):
        if line.problem is not None:
            report.error(f"{line.text!r} is not a requirement: {line.problem}", where=f"{path}:{line.number}")


def check_config(path: Path, contents: Contents, report: Report) -> None:
    """Check a model-config file; see `schema.validate`."""
    try:
        text = contents.read(path)
    except OSError as error:
        report.error(f"the config file cannot be read: {error.strerror}", where=str(path))
        return
    # Here, because most builds have no config file and need no YAML library.
    from archive_tool.config import schema

    for problem in schema.validate(text):
        where = f"{path}:{problem.line}" if problem.line else str(path)
        note = report.error if problem.severity == "error" else report.warning
        note(problem.message, where=where, hint=problem.hint)


def check_default_answer(path: Path, looked: Looked, report: Report) -> None:
    """Check that the file of a default answer goes into the archive, and is small."""
    from archive_tool.config import default_answer

    answer = default_answer.read(looked.config.document) if looked.config else None
    if answer is None:
        return
    try:
        sizes = {
            member.name: len(member.source) if isinstance(member.source, bytes) else member.source.stat().st_size
            for member in looked.plan.members
            if member.name == answer.file
        }
    except OSError:
        return  # already reported
    if problem := default_answer.file_problem(answer, sizes):
        report.error(problem, where=str(path), hint=default_answer.HINT)
