"""A version's settings by their names in TorchServe's JSON, in its order (DescribeModelResponse.java)."""

from __future__ import annotations

from typing import Any

from serving.frontend.local.models.model import Model


def settings_of(model: Model) -> dict[str, Any]:
    """Return what ``GET /models/{name}`` says between the runtime and the workers."""
    values = model.values
    # As in Java these stand for themselves, whether the model keeps sequences or not.
    sequences = bool(values.get("sequenceMaxIdleMSec"))
    return {
        "minWorkers": model.least,
        "maxWorkers": model.most,
        "batchSize": model.batch_size,
        "maxBatchDelay": model.max_batch_delay_ms,
        "responseTimeout": model.response_timeout_s,
        "startupTimeout": model.startup_timeout_s,
        "maxRetryTimeoutInSec": values.get("maxRetryTimeoutInSec", 300),
        "clientTimeoutInMills": values.get("clientTimeoutInMills", 0),
        "parallelType": values.get("parallelType") or "",
        "parallelLevel": values.get("parallelLevel") or 0,
        "deviceType": values.get("deviceType") or "cpu",
        **({"deviceIds": values["deviceIds"]} if values.get("deviceIds") else {}),
        "continuousBatching": bool(values.get("continuousBatching")),
        "useJobTicket": bool(values.get("useJobTicket")),
        "useVenv": bool(values.get("useVenv")),
        "stateful": model.stateful,
        "sequenceMaxIdleMSec": values.get("sequenceMaxIdleMSec", 0),
        "sequenceTimeoutMSec": values.get("sequenceTimeoutMSec", 0),
        "maxNumSequence": values.get("maxNumSequence", 0) if sequences else 0,
        "maxSequenceJobQueueSize": values.get("maxSequenceJobQueueSize", 0) if sequences else 0,
    }
