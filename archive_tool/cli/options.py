"""Options that several commands have."""

from __future__ import annotations

import click

allow_pickle_option = click.option(
    "--allow-pickle",
    "allow_pickles",
    multiple=True,
    metavar="MEMBER",
    help="Accept that this member runs code when it is loaded. May be repeated.",
)
