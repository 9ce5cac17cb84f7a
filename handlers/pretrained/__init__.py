"""Handlers for models that `save_pretrained` wrote; they need the package transformers, and no code."""
