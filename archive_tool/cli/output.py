"""The output of commands: sizes, results, errors, and untrusted names."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from archive_tool.building.builder import BuildResult
    from archive_tool.errors import TorchmarError


def printable(text: str) -> str:
    """Escape characters that could move a terminal's cursor; names inside an archive are untrusted."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def human_size(size: int) -> str:
    """Format a number of bytes for people, in powers of a thousand."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def show_built(result: BuildResult, *, quiet: bool) -> None:
    """Print the warnings of a build, and, unless quiet, what it has written."""
    for warning in result.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    if not quiet:
        count = len(result.members)
        parts = [printable(str(result.path)), human_size(result.size), f"{count} members", f"{result.seconds:.2f} s"]
        click.echo("  ".join([*parts, "replaced"] if result.replaced else parts))


def show_error(error: TorchmarError) -> None:
    """Print an error as ``error: what``, then where it is and what to do about it."""
    color = None if "NO_COLOR" not in os.environ else False
    first, *rest = error.message.splitlines() or [""]
    click.echo(f"{click.style('error:', fg='red', bold=True)} {printable(first)}", err=True, color=color)
    for line in rest:
        click.echo(f"  {printable(line.expandtabs(4))}", err=True)  # torch indents its messages with tabs
    for name, text in error.details():
        click.echo(f"  {name}: {printable(text)}", err=True)


def discard_output() -> None:
    """Send the rest of standard output, and all that follows, to the null device: Python would complain at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
