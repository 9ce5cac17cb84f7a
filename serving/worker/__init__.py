"""The Python backend: what runs under the frontend."""
