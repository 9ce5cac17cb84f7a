"""Building an archive from Python; the command `torchmar build` is a thin shell around it."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from archive_tool.building import aot as ahead_of_time
from archive_tool.building import checks, samples
from archive_tool.building.files import plan as make_plan
from archive_tool.building.looked import Contents, Looked
from archive_tool.building.options import BuildOptions
from archive_tool.building.report import Report
from archive_tool.building.vendoring import vendor
from archive_tool.errors import BuildError
from archive_tool.metadata import names
from archive_tool.metadata.manifest import Manifest, build_time
from archive_tool.metadata.record import Record, installed, python_version
from archive_tool.version import __version__
from archive_tool.weights.formats import Format
from archive_tool.writing import writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from archive_tool.building.inputs import Inputs
    from archive_tool.files import StrPath
    from archive_tool.writing.plan import Plan

#: The package that loads a serialized file, besides torch.
_LOADERS = {Format.ONNX: ("onnxruntime",), Format.SAFETENSORS: ("safetensors",)}
_PRETRAINED_LOADERS: Final = ("transformers", "tokenizers", "safetensors")
#: The formats in which `compress` changes something, or is the only way.
_COMPRESSED = ("default", "tgz")


@dataclass(frozen=True)
class BuildResult:
    """The result of a build.

    Attributes:
        path: the archive, below the export path.
        size: its bytes; for a folder, those of its files.
        members: the names in it, the manifest last.
        seconds: how long the build took.
        warnings: probable mistakes; each a sentence.
        manifest: the archive's manifest.
        replaced: whether an older result was replaced.
    """

    path: Path
    size: int
    members: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...]
    manifest: Manifest
    replaced: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as one JSON-ready object."""
        return {
            "path": str(self.path),
            "model": self.manifest.model.model_name,
            "version": self.manifest.model.model_version,
            "size": self.size,
            "members": list(self.members),
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
            "replaced": self.replaced,
        }


def build(
    *,
    model_name: str,
    handler: StrPath = "",
    version: str = "1.0",
    pretrained: StrPath | None = None,
    task: str | None = None,
    adapter: StrPath | None = None,
    trust_remote_code: bool = False,
    model_path: StrPath | None = None,
    serialized_file: StrPath | None = None,
    model_file: StrPath | None = None,
    extra_files: StrPath | Sequence[StrPath] | None = None,
    keep_folders: StrPath | bool = False,
    runtime: str = "python",
    export_path: StrPath | None = None,
    archive_name: str | None = None,
    archive_format: str = "default",
    force: bool = False,
    requirements_file: StrPath | None = None,
    config_file: StrPath | None = None,
    vendor_sdk: bool = True,
    compress: bool = False,
    description: str | None = None,
    licence: str | None = None,
    record: Record | None = None,
    progress: writer.Progress | None = None,
    sample: Sequence[str | samples.GivenSample] = (),
    aot: bool = False,
    before_publish: Callable[[Path], None] | None = None,
) -> BuildResult:
    """Check the inputs, then write ``<export_path>/<model_name>`` with the suffix of the format.

    The options are torch-model-archiver's, and a few more. No code of the user is run, and the same inputs give the
    same bytes, unless `aot` is set.

    Args:
        model_name: letters, digits, ``_``, ``-``, ``.``.
        handler: a built-in name, or a path: ``h``, ``h.py``, ``h:function``, ``h.py:function``. Only with `pretrained`
            it may be left out, and is then the one of the task.
        version: the model's version; an empty one is left out, and TorchServe then takes 1.0.
        pretrained: a folder that ``save_pretrained`` of transformers, or ``save`` of sentence-transformers, wrote. Its
            files go into the folder ``pretrained`` of the archive as they are, without what no server needs.
        task: what a pretrained model is for, by the Hub's name, such as "text-classification"; None to find it.
        adapter: a folder of a LoRA adapter of peft, which is merged into the pretrained model's weights. That takes
            the packages transformers and peft, in a separate process.
        trust_remote_code: take the pretrained model's own code along, which runs where it is served.
        model_path: a folder whose contents all go to the root, as for MXNet Model Server; the handler is a module in
            it, an ONNX model in it is the serialized file, and its signature.json describes the inputs.
        serialized_file: weights, or a TorchScript, ONNX or AOTInductor file.
        model_file: the Python file with the model's class, for weights.
        extra_files: text split at commas, or a list of paths; wildcards; the contents of a directory go to the root.
            ``FILE=PLACE`` says where a file, or the contents of a directory, go.
        keep_folders: extra files keep their folders, relative to this directory; True for the current one.
        runtime: "python", "python3" or "LSP".
        export_path: an existing directory; None for the current one.
        archive_name: the archive's own name, without its suffix; None for the model's name.
        archive_format: "default", "zip-store", "tgz" or "no-archive".
        force: replace an existing archive.
        requirements_file: pip requirements of this model.
        config_file: the model-config YAML file.
        vendor_sdk: put a copy of the package `handlers` into an archive whose code imports it.
        compress: deflate weights too, on all cores; for the formats "default" and "tgz" (which always does).
        description: what the model is for.
        licence: the model's; preferably an SPDX expression.
        record: further statements for the manifest: inputs, outputs, samples, metrics. The rest of it is filled in
            here.
        progress: called from time to time while the archive is written; see `writer.Progress`.
        sample: requests to store in the archive, each as ``FILE[=EXPECTED]`` or a `samples.GivenSample`.
        aot: compile the model ahead of time into the archive, for this torch and this kind of processor, and for the
            inputs that its handler makes of the samples. That runs the user's code, in a separate process, and takes a
            C++ compiler. The model stays in the archive, too, for other machines and other inputs.
        before_publish: called with the complete archive under a temporary name, before it takes its place; what it
            raises ends the build, and nothing is left.

    Raises:
        BuildError: the inputs cannot make a working archive; all problems are reported at once.
        TargetExistsError: the archive exists and force is not set.
    """
    options = BuildOptions(
        model_name=model_name,
        handler=handler,
        version=version,
        pretrained=pretrained,
        task=task,
        adapter=adapter,
        trust_remote_code=trust_remote_code,
        model_path=model_path,
        serialized_file=serialized_file,
        model_file=model_file,
        extra_files=extra_files,
        keep_folders=keep_folders,
        runtime=runtime,
        export_path=export_path,
        archive_name=archive_name,
        archive_format=archive_format,
        force=force,
        requirements_file=requirements_file,
        config_file=config_file,
        vendor_sdk=vendor_sdk,
        compress=compress,
        description=description,
        licence=licence,
        record=record,
        sample=sample,
        aot=aot,
    )
    return build_archive(options, progress=progress, before_publish=before_publish)


