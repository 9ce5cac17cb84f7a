"""Answers with what it was sent and with who answers; sleeps, and prints, as it is told to."""

from __future__ import annotations

import os
import time
from typing import Any

import torch


class SoakHandler:
    """A handler that runs torch, so that a forked process in which torch does not work is found."""

    def initialize(self, _context: Any) -> None:
        """Makes a layer."""
        self._layer = torch.nn.Linear(64, 64)

    def handle(self, data: list[dict[str, Any]], _context: Any) -> list[dict[str, Any]]:
        """Answers ``{"id", "sleep_ms", "say"}`` with ``{"id", "pid"}``."""
        rows = [row["body"] for row in data]
        with torch.inference_mode():
            self._layer(torch.ones(len(rows), 64))
        for row in rows:
            if row["say"]:
                print(f"soak says {row['id']}")
        time.sleep(max(row["sleep_ms"] for row in rows) / 1000)
        return [{"id": row["id"], "pid": os.getpid()} for row in rows]
