"""The needs of every backend process: arguments, sockets between ours, logs, cores, an end."""
