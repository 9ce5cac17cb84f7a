"""Command: deploy ray."""

from __future__ import annotations