def build_archive(
    options: BuildOptions,
    *,
    progress: writer.Progress | None = None,
    before_publish: Callable[[Path], None] | None = None,
) -> BuildResult:
    """Build an archive from options; see `build` for them, and for the arguments.

    Raises:
        BuildError, TargetExistsError: as `build`.
    """
    start = time.perf_counter()
    _check(options)
    report = Report()
    with contextlib.ExitStack() as stack:
        try:
            target = _target(options)
            writer.check_target(target, as_folder=options.archive_format == "no-archive", force=options.force)
            plan = compose(stack.enter_context(_merged(options, target.parent)), report)
        # A check of one file names it; this is for errors of the system before that.
        except (OSError, ValueError) as error:
            raise BuildError(f"an input cannot be read: {error}") from error
        report.raise_errors()
        if options.aot:
            plan = stack.enter_context(ahead_of_time.compiled(plan, target.parent, report))
        result = write(
            plan,
            target,
            options.archive_format,
            force=options.force,
            compress=options.compress,
            progress=progress,
            before_publish=before_publish,
        )
    return replace(result, seconds=time.perf_counter() - start, warnings=report.told())


def find(options: BuildOptions, report: Report) -> tuple[Looked, Record]:
    """Find the files of an archive and its metadata; problems go to the report."""
    inputs, record, contents = options.inputs(), options.record or Record(), Contents()
    if options.model_path is not None and os.fspath(options.model_path):
        from archive_tool.building import mms

        inputs, record = mms.with_service(inputs, Path(options.model_path), record, contents, report)
    if options.pretrained is not None and os.fspath(options.pretrained):
        from archive_tool.pretrained import mode

        config = contents.text(inputs.config_file)
        inputs, record = _with_pretrained(inputs, options, record, report, mode.engine_of(config))
        plan = mode.applied(make_plan(inputs, build_time(), report), config, record.pretrained)
        return Looked(inputs, plan, contents), record
    return Looked(inputs, make_plan(inputs, build_time(), report), contents), record


@contextlib.contextmanager
def _merged(options: BuildOptions, beside: Path) -> Iterator[BuildOptions]:
    """Yield the options with a folder in which the adapter is merged, if there is one."""
    if not options.adapter or not options.pretrained:
        yield options
        return
    from archive_tool.pretrained import merging

    with merging.merged(
        Path(options.pretrained),
        Path(options.adapter),
        beside,
        asked=options.task or None,
        trust_remote_code=options.trust_remote_code,
    ) as folder:
        yield replace(options, pretrained=folder, adapter=None)


