"""What the options of benchmarks that send load have in common: what they mean, and which are refused."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from benchmarks.serving_bench import driver


def fill(options: argparse.Namespace, **usual: tuple[Any, Any]) -> None:
    """Give options that were not named their values: the usual one, or that of a quick run."""
    for name, (value, quick) in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else value)


def settle(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    *,
    counts: Collection[str],
    told: str,
    lists: Mapping[str, Collection[str]],
    read: Mapping[str, Callable[[str], Any]] | None = None,
) -> None:
    """Understand the options, or end the program with what is wrong.

    Args:
        parser: of the options.
        options: with ``connections`` and ``driver`` among them.
        counts: numbers that must be above 0, as connections must, too.
        told: what these are called.
        lists: what may be in lists, by their names.
        read: understands other texts, by name; raises ValueError.
    """
    try:
        options.connections = tuple(int(text) for text in options.connections.split(","))
        for name, understand in (read or {}).items():
            setattr(options, name, understand(getattr(options, name)))
        options.driver = driver.choose(options.driver)
    except ValueError as error:
        parser.error(str(error))
    if min(*(getattr(options, name) for name in counts), *options.connections) <= 0:
        parser.error(f"{told} are numbers above 0")
    for name, known in lists.items():
        chosen = getattr(options, name).split(",")
        setattr(options, name, chosen)
        if unknown := set(chosen) - set(known):
            parser.error(f"--{name} takes {', '.join(known)}, not {', '.join(sorted(unknown))}")


def take_cores(count: int) -> bool:
    """Run on so many cores from now on, with all that is started; say why where this process has not as many."""
    own = sorted(os.sched_getaffinity(0))
    if len(own) < count:
        print(f"error: --cores {count}: this process may use {len(own)}", file=sys.stderr)
        return False
    os.sched_setaffinity(0, own[:count])
    return True
