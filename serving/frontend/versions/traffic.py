"""Which versions of a model answer the requests that name none: canaries get a share of them, shadows get copies.

Each of these requests has one of a hundred slots: by the hash of a header, so that a client always has the same one, or
else at random. A version has as many slots as its percent. A slot belongs to one canary at the most, and changes hands
only where a share grows or shrinks: whoever was on a canary at 5 % is on it at 10 %, and nobody else's answers change.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from serving.frontend.engine import Share
from serving.frontend.errors import BadRequestError
from serving.protocol import header_of

#: A slot is one percent.
SLOTS: Final = 100


class _Taken(NamedTuple):
    """What a version has.

    Attributes:
        slots: in the order in which it got them.
        shadow: whether it gets copies.
    """

    slots: tuple[int, ...]
    shadow: bool


class Traffic:
    """The shares of one model's versions; without any it is false.

    Args:
        name: of the model. It is hashed, too, so that not the same clients are on the canaries of all models.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._sticky: tuple[str, ...] = ()
        self._taken: dict[str, _Taken] = {}
        self._canaries: list[str | None] = []
        self._shadows: list[tuple[str, ...]] = []

    def __bool__(self) -> bool:
        return bool(self._taken)

    def route(self, headers: Mapping[str, str]) -> tuple[str | None, tuple[str, ...]]:
        """Return the canary that a request goes to, None for the default version, and the shadows that get a copy."""
        slot = self._slot_of(headers)
        return self._canaries[slot], self._shadows[slot]

    def _slot_of(self, headers: Mapping[str, str]) -> int:
        for name in self._sticky:
            if value := header_of(headers, name):
                return _hashed(self._name, value) % SLOTS
        return random.randrange(SLOTS)  # noqa: S311 (nothing is kept secret by it)

    def shares(self) -> dict[str, Share]:
        """Return what the versions have that have something."""
        return {one: Share(len(taken.slots), taken.shadow, self._sticky) for one, taken in self._taken.items()}

    def share(self, version: str) -> Share | None:
        """Return what a version has; None for nothing."""
        return self.shares().get(version)

    def give(self, version: str, wanted: Share) -> None:
        """Give a version what is wanted, in the place of what it has.

        Raises:
            BadRequestError: other canaries leave less.
        """
        now = self._taken.get(version)
        kept = now.slots[: wanted.percent] if now and now.shadow == wanted.shadow else ()
        others = set() if wanted.shadow else self._of_canaries(but=version)
        # Each version has an order of its own: not the same clients are to try every new one.
        order = sorted(range(SLOTS), key=lambda slot: _hashed(self._name, f"{slot} {version}"))
        free = [slot for slot in order if slot not in others and slot not in kept]
        if len(kept) + len(free) < wanted.percent:
            raise BadRequestError(
                f"version {version} of model {self._name} cannot have {wanted.percent} % of the requests: other "
                f"versions have {len(others)} %, which leaves {SLOTS - len(others)} %"
            )
        if wanted.sticky is not None:
            self._sticky = wanted.sticky
        self._set(version, _Taken((*kept, *free)[: wanted.percent], wanted.shadow))

    def end(self, version: str) -> None:
        """Take from a version what it has."""
        self._set(version, _Taken((), shadow=False))

    def written(self, version: str) -> dict[str, Any] | None:
        """Return what is written down of a version; None for nothing."""
        taken = self._taken.get(version)
        return {**taken._asdict(), "sticky": self._sticky} if taken else None

    def restore(self, version: str, written: Mapping[str, Any]) -> None:
        """Give a version what was written down.

        Raises:
            BadRequestError: nobody has written that.
        """
        slots, shadow, sticky = (written.get(key) for key in ("slots", "shadow", "sticky"))
        known = (
            isinstance(slots, list)
            and all(type(slot) is int and 0 <= slot < SLOTS for slot in slots)
            and len(set(slots)) == len(slots)
            and isinstance(shadow, bool)
            and (shadow or self._of_canaries(but=version).isdisjoint(slots))
            and isinstance(sticky, list)
            and all(isinstance(name, str) for name in sticky)
        )
        if not known:
            raise BadRequestError(f"its traffic is none that was written down: {str(written)[:200]}")
        self._sticky = tuple(sticky or ())
        self._set(version, _Taken(tuple(slots or ()), bool(shadow)))

    def _of_canaries(self, but: str) -> set[int]:
        return {
            slot
            for version, taken in self._taken.items()
            if version != but and not taken.shadow
            for slot in taken.slots
        }

    def _set(self, version: str, taken: _Taken) -> None:
        self._taken.pop(version, None)
        if taken.slots:
            self._taken[version] = taken
        self._canaries = [None] * SLOTS
        shadows: list[list[str]] = [[] for _ in range(SLOTS)]
        for one, (slots, shadow) in self._taken.items():
            for slot in slots:
                if shadow:
                    shadows[slot].append(one)
                else:
                    self._canaries[slot] = one
        self._shadows = [tuple(one) for one in shadows]


def _hashed(name: str, text: str) -> int:
    """Return a number, the same in every process and on every machine."""
    digest = hashlib.blake2b(f"{name}\n{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
