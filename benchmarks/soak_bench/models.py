"""The models served: one in dedicated mode, one in shared mode, with the same handler."""

from __future__ import annotations

from pathlib import Path

import archive_tool

DEDICATED, SHARED = "soak-dedicated", "soak-shared"
WORKERS = {DEDICATED: 2, SHARED: 8}
RESPONSE_TIMEOUT_S = 20
METRICS_S = 10  # between two questions of the frontend for the workers' memory
_HANDLER = Path(__file__).with_name("soak_handler.py")

CONFIG = f"""\
default_response_timeout={RESPONSE_TIMEOUT_S}
metric_time_interval={METRICS_S}
job_queue_size=1000
"""
# The heap is bounded so that what Java takes is known after the first minutes, not after the first hours.
JAVAS_CONFIG = CONFIG + "vmargs=-Xmx256m\n"


def model_config(model: str) -> str:
    """Return the model-config.yaml of a model."""
    workers = WORKERS[model]
    text = f"minWorkers: {workers}\nmaxWorkers: {workers}\nresponseTimeout: {RESPONSE_TIMEOUT_S}\n"
    # The Python frontend sends a request again whose worker has died; Java's does not know how.
    text += "backend:\n  retry: true\n"
    return text + ("  mode: shared\n  max_batch_size: 16\n" if model == SHARED else "")


def build(folder: Path) -> Path:
    """Build both archives. Return the model store."""
    store = folder / "model_store"
    store.mkdir()
    config = folder / "model-config.yaml"
    for model in WORKERS:
        config.write_text(model_config(model))
        archive_tool.build(model_name=model, handler=_HANDLER, config_file=config, export_path=store)
    return store
