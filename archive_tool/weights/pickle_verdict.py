"""The verdict on a pickle's imports: by an allow-list of data, and by a second reader's list of known attacks.

What imports anything else is refused. The list of attacks, that of picklescan, names those in the message.
"""

from __future__ import annotations

import io
import logging
from typing import IO, TYPE_CHECKING, Final

from archive_tool.pickles import joblib as joblib_pickles
from archive_tool.pickles import names as pickle_names
from archive_tool.pickles.values import PickleError
from archive_tool.weights.first_look import PROTOCOLS, File, read
from handlers.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from archive_tool.pickles.budget import Budget
    from archive_tool.pickles.imports import Imports

    # Problems, and in the end whether the file was told: read to its end as something known, or refused.
    Problems = Generator[str, None, bool]

ACCEPT: Final = "or accept it by name with --allow-pickle"
#: picklescan keeps a pickle's instructions in memory; one that is longer is read by us alone.
_SECOND_READER: Final = 1 << 18
_SHOWN: Final = 6
_LONGEST_SHOWN: Final = 200


def judge(file: File, start: int, found: Imports, budget: Budget) -> Problems:
    """Yield the problems of the pickles at a place of a file; return whether they tell what the file is.

    Args:
        start: of the place.
        found: what our own reader has found there.
        budget: of the second reader, and of following joblib.
    """
    file.stream.seek(start)
    marked = read(file.stream, 2) in PROTOCOLS
    file.stream.seek(start)
    known = set[str]()
    if marked or found.names or found.complete:
        known = _known_from_attacks(file.stream, budget)
    names = found.names | known
    joblib = joblib_pickles.WRAPPER in names
    if joblib:
        file.stream.seek(start)
        try:
            names |= joblib_pickles.names(file.stream, file.size, budget)
        except PickleError as error:
            yield f"is a file of joblib that cannot be followed: {error}; save its arrays with numpy, {ACCEPT}"
        names.discard(joblib_pickles.WRAPPER)
    refused = {name for name in names if not pickle_names.is_data(name, torchscript=file.torchscript)}
    if refused:
        shown = sorted(refused, key=lambda name: (name not in known, name))
        listed = first_of(shown, _SHOWN, shown=_shown)
        attack = f"; {_shown(min(known))} is known from attacks" if known else ""
        yield f"would run code when it is loaded: it imports {listed}{attack}"
    if found.unknown:
        yield "would run code when it is loaded: it imports what it does not name"
    if found.changes:
        yield "would run code when it is loaded: it changes what it imports"
    if found.odd_types:
        yield f"makes a type of numpy as numpy does not, or one of records: save it with numpy, {ACCEPT}"
    if found.too_long:
        yield "is a pickle that is too long to be looked through"
    return joblib or bool(refused) or found.unknown or found.changes or found.odd_types or found.too_long


def _known_from_attacks(stream: IO[bytes], budget: Budget) -> set[str]:
    """Return what picklescan finds a pickle to import that is known from attacks; nothing for a long one.

    What else it finds does not count: it forgets nothing between two pickles, and so takes one text for another.
    """
    data = read(stream, min(_SECOND_READER, budget.second) + 1)
    if len(data) > min(_SECOND_READER, budget.second):
        return set()
    budget.second -= len(data)
    from picklescan.scanner import SafetyLevel, scan_pickle_bytes

    log = logging.getLogger("picklescan")
    log.disabled = True  # it writes what it finds to its log as well
    try:
        result = scan_pickle_bytes(io.BytesIO(data), "")
    except (ValueError, LookupError, TypeError, AttributeError, UnicodeError):
        return set()  # not a pickle to it; then our own reading decides
    finally:
        log.disabled = False
    # Of an import that it cannot tell, we can; where we cannot either, that is refused already.
    listed = [found for found in result.globals if "unknown" not in (found.module, found.name)]
    return {pickle_names.of(found.module, found.name) for found in listed if found.safety is SafetyLevel.Dangerous}


def _shown(name: str) -> str:
    """Return a name as it can be shown on a screen; a pickle may have any text there."""
    return name if name.isprintable() and len(name) <= _LONGEST_SHOWN else ascii(name)[:_LONGEST_SHOWN] + "...'"
