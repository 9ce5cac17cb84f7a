"""The start of a server, followed: what it waits for, what it logs, and why it failed."""
