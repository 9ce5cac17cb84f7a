"""Handlers for text, and how text becomes tokens."""
