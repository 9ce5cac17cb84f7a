"""What is counted and timed, behind the metrics API."""

from __future__ import annotations

from typing import Protocol


class Responses(Protocol):
    """Takes what the applications do."""

    def responded(self, status: int) -> None:
        """Count an HTTP response of any of the APIs, by its class."""


class Meters(Responses, Protocol):
    """Takes what happens; called in the event loop, so it must not wait for anything."""

    def answered(
        self, name: str, version: str, *, queue_s: float, total_s: float, batch: int, status: int = 200
    ) -> None:
        """Count an answer of a model.

        Args:
            name: of the model.
            version: of it.
            queue_s: seconds that the request waited for a worker.
            total_s: seconds from its arrival to its (first part of an) answer.
            batch: requests that ran with it, itself included.
            status: of the answer; 0 of one that comes too late, whose request was counted as dropped.
        """

    def dropped(self, name: str, version: str, reason: str) -> None:
        """Count a request that no model answered.

        Args:
            name: of the model.
            version: of it.
            reason: ``deadline`` of the client or of clientTimeoutInMills, ``queue`` is full, ``client`` has left, no
                ``worker`` or one that died, ``timeout`` of a worker, ``sequence`` has ended, ``drain`` of the version.
        """

    def defaulted(self, name: str, version: str, reason: str) -> None:
        """Count a default answer, beside the drop that it hides: ``deadline``, ``queue``."""

    def resent(self, name: str, version: str) -> None:
        """Count a request that was sent to a second worker because the first one died."""

    def shadowed(self, name: str, version: str, outcome: str, seconds: float) -> None:
        """Count a copy of a request that a shadow version was to get; it is no request or answer of a client.

        Args:
            name: of the model.
            version: of it.
            outcome: ``answered``; ``failed``, also with a status from 400 on; ``dropped`` where no worker was free.
            seconds: that the worker took; 0 for one that was dropped.
        """

    def level(self, name: str, version: str, *, waiting: int, running: int) -> None:
        """Take how many requests wait and run now."""

    def loaded(self, name: str, version: str, worker: str, seconds: float) -> None:
        """Take how long a worker took from its start until it had its model; ``worker`` is its number."""

    def died(self, name: str, version: str) -> None:
        """Count a worker that ended unasked, or could not load its model."""

    def forgotten(self, name: str, version: str) -> None:
        """Drop the series of a version that has been unregistered, once nothing answers for it any more."""

    def worker_line(self, name: str, version: str, line: str) -> bool:
        """Take a line that a worker printed; say whether it was a metric."""


class Uncounted:
    """Takes what the engine does, and counts nothing: nobody could ask."""

    def responded(self, status: int) -> None:
        """Count nothing."""

    def answered(
        self, name: str, version: str, *, queue_s: float, total_s: float, batch: int, status: int = 200
    ) -> None:
        """Count nothing."""

    def dropped(self, name: str, version: str, reason: str) -> None:
        """Count nothing."""

    def defaulted(self, name: str, version: str, reason: str) -> None:
        """Count nothing."""

    def resent(self, name: str, version: str) -> None:
        """Count nothing."""

    def shadowed(self, name: str, version: str, outcome: str, seconds: float) -> None:
        """Count nothing."""

    def level(self, name: str, version: str, *, waiting: int, running: int) -> None:
        """Count nothing."""

    def loaded(self, name: str, version: str, worker: str, seconds: float) -> None:
        """Count nothing."""

    def died(self, name: str, version: str) -> None:
        """Count nothing."""

    def forgotten(self, name: str, version: str) -> None:
        """Count nothing."""

    def worker_line(self, name: str, version: str, line: str) -> bool:  # noqa: ARG002
        """Leave every line to who hears it."""
        return False
