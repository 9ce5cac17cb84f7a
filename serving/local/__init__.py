"""Handlers without a server: run once in this process, or for development behind the inference API alone."""
