"""The pickled form of the type of an array's elements, as numpy itself writes it.

Such a type is made by a call and then given a state, which numpy trusts. The state of another type, or a contradictory
one, makes an array from bytes that numpy takes for the addresses of objects.
"""

from __future__ import annotations

import re
from typing import Final

_CALLED: Final = re.compile(r"([biufcmMOSUV])[0-9]{0,9}")
_FLAGS: Final = {"O": 63, "U": 8}
#: Those whose elements have an explicit size, and their alignment.
_SIZED: Final = {"S": 1, "U": 4, "V": 1}


def kind(args: object) -> str | None:
    """Return the letter of a type from the arguments of ``numpy.dtype``; None if numpy would not have written it so."""
    if not isinstance(args, tuple) or not 1 <= len(args) <= 3 or not isinstance(args[0], str):
        return None
    found = _CALLED.fullmatch(args[0])
    return found and found[1]


def is_plain(letter: str, state: object) -> bool:
    """Return whether a state is that of a type of one number, text or object: no fields, no arrays, no other flags."""
    if not isinstance(state, tuple) or not all(type(part) is int for part in (*state[:1], *state[5:8])):
        return False
    dates = letter in "mM"
    if len(state) != 8 + dates or state[0] not in (3, 4) or state[1] not in ("<", ">", "|", "="):
        return False
    if any(part is not None for part in state[2:5]) or state[7] != _FLAGS.get(letter, 0):
        return False
    if alignment := _SIZED.get(letter):
        return bool(state[5] >= 0 and state[5] % alignment == 0 and state[6] == alignment)
    return bool(state[5:7] == (-1, -1))
