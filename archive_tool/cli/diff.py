"""The command `torchmar diff`: shows how two archives differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archive_tool.cli.output import human_size, printable

if TYPE_CHECKING:
    from archive_tool.inspection.diff import MemberChange
    from archive_tool.inspection.tensor_diff import TensorChange


@click.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diff(first: Path, second: Path, as_json: bool) -> int:
    """Show in what two archives differ.

    Shows members that were added, removed or changed; the changed tensors of weights, with shapes, types and the
    largest difference; and the changed lines of text. Weights are read as data only, and no code of theirs is run. The
    archives may have different formats, or be folders.

    Exit code 0 if the members are the same, 1 if they differ.

    \b
    Examples:
      torchmar diff model_store/mnist.mar new/mnist.mar
      torchmar diff old.mar new.mar --json
    """
    from archive_tool.inspection.diff import diff as run

    changes = run(first, second)
    if as_json:
        click.echo(json.dumps(changes.to_dict(), indent=2))
    else:
        for change in changes.members:
            _show_change(change)
    return 1 if changes else 0


_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def _show_change(change: MemberChange) -> None:
    sizes = " -> ".join(human_size(size) for size in (change.before, change.after) if size is not None)
    click.echo(f"{_SIGNS[change.status]} {printable(change.name)}  {change.status}  {sizes}")
    for tensor in change.tensors or ():
        click.echo(f"    {printable(_tensor_line(tensor))}")
    for line in change.text:
        click.echo(f"    {printable(line)}")
    if change.note:
        click.echo(f"    {printable(change.note)}")


def _tensor_line(change: TensorChange) -> str:
    if change.before is None:
        return f"+ {change.name}  {change.after}"
    if change.after is None:
        return f"- {change.name}  {change.before}"
    what = change.before if change.before == change.after else f"{change.before} -> {change.after}"
    largest = "" if change.largest is None else f"  largest difference {change.largest:.6g}"
    return f"~ {change.name}  {what}{largest}"
