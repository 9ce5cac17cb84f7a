"""The command `torchmar inspect`: shows what an archive holds and what a server would do with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from archive_tool.cli.output import human_size, printable
from archive_tool.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.table import Table

# The layout of a table of a hundred thousand rows takes a minute, and no one reads it.
_MEMBERS_SHOWN: Final = 1000
# The settings to show if the config file does not set them; --json has all.
_ALWAYS_SHOWN: Final = frozenset(
    {"minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout", "backend.mode"}
)


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(archive: Path, as_json: bool) -> None:
    """Show what an archive holds.

    ARCHIVE is a .mar, a .tar.gz or a folder. Shows its manifest; each member with its size and format; the numbers of
    the model, by type, and their memory; what TorchServe will call; the config file as TorchServe understands it;
    whether code compiled ahead of time fits this machine; and what in the archive would not run here. Nothing is
    unpacked to disk, nothing is run. An archive that is not safe to unpack is listed too, with exit code 5.

    \b
    Examples:
      torchmar inspect model_store/mnist.mar
      torchmar inspect model_store/mnist.mar --json
    """
    from archive_tool.inspection.describe import describe
    from archive_tool.reading.archive import open_archive

    with open_archive(archive, allow_unsafe=True) as opened:
        manifest, broken = None, None
        try:
            manifest = opened.manifest
        except ArchiveError as error:
            broken = error  # reported after the list, which may show why
        description = describe(opened, manifest)
        if as_json:
            click.echo(json.dumps(description, indent=2))
        else:
            _show(description)
        opened.check_safe()
        if broken is not None:
            raise broken


def _show(description: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1 << 16)  # a pipe has no width to wrap lines to
    title = f"{description['path']}  {human_size(description['size'])}  {description['archiveFormat']}"
    console.print(Text(printable(title), style="bold"))
    manifest = description["manifest"]
    _section(console, None, _grid(_manifest(description)) if manifest else Text("no manifest"))
    _section(console, None, _members(description["members"], description["sdk"]))
    if description["weights"]:
        _section(console, "weights", _weights(description["weights"]))
    if handler := description["handler"]:
        words = [handler["kind"], handler.get("name"), handler.get("where")]
        _section(console, "entry point", _grid([(handler["handler"], " ".join(word for word in words if word))]))
    if manifest:
        _show_config(console, description["config"])
    if compiled := description["compiled"]:
        _section(console, "compiled ahead of time", _grid([(compiled["path"], _fit(compiled))]))
    if description["obstacles"]:
        rows = [(found.get("where", ""), _with_hint(found)) for found in description["obstacles"]]
        _section(console, "would not run here", _grid(rows))


def _section(console: Console, title: str | None, content: Any) -> None:
    from rich.text import Text

    console.print()
    if title:
        console.print(Text(title, style="bold"))
    console.print(content)


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows:
        table.add_row(Text(printable(key)), Text(printable(value)))
    return table


def _manifest(description: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the manifest, without the members' hashes, which are for programs."""
    rows = _flat(_without_members(description["manifest"]))
    if not description["reproducible"]:
        return rows
    # The fixed date in its place would look like a mistake.
    return [(key, "not recorded: a reproducible build" if key == "createdOn" else value) for key, value in rows]


def _members(members: list[dict[str, Any]], sdk: dict[str, Any] | None) -> Table:
    shown = [one for one in members if sdk is None or not one["name"].startswith("handlers/")]
    rows = [
        [one["name"], human_size(one["size"]), human_size(one["packed"]), one["method"], one["format"] or ""]
        for one in shown[:_MEMBERS_SHOWN]
    ]
    if len(shown) > _MEMBERS_SHOWN:
        rows.append([f"and {len(shown) - _MEMBERS_SHOWN} more: --json lists all", "", "", "", ""])
    if sdk is not None:
        files = f"handlers/ ({sdk['members']} files)"
        rows.append([files, human_size(sdk["size"]), human_size(sdk["packed"]), "", _sdk(sdk)])
    return _table(("member", "size", "packed", "method", "format"), rows, right=(1, 2))


def _weights(weights: list[dict[str, Any]]) -> Table:
    rows = []
    for one in weights:
        kinds = ", ".join(f"{dtype} {count:,}" for dtype, count in one["dtypes"].items())
        rows.append([one["member"], f"{one['tensors']:,}", f"{one['parameters']:,}", human_size(one["size"]), kinds])
    return _table(("member", "tensors", "parameters", "memory", "types"), rows, right=(1, 2, 3))


def _table(titles: tuple[str, ...], rows: list[list[str]], right: tuple[int, ...]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(*titles, box=None, pad_edge=False)
    for index in right:
        table.columns[index].justify = "right"
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _show_config(console: Console, config: dict[str, Any]) -> None:
    rows = []
    for key, setting in config["settings"].items():
        if setting["source"] != "file" and key not in _ALWAYS_SHOWN:
            continue
        value = "the server's" if setting["source"] == "server" else json.dumps(setting["value"])
        rows.append((key, f"{value}  (default)" if setting["source"] == "default" else value))
    rows += [(key, f"ignored: {reason}") for key, reason in config["ignored"].items()]
    rows += [(key, "left to the handler") for key in config["forHandler"]]
    _section(console, "config in effect", _grid(rows))
    if config["notes"]:
        _section(console, "notes on the config", _grid(("-", note) for note in config["notes"]))


def _sdk(sdk: dict[str, Any]) -> str:
    """Describe the archive's copy of the SDK."""
    version = f"handler SDK {sdk['version'] or 'of an unknown version'}"
    return {
        "current": f"{version}, as installed here",
        "older": f"{version}, older than the installed {sdk['installed']}: torchmar convert renews it",
        "newer": f"{version}, newer than the installed {sdk['installed']}",
        "different": f"{version}, another than the installed {sdk['installed']}: torchmar convert renews it",
    }[sdk["state"]]


def _fit(compiled: dict[str, Any]) -> str:
    if compiled["fits"]:
        return "fits this machine"
    if compiled["fits"] is None:
        return f"may fit this machine: {compiled['reason']}"
    return f"not for here, where the plain model serves: {compiled['reason']}"


def _with_hint(found: dict[str, str]) -> str:
    return f"{found['message']} ({found['hint']})" if "hint" in found else found["message"]


def _without_members(manifest: dict[str, Any]) -> dict[str, Any]:
    """Remove the members' hashes."""
    record = manifest.get("torchmar")
    if not isinstance(record, dict):
        return manifest
    return {**manifest, "torchmar": {key: value for key, value in record.items() if key != "members"}}


def _flat(document: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in document.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value if isinstance(value, str) else json.dumps(value)))
    return rows
