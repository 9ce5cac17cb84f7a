"""The commands of ``torchmar deploy``: archives on a cluster."""
