"""Compiling a model ahead of time into its archive: ``torchmar build --aot``.

The archive is laid out in a folder beside its target. A separate process (`publishing.compilation`) loads it with the
archive's own handler, passes it the archive's samples, and compiles the model for the inputs that the handler then
gives it. Only that process imports torch, and nothing of it remains but the members of the archive.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from archive_tool import child_process
from archive_tool.config import safe_yaml
from archive_tool.errors import BuildError
from archive_tool.metadata.names import MANIFEST_DIRECTORY, fold
from archive_tool.metadata.record import Compiled, Record, TensorSpec
from archive_tool.weights.formats import Format
from archive_tool.writing import writer
from archive_tool.writing.plan import Member, with_members
from handlers.builtin import TWINS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archive_tool.building.looked import Looked
    from archive_tool.building.report import Report
    from archive_tool.writing.plan import Plan

FOLDER: Final = f"{MANIFEST_DIRECTORY}/compiled"
_OPTION: Final = "--aot"
_SCRIPT: Final = Path(__file__).parents[1] / "publishing" / "compilation.py"
_COMPILERS: Final = ("g++", "clang++")
#: Programs that the compiler does not take: what they are, and what to do. It does take one of torch.export.
_NOT_COMPILED: Final = {
    Format.TORCHSCRIPT: (
        "TorchScript, which torch.export does not take",
        "build from the eager model, its class with --model-file and its weights with --serialized-file, or from a "
        "program of torch.export",
    ),
    Format.ONNX: ("an ONNX model, which another library runs", "leave --aot out, or build from the torch model"),
    Format.AOT_INDUCTOR: ("a package of AOTInductor, which is compiled already", "leave --aot out"),
    Format.AOT_LIBRARY: ("a library of AOTInductor, which is compiled already", "leave --aot out"),
    Format.SHARED_LIBRARY: ("a shared library, which is compiled already", "leave --aot out"),
}


def check(looked: Looked, plan: Plan, report: Report) -> None:
    """Report what compilation lacks; what only torch knows comes later.

    Args:
        looked: the inputs.
        plan: the archive, with its samples.
        report: takes the problems.
    """
    inputs = looked.inputs
    record = plan.manifest.record or Record()
    if not inputs.uses_python:
        report.error("the runtime LSP has a worker that loads nothing compiled by torchmar", where=_OPTION)
    if not record.samples:
        report.error(
            "there is no sample: the model is compiled for what the handler makes of one",
            where=_OPTION,
            hint="give a request that the model can answer: --sample FILE",
        )
    if inputs.handler_function:
        report.error(
            f"the handler is the function {inputs.handler_function}, which loads its model itself",
            where=_OPTION,
            hint="write the handler as a class derived from handlers.BaseHandler",
        )
    # Weights need the class of the model; a program has its own.
    if inputs.model_file is None and (form := looked.weights_format) in _NOT_COMPILED:
        what, hint = _NOT_COMPILED[form]
        report.error(f"{inputs.serialized_file} is {what}", where=_OPTION, hint=hint)
    if not has_compiler():
        named = os.environ.get("CXX")
        report.error(
            f"the C++ compiler {named} of the environment variable CXX is not found"
            if named
            else f"there is no C++ compiler ({' or '.join(_COMPILERS)}), which torch compiles with",
            where=_OPTION,
            hint="install one, for example with apt-get install g++",
        )
    if any(fold(member.name).startswith(fold(FOLDER) + "/") for member in plan.members):
        report.error(
            f"{FOLDER} is the place of the compiled model", where=_OPTION, hint="leave it out of --extra-files"
        )


def has_compiler() -> bool:
    """Return whether there is a C++ compiler: the one that CXX names, or one with a usual name."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ((named,) if named else _COMPILERS))


@contextlib.contextmanager
def compiled(plan: Plan, beside: Path, report: Report) -> Iterator[Plan]:
    """Yield the plan with the compiled model in it, while its files exist.

    Args:
        plan: the rest of the archive.
        beside: the archive's folder, whose disk has room for the model.
        report: takes the parts of the model that could not be compiled.

    Raises:
        BuildError: the model cannot be compiled.
    """
    with tempfile.TemporaryDirectory(prefix=".torchmar-aot-", dir=beside, ignore_cleanup_errors=True) as scratch:
        root = Path(scratch).resolve()
        folder, output = root / "model", root / "output"
        writer.write(plan, folder, "no-archive")
        output.mkdir()
        answer = _run(folder, _task(plan, folder, output), root)
        for warning in answer["warnings"]:
            report.warning(warning)
        yield _with_compiled(plan, output, answer["compiled"])


def _task(plan: Plan, folder: Path, output: Path) -> dict[str, Any]:
    manifest = plan.manifest
    record = manifest.record or Record()
    name = manifest.model.config_file
    handler = (manifest.model.handler or "").removesuffix(".py")
    has_file = any(member.name == f"{handler}.py" for member in plan.members)
    return {
        "handler": handler,
        "sdk": None if has_file else TWINS.get(handler),
        "manifest": manifest.to_dict(),
        "config": safe_yaml.construct(safe_yaml.compose((folder / name).read_bytes())) if name else {},
        "output": str(output),
        "samples": [
            {"name": one.input, "file": str(folder / one.input), "contentType": one.content_type}
            for one in record.samples
        ],
    }


def _run(folder: Path, task: dict[str, Any], scratch: Path) -> dict[str, Any]:
    temporary = scratch / "tmp"
    temporary.mkdir()
    # The compiler's cache would be left behind, and may differ from what the compiler would make now.
    environment = {"TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": str(temporary / "inductor")}
    answer = child_process.run(
        _SCRIPT, folder, task, scratch, does="compiles the model", where=_OPTION, environment=environment
    )
    if (error := answer.get("error")) is not None:
        raise BuildError(_without(folder, error["message"]), where=_OPTION, hint=error["hint"])
    return answer


def _without(folder: Path, text: str) -> str:
    """Replace the path of an archive's file by its name in the archive."""
    return text.replace(f"{folder}{os.sep}", "")


def _with_compiled(plan: Plan, output: Path, found: dict[str, Any]) -> Plan:
    files = sorted(path for path in output.rglob("*") if path.is_file())
    members = [Member(f"{FOLDER}/{path.relative_to(output).as_posix()}", path) for path in files]
    record = plan.manifest.record or Record()
    compiled_record = Compiled(
        path=f"{FOLDER}/{found['path']}",
        torch=found["torch"],
        platform=found["platform"],
        device=found["device"],
        capability=tuple(found["capability"]),
        dtype=found["dtype"],
        inputs=tuple(TensorSpec(one["name"], one["dtype"], tuple(one["shape"])) for one in found["inputs"]),
    )
    manifest = plan.manifest.with_record(replace(record, compiled=compiled_record))
    return replace(with_members(plan, members), manifest=manifest)
