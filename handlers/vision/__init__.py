"""Handlers for images, and the decoding of images."""