def _with_pretrained(
    inputs: Inputs, options: BuildOptions, record: Record, report: Report, engine: str
) -> tuple[Inputs, Record]:
    """Add the folder of a pretrained model to the inputs and to the archive's metadata."""
    from archive_tool.pretrained import folder

    if options.adapter:
        report.error(
            "an adapter is merged only by a build", where="--adapter", hint="build the archive, and serve that"
        )
    found = folder.read(
        Path(options.pretrained or ""), asked=options.task or None, trust_remote_code=options.trust_remote_code
    )
    report.errors += found.problems
    report.warnings += found.warnings
    handler = inputs.handler or found.handler_for(engine)
    return replace(inputs, handler=handler, extra_files=(*inputs.extra_files, *found.extra_files)), found.record(record)


def compose(options: BuildOptions, report: Report) -> Plan:
    """Find, check and describe all that an archive will hold; problems go to the report."""
    looked, record = find(options, report)
    checks.check(looked, report)
    plan = vendor(looked, report) if options.vendor_sdk else looked.plan
    plan = replace(plan, manifest=plan.manifest.with_record(_record(looked, record, options)))
    given = [samples.read(one, report) if isinstance(one, str) else one for one in options.sample]
    plan = samples.add(plan, [one for one in given if one is not None], report)
    if options.aot:
        ahead_of_time.check(looked, plan, report)
    return plan


def write(
    plan: Plan,
    target: Path,
    archive_format: str,
    *,
    force: bool,
    compress: bool,
    progress: writer.Progress | None = None,
    before_publish: Callable[[Path], None] | None = None,
) -> BuildResult:
    """Write a plan and return the result; see `writer.write`."""
    start = time.perf_counter()
    replaced = os.path.lexists(target)
    manifest = writer.write(
        plan,
        target,
        archive_format,
        force=force,
        compress=compress,
        progress=progress,
        before_publish=before_publish,
    )
    return BuildResult(
        path=target,
        size=_size(target),
        members=(*(member.name for member in plan.members), names.MANIFEST_NAME),
        seconds=time.perf_counter() - start,
        warnings=(),
        manifest=manifest,
        replaced=replaced,
    )


def _check(options: BuildOptions) -> None:
    """Refuse invalid options, whatever the files are."""
    handler = os.fspath(options.handler)
    if not Path(handler).name and (handler or not options.pretrained):
        raise BuildError(
            f"{handler!r} names no handler", where="--handler", hint="give a built-in name or a Python file"
        )
    _check_pretrained(options)
    _check_choice("runtime", options.runtime, names.RUNTIMES)
    _check_choice("archive format", options.archive_format, tuple(names.SUFFIXES))
    if options.compress and options.archive_format not in _COMPRESSED:
        raise BuildError(
            f"the archive format {options.archive_format} is never compressed",
            hint="leave --compress out, or --archive-format",
        )
    names.check_model_name(options.model_name)
    if options.archive_name is not None:
        names.check_model_name(options.archive_name)
    if options.version:
        names.check_version(options.version)


def _check_pretrained(options: BuildOptions) -> None:
    """Refuse options that need a pretrained model, or that have no meaning beside one."""
    if not options.pretrained:
        given = {
            "--task": options.task,
            "--adapter": options.adapter,
            "--trust-remote-code": options.trust_remote_code,
        }
        if alone := [name for name, value in given.items() if value]:
            raise BuildError(f"{alone[0]} is about a pretrained model", hint="give its folder: --pretrained")
        return
    others = {
        "--serialized-file": options.serialized_file,
        "--model-file": options.model_file,
        "--model-path": options.model_path,
        "--aot": options.aot,
    }
    if beside := [name for name, value in others.items() if value]:
        raise BuildError(
            f"{beside[0]} cannot be given beside --pretrained, whose folder holds the whole model",
            hint=f"leave {beside[0]} out",
        )
    if options.runtime == "LSP":
        raise BuildError("a pretrained model needs Python", where="--runtime", hint="leave --runtime out")


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BuildError(f"{value!r} is no {what}", hint=f"choose one of {', '.join(choices)}")


def _record(looked: Looked, stated: Record, options: BuildOptions) -> Record:
    return replace(
        stated,
        tool_version=__version__,
        python=python_version(),
        frameworks=installed(("torch", *_loaders(looked, stated))) | dict(stated.frameworks),
        description=options.description or stated.description,
        licence=options.licence or stated.licence,
    )


def _loaders(looked: Looked, stated: Record) -> tuple[str, ...]:
    return _LOADERS.get(looked.weights_format, ()) if stated.pretrained is None else _PRETRAINED_LOADERS


def _target(options: BuildOptions) -> Path:
    folder = Path(options.export_path) if options.export_path is not None else Path()
    if not folder.is_dir():
        if folder.exists():
            raise BuildError(f"the export path {folder} is not a directory", where="--export-path")
        raise BuildError(f"the export path {folder} does not exist", where="--export-path", hint=f"mkdir -p {folder}")
    return folder / ((options.archive_name or options.model_name) + names.SUFFIXES[options.archive_format])


def _size(target: Path) -> int:
    if target.is_dir():
        return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return target.stat().st_size
