"""A handler that answers with what it was sent and with its pid; sleeps, and prints, as the request says."""

from __future__ import annotations

import os
import time
from typing import Any

import torch


class SoakHandler:
    """A handler that runs torch, so that a forked process in which torch does not work is found."""

    def initialize(self, _context: Any) -> None:
        """Make a layer."""
        self._layer = torch.nn.Linear(64, 64)

    def handle(self, data: list[dict[str, Any]], _context: Any) -> list[dict[str, Any]]:
        """Answer ``{"id", "sleep_ms", "say"}`` with ``{"id", "pid"}``."""
        rows = [row["body"] for row in data]
        with torch.inference_mode():
            self._layer(torch.ones(len(rows), 64))
        for row in rows:
            if row["say"]:
                print(f"soak says {row['id']}")
        time.sleep(max(row["sleep_ms"] for row in rows) / 1000)
        return [{"id": row["id"], "pid": os.getpid()} for row in rows]
