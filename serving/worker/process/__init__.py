"""What every process of the backend has: arguments, sockets between ours, logs, cores, an end."""
