"""Handlers for images, and how images are decoded."""
