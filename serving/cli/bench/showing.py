"""What bench shows: each second on a terminal, a table or JSON, a page, and its verdict."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archive_tool.cli.output import printable
from serving.cli.options import console, print_json

if TYPE_CHECKING:
    from serving.bench.report import Subject
    from serving.bench.session import Session
    from serving.bench.tally import Second


def progress(name: str, second: Second) -> None:
    """Show a second on the terminal's last line."""
    errors = f", {second.errors} errors" if second.errors else ""
    waiting = f", {second.waiting} waiting" if second.waiting else ""
    text = f"{name}, {second.at:.0f} s: {second.good} answers, p99 {second.p99_ms:.1f} ms{errors}{waiting}"
    click.echo(f"\r\x1b[K{text}\r", err=True, nl=False)


def show(subject: Subject, session: Session, page: Path | None, *, as_json: bool) -> None:
    """Show what there is, and write the page."""
    from serving.bench import report
    from serving.bench.page import html

    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
    if not session.runs:
        return
    if as_json:
        print_json(report.document(subject, session))
    else:
        _print(subject, session)
    if page is not None:
        when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
        page.write_text(html(subject, session, when), encoding="utf-8", errors="backslashreplace")


def _print(subject: Subject, session: Session) -> None:
    from rich.markup import escape
    from rich.table import Table

    from serving.bench import report

    seconds = session.base.seconds
    click.echo(printable(f"{subject.title}; {seconds:g} s each, milliseconds from the intended start of a request"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, head in enumerate(report.heads(session)):
        table.add_column(escape(head), justify="left" if not index else "right")
    for row in report.rows(session):
        table.add_row(*(escape(printable(cell)) for cell in row))
    console().print(table)
    for line in report.notes(session):
        click.echo(printable(line))


def judge(session: Session) -> None:
    """Fail where nothing was answered, or the SLO was not kept.

    Raises:
        ReplyError: no load had a good answer.
        CheckError: too many requests missed the SLO.
    """
    from serving.bench import report
    from serving.errors import CheckError, ReplyError

    if missed := report.missed(session):
        raise ReplyError(missed, status=0) if report.all_failed(session) else CheckError(missed)
