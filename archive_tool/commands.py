"""The commands of `torchmar` that work on archives. Each is short; what it uses is imported when it runs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archive_tool.cli import printable
from archive_tool.commands_verify import allow_pickle_option
from archive_tool.errors import ArchiveError
from archive_tool.layout import RUNTIMES, SUFFIXES

if TYPE_CHECKING:
    from archive_tool.manifest import Manifest
    from archive_tool.reader import Archive, ArchiveMember

# A member that is no larger than this is unpacked to see what it is; larger ones only where that costs nothing.
_SNIFF_LIMIT = 64 << 20


@click.command()
@click.option("--model-name", required=True, help="Name of the model, and of the archive.")
@click.option("--version", "-v", default="1.0", show_default=True, help="Version of the model.")
@click.option("--handler", required=True, help="Built-in name, or a path: h, h.py, h:function, h.py:function.")
@click.option("--serialized-file", help="Weights (.pt, .pth), TorchScript, ONNX or AOTInductor file.")
@click.option("--model-file", help="Python file with the model's class; needed with weights.")
@click.option(
    "--extra-files",
    multiple=True,
    help="Further files: comma-separated paths or wildcards; a directory's contents go to the root. May be repeated.",
)
@click.option("--runtime", type=click.Choice(RUNTIMES), default="python", show_default=True, help="What runs it.")
@click.option("--export-path", help="Existing directory for the archive.  [default: the current one]")
@click.option(
    "--archive-format",
    type=click.Choice(list(SUFFIXES)),
    default="default",
    show_default=True,
    help="default: .mar, weights stored and text deflated; zip-store: .mar, nothing deflated; tgz: .tar.gz; "
    "no-archive: a folder.",
)
@click.option("-f", "--force", is_flag=True, help="Replace an archive that is there.")
@click.option("-r", "--requirements-file", help="pip requirements of this model.")
@click.option("-c", "--config-file", help="Model-config YAML file: batch size, workers, timeouts.")
@click.option(
    "--vendor-sdk/--no-vendor-sdk",
    default=True,
    help="Put a copy of the package `handlers` into an archive whose code imports it.  [default: do]",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on success.")
def build(quiet: bool, **options: Any) -> None:
    """Build an archive that TorchServe can serve.

    Takes the options of torch-model-archiver 0.12. The inputs are checked first, and every mistake is told at once; the
    archive is then written whole or not at all. The same inputs give the same bytes.

    \b
    Examples:
      torchmar build --model-name mnist --handler mnist_handler.py \\
          --model-file mnist_model.py --serialized-file mnist_sd.pt --export-path model_store
      torchmar build --model-name resnet --version 2.0 --handler image_classifier \\
          --serialized-file resnet.pt --extra-files index_to_name.json -f
    """
    from archive_tool.builder import build as run

    result = run(**options)
    for warning in result.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    if not quiet:
        count = len(result.members)
        parts = [printable(str(result.path)), human_size(result.size), f"{count} members", f"{result.seconds:.2f} s"]
        click.echo("  ".join([*parts, "replaced"] if result.replaced else parts))


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(archive: Path, as_json: bool) -> None:
    """Show what an archive holds.

    ARCHIVE is a .mar, a .tar.gz or a folder. Shows its manifest, and each member with its size and what it is. Nothing
    is unpacked to disk, nothing is run. An archive that is not safe to unpack is listed too, with exit code 5.

    \b
    Examples:
      torchmar inspect model_store/mnist.mar
      torchmar inspect model_store/mnist.mar --json
    """
    from archive_tool.reader import open_archive

    with open_archive(archive, allow_unsafe=True) as opened:
        manifest, broken = None, None
        try:
            manifest = opened.manifest
        except ArchiveError as error:
            broken = error  # told after the list, which may show why
        description = describe(opened, manifest)
        if as_json:
            click.echo(json.dumps(description, indent=2))
        else:
            _show(description)
        opened.check_safe()
        if broken is not None:
            raise broken


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@allow_pickle_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on success.")
def extract(archive: Path, folder: Path, allow_pickles: tuple[str, ...], quiet: bool) -> None:
    """Unpack an archive into a new folder.

    FOLDER must not exist, or be empty. What torchmar verify finds wrong is refused here too, with the same exit code;
    if anything fails, nothing is left.

    \b
    Examples:
      torchmar extract model_store/mnist.mar mnist
    """
    from archive_tool.reader import open_archive

    with open_archive(archive) as opened:
        opened.extract(folder, allow_pickles=allow_pickles)
        size = sum(member.size for member in opened.members)
        if not quiet:
            click.echo(f"{printable(str(folder))}  {human_size(size)}  {len(opened.members)} members")


def describe(archive: Archive, manifest: Manifest | None) -> dict[str, Any]:
    """Give all that `inspect` shows as one JSON-ready object."""
    members = [
        {
            "name": member.name,
            "size": member.size,
            "packed": member.packed,
            "method": member.method,
            "format": _format(archive, member),
        }
        for member in archive.members
    ]
    return {
        "path": str(archive.path),
        "archiveFormat": archive.archive_format,
        "size": archive.size,
        "manifest": manifest.to_dict() if manifest else None,
        "members": members,
        "problems": list(archive.problems),
    }


def _format(archive: Archive, member: ArchiveMember) -> str | None:
    from archive_tool.formats import Format, sniff
    from archive_tool.writer import STORED_SUFFIXES

    if Path(member.name).suffix.lower() not in STORED_SUFFIXES:
        return None
    try:
        stream = archive.peek(member.name)
        if stream is None:
            if member.size > _SNIFF_LIMIT:
                return None
            stream = io.BytesIO(archive.read(member.name, _SNIFF_LIMIT))
        with stream:
            kind = sniff(stream)
    except (ArchiveError, OSError):
        return None  # one member that cannot be read is no reason to hide the others
    return None if kind is Format.UNKNOWN else kind.value


def _show(description: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1 << 16)  # a pipe has no width to fold lines to
    title = f"{description['path']}  {human_size(description['size'])}  {description['archiveFormat']}"
    console.print(Text(printable(title), style="bold"))
    console.print()
    facts = Table(box=None, show_header=False, pad_edge=False)
    for key, value in _flat(description["manifest"] or {}):
        facts.add_row(Text(printable(key)), Text(printable(value)))
    console.print(facts if description["manifest"] else Text("no manifest"))
    console.print()
    table = Table("member", "size", "packed", "method", "format", box=None, pad_edge=False)
    for column in table.columns[1:3]:
        column.justify = "right"
    for member in description["members"]:
        sizes = [human_size(member["size"]), human_size(member["packed"])]
        cells = [member["name"], *sizes, member["method"], member["format"] or ""]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)


def _flat(document: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in document.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value if isinstance(value, str) else json.dumps(value)))
    return rows


def human_size(size: int) -> str:
    """Write a number of bytes as people do, in powers of a thousand."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"
