"""Two sets of models, of which one is registered while the other is removed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import archive_tool

SETS: Final = (("a0", "a1", "a2", "a3"), ("b0", "b1", "b2", "b3"))
_SHARED: Final = ("a3", "b3")

# Seconds that the frontend gives a worker: far more than any registration takes, so that one that hangs is seen first.
_RESPONSE_TIMEOUT_S: Final = 600

# The model API is what is tested here. The heap is bounded for the machine's sake.
CONFIG: Final = f"""\
enable_model_api=true
disable_token_authorization=true
default_response_timeout={_RESPONSE_TIMEOUT_S}
metric_time_interval=60
vmargs=-Xmx256m
"""

_HANDLER: Final = '''\
"""Runs torch where there is one, so that a forked process in which torch does not work is found."""

import os

try:
    import torch
except ImportError:
    torch = None


class Handler:
    def initialize(self, context):
        self.layer = torch and torch.nn.Linear(64, 64)

    def handle(self, data, context):
        if torch:
            with torch.inference_mode():
                self.layer(torch.ones(len(data), 64))
        return [os.getpid()] * len(data)
'''


def build(folder: Path) -> Path:
    """Build the archives. Return the model store."""
    store = folder / "model_store"
    store.mkdir()
    handler, config = folder / "churn_handler.py", folder / "model-config.yaml"
    handler.write_text(_HANDLER)
    for model in (name for names in SETS for name in names):
        mode = "backend:\n  mode: shared\n" if model in _SHARED else ""
        config.write_text("minWorkers: 1\nmaxWorkers: 1\n" + mode)
        archive_tool.build(model_name=model, handler=handler, config_file=config, export_path=store)
    return store
