"""The metrics that TorchServe does not have, which metrics_mode=prometheus shows: a table."""

from __future__ import annotations

from typing import Final, NamedTuple

from serving.frontend.metering.catalogue import Kind

#: Seconds.
TIMES: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Seconds in which models are loaded.
LOADS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
BATCHES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
#: Classes of the status that a request's client gets; ``gone`` where it did not wait for it.
GONE: Final = "gone"
STATUSES: Final = ("2xx", "3xx", "4xx", "5xx", GONE)
#: Why no model answers a request.
CLIENT: Final = "client"
REASONS: Final = ("deadline", "queue", CLIENT, "worker", "timeout", "sequence", "drain")
#: Why a default answer is given.
DEFAULTS: Final = ("deadline", "queue")

MODEL: Final = ("model_name", "model_version")


class Own(NamedTuple):
    """A metric of ours.

    Attributes:
        labels: their names.
        help: what it is.
        bounds: of a histogram.
        values: of the last label, which are there from the beginning: of a counter that begins with 1 Prometheus sees
            no growth.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    bounds: tuple[float, ...] = ()
    values: tuple[str, ...] = ()


REQUESTS: Final = "torchmar_requests_total"
DROPPED: Final = "torchmar_requests_dropped_total"
DEFAULTED: Final = "torchmar_default_answers_total"
COPIES: Final = "torchmar_shadow_requests_total"
COPY_SECONDS: Final = "torchmar_shadow_seconds"
UNCOUNTED: Final = "torchmar_model_metrics_dropped_total"

OWN: Final = (
    Own("torchmar_queue_seconds", Kind.HISTOGRAM, MODEL, "Seconds that a request waited for a worker", TIMES),
    Own("torchmar_worker_seconds", Kind.HISTOGRAM, MODEL, "Seconds from sending a request to its answer", TIMES),
    Own("torchmar_request_seconds", Kind.HISTOGRAM, MODEL, "Seconds from a request's arrival to its answer", TIMES),
    Own("torchmar_batch_size", Kind.HISTOGRAM, MODEL, "Requests that ran with a request, itself included", BATCHES),
    Own("torchmar_load_seconds", Kind.HISTOGRAM, MODEL, "Seconds from a worker's start until it had its model", LOADS),
    Own("torchmar_requests_waiting", Kind.GAUGE, MODEL, "Requests that wait for a worker"),
    Own("torchmar_requests_in_flight", Kind.GAUGE, MODEL, "Requests that a worker has"),
    Own("torchmar_requests_resent_total", Kind.COUNTER, MODEL, "Requests sent again because a worker died"),
    Own("torchmar_worker_deaths_total", Kind.COUNTER, MODEL, "Workers that ended unasked, or could not load the model"),
    Own(
        REQUESTS,
        Kind.COUNTER,
        (*MODEL, "status"),
        f"Requests by the class of their answer's status: {', '.join(STATUSES)}",
        values=STATUSES,
    ),
    Own(
        DROPPED,
        Kind.COUNTER,
        (*MODEL, "reason"),
        f"Requests that no model answered: {', '.join(REASONS)}",
        values=REASONS,
    ),
    Own(
        DEFAULTED,
        Kind.COUNTER,
        (*MODEL, "reason"),
        f"Default answers in the place of the model's: {', '.join(DEFAULTS)}",
        values=DEFAULTS,
    ),
    Own(COPIES, Kind.COUNTER, (*MODEL, "outcome"), "Copies for a shadow version: answered, failed, dropped"),
    Own(COPY_SECONDS, Kind.HISTOGRAM, MODEL, "Seconds from sending a copy to its answer", TIMES),
    Own(
        UNCOUNTED,
        Kind.COUNTER,
        (*MODEL, "reason"),
        "Metrics of handlers that were not counted: line, unknown, name, labels, value, series",
    ),
)


def class_of(status: int) -> str:
    """Return a status' class; of what is none, as it is sent, that of 500."""
    digit = status // 100
    return STATUSES[digit - 2] if 2 <= digit <= 5 else "5xx"
