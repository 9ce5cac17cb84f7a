"""An archive's bytes as they go: the same bytes from the same inputs."""
