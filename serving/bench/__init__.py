"""Load on a server, and what it answers under it; the load is sent by a process of its own."""
