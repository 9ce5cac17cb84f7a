"""The bytes of an archive as they are written: the same bytes from the same inputs."""
