"""The command `torchmar build`: an archive from files."""

from __future__ import annotations

import copy
import difflib
import json
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from archive_tool.building.options import BuildOptions
from archive_tool.cli.entry import load_hook
from archive_tool.cli.output import show_built
from archive_tool.metadata.names import RUNTIMES, SUFFIXES, name_of_folder
from handlers.builtin import BUILT_IN


def _complete_handler(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a handler for a shell: built-in handlers, or files if no name begins so."""
    names = [name for name in sorted(BUILT_IN) if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


#: torch-model-archiver's own long options.
STOCK_OPTIONS: Final = (
    "--archive-format",
    "--config-file",
    "--export-path",
    "--extra-files",
    "--force",
    "--handler",
    "--help",
    "--model-file",
    "--model-name",
    "--requirements-file",
    "--runtime",
    "--serialized-file",
    "--version",
)


class _Abbreviated(click.Command):
    """A command that takes unambiguous abbreviations of torch-model-archiver's long options, as argparse does."""

    def make_parser(self, ctx: click.Context) -> Any:
        parser = super().make_parser(ctx)
        for param in self.get_params(ctx):
            for name in {*param.opts} & {*STOCK_OPTIONS}:
                alias = copy.copy(param)
                alias.opts = _beginnings(name)
                alias.add_to_parser(parser, ctx)
        return parser

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            given = error.option_name
            if meant := [name for name in STOCK_OPTIONS if name.startswith(given)]:
                raise click.UsageError(f"{given} may be {' or '.join(meant)}.", ctx) from error
            # Without the abbreviations, which the parser would also suggest.
            whole = [name for param in self.get_params(ctx) for name in param.opts]
            close = difflib.get_close_matches(given, whole)
            raise click.NoSuchOption(given, possibilities=close, ctx=ctx) from error


def _beginnings(name: str) -> list[str]:
    others = [other for other in STOCK_OPTIONS if other != name]
    beginnings = (name[:end] for end in range(len("--") + 1, len(name)))
    return [one for one in beginnings if not any(other.startswith(one) for other in others)]


@click.command(cls=_Abbreviated)
@click.option(
    "--from", "project_file", help="Project file that sets these options (torchmar init writes one), or its folder."
)
@click.option("--model-name", help="Name of the model, and of the archive.  [required, but with --pretrained]")
@click.option("--version", "-v", default=BuildOptions.version, show_default=True, help="Version of the model.")
@click.option(
    "--handler",
    shell_complete=_complete_handler,
    help="Built-in name, or a path: h, h.py, h:function, h.py:function.  [required, but with --pretrained]",
)
@click.option(
    "--pretrained",
    metavar="FOLDER",
    help="Folder that save_pretrained wrote: the model, its tokenizer and all; no handler is needed.",
)
@click.option("--task", help="What the pretrained model is for.  [default: found in its config.json]")
@click.option("--adapter", metavar="FOLDER", help="LoRA adapter of peft, merged into the pretrained model.")
@click.option("--trust-remote-code", is_flag=True, help="Take the pretrained model's own Python code along.")
@click.option(
    "--model-path",
    help="Folder whose contents all go to the root, with the handler's module among them, as for MXNet Model Server.",
)
@click.option("--serialized-file", help="Weights (.pt, .pth), TorchScript, ONNX or AOTInductor file.")
@click.option("--model-file", help="Python file with the model's class; needed with weights.")
@click.option(
    "--extra-files",
    multiple=True,
    help="Further files: comma-separated paths or wildcards; a directory's contents go to the root. FILE=PLACE names "
    "another place. May be repeated.",
)
@click.option("--keep-folders", is_flag=True, help="Extra files keep the folders that they are in.")
@click.option(
    "--runtime", type=click.Choice(RUNTIMES), default=BuildOptions.runtime, show_default=True, help="What runs it."
)
@click.option("--export-path", help="Existing directory for the archive.  [default: the current one]")
@click.option(
    "--archive-format",
    type=click.Choice(list(SUFFIXES)),
    default=BuildOptions.archive_format,
    show_default=True,
    help="default: .mar, weights stored and text deflated; zip-store: .mar, nothing deflated; tgz: .tar.gz; "
    "no-archive: a folder.",
)
@click.option("-f", "--force", is_flag=True, help="Replace an archive that is there.")
@click.option("-r", "--requirements-file", help="pip requirements of this model.")
@click.option("-c", "--config-file", help="Model-config YAML file: batch size, workers, timeouts.")
@click.option(
    "--vendor-sdk/--no-vendor-sdk",
    default=BuildOptions.vendor_sdk,
    help="Put a copy of the package `handlers` into an archive whose code imports it.  [default: do]",
)
@click.option("--compress", is_flag=True, help="Deflate weights too, on all cores: a little smaller, much slower.")
@click.option("--description", help="What the model is for; goes into the manifest.")
@click.option("--licence", "--license", help="The model's licence, for example Apache-2.0; goes into the manifest.")
@click.option(
    "--sample",
    multiple=True,
    metavar="FILE[=EXPECTED]",
    help="Store a request in the archive, and the answer that is expected: a file, or the answer itself. May be "
    "repeated. A worker runs them before it reports that it is ready, and torchmar check compares the answers.",
)
@click.option(
    "--aot",
    is_flag=True,
    help="Compile the model ahead of time into the archive, for this torch and processor and for inputs such as the "
    "samples; it serves eagerly elsewhere.",
)
@click.option("--check", is_flag=True, help="Load the archive and run its samples before it takes its place.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on success.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def build(context: click.Context, /, quiet: bool, as_json: bool, project_file: str | None, **given: Any) -> None:
    """Build an archive that TorchServe can serve.

    Takes the options of torch-model-archiver 0.12, which may be abbreviated as there (--ver), and a few more. The
    inputs are checked first, and all mistakes are reported at once. The archive is then written whole or not at all.
    The same inputs give the same bytes. No code of yours is run, unless you give --check or --aot.

    \b
    Examples:
      torchmar build --model-name mnist --handler mnist_handler.py \\
          --model-file mnist_model.py --serialized-file mnist_sd.pt --export-path model_store
      torchmar build --model-name resnet --version 2.0 --handler image_classifier \\
          --serialized-file resnet.pt --extra-files index_to_name.json --sample cat.png --check -f
      torchmar build --pretrained distilbert-sst2 --export-path model_store
      torchmar build --from torchmar.yaml --version 2.0
    """
    from archive_tool.building.builder import build_archive
    from archive_tool.progress import progress_bar

    options = _with_project(context, project_file, given)
    check = options.pop("check")
    checked: list[str] = []
    check_built = load_hook("check-built") if check else None
    before_publish = check_built and (lambda path: checked.append(check_built(path)))
    if options["aot"] and not quiet:
        click.echo("compiling ahead of time, which takes a C++ compiler some seconds to minutes", err=True)
    with progress_bar("writing", hidden=quiet) as progress:
        result = build_archive(BuildOptions(**options), before_publish=before_publish, progress=progress)
    if as_json:
        document = {**result.to_dict(), "checked": checked[0] if checked else None}
        click.echo(json.dumps(document, indent=2))
        return
    show_built(result, quiet=quiet)
    for line in [] if quiet else checked:
        click.echo(line)


def _with_project(context: click.Context, project_file: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Add a project file's settings to the options; those of the command line win."""
    options = dict(given)
    if project_file is not None:
        from archive_tool.projects.project_file import read

        said = {name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
        options |= {name: value for name, value in read(Path(project_file)).items() if name not in said}
    if options["pretrained"]:
        options["model_name"] = options["model_name"] or name_of_folder(Path(options["pretrained"]))
        options["handler"] = options["handler"] or ""
    for parameter in context.command.params:
        if parameter.name in ("model_name", "handler") and options[parameter.name] is None:
            raise click.MissingParameter(ctx=context, param=parameter)
    return options
