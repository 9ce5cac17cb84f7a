"""What speaks HTTP: ASGI applications over an `Engine`; they know no process."""
