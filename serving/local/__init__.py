"""Runs handlers without a server: once in this process, or for development behind a small HTTP server."""
