"""A server that starts, followed: what it waits for, what it logs, and why it failed."""
