"""Media types: the form of a body, and the form that its reply may have (RFC 9110, sections 8.3 and 12.5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from handlers.errors import NotAcceptableError

if TYPE_CHECKING:
    from collections.abc import Sequence

JSON = "application/json"
NPY = "application/x-npy"
NPZ = "application/x-npz"
SAFETENSORS = "application/safetensors"
BINARY = "application/octet-stream"

# None of these is registered with IANA, so each has several names.
_OTHER_NAMES = {
    "application/npy": NPY,
    "application/x-numpy": NPY,
    "application/npz": NPZ,
    "application/vnd.safetensors": SAFETENSORS,
    "application/x-safetensors": SAFETENSORS,
    "text/json": JSON,
}
_SHOWN = 100  # characters of a client's header that an error quotes


class Choice(NamedTuple):
    """The form of a reply, and the client's name for it."""

    form: str
    name: str


def form_of(content_type: str) -> str:
    """Return the media type of a Content-Type without its parameters, by this module's name for it."""
    name = content_type.partition(";")[0].strip().lower()
    if name.endswith("+json"):
        return JSON
    return _OTHER_NAMES.get(name, name)


def choose(accept: str, offered: Sequence[str]) -> Choice:
    """Choose the form of a reply.

    Args:
        accept: the request's header Accept; empty for any form.
        offered: the possible forms, the preferred one first.

    Raises:
        NotAcceptableError: the client takes none of them.
    """
    ranges = _ranges(accept)
    if not ranges:  # no header, or an unreadable one
        return Choice(offered[0], offered[0])
    best, most = None, 0.0
    for form in offered:
        quality, name = _quality(form, ranges)
        if quality > most:
            best, most = Choice(form, name), quality
    if best is None:
        shown = accept if len(accept) <= _SHOWN else f"{accept[:_SHOWN]}..."
        raise NotAcceptableError(f"the reply can be {', '.join(offered)}; the request accepts only {shown}")
    return best


def _ranges(accept: str) -> list[tuple[str, float]]:
    """Return the media ranges of the header with their qualities; anything else is ignored."""
    found = []
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        given = [text[2:].strip() for text in parameters if text.startswith("q=")]
        try:
            quality = float(given[0]) if given else 1.0
        except ValueError:
            continue
        if "/" in name and 0 <= quality <= 1:
            found.append((name, quality))
    return found


def _quality(form: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, str]:
    """Return how much a form is wanted, and under which name: the most specific range decides."""
    family = form.partition("/")[0]
    names = {form, *(other for other, known in _OTHER_NAMES.items() if known == form)}
    for matching in (names, {f"{family}/*"}, {"*/*"}):
        wanted = [(quality, name) for name, quality in ranges if name in matching]
        if wanted:
            quality, name = max(wanted)
            return quality, form if "*" in name else name
    return 0.0, form
