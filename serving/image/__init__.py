"""One image for every platform: its Dockerfile and what belongs to it, and where a container finds its models."""
